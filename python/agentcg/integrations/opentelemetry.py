"""An OpenTelemetry span for each tool call, by the conventions for generative AI (``execute_tool``). Opt-in.

>>> runtime.observe(SpanObserver())  # doctest: +SKIP

The span is a child of the one that is current where the end of the call is seen: in the thread or task that called
``run`` or ``run_async``. It needs ``opentelemetry-api``.
"""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from agentcg import __version__
from agentcg._result import Verdict

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider
    from opentelemetry.util.types import AttributeValue

    from agentcg._result import ToolResult

_NS_IN_MS = 1_000_000


class SpanObserver:
    """Makes a span named ``execute_tool PROGRAM`` of each call.

    ===================================  ==================================================
    ``gen_ai.operation.name``            ``execute_tool``
    ``gen_ai.tool.name``                 the program
    ``gen_ai.tool.call.id``              the name of the call
    ``gen_ai.tool.type``                 ``function``
    ``gen_ai.tool.call.arguments``       the command line; only with ``arguments=True``
    ``error.type``                       the verdict, when it is not ``completed``
    ``process.exit.code``                of the main process, when it exited
    ``agentcg.session``, ``agentcg.verdict``, ``agentcg.advice``, ``agentcg.hint``
                                         as in the outcome
    ``agentcg.usage.*``                  each number of the usage: bytes, µs, counts
    ``agentcg.limit.*``                  each limit of the call
    ``agentcg.cause.limit``, ``agentcg.cause.scope``
                                         what ended or hampered it
    ===================================  ==================================================
    """

    def __init__(self, provider: TracerProvider | None = None, *, arguments: bool = False) -> None:
        """Take the tracer of this provider, by default the global one; command lines may hold secrets."""
        self._tracer = trace.get_tracer("agentcg", __version__, provider)
        self._arguments = arguments

    def __call__(self, result: ToolResult[Any]) -> None:
        """Make the span, as long as the call was."""
        found = result.to_dict()
        start = round(result.started_at.timestamp() * 1000) * _NS_IN_MS
        program = os.path.basename(found["command"][0])  # noqa: PTH119 - text, and no path of ours
        span = self._tracer.start_span(
            f"execute_tool {program}",
            kind=SpanKind.INTERNAL,
            attributes=self._attributes(result, program),
            start_time=start,
        )
        if result.verdict is not Verdict.COMPLETED:
            span.set_status(Status(StatusCode.ERROR, result.advice or result.verdict.value))
        span.end(start + found["duration_ms"] * _NS_IN_MS)

    def _attributes(self, result: ToolResult[Any], program: str) -> dict[str, AttributeValue]:
        found = result.to_dict()
        attributes: dict[str, AttributeValue | None] = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": program,
            "gen_ai.tool.call.id": result.call,
            "gen_ai.tool.type": "function",
            "gen_ai.tool.call.arguments": shlex.join(found["command"]) if self._arguments else None,
            "error.type": None if result.success else result.verdict.value,
            "process.exit.code": result.exit_code,
            "agentcg.session": result.session,
            "agentcg.verdict": result.verdict.value,
            "agentcg.advice": result.advice or None,
            "agentcg.hint": result.hint,
        }
        cause = found["cause"] or {}
        for name in ("limit", "scope"):
            attributes[f"agentcg.cause.{name}"] = cause.get(name)
        for name, value in found["usage"].items():
            attributes[f"agentcg.usage.{name}"] = value
        for name, value in found["limits"].items():
            if isinstance(value, (int, float, str)):
                attributes[f"agentcg.limit.{name}"] = value
        return {name: value for name, value in attributes.items() if value is not None}
