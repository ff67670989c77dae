#!/usr/bin/env python3
"""Run commands and tests under other kernels than the host's, in emulated machines.

exit status of run: the command's own; 124 timed out; 125 the guest died; 126 the lab cannot do it; 2 wrong usage.
exit status of test: 0 when every test program succeeded and at least one test passed, 1 when not, 124 to 126 as run.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from types import FrameType

import guest
import kernels
import libtest
import qemu
import report
from cache import LabError

LAB_FAILED = 126


def parser() -> argparse.ArgumentParser:
    """The command line."""
    machine = argparse.ArgumentParser(add_help=False)
    machine.add_argument("--kernel", required=True, help="a name from `lab.py kernels`, or a bzImage or vmlinux")
    machine.add_argument("--smp", default="2", metavar="N[,...]", help="processors, as QEMU's -smp (default 2)")
    clock = machine.add_mutually_exclusive_group()
    clock.add_argument("--parallel", action="store_true", help="a host thread each: faster, but a guest may crash")
    clock.add_argument("--virtual-time", action="store_true", help="the guest's clock counts instructions, not time")
    machine.add_argument("--mem", default="2G", metavar="SIZE", help="memory (default 2G)")
    machine.add_argument("--swap", metavar="SIZE", help="add a swap device; ram:SIZE: of memory, beyond --mem")
    machine.add_argument("--out", type=Path, metavar="DIR", help="the guest's writable directory, /mnt/out")
    machine.add_argument("--append", default="", metavar="STR", help="more for the kernel command line")
    machine.add_argument("--env", action="append", default=[], metavar="NAME[=VALUE]", help="pass a variable on")
    machine.add_argument("--verbose", action="store_true", help="show the guest's console at the end")

    top = argparse.ArgumentParser(
        prog="lab.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = top.add_subparsers(dest="action", required=True, metavar="ACTION")
    run = commands.add_parser("run", parents=[machine], help="run one command in a guest, as root, in /mnt/out")
    run.add_argument("--timeout", type=float, default=120, metavar="S", help="seconds for all of it (default 120)")
    run.add_argument("command", nargs="+", metavar="CMD", help="a shell line, or a program and its arguments")
    test = commands.add_parser("test", parents=[machine], help="run Rust test programs in one guest")
    test.add_argument("--timeout", type=float, default=600, metavar="S", help="seconds for all of it (default 600)")
    test.add_argument("--filter", metavar="STR", help="only tests with STR in their name")
    test.add_argument("--report", type=Path, metavar="FILE", help="write the results as JSON")
    test.add_argument("binary", nargs="+", type=Path, metavar="BINARY")
    summary = commands.add_parser("summary", help="compare the reports of several kernels")
    summary.add_argument("report", nargs="+", type=Path, metavar="REPORT")
    fetch = commands.add_parser("fetch", help="make kernels ready to boot; `qemu`: a newer QEMU for Debian 12")
    fetch.add_argument("name", nargs="+", metavar="KERNEL")
    commands.add_parser("kernels", help="list the kernels by name")
    return top


def machine(options: argparse.Namespace, **environment: str) -> guest.Machine:
    """The guest that the options ask for."""
    for item in options.env:
        name, given, value = item.partition("=")
        if not name.isidentifier():
            raise LabError(f"--env {item!r} names no variable: NAME or NAME=VALUE")
        if given or name in os.environ:
            environment[name] = value if given else os.environ[name]
    return guest.Machine(
        smp=options.smp,
        memory=options.mem,
        swap=options.swap,
        timeout=options.timeout,
        append=options.append,
        parallel=options.parallel,
        virtual_time=options.virtual_time,
        out=options.out,
        environment=environment,
        verbose=options.verbose,
    )


def write(data: bytes) -> None:
    """Pass output on at once."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def list_kernels() -> None:
    """Print a line for each name, with what is cached for it."""
    for name in kernels.NAMES:
        print(f"{name:6} {kernels.cached(name) or 'not cached'}")


def main(arguments: list[str]) -> int:
    """Do what the command line says; the result is the exit status."""
    options = parser().parse_args(arguments)
    if options.action == "run":
        return guest.run(kernels.find(options.kernel), options.command, machine(options), write)
    if options.action == "test":
        settings = machine(options, AGENTCG_LAB=options.kernel)
        return libtest.run(kernels.find(options.kernel), options.binary, options.filter, settings, options.report)
    if options.action == "summary":
        return report.summarise(options.report)
    if options.action == "fetch":
        for name in options.name:
            if name == qemu.NAME:
                qemu.fetch()
            else:
                kernels.find(name)
        return 0
    list_kernels()
    return 0


def stop(number: int, _frame: FrameType | None) -> None:
    """End by an exception, so that children and directories are cleaned up."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, stop)
    try:
        sys.exit(main(sys.argv[1:]))
    except LabError as problem:
        print(f"lab: {problem}", file=sys.stderr)
        sys.exit(LAB_FAILED)
