"""Each tool call to :mod:`logging`, or to a JSONL file that ``agentcg report`` reads.

>>> runtime.observe(LoggingObserver())  # doctest: +SKIP
>>> runtime.observe(JsonlObserver("run.jsonl"))  # doctest: +SKIP
"""

from __future__ import annotations

import logging
import os
import shlex
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentcg._result import ToolResult
    from agentcg._types import AnyPath

_LONGEST = 200
"""So much of a command is shown."""


class LoggingObserver:
    """Logs each call when it is over: at INFO, or at WARNING when something other than itself ended it.

    The record has the outcome as a dict in ``record.agentcg``, for handlers that take structured data.
    """

    def __init__(self, logger: logging.Logger | None = None, level: int = logging.INFO) -> None:
        """Log to this logger, by default ``agentcg.calls``; calls that ended by themselves at ``level``."""
        self._logger = logger or logging.getLogger("agentcg.calls")
        self._level = level

    def __call__(self, result: ToolResult[Any]) -> None:
        """Log one."""
        level = self._level if result.verdict.by_itself else max(self._level, logging.WARNING)
        if not self._logger.isEnabledFor(level):
            return
        found = result.to_dict()
        command = shlex.join(found["command"])
        if len(command) > _LONGEST:
            command = command[:_LONGEST] + "…"
        self._logger.log(
            level,
            "%s/%s %s, status %d, after %.3f s: %s%s",
            result.session,
            result.call,
            result.verdict.value,
            result.returncode,
            result.duration,
            command,
            f": {result.advice}" if result.advice else "",
            extra={"agentcg": found},
        )


class JsonlObserver:
    """Appends each outcome to a file, one JSON object a line, as ``AGENTCG_LOG`` does for the programs.

    Any number of processes may write to it. The file is opened for each line: it may be rotated.
    """

    def __init__(self, path: AnyPath) -> None:
        """Write to this file; it is made when it is missing."""
        self._path = path

    def __call__(self, result: ToolResult[Any]) -> None:
        """Write one line, at once, so that lines of others do not mix with it."""
        line = result.to_json().encode() + b"\n"
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            written = os.write(fd, line)
            if written < len(line):
                raise OSError(
                    f"only {written} of {len(line)} bytes of an outcome fitted into {os.fsdecode(self._path)}"
                )
        finally:
            os.close(fd)
