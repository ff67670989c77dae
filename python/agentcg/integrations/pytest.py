"""The pytest plugin: ``pytest --agentcg`` runs each test in a process and a cgroup of its own.

Whatever a test starts is measured and limited with it. At the end the tests that took most are listed; a test that the
OOM killer ended is a failure that says so, by which limit. ``--agentcg-memory``, ``--agentcg-pids`` and
``--agentcg-cpu`` set limits for every test, the marker ``@pytest.mark.agentcg(memory_max="512M")`` for one.

Each test runs in a fork of the pytest process, with its set-up and tear-down: fixtures of a wider scope are made anew
for each test, as with pytest-forked.
"""

from __future__ import annotations

import itertools
import os
import pickle
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, cast

import pytest
from _pytest.runner import runtestprotocol

from agentcg._capabilities import capabilities
from agentcg._errors import AgentcgError
from agentcg._runtime import Runtime

if TYPE_CHECKING:
    from agentcg._session import Session
    from agentcg._usage import Usage

_NAME = "agentcg"
_SHOWN = 10
"""So many tests are listed at the end."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add our options."""
    group = parser.getgroup(_NAME, "limit and measure each test's processes")
    group.addoption("--agentcg", action="store_true", help="run each test in a process and a cgroup of its own")
    group.addoption("--agentcg-memory", metavar="SIZE", help="most memory of a test: 512M")
    group.addoption("--agentcg-pids", metavar="N", type=int, help="most processes and threads of a test")
    group.addoption("--agentcg-cpu", metavar="CORES", type=float, help="most CPU time of a test: 1.5")


def pytest_configure(config: pytest.Config) -> None:
    """Start when asked for."""
    config.addinivalue_line(
        "markers", "agentcg(memory_max=None, pids_max=None, cpu_max=None): limits of this test, with --agentcg"
    )
    if not config.getoption("--agentcg"):
        return
    try:
        config.pluginmanager.register(Plugin(config), f"{_NAME}-tests")
    except AgentcgError as e:
        raise pytest.UsageError(f"--agentcg: {e}") from e


class Plugin:
    """A runtime, and what the tests took."""

    def __init__(self, config: pytest.Config) -> None:
        """Take the runtime; it is shared with other pytest processes."""
        self._limits = {
            "memory_max": config.getoption("--agentcg-memory"),
            "pids_max": config.getoption("--agentcg-pids"),
            "cpu_max": config.getoption("--agentcg-cpu"),
        }
        self._runtime = Runtime(os.environ.get("AGENTCG_ROOT"), shared=True)
        self._numbers = itertools.count(1)
        self._process = os.getpid()
        with self._runtime.session(self._session_name(), **self._limits):
            pass  # limits that cannot be had are said now and not by the first test
        self._peaks: list[tuple[int, float, str]] = []
        found = capabilities().get("memory_controller")
        self._memory = found is not None and found.supported

    def _session_name(self) -> str:
        return f"pytest-{self._process}-{next(self._numbers)}"

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool:  # noqa: ARG002
        """Run one test in a child."""
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._run(item):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def _run(self, item: pytest.Item) -> list[pytest.TestReport]:
        limits = dict(self._limits)
        marker = item.get_closest_marker(_NAME)
        if marker is not None:
            limits.update(marker.kwargs)
        try:
            session = self._runtime.session(self._session_name(), **limits)
        except (AgentcgError, TypeError) as e:
            return [_failure(item, f"limits of the test: {e}")]
        with session:
            reports, status, max_rss = _in_child(item, session)
            usage = session.usage()
            session.kill()  # what the test has left running
        peak = usage.memory_peak_bytes if usage.memory_peak_bytes is not None else max_rss
        cpu = ((usage.cpu_user_us or 0) + (usage.cpu_system_us or 0)) / 1e6
        self._peaks.append((peak, cpu, item.nodeid))
        how = _ended(usage, limits, status)
        if how is not None and not any(r.failed for r in reports):
            reports = [r for r in reports if r.when == "setup"]
            reports.append(_failure(item, how))
        elif how is not None and usage.oom_kills:
            for report in reports:
                if report.failed:
                    report.sections.append((_NAME, how))
        for report in reports:
            report.user_properties += [("memory_peak_bytes", peak), ("cpu_s", cpu)]
        return reports

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """List the tests that took most."""
        if not self._peaks:
            return
        what = "memory" if self._memory else "largest resident set (no memory controller)"
        terminalreporter.section(f"agentcg: tests by {what}")
        for peak, cpu, test in sorted(self._peaks, reverse=True)[:_SHOWN]:
            terminalreporter.line(f"{peak / (1 << 20):8.1f} MiB  {cpu:8.2f} s CPU  {test}")

    def pytest_unconfigure(self) -> None:
        """Give the runtime back."""
        self._runtime.close()


def _in_child(item: pytest.Item, session: Session) -> tuple[list[pytest.TestReport], int, int]:
    """Run the test in a fork; give its reports, its wait status and its largest resident set, bytes."""
    read, write = os.pipe()
    start_read, start_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(start_write)
            os.read(start_read, 1)  # until we are in the session
            reports = runtestprotocol(item, log=False)
            with os.fdopen(write, "wb") as out:
                serialized = [
                    item.config.hook.pytest_report_to_serializable(config=item.config, report=r) for r in reports
                ]
                pickle.dump(serialized, out)
            status = 0
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    os.close(write)
    os.close(start_read)
    try:
        session.move_pid(pid)
        os.close(start_write)
        with os.fdopen(read, "rb") as got:
            data = got.read()
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        _, status, usage = os.wait4(pid, 0)
    reports = []
    if data:
        for one in pickle.loads(data):  # noqa: S301 - our own child's
            reports.append(item.config.hook.pytest_report_from_serializable(config=item.config, data=one))
    return reports, status, usage.ru_maxrss << 10


def _ended(usage: Usage, limits: dict[str, Any], status: int) -> str | None:
    """Say what ended a test that did not end by itself."""
    if usage.oom_kills:
        limit = limits.get("memory_max")
        by = f"its memory_max of {limit}" if limit is not None else "the memory of the machine, or of a cgroup above"
        peak = f"; its peak was {usage.memory_peak_bytes / (1 << 20):.1f} MiB" if usage.memory_peak_bytes else ""
        return f"the OOM killer ended the test or a process of it: {by} was used up{peak}"
    if os.WIFSIGNALED(status):
        return f"signal {os.WTERMSIG(status)} ended the test's process"
    if status != 0:
        return f"the test's process ended with status {os.waitstatus_to_exitcode(status)}"
    return None


def _failure(item: pytest.Item, text: str) -> pytest.TestReport:
    now = time.time()
    return pytest.TestReport(
        nodeid=item.nodeid,
        location=item.location,
        keywords=dict.fromkeys(item.keywords, 1),
        outcome="failed",
        longrepr=cast("Any", text),
        when="call",
        start=now,
        stop=now,
    )
