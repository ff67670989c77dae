"""Control and measure what AI agents' tool calls take from a Linux machine.

=====================  =======================================================
:class:`Runtime`       the owner of a cgroup subtree and of everything below
:class:`Session`       one agent's cgroup, with a priority and limits
:class:`Scheduler`     a sched_ext CPU scheduler by cgroup weight
:class:`MemoryProtection`  high-priority memory is kept while it is short
:class:`EventStream`   what processes do: exec, exit, fork, file open, and more
:func:`capabilities`   what this kernel allows, why not, and how to get it
=====================  =======================================================

Every handle is a context manager that undoes at its end what it did. Errors are :class:`AgentcgError`. Importing
needs no privileges and no BPF.
"""

from agentcg._capabilities import Backends, Capabilities, Capability, capabilities
from agentcg._errors import AgentcgError, LimitError, PermissionDeniedError, UnsupportedError
from agentcg._events import BashReadline, Dropped, Event, Exec, Exit, FileOpen, Fork, OomKill, Origin, Unknown
from agentcg._memory import MemoryProtection, MemoryStats, ProtectionWindow
from agentcg._native import __version__
from agentcg._runtime import Runtime
from agentcg._scheduler import Scheduler, SchedulerExit, SchedulerStats
from agentcg._session import Session, Usage
from agentcg._stream import EventStats, EventStream, MissingProbe

__all__ = [
    "AgentcgError",
    "Backends",
    "BashReadline",
    "Capabilities",
    "Capability",
    "Dropped",
    "Event",
    "EventStats",
    "EventStream",
    "Exec",
    "Exit",
    "FileOpen",
    "Fork",
    "LimitError",
    "MemoryProtection",
    "MemoryStats",
    "MissingProbe",
    "OomKill",
    "Origin",
    "PermissionDeniedError",
    "ProtectionWindow",
    "Runtime",
    "Scheduler",
    "SchedulerExit",
    "SchedulerStats",
    "Session",
    "Unknown",
    "UnsupportedError",
    "Usage",
    "__version__",
    "capabilities",
]
