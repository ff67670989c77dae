/* SPDX-License-Identifier: GPL-2.0-only */
/* Weights, which cgroups are active, and the share of each. */
#ifndef AGENTCG_SCHEDULER_HIERARCHY_H
#define AGENTCG_SCHEDULER_HIERARCHY_H

#include "state.h"

/* The weight of a cgroup's own tasks beside its children: that of a child nobody configured. */
#define SELF_WEIGHT 100
/* cpu.idle: the least weight there is. */
#define IDLE_WEIGHT 1
#define DEFAULT_WEIGHT 100

static u32 weight_of(struct sched_cgroup *cg)
{
	if (cg->idle)
		return IDLE_WEIGHT;
	return cg->weight ?: 1;
}

/* Under the lock, before each change of active_weight. */
static __always_inline void average(struct sched_cgroup *cg, u64 now)
{
	/* While nothing is active there is nothing to share. */
	if (cg->active_weight && before(cg->averaged, now))
		cg->mean = cg->mean ? mean_after(cg->mean, cg->active_weight, now - cg->averaged)
				    : cg->active_weight << MEAN_BITS;
	cg->averaged = now;
}

/*
 * Brings the parent's active_weight up to date with one child. Everyone calls it after a change of
 * the child, so whoever comes last sees the final state, in whatever order the updates were.
 */
static bool give_weight(struct sched_cgroup *cg, struct sched_cgroup *parent)
{
	u64 now = scx_bpf_now();
	u32 want;
	bool changed;

	bpf_spin_lock(&parent->lock);
	average(parent, now);
	want = cg->active_weight && !cg->throttled ? weight_of(cg) : 0;
	changed = want != cg->given;
	parent->active_weight += want;
	parent->active_weight -= cg->given;
	cg->given = want;
	bpf_spin_unlock(&parent->lock);
	return changed;
}

/*
 * What follows with __noinline and without static is for the verifier: such a function is verified
 * once, not at each of its callers.
 */
__noinline int give_weight_up(u64 id)
{
	u32 i;

	bpf_for(i, 0, MAX_DEPTH)
	{
		struct sched_cgroup *cg = id ? cgroup_by_id(id) : NULL;
		struct sched_cgroup *parent = cg && cg->parent ? cgroup_by_id(cg->parent) : NULL;

		if (!parent || !give_weight(cg, parent))
			break;
		id = cg->parent;
	}
	return 0;
}

/*
 * Where a cgroup begins that has not run yet: where the last one beside it ended. Without this, a
 * session that makes a new cgroup for each of its calls would start afresh with each.
 */
static u64 inherited(struct sched_cgroup *cg)
{
	struct sched_cgroup *parent = cg->parent ? cgroup_by_id(cg->parent) : NULL;

	return parent && !cg->began ? later(parent->left, vtime_now - cfg.slice_ns)
				    : vtime_now - cfg.slice_ns;
}

/*
 * How tasks of a cgroup stand against others in latency. The nearest weight that somebody has
 * changed says it, so that calls have the rank of their session.
 */
__noinline s32 rank_of(u64 id)
{
	struct sched_cgroup *cg = id ? cgroup_by_id(id) : NULL;
	u64 generation = weights, at = id;
	s32 rank = 0;
	u32 i;

	if (!cg)
		return 0;
	if (cg->ranks == generation)
		return cg->rank;
	bpf_for(i, 0, MAX_DEPTH)
	{
		struct sched_cgroup *next = at ? cgroup_by_id(at) : NULL;
		u32 weight;

		if (!next || !next->parent)
			break;
		weight = weight_of(next);
		if (weight != DEFAULT_WEIGHT) {
			rank = weight > DEFAULT_WEIGHT ? 1 : -1;
			break;
		}
		at = next->parent;
	}
	cg->rank = rank;
	cg->ranks = generation;
	return rank;
}

/* The next slice starts no earlier than that. */
static HOT void raise_finish(struct sched_cgroup *cg, u64 least)
{
	u64 finish = cg->finish, was;
	u32 i;

	/* Others may charge, or give back, meanwhile. */
	for (i = 0; i < 8 && before(finish, least); i++) {
		was = __sync_val_compare_and_swap(&cg->finish, finish, least);
		if (was == finish)
			break;
		finish = was;
	}
}

/*
 * Its first task became runnable, or the last one is no more. As with give_weight(), whoever comes
 * last sees the final state.
 */
static __noinline void count_itself(struct sched_cgroup *cg)
{
	struct sched_cgroup *parent;
	u64 now = scx_bpf_now();
	u32 self;

	bpf_spin_lock(&cg->lock);
	average(cg, now);
	self = cg->nr_runnable > 0 ? SELF_WEIGHT : 0;
	cg->active_weight += self;
	cg->active_weight -= cg->self;
	cg->self = self;
	bpf_spin_unlock(&cg->lock);
	give_weight_up(cg->id);
	parent = !self && cg->parent ? cgroup_by_id(cg->parent) : NULL;
	if (parent)
		parent->left = later(parent->left, cg->finish);
}

/* One task more, or less, of the cgroup is runnable. */
static HOT void count_runnable(struct sched_cgroup *cg, s64 change, s64 weight)
{
	s64 had;

	if (change > 0 && !cg->nr_runnable) {
		raise_finish(cg, inherited(cg));
		cg->began = 1;
	}
	__sync_fetch_and_add(&cg->task_weight, weight);
	had = __sync_fetch_and_add(&cg->nr_runnable, change);
	if (!had || !(had + change))
		count_itself(cg);
}

/*
 * One level of inverse_share. Not a part of its loop: what a loop leaves behind in the registers of
 * a call's arguments, 6.18 takes for needed by the next round, and does not load the program
 * ("backtracking call unexpected regs").
 */
__noinline u64 inverse_of_child(u64 inverse, u64 mean, u64 active, u64 passed, u64 weight)
{
	if (active && mean)
		mean = mean_after(mean, active, passed);
	return inverse_below(inverse, (mean + (1 << (MEAN_BITS - 1))) >> MEAN_BITS, weight);
}

/* 1 / share, ONE being the whole machine. */
__noinline u64 inverse_share(u64 id, u64 now)
{
	u64 inverse = ONE, weight = SELF_WEIGHT;
	u32 i;

	bpf_for(i, 0, MAX_DEPTH)
	{
		struct sched_cgroup *cg = id ? cgroup_by_id(id) : NULL;

		if (!cg)
			break;
		u64 since = cg->averaged, passed = before(since, now) ? now - since : 0;
		inverse = inverse_of_child(inverse, cg->mean, cg->active_weight, passed, weight);
		weight = weight_of(cg);
		id = cg->parent;
	}
	return inverse;
}

#endif
