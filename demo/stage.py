"""What happens in the machine with the kernel: daemon, two workloads, their measurement, the table.

    stage.py PROGRAMS SUITE BUILD [--host]

PROGRAMS has agentcg and agentcgroupd, SUITE and BUILD are unpacked source distributions.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import calls
import workloads
from summary import HIGH, LOW, Interval, Sessions, table
from watch import Daemon, Events

# Seconds of each act.
EVENTS_SHOWN = 6
CPU_ACT = 30
MEMORY_ACT = 40
AT_LEAST_ONCE = 40
EVERY = 4
# What all agents together may have in the second act, of what they have by then.
TIGHT = 0.8


def say(text: str = "") -> None:
    """One line, at once."""
    print(text, flush=True)


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class Stage:
    """The running demo."""

    def __init__(self, options: argparse.Namespace, directory: Path) -> None:
        """Start nothing yet."""
        self.programs: Path = options.programs
        # On a host other people's python and make must stay where they are: ours have names of their own.
        self.prefix = "demo-" if options.host else ""
        self.suite = workloads.Suite(options.suite, directory, f"{self.prefix}python")
        self.build = workloads.Build(options.build, directory, f"{self.prefix}make")
        self.directory = directory
        self.intervals: list[Interval] = []
        self.started = time.time()

    def elapsed(self) -> float:
        """Seconds since the daemon is ready."""
        return time.time() - self.started

    def doctor(self) -> None:
        """What this kernel gives, as `agentcg doctor` ends."""
        done = subprocess.run([self.programs / "agentcg", "doctor"], stdout=subprocess.PIPE, text=True, check=False)
        lines = done.stdout.splitlines()
        say(lines[0])
        for line in lines[-4:-1]:
            say(f"  {line}")

    @contextlib.contextmanager
    def daemon(self) -> Iterator[Daemon]:
        """The daemon, ready; it is stopped at the end of the block."""
        config = self.directory / "daemon.toml"
        rules = {f"{self.prefix}make": LOW, f"{self.prefix}python": HIGH}
        config.write_text("".join(f'[[rule]]\ncommand = "{c}"\nsession = "{s}"\n' for c, s in rules.items()))
        command = [self.programs / "agentcgroupd", "--commands", "", "--config", config]
        say(f"\nagentcgroupd: {', '.join(f'{c} -> {s}' for c, s in rules.items())}")
        daemon = Daemon([*map(str, command), "--report", str(self.directory / "report.json")])
        try:
            for message in daemon.until_ready():
                say(f"  {message}")
            self.started = time.time()
            yield daemon
        finally:
            daemon.stop()

    def step(self, sessions: Sessions, daemon: Daemon, events: Events, until: float) -> None:
        """Work on until then, and say every few seconds how it goes."""
        last = sessions.sample()
        while self.elapsed() < until:
            time.sleep(0.5)
            self.suite.go_on()
            self.build.go_on()
            events.check()
            for message in daemon.messages():
                say(f"         agentcgroupd: {message}")
            now = sessions.sample()
            if now.at - last.at >= EVERY:
                interval = Interval(last, now)
                self.intervals.append(interval)
                say(f"  {clock(self.elapsed())}  {interval.line()}")
                last = now

    def run(self) -> int:
        """All of it."""
        self.doctor()
        with self.daemon() as daemon:
            sessions = Sessions(daemon.root())
            with Events(self.programs, daemon.root(), [f"{self.prefix}make", f"{self.prefix}python"]) as events:
                self.act(sessions, daemon, events)
                self.suite.stop()
                self.build.stop()
            say("\ntool calls, each in a cgroup of its own:")
            for line in calls.show(self.programs / "agentcg", self.directory):
                say(line)
        report = json.loads((self.directory / "report.json").read_text())
        self.conclude(report, daemon, events)
        return 0

    def act(self, sessions: Sessions, daemon: Daemon, events: Events) -> None:
        """Both acts, with the workloads running."""
        say(f"\nthe test suite of {self.suite.name} and a build of {self.build.name} start outside the sessions:")
        self.suite.start()
        self.build.start()
        shown = time.monotonic() + EVENTS_SHOWN
        while time.monotonic() < shown:
            time.sleep(0.2)
            self.suite.go_on()
            for message in daemon.messages():
                say(f"  agentcgroupd: {message}")
            for line in events.lines():
                say(f"  {line}")
        events.hide()
        daemon.quiet_moves()

        say(f"\nCPU, by weight 150 : 50            {HIGH:24}  {LOW}")
        until = self.elapsed() + CPU_ACT
        self.step(sessions, daemon, events, until)
        self.tighten(daemon.root())
        self.step(sessions, daemon, events, until + MEMORY_ACT)
        # A slow machine may need longer for the suite to come through once.
        limit = self.elapsed() + AT_LEAST_ONCE
        while not self.suite.complete() and self.elapsed() < limit:
            self.step(sessions, daemon, events, self.elapsed() + EVERY + 1)
        (daemon.root() / "memory.max").write_text("max")
        # The last protection ends a second after the last stall.
        self.step(sessions, daemon, events, self.elapsed() + 2)

    def tighten(self, root: Path) -> None:
        """Make memory short for all agents together; nothing outside them notices."""
        used = int((root / "memory.current").read_text())
        free = re.search(r"SwapFree:\s+(\d+) kB", Path("/proc/meminfo").read_text())
        if free is None or int(free[1]) << 10 < used:
            # What cannot be swapped out would be killed.
            say("\nthere is too little swap to make memory short; it stays as it is")
            return
        tight = int(TIGHT * used)
        say(f"\nnow memory as well: the agents use {used >> 20} MiB, and get {tight >> 20} MiB together")
        (root / "memory.max").write_text(str(tight))

    def conclude(self, report: dict[str, object], daemon: Daemon, events: Events) -> None:
        """What came of it."""
        say(f"\ntest suite of {self.suite.name}: {self.suite.result()}")
        say(f"build of {self.build.name}: {self.build.result()}\n")
        for line in table(report, self.intervals, events.counts, self.started):
            say(line)
        if events.dropped:
            say(f"  {events.dropped} events were lost: the counts of processes and files are too low")
        state = Path("/sys/kernel/sched_ext/state")
        scheduler = state.read_text().strip() if state.exists() else "not there"
        left = "still there" if daemon.root().exists() else "removed"
        say(f"\nafterwards: the sessions' cgroups are {left}, sched_ext is {scheduler}")


def main() -> int:
    """Read the arguments, play, clean up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("programs", "suite", "build"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--host", action="store_true")
    options = parser.parse_args()
    # Two CPUs for all, or a large machine would have enough for both sessions.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    directory = Path(tempfile.mkdtemp(prefix="agentcg-demo-"))
    stage = Stage(options, directory)
    try:
        return stage.run()
    finally:
        stage.suite.stop()
        stage.build.stop()
        shutil.rmtree(directory, ignore_errors=True)


def stop(number: int, _frame: object) -> None:
    """End by an exception, so that everything is stopped."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, stop)
    if os.geteuid() != 0:
        print("demo: must run as root", file=sys.stderr)
        sys.exit(1)
    sys.exit(main())
