"""The CPU scheduler."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentcg._handle import Handle

if TYPE_CHECKING:
    from agentcg import _native


@dataclass(frozen=True)
class SchedulerStats:
    """Counters since the scheduler was attached."""

    direct: int
    """Wake-ups that went straight to an idle CPU."""
    queued: int
    """Tasks put into the queue."""
    kept: int
    """Times a task went on running because nobody stood before it."""
    displaced: int
    """Times a CPU had to choose again because another had put back a task that came first."""


@dataclass(frozen=True)
class SchedulerExit:
    """Why the kernel detached a scheduler, in its words."""

    kind: str
    """``detached``, ``asked_by_scheduler``, ``asked_by_kernel``, ``sys_rq``, ``error``, ``error_of_scheduler``,
    ``stall``."""
    code: int
    reason: str
    message: str
    dump: str
    """The kernel's dump of tasks and queues at an error."""


class Scheduler(Handle):
    """An attached sched_ext scheduler; made by :meth:`Runtime.start_scheduler`. Closing it detaches it."""

    __slots__ = ("_native",)

    def __init__(self, native: _native.Scheduler) -> None:
        """Wrap the native half."""
        self._native = native

    def exited(self) -> SchedulerExit | None:
        """Say why the kernel detached it; None while it is attached."""
        exit_json = self._native.exited()
        return None if exit_json is None else SchedulerExit(**json.loads(exit_json))

    def stats(self) -> SchedulerStats:
        """Read the counters."""
        return SchedulerStats(**json.loads(self._native.stats()))

    def fileno(self) -> int:
        """Give the descriptor that becomes readable when the kernel detaches it."""
        return self._native.fileno()

    def close(self) -> None:
        """Detach it; doing so again does nothing."""
        self._native.close()
