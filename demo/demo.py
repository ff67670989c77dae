#!/usr/bin/env python3
"""Show the scheduler, memory protection and process events at work on two agent sessions.

Boots a virtual machine with kernel 7.3, starts agentcgroupd in it, runs the test suite of a Python project in the
session of high priority and a C build in the one of low priority, and prints what each of them got. With HOST=1 in
the environment it runs on this machine, when that has what is needed.

exit status: 0 the demo ran to its end; 1 it could not; 130 interrupted.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PROGRAMS = REPOSITORY / "target" / "debug"
# Real projects, small enough to see several rounds of their work in a minute of emulated time.
SUITE = "toolz==1.2.0"
BUILD = "brotli==1.2.1"
NEEDED = {
    "sched_ext": "the scheduler",
    "sched_ext_free": "the scheduler",
    "cpu_controller": "CPU weights",
    "memory_controller": "memory protection",
    "psi": "memory protection",
    "process_events": "process events",
}
# Less memory would be enough, but page cache of the emulated disk makes the start fast.
MACHINE = ("--kernel", "7.3", "--mem", "1G", "--swap", "1G", "--timeout", "175")
GUEST_DIED = 125


class DemoError(Exception):
    """The demo cannot run; the message says what is missing and the way to get it."""


def cache_dir() -> Path:
    """As tests/vm and scripts/setup.sh have it."""
    user = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("AGENTCG_CACHE") or Path(user) / "agentcg").absolute()


def check_setup(python: Path) -> None:
    """Refuse to start without what `make demo` builds and installs."""
    for path in (PROGRAMS / "agentcgroupd", PROGRAMS / "agentcg", python):
        if not path.exists():
            raise DemoError(f"{path} is missing: run `make demo`, which sets up and builds first")


def source(requirement: str, python: Path, cache: Path) -> Path:
    """The unpacked source distribution, fetched when it is not cached."""
    unpacked = cache / requirement.replace("==", "-")
    if unpacked.exists():
        return unpacked
    print(f"fetching {requirement} ...", flush=True)
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as name:
        draft = Path(name)
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
        done = subprocess.run(
            [*pip, "--no-binary", ":all:", "--dest", name, requirement],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise DemoError(f"pip could not fetch {requirement}:\n{done.stdout.strip()}")
        archive = next(draft.glob("*.tar.gz"))
        with tarfile.open(archive) as content:
            # Keeps an archive inside its directory; older Pythons have no filters and no such attribute.
            content.extraction_filter = getattr(tarfile, "data_filter", None)
            content.extractall(draft)  # noqa: S202 (see above)
        next(entry for entry in draft.iterdir() if entry.is_dir()).rename(unpacked)
    return unpacked


def check_host() -> None:
    """Refuse to run here without what all three parts need."""
    done = subprocess.run([PROGRAMS / "agentcg", "doctor", "--json"], stdout=subprocess.PIPE, check=False)
    found = {entry["name"]: entry for entry in json.loads(done.stdout)["capabilities"]}
    missing = [
        f"  {name} (for {what}): {found[name]['detail']}\n    -> {found[name].get('fix', 'no way to get it here')}"
        for name, what in NEEDED.items()
        if not found[name]["supported"]
    ]
    if missing:
        raise DemoError("\n".join(["HOST=1, but this machine lacks:", *missing, "Without HOST=1 a guest is used."]))


def play(python: Path, suite: Path, build: Path, *, on_host: bool) -> int:
    """Run the stage and return its exit status."""
    stage = [str(python), str(REPOSITORY / "demo" / "stage.py"), str(PROGRAMS), str(suite), str(build)]
    if on_host:
        stage.append("--host")
        command = stage
    else:
        print("booting kernel 7.3 in a virtual machine (emulated, so everything is 5 to 20 times slower) ...")
        lab = REPOSITORY / "tests" / "vm" / "lab.py"
        command = [sys.executable, str(lab), "run", *MACHINE, "--", *stage]
    sys.stdout.flush()
    child = subprocess.Popen(command)
    try:
        return child.wait()
    except KeyboardInterrupt:
        # A Ctrl-C has reached the child too; it cleans up.
        child.terminate()
        child.wait()
        raise


def main() -> int:
    """Prepare, play, say what went wrong."""
    on_host = os.environ.get("HOST") == "1"
    cache = cache_dir()
    python = cache / "venv" / "bin" / "python"
    check_setup(python)
    if on_host:
        check_host()
    suite, build = (source(name, python, cache / "demo") for name in (SUITE, BUILD))
    started = time.monotonic()
    status = play(python, suite, build, on_host=on_host)
    if status == GUEST_DIED and not on_host:
        raise DemoError("the virtual machine died, which an emulated one rarely does: run the demo again")
    print(f"demo: {time.monotonic() - started:.0f} s" + ("" if status == 0 else f", status {status}"))
    return status


def stop(number: int, _frame: object) -> None:
    """End by an exception, as Ctrl-C does."""
    raise KeyboardInterrupt(number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    try:
        sys.exit(main())
    except DemoError as problem:
        print(f"demo: {problem}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        sys.exit(130)
