"""Tool calls for asyncio: the event loop waits on a descriptor that the kernel makes readable."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING, Any

from agentcg._call import Call
from agentcg._options import data
from agentcg._wait import wake

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator
    from types import TracebackType

    from typing_extensions import Self

    from agentcg import _native
    from agentcg._result import ToolResult
    from agentcg._types import Args, Observer


class AsyncToolCall(Call):
    """A call that runs under asyncio; made by :meth:`Session.popen_async`.

    Entering it with ``async with``, or awaiting it, starts the call. Leaving it closes its input and waits for the end;
    after an exception, cancellation included, it kills the call first.
    """

    __slots__ = ("_over", "_spawn", "stderr", "stdin", "stdout")

    stdin: asyncio.StreamWriter | None
    """With ``stdin=PIPE``: what is written here is its input."""
    stdout: asyncio.StreamReader | None
    """With ``stdout=PIPE``: its output."""
    stderr: asyncio.StreamReader | None
    """With ``stderr=PIPE``: its error output."""

    _over: asyncio.Future[None]

    def __init__(self, spawn: Callable[[], Awaitable[_native.ToolCall]], args: Args, finished: Observer) -> None:
        """Keep what starts it."""
        super().__init__(None, args, None, finished)  # type: ignore[arg-type] # there when it is started
        self._spawn = spawn
        self.stdin = self.stdout = self.stderr = None

    def __await__(self) -> Generator[Any, None, Self]:
        """Start it."""
        return self.__aenter__().__await__()

    async def __aenter__(self) -> Self:
        """Start it and give the call itself."""
        self._native = await self._spawn()
        await self._open(*self._native.pipes())
        return self

    async def _open(self, stdin: int | None, stdout: int | None, stderr: int | None) -> None:
        loop = asyncio.get_running_loop()
        self._over = loop.create_future()
        # Before any other callback of it: the loop must not keep a descriptor that may soon mean another file.
        fd = self.fileno()
        self._over.add_done_callback(lambda _: loop.remove_reader(fd))
        loop.add_reader(fd, wake, self._over)
        if stdin is not None:
            self.stdin = await _writer(loop, stdin)
        if stdout is not None:
            self.stdout = await _reader(loop, stdout)
        if stderr is not None:
            self.stderr = await _reader(loop, stderr)

    async def _ended(self) -> None:
        """Wait for the end; any number of tasks may."""
        await asyncio.shield(self._over)

    async def _settled(self) -> None:
        """Wait likewise after a cancellation."""
        await self._ended()

    async def wait(self) -> int:
        """Wait for the end and give the return code."""
        return (await self.result()).returncode

    async def result(self) -> ToolResult[bytes]:
        """Wait for the end and give the whole result. Output that was read from the pipes is not in it."""
        await self._ended()
        return self._take()

    async def communicate(self, input: bytes | None = None) -> tuple[bytes | None, bytes | None]:
        """Write the input, read the output to its end, wait; as :meth:`asyncio.subprocess.Process.communicate`."""
        stdout, stderr, _ = await asyncio.gather(_all(self.stdout), _all(self.stderr), self._feed(input))
        await self.result()
        return stdout, stderr

    async def _feed(self, given: bytes | None) -> None:
        if self.stdin is None:
            return
        try:
            self.stdin.write(data(None, given or b""))
            await self.stdin.drain()
            self.stdin.close()
        except (BrokenPipeError, ConnectionResetError):
            pass  # the reader is gone: that is its business

    def close(self) -> None:
        """Kill it if it runs and close the pipes; does not wait."""
        if self._native is not None and self._result is None:
            self.kill()
        self._close_pipes()

    def _close_pipes(self) -> None:
        if self.stdin is not None:
            self.stdin.close()
        for reader in (self.stdout, self.stderr):
            transport = getattr(reader, "_transport", None)
            if transport is not None:
                transport.close()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the pipes and wait for the end; after an exception kill it first."""
        if kind is not None:
            self.kill()
        self._close_pipes()
        try:
            await self.result()
        except BaseException:
            self.kill()
            await self._settled()
            self._take()
            raise

    def __repr__(self) -> str:
        """Show what was run and how far it is."""
        state = "not started" if self._native is None else f"{self.name!r} pid={self.pid} returncode={self.returncode}"
        return f"<agentcg.{type(self).__name__} {state} args={self.args!r}>"


async def _all(reader: asyncio.StreamReader | None) -> bytes | None:
    return None if reader is None else await reader.read()


async def _reader(loop: asyncio.AbstractEventLoop, fd: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader(loop=loop)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader, loop=loop), _pipe(loop, fd, "rb"))
    return reader


async def _writer(loop: asyncio.AbstractEventLoop, fd: int) -> asyncio.StreamWriter:
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, _pipe(loop, fd, "wb"))
    return asyncio.StreamWriter(transport, protocol, None, loop)


def _pipe(loop: asyncio.AbstractEventLoop, fd: int, mode: str) -> Any:  # what the loops expect
    """Make the object that a loop wants for a pipe.

    uvloop closes the object and then the descriptor. Another thread may have been given the number in between, and
    would lose what it opened; so the object leaves it to the loop.
    """
    uvloop = sys.modules.get("uvloop")
    if uvloop is not None and isinstance(loop, uvloop.Loop):
        return os.fdopen(fd, mode, buffering=0, closefd=False)
    return os.fdopen(fd, mode, buffering=0)
