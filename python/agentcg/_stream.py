"""Process events as they come."""

from __future__ import annotations

import json
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentcg._errors import AgentcgError
from agentcg._handle import Handle
from agentcg._usage import known
from agentcg._wait import in_trio, turn, wait, wake

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator

    from agentcg import _native
    from agentcg._events import Event

_BATCH = 64
"""So many events are fetched at once, and handed out before other tasks of the event loop get a turn."""


@dataclass(frozen=True)
class MissingProbe:
    """Something that was asked for and that this kernel does not give; everything else is delivered."""

    what: str
    error: str


@dataclass(frozen=True)
class EventStats:
    """What a stream has delivered and what was lost."""

    received: int
    """Events delivered, :class:`Dropped` left out."""
    ring_full: int
    """Lost because the kernel's buffer was full."""
    rate_limited: int
    """File events beyond the rate limit."""
    read_fault: int
    """Delivered, with a path or arguments missing."""
    map_full: int
    """Processes and opens for which the kernel had no memory."""
    recursion: int
    """Runs of a probe that the kernel skipped."""

    @property
    def dropped(self) -> int:
        """Events that were not delivered."""
        return self.ring_full + self.rate_limited + self.map_full + self.recursion


class EventStream(Handle):
    """Events in the order in which the kernel wrote them; made by :meth:`Runtime.subscribe`.

    An iterator and an asynchronous iterator; both end when the stream is closed. Waiting costs nothing: it is done in
    ``poll`` or in the event loop, on a descriptor that the kernel makes readable. One thread may use it, and one task
    read it; it must be closed there too, for closing does not end a wait in another thread.
    """

    __slots__ = ("_batch", "_cancel", "_fd", "_native", "_open", "_waiter", "missing")

    missing: tuple[MissingProbe, ...]
    """What could not be attached, such as FILE_OPEN events without tracefs."""

    def __init__(self, native: _native.EventStream) -> None:
        """Wrap the native half."""
        self._native = native
        self._fd = native.fileno()
        self._open = True
        self._batch: deque[Event] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._cancel: Any = None  # of the wait of a trio task
        self.missing = tuple(MissingProbe(*m) for m in native.missing)

    def next(self, timeout: float | None = None) -> Event | None:
        """Give the next event, waiting at most so many seconds (None: for ever, 0: not at all); None when none came."""
        if not self._batch and not self._fill():
            deadline = None if timeout is None else time.monotonic() + timeout
            while True:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return None
                wait(self._fd, left)
                if self._fill():
                    break
        return self._batch.popleft()

    def _fill(self) -> bool:
        self._batch.extend(self._native.read(_BATCH))
        return len(self._batch) > 0

    def stats(self) -> EventStats:
        """Say what was delivered and lost so far."""
        return known(EventStats, json.loads(self._native.stats()))

    def fileno(self) -> int:
        """Give the descriptor that is readable when events wait; read them with ``next(0)`` until there is none."""
        return self._native.fileno()

    def close(self) -> None:
        """Detach the probes; doing so again does nothing."""
        self._open = False
        self._batch.clear()
        if self._cancel is not None:
            self._cancel.cancel()
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            # Before the descriptor goes: the event loop must not keep one that may soon mean another file.
            waiter.get_loop().remove_reader(self._fd)
            waiter.set_result(None)
        self._native.close()

    def __iter__(self) -> EventStream:
        """Give the stream itself."""
        return self

    def __next__(self) -> Event:
        """Wait for the next event."""
        event = self.next() if self._open else None
        if event is None:
            raise StopIteration
        return event

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Give the events as they come."""
        batch = self._batch
        while True:
            while batch:
                yield batch.popleft()
            if not await self._more():
                return

    async def __anext__(self) -> Event:
        """Wait for the next event."""
        while not self._batch:
            if not await self._more():
                raise StopAsyncIteration
        return self._batch.popleft()

    async def _more(self) -> bool:
        """Wait for events; false: the stream is closed."""
        if not self._open:
            return False
        if self._fill():
            await turn()
        else:
            await self._readable()
        return self._open

    async def _readable(self) -> None:
        if self._waiter is not None or self._cancel is not None:
            raise AgentcgError("another task is reading this event stream", "busy")
        if in_trio():
            import trio

            with trio.CancelScope() as scope:
                self._cancel = scope
                try:
                    await trio.lowlevel.wait_readable(self._fd)
                finally:
                    self._cancel = None
            return
        import asyncio

        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        loop.add_reader(self._fd, wake, waiter)
        try:
            await waiter
        finally:
            if self._waiter is waiter:
                loop.remove_reader(self._fd)
                self._waiter = None
