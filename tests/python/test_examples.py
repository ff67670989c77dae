from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

from conftest import needs_cgroups, needs_events

if TYPE_CHECKING:
    from pathlib import Path


def run(repository: Path, root: str, example: str) -> str:
    command = [sys.executable, str(repository / "examples" / example), "sh", "-c", "exit 3"]
    environment = {**os.environ, "AGENTCG_ROOT": root}
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True, env=environment)
    assert done.returncode == 3
    return done.stdout


@needs_events
def test_events(repository: Path, root: str) -> None:
    lines = run(repository, root, "events.py").splitlines()
    assert any(line.endswith("runs sh -c exit 3") for line in lines)
    assert "ends with status 3" in lines[-1]


@needs_cgroups
def test_session(repository: Path, root: str) -> None:
    assert "CPU: " in run(repository, root, "session.py")


def alone(repository: Path, root: str, *command: str) -> str:
    environment = {**os.environ, "AGENTCG_ROOT": root}
    example = [sys.executable, str(repository / "examples" / command[0]), *command[1:]]
    return subprocess.run(example, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout


@needs_cgroups
def test_an_agent_that_changes_its_plan(repository: Path, root: str) -> None:
    lines = alone(repository, root, "agent.py").splitlines()
    assert lines[0].startswith("attempt 1: timed_out, ")
    assert lines[1].startswith("attempt 2: completed, ")
    assert lines[2].startswith("'done', CPU ")


@needs_cgroups
def test_two_agents(repository: Path, root: str) -> None:
    lines = alone(repository, root, "two_agents.py").splitlines()[-2:]
    assert [line.split(":")[0] for line in lines] == ["urgent", "patient"]


BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


@needs_cgroups
def test_the_walk_through(repository: Path, root: str, tmp_path: Path) -> None:
    """Every piece of Python in docs/python.md runs, in its order, as one program."""
    blocks = BLOCK.findall((repository / "docs/python.md").read_text(encoding="utf-8"))
    assert len(blocks) >= 8
    program = "\n".join(blocks)
    (tmp_path / "walk.py").write_text(program, encoding="utf-8")
    environment = {**os.environ, "AGENTCG_ROOT": root}
    done = subprocess.run(
        [sys.executable, "walk.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not os.path.exists(root)  # noqa: PTH110
