"""Build the kernel tree's own cgroup scheduler, for `agentcg-bench scheduler --beside`; prints where it is.

Debian ships its source with the kernel's (tools/sched_ext), but no program. It is built once, below the cache, for the
lab's kernel of the same series.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/vm"))

import kernels
from archive import Archive
from cache import cache_dir, locked, publishing
from memcg import PACKAGE, SERIES, SUITE

PARTS = ("tools", "include", "scripts", "kernel/bpf", "arch/x86")


def program() -> Path:
    """Where it is; built when it is not there."""
    built = cache_dir() / f"scx_flatcg-{SERIES}"
    with locked(built):
        if not built.exists():
            with publishing(built) as draft:
                _build(draft)
    return built / "scx_flatcg"


def _build(draft: Path) -> None:
    tree = draft / "tree"
    tree.mkdir()
    Archive(SUITE).unpack(PACKAGE, draft)
    source = draft / f"usr/src/{PACKAGE}.tar.xz"
    parts = [f"*/{part}/*" for part in PARTS]
    subprocess.run(["tar", "-xf", source, "-C", tree, "--strip-components=1", "--wildcards", *parts], check=True)
    tools = tree / "tools/sched_ext"
    make = ["make", "-s", "-C", str(tools), f"-j{len(os.sched_getaffinity(0))}", "scx_flatcg"]
    variables = ["CLANG=clang-19", "LLVM_STRIP=llvm-strip-19", f"VMLINUX_BTF={kernels.find(SERIES).image}"]
    subprocess.run([*make, *variables], check=True, stdout=sys.stderr)
    shutil.copy(tools / "build/bin/scx_flatcg", draft)
    for made in (tree, draft / "usr"):
        shutil.rmtree(made)


if __name__ == "__main__":
    print(program())
