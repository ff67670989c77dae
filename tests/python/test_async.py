"""Tool calls in event loops: asyncio, uvloop, trio."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import agentcg
import pytest
import trio
import trio.testing
import uvloop
from agentcg import PIPE, Verdict
from conftest import needs_cgroups, needs_events, running

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    Run = Callable[[Coroutine[Any, Any, None]], None]

pytestmark = needs_cgroups


def threads() -> int:
    return len(os.listdir("/proc/self/task"))  # noqa: PTH208


async def cancel(task: asyncio.Task[Any], session: agentcg.Session) -> None:
    """Cancel it while its call runs; nothing of that may be left."""
    while not running(session):
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert running(session) == []


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run to the end in a loop of this kind."""
    return asyncio.run if request.param == "asyncio" else uvloop.run


def test_run_async(session: agentcg.Session, run: Run) -> None:
    async def main() -> None:
        found = await session.run_async("cat; exit 3", shell=True, input="hin", capture_output=True, text=True)
        assert (found.stdout, found.returncode, found.verdict) == ("hin", 3, Verdict.FAILED)
        with pytest.raises(agentcg.ToolCallError):
            await session.run_async(["false"], check=True)
        with pytest.raises(agentcg.LimitError):
            await session.run_async(["true"], timeout=-1)
        late = await session.run_async(["sleep", "100"], timeout=0.1)
        assert late.verdict is Verdict.TIMED_OUT

    run(main())


def test_a_thousand_calls_need_no_threads(session: agentcg.Session, run: Run) -> None:
    async def main() -> None:
        room = asyncio.Semaphore(50)
        most = 0

        async def one(n: int) -> int:
            nonlocal most
            async with room:
                found = await session.run_async(["sh", "-c", f"echo {n}; exit {n % 7}"], stdout=PIPE)
                most = max(most, threads())
                assert found.stdout == b"%d\n" % n
                return found.returncode

        await session.run_async(["true"])
        before = threads()
        found = await asyncio.gather(*(one(n) for n in range(200)))
        assert found == [n % 7 for n in range(200)]
        assert most == before

    run(main())


def test_pipes_are_closed_once(session: agentcg.Session, run: Run) -> None:
    over = threading.Event()
    lost: list[int] = []

    def others() -> None:
        while not over.is_set():
            fd = os.open(os.devnull, os.O_RDONLY)
            try:
                os.close(fd)
            except OSError:
                lost.append(fd)

    async def main() -> None:
        for _ in range(100):
            await session.run_async(["cat"], input=b"x", stdout=PIPE)
            async with session.popen_async(["cat"], stdin=PIPE, stdout=PIPE) as call:
                assert await call.communicate(b"x") == (b"x", None)

    threads = [threading.Thread(target=others) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        run(main())
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert lost == []


def test_the_loop_runs_on_meanwhile(session: agentcg.Session, run: Run) -> None:
    async def main() -> None:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticking = asyncio.create_task(tick())
        await session.run_async(["sleep", "0.5"])
        ticking.cancel()
        assert ticks > 10

    run(main())


def test_cancelling_kills_all_of_it(session: agentcg.Session, run: Run) -> None:
    seen: list[Verdict] = []

    async def main() -> None:
        task = asyncio.create_task(session.run_async("trap '' TERM; sleep 1000 & sleep 1000", shell=True))
        await cancel(task, session)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(session.run_async(["sleep", "1000"]), 0.1)
        assert running(session) == []

    session._observers.append(lambda result: seen.append(result.verdict))  # noqa: SLF001
    run(main())
    assert seen == [Verdict.CANCELLED] * 2


def test_popen_async(session: agentcg.Session, run: Run) -> None:
    async def main() -> None:
        async with session.popen_async(["cat"], stdin=PIPE, stdout=PIPE) as call:
            assert call.stdin is not None
            assert call.stdout is not None
            for line in (b"one\n", b"two\n"):
                call.stdin.write(line)
                assert await call.stdout.readline() == line
            assert call.poll() is None
        assert call.returncode == 0
        big = b"x" * (1 << 20)
        async with session.popen_async(["tee", "/dev/stderr"], stdin=PIPE, stdout=PIPE, stderr=PIPE) as call:
            assert await call.communicate(big) == (big, big)
        call = await session.popen_async(["sleep", "1000"])
        waits = [asyncio.create_task(call.wait()) for _ in range(3)]
        await asyncio.sleep(0.05)
        call.cancel()
        assert await asyncio.gather(*waits) == [-15] * 3
        assert (await call.result()).verdict is Verdict.CANCELLED
        with pytest.raises(agentcg.LimitError):
            await session.popen_async(["true"], timeout=-1)

    run(main())


def test_leaving_popen_async(session: agentcg.Session, run: Run) -> None:
    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            async with session.popen_async(["sleep", "1000"], stdout=PIPE) as call:
                raise ZeroDivisionError
        assert (await call.result()).verdict is Verdict.CANCELLED

        async def hold() -> None:
            async with session.popen_async("trap '' TERM; sleep 1000", shell=True):
                pass  # waits for its end

        task = asyncio.create_task(hold())
        await cancel(task, session)

    run(main())


def test_no_descriptor_is_left(session: agentcg.Session, run: Run) -> None:
    async def main() -> None:
        async def once() -> None:
            async with session.popen_async(["cat"], stdin=PIPE, stdout=PIPE, stderr=PIPE) as call:
                await call.communicate(b"x")
            await session.run_async(["true"], capture_output=True)
            await asyncio.sleep(0)

        await once()
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        for _ in range(10):
            await once()
        assert len(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208

    run(main())


def test_trio(session: agentcg.Session) -> None:
    async def main() -> None:
        found = await session.run_async(["cat"], input=b"x", stdout=PIPE)
        assert found.stdout == b"x"
        with trio.move_on_after(0.1) as scope:
            await session.run_async("trap '' TERM; sleep 1000", shell=True)
        assert scope.cancelled_caught
        assert running(session) == []
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(session.run_async, ["true"])

    trio.run(main)


def test_popen_async_in_trio(session: agentcg.Session) -> None:
    async def main() -> None:
        call = session.popen_async(["cat"], stdin=PIPE, stdout=PIPE)
        assert isinstance(call, agentcg.TrioToolCall)
        async with call:
            assert call.stdin is not None
            assert call.stdout is not None
            for line in (b"one\n", b"two\n"):
                await call.stdin.send_all(line)
                assert await call.stdout.receive_some() == line
            assert call.poll() is None
        assert call.returncode == 0
        big = b"x" * (1 << 20)
        async with session.popen_async(["tee", "/dev/stderr"], stdin=PIPE, stdout=PIPE, stderr=PIPE) as both:
            assert await both.communicate(big) == (big, big)
        async with session.popen_async(["true"], stdin=PIPE) as deaf:
            assert await deaf.communicate(big) == (None, None)
        sleeping = await session.popen_async(["sleep", "1000"])
        found: list[int] = []

        async def wait() -> None:
            found.append(await sleeping.wait())

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            sleeping.cancel()
        assert found == [-15] * 3
        assert (await sleeping.result()).verdict is Verdict.CANCELLED
        with pytest.raises(agentcg.LimitError):
            await session.popen_async(["true"], timeout=-1)

    trio.run(main)


def test_leaving_popen_async_in_trio(session: agentcg.Session) -> None:
    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            async with session.popen_async(["sleep", "1000"], stdout=PIPE) as call:
                raise ZeroDivisionError
        assert (await call.result()).verdict is Verdict.CANCELLED
        with trio.move_on_after(0.1) as scope:
            async with session.popen_async("trap '' TERM; sleep 1000", shell=True) as call:
                pass  # waits for its end
        assert scope.cancelled_caught
        assert (running(session), call.returncode) == ([], -9)
        with trio.move_on_after(0.1):
            async with session.popen_async(["sleep", "1000"], stdout=PIPE) as call:
                await call.communicate()
        assert (running(session), call.returncode) == ([], -9)
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        for _ in range(10):
            async with session.popen_async(["cat"], stdin=PIPE, stdout=PIPE, stderr=PIPE) as call:
                await call.communicate(b"x")
        assert len(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208

    trio.run(main)


@needs_events
def test_trio_events(runtime: agentcg.Runtime, session: agentcg.Session) -> None:
    async def main() -> None:
        with runtime.subscribe(mode=2, cgroups=[session], kinds=["EXIT"]) as events:

            async def read() -> None:
                async for event in events:
                    assert isinstance(event, agentcg.Exit)
                    seen.append(event)
                    events.close()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                await trio.sleep(0.05)
                await session.run_async(["true"])
                with trio.move_on_after(5):
                    while not seen:
                        await trio.sleep(0.01)

    seen: list[agentcg.Exit] = []
    trio.run(main)
    assert seen[0].session == "agent"


@needs_events
def test_a_stream_that_waits_does_nothing(runtime: agentcg.Runtime, session: agentcg.Session) -> None:
    async def main() -> None:
        with runtime.subscribe(mode=2, cgroups=[session]) as events:

            async def read() -> None:
                async for _ in events:
                    pass

            reading = asyncio.create_task(read())
            await asyncio.sleep(0.1)
            cpu, switches = time.process_time(), voluntary()
            await asyncio.sleep(1)
            # The end of our own sleep; polling would be a hundred.
            assert voluntary() - switches < 10
            assert time.process_time() - cpu < 0.1
            events.close()
            await reading

    def voluntary() -> int:
        with open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123
            return int(next(line for line in status if line.startswith("voluntary")).split()[1])

    asyncio.run(main())
