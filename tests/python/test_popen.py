"""`Session.popen` beside `subprocess.Popen`."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import threading
import time
from typing import Any

import agentcg
import pytest
from agentcg import DEVNULL, PIPE, STDOUT, Verdict
from conftest import needs_cgroups

pytestmark = needs_cgroups


@pytest.mark.parametrize(
    "options",
    [
        {"stdin": PIPE, "stdout": PIPE, "stderr": PIPE},
        {"stdin": PIPE, "stdout": PIPE, "stderr": STDOUT, "text": True},
        {"stdin": PIPE, "stdout": PIPE, "encoding": "utf-16", "stderr": DEVNULL},
        {"stdin": PIPE, "stdout": PIPE, "text": True, "bufsize": 1},
        {"stdin": PIPE, "stdout": PIPE, "bufsize": 0},
        {"stdin": PIPE},
        {"stdout": PIPE},
        {},
    ],
)
@pytest.mark.parametrize("size", [0, 3, 1 << 20])
def test_communicate_as_subprocess(session: agentcg.Session, options: dict[str, Any], size: int) -> None:
    # As much back as is written, to both: whoever does not read and write at once hangs.
    options = {"stdin": DEVNULL, "stdout": DEVNULL, "stderr": DEVNULL, **options}
    command = ["tee", "/dev/stderr"]
    given: Any = None
    if options["stdin"] == PIPE:
        given = "x" * size if options.get("text") or options.get("encoding") else b"x" * size
    with subprocess.Popen(command, **options) as process:
        expected = process.communicate(given)
    with session.popen(command, **options) as call:
        found = call.communicate(given)
    assert found == expected
    assert call.returncode == process.returncode == 0


def test_a_conversation(session: agentcg.Session) -> None:
    with session.popen(["cat"], stdin=PIPE, stdout=PIPE, text=True, bufsize=1) as call:
        assert call.stdin is not None
        assert call.stdout is not None
        for line in ("one\n", "zwölf\n"):
            call.stdin.write(line)
            assert call.stdout.readline() == line
        assert (call.poll(), call.returncode) == (None, None)
    assert call.returncode == 0
    assert call.result().verdict is Verdict.COMPLETED
    assert call.wait() == call.poll() == 0


def test_what_a_running_call_says(session: agentcg.Session) -> None:
    with session.popen(["sleep", "1000"], name="sleeper") as call:
        assert call.name == "sleeper"
        assert call.path == session.path / "calls" / "sleeper"
        assert call.pid is not None
        os.kill(call.pid, 0)
        assert call.usage().cpu_user_us is not None
        assert "sleeper" in repr(call)
        call.freeze()
        call.thaw()
        with pytest.raises(subprocess.TimeoutExpired):
            call.wait(0.05)
        with pytest.raises(subprocess.TimeoutExpired):
            call.communicate(timeout=0.05)
        call.send_signal(signal.SIGUSR1)
    assert (call.returncode, call.result().verdict) == (-signal.SIGUSR1, Verdict.SIGNALED)


@pytest.mark.parametrize("end", ["cancel", "kill", "terminate", "close"])
def test_its_ends(session: agentcg.Session, end: str) -> None:
    call = session.popen("sleep 1000 & sleep 1000", shell=True)
    getattr(call, end)()
    assert call.result(10).verdict is Verdict.CANCELLED
    assert not call.path.exists()
    call.close()
    call.kill()


def test_an_exception_kills_it(session: agentcg.Session) -> None:
    with pytest.raises(ZeroDivisionError), session.popen(["sleep", "1000"]) as call:
        raise ZeroDivisionError
    assert call.result().verdict is Verdict.CANCELLED


def test_one_that_nobody_holds_is_killed(session: agentcg.Session) -> None:
    call = session.popen(["sleep", "1000"])
    path = call.path
    del call
    gc.collect()
    until = time.monotonic() + 10
    while path.exists() and time.monotonic() < until:
        time.sleep(0.01)
    assert not path.exists()


def test_a_reader_that_goes_away(session: agentcg.Session) -> None:
    with session.popen(["true"], stdin=PIPE) as call:
        assert call.communicate(b"x" * (1 << 20)) == (None, None)
    with session.popen(["yes"], stdout=PIPE) as call:
        assert call.stdout is not None
        assert call.stdout.read(2) == b"y\n"
    assert call.returncode == -signal.SIGPIPE


def test_one_that_was_not_started(session: agentcg.Session) -> None:
    with session.popen(["no-such-program"], stdout=PIPE) as call:
        assert call.pid is None
        assert call.communicate() == (b"", None)
    assert (call.returncode, call.result().verdict) == (127, Verdict.SPAWN_FAILED)


def test_many_threads_wait_for_one(session: agentcg.Session) -> None:
    call = session.popen(["sleep", "0.3"])
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(call.wait())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert found == [0] * 8


def test_nothing_is_left(session: agentcg.Session) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    def once() -> None:
        with session.popen(["cat"], stdin=PIPE, stdout=PIPE, stderr=PIPE) as call:
            call.communicate(b"x")
        session.run(["true"], capture_output=True)

    once()
    del_before = count()
    for _ in range(20):
        once()
    gc.collect()
    assert count() <= del_before
