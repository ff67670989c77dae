"""QEMU: the machine's, or a newer one from the archive, unpacked below the cache.

Debian 12's QEMU 7.2 emulates processes at half the speed of 10.0. What 10.0 needs besides its own files, the
package of 7.2 has installed.
"""

from __future__ import annotations

import shutil
import subprocess

from archive import Archive
from cache import LabError, cache_dir, locked, publishing

NAME = "qemu"
PROGRAM = "qemu-system-x86_64"
SUITE = "bookworm-backports"
PACKAGES = ("qemu-system-x86", "qemu-system-data", "seabios")


def find() -> list[str]:
    """The command that starts QEMU."""
    own = cache_dir() / NAME
    if own.exists():
        share = own / "usr/share"
        return [str(own / "usr/bin" / PROGRAM), "-L", str(share / "qemu"), "-L", str(share / "seabios")]
    path = shutil.which(PROGRAM)
    if path is None:
        raise LabError(f"{PROGRAM} not found: run `make setup`")
    return [path]


def fetch() -> None:
    """Get the newer QEMU for Debian 12."""
    own = cache_dir() / NAME
    with locked(own):
        if own.exists():
            return
        archive = Archive(SUITE)
        with publishing(own) as draft:
            for package in PACKAGES:
                archive.unpack(package, draft)
            done = subprocess.run(
                [draft / "usr/bin" / PROGRAM, "--version"], capture_output=True, text=True, check=False
            )
            if done.returncode != 0:
                raise LabError(f"the QEMU of {SUITE} does not run here: {done.stderr.strip()}")
