"""Forked children, the end of Python, Ctrl-C, other interpreters: no hang, no crash, nothing left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import agentcg
import pytest
from conftest import FOUND, needs_cgroups

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = needs_cgroups


def in_child(work: Callable[[], object]) -> int:
    """Fork, do it in the child, and give its exit status."""
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            work()
            status = 0
        except BaseException as e:  # noqa: BLE001
            print(repr(e), file=sys.stderr)
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def start(program: str, root: str) -> subprocess.Popen[str]:
    # Whoever started the tests may ignore SIGINT, and then so would the program.
    program = "import signal; signal.signal(2, signal.default_int_handler)\n" + program
    command = [sys.executable, "-c", program, root]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_forked_child_is_refused(runtime: agentcg.Runtime, session: agentcg.Session) -> None:
    call = session.popen(["sleep", "1000"])

    def child() -> None:
        for use in (
            lambda: runtime.session("b"),
            lambda: session.run(["true"]),
            lambda: session.popen(["true"]),
            lambda: session.usage(),
            lambda: call.send_signal(15),
            lambda: call._native.finish(),  # noqa: SLF001
        ):
            with pytest.raises(agentcg.AgentcgError) as raised:
                use()
            assert raised.value.kind == "forked", raised.value
        # Nothing of it may touch what is the parent's.
        call.kill()
        call.cancel()
        session.close()
        runtime.close()

    assert in_child(child) == 0
    assert call.poll() is None
    assert session.path.exists()
    assert session.run(["true"]).success
    call.close()


def test_a_forked_child_that_ends_as_usual_undoes_nothing(runtime: agentcg.Runtime) -> None:
    program = """
import agentcg, os, sys
runtime = agentcg.Runtime(sys.argv[1])
session = runtime.session("a")
call = session.popen(["sleep", "1000"])
if os.fork() == 0:
    sys.exit(0)  # atexit, destructors and all
status = os.waitstatus_to_exitcode(os.wait()[1])
print(status, call.poll(), session.run(["true"]).returncode)
runtime.close()
print(os.path.exists(sys.argv[1]))
"""
    done = start(program, f"{runtime.root}-forked")
    out, err = done.communicate(timeout=60)
    assert (out, err) == ("0 None 0\nFalse\n", "")


def test_a_runtime_of_its_own_in_a_forked_child(runtime: agentcg.Runtime, session: agentcg.Session) -> None:
    path = f"{runtime.root}-child"

    def child() -> None:
        with agentcg.Runtime(path) as own, own.session("a") as inner:
            assert inner.run(["true"]).success

    session.run(["true"])
    assert in_child(child) == 0


def test_protection_survives_a_forked_child(runtime: agentcg.Runtime) -> None:
    if FOUND.backends.memory is None:
        with pytest.raises(agentcg.UnsupportedError):
            runtime.attach_memcg_ops([runtime.session("high")])
        return
    protection = runtime.attach_memcg_ops([runtime.session("high")], [runtime.session("low")])
    assert in_child(protection.close) == 0
    assert protection.stats().windows == 0
    protection.close()


@pytest.mark.parametrize("_again", range(3))  # the threads race with the end
def test_python_ends_with_calls_running(runtime: agentcg.Runtime, _again: int) -> None:
    program = """
import agentcg, sys, threading, time
runtime = agentcg.Runtime(sys.argv[1])
session = runtime.session("a")
call = session.popen("trap '' TERM; sleep 1000", shell=True)
threading.Thread(target=lambda: session.run(["sleep", "1000"]), daemon=True).start()
while sum("populated 1" in e.read_text() for e in session.path.glob("calls/*/cgroup.events")) < 2: time.sleep(0.01)
print(call.pid)
"""
    root = f"{runtime.root}-ends"
    done = start(program, root)
    out, err = done.communicate(timeout=60)
    assert (err, done.returncode) == ("", 0)
    assert not Path(root).exists()
    assert not Path(f"/proc/{int(out)}").exists()


@pytest.mark.parametrize("how", ["run", "popen", "run_async"])
def test_ctrl_c(runtime: agentcg.Runtime, how: str) -> None:
    program = f"""
import agentcg, asyncio, sys, time
with agentcg.Runtime(sys.argv[1]) as runtime, runtime.session("a") as session:
    command = "trap '' TERM; echo $$; exec sleep 1000"
    try:
        if {how!r} == "run":
            session.run(command, shell=True)
        elif {how!r} == "popen":
            with session.popen(command, shell=True) as call:
                call.wait()
        else:
            asyncio.run(session.run_async(command, shell=True))
    except KeyboardInterrupt:
        events = session.path.glob("calls/*/cgroup.events")
        print("interrupted", [e.parent.name for e in events if "populated 1" in e.read_text()])
"""
    root = f"{runtime.root}-interrupted"
    with start(program, root) as harness:
        assert harness.stdout is not None
        tool = int(harness.stdout.readline())
        since = time.monotonic()
        harness.send_signal(signal.SIGINT)
        out, err = harness.communicate(timeout=60)
    assert (out, err) == ("interrupted []\n", "")
    assert time.monotonic() - since < 10
    assert not Path(f"/proc/{tool}").exists()
    assert not Path(root).exists()


def test_other_interpreters_are_refused_cleanly() -> None:
    program = """
import agentcg
agentcg.capabilities
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
other = interpreters.create()
try:
    failed = interpreters.run_string(other, "import agentcg; agentcg.capabilities")
except Exception as e:
    failed = e
assert failed is not None
print(failed)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "ImportError" in done.stdout
    assert "interpreter" in done.stdout


def test_the_command_line(root: str) -> None:
    def cli(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "agentcg", *args], capture_output=True, text=True, check=False)

    assert cli("--version").stdout == f"agentcg {agentcg.__version__}\n"
    assert cli("no-such-command").returncode == 2
    done = cli("run", "--root", root, "--", "sh", "-c", "echo out; exit 7")
    assert (done.stdout, done.returncode) == ("out\n", 7)
    assert cli("run", "--root", root, "--", "no-such-program").returncode == 127
    assert '"kernel"' in cli("doctor", "--json").stdout
