"""Control and measure what AI agents' tool calls take from a Linux machine.

=====================  =======================================================
:class:`Runtime`       the owner of a cgroup subtree and of everything below
:class:`Session`       one agent's cgroup, with a priority and limits
``Session.run``        one tool call, shaped like :func:`subprocess.run`
:class:`ToolResult`    its end: status, output, usage, verdict, advice
:class:`ToolCall`      a call that runs, shaped like :class:`subprocess.Popen`
:class:`Scheduler`     a sched_ext CPU scheduler by cgroup weight
:class:`MemoryProtection`  high-priority memory is kept while it is short
:class:`EventStream`   what processes do: exec, exit, fork, file open, and more
:func:`capabilities`   what this kernel allows, why not, and how to get it
=====================  =======================================================

>>> import agentcg
>>> with agentcg.Runtime() as runtime, runtime.session("agent-1") as session:  # doctest: +SKIP
...     result = session.run(["make", "test"], memory_max="2G", timeout=600, capture_output=True, text=True)
...     if result.verdict is agentcg.Verdict.OOM_KILLED:
...         print(result.advice)

Every handle is a context manager that undoes at its end what it did. Errors are :class:`AgentcgError`. Importing
needs no privileges and no BPF, and loads what is used when it is used.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from subprocess import DEVNULL, PIPE, STDOUT

    from agentcg._aio import AsyncToolCall
    from agentcg._call import ToolCall
    from agentcg._capabilities import Backends, Capabilities, Capability, capabilities
    from agentcg._errors import (
        AgentcgError,
        LimitError,
        PermissionDeniedError,
        ToolCallError,
        ToolCallTimeoutError,
        UnsupportedError,
    )
    from agentcg._events import (
        BashReadline,
        Dropped,
        Event,
        Exec,
        Exit,
        FileOpen,
        Fork,
        OomKill,
        Origin,
        Unknown,
        read_events,
    )
    from agentcg._memory import MemoryProtection, MemorySessionStats, MemoryStats, ProtectionWindow, StuckCgroup
    from agentcg._native import __version__
    from agentcg._result import ToolResult, Verdict
    from agentcg._runtime import Runtime
    from agentcg._scheduler import Scheduler, SchedulerExit, SchedulerStats
    from agentcg._session import Session
    from agentcg._stream import EventStats, EventStream, MissingProbe
    from agentcg._trio import TrioToolCall as TrioToolCall  # not in __all__: it needs trio
    from agentcg._types import CallOptions, Capacity, Limits, PopenOptions, RunOptions
    from agentcg._usage import Cause, Sample, Survivor, Usage, Victim

__all__ = [
    "DEVNULL",
    "PIPE",
    "STDOUT",
    "AgentcgError",
    "AsyncToolCall",
    "Backends",
    "BashReadline",
    "CallOptions",
    "Capabilities",
    "Capability",
    "Capacity",
    "Cause",
    "Dropped",
    "Event",
    "EventStats",
    "EventStream",
    "Exec",
    "Exit",
    "FileOpen",
    "Fork",
    "LimitError",
    "Limits",
    "MemoryProtection",
    "MemorySessionStats",
    "MemoryStats",
    "MissingProbe",
    "OomKill",
    "Origin",
    "PermissionDeniedError",
    "PopenOptions",
    "ProtectionWindow",
    "RunOptions",
    "Runtime",
    "Sample",
    "Scheduler",
    "SchedulerExit",
    "SchedulerStats",
    "Session",
    "StuckCgroup",
    "Survivor",
    "ToolCall",
    "ToolCallError",
    "ToolCallTimeoutError",
    "ToolResult",
    "Unknown",
    "UnsupportedError",
    "Usage",
    "Verdict",
    "Victim",
    "__version__",
    "capabilities",
    "read_events",
]

_PLACES = {
    "subprocess": ("DEVNULL", "PIPE", "STDOUT"),
    "agentcg._aio": ("AsyncToolCall",),
    "agentcg._call": ("ToolCall",),
    "agentcg._capabilities": ("Backends", "Capabilities", "Capability", "capabilities"),
    "agentcg._errors": (
        "AgentcgError",
        "LimitError",
        "PermissionDeniedError",
        "ToolCallError",
        "ToolCallTimeoutError",
        "UnsupportedError",
    ),
    "agentcg._events": (
        "BashReadline",
        "Dropped",
        "Event",
        "Exec",
        "Exit",
        "FileOpen",
        "Fork",
        "OomKill",
        "Origin",
        "Unknown",
        "read_events",
    ),
    "agentcg._memory": (
        "MemoryProtection",
        "MemorySessionStats",
        "MemoryStats",
        "ProtectionWindow",
        "StuckCgroup",
    ),
    "agentcg._native": ("__version__",),
    "agentcg._result": ("ToolResult", "Verdict"),
    "agentcg._runtime": ("Runtime",),
    "agentcg._scheduler": ("Scheduler", "SchedulerExit", "SchedulerStats"),
    "agentcg._session": ("Session",),
    "agentcg._stream": ("EventStats", "EventStream", "MissingProbe"),
    "agentcg._trio": ("TrioToolCall",),
    "agentcg._types": ("CallOptions", "Capacity", "Limits", "PopenOptions", "RunOptions"),
    "agentcg._usage": ("Cause", "Sample", "Survivor", "Usage", "Victim"),
}


def __getattr__(name: str) -> object:
    """Load what is asked for: a harness that only runs calls need not pay for events and asyncio."""
    for place, names in _PLACES.items():
        if name in names:
            from importlib import import_module

            value = globals()[name] = getattr(import_module(place), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Name what is there, loaded or not."""
    return sorted({*globals(), *__all__})
