from __future__ import annotations

import os
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
