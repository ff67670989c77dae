"""Measurements of the two sessions, and the table at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from watch import Counts
from workloads import times

HIGH = "session_high"
LOW = "session_low"
NAMES = (HIGH, LOW)
# Times of protection that the table lists.
SHOWN = 12
# When a task of a session waits for a CPU all the time, the session wants more than it gets. The kernel's number is
# the mean over the CPUs that the session uses, and one waiting task waits at one of the two.
WANTED = 0.9 / 2


@dataclass(frozen=True)
class Session:
    """The counters of one cgroup at one time."""

    cpu_us: int
    cpu_waited_us: int
    memory: int
    processes: int


@dataclass(frozen=True)
class Sample:
    """All sessions at one time."""

    at: float
    sessions: Mapping[str, Session]


class Sessions:
    """The sessions' cgroups."""

    def __init__(self, root: Path) -> None:
        """`root` is the cgroup that they are in."""
        self.root = root

    def sample(self) -> Sample:
        """Read the counters."""
        return Sample(time.monotonic(), {name: self._read(self.root / name) for name in NAMES})

    @staticmethod
    def _read(cgroup: Path) -> Session:
        usage = (cgroup / "cpu.stat").read_text().split()
        some = (cgroup / "cpu.pressure").read_text().splitlines()[0]
        return Session(
            cpu_us=int(usage[usage.index("usage_usec") + 1]),
            cpu_waited_us=int(some.rpartition("total=")[2]),
            memory=int((cgroup / "memory.current").read_text()),
            processes=len((cgroup / "cgroup.procs").read_text().split()),
        )


@dataclass(frozen=True)
class Interval:
    """From one sample to the next."""

    first: Sample
    last: Sample

    @property
    def seconds(self) -> float:
        """How long it was."""
        return self.last.at - self.first.at

    def cpu_us(self, name: str) -> int:
        """The CPU time that a session got."""
        return self.last.sessions[name].cpu_us - self.first.sessions[name].cpu_us

    def wanted_more(self, name: str) -> bool:
        """A task of the session waited for a CPU nearly all the time."""
        waited = self.last.sessions[name].cpu_waited_us - self.first.sessions[name].cpu_waited_us
        return waited > WANTED * self.seconds * 1e6

    @property
    def contended(self) -> bool:
        """Both sessions wanted more than they got: only then a share is a matter of weight."""
        return all(self.wanted_more(name) for name in NAMES)

    def line(self) -> str:
        """For the progress."""
        total = sum(self.cpu_us(name) for name in NAMES) or 1
        columns = []
        for name in NAMES:
            now = self.last.sessions[name]
            share = 100 * self.cpu_us(name) / total
            columns.append(f"{share:3.0f} % CPU {now.memory >> 20:4} MiB {now.processes:3} proc")
        return f"{columns[0]}   {columns[1]}" + ("" if self.contended else "   (one could have had more)")


def shares(intervals: Sequence[Interval]) -> tuple[dict[str, float], float]:
    """Each session's share of what both got while both wanted more, and for how long that was."""
    contended = [interval for interval in intervals if interval.contended]
    used = {name: sum(interval.cpu_us(name) for interval in contended) for name in NAMES}
    total = sum(used.values()) or 1
    return {name: us / total for name, us in used.items()}, sum(interval.seconds for interval in contended)


def row(title: str, cells: Sequence[str]) -> str:
    """A line of the table."""
    return f"  {title:26}" + "".join(f"{cell:18}" for cell in cells).rstrip()


def mib(value: object) -> str:
    """Bytes, or that the kernel gave no number."""
    return f"{value / (1 << 20):.0f} MiB" if isinstance(value, int) else "not known"


def seconds(value: object) -> str:
    """Microseconds, or that the kernel gave no number."""
    return f"{value / 1e6:.1f} s" if isinstance(value, int) else "not known"


def cpu_us(usage: Mapping[str, Any]) -> int | None:
    """CPU time in user mode and in the kernel."""
    return usage["cpu_user_us"] + usage["cpu_system_us"] if usage else None


def table(
    report: Mapping[str, Any], intervals: Sequence[Interval], counts: Mapping[str, Counts], started: float
) -> Iterator[str]:
    """The lines of the table; `report` is what agentcgroupd wrote at its end."""
    sessions = [report["sessions"][name] for name in NAMES]
    usage = [session["usage"] or {} for session in sessions]
    weights = [session["cpu_weight"] or 0 for session in sessions]
    share, contended = shares(intervals)
    yield row("", NAMES)
    yield row("CPU weight", [str(weight) for weight in weights])
    yield row("CPU share by weight", [f"{100 * weight / (sum(weights) or 1):.0f} %" for weight in weights])
    if contended:
        yield row("CPU share, measured *", [f"{100 * share[name]:.0f} %" for name in NAMES])
    else:
        yield row("CPU share, measured *", ["never contended"])
    yield row("CPU time", [seconds(cpu_us(u)) for u in usage])
    yield row("memory peak", [mib(u.get("memory_peak_bytes")) for u in usage])
    yield row("stalled for memory", [seconds(u.get("memory_stall_us")) for u in usage])
    yield row("processes moved in", [str(session["processes_moved"]) for session in sessions])
    yield row("processes seen", [str(len(counts[n].pids)) if n in counts else "0" for n in NAMES])
    yield row("files opened", [str(counts[n].opens) if n in counts else "0" for n in NAMES])
    yield from protection(report["memory"], started)
    yield ""
    yield f"  * in the {contended:.0f} s in which tasks of both waited for a CPU"
    if report["scheduler"] is None:
        yield "  the CPU was shared by the kernel's scheduler: agentcg's was not attached at the end"


def protection(memory: Mapping[str, Any] | None, started: float) -> Iterator[str]:
    """What was protected when."""
    if memory is None:
        yield row("memory protection", ["off"])
        return
    total = memory["protected_ms"] / 1000
    yield row("memory protected", [f"{memory['windows']} x, {total:.1f} s", "held meanwhile"])
    if not memory["recent"]:
        yield "  session_high did not stall for memory long enough to be protected this time"
        return
    yield ""
    yield "  protected when"
    for window in memory["recent"][:SHOWN]:
        start = datetime.strptime(window["started_at"], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc)
        at = start.timestamp() - started
        name = Path(window["because_of"]).name
        yield f"    {at:6.1f} s  for {window['duration_ms'] / 1000:5.1f} s  {name} stalled {times(window['stalls'])}"
    more = memory["windows"] - len(memory["recent"][:SHOWN])
    if more > 0:
        yield f"    and {more} times more"
