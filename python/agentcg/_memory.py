"""Memory protection."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from agentcg._handle import Handle

if TYPE_CHECKING:
    from agentcg import _native


@dataclass(frozen=True)
class ProtectionWindow:
    """A time during which the high cgroups were protected."""

    started_at: str
    """When the first stall was reported, RFC 3339."""
    duration_ms: int
    """How long it lasted; up to now for the one that is open."""
    because_of: str
    """The cgroup whose stall opened it."""
    stalls: int
    """Stalls within it."""


@dataclass(frozen=True)
class MemoryStats:
    """What a protection has done so far."""

    active: bool
    """A window is open now."""
    stalls: int
    """Stalls reported by the kernel that counted."""
    ignored: int
    """Stalls that came from the cgroup's own limit."""
    windows: int
    """Windows opened."""
    protected_ms: int
    """The time protected."""
    recent: tuple[ProtectionWindow, ...]
    """The last windows, at most 1000."""


class MemoryProtection(Handle):
    """Running memory protection; made by :meth:`Runtime.attach_memcg_ops`.

    Closing it puts back every value that it changed.
    """

    __slots__ = ("_native", "backend")

    backend: str
    """The mechanism in use: ``memcg_bpf_ops`` or ``cgroup``."""

    def __init__(self, native: _native.MemoryProtection) -> None:
        """Wrap the native half."""
        self._native = native
        self.backend = json.loads(native.backend())

    def stats(self) -> MemoryStats:
        """Say what it has done so far."""
        stats = json.loads(self._native.stats())
        stats["recent"] = tuple(ProtectionWindow(**w) for w in stats["recent"])
        return MemoryStats(**{field.name: stats[field.name] for field in fields(MemoryStats)})

    def close(self) -> None:
        """End it; doing so again does nothing."""
        self._native.close()
