"""Tool calls for trio."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import trio

from agentcg._aio import AsyncToolCall
from agentcg._options import data

if TYPE_CHECKING:
    from agentcg._result import ToolResult


class TrioToolCall(AsyncToolCall):
    """A call that runs under trio: what :meth:`Session.popen_async` makes in a task of trio's.

    As :class:`AsyncToolCall`, but for its streams, which are trio's.
    """

    __slots__ = ()

    stdin: trio.lowlevel.FdStream | None  # type: ignore[assignment]
    """With ``stdin=PIPE``: ``await call.stdin.send_all(b"...")``, ``await call.stdin.aclose()``."""
    stdout: trio.lowlevel.FdStream | None  # type: ignore[assignment]
    """With ``stdout=PIPE``: its output, in pieces: ``async for piece in call.stdout``."""
    stderr: trio.lowlevel.FdStream | None  # type: ignore[assignment]
    """With ``stderr=PIPE``: its error output."""

    async def _open(self, stdin: int | None, stdout: int | None, stderr: int | None) -> None:
        self.stdin, self.stdout, self.stderr = (
            None if fd is None else trio.lowlevel.FdStream(fd) for fd in (stdin, stdout, stderr)
        )

    async def _ended(self) -> None:
        # One task for a descriptor: each has its own.
        fd = os.dup(self.fileno())
        try:
            await trio.lowlevel.wait_readable(fd)
        finally:
            os.close(fd)

    async def _settled(self) -> None:
        with trio.CancelScope(shield=True):
            await self._ended()

    async def result(self) -> ToolResult[bytes]:
        """Wait for the end and give the whole result. Output that was read from the pipes is not in it."""
        if self._result is None:
            await self._ended()
        else:
            await trio.lowlevel.checkpoint()
        return self._take()

    async def communicate(self, input: bytes | None = None) -> tuple[bytes | None, bytes | None]:
        """Write the input, read the output to its end, wait; as :meth:`asyncio.subprocess.Process.communicate`."""
        streams = (self.stdout, self.stderr)
        pieces: tuple[list[bytes], list[bytes]] = ([], [])

        async def read(stream: trio.lowlevel.FdStream, into: list[bytes]) -> None:
            into.extend([bytes(piece) async for piece in stream])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._feed, input)
            for stream, into in zip(streams, pieces):
                if stream is not None:
                    nursery.start_soon(read, stream, into)
        await self.result()
        out, err = (None if stream is None else b"".join(into) for stream, into in zip(streams, pieces))
        return out, err

    async def _feed(self, given: bytes | None) -> None:
        if self.stdin is None:
            return
        with contextlib.suppress(trio.BrokenResourceError):  # the reader is gone: that is its business
            await self.stdin.send_all(data(None, given or b""))
        await self.stdin.aclose()

    def _close_pipes(self) -> None:
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                stream.close()
