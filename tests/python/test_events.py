from __future__ import annotations

import asyncio
import errno
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import agentcg
import pytest
from agentcg import Event, EventStream, Exec, Exit, FileOpen, Fork, Origin
from conftest import needs_events

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = needs_events


@pytest.fixture
def events(runtime: agentcg.Runtime) -> Iterator[EventStream]:
    """What this process and its descendants do."""
    with runtime.subscribe(mode=2, pids=[os.getpid()], kinds=["EXEC", "EXIT", "FORK"]) as stream:
        yield stream


def run(*command: str) -> int:
    with subprocess.Popen(command) as process:
        process.wait()
    return process.pid


def up_to_exit(events: EventStream, pid: int) -> list[Event]:
    found = []
    while True:
        event = events.next(10)
        assert event is not None, "no event within 10 s"
        found.append(event)
        if isinstance(event, Exit) and event.pid == pid:
            return found


def test_a_command_from_fork_to_exit(events: EventStream) -> None:
    assert events.missing == ()
    pid = run("sh", "-c", "exit 3")
    found = up_to_exit(events, pid)
    assert any(isinstance(e, Fork) and e.child_pid == pid and e.pid == os.getpid() for e in found)
    executed = next(e for e in found if isinstance(e, Exec) and e.pid == pid)
    assert executed.argv == ("sh", "-c", "exit 3")
    assert executed.full_command == "sh -c exit 3"
    assert (executed.ppid, executed.comm, executed.uid) == (os.getpid(), "sh", os.getuid())
    ended = found[-1]
    assert isinstance(ended, Exit)
    assert (ended.exit_code, ended.signal) == (3, None)
    assert ended.timestamp > executed.timestamp
    assert events.next(0) is None


def test_a_signal_is_not_an_exit_code(events: EventStream) -> None:
    pid = run("sh", "-c", "kill -9 $$")
    ended = up_to_exit(events, pid)[-1]
    assert isinstance(ended, Exit)
    assert (ended.exit_code, ended.signal) == (None, 9)


def test_events_are_values(events: EventStream) -> None:
    pid = run("true")
    for event in up_to_exit(events, pid):
        assert isinstance(event, Origin)
        assert pickle.loads(pickle.dumps(event)) == event
        assert hash(event) is not None
        with pytest.raises(AttributeError):
            event.pid = 1  # type: ignore[misc]
        found = event.to_dict()
        assert found["event"] == type(event).EVENT
        assert ("session" in found) == (event.session is not None)
    assert isinstance(event, Exit)
    assert event.to_dict()["signal"] is None


@pytest.mark.skipif(sys.version_info < (3, 10), reason="match came with Python 3.10")
def test_match(events: EventStream) -> None:
    program = """
match event:
    case Exit(pid=found, exit_code=0):
        matched = found
"""
    pid = run("true")
    names: dict[str, object] = {"event": up_to_exit(events, pid)[-1], "Exit": Exit}
    exec(program, names)
    assert names["matched"] == pid


def test_an_event_in_a_session_names_it(events: EventStream, session: agentcg.Session) -> None:
    with subprocess.Popen(["sh", "-c", "read go; exit 0"], stdin=-1) as shell:
        session.move_pid(shell.pid)
        shell.communicate(b"go\n")
    ended = up_to_exit(events, shell.pid)[-1]
    assert isinstance(ended, Exit)
    assert (ended.session, ended.cgroup) == ("agent", str(session.path))


def test_files(runtime: agentcg.Runtime) -> None:
    with runtime.subscribe(mode=2, pids=[os.getpid()], kinds=["EXIT", "FILE_OPEN"]) as events:
        if events.missing:
            pytest.skip(events.missing[0].error)
        pid = run("sh", "-c", ": < /no/such/file")
        opens = [e for e in up_to_exit(events, pid) if isinstance(e, FileOpen)]
    assert any(e.filepath == "/no/such/file" and e.result == -errno.ENOENT for e in opens)


def test_a_bad_filter_is_an_error(runtime: agentcg.Runtime) -> None:
    with pytest.raises(agentcg.LimitError, match="mode"):
        runtime.subscribe(mode=3)  # type: ignore[arg-type]
    with pytest.raises(agentcg.LimitError, match="15 bytes"):
        runtime.subscribe(commands=["a-very-long-command-name"])
    with pytest.raises(agentcg.LimitError, match="TEA"):
        runtime.subscribe(kinds=["TEA"])  # type: ignore[list-item]
    with pytest.raises(agentcg.LimitError, match="min_duration_ms"):
        runtime.subscribe(min_duration_ms=-1)
    with pytest.raises(agentcg.AgentcgError) as gone:
        runtime.subscribe(cgroups=["/sys/fs/cgroup/no/such"])
    assert gone.value.kind in {"not_found", "invalid_input"}


def test_a_time_out_is_kept(events: EventStream) -> None:
    start = time.monotonic()
    assert events.next(0.2) is None
    assert 0.2 <= time.monotonic() - start < 5


def test_the_descriptor_can_be_polled(events: EventStream) -> None:
    assert select.select([events], [], [], 0)[0] == []
    run("true")
    assert select.select([events], [], [], 5)[0] == [events]


def test_other_threads_run_while_one_waits(events: EventStream) -> None:
    """The waiting thread gives the GIL away, and a command that another one starts wakes it."""
    started: list[int] = []
    thread = threading.Timer(0.2, lambda: started.append(run("true")))
    thread.start()
    assert isinstance(events.next(10), Fork)
    thread.join()
    assert isinstance(up_to_exit(events, started[0])[-1], Exit)


def test_ctrl_c_ends_the_wait(events: EventStream) -> None:
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        next(events)
    assert time.monotonic() - start < 5
    timer.join()


def test_a_closed_stream_ends(events: EventStream) -> None:
    events.close()
    assert list(events) == []
    with pytest.raises(agentcg.AgentcgError) as closed:
        events.fileno()
    assert closed.value.kind == "closed"


async def test_asyncio(events: EventStream) -> None:
    process = await asyncio.create_subprocess_exec("true")
    async for event in events:
        if isinstance(event, Exit) and event.pid == process.pid:
            break
    assert await process.wait() == 0


async def test_asyncio_waits_without_a_thread_and_without_polling(events: EventStream) -> None:
    threads = threading.active_count()
    waiting = asyncio.create_task(anext_of(events))
    await asyncio.sleep(0.1)
    cpu = time.process_time()
    await asyncio.sleep(0.5)
    assert time.process_time() - cpu < 0.05
    assert threading.active_count() == threads
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    # Cancelling took nothing with it.
    pid = await asyncio.to_thread(run, "true")
    assert up_to_exit(events, pid)


async def test_asyncio_ends_when_the_stream_is_closed(events: EventStream) -> None:
    async def read() -> int:
        return len([event async for event in events])

    reader = asyncio.create_task(read())
    await asyncio.sleep(0.1)
    events.close()
    assert await asyncio.wait_for(reader, 5) == 0


async def test_asyncio_one_reader(events: EventStream) -> None:
    waiting = asyncio.create_task(anext_of(events))
    await asyncio.sleep(0.1)
    with pytest.raises(agentcg.AgentcgError, match="another task"):
        await anext_of(events)
    waiting.cancel()


async def test_asyncio_gives_others_a_turn(events: EventStream) -> None:
    """A reader with a full queue must not starve the loop."""
    await asyncio.to_thread(run, "sh", "-c", "for i in $(seq 200); do (:); done")
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    for _ in range(400):
        await anext_of(events)
    task.cancel()
    assert turns >= 5


async def anext_of(events: EventStream) -> Event:
    return await events.__anext__()  # anext() came with Python 3.10
