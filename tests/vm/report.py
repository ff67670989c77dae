"""Test results: of one kernel as a JSON file, of several as a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cache import LabError

OK, FAILED, SKIPPED = "ok", "FAILED", "skipped"
SCHEMA = 1


@dataclass
class Test:
    """What came of one test."""

    binary: str
    name: str
    status: str
    seconds: float
    reason: str = ""
    output: str = ""

    @property
    def title(self) -> str:
        """The name across all test programs."""
        return f"{self.binary}::{self.name}"

    def at_second(self) -> bool:
        """Whether it needed a second try; the reason says what went wrong at first."""
        return self.status == OK and bool(self.reason)


@dataclass
class Binary:
    """What came of one test program; no exit status when it did not end, a problem when its tests do not tell it."""

    name: str
    exit_status: int | None = None
    problem: str = ""


@dataclass
class Report:
    """The results on one kernel."""

    kernel: str
    seconds: float
    binaries: list[Binary]
    tests: list[Test]

    def count(self, status: str) -> int:
        """How many tests have this status."""
        return sum(test.status == status for test in self.tests)

    def good(self) -> bool:
        """Whether every test program succeeded and at least one test passed."""
        return self.count(OK) > 0 and all(binary.exit_status == 0 and not binary.problem for binary in self.binaries)

    def summary(self) -> str:
        """The totals in one line."""
        return f"{self.count(OK)} passed, {self.count(FAILED)} failed, {self.count(SKIPPED)} skipped"

    def print_failures(self) -> None:
        """What the failed tests and programs said."""
        for test in self.tests:
            if test.status == FAILED:
                print(f"\n---- {self.kernel} {test.title} ----\n{test.output or 'no output'}")
        for binary in self.binaries:
            if binary.problem:
                print(f"\n---- {self.kernel} {binary.name} ----\n{binary.problem}")

    def write(self, path: Path) -> None:
        """Save as JSON."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1) + "\n")
        except OSError as error:
            raise LabError(f"--report: {error}") from None

    @classmethod
    def read(cls, path: Path) -> Report:
        """Load what `write` saved."""
        try:
            data = json.loads(path.read_text())
            binaries = [Binary(**binary) for binary in data["binaries"]]
            return cls(data["kernel"], data["seconds"], binaries, [Test(**test) for test in data["tests"]])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LabError(f"{path} is no report of `lab.py test --report`: {error}") from None


def summarise(paths: Sequence[Path]) -> int:
    """Print tests by kernels; 0 when no kernel has a failure and every test ran on some kernel."""
    reports = [Report.read(path) for path in paths]
    results = [{test.title: test.status for test in report.tests} for report in reports]
    titles = sorted({title for result in results for title in result})
    mark = {OK: "ok", FAILED: "FAILED"}
    width = max((len(title) for title in titles), default=0)
    columns = [max(len(report.kernel), len(FAILED)) for report in reports]

    def row(title: str, cells: Sequence[str]) -> str:
        padded = [f"{cell:<{column}}" for cell, column in zip(cells, columns)]
        return "  ".join([f"{title:<{width}}", *padded]).rstrip()

    print(row("", [report.kernel for report in reports]))
    for title in titles:
        print(row(title, [mark.get(result.get(title, ""), "-") for result in results]))
    bad = [report.kernel for report in reports if not report.good()]
    nowhere = [title for title in titles if not any(result.get(title) in mark for result in results)]
    for title in nowhere:
        print(f"skipped on every kernel: {title}")
    for report in reports:
        report.print_failures()
    for report in reports:
        for test in filter(Test.at_second, report.tests):
            print(f"SECOND TRY {report.kernel} {test.title}: {test.reason}")
        for test in report.tests:
            if test.status == FAILED:
                print(f"FAILED {report.kernel} {test.title}: {' | '.join(test.output.splitlines())}")
    passed, failed = (sum(report.count(which) for report in reports) for which in (OK, FAILED))
    if bad:
        print(f"not good on {', '.join(bad)}")
    # A test that ran on one kernel was not skipped, whatever the others lack.
    print(f"{passed} passed, {failed} failed, {len(nowhere)} skipped")
    return 1 if bad or nowhere else 0
