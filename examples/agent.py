#!/usr/bin/env python3
"""A minimal agent loop: it runs a command, reads the verdict, and changes its plan. agent.py [COMMAND [ARG]...].

A real agent asks a model what to do next; this one follows the suggestions, which say the same as the advice does in
words.
"""

import os
import sys

from agentcg import Runtime, Session, ToolResult, Verdict

ATTEMPTS = 4


def attempt(session: Session, command: list[str]) -> ToolResult[str]:
    """Run the command until it ends by itself, or there is no better plan."""
    hint = None
    timeout = 1.0
    for number in range(1, ATTEMPTS + 1):
        result = session.run(command, hint=hint, timeout=timeout, capture_output=True, text=True)
        print(f"attempt {number}: {result.verdict}, {result.duration:.1f} s. {result.advice}")
        if result.verdict is Verdict.OOM_KILLED:
            suggested = [s["hint"] for s in result.suggestions if s["action"] == "retry_with_hint"]
            if not suggested:
                break
            hint = suggested[0]
        elif result.verdict is Verdict.TIMED_OUT:
            timeout *= 4
        else:
            break
    return result


def main(command: list[str]) -> int:
    """Run it in a session of its own."""
    with Runtime(os.environ.get("AGENTCG_ROOT")) as runtime, runtime.session("agent-1") as session:
        result = attempt(session, command or ["sh", "-c", "sleep 2; echo done"])
        usage = result.usage
    print(f"{result.stdout.strip()!r}, CPU {usage.cpu_user_us} µs")
    return result.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
