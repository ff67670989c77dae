from __future__ import annotations

import asyncio
import errno
import json
import os
import pickle
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import agentcg
import pytest
from agentcg import BashReadline, Dropped, Event, EventStream, Exec, Exit, FileOpen, Fork, Origin
from agentcg._native import read_event
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
    for option in ("min_duration_ms", "delay_ms", "open_window_ms", "open_rate", "args_bytes", "buffer_bytes"):
        with pytest.raises(agentcg.LimitError, match=option):
            runtime.subscribe(**{option: -1})  # type: ignore[arg-type]
    with pytest.raises(agentcg.LimitError, match="uid"):
        runtime.subscribe(uids=[-1])
    with pytest.raises(agentcg.LimitError, match="executable"):
        runtime.subscribe(executables=[""])
    with pytest.raises(agentcg.LimitError, match="delay"):
        runtime.subscribe(delay_ms=1001)
    with pytest.raises(agentcg.LimitError, match="buffer size"):
        runtime.subscribe(buffer_bytes=1)
    with pytest.raises(agentcg.LimitError, match="nothing to report"):
        runtime.subscribe(kinds=[])
    with pytest.raises(agentcg.AgentcgError) as gone:
        runtime.subscribe(cgroups=["/sys/fs/cgroup/no/such"])
    assert gone.value.kind in {"not_found", "invalid_input"}


def test_by_executable_with_arguments_that_are_cut(runtime: agentcg.Runtime) -> None:
    options = {"args_bytes": 7, "delay_ms": 0, "buffer_bytes": 1 << 16}
    with runtime.subscribe(mode=2, executables=["/bin/ech"], kinds=["EXEC"], **options) as events:  # type: ignore[arg-type]
        run("/bin/true")
        run("/bin/echo", "hello")
        event = events.next(10)
        assert isinstance(event, Exec)
        assert (event.filename, event.argv, event.argv_truncated) == ("/bin/echo", ("/bin/ec",), True)
        assert events.next(0) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to run something as another user")
def test_by_user(runtime: agentcg.Runtime) -> None:
    with runtime.subscribe(mode=2, uids=[54321], kinds=["EXEC"]) as events:
        run("true")
        pid = run("setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups", "/bin/true")
        event = events.next(10)
        assert isinstance(event, Exec)
        assert (event.pid, event.uid, event.filename) == (pid, 54321, "/bin/true")


def test_lines_of_an_interactive_bash(runtime: agentcg.Runtime) -> None:
    script = shutil.which("script")
    if script is None:
        pytest.skip("needs script(1), which gives bash a terminal")
    with runtime.subscribe(mode=2, pids=[os.getpid()], kinds=["BASH_READLINE"]) as events:
        if events.missing:
            pytest.skip(events.missing[0].error)
        command = [script, "-q", "-c", "/bin/bash --norc --noprofile -i", "/dev/null"]
        subprocess.run(command, input=b"echo 'a  line'\nexit\n", stdout=subprocess.DEVNULL, check=True)
        event = events.next(10)
    assert isinstance(event, BashReadline)
    assert (event.command, event.comm, event.EVENT) == ("echo 'a  line'", "bash", "BASH_READLINE")


def test_file_events_beyond_the_rate_are_counted(runtime: agentcg.Runtime) -> None:
    options = {"open_rate": 5, "open_window_ms": 0}
    with runtime.subscribe(mode=2, pids=[os.getpid()], kinds=["FILE_OPEN"], **options) as events:  # type: ignore[arg-type]
        if events.missing:
            pytest.skip(events.missing[0].error)
        run("sh", "-c", "for i in $(seq 20); do true < /no/such/$i; done 2> /dev/null")
        found = []
        while True:
            event = events.next(0)
            if event is None:
                break
            found.append(event)
        lost = sum(e.count for e in found if isinstance(e, Dropped) and e.reason == "rate_limited")
        stats = events.stats()
    assert lost == stats.rate_limited == stats.dropped >= 15
    assert (stats.ring_full, stats.received) == (0, sum(isinstance(e, FileOpen) for e in found))


def test_streams_share_the_probes(runtime: agentcg.Runtime, events: EventStream) -> None:
    with runtime.subscribe(mode=2, pids=[os.getpid()], kinds=["EXIT"]) as other:
        pid = run("true")
        assert isinstance(up_to_exit(events, pid)[-1], Exit)
        found = other.next(10)
        assert isinstance(found, Exit)
        assert found.pid == pid
        stats = other.stats()
        assert (stats.received, stats.dropped, stats.read_fault) == (1, 0, 0)
    # Closing one takes nothing from the others.
    assert up_to_exit(events, run("true"))


def test_at_most_16_streams(runtime: agentcg.Runtime) -> None:
    streams = [runtime.subscribe(kinds=["EXIT"], buffer_bytes=4096) for _ in range(16)]
    with pytest.raises(agentcg.AgentcgError) as full:
        runtime.subscribe(kinds=["EXIT"], buffer_bytes=4096)
    assert full.value.kind == "busy"
    streams.pop().close()
    runtime.subscribe(kinds=["EXIT"], buffer_bytes=4096).close()


def test_a_recorded_event_is_the_one_that_was_live(events: EventStream) -> None:
    for event in up_to_exit(events, run("sh", "-c", "exit 3", '"\\ \u20ac \U0001f600')):
        found = event.to_dict()
        assert read_event(json.dumps(found)) == event
        assert read_event(json.dumps(found, ensure_ascii=False, sort_keys=True, indent=1)) == event


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
    # A background job has it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
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
