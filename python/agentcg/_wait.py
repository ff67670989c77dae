"""Waiting for a descriptor: in the calling thread, or in the event loop that runs."""

from __future__ import annotations

import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio


def wait(fd: int, timeout: float | None = None) -> bool:
    """Wait until it is readable, at most so many seconds; signal handlers run meanwhile. False: it is not."""
    deadline = None if timeout is None else time.monotonic() + timeout
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while True:
        left = None if deadline is None else max(deadline - time.monotonic(), 0)
        if poll.poll(None if left is None else min(left, 3600) * 1000):  # it takes 32 bits of ms
            return True
        if left is not None and left <= 0:
            return False


def in_trio() -> bool:
    """Say whether the task that runs is trio's; otherwise it is asyncio's."""
    trio = sys.modules.get("trio")
    return trio is not None and bool(trio.lowlevel.in_trio_run())


async def readable(fd: int, timeout: float | None = None) -> None:
    """Wait in the event loop, asyncio's or trio's, until it is readable, at most so many seconds.

    One task for a descriptor.
    """
    if in_trio():
        import trio

        with trio.CancelScope() if timeout is None else trio.move_on_after(timeout):
            await trio.lowlevel.wait_readable(fd)
        return
    import asyncio

    loop = asyncio.get_running_loop()
    waiter = loop.create_future()
    loop.add_reader(fd, wake, waiter)
    timer = None if timeout is None else loop.call_later(timeout, wake, waiter)
    try:
        await waiter
    finally:
        loop.remove_reader(fd)
        if timer is not None:
            timer.cancel()


async def settled(fd: int) -> None:
    """Wait likewise after a cancellation; in trio, where a cancelled scope stays cancelled, shielded from it."""
    if in_trio():
        import trio

        with trio.CancelScope(shield=True):
            await trio.lowlevel.wait_readable(fd)
    else:
        await readable(fd)


async def turn() -> None:
    """Let the other tasks run."""
    if in_trio():
        import trio

        await trio.lowlevel.checkpoint()
    else:
        import asyncio

        await asyncio.sleep(0)


def wake(waiter: asyncio.Future[None]) -> None:
    """End a wait."""
    if not waiter.done():
        waiter.set_result(None)
