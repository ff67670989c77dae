"""Sessions: one agent's cgroup, and the tool calls in it."""

from __future__ import annotations

from agentcg import _errors
from agentcg._handle import Handle
from agentcg._options import Text, captured, limits, piped
from agentcg._result import ToolResult

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable
    from pathlib import Path
    from typing import Any, Literal, overload

    from typing_extensions import Unpack

    from agentcg import _native
    from agentcg._aio import AsyncToolCall
    from agentcg._call import ToolCall
    from agentcg._types import Args, Limits, Observer, PopenOptions, Priority, RunOptions, StrPath
    from agentcg._usage import Usage


class Session(Handle):
    """One agent's cgroup; made by :meth:`Runtime.session`. May be used from many threads at once.

    Closing it kills the calls that still run, moves other processes back to where they came from and removes the
    cgroup.
    """

    __slots__ = ("_bounded", "_native", "_observers", "name", "priority")

    name: str
    """Its name."""
    priority: Priority
    """How it stands against the others."""

    def __init__(
        self, native: _native.Session, name: str, priority: Priority, observers: list[Observer], *, bounded: bool
    ) -> None:
        """Wrap the native half; ``bounded``: there may be a queue for admission."""
        self._native = native
        self._bounded = bounded
        self._observers = observers
        self.name = name
        self.priority = priority

    def __repr__(self) -> str:
        """Show what it is."""
        return f"<agentcg.Session {self.name!r} {self.priority}>"

    @property
    def path(self) -> Path:
        """Its cgroup directory: ``/sys/fs/cgroup/agentcg/NAME``."""
        return self._native.path

    if TYPE_CHECKING:

        @overload
        def run(
            self,
            args: Args,
            *,
            input: str | None = None,
            text: Literal[True],
            encoding: str | None = None,
            errors: str | None = None,
            **options: Unpack[RunOptions],
        ) -> ToolResult[str]: ...
        @overload
        def run(
            self,
            args: Args,
            *,
            input: str | None = None,
            text: bool | None = None,
            encoding: str,
            errors: str | None = None,
            **options: Unpack[RunOptions],
        ) -> ToolResult[str]: ...
        @overload
        def run(
            self,
            args: Args,
            *,
            input: bytes | None = None,
            text: Literal[False] | None = None,
            encoding: None = None,
            errors: None = None,
            **options: Unpack[RunOptions],
        ) -> ToolResult[bytes]: ...
        @overload
        def run(
            self,
            args: Args,
            *,
            input: Any = None,
            text: bool | None = None,
            encoding: str | None = None,
            errors: str | None = None,
            universal_newlines: bool | None = None,
            **options: Unpack[RunOptions],
        ) -> ToolResult[Any]: ...

    def run(
        self,
        args: Args,
        *,
        input: Any = None,  # the names are those of subprocess
        text: bool | None = None,
        encoding: str | None = None,
        errors: str | None = None,
        universal_newlines: bool | None = None,
        **options: Unpack[RunOptions],
    ) -> ToolResult[Any]:
        """Run a command as a tool call, in a cgroup of its own, and wait until all of it has ended.

        Shaped like :func:`subprocess.run`; the options are those of :class:`RunOptions`:

        ======================  ==============================================================
        ``stdin``, ``stdout``, ``stderr``
                                ``PIPE``, ``DEVNULL``, ``STDOUT``, a descriptor, an open file
                                (default: ours)
        ``input``, ``capture_output``, ``check``, ``text``, ``encoding``, ``errors``, ``bufsize``
                                as in :mod:`subprocess`
        ``timeout``             seconds; then SIGTERM to all of it, SIGKILL after the grace
        ``grace``               seconds from SIGTERM to SIGKILL (2)
        ``hint``                what it needs: ``"memory:high,cpu:2,time:5m"``
        ``memory_max``          bytes, or text as ``"512M"``: the OOM killer comes above it;
                                likewise ``memory_high`` (slowed above it), ``memory_low``,
                                ``memory_min``, ``swap_max``
        ``cpu_max``             CPUs' worth of time: 1.5
        ``cpu_weight``          1 to 10000 (100); likewise ``io_weight``
        ``pids_max``            processes and threads
        ``cwd``, ``env``, ``shell``, ``executable``, ``close_fds``, ``start_new_session``,
        ``umask``, ``user``, ``group``, ``extra_groups``, ``pass_fds``, ``process_group``
                                as in :mod:`subprocess`
        ``capture_limit``       bytes kept of each output (10 MiB), first and last half
        ``sample``              seconds between samples for ``result.timeline``
        ``background``          what the command leaves running lives on until the session
                                ends; otherwise it is killed with the call
        ``retry``               once more with twice the memory when it was OOM killed at its
                                own limit (default: with the hint ``memory:auto``)
        ``queue_timeout``       seconds in the queue, where there is a :class:`Capacity`
        ``name``                of the call, in events, in the outcome and as a cgroup
        ``budget``              tell tools their limits through the environment (True)
        ``oom_group``           the OOM killer takes the call as a whole (True)
        ``oom_score_adj``       -1000 to 1000 (ours plus 500)
        ======================  ==============================================================

        However it ends, the result says so: look at ``result.verdict`` and ``result.advice``. Only with ``check=True``
        an end other than ``completed`` raises: :class:`ToolCallError`, which is a
        :class:`subprocess.CalledProcessError`, or :class:`ToolCallTimeoutError`, which is also a
        :class:`subprocess.TimeoutExpired`. Bad arguments are a :class:`LimitError`, a limit that cannot be had here an
        :class:`UnsupportedError`. An exception from a signal handler (Ctrl-C) ends the call and is passed on.
        """
        mode = Text.wanted(text, encoding, errors, universal_newlines)
        check = options.pop("check", False)
        argv, native = captured(args, input, mode, options)
        place = self._place(argv, native) if self._bounded else None
        result: ToolResult[Any] = ToolResult(args, mode, self._native.run(argv, native, place))
        if self._observers:
            self._tell(result)
        if check:
            result.check_returncode()
        return result

    async def run_async(
        self,
        args: Args,
        *,
        input: Any = None,
        text: bool | None = None,
        encoding: str | None = None,
        errors: str | None = None,
        universal_newlines: bool | None = None,
        **options: Unpack[RunOptions],
    ) -> ToolResult[Any]:
        """As :meth:`run`, for asyncio (uvloop too) and trio, without a thread.

        Cancelling the task kills all of the call, and waits until it is gone before the cancellation goes on.
        """
        mode = Text.wanted(text, encoding, errors, universal_newlines)
        check = options.pop("check", False)
        argv, native = captured(args, input, mode, options)
        from agentcg._call import Call
        from agentcg._wait import readable, settled

        first = None
        while True:
            spawned = await self._spawn_async(argv, native, first)
            running = Call(spawned, args, mode, self._tell)
            try:
                await readable(running.fileno())
            except BaseException:
                running.kill()
                await settled(running.fileno())
                running._take()  # noqa: SLF001
                raise
            memory = self._native.again(argv, native, spawned) if first is None else None
            if memory is None:
                break
            native["memory_max"], first = str(memory), spawned
        result = running._take()  # noqa: SLF001
        if check:
            result.check_returncode()
        return result

    if TYPE_CHECKING:

        @overload
        def popen(
            self,
            args: Args,
            *,
            bufsize: int = -1,
            text: Literal[True],
            encoding: str | None = None,
            errors: str | None = None,
            **options: Unpack[PopenOptions],
        ) -> ToolCall[str]: ...
        @overload
        def popen(
            self,
            args: Args,
            *,
            bufsize: int = -1,
            text: Literal[False] | None = None,
            encoding: None = None,
            errors: None = None,
            **options: Unpack[PopenOptions],
        ) -> ToolCall[bytes]: ...
        @overload
        def popen(
            self,
            args: Args,
            *,
            bufsize: int = -1,
            text: bool | None = None,
            encoding: str | None = None,
            errors: str | None = None,
            universal_newlines: bool | None = None,
            **options: Unpack[PopenOptions],
        ) -> ToolCall[Any]: ...

    def popen(
        self,
        args: Args,
        *,
        bufsize: int = -1,
        text: bool | None = None,
        encoding: str | None = None,
        errors: str | None = None,
        universal_newlines: bool | None = None,
        **options: Unpack[PopenOptions],
    ) -> ToolCall[Any]:
        """Start a command as a tool call; shaped like :class:`subprocess.Popen`, options as in :meth:`run`.

        With ``PIPE`` its ends are ``call.stdin``, ``call.stdout`` and ``call.stderr``.
        """
        mode = Text.wanted(text, encoding, errors, universal_newlines)
        argv, native = piped(args, options)
        from agentcg._call import ToolCall

        place = self._place(argv, native) if self._bounded else None
        running: ToolCall[Any] = ToolCall(
            self._native.spawn(argv, native, place, None), args, mode, self._tell, bufsize
        )
        return running

    def popen_async(
        self,
        args: Args,
        **options: Unpack[PopenOptions],
    ) -> AsyncToolCall:
        """Start a command for asyncio: ``async with session.popen_async(...) as call``; options as in :meth:`run`.

        With ``PIPE`` its ends are streams of bytes, as those of :class:`asyncio.subprocess.Process`. In a task of
        trio's it is a :class:`TrioToolCall`, with trio's streams.
        """
        argv, native = piped(args, options)
        from agentcg._wait import in_trio

        def spawn() -> Awaitable[_native.ToolCall]:
            return self._spawn_async(argv, native)

        if in_trio():
            from agentcg._trio import TrioToolCall

            return TrioToolCall(spawn, args, self._tell)
        from agentcg._aio import AsyncToolCall

        return AsyncToolCall(spawn, args, self._tell)

    def usage(self) -> Usage:
        """Read what it and its tool calls have used so far from the kernel's files."""
        from agentcg._usage import Usage

        return Usage.from_json(self._native.usage())

    def set_limits(self, **given: Unpack[Limits]) -> None:
        """Change limits while it runs; what is not given stays as it is."""
        self._native.set_limits(limits(given))

    def move_pid(self, pid: int) -> None:
        """Move a process with all its threads into the session; its later children are born there."""
        self._native.move_pid(_errors.pid(pid))

    def move_agent(self, pid: int) -> None:
        """Move the harness into the session's ``agent`` cgroup, and make it the last that the OOM killer takes."""
        self._native.move_agent(_errors.pid(pid))

    def freeze(self) -> None:
        """Stop all processes of the session where they are; not from inside of it."""
        self._native.freeze(True)

    def thaw(self) -> None:
        """Let them go on."""
        self._native.freeze(False)

    def kill_calls(self) -> None:
        """Kill its tool calls, with the verdict ``cancelled``, and what they left in the background."""
        self._native.kill_calls()

    def kill(self) -> None:
        """Kill every process of the session, also those that were moved into it; not from inside of it."""
        self._native.kill()

    def close(self) -> None:
        """End the session; doing so again does nothing."""
        self._native.close()

    def _place(self, argv: list[str], native: dict[str, object]) -> _native.Place | None:
        """Wait in the queue, where there is one; signal handlers run meanwhile."""
        place = self._native.enqueue(argv, native)
        if place is not None:
            from agentcg._wait import wait

            try:
                wait(place.fileno(), native.get("queue_timeout"))  # type: ignore[arg-type]
            except BaseException:
                place.close()
                raise
        return place

    async def _spawn_async(
        self, argv: list[str], native: dict[str, object], first: _native.ToolCall | None = None
    ) -> _native.ToolCall:
        """Start a call when there is room for it."""
        place = self._native.enqueue(argv, native) if self._bounded else None
        if place is not None:
            from agentcg._wait import readable

            try:
                await readable(place.fileno(), native.get("queue_timeout"))  # type: ignore[arg-type]
            except BaseException:
                place.close()
                raise
        return self._native.spawn(argv, native, place, first)

    def _tell(self, result: ToolResult[Any]) -> None:
        """Pass a result on to those who observe; what fails in them is not the call's business."""
        for observer in list(self._observers):
            try:
                observer(result)
            except Exception:
                import logging

                logging.getLogger("agentcg").exception("an observer of tool calls failed: %r", observer)


def cgroup_path(cgroup: Session | StrPath) -> StrPath:
    """Give the path of a session's cgroup, or the path."""
    return cgroup.path if isinstance(cgroup, Session) else cgroup
