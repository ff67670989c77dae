"""The two agents' work: a test suite and a build, over and over until they are stopped."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

# More than there are CPUs for both, so that a session always wants more than it gets.
PARTS = 4
JOBS = 4
PASSED = re.compile(r"(\d+) passed")
FAILED = re.compile(r"(\d+) (?:failed|error)")


def times(count: int) -> str:
    """In words."""
    return {0: "not once", 1: "once"}.get(count, f"{count} times")


def stop(process: subprocess.Popen[str]) -> None:
    """End a process and everything that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class Part:
    """Some files of the test suite, run again and again in a process of their own."""

    def __init__(self, files: list[Path], output: Path) -> None:
        """Start nothing yet."""
        self.files = files
        self.output = output
        self.process: subprocess.Popen[str] | None = None
        self.ends: list[tuple[int, int]] = []

    def collect(self) -> bool:
        """Note the result of a run that has ended. True: none is under way."""
        if self.process is None or self.process.poll() is None:
            return self.process is None
        text = self.output.read_text()
        passed, failed = ([int(n) for n in pattern.findall(text)] for pattern in (PASSED, FAILED))
        broken = int(self.process.returncode != 0 and not failed)
        self.ends.append((sum(passed[-1:]), sum(failed) + broken))
        self.process = None
        return True


class Suite:
    """A project's test suite, in several parts side by side."""

    def __init__(self, source: Path, directory: Path, command: str) -> None:
        """`command` is the name that the processes are to have."""
        self.name = source.name
        self.source = source
        self.program = directory / command
        self.program.symlink_to(Path(sys.executable).resolve())
        self.stopped = False
        # The largest first, each to the part that has least.
        parts: list[list[Path]] = [[] for _ in range(PARTS)]
        for file in sorted(source.rglob("test_*.py"), key=lambda f: -f.stat().st_size):
            min(parts, key=lambda p: sum(f.stat().st_size for f in p)).append(file)
        self.parts = [Part(files, directory / f"suite-{i}") for i, files in enumerate(parts)]

    def start(self) -> None:
        """Run every part that does not run."""
        environment = {
            **os.environ,
            # The program is not the virtual environment's own, for the sake of its name.
            "PYTHONPATH": os.pathsep.join([str(self.source), *(p for p in sys.path if p.endswith("-packages"))]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        }
        for part in self.parts:
            if part.process is not None:
                continue
            files = [str(file.relative_to(self.source)) for file in part.files]
            with part.output.open("w") as output:
                part.process = subprocess.Popen(
                    [self.program, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts=", *files],
                    cwd=self.source,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    text=True,
                    start_new_session=True,
                )

    def go_on(self) -> None:
        """Start anew what has ended."""
        for part in self.parts:
            part.collect()
        if not self.stopped:
            self.start()

    def complete(self) -> bool:
        """Every test has run at least once."""
        return all(part.ends for part in self.parts)

    def stop(self) -> None:
        """End what still runs; that does not count."""
        self.stopped = True
        for part in self.parts:
            if not part.collect() and part.process is not None:
                stop(part.process)
                part.process = None

    def result(self) -> str:
        """In words."""
        ends = [end for part in self.parts for end in part.ends]
        passed, failed = sum(p for p, _ in ends), sum(f for _, f in ends)
        rounds = min(len(part.ends) for part in self.parts)
        return f"{passed} tests passed, {failed} failed; the whole suite {times(rounds)}"


MAKEFILE = """\
sources := $(wildcard c/*/*.c)
objects := $(patsubst c/%.c,{objects}/%.o,$(sources))
all: $(objects)
{objects}/%.o: c/%.c
\tgcc -O2 -Ic/include -c $< -o $@
"""


class Build:
    """A C library, compiled with several jobs at once."""

    def __init__(self, source: Path, directory: Path, command: str) -> None:
        """`command` is the name that make is to have."""
        self.name = source.name
        self.source = source
        self.program = directory / command
        self.program.symlink_to(shutil.which("make") or "/usr/bin/make")
        self.objects = directory / "objects"
        self.makefile = directory / "Makefile"
        self.makefile.write_text(MAKEFILE.format(objects=self.objects))
        self.subdirectories = [entry.name for entry in (source / "c").iterdir() if entry.is_dir()]
        self.process: subprocess.Popen[str] | None = None
        self.compiled = 0
        self.rounds = 0
        self.stopped = False

    def start(self) -> None:
        """Compile everything from the beginning."""
        shutil.rmtree(self.objects, ignore_errors=True)
        for name in self.subdirectories:
            (self.objects / name).mkdir(parents=True)
        self.process = subprocess.Popen(
            [
                self.program,
                f"--directory={self.source}",
                "--silent",
                "--keep-going",
                f"--jobs={JOBS}",
                f"--file={self.makefile}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def _collect(self) -> None:
        self.compiled += sum(1 for _ in self.objects.rglob("*.o"))
        self.process = None

    def go_on(self) -> None:
        """Begin anew when all is compiled."""
        if self.process is not None and self.process.poll() is not None and not self.stopped:
            self.rounds += 1
            self._collect()
            self.start()

    def stop(self) -> None:
        """End it."""
        self.stopped = True
        if self.process is not None:
            stop(self.process)
            self._collect()

    def result(self) -> str:
        """In words."""
        return f"{self.compiled} files compiled" + (f"; all of it {times(self.rounds)}" if self.rounds else "")
