"""Process events as they come."""

from __future__ import annotations

import asyncio
import json
import select
import time
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from agentcg._errors import AgentcgError
from agentcg._events import from_json
from agentcg._handle import Handle

if TYPE_CHECKING:
    from agentcg import _native
    from agentcg._events import Event

_TURN = 64
"""So many events are handed out before other tasks of the event loop get a turn."""


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

    __slots__ = ("_fd", "_native", "_open", "_turn", "_waiter", "missing")

    missing: tuple[MissingProbe, ...]
    """What could not be attached, such as FILE_OPEN events without tracefs."""

    def __init__(self, native: _native.EventStream) -> None:
        """Wrap the native half."""
        self._native = native
        self._fd = native.fileno()
        self._open = True
        self._turn = 0
        self._waiter: asyncio.Future[None] | None = None
        self.missing = tuple(MissingProbe(*m) for m in native.missing)

    def next(self, timeout: float | None = None) -> Event | None:
        """Give the next event, waiting at most so many seconds (None: for ever, 0: not at all); None when none came."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            line = self._native.try_next()
            if line is not None:
                return from_json(line)
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return None
            poll = select.poll()
            poll.register(self._fd, select.POLLIN)
            poll.poll(None if left is None else min(left, 3600) * 1000)  # it takes 32 bits of ms

    def stats(self) -> EventStats:
        """Say what was delivered and lost so far."""
        found = json.loads(self._native.stats())
        return EventStats(**{f.name: found[f.name] for f in fields(EventStats)})

    def fileno(self) -> int:
        """Give the descriptor that is readable when events wait; read them with ``next(0)`` until there is none."""
        return self._native.fileno()

    def close(self) -> None:
        """Detach the probes; doing so again does nothing."""
        self._open = False
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

    def __aiter__(self) -> EventStream:
        """Give the stream itself."""
        return self

    async def __anext__(self) -> Event:
        """Wait for the next event."""
        while self._open:
            line = self._native.try_next()
            if line is None:
                await self._readable()
                continue
            self._turn = (self._turn + 1) % _TURN
            if self._turn == 0:
                await asyncio.sleep(0)
            return from_json(line)
        raise StopAsyncIteration

    async def _readable(self) -> None:
        if self._waiter is not None:
            raise AgentcgError("another task is reading this event stream", "busy")
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        loop.add_reader(self._fd, _wake, waiter)
        try:
            await waiter
        finally:
            if self._waiter is waiter:
                loop.remove_reader(self._fd)
                self._waiter = None


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
