"""Runs the Go tests and examples as they are built, and compares the languages.

AGENTCG_C_BUILD names the directory where scripts/test.sh puts them; machines of the lab cannot compile.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = ("cgroup_root",)
BUILT = Path(os.environ.get("AGENTCG_C_BUILD", "target/c")).absolute()
REPOSITORY = Path(__file__).parents[2]
AGENTCG = REPOSITORY / "target/debug/agentcg"


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, **environment},
        cwd=REPOSITORY / "go/agentcg",
    )


def test_the_package() -> None:
    done = run(BUILT / "go-test", "-test.v")
    assert done.returncode == 0, done.stdout
    assert "--- PASS: ExampleSession_Command" in done.stdout


def test_the_example_selects_events(root: str) -> None:
    done = run(BUILT / "go-events", "sh", "-c", "exit 3", AGENTCG_ROOT=root)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^\d+ runs sh -c exit 3$", done.stdout, re.MULTILINE)
    assert re.search(r"^\d+ ends after \d+ ms$", done.stdout, re.MULTILINE)
    assert "agentcg: failed: exit status 3" in done.stdout


@pytest.fixture
def scheduler(root: str) -> Iterator[None]:
    """The sched_ext scheduler, attached."""
    if "memory" not in (Path(root).parent / "cgroup.controllers").read_text().split():
        pytest.skip("needs the memory controller")
    state = Path("/sys/kernel/sched_ext/state")
    if not state.exists():
        pytest.skip("needs sched_ext")
    with subprocess.Popen([AGENTCG, "scheduler", "-i", "1"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert state.read_text() == "enabled\n"
        yield
        process.terminate()


def outcome(report: Path) -> dict[str, Any]:
    """An outcome without what differs from run to run: times, names that are made up, amounts."""
    outcome: dict[str, Any] = json.loads(report.read_text())
    text = json.dumps({**outcome, "started_at": 0, "duration_ms": 0, "usage": {}})
    text = text.replace(outcome["call"], "CALL").replace(f"pid {outcome['cause']['victim']['pid']}", "pid PID")
    outcome = {**json.loads(text), "usage": sorted(outcome["usage"])}
    outcome["cause"]["victim"]["pid"] = 0
    return outcome


@pytest.mark.usefixtures("scheduler")
def test_all_print_the_same_outcome(root: str, tmp_path: Path) -> None:
    """A call that the OOM killer takes, under the scheduler, from C, from Go and from the command line."""
    command = ["tail", "/dev/zero"]
    environment = {"AGENTCG_ROOT": root}
    outcomes = []
    cli: list[str | Path] = [AGENTCG, "run", "--session", "example", "--memory-max", "24M"]
    programs: list[list[str | Path]] = [
        [BUILT / "run", "24M"],
        [BUILT / "go-run", "24M"],
        [*cli, "--report", tmp_path / "2", "--"],
    ]
    for number, program in enumerate(programs):
        run(*program, *command, REPORT=str(tmp_path / str(number)), **environment)
        outcomes.append(outcome(tmp_path / str(number)))
    assert outcomes[0]["verdict"] == "oom_killed"
    assert outcomes[0]["cause"]["limit_bytes"] == 24 << 20
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert "memory_peak_bytes" in outcomes[0]["usage"]
