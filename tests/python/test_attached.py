"""The scheduler and memory protection: attached where the kernel can, a typed error elsewhere."""

from __future__ import annotations

import select

import agentcg
import pytest
from conftest import FOUND, needs_cgroups

pytestmark = needs_cgroups


def test_scheduler(runtime: agentcg.Runtime) -> None:
    with pytest.raises(agentcg.LimitError, match="slice"):
        runtime.start_scheduler(slice_us=1)
    with pytest.raises(agentcg.LimitError, match="scope"):
        runtime.start_scheduler(scope="some")  # type: ignore[arg-type]
    if FOUND.backends.scheduler != "sched_ext":
        with pytest.raises(agentcg.UnsupportedError, match="sched_ext") as raised:
            runtime.start_scheduler()
        assert raised.value.help is not None
        return
    with runtime.start_scheduler(scope="agents") as scheduler:
        assert scheduler.exited() is None
        assert scheduler.stats().queued >= 0
        assert select.select([scheduler], [], [], 0)[0] == []
        with pytest.raises(agentcg.AgentcgError, match="another sched_ext") as busy:
            runtime.start_scheduler()
        assert busy.value.kind == "busy"
    with pytest.raises(agentcg.AgentcgError, match="the scheduler is closed"):
        scheduler.stats()


def test_memory_protection(runtime: agentcg.Runtime) -> None:
    high, low = runtime.session("high"), runtime.session("low")
    with pytest.raises(agentcg.LimitError, match="overlap"):
        runtime.attach_memcg_ops([high], [high.path])
    with pytest.raises(agentcg.LimitError, match="delay_ms -1"):
        runtime.attach_memcg_ops([high], delay_ms=-1)
    with pytest.raises(agentcg.LimitError, match="stuck"):
        runtime.attach_memcg_ops([high], stuck_after_ms=1)
    with pytest.raises(agentcg.LimitError, match="backend"):
        runtime.attach_memcg_ops([high], backend="magic")  # type: ignore[arg-type]
    if FOUND.backends.memory is None:
        with pytest.raises(agentcg.UnsupportedError):
            runtime.attach_memcg_ops([high], [low])
        return
    with runtime.attach_memcg_ops([high], [str(low.path)]) as protection:
        assert protection.backend in {"cgroup", "memcg_bpf_ops"}
        stats = protection.stats()
        assert (stats.active, stats.stalls, stats.stuck, stats.recent) == (False, 0, (), ())
        assert [(one.cgroup, one.role) for one in stats.sessions] == [(str(high.path), "high"), (str(low.path), "low")]
        with pytest.raises(agentcg.LimitError, match="overlap"):
            protection.add(low, "high")
        with pytest.raises(agentcg.LimitError, match="role"):
            protection.add(low, "middle")  # type: ignore[arg-type]
        protection.remove(low)
        with pytest.raises(agentcg.AgentcgError, match="does not have"):
            protection.remove(low.path)
        protection.add(low, "low")
        assert len(protection.stats().sessions) == 2
