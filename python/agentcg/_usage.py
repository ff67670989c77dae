"""What a cgroup used, and what else an outcome is made of."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")


def known(cls: type[T], found: Mapping[str, Any]) -> T:
    """Make a value of a JSON object; fields that a later version adds are ignored."""
    names = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    return cls(**{name: value for name, value in found.items() if name in names})


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
    """Processes killed by an OOM killer, as the kernel counts: one chosen with ``memory.oom.group`` mostly twice."""
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
        return known(cls, json.loads(text))


@dataclass(frozen=True)
class Victim:
    """The process that the OOM killer chose."""

    pid: int
    comm: str
    """The command name, at most 15 bytes."""


@dataclass(frozen=True)
class Cause:
    """The resource that ended or hampered a call."""

    limit: str
    """``memory.max``, ``memory.high``, ``pids.max``, ``cpu.max``, ``timeout``; ``memory`` for the machine's."""
    scope: str
    """Whose limit: ``call``, ``session``, ``ancestor`` or ``host``."""
    effect: str
    """``ended``; ``hampered``: slowed it or took a process of it; ``possible``: met while it ran."""
    cgroup: str | None = None
    """The cgroup whose limit it is."""
    limit_bytes: int | None = None
    """What the limit is, when it is a size."""
    limit_value: float | None = None
    """What it is otherwise: processes and threads, CPUs, or ms of the timeout."""
    victim: Victim | None = None
    """The process that the OOM killer chose."""


@dataclass(frozen=True)
class Survivor:
    """A process that could not be killed in time."""

    pid: int
    comm: str
    state: str
    """As in ``/proc/PID/stat``; ``D`` is uninterruptible."""


@dataclass(frozen=True)
class Sample:
    """Usage at one moment, with ``sample=``."""

    at_ms: int
    """Since the start of the call."""
    cpu_us: int
    """CPU time so far."""
    memory_bytes: int | None = None
    """Memory now."""
    memory_stall_us: int | None = None
    """So far."""
    pids: int | None = None
    """Processes and threads now."""
