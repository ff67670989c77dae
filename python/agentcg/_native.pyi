from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import final

from typing_extensions import Self, TypeAlias

_Path: TypeAlias = str | PathLike[str]

__all__ = [
    "EventStream",
    "MemoryProtection",
    "Runtime",
    "Scheduler",
    "Session",
    "__version__",
    "capabilities",
]

__version__: str

def capabilities() -> str: ...

@final
class Runtime:
    def __new__(cls, root: _Path | None) -> Self: ...
    @property
    def root(self) -> Path: ...
    def session(
        self,
        name: str,
        priority: str,
        cpu_weight: int | None,
        cpu_max: float | None,
        memory_low: str | None,
        memory_high: str | None,
        memory_max: str | None,
        swap_max: str | None,
        pids_max: str | None,
    ) -> Session: ...
    def start_scheduler(self, slice_us: int, scope: str) -> Scheduler: ...
    def attach_memcg_ops(
        self,
        high: Sequence[_Path],
        low: Sequence[_Path],
        delay_ms: int,
        below_low: bool,
        below_min: bool,
        threshold: int,
        window_ms: int,
        backend: str,
    ) -> MemoryProtection: ...
    def subscribe(
        self,
        mode: int,
        commands: Sequence[str],
        pids: Sequence[int],
        cgroups: Sequence[_Path],
        uids: Sequence[int],
        executables: Sequence[_Path],
        min_duration_ms: int,
        kinds: Sequence[str] | None,
        delay_ms: int,
        open_window_ms: int,
        open_rate: int,
        args_bytes: int,
        buffer_bytes: int,
    ) -> EventStream: ...
    def close(self) -> None: ...

@final
class Session:
    @property
    def path(self) -> Path: ...
    def usage(self) -> str: ...
    def move_pid(self, pid: int) -> None: ...
    def close(self) -> None: ...

@final
class Scheduler:
    def exited(self) -> str | None: ...
    def stats(self) -> str: ...
    def fileno(self) -> int: ...
    def close(self) -> None: ...

@final
class MemoryProtection:
    def backend(self) -> str: ...
    def stats(self) -> str: ...
    def close(self) -> None: ...

@final
class EventStream:
    @property
    def missing(self) -> list[tuple[str, str]]: ...
    def try_next(self) -> str | None: ...
    def stats(self) -> str: ...
    def fileno(self) -> int: ...
    def close(self) -> None: ...
