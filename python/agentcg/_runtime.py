"""The owner of one cgroup subtree."""

from __future__ import annotations

import atexit
import weakref

from agentcg import _native
from agentcg._errors import pid, within
from agentcg._handle import Handle
from agentcg._options import capacity as room
from agentcg._options import limits as ready
from agentcg._session import Session, cgroup_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from typing import Any, Literal, TypeVar

    from typing_extensions import Unpack

    from agentcg._capabilities import Capabilities
    from agentcg._memory import MemoryProtection
    from agentcg._scheduler import Scheduler
    from agentcg._stream import EventStream
    from agentcg._types import Capacity, Kind, Limits, Observer, Priority, StrPath

    _H = TypeVar("_H", bound=Handle)

_U32 = (1 << 32) - 1


class Runtime(Handle):
    """The owner of one cgroup subtree and of everything attached on its behalf.

    ``root`` is the cgroup below which the sessions are made; it is made if it is missing, in an existing parent.
    Default: ``agentcg`` below the cgroup v2 mount. What a killed process left there is removed first.

    A second runtime on the same root is refused, unless both are ``shared``: then a session that is there already is
    joined, with the priority and limits that it has, and the last one out removes it. ``keep_orphans``: calls whose
    harness was killed are moved out instead of killed. ``capacity`` is what all calls may need together (see
    :class:`Capacity`); who finds no room waits.

    Closing it, at the latest when Python ends, closes all that it gave out, kills the calls that run, removes the
    cgroups that it made and switches controllers off again that it switched on. In a forked child it is of no use and
    does nothing; make another one there.
    """

    __slots__ = ("_bounded", "_given", "_native", "_observers")

    def __init__(
        self,
        root: StrPath | None = None,
        *,
        shared: bool = False,
        keep_orphans: bool = False,
        capacity: Capacity | None = None,
    ) -> None:
        """Take the subtree."""
        self._native = _native.Runtime(root, shared, keep_orphans, room(capacity))
        self._bounded = bool(capacity)
        self._given: weakref.WeakSet[Handle] = weakref.WeakSet()
        self._observers: list[Observer] = []
        _open.add(self)

    @property
    def root(self) -> Path:
        """The root cgroup's directory."""
        return self._native.root

    def capabilities(self) -> Capabilities:
        """Probe what this kernel and our privileges allow; :func:`agentcg.capabilities` needs no runtime."""
        from agentcg._capabilities import capabilities

        return capabilities()

    def session(
        self,
        name: str,
        priority: Priority = "normal",
        *,
        call_limits: Mapping[str, Any] | None = None,
        capacity: Capacity | None = None,
        **limits: Unpack[Limits],
    ) -> Session:
        """Make a session: the cgroup ``name`` below the root, with limits of its own (see :class:`Limits`).

        ``cpu_weight`` is 1 to 10000, by default that of the priority (150, 100, 50); ``cpu_max`` is in CPUs' worth of
        time; ``memory_low``, ``memory_high``, ``memory_max``, ``swap_max`` are sizes: bytes, text such as ``"512M"``,
        or ``"max"`` for no limit; ``pids_max`` counts processes and threads. None leaves a limit as the kernel has it.
        A limit whose controller is missing is an :class:`UnsupportedError`.

        ``call_limits`` are those of each tool call that does not say otherwise: ``{"memory_max": "2G"}``. ``capacity``
        is what the calls may need together: ``{"memory": "8G", "calls": 4}``; others wait, in the order in which they
        came, sessions by turns.
        """
        native = self._native.session(name, priority, ready(limits), ready(call_limits or {}), room(capacity))
        bounded = self._bounded or bool(capacity)
        return self._give(Session(native, name, priority, self._observers, bounded=bounded))

    def observe(self, observer: Observer) -> None:
        """Call ``observer(result)`` with the :class:`ToolResult` of every call of this runtime when it is over.

        In the thread or task that saw the end. What it raises is logged, and changes nothing for the call.
        """
        self._observers.append(observer)

    def start_scheduler(self, slice_us: int = 5000, scope: Literal["all", "agents"] = "all") -> Scheduler:
        """Attach a CPU scheduler that shares the CPU by ``cpu.weight``; needs root and a kernel with sched_ext.

        ``slice_us`` is how long a task runs before others are looked at, 100 to 1000000. Scope ``agents``: only
        processes placed in sessions, and their children.
        """
        from agentcg._scheduler import Scheduler

        return self._give(Scheduler(self._native.start_scheduler(within("slice_us", slice_us), scope)))

    def attach_memcg_ops(
        self,
        high: Iterable[Session | StrPath],
        low: Iterable[Session | StrPath] = (),
        *,
        delay_ms: int = 50,
        below_low: bool = True,
        below_min: bool = False,
        threshold: int = 0,
        window_ms: int = 1000,
        backend: Literal["auto", "memcg_bpf_ops", "cgroup"] = "auto",
        freeze: bool = True,
        stuck_after_ms: int = 10_000,
        when_stuck: Literal["report", "freeze", "lift"] = "report",
    ) -> MemoryProtection:
        """Protect the memory of the ``high`` cgroups against the ``low`` ones while they stall for it.

        ``delay_ms`` is how long an allocation of a low one may be delayed (0: not at all), ``below_low`` and
        ``below_min`` whether reclaim spares the high ones while it can, or always; ``threshold`` how many page faults a
        second of a high one count as a stall while memory is short (kernel 6.16; 0: none do), ``window_ms`` how long
        all is protected after the last stall: then less, while others press. ``freeze``: low ones are frozen for a part
        of the time when nothing else helps. A cgroup that meets its ``memory.high`` for ``stuck_after_ms`` (at least
        5000) without progress is stuck: that is reported, and ``when_stuck`` says whether it is frozen, or the limit
        lifted.

        While this runtime's scheduler is attached, low ones are held back on the CPU too.
        """
        native = self._native.attach_memcg_ops(
            [cgroup_path(c) for c in high],
            [cgroup_path(c) for c in low],
            within("delay_ms", delay_ms),
            below_low,
            below_min,
            within("threshold", threshold),
            within("window_ms", window_ms),
            backend,
            freeze,
            within("stuck_after_ms", stuck_after_ms),
            when_stuck,
        )
        from agentcg._memory import MemoryProtection

        return self._give(MemoryProtection(native))

    def subscribe(
        self,
        mode: Literal[0, 1, 2] = 0,
        commands: Iterable[str] = (),
        pids: Iterable[int] = (),
        cgroups: Iterable[Session | StrPath] = (),
        *,
        uids: Iterable[int] = (),
        executables: Iterable[StrPath] = (),
        min_duration_ms: int = 0,
        kinds: Iterable[Kind] | None = None,
        delay_ms: int = 10,
        open_window_ms: int = 100,
        open_rate: int = 1000,
        args_bytes: int = 16 << 10,
        buffer_bytes: int = 8 << 20,
    ) -> EventStream:
        """Subscribe to what processes do, from now on; filtered in the kernel.

        A process is tracked when its command, pid, cgroup, user or executable is named here, or when its parent was
        tracked when it forked. Mode 0 delivers everything, 1 file events of tracked processes only, 2 tracked processes
        only. The command ``python`` also matches ``python3.11``; ``executables`` are what the path given to exec begins
        with. ``min_duration_ms`` leaves out the EXIT of processes that lived less; ``kinds`` is by default all.

        ``delay_ms`` is how long an event may wait for others before we are woken, 0 to 1000 (0: not at all, at many
        times the cost). Repeated opens of one path by a thread within ``open_window_ms`` become one event, and those
        beyond ``open_rate`` in a second are counted as dropped. Arguments are cut beyond ``args_bytes``;
        ``buffer_bytes`` is the kernel's buffer. A process has at most 16 streams at a time.
        """
        native = self._native.subscribe(
            within("mode", mode, 0, 2),
            list(commands),
            [pid(p) for p in pids],
            [cgroup_path(c) for c in cgroups],
            [within("uid", uid, 0, _U32) for uid in uids],
            list(executables),
            within("min_duration_ms", min_duration_ms),
            None if kinds is None else list(kinds),
            within("delay_ms", delay_ms),
            within("open_window_ms", open_window_ms),
            within("open_rate", open_rate, 0, _U32),
            within("args_bytes", args_bytes, 0, _U32),
            within("buffer_bytes", buffer_bytes, 0, _U32),
        )
        from agentcg._stream import EventStream

        return self._give(EventStream(native))

    def move_pid(self, pid: int, session: Session) -> None:
        """Move a process with all its threads into a session; its later children are born there."""
        session.move_pid(pid)

    def close(self) -> None:
        """Close what it gave out, then give the subtree back; doing so again does nothing."""
        for handle in list(self._given):
            handle.close()
        self._native.close()

    def _give(self, handle: _H) -> _H:
        self._given.add(handle)
        return handle


# What is still open when Python ends: a dead process cannot clean up after itself.
_open: weakref.WeakSet[Runtime] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for runtime in list(_open):
        runtime.close()
