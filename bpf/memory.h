/* SPDX-License-Identifier: GPL-2.0-only */
/* What memory.bpf.c shares with Rust, through bindgen. */
#ifndef AGENTCG_MEMORY_H
#define AGENTCG_MEMORY_H

#include "types.h"

enum memory_limits {
	MAX_MEMORY_SESSIONS = 4096,
	/* Levels of cgroups that are looked through for the session. */
	MAX_MEMORY_DEPTH = 32,
};

enum memory_role {
	ROLE_HIGH = 1,
	ROLE_LOW = 2,
};

/* How a high session was seen to hurt. */
enum memory_sign {
	SIGN_RECLAIM = 0, /* reclaim begun on its behalf */
	SIGN_FAULTS = 1,  /* page faults over the threshold while memory is short */
	NR_SIGNS = 2,
};

/* Fixed when the programs are loaded. */
struct memory_config {
	u64 window_ns;
	u64 faults_per_second; /* 0: not looked at */
	u32 delay_ms;
	u32 below_low;
	u32 below_min;
	u32 pad;
};

/* A session, by the id of its cgroup. User space writes the first part, the programs the rest. */
struct memory_session {
	u32 role;
	u32 pad;
	u64 target; /* high: nothing is protected when it uses more */
	u64 part;   /* low: bytes it may have while a high one hurts, 0 for any number */

	u64 until; /* high: protected up to then, CLOCK_MONOTONIC ns; both write */
	u64 told;  /* when user space was told last */
	u64 faults_since;
	u64 faults;

	u64 hurts[NR_SIGNS];
	u64 calls;    /* questions that the kernel asked about it */
	u64 active;   /* those answered with protection, or with a delay */
	u64 delay_ms; /* the delays together */
};

/* A record of the ring buffer: a high session hurts. */
struct memory_hurt {
	u64 cgroup_id;
	u32 sign; /* enum memory_sign */
	u32 pad;
};

#endif
