"""A capacity: calls wait until there is room, in threads and in event loops."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from typing import Any

import agentcg
import pytest
import trio
from agentcg import PIPE, Verdict
from conftest import needs_cgroups, running

pytestmark = needs_cgroups


@pytest.fixture
def narrow(runtime: agentcg.Runtime) -> agentcg.Session:
    """A session with room for two calls."""
    return runtime.session("narrow", capacity={"calls": 2})


def most_at_once(results: list[agentcg.ToolResult[Any]]) -> int:
    """How many of these calls ran at the same time."""
    begun = [(r.started_at.timestamp(), 1) for r in results]
    # The clocks are to the ms: the last one of it does not count.
    ended = [(r.started_at.timestamp() + r.duration - 0.002, -1) for r in results]
    now = most = 0
    for _, change in sorted(begun + ended):
        now += change
        most = max(most, now)
    return most


def test_threads_wait(narrow: agentcg.Session) -> None:
    results: list[agentcg.ToolResult[Any]] = []
    threads = [threading.Thread(target=lambda: results.append(narrow.run(["sleep", "0.1"]))) for _ in range(7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [r.verdict for r in results] == [Verdict.COMPLETED] * 7
    assert most_at_once(results) == 2
    assert max(r.queued for r in results) >= 0.2


def test_tasks_wait_without_a_thread_and_the_loop_goes_on(narrow: agentcg.Session) -> None:
    async def main() -> None:
        await narrow.run_async(["true"])
        threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208
        tasks = [asyncio.create_task(narrow.run_async(["sleep", "0.1"])) for _ in range(7)]
        ticks = 0
        while not all(task.done() for task in tasks):
            assert len(os.listdir("/proc/self/task")) == threads  # noqa: PTH208
            await asyncio.sleep(0.01)
            ticks += 1
        assert ticks > 20
        results = [task.result() for task in tasks]
        assert [r.verdict for r in results] == [Verdict.COMPLETED] * 7
        assert most_at_once(results) == 2

        async with narrow.popen_async(["cat"], stdin=PIPE, stdout=PIPE) as one, narrow.popen_async(["cat"], stdin=PIPE):
            waiting = asyncio.create_task(narrow.run_async(["echo", "x"], stdout=PIPE))
            await asyncio.sleep(0.05)
            assert not waiting.done()
            assert await one.communicate(b"") == (b"", None)
            assert (await waiting).stdout == b"x\n"

    asyncio.run(main())


def test_trio_tasks_wait(narrow: agentcg.Session) -> None:
    results: list[agentcg.ToolResult[Any]] = []

    async def one() -> None:
        results.append(await narrow.run_async(["sleep", "0.1"]))

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(one)
        with narrow.popen(["sleep", "1000"]) as a, narrow.popen(["sleep", "1000"]) as b:
            late = await narrow.run_async(["true"], queue_timeout=0.05)
            assert late.verdict is Verdict.SPAWN_FAILED
            a.kill()
            b.kill()

    trio.run(main)
    assert [r.verdict for r in results] == [Verdict.COMPLETED] * 5
    assert most_at_once(results) == 2


def test_waiting_has_an_end(narrow: agentcg.Session) -> None:
    async def late() -> agentcg.ToolResult[Any]:
        return await narrow.run_async(["true"], queue_timeout=0.05)

    async def cancelled() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(narrow.run_async(["true"]), 0.05)

    with narrow.popen(["sleep", "1000"]) as a, narrow.popen(["sleep", "1000"]) as b:
        for found in (narrow.run(["true"], queue_timeout=0.05), asyncio.run(late())):
            assert found.verdict is Verdict.SPAWN_FAILED
            assert found.error is not None
            assert "not admitted within 50ms" in found.error
        asyncio.run(cancelled())
        assert len(running(narrow)) == 2
        a.kill()
        # Nobody of those who gave up stands before it.
        assert narrow.run(["true"]).success
        b.kill()


def test_an_exception_in_a_signal_handler_ends_the_wait(narrow: agentcg.Session) -> None:
    def ring(*_: object) -> None:
        raise ZeroDivisionError

    before = signal.signal(signal.SIGALRM, ring)
    try:
        with narrow.popen(["sleep", "1000"]) as a, narrow.popen(["sleep", "1000"]) as b:
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(ZeroDivisionError):
                narrow.run(["true"])
            a.kill()
            b.kill()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert narrow.run(["true"]).success


def test_closing_the_session_ends_the_waits(runtime: agentcg.Runtime) -> None:
    session = runtime.session("a", capacity={"calls": 1})
    held = session.popen(["sleep", "1000"])
    found: list[str] = []

    def wait() -> None:
        try:
            session.run(["true"])
        except agentcg.AgentcgError as e:
            found.append(e.kind)

    async def main() -> None:
        waiting = asyncio.create_task(session.run_async(["true"]))
        thread = threading.Thread(target=wait)
        thread.start()
        await asyncio.sleep(0.1)
        session.close()
        with pytest.raises(agentcg.AgentcgError, match="closed"):
            await waiting
        thread.join(10)

    asyncio.run(main())
    assert found == ["closed"]
    assert held.wait() == -9


def test_the_capacity_of_the_runtime_is_for_all_sessions(root: str) -> None:
    with (
        agentcg.Runtime(root, capacity={"calls": 1}) as runtime,
        runtime.session("a") as a,
        runtime.session("b", "high") as b,
        a.popen(["sleep", "1000"]) as held,
    ):
        thread = threading.Thread(target=lambda: b.run(["true"], check=True))
        thread.start()
        time.sleep(0.1)
        assert thread.is_alive()
        held.kill()
        thread.join(10)
        assert not thread.is_alive()
