"""Memory protection."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

from agentcg._handle import Handle
from agentcg._session import cgroup_path

if TYPE_CHECKING:
    from agentcg import _native
    from agentcg._session import Session
    from agentcg._types import StrPath


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
class MemorySessionStats:
    """What was done for or with one cgroup. Fields that do not apply to its role stay 0."""

    cgroup: str
    """The cgroup."""
    role: str
    """``high`` or ``low``."""
    present: bool
    """False while it does not exist: it is taken up again when it comes back."""
    active: bool
    """It is protected (high) or slowed (low) now."""
    stalls: int
    """High: its stalls that counted."""
    protected_ms: int
    """High: the time protected."""
    working_set: int
    """High: what it needs to run without stalls, bytes."""
    part: int
    """Low: what it may have while a high one hurts, bytes."""
    calls: int
    """Questions of the kernel to the BPF hooks."""
    answered: int
    """Those answered with protection or a delay."""
    delay_ms: int
    """These delays together."""
    held: int
    """Low: times its ``memory.high`` was set."""
    yielded: int
    """Low: times its ``cpu.weight`` was lowered."""
    braked: int
    """Low: times the scheduler was told to hold it back."""
    reclaimed: int
    """Low: bytes reclaimed from it."""
    frozen_ms: int
    """Low: the time it was frozen."""


@dataclass(frozen=True)
class StuckCgroup:
    """A cgroup that its own ``memory.high`` has brought to a standstill."""

    at: str
    """When it was found, RFC 3339."""
    cgroup: str
    """The cgroup."""
    duration_ms: int
    """For how long it was watched without progress."""
    high_events: int
    """How often it met its ``memory.high`` meanwhile."""
    user_ms: int
    """CPU time in user mode meanwhile."""
    memory_current: int
    """What it has, bytes."""
    memory_high: int
    """Its limit, bytes."""
    action: str
    """What was done: ``report``, ``freeze`` or ``lift``."""


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
    sessions: tuple[MemorySessionStats, ...]
    """By cgroup."""
    stuck: tuple[StuckCgroup, ...]
    """Those that stood still, at most the last 1000."""
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

    def add(self, cgroup: Session | StrPath, role: Literal["high", "low"]) -> None:
        """Take one more cgroup up. One that is removed later is taken up again when it comes back."""
        self._native.add(cgroup_path(cgroup), role)

    def remove(self, cgroup: Session | StrPath) -> None:
        """Let go of a cgroup; what was changed in it is put back."""
        self._native.remove(cgroup_path(cgroup))

    def stats(self) -> MemoryStats:
        """Say what it has done so far."""
        stats = json.loads(self._native.stats())
        for name, kind in (("sessions", MemorySessionStats), ("stuck", StuckCgroup), ("recent", ProtectionWindow)):
            stats[name] = tuple(kind(**one) for one in stats[name])
        return MemoryStats(**{field.name: stats[field.name] for field in fields(MemoryStats)})

    def close(self) -> None:
        """End it; doing so again does nothing."""
        self._native.close()
