#!/usr/bin/env python3
"""What the Python package costs beside subprocess and asyncio, in one run: look at the ratios.

| measurement | beside | bar |
|---|---|---|
| run(["true"]) | subprocess.run | 1.2x; from 2 GiB: faster |
| 1,000 run_async, 50 at a time | asyncio's subprocesses | no more threads |
| events, recorded and from the kernel | | 200,000/s |
| async for over events, idle for 10 s | | no wake-up, no CPU |
| import agentcg | import subprocess | 1.5x |
| the wheel | | 3 MB |
"""

from __future__ import annotations

import asyncio
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import agentcg

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 1000
MAPPED = 2 << 30


def say(what: str, value: str, bar: str = "") -> None:
    """Print one line."""
    print(f"{what:44} {value:>34}   {bar}")


def medians(rounds: int, *ways: Callable[[], object]) -> list[float]:
    """Run them in turn, so that whatever else the machine does meets all alike; seconds."""
    times: list[list[float]] = [[] for _ in ways]
    for n in range(rounds + rounds // 10):
        for way, found in zip(ways, times):
            since = time.perf_counter()
            way()
            if n >= rounds // 10:
                found.append(time.perf_counter() - since)
    return [statistics.median(found) for found in times]


def calls(session: agentcg.Session) -> None:
    """One call after the other."""
    ways: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "inherited": (
            lambda: subprocess.run(["true"], check=False),
            lambda: session.run(["true"]),
        ),
        "captured": (
            lambda: subprocess.run(["true"], check=False, capture_output=True),
            lambda: session.run(["true"], capture_output=True),
        ),
    }
    # With preexec_fn, which many harnesses use, subprocess forks, and copies the page tables of a large process.
    ways["preexec_fn"] = (
        lambda: subprocess.run(["true"], check=False, preexec_fn=os.setsid),
        lambda: session.run(["true"], start_new_session=True),
    )
    for size in (0, MAPPED):
        memory = bytearray(size)
        memory[::4096] = b"x" * len(memory[::4096])
        where = f"from {size >> 30} GiB" if size else "from a small process"
        for output, (theirs, ours) in ways.items():
            a, b = medians(ROUNDS if output != "preexec_fn" else 60, theirs, ours)
            what = f'run(["true"]), {output}, {where}'
            say(what, f"{a * 1e6:.0f} -> {b * 1e6:.0f} µs  {b / a:.2f}x", "<= 1.2x" if not size else "< 1x")
        del memory


def threads() -> int:
    """How many this process has."""
    return len(os.listdir("/proc/self/task"))  # noqa: PTH208


async def concurrent(session: agentcg.Session) -> None:
    """A thousand calls, fifty at a time."""
    room = asyncio.Semaphore(50)
    most = 0

    async def ours(n: int) -> bool:
        nonlocal most
        async with room:
            found = await session.run_async(["echo", str(n)], stdout=subprocess.PIPE)
            most = max(most, threads())
            return found.success and found.stdout == b"%d\n" % n

    async def theirs(n: int) -> bool:
        async with room:
            process = await asyncio.create_subprocess_exec("echo", str(n), stdout=subprocess.PIPE)
            out, _ = await process.communicate()
            return process.returncode == 0 and out == b"%d\n" % n

    await session.run_async(["true"])
    before = threads()
    took = []
    for one in (theirs, ours):
        since = time.perf_counter()
        right = await asyncio.gather(*(one(n) for n in range(1000)))
        took.append(time.perf_counter() - since)
        if one is ours:
            say("1,000 run_async: right", str(sum(right)), "1000")
    say("1,000 run_async: threads before, at most", f"{before}, {most}", "the same")
    say("1,000 run_async beside asyncio", f"{took[0]:.2f} -> {took[1]:.2f} s  {took[1] / took[0]:.2f}x")


def events(runtime: agentcg.Runtime) -> None:
    """Events as values, from a file and from the kernel; in CPU time, for all of it is ours."""
    forks = 20_000
    program = f"import os\nfor _ in range({forks}):\n  p = os.fork()\n  if not p: os._exit(0)\n  os.waitpid(p, 0)"
    with runtime.subscribe(
        mode=2, pids=[os.getpid()], kinds=["FORK", "EXIT"], buffer_bytes=64 << 20, delay_ms=1000
    ) as stream:
        subprocess.run([sys.executable, "-S", "-c", program], check=True)
        time.sleep(1.1)
        since = time.thread_time()
        found = []
        while (event := stream.next(0)) is not None:
            found.append(event)
        rate = len(found) / (time.thread_time() - since)
        say(f"events from the kernel ({len(found)})", f"{rate:,.0f}/s", ">= 200,000/s")
        lost = stream.stats().dropped
        if lost or len(found) < 2 * forks:
            say("events lost", str(lost), "0")

        async def drain() -> float:
            subprocess.run([sys.executable, "-S", "-c", program], check=True)  # noqa: ASYNC221 - the loop has nothing to do
            await asyncio.sleep(1.1)
            since, n = time.thread_time(), 0
            async for _ in stream:
                n += 1
                if n == 2 * forks:
                    break
            return n / (time.thread_time() - since)

        say("events from the kernel, async for", f"{asyncio.run(drain()):,.0f}/s", ">= 200,000/s")
    import json  # noqa: PLC0415

    lines = [json.dumps(event.to_dict()) for event in found]
    since = time.thread_time()
    n = sum(1 for _ in agentcg.read_events(lines))
    say("events from a file", f"{n / (time.thread_time() - since):,.0f}/s", ">= 200,000/s")


async def idle(runtime: agentcg.Runtime, session: agentcg.Session) -> None:
    """Wait for events that do not come."""

    def wakeups() -> int:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(next(line for line in status.splitlines() if line.startswith("voluntary")).split()[1])

    with runtime.subscribe(mode=2, cgroups=[session]) as stream:

        async def read() -> None:
            async for _ in stream:
                pass

        reading = asyncio.create_task(read())
        await asyncio.sleep(0.5)
        before, cpu = wakeups(), time.process_time()
        await asyncio.sleep(10)
        # One is the end of our own sleep.
        say("idle for 10 s: wake-ups", str(wakeups() - before - 1), "0")
        say("idle for 10 s: CPU", f"{(time.process_time() - cpu) * 1e3:.1f} ms", "0")
        stream.close()
        await reading


def imports() -> None:
    """What an import takes of a CPU, in an interpreter of its own."""
    # Installed packages are compiled; without this variable so are we, at the first import.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def measured(statement: str) -> Callable[[], float]:
        program = f"import time; t = time.process_time(); {statement}; print(time.process_time() - t)"
        return lambda: float(
            subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, env=environment).stdout
        )

    statements = ["import subprocess", "import agentcg", "from agentcg import Runtime, Session, ToolResult, Verdict"]
    found: list[list[float]] = [[], [], []]
    for _ in range(30):
        for statement, times in zip(statements, found):
            times.append(measured(statement)())
    base, *ours = [statistics.median(times) for times in found]
    for statement, took in zip(statements[1:], ours):
        short = statement.replace(", Session, ToolResult, Verdict", ", ...")
        say(short, f"{base * 1e3:.1f} -> {took * 1e3:.1f} ms  {took / base:.2f}x", "<= 1.5x")


def wheel() -> None:
    """How large the wheel is, where `make wheel` has made one."""
    for path in sorted(Path(__file__).parents[1].glob("target/wheels/*manylinux*.whl")):
        say(f"wheel {path.name[:30]}", f"{path.stat().st_size / 1e6:.2f} MB", "< 3 MB")


def main() -> None:
    """Measure all."""
    print(f"kernel {platform.release()}, Python {platform.python_version()}, {os.cpu_count()} CPUs")
    mount = agentcg.capabilities().get("cgroup2")
    assert mount is not None
    with agentcg.Runtime(f"{mount.detail}/agentcg-bench-{os.getpid()}") as runtime, runtime.session("bench") as session:
        calls(session)
        asyncio.run(concurrent(session))
        events(runtime)
        asyncio.run(idle(runtime, session))
    imports()
    wheel()


if __name__ == "__main__":
    main()
