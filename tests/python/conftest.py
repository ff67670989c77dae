"""Fixtures of the Python tests: a runtime on a root of their own, and what this machine can do."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import agentcg
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FOUND = agentcg.capabilities()
EVENTS = FOUND.supports("process_events") and FOUND.supports("cgroup_create")

needs_cgroups = pytest.mark.skipif(
    not FOUND.supports("cgroup_create"), reason="needs root and cgroup v2 (capability cgroup_create)"
)
needs_events = pytest.mark.skipif(not EVENTS, reason="needs root and BPF (capability process_events)")


def running(session: agentcg.Session) -> list[Path]:
    """The calls that have processes; the cgroup of the next call may be there already."""
    return [e.parent for e in session.path.glob("calls/*/cgroup.events") if "populated 1" in e.read_text()]


@pytest.fixture
def root() -> str:
    """A cgroup that does not exist, below the cgroup v2 mount."""
    mount = FOUND.get("cgroup2")
    assert mount is not None
    return f"{mount.detail}/agentcg-test-{os.getpid()}"


@pytest.fixture
def runtime(root: str) -> Iterator[agentcg.Runtime]:
    """A runtime that owns the root."""
    with agentcg.Runtime(root) as runtime:
        yield runtime


@pytest.fixture
def session(runtime: agentcg.Runtime) -> agentcg.Session:
    """A session of the runtime."""
    return runtime.session("agent")


@pytest.fixture
def repository(request: pytest.FixtureRequest) -> Path:
    """The root of the repository."""
    return request.config.rootpath
