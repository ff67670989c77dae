"""The events, as values that can be matched on."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from agentcg._native import read_event

T = TypeVar("T")

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from typing_extensions import dataclass_transform

    @dataclass_transform(frozen_default=True)
    def _value(cls: type[T]) -> type[T]: ...

else:

    def _value(cls: type[T]) -> type[T]:
        if sys.version_info < (3, 10):
            return dataclass(frozen=True)(cls)
        made = dataclass(frozen=True, slots=True)(cls)
        names = [f.name for f in fields(made)]
        # That of a frozen dataclass looks up and calls object.__setattr__ for each field: twice the time.
        setters = {f"set_{name}": getattr(made, name).__set__ for name in names}
        body = [f"    set_{name}(self, {name})" for name in names] or ["    pass"]
        exec("\n".join([f"def __init__(self, {', '.join(names)}):", *body]), setters)  # noqa: S102 - as dataclass does
        made.__init__ = setters["__init__"]
        return made


_ABSENT_WHEN_NONE = ("cgroup", "session", "tool_call")


@_value
class Event:
    """Something that a process did, or that reports of it were lost."""

    EVENT: ClassVar[str]
    """The kind, as in JSON: ``EXEC``."""

    def to_dict(self) -> dict[str, Any]:
        """Give the event as in JSON."""
        found: dict[str, Any] = {"event": self.EVENT}
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None or field.name not in _ABSENT_WHEN_NONE:
                found[field.name] = list(value) if isinstance(value, tuple) else value
        return found


@_value
class Origin(Event):
    """What every event says of the process it is about."""

    timestamp: int
    """ns since boot, suspend included (``CLOCK_BOOTTIME``)."""
    pid: int
    ppid: int
    comm: str
    """The command name, at most 15 bytes."""
    uid: int
    cgroup_id: int
    """The kernel's id of the cgroup, ``cgroup_id`` in BPF."""
    cgroup: str | None
    """The cgroup's path; None when the cgroup is older than the stream and gone."""
    session: str | None
    tool_call: str | None


@_value
class Exec(Origin):
    """A program was executed."""

    EVENT = "EXEC"

    filename: str
    """The path that was executed, as given."""
    argv: tuple[str, ...]
    """The arguments, up to ``args_bytes``."""
    full_command: str
    """The arguments joined by blanks, for reading."""
    argv_truncated: bool
    """There was more than fits."""


@_value
class Exit(Origin):
    """A process ended."""

    EVENT = "EXIT"

    exit_code: int | None
    """None when a signal killed it."""
    signal: int | None
    """The signal that killed it."""
    core_dumped: bool
    duration_ms: int
    """Since it was forked."""
    cpu_user_us: int
    cpu_system_us: int
    memory_peak_bytes: int
    """The largest resident set."""
    read_bytes: int
    """From block devices."""
    write_bytes: int
    """To block devices."""
    oom_killed: bool
    """The OOM killer chose it."""


@_value
class Fork(Origin):
    """A process forked; the origin is the parent."""

    EVENT = "FORK"

    child_pid: int


@_value
class FileOpen(Origin):
    """A process opened a file, or tried to."""

    EVENT = "FILE_OPEN"

    filepath: str
    """From the root of its mount namespace, symbolic links followed; as the process gave it where the open failed or
    the path is longer than 255 bytes."""
    flags: int
    """The ``O_*`` flags."""
    result: int
    """The file descriptor, or minus the errno."""
    count: int
    """How many opens this event stands for."""


@_value
class BashReadline(Origin):
    """A line was entered in an interactive bash."""

    EVENT = "BASH_READLINE"

    command: str
    """The line, at most 1023 bytes."""


@_value
class OomKill(Origin):
    """The OOM killer chose a process; the origin is the victim."""

    EVENT = "OOM_KILL"

    limit_cgroup: str | None
    """The cgroup whose ``memory.max`` was reached; None when it is the machine's memory, or the name is not known."""
    limit_cgroup_id: int | None
    """The kernel's id of that cgroup; None: the machine's memory was exhausted."""
    limit_bytes: int | None
    """That ``memory.max``."""


@_value
class Dropped(Event):
    """Events were lost between the last event and this one."""

    EVENT = "DROPPED"

    count: int
    reason: str
    """``ring_full``: the reader was too slow; ``rate_limited``: a thread opened more files than ``open_rate``;
    ``read_fault``: the event was delivered, but its path or arguments could not be read; ``map_full``: the kernel had
    no memory for a process or an open; ``recursion``: the kernel skipped a probe, with an event perhaps."""


@_value
class Unknown(Event):
    """An event of a kind that came after this version of the package."""

    EVENT = "UNKNOWN"

    kind: str
    json: str
    """The event as the native module gave it."""

    def to_dict(self) -> dict[str, Any]:
        """Give the event as in JSON."""
        found: dict[str, Any] = json.loads(self.json)
        return found


CLASSES = [
    (cls, cls.EVENT, [f.name for f in fields(cls)])
    for cls in (Exec, Exit, Fork, FileOpen, BashReadline, OomKill, Dropped, Unknown)
]
"""For the native module, in its order."""


def read_events(lines: Iterable[str]) -> Iterator[Event]:
    """Read what ``agentcg process`` has written, such as ``open("events.jsonl")``; a header line is passed over.

    A line that is no event raises :class:`LimitError`, which is a :class:`ValueError`.
    """
    for line in lines:
        if line and not line.isspace():
            event = read_event(line)
            if not (isinstance(event, Unknown) and event.kind == "HEADER"):
                yield event
