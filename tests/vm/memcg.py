"""The kernel `memcg`: Debian's source with our patch for memcg_bpf_ops, built below the cache.

No released kernel has memcg_bpf_ops. The image is kept under a name made of what it is made from, so that a change of
the patch or the configuration gives a new one; a build that was interrupted goes on where it was.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from archive import Archive
from cache import LabError, cache_dir, locked, publishing

SUITE = "trixie-backports"
SERIES = "7.3"
PACKAGE = f"linux-source-{SERIES}"
HERE = Path(__file__).resolve().parent / "memcg-kernel"
PATCH = HERE / "memcg_bpf_ops.patch"
CONFIG = HERE / "config"
PROGRAMS = ("make", "gcc", "flex", "bison", "bc", "patch", "pahole")


def directory() -> Path:
    """Where the image is, or will be."""
    content = hashlib.sha256(PACKAGE.encode())
    for file in (PATCH, CONFIG):
        content.update(file.read_bytes())
    return cache_dir() / "kernels" / f"memcg-{content.hexdigest()[:16]}"


def image() -> Path:
    """The kernel image, built when it is not there: about ten minutes on two processors."""
    own = os.environ.get("AGENTCG_MEMCG_KERNEL")
    if own:
        return Path(own).absolute()
    built = directory()
    with locked(built):
        if not built.exists():
            _build(built)
    return built / "bzImage"


def cached() -> str | None:
    """What is built, or None."""
    own = os.environ.get("AGENTCG_MEMCG_KERNEL")
    if own:
        return own if Path(own).is_file() else None
    source = directory() / "source"
    return source.read_text().strip() if source.exists() else None


def _build(built: Path) -> None:
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        raise LabError(f"building the kernel memcg needs {', '.join(missing)}: run `make setup`")
    tree = built.with_name(built.name + ".build")
    log = built.with_name(built.name + ".log")
    print(f"lab: building the kernel memcg, once, about ten minutes; log: {log}", file=sys.stderr)
    with log.open("wb") as sink:
        if not (tree / ".config").exists():
            _prepare(tree, sink.fileno())
        _make(tree, sink.fileno(), f"-j{len(os.sched_getaffinity(0))}", "bzImage")
    with publishing(built) as draft:
        shutil.copy(tree / "arch/x86/boot/bzImage", draft / "bzImage")
        release = (tree / "include/config/kernel.release").read_text().strip()
        (draft / "source").write_text(f"{PACKAGE} {release}\n")
    shutil.rmtree(tree)
    log.unlink()


def _prepare(tree: Path, log: int) -> None:
    """Unpack, patch and configure; a tree that exists is complete up to its .config."""
    with publishing(tree) as draft:
        package = draft / "package"
        package.mkdir()
        Archive(SUITE).unpack(PACKAGE, package)
        source = package / "usr/src" / f"{PACKAGE}.tar.xz"
        _run(["tar", "-xf", str(source), "--strip-components=1"], draft, log)
        shutil.rmtree(package)
        _run(["patch", "-p1", "--fuzz=0", "-i", str(PATCH)], draft, log)
        _make(draft, log, "tinyconfig")
        wanted = CONFIG.read_text()
        with (draft / ".config").open("a") as config:
            config.write(wanted)
        _make(draft, log, "olddefconfig")
        check(wanted, (draft / ".config").read_text())


def check(wanted: str, config: str) -> None:
    """Complain of options that the kernel's build did not take over."""
    have = set(config.splitlines())
    for line in re.findall(r"^CONFIG_\w+=.*", wanted, re.MULTILINE):
        name, _, value = line.partition("=")
        if line not in have and not (value == "n" and not any(one.startswith(f"{name}=") for one in have)):
            raise LabError(f"{CONFIG}: {line} does not hold: something that it depends on is missing")


def _make(tree: Path, log: int, *targets: str) -> None:
    _run(["nice", "-n", "10", "make", "-s", *targets], tree, log)


def _run(command: list[str], directory: Path, log: int) -> None:
    # Reproducible, and nothing of the machine in the image.
    environment = {**os.environ, "KBUILD_BUILD_USER": "lab", "KBUILD_BUILD_HOST": "lab"}
    done = subprocess.run(
        command, cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False
    )
    if done.returncode != 0:
        path = Path(f"/proc/self/fd/{log}").readlink()
        tail = "\n".join(path.read_text(errors="replace").splitlines()[-30:])
        raise LabError(f"building the kernel memcg failed: {' '.join(command)}\n{tail}\nthe whole log: {path}")
