"""An environment for mini-swe-agent (2.x): every command of the agent is a tool call.

>>> environment = AgentcgEnvironment(memory_max="4G", timeout=300)  # doctest: +SKIP
>>> DefaultAgent(model, environment, ...).run(task)  # doctest: +SKIP

Or by name, on the command line: ``mini --environment-class
agentcg.integrations.minisweagent.AgentcgEnvironment``.
"""

from __future__ import annotations

import os
from subprocess import DEVNULL, PIPE, STDOUT
from typing import TYPE_CHECKING, Any, Literal, Optional, Union

from minisweagent.environments.local import LocalEnvironment, LocalEnvironmentConfig

from agentcg._runtime import Runtime

if TYPE_CHECKING:
    from typing_extensions import Self

    from agentcg._session import Session


# pydantic reads these types when it runs: `X | None` needs Python 3.10.
class AgentcgEnvironmentConfig(LocalEnvironmentConfig):
    """What the environment of mini-swe-agent has, and the session."""

    root: Optional[str] = None  # noqa: UP045
    """The runtime's root cgroup, which may be shared with others; default: ``AGENTCG_ROOT``, else the usual one."""
    session: str = ""
    """The session's name; default: ``mini-PID``, which is this process's alone."""
    priority: Literal["high", "normal", "low"] = "normal"
    """How the session stands against others."""
    hint: Optional[str] = None  # noqa: UP045
    """What a command needs, unless the action has a ``hint`` of its own."""
    memory_max: Union[int, str, None] = None  # noqa: UP007
    """Of each command: bytes, or ``"4G"``."""
    pids_max: Union[int, str, None] = None  # noqa: UP007
    """Of each command: processes and threads."""
    cpu_max: Optional[float] = None  # noqa: UP045
    """Of each command: CPUs' worth of time."""


class AgentcgEnvironment(LocalEnvironment):
    """Runs each command in a cgroup of its own.

    The agent is told what it could not know: when a limit, the OOM killer or the timeout ended a command, the verdict
    and the advice are its ``exception_info``. The whole outcome is in ``extra["agentcg"]``, and so in the trajectory.
    """

    config: AgentcgEnvironmentConfig

    def __init__(self, *, config_class: type = AgentcgEnvironmentConfig, **kwargs: Any) -> None:
        """Open the session."""
        super().__init__(config_class=config_class, **kwargs)
        root = self.config.root or os.environ.get("AGENTCG_ROOT")
        self.runtime = Runtime(root, shared=True)
        name = self.config.session or f"mini-{os.getpid()}"
        self.session: Session = self.runtime.session(name, self.config.priority)

    def execute(self, action: dict[str, Any], cwd: str = "", *, timeout: int | None = None) -> dict[str, Any]:
        """Run the command of an action."""
        config = self.config
        result = self.session.run(
            action.get("command", ""),
            shell=True,
            encoding="utf-8",
            errors="replace",
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            cwd=cwd or config.cwd or os.getcwd(),  # noqa: PTH109 - text
            env={**os.environ, **config.env},
            timeout=timeout or config.timeout,
            start_new_session=True,
            hint=action.get("hint") or config.hint,
            memory_max=config.memory_max,
            pids_max=config.pids_max,
            cpu_max=config.cpu_max,
        )
        output = {
            "output": result.stdout,
            "returncode": result.returncode,
            "exception_info": (
                "" if result.verdict.by_itself else f"{result.verdict.value}: {result.advice or result.error}"
            ),
            "extra": {"agentcg": result.to_dict()},
        }
        self._check_finished(output)
        return output

    def close(self) -> None:
        """End the session; doing so again does nothing."""
        self.runtime.close()

    def __enter__(self) -> Self:
        """Give the environment itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()
