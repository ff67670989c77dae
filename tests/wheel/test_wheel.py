"""The wheel that `make wheel` has made, in clean environments of several Pythons."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "vm"))
from archive import Archive
from cache import LabError, cache_dir, locked, publishing

WHEELS = Path(__file__).parents[2] / "target/wheels"
LARGEST = 3_000_000
LIBC = {"libc.so.6", "libpthread.so.0", "libdl.so.2", "libm.so.6", "librt.so.1", "ld-linux-x86-64.so.2"}
PROGRAM = """
import agentcg, asyncio, json, sys
assert all(getattr(agentcg, name) for name in agentcg.__all__)
found = agentcg.capabilities()
missing = {c.name: c.detail for c in found.capabilities if not c.supported}
if len(sys.argv) > 1:
    with agentcg.Runtime(sys.argv[1]) as runtime, runtime.session("a") as session:
        result = session.run(["echo", "hello"], capture_output=True, text=True, timeout=60)
        assert (result.stdout, result.verdict) == ("hello\\n", agentcg.Verdict.COMPLETED)
        with session.popen(["cat"], stdin=-1, stdout=-1) as call:
            assert call.communicate(b"x") == (b"x", None)
        async def main():
            result = await session.run_async(["cat"], input=b"y", stdout=-1)
            async with session.popen_async(["cat"], stdin=-1, stdout=-1) as call:
                return result.stdout, await call.communicate(b"z")
        assert asyncio.run(main()) == (b"y", (b"z", None))
print(json.dumps([sys.version_info[:2], missing]))
"""


def other_python(suite: str, version: str) -> list[str]:
    """The command for the Python of another Debian release, which brings its own libc."""
    own = cache_dir() / f"python{version}"
    with locked(own):
        if not own.exists():
            archive = Archive(suite)
            with publishing(own) as draft:
                for package in (
                    *("libc6", "zlib1g", "libexpat1"),
                    *(f"python{version}-minimal", f"libpython{version}-minimal", f"libpython{version}-stdlib"),
                ):
                    archive.unpack(package, draft)
    libraries = ":".join(str(own / below / "x86_64-linux-gnu") for below in ("usr/lib", "lib"))
    loader = next(own.glob("**/ld-linux-x86-64.so.2"))
    return [str(loader), "--library-path", libraries, str(own / f"usr/bin/python{version}")]


PYTHONS: dict[str, list[str] | tuple[str, str]] = {
    "this one": [sys.executable],
    "Debian's": ["/usr/bin/python3"],
    "bullseye's 3.9": ("bullseye", "3.9"),
    "trixie's 3.13": ("trixie", "3.13"),
    "sid's 3.14": ("sid", "3.14"),
}


@pytest.fixture(scope="module")
def wheel() -> Path:
    wheels = sorted(WHEELS.glob("agentcg-*-manylinux_2_28_x86_64.whl"), key=lambda path: path.stat().st_mtime)
    assert wheels, f"no wheel in {WHEELS}: make wheel"
    return wheels[-1]


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(directory)
    directory.chmod(0o755)
    return directory


def run(
    python: list[str], unpacked: Path, *args: str, before: tuple[str, ...] = ()
) -> tuple[list[int], dict[str, str]]:
    command = [*before, *python, "-S", "-c", PROGRAM, *args]
    environment = {"PYTHONPATH": str(unpacked), "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    version, missing = json.loads(done.stdout)
    return version, missing


def test_what_is_in_it(wheel: Path, unpacked: Path) -> None:
    assert wheel.stat().st_size < LARGEST
    names = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    for wanted in (
        "agentcg/py.typed",
        "agentcg/_native.pyi",
        "agentcg/_native.abi3.so",
        "agentcg/integrations/pytest.py",
    ):
        assert wanted in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    native = unpacked / "agentcg/_native.abi3.so"
    needed = set(re.findall(r"NEEDED\s+(\S+)", output("objdump", "-p", str(native))))
    assert needed <= LIBC
    versions = [
        tuple(map(int, v.split("."))) for v in re.findall(r"GLIBC_([\d.]+)", output("objdump", "-T", str(native)))
    ]
    assert max(versions) <= (2, 28)


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_in_a_clean_environment(wheel: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", str(wheel)]
    subprocess.run(install, check=True)
    assert "agentcg" in output(str(tmp_path / "venv/bin/agentcg"), "--version")
    assert '"capabilities"' in output(str(python), "-m", "agentcg", "doctor", "--json")


@pytest.mark.parametrize("name", PYTHONS)
def test_with(name: str, unpacked: Path, tmp_path: Path) -> None:
    where = PYTHONS[name]
    try:
        python = other_python(*where) if isinstance(where, tuple) else where
    except LabError as e:
        pytest.skip(f"the archive has {name} no more: {e}")
    version, missing = run(python, unpacked)
    print(f"{name}: Python {version}, missing: {sorted(missing)}")
    if "cgroup_create" not in missing:
        mount = output("findmnt", "-n", "-o", "TARGET", "-t", "cgroup2").split()[0]
        run(python, unpacked, f"{mount}/agentcg-wheel-{tmp_path.name}")


def test_without_privileges_it_says_why(unpacked: Path) -> None:
    if shutil.which("setpriv") is None:
        pytest.fail("needs setpriv")
    for parent in unpacked.parents:
        if parent != Path("/") and parent.owner() == "root":
            parent.chmod(parent.stat().st_mode | 0o011)
    nobody = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--no-new-privs")
    _, missing = run(["/usr/bin/python3"], unpacked, before=nobody)
    assert {"process_events", "cgroup_create"} <= set(missing)
    assert all(reason for reason in missing.values())
