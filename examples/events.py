#!/usr/bin/env python3
"""Runs a command and says what it and its descendants did: events.py COMMAND [ARG]..."""

import asyncio
import os
import sys

from agentcg import Dropped, Event, Exec, Exit, FileOpen, Runtime


def show(event: Event) -> None:
    """Print one event."""
    if isinstance(event, Exec):
        print(f"{event.pid} runs {event.full_command}")
    elif isinstance(event, FileOpen):
        print(f"{event.pid} opens {event.filepath}")
    elif isinstance(event, Exit):
        how = f"signal {event.signal}" if event.exit_code is None else f"status {event.exit_code}"
        print(f"{event.pid} ends with {how} after {event.duration_ms} ms, {event.cpu_user_us} µs of CPU")
    elif isinstance(event, Dropped):
        print(f"{event.count} events were lost: {event.reason}")


async def main(command: list[str]) -> int:
    """Run the command and show events until it ends."""
    with Runtime(os.environ.get("AGENTCG_ROOT")) as runtime, runtime.subscribe(mode=2, pids=[os.getpid()]) as events:
        process = await asyncio.create_subprocess_exec(*command)
        async for event in events:
            show(event)
            if isinstance(event, Exit) and event.pid == process.pid:
                break
        return await process.wait()


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
