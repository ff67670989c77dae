"""The exceptions."""

from __future__ import annotations

import subprocess

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from agentcg._result import ToolResult


class AgentcgError(Exception):
    """What failed, on which object, what the kernel said and what can be done about it."""

    kind: str
    """The class of failure: ``invalid_input``, ``not_found``, ``already_exists``, ``permission_denied``, ``busy``,
    ``unsupported``, ``timed_out``, ``os``, ``bpf``, ``closed``, ``forked`` (the handle belongs to the process that this
    one was forked from), ``call`` (:class:`ToolCallError`)."""
    path: Path | None
    """The kernel file, cgroup or program it is about."""
    errno: int | None
    """The kernel's errno, where the kernel was asked."""
    help: str | None
    """The way out, where there is one; the message contains it."""

    def __init__(
        self,
        message: str,
        kind: str = "other",
        path: Path | None = None,
        errno: int | None = None,
        help: str | None = None,
    ) -> None:
        """Take the parts."""
        super().__init__(message)
        self.kind = kind
        self.path = path
        self.errno = errno
        self.help = help


class UnsupportedError(AgentcgError):
    """The kernel, its configuration or a tool call cannot do it."""


class PermissionDeniedError(AgentcgError, PermissionError):
    """Our privileges do not allow it."""


class LimitError(AgentcgError, ValueError):
    """A name, size, limit or option is not valid; nothing was changed."""


class ToolCallError(AgentcgError, subprocess.CalledProcessError):
    """A call with ``check=True`` did not complete; :attr:`result` has all about it.

    Also a :class:`subprocess.CalledProcessError`, with its ``cmd``, ``returncode``, ``stdout`` and ``stderr``.
    """

    result: ToolResult[Any]
    """What came of the call."""

    def __init__(self, result: ToolResult[Any]) -> None:
        """Take the result."""
        Exception.__init__(self, result)
        self.kind, self.path, self.errno = "call", None, None
        self.help = result.advice or None
        self.result = result
        self.cmd, self.returncode = result.args, result.returncode
        self.output, self.stderr = result.stdout, result.stderr

    def __str__(self) -> str:
        """Say what it came to, and the advice."""
        how = f"{self.result.verdict.value}, status {self.returncode}"
        return f"command {self.cmd!r}: {how}" + (f": {self.help}" if self.help else "")


class ToolCallTimeoutError(ToolCallError, subprocess.TimeoutExpired):
    """A call with ``check=True`` was ended by its timeout; also a :class:`subprocess.TimeoutExpired`."""

    def __init__(self, result: ToolResult[Any]) -> None:
        """Take the result."""
        super().__init__(result)
        self.timeout = result.duration


_CLASSES = {
    "invalid_input": LimitError,
    "permission_denied": PermissionDeniedError,
    "unsupported": UnsupportedError,
}


def make(
    kind: str,
    message: str,
    path: Path | None = None,
    errno: int | None = None,
    help: str | None = None,
) -> AgentcgError:
    """Make the exception for a failure; called by the native module."""
    return _CLASSES.get(kind, AgentcgError)(message, kind, path, errno, help)


def within(name: str, value: int, low: int = 0, high: int = (1 << 64) - 1) -> int:
    """Check that a number fits the native module's type; what it means is checked there."""
    if not low <= value <= high:
        raise make("invalid_input", f"invalid {name} {value}: expected {low} to {high}")
    return value


def pid(value: int) -> int:
    """Check a process id."""
    return within("pid", value, 1, (1 << 31) - 1)
