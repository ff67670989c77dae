/* SPDX-License-Identifier: GPL-2.0-only */
/* What scheduler.bpf.c shares with Rust, through bindgen. */
#ifndef AGENTCG_SCHEDULER_H
#define AGENTCG_SCHEDULER_H

#ifndef __VMLINUX_H__
typedef int s32;
typedef unsigned int u32;
typedef unsigned long long u64;
struct bpf_spin_lock {
	u32 val;
};
#endif

/* A cgroup as the scheduler sees it; the map is keyed by its id. */
struct sched_cgroup {
	u64 parent;        /* id; 0 for the root */
	u64 active_weight; /* of the active children, plus SELF_WEIGHT for its own runnable tasks */
	u64 finish;        /* virtual time at which what was granted so far ends */
	u64 run_ns;        /* statistics: CPU time used */
	u64 runs;          /* statistics: times a task was put on a CPU */
	u32 weight;        /* cpu.weight */
	u32 given;         /* the part of the parent's active_weight that stems from here */
	u32 self;          /* the part of active_weight that stems from its own tasks */
	s32 nr_runnable;   /* its own tasks, running or waiting */
	struct bpf_spin_lock lock; /* active_weight, self, nr_runnable, finish, children's given */
	u32 _pad;
};

struct sched_stats {
	u64 direct; /* dispatched to an idle CPU at wake-up */
	u64 queued;
	u64 kept;      /* went on running: nobody was before it */
	u64 displaced; /* CPUs that had to choose again */
};

/* Written by user space before the scheduler is loaded. */
struct sched_config {
	u64 slice_ns;
};

#endif
