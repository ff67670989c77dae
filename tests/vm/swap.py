"""The guest's swap device: a disk of the emulator's, or memory of the guest that its kernel sees as a disk (pmem).

The emulator works for a disk, on the host's processors and beside the guest; memory costs only the guest that swaps.
"""

from __future__ import annotations

import lzma
from dataclasses import dataclass, field
from pathlib import Path

from cache import LabError
from kernels import Kernel

UNITS = {"K": 10, "M": 20, "G": 30}
MIB = 1 << 20
GIB = 1 << 30
# The q35 machine has its memory in one piece below this size; else 2 GiB of it, and the rest from 4 GiB on.
ONE_PIECE = 0xB0000000


@dataclass(frozen=True)
class Swap:
    """What the guest gets for its swap device; nothing, without one."""

    memory: str
    device: str = ""
    qemu: list[str] = field(default_factory=list)
    append: str = ""


def prepare(job: Path, kernel: Kernel, memory: str, swap: str | None) -> Swap:
    """Make what `swap` asks for: nothing, a size, or a size in memory, `ram:SIZE`."""
    if swap is None:
        return Swap(memory)
    kind, colon, size = swap.rpartition(":")
    if not colon:
        return Swap(memory, "/dev/vda", _disk(job, kernel, _bytes("--swap", size)))
    if kind != "ram":
        raise LabError(f"--swap {swap!r}: expected a size, or ram: and a size")
    if kernel.modules:
        raise LabError("--swap ram: needs a kernel with pmem built in: use the kernel memcg")
    return _ram(_bytes("--mem", memory), _bytes("--swap", size))


def _disk(job: Path, kernel: Kernel, size: int) -> list[str]:
    """A sparse file, and its driver, which is a module in Debian's kernels."""
    with (job / "swap").open("wb") as file:
        file.truncate(size)
    module = next(kernel.modules.glob("drivers/block/virtio_blk.ko*"), None) if kernel.modules else None
    if module:  # none: the kernel has it built in
        content = module.read_bytes()
        (job / "modules").mkdir()
        (job / "modules/virtio_blk.ko").write_bytes(lzma.decompress(content) if module.suffix == ".xz" else content)
    return ["-drive", f"file={job / 'swap'},format=raw,if=virtio,cache=unsafe"]


def _ram(memory: int, swap: int) -> Swap:
    """Memory beyond the guest's own, which its kernel does not count."""
    total = memory + swap
    if total < ONE_PIECE:
        start = memory
    elif memory >= 2 * GIB:
        start = memory + 2 * GIB
    else:
        raise LabError("--swap ram: with --mem below 2G, both together must be less than 2816M")
    return Swap(f"{total // MIB}M", "/dev/pmem0", append=f"memmap={swap // MIB}M!{start // MIB}M")


def _bytes(option: str, size: str) -> int:
    number, shift = (size[:-1], UNITS[size[-1]]) if size[-1:] in UNITS else (size, 0)
    if not number.isdigit():
        raise LabError(f"{option} {size!r} is no size: bytes, or a number with K, M or G")
    return int(number) << shift
