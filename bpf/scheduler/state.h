/* SPDX-License-Identifier: GPL-2.0-only */
/* What all parts of the scheduler share: its settings, its cgroups, and its tasks. */
#ifndef AGENTCG_SCHEDULER_STATE_H
#define AGENTCG_SCHEDULER_STATE_H

#include <scx/common.bpf.h>
#include <scx/compat.bpf.h>

#include "../scheduler.h"
#include "../shares.h"

/* The queue of all tasks; those that a cgroup holds back wait in the queue of its id. */
#define QUEUE 0
#define MAX_DEPTH 32
/* On the way of each wake-up or switch, where a call costs more than what is called. */
#define HOT __always_inline
/* How far tasks of high rank stand before the others in the queue, while their cgroup is within its
 * share: more than any two slices lie apart. */
#define LEAD (1ULL << 46)
/* The least slice that a nearly used up quota leaves, and how often a held back cgroup is looked
 * at. */
#define MIN_SLICE 1000000ULL
#define MIN_PAUSE 100000ULL
#define MAX_PAUSE 50000000ULL
/* A task that has waited for so long, held back or one of many, runs for an instant: the kernel's
 * watchdog counts from when it last ran. */
#define MAX_WAIT 5000000000ULL

#define SIGNAL_GROUP_EXIT 0x4
#define SIGKILL_BIT (1ULL << 8)

const volatile struct sched_config cfg = {
    .slice_ns = 5000000,
};
struct sched_stats stats = {};
u64 vtime_now;
/* Changes whenever a cgroup gets or loses a quota. */
u64 limits = 1;
/* Changes with every weight. */
u64 weights = 1;
u32 nr_limited;
u32 nr_throttled;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 17);
	__type(key, u64);
	__type(value, struct sched_cgroup);
} sched_cgroups SEC(".maps");

struct task_ctx {
	u64 cgroup;
	u64 ran;      /* its CPU time, as the kernel counts it, up to which it has been charged */
	u64 start;    /* virtual time at which what was granted last begins */
	u64 charged;  /* virtual time granted and not yet used or given back */
	u64 held;     /* the throttled cgroup that holds it back; 0: none */
	u64 waits;    /* since when it has not run */
	u64 used;     /* since it was put on the CPU, or last asked to go on */
	u32 weight;   /* by its nice value; 0 when not counted among the runnable ones */
	s32 cpu;      /* where it runs, or did last */
	s32 last;     /* where it ran when that was last counted; below 0: nowhere yet */
	bool runs;    /* it has a CPU, but for what comes before all tasks of ours */
	bool counted; /* the statistics have that it was put there */
	bool touch;   /* may run for an instant although it is held back */
	bool leads;   /* stands before its virtual time */
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct task_ctx);
} task_ctxs SEC(".maps");

static struct task_ctx *ctx_of(struct task_struct *p)
{
	return bpf_task_storage_get(&task_ctxs, p, NULL, 0);
}

static struct sched_cgroup *cgroup_by_id(u64 id)
{
	return bpf_map_lookup_elem(&sched_cgroups, &id);
}

/*
 * The kernel's own threads that are bound to one CPU (ksoftirqd, migration, RCU, kworkers) serve
 * that CPU for everyone: no group's share is charged for them.
 */
static HOT bool serves_cpu(struct task_struct *p)
{
	return (p->flags & PF_KTHREAD) && p->nr_cpus_allowed == 1;
}

#endif
