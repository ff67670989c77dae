from __future__ import annotations

import gc
import os
import subprocess
from pathlib import Path
from typing import Any

import agentcg
import pytest
from conftest import FOUND, needs_cgroups

pytestmark = needs_cgroups
MEMORY = FOUND.supports("memory_controller")


def cgroup_of(pid: int) -> str:
    lines = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith("0::")).removeprefix("0::")


def test_a_session_is_a_cgroup_while_it_is_open(runtime: agentcg.Runtime, root: str) -> None:
    assert runtime.root == Path(root)
    with runtime.session("a", priority="high") as session:
        assert (session.name, session.path, session.priority) == ("a", Path(root, "a"), "high")
        assert session.path.is_dir()
    assert not session.path.exists()
    session.close()
    with pytest.raises(agentcg.AgentcgError, match="the session is closed") as closed:
        session.usage()
    assert closed.value.kind == "closed"


def test_a_dropped_session_is_closed(runtime: agentcg.Runtime) -> None:
    session = runtime.session("a")
    path = session.path
    del session
    gc.collect()
    assert not path.exists()


def test_the_runtime_closes_what_it_gave_out(root: str) -> None:
    with agentcg.Runtime(root) as runtime:
        session = runtime.session("a")
        assert session.path.is_dir()
    assert not Path(root).exists()
    with pytest.raises(agentcg.AgentcgError, match="the runtime is closed"):
        runtime.session("b")


def test_one_runtime_a_root(runtime: agentcg.Runtime) -> None:
    with pytest.raises(agentcg.AgentcgError) as busy:
        agentcg.Runtime(runtime.root)
    assert busy.value.kind == "busy"


def test_a_moved_process_and_its_children_are_inside_until_the_end(runtime: agentcg.Runtime) -> None:
    before = cgroup_of(os.getpid())
    with subprocess.Popen(["sh", "-c", "read go; sleep 100 & echo $!; wait"], stdin=-1, stdout=-1, text=True) as shell:
        assert shell.stdin is not None
        assert shell.stdout is not None
        with runtime.session("a") as session:
            runtime.move_pid(shell.pid, session)
            print("go", file=shell.stdin, flush=True)
            child = int(shell.stdout.readline())
            assert cgroup_of(shell.pid) == cgroup_of(child) != before
            assert cgroup_of(child).endswith("/a")
            usage = session.usage()
            assert usage.cpu_user_us is not None
            assert (usage.memory_current_bytes is None) == (not MEMORY) == ("memory_current_bytes" in usage.unavailable)
        assert cgroup_of(shell.pid) == before
        os.kill(child, 9)
        shell.kill()


@pytest.mark.parametrize("pid", [0, -1, 1 << 40, (1 << 31) - 1])
def test_a_pid_that_cannot_be(runtime: agentcg.Runtime, session: agentcg.Session, pid: int) -> None:
    with pytest.raises(agentcg.AgentcgError) as raised:
        runtime.move_pid(pid, session)
    assert raised.value.kind in {"invalid_input", "not_found"}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a/b", {}),
        ("..", {}),
        ("memory.max", {}),
        ("a", {"priority": "urgent"}),
        ("a", {"cpu_weight": 0}),
        ("a", {"cpu_weight": -5}),
        ("a", {"cpu_weight": 10_001}),
        ("a", {"cpu_max": -1.0}),
        ("a", {"memory_max": "12Q"}),
        ("a", {"memory_max": -1}),
        ("a", {"swap_max": ""}),
        ("a", {"pids_max": 1 << 70}),
    ],
)
def test_a_bad_value_is_named_and_leaves_nothing(runtime: agentcg.Runtime, name: str, options: dict[str, Any]) -> None:
    with pytest.raises(agentcg.LimitError) as raised:
        runtime.session(name, **options)
    value = str(next(iter(options.values()), name))
    assert value in str(raised.value)
    assert [p for p in runtime.root.iterdir() if p.is_dir()] == []


def test_limits_are_the_kernels_or_an_error(runtime: agentcg.Runtime) -> None:
    def make() -> agentcg.Session:
        return runtime.session("a", memory_low=4096, memory_max="64M", swap_max="max")

    if not MEMORY:
        with pytest.raises(agentcg.UnsupportedError, match="memory controller") as raised:
            make()
        assert raised.value.help is not None
        return
    with make() as session:
        read = {f: (session.path / f).read_text().strip() for f in ("memory.low", "memory.max", "memory.swap.max")}
        assert read == {"memory.low": "4096", "memory.max": str(64 << 20), "memory.swap.max": "max"}
        usage = session.usage()
        assert usage.oom_kills == 0


@pytest.mark.skipif(not FOUND.supports("cpu_controller"), reason="needs the cpu controller on cgroup v2")
def test_priority_is_a_weight(runtime: agentcg.Runtime) -> None:
    with runtime.session("h", "high") as high, runtime.session("l", "low", cpu_weight=7, cpu_max=1.5) as low:
        assert (high.path / "cpu.weight").read_text() == "150\n"
        assert (low.path / "cpu.weight").read_text() == "7\n"
        assert (low.path / "cpu.max").read_text() == "150000 100000\n"


def test_what_never_fits_is_refused(runtime: agentcg.Runtime) -> None:
    with pytest.raises(TypeError):
        runtime.session("a", capacity={"threads": 1})  # type: ignore[arg-type]
    with pytest.raises(agentcg.LimitError):
        runtime.session("a", capacity={"memory": "much"})
    with runtime.session("a", capacity={"memory": "1G", "cpus": 2.0, "calls": None}) as session:
        assert session.run(["true"]).success
        if not MEMORY:
            with pytest.raises(agentcg.UnsupportedError):
                session.run(["true"], memory_max="2G")
            return
        found = session.run(["true"], memory_max="2G")
        assert found.verdict is agentcg.Verdict.SPAWN_FAILED
        assert found.error is not None
        assert "the call needs 2 GiB of memory" in found.error
