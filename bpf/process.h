/* SPDX-License-Identifier: GPL-2.0-only */
/* The records of the process monitor: shared by process.bpf.c and, through bindgen, by Rust. */
#ifndef AGENTCG_PROCESS_H
#define AGENTCG_PROCESS_H

#ifndef __VMLINUX_H__
typedef unsigned char u8;
typedef int s32;
typedef unsigned int u32;
typedef unsigned long long u64;
#endif

enum process_limits {
	COMM_LEN = 16,
	/* Most paths and argument lists fit the small record; the rest pay for the large one. */
	SMALL_PATH = 256,
	SMALL_ARGS = 512,
	LARGE_PATH = 4096,
	LARGE_ARGS = 16384,
};

enum record_kind {
	RECORD_EXEC = 1,
	RECORD_EXIT = 2,
	RECORD_FORK = 3,
	RECORD_FILE_OPEN = 4,
};

struct record_header {
	u64 timestamp; /* CLOCK_BOOTTIME, ns */
	u64 cgroup_id;
	u32 kind; /* enum record_kind */
	u32 pid;
	u32 ppid;
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
	u32 path_area;
	u32 path_len;
	u32 flags;
	s32 result; /* a file descriptor or -errno */
};

/* Written by user space before the programs are loaded. */
struct process_config {
	u32 mode; /* 0 everything, 1 file events of tracked processes only, 2 tracked only */
	u32 nr_commands;
	u32 nr_cgroups;
	u32 nr_pids;
	u32 kinds;  /* a bit, 1 << enum record_kind, for each that is wanted */
	u32 reader; /* whose own opens are left out, or each event would cause more */
	u64 min_duration_ns;
};

/* Events that could not be delivered, by reason. */
struct process_loss {
	u64 ring_full;
	u64 read_fault;
};

#endif
