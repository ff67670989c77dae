/* SPDX-License-Identifier: GPL-2.0-only */
/* What process.bpf.c shares with Rust, through bindgen. */
#ifndef AGENTCG_PROCESS_H
#define AGENTCG_PROCESS_H

#include "types.h"

enum process_limits {
	COMM_LEN = 16,
	/* Subscribers of one loaded monitor, each a bit in the masks below. */
	MAX_SUBSCRIBERS = 16,
	/* Most paths fit the small area; the rest pay for the large one. */
	SMALL_PATH = 256,
	LARGE_PATH = 4096,
	/* Arguments are copied in pieces of this size. */
	ARGS_PIECE = 256,
	MAX_ARGS = 1 << 20,
	/* The longest line of an interactive shell. */
	LINE_LEN = 1024,
};

enum record_kind {
	RECORD_EXEC = 1,
	RECORD_EXIT = 2,
	RECORD_FORK = 3,
	RECORD_FILE_OPEN = 4,
	RECORD_BASH_READLINE = 5,
	RECORD_OOM_KILL = 6,
	/* Not an event: tells the reader the path of a new cgroup before anything runs in it. */
	RECORD_CGROUP = 7,
	NR_KINDS = 8,
};

struct record_header {
	u64 timestamp; /* CLOCK_BOOTTIME, ns */
	u64 cgroup_id;
	u32 kind; /* enum record_kind */
	u32 pid;
	u32 ppid; /* who forked it, also when that process is gone */
	u32 uid;
	char comm[COMM_LEN];
};

/* Followed by path_area bytes for the path, then args_len bytes of NUL-separated arguments. */
struct record_exec {
	struct record_header h;
	u32 path_area;
	u32 path_len; /* without the NUL */
	u32 args_len;
	u32 args_total; /* what the process has; more than args_len means truncated */
};

struct record_exit {
	struct record_header h;
	u64 duration_ns; /* since the process was forked */
	u64 utime_ns;
	u64 stime_ns;
	u64 runtime_ns; /* exact, where utime and stime count ticks */
	u64 maxrss_pages;
	u64 read_bytes;
	u64 write_bytes;
	u32 code; /* as wait(2) gives it */
	u32 oom_killed;
};

struct record_fork {
	struct record_header h; /* the parent */
	u32 child_pid;
	u32 _pad;
};

/* Followed by path_area bytes for the path. */
struct record_file_open {
	struct record_header h;
	u64 count; /* opens of the same path that this record stands for */
	u32 path_area;
	u32 path_len;
	u32 flags;
	s32 result; /* a file descriptor or -errno; of the last one */
};

struct record_oom_kill {
	struct record_header h; /* the victim */
	u64 limit_cgroup_id;    /* whose memory.max was reached; 0: the machine's memory */
	u64 limit_pages;
};

/* Followed by path_area bytes for the line, or for the path of a new cgroup in its hierarchy. */
struct record_text {
	struct record_header h;
	u32 path_area;
	u32 path_len;
};

/* What one subscriber asked for. */
struct subscriber {
	u64 min_duration_ns;
	u64 delay_ns;       /* a wake-up may wait so long for more events; 0: at once */
	u64 open_window_ns; /* repeated opens of a path within it become one record */
	u32 open_rate;      /* file records of a thread in a second */
	u32 args_max;
	u32 ring_bytes;
	u32 reader; /* whose own opens are left out, or each record would cause more */
};

/* Which subscribers want a kind of record: of all processes, of those they track. */
struct audience {
	u32 of_all;
	u32 of_tracked;
};

/* Records that were not delivered to a subscriber, by reason. */
struct process_loss {
	u64 ring_full;
	u64 rate_limited;
	u64 read_fault; /* delivered, but with its arguments or path missing */
	u64 map_full;   /* a process that could not be marked, an open that could not be kept */
};

/* Tracepoints with a stand-in for the program there. */
enum hook {
	HOOK_EXEC,
	HOOK_EXIT,
	HOOK_FORK,
	NR_HOOKS,
};

/* Which filters any subscriber uses at all. */
enum filter_bits {
	FILTER_COMMANDS = 1,
	FILTER_CGROUPS = 2,
	FILTER_PIDS = 4,
	FILTER_UIDS = 8,
	FILTER_PATHS = 16,
};

/* The argument of the programs that ready and arm a subscriber's timer. */
struct timer_args {
	u32 slot;
};

#endif
