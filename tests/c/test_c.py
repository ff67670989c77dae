"""Builds the C tests and runs them: as they are, with AddressSanitizer, and under valgrind.

AGENTCG_C_BUILD names a directory that build.sh has filled already, for machines that cannot compile.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

pytest_plugins = ("cgroup_root",)
HERE = Path(__file__).parent
# AddressSanitizer looks for leaks at the end.
PROGRAMS = [f"{name}{variant}" for name in ("misuse", "capi", "calls") for variant in ("", "-asan")]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    given = os.environ.get("AGENTCG_C_BUILD")
    if given:
        return Path(given)
    directory = tmp_path_factory.mktemp("c")
    subprocess.run([HERE / "build.sh", directory], check=True)
    return directory


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, check=False, stdout=subprocess.PIPE, text=True, timeout=120, env={**os.environ, **environment}
    )


def header(built: Path) -> str:
    return (built / "prefix/include/agentcg.h").read_text(encoding="utf-8")


def functions(header: str) -> set[str]:
    """The functions that it declares."""
    code = re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL)
    return set(re.findall(r"\b(agentcg_\w+)\(", code))


def readelf(built: Path, tag: str) -> set[str]:
    library = built / "prefix/lib/libagentcg.so"
    lines = run("readelf", "-d", library).stdout.splitlines()
    return {line.split("[")[1].rstrip("]") for line in lines if f"({tag})" in line}


def test_exactly_the_functions_of_the_header_are_exported(built: Path) -> None:
    listed = run("nm", "-D", "--defined-only", built / "prefix/lib/libagentcg.so").stdout.splitlines()
    assert {line.split()[-1] for line in listed} == functions(header(built))


def test_every_function_is_misused() -> None:
    """misuse.c has NULL for each of those that take a pointer."""
    text = (HERE / "misuse.c").read_text(encoding="utf-8")
    declared = functions((HERE / "../../include/agentcg.h").read_text(encoding="utf-8"))
    assert {name for name in declared if not re.search(rf"\b{name}\(", text)} == set()


def test_the_library_needs_libc_only(built: Path) -> None:
    assert readelf(built, "SONAME") == {"libagentcg.so.0"}
    assert readelf(built, "NEEDED") <= {"libc.so.6", "libm.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2"}


def test_the_manual_pages(built: Path) -> None:
    pages = built / "prefix/share/man/man3"
    assert functions(header(built)) | {"libagentcg"} <= {page.stem for page in pages.iterdir()}
    checked = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8", "-z", *sorted(pages.iterdir())], check=True, capture_output=True, text=True
    )
    assert checked.stderr == ""
    page = (pages / "agentcg_call_wait.3").read_text(encoding="utf-8")
    assert "\n.SH ERRORS\n" in page
    assert "agentcg_outcome_free" in page


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_programs(built: Path, root: str, program: str) -> None:
    assert run(built / program, root).returncode == 0


# BPF system calls are beyond valgrind; AddressSanitizer sees those of capi.
@pytest.mark.parametrize("program", ["misuse", "calls"])
@pytest.mark.skipif("AGENTCG_LAB" in os.environ, reason="valgrind in an emulated machine takes minutes")
def test_under_valgrind(built: Path, root: str, program: str) -> None:
    options = ["--quiet", "--error-exitcode=99", "--leak-check=full", "--child-silent-after-fork=yes"]
    assert run("valgrind", *options, built / program, root, VALGRIND="1").returncode == 0


@pytest.mark.parametrize("program", ["version-c++", "version-static"])
def test_other_ways_to_build(built: Path, program: str) -> None:
    done = run(built / program)
    assert done.returncode == 0
    assert done.stdout.count(".") == 2


def test_the_example_prints_events(built: Path, root: str) -> None:
    done = run(built / "events", "sh", "-c", "exit 3", AGENTCG_ROOT=root)
    assert done.returncode == 3
    events = [json.loads(line) for line in done.stdout.splitlines()]
    ours = [e for e in events if e.get("tool_call")]
    assert [e["event"] for e in ours if e["event"] in {"EXEC", "EXIT"}] == ["EXEC", "EXIT"]
    assert ours[-1]["exit_code"] == 3


def test_the_example_runs_a_command(built: Path, root: str, tmp_path: Path) -> None:
    report = tmp_path / "outcome.json"
    done = run(built / "run", "none", "true", AGENTCG_ROOT=root)
    assert done.returncode == 125, "that is no size"
    if "memory" not in (Path(root).parent / "cgroup.controllers").read_text().split():
        pytest.skip("needs the memory controller")
    done = run(built / "run", "64M", "sh", "-c", "exit 3", AGENTCG_ROOT=root, REPORT=str(report))
    assert done.returncode == 3
    assert json.loads(report.read_text())["verdict"] == "failed"
