/* SPDX-License-Identifier: GPL-2.0-only */
/* cpu.max, and holding back on request: quotas, who waits for them, and when they are refilled. */
#ifndef AGENTCG_SCHEDULER_LIMITS_H
#define AGENTCG_SCHEDULER_LIMITS_H

#include "cpus.h"
#include "hierarchy.h"
#include "urgent.h"

/* How old a setting may be that the kernel does not report. */
#define CHECK_SETTINGS 10000000ULL
/* Who is held back on request has one part in so many of one CPU. */
#define HELD_PART 20
#define HELD_PERIOD 100000000ULL

/*
 * The kernel reports every change of a cgroup's settings: cpu.max since 6.17, cpu.idle later. Where
 * it does not, they are read from its struct task_group.
 */
static bool settings_reported(void)
{
	return bpf_core_field_exists(((struct sched_ext_ops *)0)->cgroup_set_idle);
}

/*
 * Puts in force what is the least: cpu.max, or the quota of who is held back. A new limit starts
 * with a full quota.
 */
static void enforce(struct sched_cgroup *cg)
{
	u64 now = scx_bpf_now(), quota, period, burst;
	bool was, throttled, changed;

	bpf_spin_lock(&cg->lock);
	quota = cg->max.quota;
	period = cg->max.period;
	burst = cg->max.burst;
	if (cg->held_until && !before(now, cg->held_until))
		cg->held_until = 0;
	if (cg->held_until && (!quota || quota > period / HELD_PART)) {
		quota = HELD_PERIOD / HELD_PART;
		period = HELD_PERIOD;
		burst = 0;
	}
	was = cg->now.quota;
	throttled = cg->throttled;
	changed = quota != cg->now.quota || period != cg->now.period || burst != cg->now.burst;
	if (changed) {
		cg->now.quota = quota;
		cg->now.period = period;
		cg->now.burst = burst;
		cg->budget = quota;
		cg->refilled = now;
	}
	bpf_spin_unlock(&cg->lock);
	if (was != !!quota) {
		__sync_fetch_and_add(&nr_limited, was ? -1 : 1);
		__sync_fetch_and_add(&limits, 1);
	}
	/* Looks at the new one at once. */
	if (changed && throttled)
		bpf_timer_start(&cg->timer, 0, 0);
}

static void set_limit(struct sched_cgroup *cg, u64 quota, u64 period, u64 burst)
{
	bpf_spin_lock(&cg->lock);
	cg->max.quota = quota;
	cg->max.period = period;
	cg->max.burst = burst;
	bpf_spin_unlock(&cg->lock);
	enforce(cg);
}

static void set_idle(struct sched_cgroup *cg, bool idle)
{
	/* Who ends it has the default weight again, says the kernel. */
	if (cg->idle && !idle)
		cg->weight = DEFAULT_WEIGHT;
	cg->idle = idle;
	__sync_fetch_and_add(&weights, 1);
	give_weight_up(cg->id);
}

/* Reads cpu.max and cpu.idle where the kernel keeps them. */
static void check_settings(struct sched_cgroup *cg, u64 now)
{
	struct task_group *group = (void *)cg->group;
	u64 quota, period, burst;

	bool idle;

	if (!group || (cg->checked && now - cg->checked < CHECK_SETTINGS))
		return;
	cg->checked = now;
	idle = BPF_CORE_READ(group, idle);
	if (idle != cg->idle)
		set_idle(cg, idle);
	period = BPF_CORE_READ(group, cfs_bandwidth.period);
	quota = BPF_CORE_READ(group, cfs_bandwidth.quota);
	burst = BPF_CORE_READ(group, cfs_bandwidth.burst);
	if ((s64)quota < 0 || !period)
		quota = 0;
	if (quota != cg->max.quota ||
	    (quota && (period != cg->max.period || burst != cg->max.burst)))
		set_limit(cg, quota, period, burst);
}

__noinline int check_all_settings(u64 task_group, u64 id, u64 now)
{
	struct task_group *group = (void *)task_group;
	u32 i;

	bpf_for(i, 0, MAX_DEPTH)
	{
		struct sched_cgroup *cg = id ? cgroup_by_id(id) : NULL;

		if (!cg || !group)
			break;
		if (!cg->group && BPF_CORE_READ(group, css.cgroup, kn, id) == id)
			cg->group = (u64)group;
		check_settings(cg, now);
		group = BPF_CORE_READ(group, parent);
		id = cg->parent;
	}
	return 0;
}

/* The nearest cgroup with a quota, from this one up: its id, or 0. */
__noinline u64 limited(u64 id)
{
	struct sched_cgroup *cg = id && nr_limited ? cgroup_by_id(id) : NULL;
	u64 generation = limits, at = id, found = 0;
	u32 i;

	if (!cg)
		return 0;
	if (cg->limits == generation)
		return cg->limited;
	bpf_for(i, 0, MAX_DEPTH)
	{
		struct sched_cgroup *next = at ? cgroup_by_id(at) : NULL;

		if (!next)
			break;
		if (next->now.quota) {
			found = at;
			break;
		}
		at = next->parent;
	}
	cg->limited = found;
	cg->limits = generation;
	return found;
}

/* Under the lock. Returns the time until the next refill. */
static __always_inline u64 refill(struct sched_cgroup *cg, u64 now)
{
	u64 period = cg->now.period, passed, most = cg->now.quota + cg->now.burst;

	if (!cg->now.quota || !period || before(now, cg->refilled))
		return MAX_PAUSE;
	passed = (now - cg->refilled) / period;
	if (passed) {
		cg->refilled += passed * period;
		/* More than it can owe or save. */
		if (passed > 1000000)
			passed = 1000000;
		cg->budget += passed * cg->now.quota;
		if (cg->budget > (s64)most)
			cg->budget = most;
	}
	return cg->refilled + period - now;
}

/* Takes CPU time from every quota that it counts against. */
__noinline int spend(u64 id, u64 used, u64 now)
{
	u32 i;

	bpf_for(i, 0, MAX_DEPTH)
	{
		struct sched_cgroup *cg;
		bool over = false;
		u64 pause;

		id = limited(id);
		cg = id ? cgroup_by_id(id) : NULL;
		if (!cg)
			break;
		bpf_spin_lock(&cg->lock);
		pause = refill(cg, now);
		cg->budget -= used;
		if (cg->now.quota && cg->budget <= 0 && !cg->throttled) {
			cg->throttled = now;
			over = true;
		}
		bpf_spin_unlock(&cg->lock);
		if (over) {
			__sync_fetch_and_add(&nr_throttled, 1);
			give_weight_up(cg->id);
			bpf_timer_start(&cg->timer, pause < MAX_PAUSE ? pause : MAX_PAUSE, 0);
		}
		id = cg->parent;
	}
	return 0;
}

/* The nearest cgroup, from this one up, whose quota is used up: its id, or 0. */
__noinline u64 throttled_at(u64 id)
{
	u32 i;

	bpf_for(i, 0, MAX_DEPTH)
	{
		struct sched_cgroup *cg;

		id = limited(id);
		cg = id ? cgroup_by_id(id) : NULL;
		if (!cg)
			break;
		if (cg->throttled)
			return id;
		id = cg->parent;
	}
	return 0;
}

/* What the quotas leave of a slice. */
__noinline u64 slice_left(u64 id, u64 slice)
{
	u32 i;

	bpf_for(i, 0, MAX_DEPTH)
	{
		struct sched_cgroup *cg;
		s64 budget;

		id = limited(id);
		cg = id ? cgroup_by_id(id) : NULL;
		if (!cg || slice <= MIN_SLICE)
			break;
		budget = cg->budget;
		if (budget < (s64)slice)
			slice = budget > (s64)MIN_SLICE ? budget : MIN_SLICE;
		id = cg->parent;
	}
	return slice;
}

static HOT void unhold(struct task_ctx *tc)
{
	u64 id = tc->held ? __sync_lock_test_and_set(&tc->held, 0) : 0;
	struct sched_cgroup *cg = id ? cgroup_by_id(id) : NULL;

	if (cg)
		__sync_fetch_and_add(&cg->holding, -1);
}

/* The cgroup whose quota is used up so that the task may not run: its id, or 0. */
static u64 throttled_by(struct task_struct *p, struct task_ctx *tc)
{
	if (!nr_throttled || tc->touch || serves_cpu(p) || dying(p))
		return 0;
	return throttled_at(tc->cgroup);
}

/*
 * Where a task must wait because a quota is used up: the id of the cgroup, which is that of its
 * queue too; 0 when it may run. `holding` is raised before the second look: whoever lifts the
 * throttling then either is seen here or sees that a task is about to come.
 */
static __noinline u64 hold(struct task_struct *p, struct task_ctx *tc)
{
	u64 id = throttled_by(p, tc);
	struct sched_cgroup *cg = id ? cgroup_by_id(id) : NULL;

	if (!cg)
		return 0;
	unhold(tc);
	__sync_fetch_and_add(&cg->holding, 1);
	tc->held = id;
	barrier();
	if (cg->throttled)
		return id;
	unhold(tc);
	return 0;
}

/*
 * Puts what a cgroup held back into the queue; with `since`, only what has not run since then, and
 * what has been killed meanwhile.
 */
static void release(u64 id, u64 since)
{
	struct task_struct *p;

	/* A timer has it anyway; 6.16 wants it said. */
	bpf_rcu_read_lock();
	bpf_for_each(scx_dsq, p, id, 0)
	{
		struct task_ctx *tc = ctx_of(p);
		s32 cpu;

		if (!tc)
			continue;
		if (since && !dying(p)) {
			if (!before(tc->waits, since))
				continue;
			tc->touch = true;
		}
		cpu = scx_bpf_pick_idle_cpu(p->cpus_ptr, 0);
		/* Before: once moved it may run, and be held back again. */
		unhold(tc);
		if (is_away(scx_bpf_task_cpu(p))) {
			send_away(BPF_FOR_EACH_ITER, p);
			continue;
		}
		scx_bpf_dsq_move_vtime(BPF_FOR_EACH_ITER, p, QUEUE, 0);
		if (cpu >= 0)
			kick(cpu, SCX_KICK_IDLE);
	}
	bpf_rcu_read_unlock();
}

static int look_at_limit(void *map, u64 *key, struct sched_cgroup *cg)
{
	u64 now = scx_bpf_now(), id = *key, pause;
	bool lift = false;

	if (!settings_reported())
		check_settings(cg, now);
	if (cg->held_until)
		enforce(cg);
	bpf_spin_lock(&cg->lock);
	pause = refill(cg, now);
	if (cg->throttled && (!cg->now.quota || cg->budget > 0)) {
		if (cg->now.quota == cg->max.quota)
			cg->own.throttled_ns += now - cg->throttled;
		else
			cg->own.held_ns += now - cg->throttled;
		cg->throttled = 0;
		lift = true;
	}
	bpf_spin_unlock(&cg->lock);
	if (lift) {
		__sync_fetch_and_add(&nr_throttled, -1);
		give_weight_up(cg->id);
	}
	if (cg->throttled) {
		release(id, now - MAX_WAIT);
	} else {
		release(id, 0);
		/* Some are on their way here. */
		if (cg->holding)
			pause = MIN_SLICE;
		else if (!cg->held_until)
			return 0;
	}
	/* The time may stand still for us when we are detached: never again at once. */
	pause = pause > MIN_PAUSE ? pause : MIN_PAUSE;
	bpf_timer_start(&cg->timer, pause < MAX_PAUSE ? pause : MAX_PAUSE, 0);
	return 0;
}

#endif
