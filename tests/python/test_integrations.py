"""The integrations, with the packages that they are for."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import agentcg
import pytest
from agentcg.integrations.logs import JsonlObserver, LoggingObserver
from conftest import FOUND, needs_cgroups
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = needs_cgroups
MEMORY = FOUND.supports("memory_controller")
os.environ.setdefault("MSWEA_SILENT_STARTUP", "1")


def test_logging(runtime: agentcg.Runtime, session: agentcg.Session, caplog: pytest.LogCaptureFixture) -> None:
    runtime.observe(LoggingObserver())
    with caplog.at_level(logging.INFO, "agentcg.calls"):
        session.run(["sh", "-c", "exit 3"], name="one")
        session.run(["sleep", "100"], timeout=0.05)
    first, second = caplog.records
    assert first.getMessage().startswith("agent/one failed, status 3, after 0.")
    assert "sh -c 'exit 3'" in first.getMessage()
    assert (first.levelno, second.levelno) == (logging.INFO, logging.WARNING)
    assert "timed_out" in second.getMessage()
    assert vars(first)["agentcg"]["exit_code"] == 3


def _write(root: str, path: str) -> None:
    with agentcg.Runtime(root, shared=True) as runtime, runtime.session(f"s{os.getpid()}") as session:
        runtime.observe(JsonlObserver(path))
        for _ in range(20):
            session.run(["true", "x" * 5000])


def test_jsonl_by_many_processes(root: str, tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=_write, args=(root, str(path))) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    outcomes = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(outcomes) == 80
    assert {o["verdict"] for o in outcomes} == {"completed"}


def test_jsonl_is_read_by_the_report(runtime: agentcg.Runtime, session: agentcg.Session, tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    runtime.observe(JsonlObserver(path))
    session.run(["true"])
    done = subprocess.run([sys.executable, "-m", "agentcg", "report", path, "--json"], capture_output=True, check=True)
    assert json.loads(done.stdout)["calls"] == 1


@pytest.mark.parametrize("arguments", [False, True])
def test_spans(runtime: agentcg.Runtime, session: agentcg.Session, arguments: bool) -> None:
    from agentcg.integrations.opentelemetry import SpanObserver  # noqa: PLC0415

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    runtime.observe(SpanObserver(provider, arguments=arguments))
    with provider.get_tracer("test").start_as_current_span("agent") as agent:
        session.run(["/bin/sh", "-c", "sleep 0.1"], name="good", hint="time:9s")
        session.run(["sleep", "100"], timeout=0.05)
    good, late, _ = exporter.get_finished_spans()
    assert (good.name, late.name) == ("execute_tool sh", "execute_tool sleep")
    assert good.parent is not None
    assert good.parent.span_id == agent.get_span_context().span_id
    attributes = dict(good.attributes or {})
    assert attributes["gen_ai.operation.name"] == "execute_tool"
    assert attributes["gen_ai.tool.name"] == "sh"
    assert attributes["gen_ai.tool.call.id"] == "good"
    assert (attributes["agentcg.session"], attributes["agentcg.verdict"]) == ("agent", "completed")
    assert (attributes["process.exit.code"], attributes["agentcg.hint"]) == (0, "time:9s")
    assert isinstance(attributes["agentcg.usage.cpu_user_us"], int)
    assert ("gen_ai.tool.call.arguments" in attributes) == arguments
    assert good.start_time is not None
    assert good.end_time is not None
    assert 0.1e9 <= good.end_time - good.start_time < 60e9
    assert (good.status.status_code, late.status.status_code) == (StatusCode.UNSET, StatusCode.ERROR)
    assert (late.attributes or {})["error.type"] == "timed_out"


def test_mini_swe_agent_on_a_repository(root: str, tmp_path: Path) -> None:
    """Its agent and its deterministic model repair a program: look, edit, test, commit, submit."""
    from agentcg.integrations.minisweagent import AgentcgEnvironment  # noqa: PLC0415
    from minisweagent.agents.default import DefaultAgent  # noqa: PLC0415
    from minisweagent.models.test_models import DeterministicModel, make_output  # noqa: PLC0415

    (tmp_path / "add.py").write_text("def add(a, b):\n    return a - b\n")
    (tmp_path / "test_add.py").write_text("from add import add\nassert add(2, 3) == 5\n")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["git", "init", "-q"], ["git", "add", "."], [*git, "commit", "-qm", "one"]):
        subprocess.run(command, cwd=tmp_path, check=True)
    commands = [
        "git log --oneline && cat add.py",
        "python3 test_add.py",
        "sleep 100",
        "sed -i 's/a - b/a + b/' add.py && python3 test_add.py && echo passed",
        f"{' '.join(git)} commit -qam two",
        "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT && git diff HEAD~1",
    ]
    outputs = [make_output(f"step {n}", [{"command": command}]) for n, command in enumerate(commands)]
    with AgentcgEnvironment(root=root, session="mini", cwd=str(tmp_path), timeout=2, pids_max=None) as environment:
        agent = DefaultAgent(
            DeterministicModel(outputs=outputs),  # type: ignore[no-untyped-call]
            environment,
            system_template="You repair programs.",
            instance_template="{{task}}",
            cost_limit=0,
        )
        ended = agent.run("make the test pass")
        assert environment.serialize()["info"]["config"]["environment_type"].endswith("AgentcgEnvironment")
    assert ended["exit_status"] == "Submitted"
    assert "+    return a + b" in ended["submission"]
    said = [str(message["content"]) for message in agent.messages]
    assert any("AssertionError" in text for text in said)
    assert any("passed" in text for text in said)
    # What subprocess could not have told it.
    assert any("<exception>timed_out: It was stopped after its timeout" in text for text in said)
    outcomes = [message["extra"] for message in agent.messages if "extra" in message]
    assert "oom_kills" in json.dumps(outcomes) or not MEMORY
    log = subprocess.run(["git", "log", "--oneline"], cwd=tmp_path, check=True, stdout=-1, text=True).stdout
    assert [line.split()[1] for line in log.splitlines()] == ["two", "one"]


TESTS = """
import os, subprocess, sys
import pytest

@pytest.fixture(scope="module")
def shared():
    yield os.getpid()

def test_good(shared):
    assert shared == os.getpid()

def test_bad():
    print("said")
    assert 1 == 2

@pytest.mark.skip(reason="why")
def test_skipped(): pass

@pytest.mark.xfail
def test_expected(): assert False

def test_killed():
    os.kill(os.getpid(), 9)

def test_leaves_something():
    print(subprocess.Popen(["sleep", "1000"]).pid)
    assert open("/proc/self/cgroup").read().count("pytest-") == 1

class TestHungry:
    @pytest.mark.agentcg(LIMIT)
    def test_hungry(self):
        subprocess.run([sys.executable, "-c", "x = bytearray(200 << 20)"], check=False)
"""


def pytest_in(directory: Path, root: str, *options: str) -> subprocess.CompletedProcess[str]:
    limit = 'memory_max="48M", swap_max=0' if MEMORY else ""
    (directory / "test_it.py").write_text(TESTS.replace("LIMIT", limit))
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", *options]
    environment = {**os.environ, "AGENTCG_ROOT": root}
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)


def test_the_pytest_plugin(root: str, tmp_path: Path) -> None:
    done = pytest_in(tmp_path, root, "--agentcg", f"--junitxml={tmp_path}/out.xml")
    out = done.stdout
    assert done.returncode == 1, out + done.stderr
    assert "test_it.py::test_killed" in out
    assert "signal 9 ended the test's process" in out
    assert "assert 1 == 2" in out
    if MEMORY:
        assert "2 passed" in out
        assert "the OOM killer ended the test or a process of it: its memory_max of 48M was used up" in out
        assert "tests by memory" in out
    else:
        assert "3 passed" in out
        assert "no memory controller" in out
    assert "1 skipped" in out
    assert "1 xfailed" in out
    summary = out[out.index("agentcg: tests by") :]
    assert "MiB" in summary
    assert "test_it.py::TestHungry::test_hungry" in summary.splitlines()[1]
    assert 'name="memory_peak_bytes"' in (tmp_path / "out.xml").read_text()
    assert not os.path.exists(root)  # noqa: PTH110


def test_the_pytest_plugin_when_it_is_not_asked_for(root: str, tmp_path: Path) -> None:
    done = pytest_in(tmp_path, root, "-k", "good or bad")
    assert "1 failed, 1 passed" in done.stdout
    assert "agentcg: tests by" not in done.stdout


def test_the_pytest_plugin_with_a_limit_that_cannot_be(root: str, tmp_path: Path) -> None:
    done = pytest_in(tmp_path, root, "--agentcg", "--agentcg-memory", "lots")
    assert done.returncode == 4
    assert "--agentcg: " in done.stderr
    assert "lots" in done.stderr
    assert not os.path.exists(root)  # noqa: PTH110


def test_observers_get_what_anybody_ran(runtime: agentcg.Runtime, session: agentcg.Session) -> None:
    seen: list[agentcg.ToolResult[Any]] = []
    runtime.observe(seen.append)
    runtime.session("other").run(["true"])
    session.run(["true"])
    assert [result.session for result in seen] == ["other", "agent"]
