"""Tool calls: one that wants too much, one that does not end, one that is fine; and what an agent is told."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HUNGRY = "import sys; data = bytearray(200 << 20); print('never printed')"
CALLS: list[tuple[str, list[str], list[str]]] = [
    (
        "wants 200 MiB, and said it needs 64",
        ["--hint", "memory:64M", "--swap-max", "0"],
        [sys.executable, "-c", HUNGRY],
    ),
    ("leaves a server behind and hangs", ["--timeout", "2s"], ["sh", "-c", "setsid sleep 1000 & sleep 1000"]),
    ("is fine", [], ["sh", "-c", "seq 1000 | sort -R | tail -n 1 > /dev/null"]),
]


def describe(outcome: dict[str, Any]) -> Iterator[str]:
    """The verdict with its evidence, as an agent gets it."""
    cause = outcome.get("cause") or {}
    usage = outcome["usage"]
    facts = [f"exit code {outcome['exit_code']}" if outcome["signal"] is None else f"signal {outcome['signal']}"]
    if cause:
        facts.append(f"{cause['limit']} of the {cause['scope']}")
    if cause.get("victim"):
        facts.append(f"victim {cause['victim']['comm']} ({cause['victim']['pid']})")
    if usage.get("memory_peak_bytes"):
        facts.append(f"peak {usage['memory_peak_bytes'] >> 20} MiB")
    if outcome.get("killed_processes"):
        facts.append(f"{outcome['killed_processes']} left behind and killed")
    yield f"    {outcome['verdict']}: {', '.join(facts)}, {outcome['duration_ms']} ms"
    if outcome["advice"]:
        yield f"    advice: {outcome['advice']}"


def show(agentcg: Path, directory: Path) -> Iterator[str]:
    """Run the calls in a session of their own, beside those of the daemon."""
    report = directory / "outcome.json"
    for what, options, command in CALLS:
        run = [str(agentcg), "run", "--session", "calls", "--quiet", "--report", str(report), *options, "--", *command]
        done = subprocess.run(run, stdin=subprocess.DEVNULL, check=False)
        yield f"  a call that {what}: agentcg run {' '.join(options)} exits with {done.returncode}"
        yield from describe(json.loads(report.read_text()))
