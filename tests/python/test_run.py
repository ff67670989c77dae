"""`Session.run` beside `subprocess.run`: the same where both can do it, and the verdict on top."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import agentcg
import pytest
from agentcg import DEVNULL, PIPE, STDOUT, Verdict
from conftest import FOUND, needs_cgroups, running

pytestmark = needs_cgroups
needs_memory = pytest.mark.skipif(
    not FOUND.supports("memory_controller"), reason="needs the memory controller on cgroup v2"
)
BOTH = "echo out; echo err >&2; cat; exit 3"


def ended(pid: int) -> bool:
    """Whoever adopted it may not have collected its status yet."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except FileNotFoundError:
        return True
    return status.rpartition(")")[2].split()[0] == "Z"


@pytest.mark.parametrize(
    "options",
    [
        {"capture_output": True},
        {"capture_output": True, "text": True},
        {"capture_output": True, "encoding": "latin-1", "input": "grün\n"},
        {"stdout": PIPE, "stderr": STDOUT, "text": True, "input": "in\n"},
        {"stdout": PIPE, "stderr": DEVNULL, "stdin": DEVNULL},
        {"stdout": PIPE, "stdin": PIPE, "universal_newlines": True, "stderr": DEVNULL},
        {"capture_output": True, "input": b"bytes \xff\n"},
        {"capture_output": True, "input": memoryview(b"a view\n")},
        {"capture_output": True, "cwd": "/"},
        {"capture_output": True, "env": {"PATH": "/usr/bin:/bin"}},
        {"capture_output": True, "errors": "replace", "input": "x"},
        {"capture_output": True, "start_new_session": True, "umask": 0o77},
        {"capture_output": True, "executable": "/bin/bash"},
    ],
)
def test_as_subprocess(session: agentcg.Session, options: dict[str, Any]) -> None:
    options.setdefault("stdin", None if "input" in options else DEVNULL)
    expected = subprocess.run(["sh", "-c", BOTH], check=False, **options)
    found = session.run(["sh", "-c", BOTH], **options)
    assert (found.args, found.returncode) == (expected.args, 3)
    assert (found.stdout, found.stderr) == (expected.stdout, expected.stderr)
    assert isinstance(found, subprocess.CompletedProcess)
    assert found.verdict is Verdict.FAILED


@pytest.mark.parametrize("shell", [True, False])
@pytest.mark.parametrize("args", ["id", ["id"], [Path("/usr/bin/id")], [b"id"]])
def test_arguments_as_subprocess(session: agentcg.Session, args: Any, shell: bool) -> None:
    expected = subprocess.run(args, shell=shell, capture_output=True, check=False)
    found = session.run(args, shell=shell, capture_output=True)
    assert (found.returncode, found.stdout) == (expected.returncode, expected.stdout)


def test_a_file_and_a_descriptor(session: agentcg.Session, tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        session.run("echo one; echo two >&2", shell=True, stdout=out, stderr=out.fileno())
    with (tmp_path / "out").open("rb") as inp:
        found = session.run(["cat"], stdin=inp, stdout=PIPE)
    assert found.stdout == b"one\ntwo\n"
    with pytest.raises(OSError, match="descriptor"):
        session.run(["true"], stdout=9999)


def test_descriptors_are_not_passed_on_unless_asked(session: agentcg.Session) -> None:
    read, write = os.pipe()
    os.set_inheritable(write, True)
    command = ["bash", "-c", f"echo x >&{write}"]
    assert session.run(command, stderr=DEVNULL).returncode != 0
    assert session.run(command, close_fds=False).returncode == 0
    assert os.read(read, 10) == b"x\n"
    os.close(read)
    os.close(write)


def test_pass_fds(session: agentcg.Session) -> None:
    """Of many descriptors those that are named are there, under their numbers, and no others."""
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(20)]
    try:
        for fd in files[10:]:
            os.set_inheritable(fd, True)
        passed = (files[3], files[4], files[12], 1)
        found = session.run(["ls", "/proc/self/fd"], stdout=PIPE, text=True, pass_fds=passed)
        expected = subprocess.run(["ls", "/proc/self/fd"], stdout=PIPE, text=True, pass_fds=passed, check=False)
        # Where ls has its own is nobody's business.
        assert [n for n in map(int, found.stdout.split()) if n in files] == list(passed[:3])
        assert len(found.stdout.split()) == len(expected.stdout.split())
        found = session.run(["ls", "/proc/self/fd"], stdout=PIPE, text=True, pass_fds=passed, close_fds=False)
        assert {*passed, *files[10:]} <= set(map(int, found.stdout.split()))
        assert not os.get_inheritable(files[3])
    finally:
        for fd in files:
            os.close(fd)
    late = session.run(["true"], pass_fds=[files[0]])
    assert (late.verdict, late.returncode) == (Verdict.SPAWN_FAILED, 125)
    assert late.error is not None
    assert "descriptor" in late.error


def test_process_groups(session: agentcg.Session) -> None:
    ids = ["sh", "-c", "cut -d ' ' -f 5 /proc/$$/stat; echo $$"]
    ours, _ = session.run(ids, stdout=PIPE, text=True, process_group=None).stdout.split()
    assert int(ours) == os.getpgrp()
    group, pid = session.run(ids, stdout=PIPE, text=True, process_group=0).stdout.split()
    assert group == pid
    with session.popen(["sleep", "1000"], process_group=0) as leader:
        joined, _ = session.run(ids, stdout=PIPE, text=True, process_group=leader.pid).stdout.split()
        assert int(joined) == leader.pid
        leader.kill()
    gone = session.run(ids, process_group=leader.pid)
    assert (gone.verdict, gone.error and "process group" in gone.error) == (Verdict.SPAWN_FAILED, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become someone else")
def test_users_and_groups(session: agentcg.Session) -> None:
    options: dict[str, Any] = {"user": 65534, "group": 65533, "extra_groups": [65532, "root"], "umask": 0o27}
    command = ["sh", "-c", "id -u; id -G; umask"]
    expected = subprocess.run(command, stdout=PIPE, check=True, **options)
    assert session.run(command, stdout=PIPE, **options).stdout == expected.stdout
    # Ours go with us, unless the user is another.
    assert session.run(["id", "-G"], stdout=PIPE, user="nobody", group="nogroup").stdout == b"65534\n"


def test_what_asks_for_nothing_is_taken(session: agentcg.Session) -> None:
    """A harness may pass all that subprocess.run has."""
    found = session.run(  # type: ignore[call-overload]
        ["true"],
        bufsize=-1,
        preexec_fn=None,
        restore_signals=True,
        pipesize=-1,
        startupinfo=None,
        creationflags=0,
        pass_fds=(),
        process_group=-1,
        umask=-1,
    )
    assert found.success
    with pytest.raises(agentcg.UnsupportedError, match="vfork") as refused:
        session.run(["true"], preexec_fn=os.setsid)  # type: ignore[call-overload]
    assert refused.value.kind == "unsupported"


def test_signals_are_as_programs_expect_them(session: agentcg.Session) -> None:
    command = ["grep", "-E", "SigBlk|SigIgn", "/proc/self/status"]
    expected = subprocess.run(command, stdout=PIPE, check=True)
    assert session.run(command, stdout=PIPE).stdout == expected.stdout


def test_ours_are_inherited() -> None:
    """A program of its own, for pytest has redirected ours."""
    program = """
import agentcg, sys
with agentcg.Runtime(sys.argv[1]) as r, r.session("a") as s:
    s.run("cat; echo err >&2", shell=True)
"""
    root = f"{FOUND.get('cgroup2').detail}/agentcg-own-{os.getpid()}"  # type: ignore[union-attr]
    done = subprocess.run([sys.executable, "-c", program, root], input=b"in\n", capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"in\n", b"err\n")


def test_the_environment_changes_as_ours(session: agentcg.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTCG_TEST_VARIABLE", "now")
    found = session.run("echo $AGENTCG_TEST_VARIABLE $AGENTCG_SESSION", shell=True, stdout=PIPE, text=True)
    assert found.stdout == "now agent\n"
    found = session.run("echo ${AGENTCG_TEST_VARIABLE-none}", shell=True, stdout=PIPE, text=True, env={})
    assert found.stdout == "none\n"


def test_all_of_the_result(session: agentcg.Session) -> None:
    found = session.run(["sh", "-c", "kill -9 $$"], name="mine", hint="time:20s", capture_output=True)
    assert (found.returncode, found.signal, found.exit_code) == (-9, 9, None)
    assert (found.verdict, found.success) == (Verdict.SIGNALED, False)
    assert (found.call, found.session, found.hint) == ("mine", "agent", "time:20s")
    assert abs(found.started_at.timestamp() - time.time()) < 60
    assert 0 <= found.duration < 20
    assert found.usage.cpu_user_us is not None
    assert (found.usage.memory_peak_bytes is None) == ("memory_peak_bytes" in found.usage.unavailable)
    assert (found.cause, found.error, found.truncated, found.killed_processes) == (None, None, False, 0)
    assert (found.notes, found.survivors, found.timeline, found.suggestions) == ([], [], [], found.suggestions)
    assert found.to_dict()["verdict"] == "signaled" == str(found.verdict)
    again = pickle.loads(pickle.dumps(found))
    assert again.to_dict() == found.to_dict()
    assert "signaled" in repr(again)


def test_a_program_that_is_not_there(session: agentcg.Session) -> None:
    found = session.run(["no-such-program"])
    assert (found.returncode, found.verdict) == (127, Verdict.SPAWN_FAILED)
    assert found.error is not None
    assert "no-such-program" in found.error
    assert session.run(["true"], cwd="/no/such/directory").returncode == 125
    assert session.run(["/etc/passwd"]).returncode == 126


def test_check_raises(session: agentcg.Session) -> None:
    assert session.run(["true"], check=True).success
    with pytest.raises(subprocess.CalledProcessError) as raised:
        session.run("echo out; exit 4", shell=True, check=True, capture_output=True, text=True)
    error = raised.value
    assert isinstance(error, agentcg.ToolCallError)
    assert (error.returncode, error.stdout, error.stderr, error.kind) == (4, "out\n", "", "call")
    assert error.result.verdict is Verdict.FAILED
    assert str(error).startswith("command 'echo out; exit 4': failed, status 4")


def test_a_timeout_ends_all_of_it(session: agentcg.Session) -> None:
    since = time.monotonic()
    found = session.run("sleep 100 & sleep 100", shell=True, timeout=0.1)
    assert time.monotonic() - since < 10
    assert (found.verdict, found.returncode) == (Verdict.TIMED_OUT, -15)
    cause = found.cause
    assert cause is not None
    assert (cause.limit, cause.limit_value, cause.scope) == ("timeout", 100, "call")
    with pytest.raises(subprocess.TimeoutExpired) as raised:
        session.run(["sleep", "100"], timeout=0.1, grace=0, check=True)
    assert isinstance(raised.value, agentcg.ToolCallTimeoutError)
    assert raised.value.timeout >= 0.1


def test_what_is_left_behind_is_killed(session: agentcg.Session) -> None:
    found = session.run("setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo $!", shell=True, stdout=PIPE, text=True)
    assert found.killed_processes >= 1
    assert ended(int(found.stdout))


@needs_memory
def test_an_oom_kill_is_a_verdict(session: agentcg.Session) -> None:
    eat = "x = bytearray(200 << 20)"
    found = session.run([sys.executable, "-c", eat], memory_max="32M", swap_max=0, stderr=DEVNULL)
    assert found.verdict is Verdict.OOM_KILLED
    cause = found.cause
    assert cause is not None
    assert (cause.limit, cause.scope, cause.limit_bytes) == ("memory.max", "call", 32 << 20)
    assert found.usage.oom_kills
    assert "memory" in found.advice
    with pytest.raises(agentcg.ToolCallError, match="oom_killed"):
        session.run(f"{sys.executable} -c '{eat}'; true", shell=True, memory_max="32M", swap_max=0, check=True)


@needs_memory
@pytest.mark.parametrize("way", ["run", "run_async"])
def test_an_oom_kill_is_retried_with_more(session: agentcg.Session, tmp_path: Path, way: str) -> None:
    options: dict[str, Any] = {"memory_max": "32M", "swap_max": 0, "stdin": DEVNULL, "stderr": DEVNULL, "retry": True}
    seen: list[str] = []
    session._observers.append(lambda result: seen.append(result.call))  # noqa: SLF001

    def run(size: int, **more: Any) -> agentcg.ToolResult[Any]:
        command = [sys.executable, "-c", f"print('begun', flush=True); x = bytearray({size} << 20); print('done')"]
        if way == "run":
            return session.run(command, **options, **more)
        return asyncio.run(session.run_async(command, **options, **more))

    with (tmp_path / "out").open("wb") as out:
        found = run(40, stdout=out)
    assert found.success
    first = found.to_dict()["retries"]
    assert [one["verdict"] for one in first] == ["oom_killed"]
    assert (first[0]["limits"]["memory_max"], found.limits["memory_max"]) == (32 << 20, 64 << 20)
    assert (tmp_path / "out").read_text() == "begun\nbegun\ndone\n"
    assert seen == [found.call]
    # Not more than once.
    found = run(300, stdout=PIPE)
    assert (found.verdict, found.stdout, len(found.to_dict()["retries"])) == (Verdict.OOM_KILLED, b"begun\n", 1)


def test_output_beyond_the_limit_is_cut_and_said(session: agentcg.Session) -> None:
    found = session.run("yes ä | head -c 100000", shell=True, capture_output=True, text=True, capture_limit=1001)
    assert found.truncated
    assert len(found.stdout.encode("utf-8", "replace")) < 1020
    large = session.run("head -c 3000000 /dev/zero", shell=True, capture_output=True)
    assert (len(large.stdout), large.truncated) == (3_000_000, False)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"input": b"", "stdin": PIPE}, ValueError),
        ({"capture_output": True, "stdout": PIPE}, ValueError),
        ({"text": True, "universal_newlines": False}, subprocess.SubprocessError),
        ({"input": "text"}, TypeError),
        ({"no_such_option": 1}, TypeError),
        ({"preexec_fn": print}, agentcg.UnsupportedError),
        ({"restore_signals": False}, agentcg.UnsupportedError),
        ({"pipesize": 1 << 20}, agentcg.UnsupportedError),
        ({"creationflags": 8}, agentcg.UnsupportedError),
        ({"process_group": -2}, agentcg.LimitError),
        ({"pass_fds": (-1,)}, agentcg.LimitError),
        ({"queue_timeout": -1}, agentcg.LimitError),
        ({"timeout": -1}, agentcg.LimitError),
        ({"timeout": float("nan")}, agentcg.LimitError),
        ({"hint": "memory:huge"}, agentcg.LimitError),
        ({"memory_max": "12Q"}, agentcg.LimitError),
        ({"cpu_weight": 0}, agentcg.LimitError),
        ({"oom_score_adj": 2000}, agentcg.LimitError),
        ({"sample": 0}, agentcg.LimitError),
        ({"name": "a/b"}, agentcg.LimitError),
        ({"capture_limit": -1}, agentcg.LimitError),
        ({"umask": 0o7777}, agentcg.LimitError),
        ({"env": {"a=b": "c"}}, agentcg.LimitError),
        ({"user": "no-such-user"}, KeyError),
    ],
)
def test_bad_options(session: agentcg.Session, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        session.run(["true"], **options)
    assert running(session) == []
    assert session.run(["true"]).success


@pytest.mark.parametrize("args", [[], "", ["a\0b"], [""]])
def test_bad_arguments(session: agentcg.Session, args: Any) -> None:
    with pytest.raises(agentcg.LimitError):
        session.run(args)


def test_samples(session: agentcg.Session) -> None:
    found = session.run(["sleep", "0.3"], sample=0.05)
    assert len(found.timeline) >= 3
    assert found.timeline[-1].at_ms >= 200


def test_limits_of_the_session_and_of_its_calls(runtime: agentcg.Runtime) -> None:
    if not FOUND.supports("memory_controller"):
        with (
            runtime.session("a", call_limits={"memory_max": "64M"}) as session,
            pytest.raises(agentcg.UnsupportedError),
        ):
            session.run(["true"])
        return
    with runtime.session("a", memory_max="256M", call_limits={"memory_max": "64M"}) as session:
        read = "cat /sys/fs/cgroup/$(cut -d: -f3 /proc/self/cgroup)/memory.max"
        assert session.run(read, shell=True, stdout=PIPE).stdout == b"%d\n" % (64 << 20)
        assert session.run(read, shell=True, stdout=PIPE, memory_max="32M").stdout == b"%d\n" % (32 << 20)
        session.set_limits(memory_max="128M")
        assert (session.path / "memory.max").read_text() == f"{128 << 20}\n"
    with pytest.raises(TypeError):
        runtime.session("b", no_such=1)  # type: ignore[call-arg]


def test_observers(runtime: agentcg.Runtime, session: agentcg.Session, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[agentcg.ToolResult[Any]] = []

    def broken(result: agentcg.ToolResult[Any]) -> None:
        raise RuntimeError(result.call)

    runtime.observe(broken)
    runtime.observe(seen.append)
    found = session.run(["true"])
    with session.popen(["true"]) as call:
        pass
    assert [r.call for r in seen] == [found.call, call.name]
    assert "an observer of tool calls failed" in caplog.text


def test_many_threads(session: agentcg.Session) -> None:
    found: list[str] = []

    def work(n: int) -> None:
        for i in range(10):
            result = session.run(["echo", f"{n}-{i}"], stdout=PIPE, text=True)
            found.append(result.stdout.strip())

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(f"{n}-{i}" for n in range(8) for i in range(10))


def test_closing_the_session_ends_the_runs_of_other_threads(runtime: agentcg.Runtime) -> None:
    session = runtime.session("a")
    found: list[agentcg.ToolResult[Any]] = []
    threads = [threading.Thread(target=lambda: found.append(session.run(["sleep", "1000"]))) for _ in range(4)]
    for thread in threads:
        thread.start()
    while len(running(session)) < len(threads):
        time.sleep(0.01)
    path = session.path
    session.close()
    for thread in threads:
        thread.join(10)
    assert [r.verdict for r in found] == [Verdict.CANCELLED] * 4
    assert not path.exists()
    with pytest.raises(agentcg.AgentcgError, match="closed"):
        session.run(["true"])


def test_an_exception_in_a_signal_handler_ends_the_call(session: agentcg.Session) -> None:
    class AlarmError(Exception):
        pass

    def ring(*_: object) -> None:
        raise AlarmError

    def ring_in(seconds: float) -> None:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        session.run(["sleep", "1000"])

    session.run(["true"])
    before = signal.signal(signal.SIGALRM, ring)
    try:
        for seconds in (0.3, 0.0005):
            since = time.monotonic()
            with pytest.raises(AlarmError):
                ring_in(seconds)
            assert time.monotonic() - since < 10
    finally:
        signal.signal(signal.SIGALRM, before)
    assert running(session) == []


def test_a_signal_handler_that_returns_changes_nothing(session: agentcg.Session) -> None:
    rung: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _: rung.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
        assert session.run(["sleep", "0.5"]).success
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(rung) >= 3


def test_memory_auto_learns(session: agentcg.Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    for _ in range(2):
        assert session.run(["true"], hint="memory:auto").success
    learned = (tmp_path / "agentcg/history.json").exists()
    assert learned == FOUND.supports("memory_peak")
