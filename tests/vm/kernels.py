"""Kernels by name: where each comes from, and the files that a guest boots.

| name              | from                                                       |
|-------------------|------------------------------------------------------------|
| 7.3, 6.18, ...    | a Debian package, unpacked below the cache, not installed  |
| memcg             | our own build, see memcg.py; AGENTCG_MEMCG_KERNEL          |
| a path            | any bzImage or ELF vmlinux                                 |
"""

from __future__ import annotations

import hashlib
import lzma
import re
import struct
import subprocess
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

import memcg
from archive import Archive
from cache import LabError, cache_dir, locked, publishing


@dataclass(frozen=True)
class Stock:
    """A kernel that Debian ships: the newest package of a series, or the oldest."""

    suite: str
    series: str
    oldest: bool = False

    def choose(self, names: list[str]) -> list[str]:
        """The packages to unpack: image first, then the modules where they are a package of their own."""
        # Since 6.19 the image is in linux-binary-*; linux-image-* of the same version only depends on it.
        pattern = re.compile(rf"linux-(binary|image)-({re.escape(self.series)}\.(\d+)\+deb\d+(?:\.(\d+))?-cloud-amd64)")
        found = [match for match in map(pattern.fullmatch, names) if match]
        if not found:
            raise LabError(f"no kernel {self.series}.* in {self.suite}: the archive has moved on")
        release = (min if self.oldest else max)(found, key=lambda m: (int(m[3]), int(m[4] or 0)))[2]
        image = min(match[0] for match in found if match[2] == release)
        modules = f"linux-modules-{release}"
        return [image, modules] if modules in names else [image]


STOCK = {
    "7.3": Stock("trixie-backports", "7.3"),
    "6.18": Stock("trixie-backports", "6.18"),
    # The oldest one in the archive, because it is the oldest stock kernel with sched_ext.
    "6.16": Stock("trixie-backports", "6.16", oldest=True),
    # No sched_ext: the kernel for the fall-backs.
    "6.12": Stock("bookworm-backports", "6.12"),
}
MEMCG = "memcg"
NAMES = (*STOCK, MEMCG)


@dataclass(frozen=True)
class Kernel:
    """A kernel that is ready to boot."""

    name: str
    image: Path
    modules: Path | None = None


def find(name: str) -> Kernel:
    """The kernel called `name`, fetched or built when it is not cached."""
    if name in STOCK:
        return _stock(name, _unpacked(name))
    if name == MEMCG:
        return Kernel(name, _bootable(memcg.image()))
    path = Path(name)
    if path.is_file():
        return Kernel(path.name, _bootable(path.absolute()))
    raise LabError(f"unknown kernel {name!r}: use {', '.join(NAMES)} or the path of a bzImage or vmlinux")


def cached(name: str) -> str | None:
    """What is cached for `name` (packages or an image), or None."""
    if name == MEMCG:
        return memcg.cached()
    stamp = _directory(name) / "packages"
    return stamp.read_text().strip() if stamp.exists() else None


def _directory(name: str) -> Path:
    return cache_dir() / "kernels" / name


def _stock(name: str, directory: Path) -> Kernel:
    images = [*directory.glob("boot/vmlinuz-*"), *directory.glob("usr/lib/modules/*/vmlinuz")]
    modules = [*directory.glob("lib/modules/*/kernel"), *directory.glob("usr/lib/modules/*/kernel")]
    if not images:
        raise LabError(f"no kernel image in {directory}: remove the directory and run again")
    return Kernel(name, _bootable(images[0]), modules[0] if modules else None)


def _unpacked(name: str) -> Path:
    """The directory with the unpacked packages of a stock kernel."""
    directory = _directory(name)
    with locked(directory):
        if not (directory / "packages").exists():
            archive = Archive(STOCK[name].suite)
            packages = STOCK[name].choose(archive.names())
            print(f"lab: fetching kernel {name}: {' '.join(packages)}", file=sys.stderr)
            with publishing(directory) as draft:
                for package in packages:
                    archive.unpack(package, draft)
                (draft / "packages").write_text(" ".join(packages) + "\n")
    return directory


def _bootable(image: Path) -> Path:
    """An ELF kernel for a bzImage: unpacking it here, once, saves 2 s in every emulated boot."""
    content = image.read_bytes()
    if content[0x202:0x206] != b"HdrS":
        if content[:4] == b"\x7fELF":
            return image
        raise LabError(f"{image} is no kernel: neither a bzImage nor an ELF vmlinux")
    elf = cache_dir() / "vmlinux" / hashlib.sha256(content).hexdigest()[:16]
    with locked(elf):
        if not elf.exists():
            unpacked = decompress(payload(content))
            if unpacked is None:
                return image  # QEMU boots it as it is, only later
            draft = elf.with_name(elf.name + ".draft")
            draft.write_bytes(unpacked)
            draft.rename(elf)
    return elf


def payload(image: bytes) -> bytes:
    """The compressed kernel inside a bzImage (Documentation/arch/x86/boot.rst)."""
    setup_sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    return image[start : start + length]


def decompress(data: bytes) -> bytes | None:
    """The unpacked kernel; the size that the kernel's build appends is ignored. None for an unknown format."""
    if data.startswith(b"\x28\xb5\x2f\xfd"):
        try:
            done = subprocess.run(["zstd", "-dcq"], input=data[:-4], stdout=subprocess.PIPE, check=True)
        except FileNotFoundError:
            raise LabError("zstd not found: run `make setup`") from None
        return done.stdout
    if data.startswith(b"\xfd7zXZ"):
        return lzma.LZMADecompressor().decompress(data)
    if data.startswith(b"\x1f\x8b"):
        return zlib.decompressobj(wbits=31).decompress(data)
    return None
