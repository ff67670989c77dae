"""Boot an unmodified kernel under QEMU and run one command in it.

The guest's / is the host's through virtiofs, read-only; there is no disk image and no initrd. The command's output
comes back through a socket on a virtio serial port, its exit status through a second port.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import qemu
import swap
from cache import LabError, cache_dir
from kernels import Kernel

TIMED_OUT = 124
GUEST_DIED = 125
BOOTS = 3
CRASH = re.compile(r"Kernel panic|Oops|BUG:")
INIT = Path(__file__).resolve().parent / "init"

# An RCU stall ejects a sched_ext scheduler, and emulation on a busy host stalls easily: allow 60 s instead of 21.
# The guest has one user and few clocks: what only costs boot time or emulation is off.
COMMAND_LINE = (
    "console=ttyS0 quiet loglevel=4 rootfstype=virtiofs root=rootfs ro panic=-1 reboot=t "
    "cgroup_no_v1=all psi=1 rcupdate.rcu_cpu_stall_timeout=60 rcupdate.rcu_expedited=1 "
    "tsc=reliable no_timer_check mitigations=off random.trust_cpu=on audit=0 nowatchdog"
)


@dataclass(frozen=True)
class Machine:
    """What the guest gets and how long it may take."""

    smp: str = "2"
    memory: str = "2G"
    swap: str | None = None
    timeout: float = 120
    append: str = ""
    parallel: bool = False
    virtual_time: bool = False
    out: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    verbose: bool = False


def script(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """The bash script for a command: one argument is a shell line, several are a program and its arguments."""
    exports = [f"export {name}={shlex.quote(value)}\n" for name, value in environment.items()]
    line = command[0] if len(command) == 1 else shlex.join(command)
    return "".join(exports) + line + "\n"


def run(kernel: Kernel, command: Sequence[str], machine: Machine, on_output: Callable[[bytes], object]) -> int:
    """Run `command` in a fresh guest and return its exit status, TIMED_OUT or GUEST_DIED.

    `on_output` gets the merged output while it comes.
    """
    deadline = time.monotonic() + machine.timeout
    for boot in range(1, BOOTS + 1):
        with tempfile.TemporaryDirectory(prefix="agentcg-lab-") as name:
            job = Path(name).resolve()
            (job / "command").write_text(script(command, machine.environment))
            ended = _boot(kernel, machine, job, deadline, on_output)
            # What init says: "started" before the command, its exit status after it.
            started, _, status = _read(job / "status").partition("\n")
            if machine.verbose:
                _explain(job, everything=True)
            if status:
                return int(status)
            if not ended:
                print(f"lab: {kernel.name}: timed out after {machine.timeout:g} s", file=sys.stderr)
                if not started:
                    _explain(job)
                return TIMED_OUT
            if started or boot == BOOTS:
                print(f"lab: {kernel.name}: the guest died; its console:", file=sys.stderr)
                _explain(job)
                return GUEST_DIED
            # See _qemu_arguments for the usual reason.
            print(f"lab: {kernel.name}: the guest died while booting: trying again", file=sys.stderr)
    raise AssertionError("the last boot always returns")


def _boot(kernel: Kernel, machine: Machine, job: Path, deadline: float, on_output: Callable[[bytes], object]) -> bool:
    """Boot a guest and stay until it ends (True) or the time is up (False); nothing of it is left running."""
    emulator, virtiofsd = qemu.find(), _virtiofsd()
    _program("/bin/busybox")
    out = (machine.out or job / "out").absolute()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabError(f"--out: {error}") from None
    swapping = swap.prepare(job, kernel, machine.memory, machine.swap)
    # Without virtiofsd's own confinement: it needs privileges, and what runs in the guest is ours.
    common = (virtiofsd, "--sandbox=none", "--seccomp=none", "--inode-file-handles=never", "--log-level=error")
    shares = {
        "rootfs": ("--shared-dir=/", "--readonly", "--cache=always", "--xattr", "--no-announce-submounts"),
        "out": (f"--shared-dir={out}", "--cache=auto"),
    }
    with contextlib.ExitStack() as stack:
        for tag, options in shares.items():
            command = (*common, *options, f"--socket-path={job / tag}.sock")
            share = stack.enter_context(_child(command, job / f"{tag}.log"))
            _await_socket(job / f"{tag}.sock", share, job / f"{tag}.log")
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                command = (*emulator, *_qemu_arguments(kernel, machine, swapping, job, theirs.fileno()))
                guest = stack.enter_context(_child(command, job / "qemu.log", pass_fds=[theirs.fileno()]))
            if machine.parallel:
                _run_devices_first(guest.pid)
            ended = _relay(ours, deadline, on_output)
        if ended and guest.wait() != 0:
            raise LabError(f"QEMU failed: {_read(job / 'qemu.log').strip() or guest.returncode}")
        return ended


def _run_devices_first(pid: int) -> None:
    """Have QEMU's first thread run at once whenever it wakes.

    It has the guest's timers and devices. When both processors of the guest are busy, and this machine has no third for
    it, it would wait for a slice of theirs: every wake-up in the guest came up to 4 ms late.
    """
    try:
        # The threads of the processors, which it starts, stay normal ones.
        os.sched_setscheduler(pid, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except PermissionError as error:
        print(f"lab: SCHED_FIFO: {error.strerror}: timers in the guest may come 4 ms late", file=sys.stderr)


def _relay(output: socket.socket, deadline: float, on_output: Callable[[bytes], object]) -> bool:
    """Pass output on until QEMU ends (True) or the time is up (False)."""
    while select.select([output], [], [], max(0.0, deadline - time.monotonic()))[0]:
        data = output.recv(1 << 16)
        if not data:
            return True
        on_output(data)
    return False


def _qemu_arguments(kernel: Kernel, machine: Machine, swapping: swap.Swap, job: Path, output: int) -> list[str]:
    # With a host thread for each processor, QEMU (7.2 and 10.0 at least) can keep a translation of an instruction that
    # another processor has just replaced. Linux replaces code whenever a scheduler or a BPF program is attached, and
    # dies of the stale breakpoint: "Oops: int3". With 7.2, one boot in 25 did.
    threads = "multi" if machine.parallel else "single"
    variables = f"lab_job={job} lab_swap={swapping.device}"
    arguments = [
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-M", "q35,usb=off,sata=off,smbus=off,vmport=off,i8042=off,hpet=off"),
        # Emulated even where /dev/kvm exists: the same everywhere, and nested virtualisation often fails.
        *("-accel", f"tcg,thread={threads},tb-size=256"),
        *("-cpu", "max", "-smp", machine.smp, "-m", swapping.memory),
        *("-object", f"memory-backend-memfd,id=mem,size={swapping.memory},share=on", "-numa", "node,memdev=mem"),
        *("-kernel", str(kernel.image)),
        *("-append", f"{COMMAND_LINE} init={INIT} {variables} {swapping.append} {machine.append}"),
        *("-chardev", f"file,id=console,path={job / 'console'}", "-serial", "chardev:console"),
        *("-chardev", f"socket,id=rootfs,path={job / 'rootfs.sock'}"),
        *("-device", "vhost-user-fs-pci,chardev=rootfs,tag=rootfs,queue-size=1024"),
        *("-chardev", f"socket,id=out,path={job / 'out.sock'}", "-device", "vhost-user-fs-pci,chardev=out,tag=out"),
        *("-device", "virtio-serial-pci"),
        *("-chardev", f"socket,id=output,fd={output}", "-device", "virtserialport,chardev=output,name=output"),
        *("-chardev", f"file,id=status,path={job / 'status'}", "-device", "virtserialport,chardev=status,name=status"),
        *("-device", "virtio-rng-pci"),
        *swapping.qemu,
    ]
    if machine.virtual_time:
        # 8 ns for each instruction, and no waiting: what else the host does, and what is stolen from it, is not seen.
        arguments += ["-icount", "shift=3,sleep=off"]
    return arguments


@contextlib.contextmanager
def _child(command: Sequence[str], log: Path, pass_fds: Sequence[int] = ()) -> Iterator[subprocess.Popen[bytes]]:
    """A child process that ends with the block, and with this process however it ends."""
    with log.open("wb") as sink:
        child = subprocess.Popen(
            ("setpriv", "--pdeathsig=KILL", "--", *command),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            pass_fds=pass_fds,
            # A Ctrl-C is for us; we end our children ourselves.
            start_new_session=True,
        )
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def _await_socket(path: Path, child: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 10
    while not path.exists():
        if child.poll() is not None or time.monotonic() > deadline:
            raise LabError(f"virtiofsd did not start: {_read(log).strip() or 'no message'}")
        time.sleep(0.005)


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise LabError(f"{name} not found: run `make setup`")
    return path


def _virtiofsd() -> str:
    own = cache_dir() / "virtiofsd/bin/virtiofsd"
    for path in (own, Path("/usr/libexec/virtiofsd")):
        if os.access(path, os.X_OK):
            return str(path)
    return _program("virtiofsd")


def _read(path: Path) -> str:
    return path.read_text(errors="replace").replace("\r", "") if path.exists() else ""


def _explain(job: Path, *, everything: bool = False) -> None:
    """Print what the programs around the guest and its console said; of much, what begins with a crash or the end."""
    for name in ("rootfs.log", "out.log", "qemu.log", "console"):
        lines = _read(job / name).splitlines()
        if not everything:
            crash = next((number for number, line in enumerate(lines) if CRASH.search(line)), len(lines))
            lines = lines[min(crash, max(0, len(lines) - 40)) :]
        for line in lines:
            print(f"{name.partition('.')[0]}: {line}", file=sys.stderr)
