"""Builds the C tests as C99, as C++11 and statically, and runs them.

AGENTCG_C_BUILD names a directory that build.sh has filled already, for machines that cannot compile.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    given = os.environ.get("AGENTCG_C_BUILD")
    if given:
        return Path(given)
    directory = tmp_path_factory.mktemp("c")
    subprocess.run([HERE / "build.sh", directory], check=True)
    return directory


@pytest.fixture
def root() -> str:
    """A cgroup that does not exist, below the cgroup v2 mount."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with Path("/proc/self/mounts").open(encoding="utf-8") as mounts:
        mount = next((line.split()[1] for line in mounts if line.split()[2] == "cgroup2"), None)
    if mount is None:
        pytest.skip("needs cgroup v2")
    return f"{mount}/agentcg-c-{os.getpid()}"


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, check=False, stdout=subprocess.PIPE, text=True, timeout=60, env={**os.environ, **environment}
    )


def test_the_whole_interface(built: Path, root: str) -> None:
    assert run(built / "capi", root).returncode == 0


@pytest.mark.parametrize("program", ["version-c++", "version-static"])
def test_other_ways_to_build(built: Path, program: str) -> None:
    done = run(built / program)
    assert done.returncode == 0
    assert done.stdout.count(".") == 2


def test_the_example_prints_events(built: Path, root: str) -> None:
    done = run(built / "events", "sh", "-c", "exit 3", AGENTCG_ROOT=root)
    assert done.returncode == 3
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [e["event"] for e in events if e["event"] in {"EXEC", "EXIT"}] == ["EXEC", "EXIT"]
    assert events[-1]["exit_code"] == 3
