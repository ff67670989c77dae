// SPDX-License-Identifier: GPL-2.0-only
/*
 * The process monitor: exec, exit, fork and file open, filtered in the kernel, through one ring
 * buffer.
 *
 * A process is "tracked" when its command, pid or cgroup matches the configuration, or its parent
 * was tracked when it forked. The mark lives in the task storage of the thread group leader: it
 * goes with the process, needs no size and no cleaning up.
 */
#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "process.h"

char LICENSE[] SEC("license") = "GPL";

const volatile struct process_config cfg = {};
struct process_loss loss = {};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 8 << 20);
} events SEC(".maps");

/* The command names to track, padded with NULs. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, char[COMM_LEN]);
	__type(value, u8);
} commands SEC(".maps");

/* The cgroups (with everything below them) and the pids to track. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, u64);
	__type(value, u8);
} cgroups SEC(".maps"), pids SEC(".maps");

struct task_state {
	/* of the leader, for the process */
	u32 tracked;
	u32 exited;
	/* of each thread, from the entry of an open to its exit */
	u64 open_path;
	u32 open_flags;
	u32 in_open;
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct task_state);
} tasks SEC(".maps");

static struct task_state *state_of(struct task_struct *task)
{
	return bpf_task_storage_get(&tasks, task, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
}

static bool is_tracked(struct task_struct *leader)
{
	struct task_state *s = bpf_task_storage_get(&tasks, leader, NULL, 0);

	return s && s->tracked;
}

/*
 * "python" matches python, python3 and python3.11: the name, then digits and dots only. So take
 * these off the end, one by one, and look up what is left.
 */
static bool command_matches(struct task_struct *task)
{
	char comm[COMM_LEN] = {};

	if (!cfg.nr_commands)
		return false;
	BPF_CORE_READ_INTO(&comm, task, comm);
	for (int i = COMM_LEN - 1; i >= 0; i--) {
		char last = comm[i];

		if (last && bpf_map_lookup_elem(&commands, comm))
			return true;
		if (last && !((last >= '0' && last <= '9') || last == '.'))
			return false;
		/* Also where it is zero already, so that the verifier sees one state, not 2^16. */
		*(volatile char *)&comm[i] = 0;
	}
	return false;
}

static bool cgroup_matches(struct task_struct *task)
{
	struct cgroup *cgrp;
	int level;

	if (!cfg.nr_cgroups)
		return false;
	cgrp = BPF_CORE_READ(task, cgroups, dfl_cgrp);
	level = BPF_CORE_READ(cgrp, level);
	for (int i = 0; i < 32 && i <= level; i++) {
		struct cgroup *ancestor = NULL;
		u64 id;

		bpf_core_read(&ancestor, sizeof(ancestor), &cgrp->ancestors[i]);
		id = BPF_CORE_READ(ancestor, kn, id);
		if (bpf_map_lookup_elem(&cgroups, &id))
			return true;
	}
	return false;
}

/*
 * A global function, which the verifier checks once and not at every call; such a function takes no
 * kernel pointer, but what it does with the task is to read it, and an address is enough for that.
 */
__noinline bool matches_at(u64 address)
{
	struct task_struct *task = (void *)address;
	u64 pid = BPF_CORE_READ(task, tgid);

	if (cfg.nr_pids && bpf_map_lookup_elem(&pids, &pid))
		return true;
	return command_matches(task) || cgroup_matches(task);
}

static bool matches(struct task_struct *leader)
{
	/* A leader leads itself; read from memory, its address is a plain number. */
	return matches_at((u64)BPF_CORE_READ(leader, group_leader));
}

/* Tracks the process if it matches now; once tracked, always tracked. */
static bool track(struct task_struct *leader)
{
	struct task_state *s;

	if (cfg.mode == 0)
		return true;
	if (is_tracked(leader))
		return true;
	if (!matches(leader))
		return false;
	s = state_of(leader);
	if (s)
		s->tracked = 1;
	return true;
}

static void fill(struct record_header *h, u32 kind, struct task_struct *task)
{
	h->timestamp = bpf_ktime_get_boot_ns();
	h->cgroup_id = BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id);
	h->kind = kind;
	h->pid = task->tgid;
	h->ppid = BPF_CORE_READ(task, real_parent, tgid);
	h->uid = BPF_CORE_READ(task, cred, uid.val);
	BPF_CORE_READ_INTO(&h->comm, task, group_leader, comm);
}

static bool wanted(u32 kind)
{
	return cfg.kinds & (1U << kind);
}

static void *lost(void)
{
	__sync_fetch_and_add(&loss.ring_full, 1);
	return NULL;
}

/* A macro, for the verifier wants to see a constant size. */
#define reserve(size) (bpf_ringbuf_reserve(&events, size, 0) ?: lost())

/*
 * Sizes given to bpf_ringbuf_reserve() must be constants, hence one record type for each. False
 * when the path does not fit the small one. A discarded record wakes the reader too: it sleeps in
 * front of it, and a later record wakes only a reader that has come as far as that one.
 */
#define DEFINE_EXEC(name, path_size, args_size)                                                    \
	struct name {                                                                              \
		struct record_exec e;                                                              \
		char path[path_size];                                                              \
		char args[args_size];                                                              \
	};                                                                                         \
	static bool emit_##name(struct task_struct *task, struct linux_binprm *bprm, u64 start,    \
				u64 total)                                                         \
	{                                                                                          \
		u64 len = total > (args_size) ? (args_size) : total;                               \
		struct name *rec;                                                                  \
		long n;                                                                            \
                                                                                                   \
		rec = reserve(sizeof(*rec));                                                       \
		if (!rec)                                                                          \
			return true;                                                               \
		n = bpf_probe_read_kernel_str(rec->path, path_size,                                \
					      BPF_CORE_READ(bprm, filename));                      \
		if (n == (path_size) && (path_size) < LARGE_PATH) {                                \
			bpf_ringbuf_discard(rec, 0);                                               \
			return false;                                                              \
		}                                                                                  \
		fill(&rec->e.h, RECORD_EXEC, task);                                                \
		rec->e.path_area = path_size;                                                      \
		rec->e.path_len = n > 0 ? n - 1 : 0;                                               \
		rec->e.args_total = total;                                                         \
		rec->e.args_len = len;                                                             \
		if (bpf_probe_read_user(rec->args, len, (void *)start)) {                          \
			rec->e.args_len = 0;                                                       \
			__sync_fetch_and_add(&loss.read_fault, 1);                                 \
		}                                                                                  \
		bpf_ringbuf_submit(rec, 0);                                                        \
		return true;                                                                       \
	}

DEFINE_EXEC(exec_small, SMALL_PATH, SMALL_ARGS)
DEFINE_EXEC(exec_large, LARGE_PATH, LARGE_ARGS)

SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_exec, struct task_struct *task, pid_t old_pid, struct linux_binprm *bprm)
{
	u64 start, total;

	/* A thread that is not the leader lost the leader's state with it: ask the parent. */
	if (!track(task)) {
		struct task_state *s;

		if (old_pid == task->pid || !is_tracked(task->real_parent)) {
			if (cfg.mode == 2)
				return 0;
		} else {
			s = state_of(task);
			if (s)
				s->tracked = 1;
		}
	}
	if (!wanted(RECORD_EXEC))
		return 0;
	start = BPF_CORE_READ(task, mm, arg_start);
	total = BPF_CORE_READ(task, mm, arg_end) - start;
	if (total > SMALL_ARGS || !emit_exec_small(task, bprm, start, total))
		emit_exec_large(task, bprm, start, total);
	return 0;
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(on_fork, struct task_struct *parent, struct task_struct *child)
{
	struct record_fork *rec;
	struct task_state *s;
	bool tracked;

	/* a thread */
	if (child->pid != child->tgid)
		return 0;
	if (cfg.mode) {
		tracked = is_tracked(parent->group_leader) || matches(child);
		if (tracked) {
			s = state_of(child);
			if (s)
				s->tracked = 1;
		} else if (cfg.mode == 2) {
			return 0;
		}
	}
	if (!wanted(RECORD_FORK))
		return 0;
	rec = reserve(sizeof(*rec));
	if (!rec)
		return 0;
	fill(&rec->h, RECORD_FORK, parent);
	rec->child_pid = child->pid;
	rec->_pad = 0;
	bpf_ringbuf_submit(rec, 0);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_exit, struct task_struct *task)
{
	struct task_struct *leader = task->group_leader;
	struct signal_struct *sig = task->signal;
	struct record_exit *rec;
	struct task_state *s;
	u64 duration;

	/*
	 * The process ends with its last thread. Two that exit at once may both see none alive, so
	 * the first to mark the leader reports.
	 */
	if (BPF_CORE_READ(sig, live.counter) > 0)
		return 0;
	s = state_of(leader);
	if (s && __sync_lock_test_and_set(&s->exited, 1))
		return 0;
	if (cfg.mode == 2 && !(s && s->tracked))
		return 0;
	duration = bpf_ktime_get_boot_ns() - BPF_CORE_READ(leader, start_boottime);
	if (duration < cfg.min_duration_ns)
		return 0;

	rec = reserve(sizeof(*rec));
	if (!rec)
		return 0;
	fill(&rec->h, RECORD_EXIT, task);
	rec->duration_ns = duration;
	/* The signal struct has the threads that were reaped; add those that were not. */
	rec->utime_ns = BPF_CORE_READ(sig, utime) + BPF_CORE_READ(task, utime);
	rec->stime_ns = BPF_CORE_READ(sig, stime) + BPF_CORE_READ(task, stime);
	rec->runtime_ns =
	    BPF_CORE_READ(sig, sum_sched_runtime) + BPF_CORE_READ(task, se.sum_exec_runtime);
	rec->read_bytes =
	    BPF_CORE_READ(task, ioac.read_bytes) + BPF_CORE_READ(sig, ioac.read_bytes);
	rec->write_bytes =
	    BPF_CORE_READ(task, ioac.write_bytes) + BPF_CORE_READ(sig, ioac.write_bytes);
	if (leader != task) {
		rec->utime_ns += BPF_CORE_READ(leader, utime);
		rec->stime_ns += BPF_CORE_READ(leader, stime);
		rec->runtime_ns += BPF_CORE_READ(leader, se.sum_exec_runtime);
		rec->read_bytes += BPF_CORE_READ(leader, ioac.read_bytes);
		rec->write_bytes += BPF_CORE_READ(leader, ioac.write_bytes);
	}
	rec->maxrss_pages = BPF_CORE_READ(sig, maxrss);
	rec->code = BPF_CORE_READ(sig, group_exit_code);
	rec->oom_killed = BPF_CORE_READ(sig, oom_mm) != NULL;
	bpf_ringbuf_submit(rec, 0);
	return 0;
}

/*
 * File opens: the path is read at the exit of the system call, where the kernel itself has just
 * read it, so the page is present. At the entry it often is not.
 */
static int open_enter(u64 path, u32 flags)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct task_state *s;

	if (task->tgid == cfg.reader || (cfg.mode && !is_tracked(task->group_leader)))
		return 0;
	s = state_of(task);
	if (!s)
		return 0;
	s->open_path = path;
	s->open_flags = flags;
	s->in_open = 1;
	return 0;
}

SEC("tracepoint")
int on_open_enter(struct trace_event_raw_sys_enter *ctx)
{
	return open_enter(ctx->args[0], ctx->args[1]);
}

SEC("tracepoint")
int on_creat_enter(struct trace_event_raw_sys_enter *ctx)
{
	/* O_CREAT | O_WRONLY | O_TRUNC */
	return open_enter(ctx->args[0], 0100 | 01 | 01000);
}

SEC("tracepoint")
int on_openat_enter(struct trace_event_raw_sys_enter *ctx)
{
	return open_enter(ctx->args[1], ctx->args[2]);
}

SEC("tracepoint")
int on_openat2_enter(struct trace_event_raw_sys_enter *ctx)
{
	u64 flags = 0;

	/* struct open_how begins with its flags */
	bpf_probe_read_user(&flags, sizeof(flags), (void *)ctx->args[2]);
	return open_enter(ctx->args[1], flags);
}

#define DEFINE_OPEN(name, path_size)                                                               \
	struct name {                                                                              \
		struct record_file_open e;                                                         \
		char path[path_size];                                                              \
	};                                                                                         \
	static bool emit_##name(struct task_struct *task, u64 path, u32 flags, s32 result)         \
	{                                                                                          \
		struct name *rec = reserve(sizeof(*rec));                                          \
		long n;                                                                            \
                                                                                                   \
		if (!rec)                                                                          \
			return true;                                                               \
		n = bpf_probe_read_user_str(rec->path, path_size, (void *)path);                   \
		if (n < 0 || (n == (path_size) && (path_size) < LARGE_PATH)) {                     \
			if (n < 0)                                                                 \
				__sync_fetch_and_add(&loss.read_fault, 1);                         \
			bpf_ringbuf_discard(rec, 0);                                               \
			return n < 0;                                                              \
		}                                                                                  \
		fill(&rec->e.h, RECORD_FILE_OPEN, task);                                           \
		rec->e.path_area = path_size;                                                      \
		rec->e.path_len = n > 0 ? n - 1 : 0;                                               \
		rec->e.flags = flags;                                                              \
		rec->e.result = result;                                                            \
		bpf_ringbuf_submit(rec, 0);                                                        \
		return true;                                                                       \
	}

DEFINE_OPEN(open_small, SMALL_PATH)
DEFINE_OPEN(open_large, LARGE_PATH)

SEC("tracepoint")
int on_any_open_exit(struct trace_event_raw_sys_exit *ctx)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct task_state *s = bpf_task_storage_get(&tasks, task, NULL, 0);

	if (!s || !s->in_open)
		return 0;
	s->in_open = 0;
	if (!emit_open_small(task, s->open_path, s->open_flags, ctx->ret))
		emit_open_large(task, s->open_path, s->open_flags, ctx->ret);
	return 0;
}

/* The processes that run already: their own match, or that of an ancestor. */
SEC("iter/task")
int existing(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task, *ancestor;
	struct task_state *s;
	bool found;

	if (!task || task->pid != task->tgid)
		return 0;
	found = matches(task);
	ancestor = task;
	for (int i = 0; i < 64 && !found; i++) {
		u64 pid;

		ancestor = BPF_CORE_READ(ancestor, real_parent, group_leader);
		pid = BPF_CORE_READ(ancestor, tgid);
		if (pid <= 1)
			break;
		found = matches(ancestor);
	}
	if (!found)
		return 0;
	s = state_of(task);
	if (s)
		s->tracked = 1;
	return 0;
}
