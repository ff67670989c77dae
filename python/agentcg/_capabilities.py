"""What this kernel and our privileges allow."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from agentcg import _native


@dataclass(frozen=True)
class Capability:
    """One thing that the kernel and our privileges allow, or not."""

    name: str
    """A stable name: ``memory_controller``, ``sched_ext``, ..."""
    supported: bool
    detail: str
    """What was found, or why it is not supported."""
    fix: str | None = None
    """How to get it."""


@dataclass(frozen=True)
class Backends:
    """The mechanism that would be used for each part."""

    scheduler: str
    """``sched_ext`` or ``kernel``."""
    memory: str | None
    """``memcg_bpf_ops`` or ``cgroup``; None when memory cannot be protected."""
    events: bool
    """Process events are available."""


@dataclass(frozen=True)
class Capabilities:
    """Everything that was probed."""

    kernel: str
    """The kernel's release, ``uname -r``."""
    machine: str
    """The architecture, ``uname -m``."""
    capabilities: tuple[Capability, ...]
    backends: Backends
    _json: dict[str, Any]

    def get(self, name: str) -> Capability | None:
        """One capability by its name."""
        return next((c for c in self.capabilities if c.name == name), None)

    def supports(self, name: str) -> bool:
        """Is it there and supported?."""
        capability = self.get(name)
        return capability is not None and capability.supported

    def to_dict(self) -> dict[str, Any]:
        """Give the JSON of ``agentcg doctor --json``."""
        return self._json


def capabilities() -> Capabilities:
    """Probe the kernel, by trying; takes some ms, changes nothing and needs no privileges."""
    found = json.loads(_native.capabilities())
    return Capabilities(
        kernel=found["kernel"],
        machine=found["machine"],
        capabilities=tuple(Capability(**c) for c in found["capabilities"]),
        backends=Backends(**found["backends"]),
        _json=found,
    )
