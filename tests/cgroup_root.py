"""A place for the cgroups of one test, for tests that do not have agentcg itself to ask."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture
def root() -> str:
    """A cgroup that does not exist, below the cgroup v2 mount."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with Path("/proc/self/mounts").open(encoding="utf-8") as mounts:
        mount = next((line.split()[1] for line in mounts if line.split()[2] == "cgroup2"), None)
    if mount is None:
        pytest.skip("needs cgroup v2")
    return f"{mount}/agentcg-bindings-{os.getpid()}"
