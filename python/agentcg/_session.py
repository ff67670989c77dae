"""Sessions: one agent's cgroup."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from agentcg import _errors
from agentcg._handle import Handle

if TYPE_CHECKING:
    from pathlib import Path

    from agentcg import _native

Priority = Literal["high", "normal", "low"]


@dataclass(frozen=True)
class CpuStat:
    """``cpu.stat``: what the cgroup and everything below it used, in µs."""

    usage_usec: int
    user_usec: int
    system_usec: int
    throttled_usec: int | None
    """Throttled by ``cpu.max``; only with the cpu controller."""


@dataclass(frozen=True)
class MemoryEvents:
    """``memory.events``: how often the cgroup met its limits."""

    low: int
    """Reclaimed although below ``memory.low``."""
    high: int
    """Throttled and reclaimed because above ``memory.high``."""
    max: int
    """About to go over ``memory.max``."""
    oom: int
    """Allocations that failed at ``memory.max``."""
    oom_kill: int
    """Processes killed by any OOM killer."""
    oom_group_kill: int | None
    """Groups killed whole (kernel 5.17)."""


@dataclass(frozen=True)
class SessionUsage:
    """What a session has used so far. None: the kernel did not give it, as without the memory controller."""

    cpu: CpuStat
    memory_current_bytes: int | None
    memory_peak_bytes: int | None
    memory_stall_us: int | None
    """Time in which some task stalled for memory."""
    memory_events: MemoryEvents | None


class Session(Handle):
    """One agent's cgroup; made by :meth:`Runtime.session`.

    Closing it moves the processes that are left back to where they came from and removes the cgroup.
    """

    __slots__ = ("_native", "name", "path", "priority")

    name: str
    """Its name."""
    path: Path
    """Its cgroup directory: ``/sys/fs/cgroup/agentcg/NAME``."""
    priority: Priority
    """How it stands against the others."""

    def __init__(self, native: _native.Session, name: str, priority: Priority) -> None:
        """Wrap the native half."""
        self._native = native
        self.name = name
        self.path = native.path
        self.priority = priority

    def __repr__(self) -> str:
        """Show what it is and where."""
        return f"<agentcg.Session {self.name!r} at {self.path}>"

    def usage(self) -> SessionUsage:
        """Read what it has used so far from the kernel's files."""
        usage = json.loads(self._native.usage())
        usage["cpu"] = CpuStat(**usage["cpu"])
        if usage["memory_events"] is not None:
            usage["memory_events"] = MemoryEvents(**usage["memory_events"])
        return SessionUsage(**usage)

    def move_pid(self, pid: int) -> None:
        """Move a process with all its threads into the session; its later children are born there."""
        self._native.move_pid(_errors.pid(pid))

    def close(self) -> None:
        """End the session; doing so again does nothing."""
        self._native.close()
