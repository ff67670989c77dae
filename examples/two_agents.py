#!/usr/bin/env python3
"""Two agents beside each other, one with priority: two_agents.py. The kernel shares the CPU 150 to 50."""

import asyncio
import os

from agentcg import Runtime, Session

WORK = "i=0; while [ $i -lt 50000 ]; do i=$((i+1)); done"


async def agent(session: Session, calls: int) -> float:
    """Make some calls, two at a time; give the seconds until all had ended."""
    loop = asyncio.get_running_loop()
    since = loop.time()
    room = asyncio.Semaphore(2)

    async def one(n: int) -> None:
        async with room:
            await session.run_async(["sh", "-c", WORK], name=f"{session.name}-{n}", check=True)

    await asyncio.gather(*(one(n) for n in range(calls)))
    return loop.time() - since


async def main() -> None:
    """Let both work and say how long they took."""
    with Runtime(os.environ.get("AGENTCG_ROOT")) as runtime:
        if not runtime.capabilities().supports("cpu_controller"):
            print("no cpu controller on cgroup v2: both get the same")
        with runtime.session("urgent", "high") as urgent, runtime.session("patient", "low") as patient:
            took = await asyncio.gather(agent(urgent, 4), agent(patient, 4))
            for session, seconds in zip((urgent, patient), took):
                usage = session.usage()
                cpu = (usage.cpu_user_us or 0) + (usage.cpu_system_us or 0)
                print(f"{session.name}: {seconds:.1f} s for {cpu / 1e6:.1f} s of CPU")


if __name__ == "__main__":
    asyncio.run(main())
