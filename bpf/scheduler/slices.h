/* SPDX-License-Identifier: GPL-2.0-only */
/* The virtual time of cgroups: what a slice costs, where it starts, and what was used of it. */
#ifndef AGENTCG_SCHEDULER_SLICES_H
#define AGENTCG_SCHEDULER_SLICES_H

#include "limits.h"

/* What a cgroup that cannot use its share (one task on two CPUs) may claim later is bounded too. */
#define MAX_LAG 20
/* How many slices of its cgroup a task of small weight waits at most beyond its turn. */
#define MAX_TURNS 20
/* By how many slices tasks of low rank stand behind their virtual time. */
#define WAY_BACK 1
/* Slices get shorter when so many wait that a round of all would take longer than this. */
#define ROUND 200000000ULL
/* A turn costs no more than this on each CPU, however small the share: for so long a cgroup waits
 * at most for the next one. And the shortest one. */
#define LONGEST 420000000ULL
#define MIN_TURN 400000ULL
/* How old a share may be. */
#define SHARE_AGE 2000000ULL

/*
 * Its share, and how long a slice may be: shorter when many wait, or for a small share. Shares are
 * means over 100 ms; for who runs shortly and often they need not be looked up each time.
 */
static __noinline void look_up_share_now(struct sched_cgroup *cg, u64 now)
{
	u64 slice = cfg.slice_ns, inverse;
	u64 least = slice < MIN_TURN ? slice : MIN_TURN;
	s64 waiting;

	inverse = inverse_share(cg->id, now);
	waiting = scx_bpf_dsq_nr_queued(QUEUE);
	if (waiting > 0 && slice * waiting > ROUND * nr_cpus)
		slice = ROUND * nr_cpus / waiting;
	if (virtual(slice, inverse) > LONGEST * nr_cpus)
		slice = LONGEST * nr_cpus * ONE / inverse;
	cg->slice = later(least, slice);
	cg->inverse = inverse;
	cg->looked = now;
}

static HOT void look_up_share(struct sched_cgroup *cg, u64 now)
{
	if (!cg->inverse || !before(now, cg->looked + SHARE_AGE))
		look_up_share_now(cg, now);
}

/* No longer than what is left of the quotas. */
static HOT u64 slice_within(struct sched_cgroup *cg, u64 now)
{
	look_up_share(cg, now);
	return nr_limited ? slice_left(cg->id, cg->slice) : cg->slice;
}

static HOT u64 cost(u64 ns, u64 inverse)
{
	u64 time = virtual(ns, inverse), most = LONGEST * nr_cpus;

	return time < most ? time : most;
}

/* Gives back what a task was granted and charges what it used. */
static HOT void settle(struct task_ctx *tc, struct sched_cgroup *cg, u64 used, u64 now)
{
	u64 owed = -tc->charged;

	if (used) {
		look_up_share(cg, now);
		owed += cost(used, cg->inverse);
	}
	__sync_fetch_and_add(&cg->finish, owed);
	tc->charged = 0;
}

/* What a cgroup that stays runnable did not use counts from there on. */
static HOT u64 earliest(void)
{
	return vtime_now - MAX_LAG * cfg.slice_ns;
}

/* Where the next slice of a cgroup starts in virtual time. */
static HOT u64 start_of(struct sched_cgroup *cg)
{
	return later(cg->finish, earliest());
}

/*
 * How much later than its turn a task comes whose weight is less than that of its neighbours in the
 * cgroup, so that it gets its part of what the cgroup gets: for what it used, they get theirs.
 */
static HOT u64 turns_left_out(struct task_ctx *tc, struct sched_cgroup *cg)
{
	u64 used = tc->used, most = MAX_TURNS * cfg.slice_ns;
	s64 others = cg->task_weight - tc->weight, even;

	if (!used || !tc->weight)
		return 0;
	even = (s64)tc->weight * (cg->nr_runnable - 1);
	if (others <= even)
		return 0;
	used = used * (u64)(others - even) / tc->weight;
	return virtual(used < most ? used : most, cg->inverse);
}

/*
 * Where a task stands in the queue whose slice starts there. Of high rank: before everybody else,
 * until its cgroup has had its share. So it gets the CPU earlier, but not more of it.
 */
static HOT u64 place_of(struct task_ctx *tc, struct sched_cgroup *cg, u64 start)
{
	s32 rank = cg->ranks == weights ? cg->rank : rank_of(cg->id);

	tc->leads = rank > 0 && before(start, vtime_now + cfg.slice_ns);
	start += turns_left_out(tc, cg);
	if (tc->leads)
		return start - LEAD;
	return rank < 0 ? start + WAY_BACK * cfg.slice_ns : start;
}

/* The same for a task that enters the queue: who has been killed is first, one turn at a time. */
static HOT u64 place_in_queue(struct task_struct *p, struct task_ctx *tc, struct sched_cgroup *cg,
			      u64 start)
{
	u64 place = place_of(tc, cg, start);

	if (!killed(p))
		return place;
	tc->leads = true;
	return vtime_now - LEAD;
}

/* The clock follows the slices in their order; those that come before it say nothing. */
static void advance_clock(struct task_ctx *tc, u64 start)
{
	if (!tc->leads && before(vtime_now, start))
		vtime_now = start;
}

/* Grants a slice; returns its virtual start time. */
static HOT u64 charge(struct task_ctx *tc, struct sched_cgroup *cg, u64 slice)
{
	/* Taken off the queue without having run: moved, or its affinity changed. */
	if (tc->charged)
		settle(tc, cg, 0, 0);
	tc->charged = cost(slice, cg->inverse);
	raise_finish(cg, earliest());
	tc->start = __sync_fetch_and_add(&cg->finish, tc->charged);
	return tc->start;
}

/* Statistics: the task was put on a CPU, and has had so much since. */
static HOT void count_run(struct task_ctx *tc, struct sched_cgroup *cg, u64 had, u64 now)
{
	u64 passed = now - tc->waits, most = (1ULL << SCHED_WAITS) - 1;
	u64 wait = before(had, passed) ? (passed - had) / 1000 : 0;
	u32 i = log2_u32((wait < most ? wait : most) | 1);

	if (i < SCHED_WAITS)
		__sync_fetch_and_add(&cg->own.waits[i], 1);
	__sync_fetch_and_add(&cg->own.runs, 1);
	if (tc->last != tc->cpu)
		__sync_fetch_and_add(&cg->own.migrations, 1);
	tc->last = tc->cpu;
	tc->counted = true;
}

/* Kernels differ in the size and the sign of the field. */
static HOT bool on_cpu(struct task_struct *task)
{
	return BPF_CORE_READ_BITFIELD(task, on_cpu);
}

/* Not all kernels have these fields in the same places, or tell of `runqueues` itself. */
struct rq___clock {
	u64 clock_task;
} __attribute__((preserve_access_index));

struct cfs_rq___clock {
	struct rq___clock *rq;
} __attribute__((preserve_access_index));

struct task_struct___clock {
	struct {
		struct cfs_rq___clock *cfs_rq;
	} se;
} __attribute__((preserve_access_index));

/* The clock by which the kernel counts the CPU time of a task that runs. */
static HOT u64 clock_task(struct task_struct *p)
{
	return ((struct task_struct___clock *)p)->se.cfs_rq->rq->clock_task;
}

/*
 * The time since the task was put on the CPU or last asked, by the kernel's count: that includes
 * what switching to it took, which is much for those that run shortly, and leaves out interrupts.
 */
static HOT u64 take_runtime(struct task_struct *p, struct task_ctx *tc, struct sched_cgroup *cg,
			    u64 now)
{
	u64 total = p->se.sum_exec_runtime, used = 0, until;

	/* The kernel counts only after it has said that a task sleeps. */
	if (on_cpu(p)) {
		until = clock_task(p);
		if (before(p->se.exec_start, until))
			total += until - p->se.exec_start;
	}
	if (before(tc->ran, total))
		used = total - tc->ran;
	tc->ran += used;
	tc->used += used;
	__sync_fetch_and_add(&cg->own.run_ns, used);
	if (!tc->counted)
		count_run(tc, cg, used, now);
	if (!settings_reported())
		check_all_settings((u64)BPF_CORE_READ(p, sched_task_group), tc->cgroup, now);
	if (nr_limited)
		spend(tc->cgroup, used, now);
	return used;
}

/* A task wants to run that did not. */
static HOT void begin(struct task_struct *p, struct task_ctx *tc, struct sched_cgroup *cg, u64 now)
{
	if (tc->weight)
		return;
	tc->ran = p->se.sum_exec_runtime;
	tc->waits = now;
	tc->used = 0;
	if (serves_cpu(p))
		return;
	tc->weight = p->scx.weight;
	count_runnable(cg, 1, tc->weight);
}

/* A task leaves the CPU, or has left it. */
static HOT void stop(struct task_struct *p, struct task_ctx *tc, struct sched_cgroup *cg, u64 now)
{
	u64 used = take_runtime(p, tc, cg, now);

	tc->runs = false;
	tc->waits = now;
	if (tc->weight)
		settle(tc, cg, used, now);
}

#endif
