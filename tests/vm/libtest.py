"""Run Rust test programs (libtest or libtest-mimic) in one guest and read what they print.

libtest's JSON output is not stable, so the text is read: a line `test NAME ... ` before each test, its result after
it, a `---- NAME ---- ` section for each failure at the end. What a test's children print directly may come between
a name and its result; the count in the program's last line shows whether all was understood.
"""

from __future__ import annotations

import re
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import guest
from cache import LabError
from kernels import Kernel
from report import FAILED, OK, SKIPPED, Binary, Report, Test

# Not something that a test prints by chance; the number is the program's index or its exit status.
MARK = "::agentcg-lab"
MARKED = re.compile(rf"(?P<before>.*){MARK} (?P<what>begin|end) (?P<number>\d+)$")
NAMED = re.compile(r"test +(?:\[[^]]*] +)?(?P<name>\S.*?)(?: - should panic.*?)?\s+\.\.\. (?P<rest>.*)")
RESULT = re.compile(r"(?P<result>ok|FAILED|ignored)(?:, (?P<reason>.*))?(?: <[\d.]+s>)?")
TOTAL = re.compile(r"test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored")
SECTION = re.compile(r"---- (?P<name>.+?)(?: stdout| stderr)? ----")
# What a test prints that fails and tries once more.
AT_FIRST = "at first: "
STATUS = {"ok": OK, "FAILED": FAILED, "ignored": SKIPPED}
# cargo adds a hash to the name of a test program.
HASH = re.compile(r"-[0-9a-f]{16}$")


class Program:
    """Follows the output of one test program: its tests, then its failures, then its total."""

    def __init__(self, name: str, on_test: Callable[[Test], object]) -> None:
        """`on_test` is called when the result of a test is known."""
        self.name = name
        self.tests: list[Test] = []
        self._on_test = on_test
        self._pending: str | None = None
        self._since: float | None = None
        self._noise: list[str] = []
        self._tests_done = False
        self._sections: dict[str, list[str]] = {}
        self._section: list[str] | None = None
        self._total: tuple[int, ...] | None = None

    def unfinished_line(self, line: str) -> None:
        """Note when a test starts: its name is printed first, the end of the line only with the result."""
        if self._pending is None and self._since is None and NAMED.match(line):
            self._since = time.monotonic()

    def line(self, line: str) -> None:
        """Take a line."""
        if self._tests_done:
            self._summary_line(line)
            return
        named = NAMED.match(line)
        if named:
            self._settle("the program went on without a result")
            self._pending, line = named["name"], named["rest"]
            self._since = self._since or time.monotonic()
        if self._pending is not None:
            result = RESULT.fullmatch(line)
            if result:
                self._finish(STATUS[result["result"]], result["reason"] or "")
            elif line:
                self._noise.append(line)
        elif line == "failures:" or TOTAL.match(line):
            self._tests_done = True
            self._summary_line(line)
        elif line and not line.startswith("running "):
            self._noise.append(line)

    def end(self, status: int | None, why: str) -> Binary:
        """The program ended with this exit status (None: it did not), because of `why`."""
        self._settle(f"{self.name} ended in this test: {why}")
        for test in self.tests:
            said = "\n".join(self._sections.get(test.name, [])).strip()
            test.output = "\n".join(filter(None, (test.output, said)))
        return Binary(self.name, status, "\n".join(filter(None, (self._problem(status, why), *self._noise))))

    def _problem(self, status: int | None, why: str) -> str:
        """What is wrong that no test tells; nothing but noise of the program is left to say when this is empty."""
        counted = tuple(sum(test.status == which for test in self.tests) for which in (OK, FAILED, SKIPPED))
        if self._total is None:
            problem = f"{self.name} did not finish: {why}"
        elif self._total != counted:
            problem = f"{self.name}: its output was not understood: {counted} tests read, {self._total} counted"
        elif status != 0 and not counted[1]:
            problem = f"{self.name}: {why}, though no test failed"
        else:
            self._noise.clear()
            problem = ""
        return problem

    def _settle(self, why: str) -> None:
        """Give the pending test a result: the one at the end of what its children printed, or a failure."""
        if self._pending is None:
            return
        last = self._noise[-1] if self._noise else ""
        for word, status in STATUS.items():
            if last.endswith(word):
                self._finish(status, "")
                return
        self._noise.append(why)
        self._finish(FAILED, "")

    def _finish(self, status: str, reason: str) -> None:
        assert self._pending is not None
        seconds = round(time.monotonic() - (self._since or time.monotonic()), 3)
        output = "\n".join(self._noise) if status == FAILED else ""
        if status == OK:
            reason = next((line for line in self._noise if line.startswith(AT_FIRST)), reason)
        test = Test(self.name, self._pending, status, seconds, reason, output)
        self._pending, self._since, self._noise = None, None, []
        self.tests.append(test)
        self._on_test(test)

    def _summary_line(self, line: str) -> None:
        total, section = TOTAL.match(line), SECTION.fullmatch(line)
        if total:
            self._total = tuple(map(int, total.groups()))
            self._section = None
        elif section:
            self._section = self._sections.setdefault(section["name"], [])
        elif line == "failures:":
            self._section = None
        elif self._section is not None:
            self._section.append(line)
        elif self._total and line:
            self._noise.append(line)


class Reader:
    """Splits the output of a guest into the programs that it ran."""

    def __init__(self, names: Sequence[str], on_test: Callable[[Test], object]) -> None:
        """`names` are the programs in the order of `guest_script`."""
        self._programs = [Program(name, on_test) for name in names]
        self._current: Program | None = None
        self._partial = b""
        self.binaries: list[Binary] = []

    @property
    def tests(self) -> list[Test]:
        """The tests so far."""
        return [test for program in self._programs for test in program.tests]

    def feed(self, data: bytes) -> None:
        """Take output as it comes."""
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            self._line(line.decode(errors="replace"))
        if self._current:
            self._current.unfinished_line(self._partial.decode(errors="replace"))

    def close(self, why: str) -> None:
        """The output ended; the programs that did not end failed because of `why`."""
        if self._partial:
            self.feed(b"\n")
        for program in self._programs[len(self.binaries) :]:
            self.binaries.append(program.end(None, why))

    def _line(self, line: str) -> None:
        marked = MARKED.match(line)
        if not marked:
            if self._current:
                self._current.line(line)
            return
        if self._current and marked["before"]:
            self._current.line(marked["before"])
        number = int(marked["number"])
        if marked["what"] == "begin":
            self._current = self._programs[number]
        elif self._current:
            self.binaries.append(self._current.end(number, f"exit status {number}"))
            self._current = None


def guest_script(binaries: Sequence[Path], test_filter: str | None) -> str:
    """The shell line that runs the test programs one after another and says where each begins and ends."""
    arguments = ["--test-threads=1", *([test_filter] if test_filter else [])]
    lines = []
    for index, binary in enumerate(binaries):
        lines += [f"echo {MARK} begin {index}", shlex.join([str(binary), *arguments]), f"echo {MARK} end $?"]
    return "\n".join(lines)


def run(
    kernel: Kernel, binaries: Sequence[Path], test_filter: str | None, machine: guest.Machine, file: Path | None
) -> int:
    """Run test programs in one guest; the result is the lab's exit status."""
    paths = [binary.resolve() for binary in binaries]
    for path in paths:
        if not path.is_file():
            raise LabError(f"no test program {path}: build it first")
    names = [HASH.sub("", path.name) for path in paths]

    def announce(test: Test) -> None:
        reason = f" ({test.reason})" if test.reason else ""
        print(f"{kernel.name}  {test.title}  {test.status}{reason}", flush=True)

    reader = Reader(names, announce)
    began = time.monotonic()
    try:
        status = guest.run(kernel, [guest_script(paths, test_filter)], machine, reader.feed)
        reader.close("timed out" if status == guest.TIMED_OUT else "the guest died")
    finally:
        result = Report(kernel.name, round(time.monotonic() - began, 1), reader.binaries, reader.tests)
        if file:
            result.write(file)
    result.print_failures()
    print(f"\n{result.kernel}: {result.summary()}", flush=True)
    if status in (guest.TIMED_OUT, guest.GUEST_DIED):
        return status
    if not result.count(OK):
        print(f"lab: {kernel.name}: no test passed, so nothing was tested", file=sys.stderr)
    return 0 if result.good() else 1
