#!/usr/bin/env python3
"""Runs a command in a session and says what it used: session.py COMMAND [ARG]..."""

import os
import subprocess
import sys

from agentcg import Runtime


def main(command: list[str]) -> int:
    """Run the command; what it starts stays in the session too."""
    with Runtime(os.environ.get("AGENTCG_ROOT")) as runtime:
        # Limits need the memory controller on cgroup v2; agentcg.capabilities() says how to get it.
        limit = "512M" if runtime.capabilities().supports("memory_controller") else None
        with runtime.session("example", priority="low", memory_max=limit) as session:
            session.move_pid(os.getpid())  # children are born where their parent is
            status = subprocess.run(command, check=False).returncode
            usage = session.usage()
    print(f"CPU: {usage.cpu_user_us} µs, and {usage.cpu_system_us} in the kernel")
    if usage.memory_peak_bytes is not None:
        print(f"memory: {usage.memory_peak_bytes >> 10} KiB at most")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
