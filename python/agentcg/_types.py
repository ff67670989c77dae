"""Types of arguments. Loaded by type checkers and by who asks for them: importing `typing` takes its time."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict, TypeVar, Union

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentcg._result import ToolResult

T = TypeVar("T", str, bytes)
Priority = Literal["high", "normal", "low"]
Kind = Literal["EXEC", "EXIT", "FORK", "FILE_OPEN", "BASH_READLINE", "OOM_KILL"]
StrPath = Union[str, "os.PathLike[str]"]
AnyPath = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]
Args = Union["AnyPath", Sequence["AnyPath"]]
"""A program and its arguments, or a program alone; with ``shell=True`` text for the shell."""
Observer = Callable[["ToolResult[Any]"], object]
"""Is told each result."""
Output = Union["tuple[bytes, int | None]", None]
"""Captured bytes, and where some of them were left out."""


class HasFileno(Protocol):
    """An open file."""

    def fileno(self) -> int:
        """Give its descriptor."""


File = Union[int, HasFileno, None]
"""``PIPE``, ``DEVNULL``, ``STDOUT``, a descriptor, an open file; None: the same as ours."""


class Limits(TypedDict, total=False):
    """Limits of a session or a call; None, or not given: as the kernel has it.

    Sizes are bytes, text such as ``"512M"`` or ``"1.5G"``, or ``"max"`` for no limit. A limit whose controller is
    missing is an :class:`UnsupportedError`.
    """

    cpu_weight: int | None
    """``cpu.weight``, 1 to 10000."""
    cpu_max: float | None
    """CPUs' worth of time: 1.5."""
    memory_min: int | str | None
    """``memory.min``: never reclaimed."""
    memory_low: int | str | None
    """``memory.low``: reclaimed only when nothing else is left."""
    memory_high: int | str | None
    """``memory.high``: slowed and reclaimed above it."""
    memory_max: int | str | None
    """``memory.max``: the OOM killer comes above it."""
    swap_max: int | str | None
    """``memory.swap.max``."""
    pids_max: int | str | None
    """``pids.max``: processes and threads."""
    io_weight: int | None
    """``io.weight``, 1 to 10000."""


class Capacity(TypedDict, total=False):
    """What the calls of a session or a runtime may need together, by their limits; others wait in a queue.

    None, or not given: not bounded. A call without the limit in question counts as nothing.
    """

    memory: int | str | None
    """Of their ``memory_max``: bytes, or text such as ``"8G"``."""
    cpus: float | None
    """Of their ``cpu_max``, to the thousandth."""
    calls: int | None
    """Calls at the same time."""


class CallOptions(Limits, total=False):
    """What ``run``, ``run_async``, ``popen`` and ``popen_async`` take, beside input and output."""

    hint: str | None
    """What the call needs: ``memory:high,cpu:2,time:5m``."""
    timeout: float | None
    """Seconds; then SIGTERM to all of it, SIGKILL after the grace."""
    grace: float | None
    """Seconds from SIGTERM to SIGKILL; default 2."""
    cwd: AnyPath | None
    """The working directory."""
    env: Mapping[str, str] | Mapping[bytes, bytes] | None
    """The whole environment in place of ours; ``AGENTCG_*`` and the budget variables are added."""
    shell: bool
    """Run the text with ``/bin/sh -c``."""
    executable: AnyPath | None
    """The program, where the first argument is not it; with ``shell=True`` the shell."""
    close_fds: bool
    """False: pass inheritable descriptors from 3 on; default True."""
    pass_fds: Sequence[int]
    """Pass these descriptors, inheritable or not, under their numbers."""
    start_new_session: bool
    """setsid(2) first: no controlling terminal."""
    process_group: int | None
    """setpgid(2) first: 0 for a process group of its own; None or -1: ours."""
    umask: int | None
    """File mode creation mask; None or -1: ours."""
    user: str | int | None
    """Run as this user; without ``extra_groups`` it has no supplementary groups, unlike in :mod:`subprocess`."""
    group: str | int | None
    """Run with this group."""
    extra_groups: Sequence[str | int] | None
    """Supplementary groups."""
    name: str | None
    """Of the call, in events, in its outcome and as a cgroup; default: made up."""
    background: bool
    """What the command leaves running lives on in the session's ``background`` cgroup; default: it is killed."""
    budget: bool
    """Tell tools their limits through the environment (``OMP_NUM_THREADS``, ...); default True."""
    oom_group: bool
    """The OOM killer takes the call as a whole; default True."""
    oom_score_adj: int | None
    """-1000 to 1000; default: ours plus 500."""
    sample: float | None
    """Seconds between samples for :attr:`ToolResult.timeline`; default: none."""
    capture_limit: int | None
    """Bytes kept of each captured output, the first and last half of more; default 10 MiB."""
    queue_timeout: float | None
    """Seconds in the queue, where there is a :class:`Capacity`; then the verdict is ``spawn_failed``. Default: any."""
    retry: bool | None
    """``run`` and ``run_async``: once more with twice the memory when it was OOM killed at its own limit; default: with
    the hint ``memory:auto``. Standard input must be ``input`` or ``DEVNULL``."""


class PopenOptions(CallOptions, total=False):
    """What ``popen`` and ``popen_async`` take beside the command and what text is."""

    stdin: File
    """Standard input."""
    stdout: File
    """Standard output."""
    stderr: File
    """Standard error; also ``STDOUT``."""


class RunOptions(PopenOptions, total=False):
    """What ``run`` and ``run_async`` take beside the command, its input and what text is."""

    capture_output: bool
    """Standard output and error are ``PIPE``."""
    bufsize: int
    """Makes no difference: output is read as it comes."""
    check: bool
    """Raise when the verdict is not ``completed``."""
