"""Sessions: one agent's cgroup."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Literal

from agentcg import _errors
from agentcg._handle import Handle

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from agentcg import _native

Priority = Literal["high", "normal", "low"]


@dataclass(frozen=True)
class Usage:
    """What a cgroup and everything below it used, from the kernel's files. Times are in µs.

    None: the kernel did not give it; :attr:`unavailable` says why.
    """

    cpu_user_us: int | None = None
    """CPU time in user mode."""
    cpu_system_us: int | None = None
    """CPU time in the kernel."""
    cpu_throttled_us: int | None = None
    """Held back by its own ``cpu.max``, summed over the CPUs."""
    cpu_stall_us: int | None = None
    """Some task waited for a CPU."""
    memory_current_bytes: int | None = None
    """Memory now; only of what is still there."""
    memory_peak_bytes: int | None = None
    """The most memory at one time, page cache included (kernel 5.19)."""
    swap_peak_bytes: int | None = None
    """The most swap at one time (kernel 6.5)."""
    max_rss_bytes: int | None = None
    """The largest resident set of one process of a tool call."""
    memory_stall_us: int | None = None
    """Some task waited for memory."""
    memory_high_events: int | None = None
    """How often it went over its own ``memory.high`` and was slowed for it."""
    oom_kills: int | None = None
    """Processes killed by an OOM killer."""
    io_read_bytes: int | None = None
    """Read from block devices."""
    io_write_bytes: int | None = None
    """Written to block devices."""
    io_stall_us: int | None = None
    """Some task waited for I/O."""
    pids_peak: int | None = None
    """The most processes and threads at one time (kernel 6.1)."""
    unavailable: Mapping[str, str] = field(default_factory=dict)
    """Names of missing fields, each with the reason."""

    @classmethod
    def from_json(cls, text: str) -> Usage:
        """Parse a JSON object; fields that a later version adds are ignored."""
        known = {f.name for f in fields(cls)}
        return cls(**{name: value for name, value in json.loads(text).items() if name in known})


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

    def usage(self) -> Usage:
        """Read what it and its tool calls have used so far from the kernel's files."""
        return Usage.from_json(self._native.usage())

    def move_pid(self, pid: int) -> None:
        """Move a process with all its threads into the session; its later children are born there."""
        self._native.move_pid(_errors.pid(pid))

    def close(self) -> None:
        """End the session; doing so again does nothing."""
        self._native.close()
