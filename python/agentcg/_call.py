"""Tool calls that run."""

from __future__ import annotations

import contextlib
import io
import os
import selectors
import subprocess
import threading
import time
from typing import IO, TYPE_CHECKING, Any, Generic, cast

from agentcg._handle import Handle
from agentcg._options import Text, data
from agentcg._result import ToolResult
from agentcg._types import T
from agentcg._wait import wait

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

    from typing_extensions import Self

    from agentcg import _native
    from agentcg._types import Args, Observer
    from agentcg._usage import Usage


class Call(Handle):
    """What calls have in common, whoever waits for them."""

    __slots__ = ("_finished", "_lock", "_native", "_result", "_text", "args")

    args: Args
    """As they were given."""

    def __init__(self, native: _native.ToolCall, args: Args, text: Text | None, finished: Observer) -> None:
        """Wrap the native half; ``finished`` is told the result, once."""
        self._native = native
        self._text = text
        self._finished = finished
        self._lock = threading.Lock()
        self._result: ToolResult[Any] | None = None
        self.args = args

    @property
    def name(self) -> str:
        """The name of the call and of its cgroup."""
        return self._native.name

    @property
    def path(self) -> Path:
        """Its cgroup directory."""
        return self._native.path

    @property
    def pid(self) -> int | None:
        """The main process; None when it could not be started."""
        return self._native.pid

    @property
    def returncode(self) -> int | None:
        """As :attr:`ToolResult.returncode`; None while nobody has seen the end."""
        return None if self._result is None else self._result.returncode

    def fileno(self) -> int:
        """Give the descriptor that is readable when the call is over."""
        return self._native.fileno()

    def usage(self) -> Usage:
        """Read what it has used so far, or in all when it has ended."""
        from agentcg._usage import Usage

        return Usage.from_json(self._native.usage())

    def cancel(self) -> None:
        """SIGTERM to all of its processes, SIGKILL after the grace. Its verdict is ``cancelled``."""
        self._native.cancel()

    def kill(self) -> None:
        """Kill all of its processes at once. Its verdict is ``cancelled``."""
        self._native.kill()

    def terminate(self) -> None:
        """As :meth:`cancel`."""
        self._native.cancel()

    def send_signal(self, signal: int) -> None:
        """Send a signal to the main process; nothing is done when it has ended."""
        self._native.signal(signal)

    def freeze(self) -> None:
        """Stop all of its processes where they are."""
        self._native.freeze(True)

    def thaw(self) -> None:
        """Let them go on."""
        self._native.freeze(False)

    def poll(self) -> int | None:
        """Give the return code if the call is over; does not wait."""
        if self._result is None and wait(self.fileno(), 0):
            self._take()
        return self.returncode

    def _take(self) -> ToolResult[Any]:
        """Fetch the result of a call that is over."""
        with self._lock:
            if self._result is not None:
                return self._result
            done = self._native.finish()
            if done is None:
                raise RuntimeError("the outcome of the call was taken and lost")  # an interrupt just there
            result = self._result = ToolResult(self.args, self._text, done)
        self._finished(result)
        return result


class ToolCall(Call, Generic[T]):
    """A call that runs, shaped like :class:`subprocess.Popen`; made by :meth:`Session.popen`.

    As a context manager it closes its pipes and waits at the end; after an exception it kills the call first. A call
    that nobody holds any more is killed. May be used from several threads.
    """

    __slots__ = ("_input", "_read", "stderr", "stdin", "stdout")

    stdin: IO[T] | None
    """With ``stdin=PIPE``: what is written here is its input."""
    stdout: IO[T] | None
    """With ``stdout=PIPE``: its output."""
    stderr: IO[T] | None
    """With ``stderr=PIPE``: its error output."""

    def __init__(
        self, native: _native.ToolCall, args: Args, text: Text | None, finished: Observer, bufsize: int
    ) -> None:
        """Wrap the native half."""
        super().__init__(native, args, text, finished)
        stdin, stdout, stderr = native.pipes()
        self.stdin = self._open(stdin, "wb", bufsize)
        self.stdout = self._open(stdout, "rb", bufsize)
        self.stderr = self._open(stderr, "rb", bufsize)
        self._input: memoryview | None = None
        self._read: dict[IO[T], list[bytes]] = {}

    def _open(self, fd: int | None, mode: str, bufsize: int) -> IO[T] | None:
        if fd is None:
            return None
        if self._text is None:
            return cast("IO[T]", open(fd, mode, bufsize))  # noqa: PTH123 - a descriptor
        binary = open(fd, mode, -1 if bufsize == 1 else bufsize)  # noqa: PTH123, SIM115 - closed by close()
        wrapped = io.TextIOWrapper(
            cast("IO[bytes]", binary),
            encoding=self._text.encoding,
            errors=self._text.errors,
            line_buffering=bufsize == 1,
            write_through=True,
        )
        return cast("IO[T]", wrapped)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end, at most so many seconds, and give the return code.

        Raises :class:`subprocess.TimeoutExpired` when it is not over by then; the call runs on.
        """
        return self.result(timeout).returncode

    def result(self, timeout: float | None = None) -> ToolResult[T]:
        """Wait likewise, and give the whole result. Output that was read from the pipes is not in it."""
        if self._result is None and not wait(self.fileno(), timeout):
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self._take()

    def communicate(self, input: Any = None, timeout: float | None = None) -> tuple[T | None, T | None]:
        """Write the input, read the output to its end, wait; as :meth:`subprocess.Popen.communicate`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        if self.stdin is not None and self._input is None:
            self.stdin.flush()
            os.set_blocking(self.stdin.fileno(), False)
            self._input = memoryview(data(self._text, input) if input else b"")
        with selectors.DefaultSelector() as selector:
            for file, event in self._pipes():
                self._read.setdefault(file, [])
                if not file.closed:
                    selector.register(file, event)
            while selector.get_map():
                left = self._left(deadline, timeout)
                for key, _ in selector.select(left):
                    file = cast("IO[T]", key.fileobj)
                    if not self._move(file):
                        selector.unregister(file)
                        file.close()
        self.result(self._left(deadline, timeout))
        return self._all(self.stdout), self._all(self.stderr)

    def _pipes(self) -> Iterator[tuple[IO[T], int]]:
        for file in (self.stdin, self.stdout, self.stderr):
            if file is not None:
                yield file, selectors.EVENT_WRITE if file is self.stdin else selectors.EVENT_READ

    def _left(self, deadline: float | None, timeout: float | None) -> float | None:
        if deadline is None:
            return None
        left = deadline - time.monotonic()
        if left <= 0:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return left

    def _move(self, file: IO[T]) -> bool:
        """Write or read a piece; False: that was all."""
        if file is self.stdin:
            assert self._input is not None
            try:
                self._input = self._input[os.write(file.fileno(), self._input[: 64 << 10]) :]
            except BrokenPipeError:
                return False
            return len(self._input) > 0
        piece = os.read(file.fileno(), 64 << 10)
        self._read[file].append(piece)
        return len(piece) > 0

    def _all(self, file: IO[T] | None) -> T | None:
        if file is None:
            return None
        got = b"".join(self._read[file])
        return cast("T", got if self._text is None else self._text.decode(got))

    def _close_pipes(self) -> None:
        for file, _ in self._pipes():
            with contextlib.suppress(BrokenPipeError):  # what was buffered may have no reader any more
                file.close()

    def close(self) -> None:
        """Kill it if it runs, close the pipes and wait for its end; doing so again does nothing."""
        if self._result is None:
            self.kill()
        self._close_pipes()
        self.result()

    def __enter__(self) -> Self:
        """Give the call itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the pipes and wait for the end; after an exception kill it first."""
        if kind is not None:
            self.close()
        else:
            self._close_pipes()
            self.result()

    def __repr__(self) -> str:
        """Show what was run and how far it is."""
        return f"<agentcg.ToolCall {self.name!r} pid={self.pid} returncode={self.returncode} args={self.args!r}>"
