// SPDX-License-Identifier: GPL-2.0-only
/*
 * A sched_ext scheduler that shares the CPU by cgroup weight over a flattened hierarchy.
 *
 * Start-time fair queueing, with cgroups as the flows and time slices as the packets: a slice that
 * a task asks for starts, in virtual time, where the last one granted to its cgroup ends, and takes
 * slice / share. The share of a cgroup is the product, up the hierarchy, of its weight over that of
 * all active siblings. All CPUs serve one queue in the order of these start times, so the share is
 * kept over any number of CPUs and tasks.
 *
 *  - The whole slice is charged when it is asked for and the unused part given back when the task
 *    stops, so queued tasks of one cgroup never share a start time.
 *  - A task that goes on running competes with the head of the queue like any other: without this a
 *    group whose every task runs would look as if it wanted nothing.
 *  - A cgroup that slept starts one slice before the current virtual time: it neither saves up what
 *    it did not use nor waits behind those that ran. One that stays runnable may fall MAX_LAG
 * slices behind and then catches up: CPUs that switch at the same moment do not see the task that
 * the other one is just putting back, and take the next in its place.
 *  - Tasks bound to some CPUs stand in the same queue; a CPU takes the first that it may run.
 *
 * docs/scheduler.md has the reasons and what was measured.
 */
#include <scx/common.bpf.h>
#include <scx/compat.bpf.h>

#include "scheduler.h"

char _license[] SEC("license") = "GPL";

#define QUEUE 0
#define MAX_DEPTH 32
/* The weight of a cgroup's own tasks beside its children: that of a child nobody configured. */
#define SELF_WEIGHT 100
/* What a cgroup that cannot use its share (one task on two CPUs) may claim later is bounded too. */
#define MAX_LAG 20
/* Inverse shares have 10 fractional bits; the cap keeps slice * inverse below 2^63. */
#define ONE (1ULL << 10)
#define MAX_INVERSE (1ULL << 36)

const volatile struct sched_config cfg = {
    .slice_ns = 5000000,
};
struct sched_stats stats = {};
u64 vtime_now;

UEI_DEFINE(uei);

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 17);
	__type(key, u64);
	__type(value, struct sched_cgroup);
} sched_cgroups SEC(".maps");

/* Wakes user space when the scheduler exits: one byte. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} exited SEC(".maps");

struct task_ctx {
	u64 cgroup;
	u64 run_at;  /* 0 when not running */
	u64 inverse; /* of the share at the time of the charge */
	u64 charged; /* virtual time granted and not yet used or given back */
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct task_ctx);
} task_ctxs SEC(".maps");

#define MAX_CPUS 1024
/* The virtual start time of what each CPU runs; 0 where nobody may be displaced. */
u64 started[MAX_CPUS];

static struct task_ctx *ctx_of(struct task_struct *p)
{
	return bpf_task_storage_get(&task_ctxs, p, NULL, 0);
}

static struct sched_cgroup *cgroup_by_id(u64 id)
{
	return bpf_map_lookup_elem(&sched_cgroups, &id);
}

static bool before(u64 a, u64 b)
{
	return (s64)(a - b) < 0;
}

static u64 later(u64 a, u64 b)
{
	return before(a, b) ? b : a;
}

/*
 * Brings the parent's active_weight up to date with one child. Everyone calls it after a change of
 * the child, so whoever comes last sees the final state, in whatever order the updates were.
 */
static bool give_weight(struct sched_cgroup *cg, struct sched_cgroup *parent)
{
	u32 want;
	bool changed;

	bpf_spin_lock(&parent->lock);
	want = cg->active_weight ? cg->weight : 0;
	changed = want != cg->given;
	parent->active_weight += want;
	parent->active_weight -= cg->given;
	cg->given = want;
	bpf_spin_unlock(&parent->lock);
	return changed;
}

static void give_weight_up(struct sched_cgroup *cg)
{
	for (int i = 0; i < MAX_DEPTH; i++) {
		struct sched_cgroup *parent = cg->parent ? cgroup_by_id(cg->parent) : NULL;

		if (!parent || !give_weight(cg, parent))
			return;
		cg = parent;
	}
}

/* One task more, or less, of the cgroup is runnable. */
static void count_runnable(u64 id, s32 change)
{
	struct sched_cgroup *cg = cgroup_by_id(id);
	u32 self, had;

	if (!cg)
		return;
	bpf_spin_lock(&cg->lock);
	if (!cg->nr_runnable)
		cg->finish = later(cg->finish, vtime_now - cfg.slice_ns);
	cg->nr_runnable += change;
	had = cg->self;
	self = cg->nr_runnable > 0 ? SELF_WEIGHT : 0;
	cg->active_weight += self;
	cg->active_weight -= had;
	cg->self = self;
	bpf_spin_unlock(&cg->lock);
	if (self != had)
		give_weight_up(cg);
}

/* 1 / share, ONE being the whole machine. */
static u64 inverse_share(struct sched_cgroup *cg)
{
	u64 inverse = ONE;
	u64 weight = SELF_WEIGHT;

	for (int i = 0; i < MAX_DEPTH; i++) {
		u64 total = cg->active_weight;

		/* Not counted as active yet: alone. */
		if (total > weight)
			inverse = inverse * total / weight;
		if (inverse > MAX_INVERSE)
			inverse = MAX_INVERSE;
		weight = cg->weight ?: 1;
		cg = cg->parent ? cgroup_by_id(cg->parent) : NULL;
		if (!cg)
			break;
	}
	return inverse;
}

static u64 virtual(u64 ns, u64 inverse)
{
	return ns * inverse / ONE;
}

static u64 slice_of(struct task_struct *p)
{
	u64 slice = cfg.slice_ns * p->scx.weight / 100;

	/* Nice values within a cgroup: longer or shorter turns, not more or fewer of them. */
	if (slice < cfg.slice_ns / 4)
		return cfg.slice_ns / 4;
	return slice > cfg.slice_ns * 4 ? cfg.slice_ns * 4 : slice;
}

/* Gives back what a task was granted and did not use, and charges what it used beyond. */
static void settle(struct task_ctx *tc, struct sched_cgroup *cg, u64 used)
{
	u64 owed = virtual(used, tc->inverse) - tc->charged;

	bpf_spin_lock(&cg->lock);
	cg->finish += owed;
	bpf_spin_unlock(&cg->lock);
	tc->charged = 0;
}

/* Where the next slice of a cgroup starts in virtual time. */
static u64 start_of(struct sched_cgroup *cg)
{
	return later(cg->finish, vtime_now - MAX_LAG * cfg.slice_ns);
}

/* Grants a slice; returns its virtual start time. */
static u64 charge(struct task_ctx *tc, struct sched_cgroup *cg, u64 slice)
{
	u64 start;

	/* Taken off the queue without having run: moved, or its affinity changed. */
	if (tc->charged)
		settle(tc, cg, 0);
	tc->inverse = inverse_share(cg);
	tc->charged = virtual(slice, tc->inverse);
	bpf_spin_lock(&cg->lock);
	start = start_of(cg);
	cg->finish = start + tc->charged;
	bpf_spin_unlock(&cg->lock);
	return start;
}

/* The time since the task was put on the CPU or last asked. */
static u64 take_runtime(struct task_ctx *tc, struct sched_cgroup *cg, bool goes_on)
{
	u64 now = scx_bpf_now();
	u64 used = tc->run_at && before(tc->run_at, now) ? now - tc->run_at : 0;

	tc->run_at = goes_on ? now : 0;
	if (cg)
		__sync_fetch_and_add(&cg->run_ns, used);
	return used;
}

/*
 * The kernel's own threads that are bound to one CPU (ksoftirqd, migration, RCU, kworkers) serve
 * that CPU for everyone: no group's share is charged for them.
 */
static bool serves_cpu(struct task_struct *p)
{
	return (p->flags & PF_KTHREAD) && p->nr_cpus_allowed == 1;
}

static void note_start(s32 cpu, u64 start)
{
	started[cpu & (MAX_CPUS - 1)] = start;
}

/* Has a CPU that runs what stands a slice or more behind `start` choose again. */
static void displace(struct task_struct *p, u64 start)
{
	u32 nr_cpus = scx_bpf_nr_cpu_ids(), here = bpf_get_smp_processor_id();
	u64 latest = start + cfg.slice_ns;
	s32 i, found = -1;

	/* The neighbours will do: with more CPUs the one that errs is soon another's neighbour. */
	bpf_for(i, 1, nr_cpus < 8 ? nr_cpus : 8)
	{
		u32 cpu = (here + i) % nr_cpus;
		u64 at = started[cpu & (MAX_CPUS - 1)];

		if (at && before(latest, at) && bpf_cpumask_test_cpu(cpu, p->cpus_ptr)) {
			latest = at;
			found = cpu;
		}
	}
	if (found >= 0) {
		__sync_fetch_and_add(&stats.displaced, 1);
		scx_bpf_kick_cpu(found, SCX_KICK_PREEMPT);
	}
}

s32 BPF_STRUCT_OPS(agentcg_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	struct sched_cgroup *cg;
	struct task_ctx *tc;
	bool idle = false;
	s32 cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &idle);

	if (!idle)
		return cpu;
	tc = ctx_of(p);
	cg = tc ? cgroup_by_id(tc->cgroup) : NULL;
	if (!cg)
		return cpu;
	p->scx.dsq_vtime = charge(tc, cg, slice_of(p));
	__sync_fetch_and_add(&stats.direct, 1);
	scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, slice_of(p), 0);
	return cpu;
}

void BPF_STRUCT_OPS(agentcg_enqueue, struct task_struct *p, u64 enq_flags)
{
	struct task_ctx *tc = ctx_of(p);
	struct sched_cgroup *cg = tc ? cgroup_by_id(tc->cgroup) : NULL;
	u64 start = vtime_now;
	s32 cpu;

	if (serves_cpu(p)) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, slice_of(p), enq_flags);
		return;
	}
	if (cg)
		start = charge(tc, cg, slice_of(p));
	__sync_fetch_and_add(&stats.queued, 1);
	scx_bpf_dsq_insert_vtime(p, QUEUE, slice_of(p), start, enq_flags);
	/* A CPU that went idle meanwhile does not look at the queue by itself. */
	cpu = scx_bpf_pick_idle_cpu(p->cpus_ptr, 0);
	if (cpu >= 0)
		scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
	else if (cg && !(enq_flags & SCX_ENQ_WAKEUP))
		displace(p, start);
}

/*
 * Takes the first task that this CPU may run, if it stands before virtual time `start`. That very
 * task: between a look and a plain take of the first one, another CPU may have taken what was seen,
 * and the next may stand far behind.
 */
static bool take_before(s32 cpu, u64 start)
{
	struct task_struct *p;
	bool taken = false;
	u64 at;

	bpf_for_each(scx_dsq, p, QUEUE, 0)
	{
		if (!bpf_cpumask_test_cpu(cpu, p->cpus_ptr))
			continue;
		at = p->scx.dsq_vtime;
		if (!before(at, start))
			break;
		taken = scx_bpf_dsq_move(BPF_FOR_EACH_ITER, p, SCX_DSQ_LOCAL, 0);
		if (taken) {
			note_start(cpu, at);
			break;
		}
	}
	return taken;
}

void BPF_STRUCT_OPS(agentcg_dispatch, s32 cpu, struct task_struct *prev)
{
	struct sched_cgroup *cg;
	struct task_ctx *tc;
	u64 used, start;

	if (!prev || !(prev->scx.flags & SCX_TASK_QUEUED)) {
		scx_bpf_dsq_move_to_local(QUEUE, 0);
		return;
	}
	tc = ctx_of(prev);
	cg = tc ? cgroup_by_id(tc->cgroup) : NULL;
	if (!cg) {
		scx_bpf_dsq_move_to_local(QUEUE, 0);
		return;
	}
	used = take_runtime(tc, cg, true);
	settle(tc, cg, used);
	start = start_of(cg);
	if (take_before(cpu, start))
		return;
	charge(tc, cg, slice_of(prev));
	note_start(cpu, start);
	if (before(vtime_now, start))
		vtime_now = start;
	__sync_fetch_and_add(&stats.kept, 1);
	scx_bpf_task_set_slice(prev, slice_of(prev));
}

void BPF_STRUCT_OPS(agentcg_running, struct task_struct *p)
{
	struct task_ctx *tc = ctx_of(p);
	struct sched_cgroup *cg;

	if (!tc)
		return;
	tc->run_at = scx_bpf_now();
	note_start(scx_bpf_task_cpu(p), serves_cpu(p) ? 0 : p->scx.dsq_vtime);
	if (serves_cpu(p))
		return;
	if (tc->charged && before(vtime_now, p->scx.dsq_vtime))
		vtime_now = p->scx.dsq_vtime;
	cg = cgroup_by_id(tc->cgroup);
	if (cg)
		__sync_fetch_and_add(&cg->runs, 1);
}

void BPF_STRUCT_OPS(agentcg_stopping, struct task_struct *p, bool runnable)
{
	struct task_ctx *tc = ctx_of(p);
	struct sched_cgroup *cg = tc ? cgroup_by_id(tc->cgroup) : NULL;
	u64 used;

	if (!cg)
		return;
	used = take_runtime(tc, cg, false);
	if (!serves_cpu(p))
		settle(tc, cg, used);
}

void BPF_STRUCT_OPS(agentcg_runnable, struct task_struct *p, u64 enq_flags)
{
	struct task_ctx *tc = ctx_of(p);

	if (tc && !serves_cpu(p))
		count_runnable(tc->cgroup, 1);
}

void BPF_STRUCT_OPS(agentcg_quiescent, struct task_struct *p, u64 deq_flags)
{
	struct task_ctx *tc = ctx_of(p);
	struct sched_cgroup *cg = tc ? cgroup_by_id(tc->cgroup) : NULL;

	if (!cg || serves_cpu(p))
		return;
	if (tc->charged)
		settle(tc, cg, 0);
	count_runnable(tc->cgroup, -1);
}

s32 BPF_STRUCT_OPS(agentcg_init_task, struct task_struct *p, struct scx_init_task_args *args)
{
	struct task_ctx *tc =
	    bpf_task_storage_get(&task_ctxs, p, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);

	if (!tc)
		return -ENOMEM;
	tc->cgroup = args->cgroup->kn->id;
	return 0;
}

static int remember_cgroup(struct cgroup *cgrp, u32 weight)
{
	struct sched_cgroup new = {.weight = weight};
	u64 id = cgrp->kn->id;

	/* The root has no parent, and reading through the null pointer gives 0. */
	new.parent = BPF_CORE_READ(cgrp, self.parent, cgroup, kn, id);
	new.finish = vtime_now;
	return bpf_map_update_elem(&sched_cgroups, &id, &new, BPF_ANY);
}

s32 BPF_STRUCT_OPS_SLEEPABLE(agentcg_cgroup_init, struct cgroup *cgrp,
			     struct scx_cgroup_init_args *args)
{
	return remember_cgroup(cgrp, args->weight);
}

void BPF_STRUCT_OPS(agentcg_cgroup_exit, struct cgroup *cgrp)
{
	u64 id = cgrp->kn->id;

	bpf_map_delete_elem(&sched_cgroups, &id);
}

void BPF_STRUCT_OPS(agentcg_cgroup_move, struct task_struct *p, struct cgroup *from,
		    struct cgroup *to)
{
	struct task_ctx *tc = ctx_of(p);

	if (tc)
		tc->cgroup = to->kn->id;
}

void BPF_STRUCT_OPS(agentcg_cgroup_set_weight, struct cgroup *cgrp, u32 weight)
{
	struct sched_cgroup *cg = cgroup_by_id(cgrp->kn->id);

	if (!cg)
		return;
	cg->weight = weight;
	give_weight_up(cg);
}

/* The queue is not tied to CPUs, so they may come and go; without these the kernel would restart
 * us. */
void BPF_STRUCT_OPS(agentcg_cpu_online, s32 cpu)
{
}

void BPF_STRUCT_OPS(agentcg_cpu_offline, s32 cpu)
{
}

s32 BPF_STRUCT_OPS_SLEEPABLE(agentcg_init)
{
	return scx_bpf_create_dsq(QUEUE, -1);
}

void BPF_STRUCT_OPS(agentcg_exit, struct scx_exit_info *ei)
{
	char byte = 1;

	UEI_RECORD(uei, ei);
	bpf_ringbuf_output(&exited, &byte, sizeof(byte), BPF_RB_FORCE_WAKEUP);
}

SCX_OPS_DEFINE(agentcg_ops, .select_cpu = (void *)agentcg_select_cpu,
	       .enqueue = (void *)agentcg_enqueue, .dispatch = (void *)agentcg_dispatch,
	       .running = (void *)agentcg_running, .stopping = (void *)agentcg_stopping,
	       .runnable = (void *)agentcg_runnable, .quiescent = (void *)agentcg_quiescent,
	       .init_task = (void *)agentcg_init_task, .cgroup_init = (void *)agentcg_cgroup_init,
	       .cgroup_exit = (void *)agentcg_cgroup_exit,
	       .cgroup_move = (void *)agentcg_cgroup_move,
	       .cgroup_set_weight = (void *)agentcg_cgroup_set_weight,
	       .cpu_online = (void *)agentcg_cpu_online, .cpu_offline = (void *)agentcg_cpu_offline,
	       .init = (void *)agentcg_init, .exit = (void *)agentcg_exit, .timeout_ms = 20000,
	       .name = "agentcg");
