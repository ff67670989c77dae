/* SPDX-License-Identifier: GPL-2.0-only */
/* What scheduler.bpf.c shares with Rust, through bindgen. */
#ifndef AGENTCG_SCHEDULER_H
#define AGENTCG_SCHEDULER_H

#include "types.h"

#ifndef __VMLINUX_H__
struct bpf_spin_lock {
	u32 val;
};
struct bpf_timer {
	u64 opaque[2];
};
#endif

/* Wait times are counted by their binary logarithm in µs: below 2, 4, 8, ... 2^24 µs and more. */
#define SCHED_WAITS 24

struct sched_usage {
	u64 run_ns;       /* CPU time used */
	u64 runs;         /* times a task was put on a CPU */
	u64 preemptions;  /* times a task lost the CPU and wanted to go on */
	u64 migrations;   /* times a task ran on another CPU than before */
	u64 throttled_ns; /* for how long its quota was used up, until the last time that ended */
	u64 held_ns;      /* the same, of the quota of who is held back on request */
	u64 waits[SCHED_WAITS];
};

/* cpu.max */
struct sched_limit {
	u64 quota;  /* run time in each period, ns; 0 is no limit */
	u64 period; /* ns */
	u64 burst;  /* cpu.max.burst, ns */
};

/* What the program hold_back is asked to do. */
struct sched_hold {
	u64 cgroup;  /* id */
	u64 hold_ns; /* for how long from now; 0 ends it */
};

/* A cgroup as the scheduler sees it; the map is keyed by its id. */
struct sched_cgroup {
	u64 id;
	u64 parent;        /* id; 0 for the root */
	u64 active_weight; /* of the active children, plus SELF_WEIGHT for its own runnable tasks */
	u64 mean;          /* of active_weight, over the time in which anything was active */
	u64 averaged;      /* up to when */
	u64 finish;        /* virtual time at which what was granted so far ends */
	u64 inverse;       /* of the share when last looked up */
	u64 slice;         /* how long one was then */
	u64 looked;        /* when that was; 0: never */
	u64 left; /* virtual time at which the last child that has no task left was served */
	struct bpf_timer timer; /* runs while tasks are held back here */
	u64 group;              /* its struct task_group, for kernels that do not report cpu.max */
	struct sched_limit max; /* as somebody has set it */
	struct sched_limit now; /* what is in force */
	u64 held_until;         /* it is held back on request; 0: it is not */
	s64 budget;             /* of the quota, what is left; below 0 it is owed */
	u64 refilled;           /* when the current period began */
	u64 checked;            /* when cpu.max was last looked at */
	u64 limited;            /* the nearest cgroup with a quota, from here up; 0: none */
	u64 limits;             /* limited is from the time of this generation of quotas */
	u64 throttled;          /* since when its quota is used up; 0: it is not */
	u32 holding;            /* tasks held back in its queue, or on the way there */
	u64 ranks;              /* rank is from the time of this generation of weights */
	s32 rank;               /* of its tasks' wake-ups: 1 high, -1 low */
	u32 idle;               /* cpu.idle */
	u32 began;              /* a task of its own has run, or will soon */
	u32 weight;             /* cpu.weight */
	u32 given;              /* the part of the parent's active_weight that stems from here */
	u32 self;               /* the part of active_weight that stems from its own tasks */
	/* Its own tasks, running or waiting. 64 bits: of an atomic addition to 32, clang 19 forgets
	 * what it gives back. */
	s64 nr_runnable;
	u64 task_weight; /* of the same tasks, by their nice values: 100 each by default */
	/* active_weight, mean, averaged, self, children's given; now to refilled, throttled */
	struct bpf_spin_lock lock;
	struct sched_usage own;  /* of its own tasks */
	struct sched_usage gone; /* of the cgroups that were below it */
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
