"""What came of a tool call."""

from __future__ import annotations

import enum
import subprocess

from agentcg._errors import ToolCallError, ToolCallTimeoutError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from typing import Any

    from agentcg._options import Text
    from agentcg._types import Args, Output, T
    from agentcg._usage import Cause, Sample, Survivor, Usage
else:
    T = str  # any will do: `typing` takes its time to import


class Verdict(str, enum.Enum):
    """What a call came to, in one word."""

    COMPLETED = "completed"
    """It exited with status 0 and nothing of it was killed."""
    FAILED = "failed"
    """It exited with another status."""
    SIGNALED = "signaled"
    """A signal that was not ours ended it."""
    OOM_KILLED = "oom_killed"
    """The OOM killer took it, or a process of it, whatever its exit status."""
    TIMED_OUT = "timed_out"
    """Its time was over."""
    PIDS_EXHAUSTED = "pids_exhausted"
    """It failed, and forks of it had been refused by ``pids.max``."""
    CANCELLED = "cancelled"
    """It was cancelled, through a handle or ``agentcg kill``."""
    SPAWN_FAILED = "spawn_failed"
    """The program was never started."""

    @property
    def by_itself(self) -> bool:
        """It ended by itself, well or not: nothing else ended it."""
        return self in {Verdict.COMPLETED, Verdict.FAILED}

    def __str__(self) -> str:
        """Give the word alone."""
        return self.value


class ToolResult(subprocess.CompletedProcess[T]):
    """The end of a call: a :class:`subprocess.CompletedProcess` that also says why, and what it took.

    ``returncode`` is that of the main process, minus the number of the signal that ended it; for a program that was
    never started 127 (not found), 126 (cannot be executed) or 125. It does not tell everything: a shell may exit with
    0 after a child of it was OOM killed. :attr:`verdict` does.
    """

    def __init__(self, args: Args, text: Text | None, done: tuple[str, int, Output, Output]) -> None:
        """Take what the native module gives: the outcome as JSON, the status, the output."""
        # Instead of the base class's: right after a call all code is slow, for the command has had the caches.
        self._json, self.returncode, stdout, stderr = done
        self._found: dict[str, Any] | None = None
        self.args = args
        self.stdout = self.stderr = None  # type: ignore[assignment] # when it was not captured
        self.truncated = False
        """Captured output was longer than ``capture_limit``: its middle is missing."""
        if stdout is not None:
            self.stdout, self.truncated = _output(text, stdout), stdout[1] is not None
        if stderr is not None:
            self.stderr, self.truncated = _output(text, stderr), self.truncated or stderr[1] is not None

    def to_dict(self) -> dict[str, Any]:
        """Give the outcome as described by ``docs/outcome.schema.json``; without the output."""
        if self._found is None:
            import json

            found: dict[str, Any] = json.loads(self._json)
            self._found = found
        return self._found

    def to_json(self) -> str:
        """Give the same as one line of JSON."""
        return self._json

    @property
    def verdict(self) -> Verdict:
        """What it came to, decided from the kernel's counters and not from the exit status."""
        return Verdict(self.to_dict()["verdict"])

    @property
    def success(self) -> bool:
        """It exited with status 0 and nothing of it was killed."""
        return self.verdict is Verdict.COMPLETED

    @property
    def usage(self) -> Usage:
        """What the call took, descendants included."""
        from agentcg._usage import Usage, known

        found = self.to_dict()
        return known(Usage, {**found["usage"], "unavailable": found["unavailable"]})

    @property
    def cause(self) -> Cause | None:
        """The resource that ended or hampered it."""
        from agentcg._usage import Cause, Victim, known

        found = self.to_dict()["cause"]
        if found is None:
            return None
        victim = found.get("victim")
        return known(Cause, {**found, "victim": victim and Victim(**victim)})

    @property
    def advice(self) -> str:
        """What an agent should do about it, in words; empty when there is nothing to say."""
        advice: str = self.to_dict()["advice"]
        return advice

    @property
    def suggestions(self) -> list[dict[str, Any]]:
        """The advice as data: ``{"action": "retry_with_hint", "hint": "memory:1G"}``."""
        suggestions: list[dict[str, Any]] = self.to_dict().get("suggestions", [])
        return suggestions

    @property
    def call(self) -> str:
        """The name of the call."""
        call: str = self.to_dict()["call"]
        return call

    @property
    def session(self) -> str:
        """The name of its session."""
        session: str = self.to_dict()["session"]
        return session

    @property
    def started_at(self) -> datetime:
        """The wall clock at the start, UTC."""
        from datetime import datetime

        started: str = self.to_dict()["started_at"]
        return datetime.fromisoformat(started.replace("Z", "+00:00"))

    @property
    def duration(self) -> float:
        """Seconds from the start until the main process had ended, to the ms."""
        duration: int = self.to_dict()["duration_ms"]
        return duration / 1000

    @property
    def queued(self) -> float:
        """Seconds in the queue for admission before that, to the ms."""
        queued: int = self.to_dict().get("queued_ms", 0)
        return queued / 1000

    @property
    def exit_code(self) -> int | None:
        """Of the main process; None when a signal ended it, it was not started, or its status is not known."""
        code: int | None = self.to_dict()["exit_code"]
        return code

    @property
    def signal(self) -> int | None:
        """The signal that ended the main process."""
        signal: int | None = self.to_dict()["signal"]
        return signal

    @property
    def hint(self) -> str | None:
        """The hint it was started with."""
        hint: str | None = self.to_dict()["hint"]
        return hint

    @property
    def limits(self) -> Mapping[str, Any]:
        """The limits of its cgroup: numbers, or ``"max"``."""
        limits: dict[str, Any] = self.to_dict()["limits"]
        return limits

    @property
    def error(self) -> str | None:
        """Why it was not started."""
        return self.to_dict().get("error")

    @property
    def notes(self) -> list[str]:
        """How limits were changed to fit, or why the exit status is not known."""
        notes: list[str] = self.to_dict().get("notes", [])
        return notes

    @property
    def killed_processes(self) -> int:
        """Processes that the main process left behind, and that were killed with the call."""
        killed: int = self.to_dict().get("killed_processes", 0)
        return killed

    @property
    def survivors(self) -> list[Survivor]:
        """Processes that could not be killed in time."""
        from agentcg._usage import Survivor, known

        return [known(Survivor, s) for s in self.to_dict().get("survivors", [])]

    @property
    def timeline(self) -> list[Sample]:
        """Usage over time, with ``sample=``."""
        from agentcg._usage import Sample, known

        return [known(Sample, s) for s in self.to_dict().get("timeline", [])]

    def check_returncode(self) -> None:
        """Raise :class:`ToolCallError` unless the verdict is ``completed``."""
        # Without looking at the JSON where that can be: nothing is killed in nearly every call.
        if self.returncode == 0 and '"verdict":"completed"' in self._json:
            return
        if self.verdict is Verdict.TIMED_OUT:
            raise ToolCallTimeoutError(self)
        if self.verdict is not Verdict.COMPLETED:
            raise ToolCallError(self)

    def __repr__(self) -> str:
        """Show what was run and what it came to."""
        return f"ToolResult(args={self.args!r}, returncode={self.returncode!r}, verdict={self.verdict.value!r})"


def _output(text: Text | None, output: tuple[bytes, int | None]) -> Any:
    return output[0] if text is None else text.decode(*output)
