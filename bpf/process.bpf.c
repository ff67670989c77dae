// SPDX-License-Identifier: GPL-2.0-only
/*
 * The process monitor. One loaded copy serves several subscribers, each with filters and a ring
 * buffer of its own; a subscriber is a bit in every mask.
 *
 * A process is tracked by a subscriber when its command, pid, user, cgroup or executable matches
 * that subscriber's filter, or its parent was tracked when it forked. The marks live in the task
 * storage of the thread group leader: they go with the process, need no size and no cleaning up.
 *
 * What nobody wants costs a look at `audiences` and at the marks, and returns.
 */
#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "process.h"

#define EBUSY 16

char LICENSE[] SEC("license") = "GPL";

/* Written by user space while the programs run. */
struct subscriber subscribers[MAX_SUBSCRIBERS] = {};
struct audience audiences[NR_KINDS] = {};
u32 filters_in_use = 0;
u32 nr_slots = 0;             /* slots above are unused */
u64 command_initials[4] = {}; /* a bit for each byte that a command to track begins with */

/* Of which subscriber the iterators below set and clear the marks. */
u32 marked_slot = 0;

/* Read by user space. */
struct process_loss losses[MAX_SUBSCRIBERS] = {};
u64 made_up_for[NR_HOOKS] = {}; /* runs that the kernel skipped and a stand-in made */

#define subscriber_at(slot) subscribers[(slot) & (MAX_SUBSCRIBERS - 1)]

#define lose(slot, reason, n)                                                                      \
	__sync_fetch_and_add(&losses[(slot) & (MAX_SUBSCRIBERS - 1)].reason, n)

#define for_each_subscriber(slot, mask)                                                            \
	bpf_for(slot, 0,                                                                           \
		nr_slots < MAX_SUBSCRIBERS ? nr_slots                                              \
					   : MAX_SUBSCRIBERS) if ((mask) & (1U << slot))

struct ring {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, MAX_SUBSCRIBERS);
	__type(key, u32);
	__array(values, struct ring);
} rings SEC(".maps");

/* The filters: what to track, and for whom. Command names are padded with NULs. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, char[COMM_LEN]);
	__type(value, u32);
} commands SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, u64);
	__type(value, u32);
} cgroups SEC(".maps"), pids SEC(".maps"), uids SEC(".maps");

struct path_prefix {
	u32 bits;
	char path[12]
		 [21]; /* 252 bytes; in rows, for the generated bindings derive no longer ones */
};

/* A path matches its longest prefix only, so user space gives a prefix the marks of shorter ones.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, struct path_prefix);
	__type(value, u32);
} paths SEC(".maps");

/* Of a process, kept at its leader. */
struct process_state {
	u32 tracked;
	u32 exited;
	u32 parent;
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct process_state);
} processes SEC(".maps");

/* A path, written from the end of the first half to its beginning. */
struct resolved {
	char bytes[2 * SMALL_PATH / 32][32];
};

/* Of a thread whose opens somebody wants. */
struct opening {
	/* what was opened last, how often since its record, and when that was */
	u64 hash;
	u64 repeated;
	u64 since;
	u32 repeated_flags;
	s32 repeated_result;
	/* for the rate limit */
	u64 second;
	u32 in_second;
	u32 _pad;
	char given[SMALL_PATH / 32][32]; /* as the process gave it */
	char last[SMALL_PATH / 32][32];  /* of the last record */
	struct resolved resolved;
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct opening);
} openings SEC(".maps");

/*
 * Functions that are not static are checked by the verifier once, and not at every call. They take
 * no kernel pointer; but where a task or cgroup is only read, its address is enough.
 */

__noinline int no_memory(u32 who)
{
	u32 slot;

	for_each_subscriber(slot, who) lose(slot, map_full, 1);
	return 0;
}

/* ---- who is interested */

static struct process_state *state_of(struct task_struct *leader)
{
	return bpf_task_storage_get(&processes, leader, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
}

/* The marks of an untracked process cost nothing, so this may fail for want of memory. */
static struct process_state *track(struct task_struct *leader, u32 marks)
{
	struct process_state *s = state_of(leader);

	if (s)
		__sync_fetch_and_or(&s->tracked, marks);
	else
		no_memory(marks);
	return s;
}

static u32 tracked_by(struct task_struct *leader)
{
	struct process_state *s = bpf_task_storage_get(&processes, leader, NULL, 0);

	return s ? s->tracked : 0;
}

static u32 wanted_by(u32 kind, u32 tracked)
{
	struct audience *a = &audiences[kind & (NR_KINDS - 1)];

	return a->of_all | (a->of_tracked & tracked);
}

/* Nobody wants this kind of anything. */
static bool unwanted(u32 kind)
{
	struct audience *a = &audiences[kind & (NR_KINDS - 1)];

	return !(a->of_all | a->of_tracked);
}

/*
 * "python" matches python, python3 and python3.11: the name, then digits and dots only. So take
 * these off the end, one by one, and look up what is left.
 */
static u32 command_matches(struct task_struct *task)
{
	char comm[COMM_LEN] = {};
	u32 found = 0;

	BPF_CORE_READ_INTO(&comm, task, comm);
	for (int i = COMM_LEN - 1; i >= 0; i--) {
		char last = comm[i];
		u32 *mask;

		if (last) {
			mask = bpf_map_lookup_elem(&commands, comm);
			if (mask)
				found |= *mask;
			if (!((last >= '0' && last <= '9') || last == '.'))
				return found;
		}
		/* Also where it is zero already, so that the verifier sees one state, not 2^16. */
		*(volatile char *)&comm[i] = 0;
	}
	return found;
}

/* Of a cgroup and its ancestors. */
__noinline u32 marks_of(u64 address)
{
	struct cgroup *cgrp = (void *)address;
	int i, level = BPF_CORE_READ(cgrp, level);
	u32 found = 0;

	bpf_for(i, 0, 32)
	{
		struct cgroup *ancestor = NULL;
		u32 *mask;
		u64 id;

		if (i > level)
			break;
		bpf_core_read(&ancestor, sizeof(ancestor), &cgrp->ancestors[i]);
		id = BPF_CORE_READ(ancestor, kn, id);
		mask = bpf_map_lookup_elem(&cgroups, &id);
		if (mask)
			found |= *mask;
	}
	return found;
}

static u32 cgroup_matches(struct task_struct *task)
{
	return marks_of((u64)BPF_CORE_READ(task, cgroups, dfl_cgrp));
}

__noinline u32 matches_at(u64 address)
{
	struct task_struct *task = (void *)address;
	u32 found = 0, *mask;
	u64 id;

	if (filters_in_use & FILTER_COMMANDS)
		found |= command_matches(task);
	if (filters_in_use & FILTER_CGROUPS)
		found |= cgroup_matches(task);
	if (filters_in_use & FILTER_PIDS) {
		id = BPF_CORE_READ(task, tgid);
		mask = bpf_map_lookup_elem(&pids, &id);
		if (mask)
			found |= *mask;
	}
	if (filters_in_use & FILTER_UIDS) {
		id = BPF_CORE_READ(task, cred, uid.val);
		mask = bpf_map_lookup_elem(&uids, &id);
		if (mask)
			found |= *mask;
	}
	return found;
}

static u32 matches(struct task_struct *leader)
{
	u8 initial;

	if (!filters_in_use)
		return 0;
	/* Most commands are not looked for, and most of these do not even begin like one that is.
	 */
	if (filters_in_use == FILTER_COMMANDS) {
		initial = leader->comm[0];
		if (!(command_initials[initial >> 6] & (1ULL << (initial & 63))))
			return 0;
	}
	/* A leader leads itself; read from memory, its address is a plain number. */
	return matches_at((u64)BPF_CORE_READ(leader, group_leader));
}

static __noinline u32 path_matches(struct linux_binprm *bprm)
{
	struct path_prefix key = {.bits = sizeof(key.path) * 8};
	u32 *mask;

	bpf_probe_read_kernel_str(key.path, sizeof(key.path), BPF_CORE_READ(bprm, filename));
	mask = bpf_map_lookup_elem(&paths, &key);
	return mask ? *mask : 0;
}

/* ---- delivery */

struct wake {
	struct bpf_timer timer;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_SUBSCRIBERS);
	__type(key, u32);
	__type(value, struct wake);
} wakes SEC(".maps");

/* A timer runs that will look into the ring. Not beside the timer: some programs may see none. */
u32 armed[MAX_SUBSCRIBERS] = {};

#define armed_at(slot) armed[(slot) & (MAX_SUBSCRIBERS - 1)]

/* With a record of nothing, which the reader does not see. A full ring has woken it already. */
static void wake_reader(void *ring)
{
	void *nothing = bpf_ringbuf_reserve(ring, 8, 0);

	if (nothing)
		bpf_ringbuf_discard(nothing, BPF_RB_FORCE_WAKEUP);
}

static int time_is_up(void *map, u32 *slot, struct wake *w)
{
	void *ring = bpf_map_lookup_elem(&rings, slot);

	/* First: who submits from now on does not rely on this timer any more. */
	__sync_lock_test_and_set(&armed_at(*slot), 0);
	if (ring && bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA))
		wake_reader(ring);
	return 0;
}

SEC("syscall")
int ready_timer(struct timer_args *args)
{
	u32 slot = args->slot;
	struct wake *w = bpf_map_lookup_elem(&wakes, &slot);
	long err;

	if (!w)
		return 1;
	armed_at(slot) = 0;
	/* 1: CLOCK_MONOTONIC */
	err = bpf_timer_init(&w->timer, &wakes, 1);
	/* Readied for an earlier subscriber of this slot. */
	if (err == -EBUSY)
		return 0;
	return err ?: bpf_timer_set_callback(&w->timer, time_is_up);
}

/* False: there is no timer to wait for. */
static bool arm(u32 slot, u64 delay_ns)
{
	struct wake *w = bpf_map_lookup_elem(&wakes, &slot);

	if (!w)
		return false;
	if (armed_at(slot) || __sync_lock_test_and_set(&armed_at(slot), 1) ||
	    !bpf_timer_start(&w->timer, delay_ns, 0))
		return true;
	armed_at(slot) = 0;
	return false;
}

/* The reader has taken what there was, and will look again when the time is up. */
SEC("syscall")
int arm_timer(struct timer_args *args)
{
	u32 slot = args->slot & (MAX_SUBSCRIBERS - 1);

	arm(slot, subscribers[slot].delay_ns);
	return 0;
}

/* A subscriber and where its records go. */
struct target {
	struct subscriber *sub;
	void *ring;
	u32 slot;
};

static void find(struct target *to, u32 slot)
{
	to->slot = slot;
	to->sub = &subscriber_at(slot);
	to->ring = bpf_map_lookup_elem(&rings, &slot);
}

static __always_inline void *reserve(struct target *to, u32 slot, u64 bytes)
{
	void *record;

	find(to, slot);
	if (!to->ring)
		return NULL;
	record = bpf_ringbuf_reserve(to->ring, bytes, 0);
	if (!record)
		lose(slot, ring_full, 1);
	return record;
}

static bool half_full(struct target *to)
{
	return bpf_ringbuf_query(to->ring, BPF_RB_AVAIL_DATA) > to->sub->ring_bytes / 2;
}

/*
 * Nearly all of the cost of a record is the wake-up of its reader. So it waits for more of them, at
 * most delay_ns, unless the ring is half full.
 */
static u64 flags_for(struct target *to)
{
	if (!to->sub->delay_ns)
		return 0;
	return half_full(to) ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP;
}

/* After the submission. */
static void wait_for_more(struct target *to)
{
	if (to->sub->delay_ns && !arm(to->slot, to->sub->delay_ns))
		wake_reader(to->ring);
}

static __always_inline void submit(struct target *to, void *record)
{
	bpf_ringbuf_submit(record, flags_for(to));
	wait_for_more(to);
}

/*
 * For programs whose type may not start a timer: on system calls, and in user space. Where none
 * runs they wake the reader, and that starts one when it has taken the record; the next ones wait.
 */
static __always_inline void submit_without_timer(struct target *to, void *record)
{
	u64 flags = half_full(to) ? BPF_RB_FORCE_WAKEUP : armed_at(to->slot) ? BPF_RB_NO_WAKEUP : 0;

	bpf_ringbuf_submit(record, flags);
	/* If the time was up in between, the record may have gone unseen. */
	if (flags == BPF_RB_NO_WAKEUP && !*(volatile u32 *)&armed_at(to->slot))
		wake_reader(to->ring);
}

static void fill(struct record_header *h, u32 kind, struct task_struct *task, u32 parent)
{
	/* Plain loads: each BPF_CORE_READ would be a call for every pointer on the way. */
	h->timestamp = bpf_ktime_get_boot_ns();
	h->cgroup_id = task->cgroups->dfl_cgrp->kn->id;
	h->kind = kind;
	h->pid = task->tgid;
	h->ppid = parent ?: task->real_parent->tgid;
	h->uid = task->cred->uid.val;
	bpf_probe_read_kernel(h->comm, sizeof(h->comm), task->group_leader->comm);
}

/* A record without a path. */
union record {
	struct record_header h;
	struct record_exit exit;
	struct record_fork fork;
	struct record_oom_kill oom_kill;
};

/* The same for all: filled once. */
__noinline int emit(u32 who, union record *r)
{
	struct target to;
	u32 slot, bytes;

	if (!r)
		return 0;
	bytes = r->h.kind == RECORD_EXIT   ? sizeof(r->exit)
		: r->h.kind == RECORD_FORK ? sizeof(r->fork)
					   : sizeof(r->oom_kill);
	for_each_subscriber(slot, who)
	{
		find(&to, slot);
		if (!to.ring ||
		    (r->h.kind == RECORD_EXIT && r->exit.duration_ns < to.sub->min_duration_ns))
			continue;
		if (bpf_ringbuf_output(to.ring, r, bytes, flags_for(&to)))
			lose(slot, ring_full, 1);
		else
			wait_for_more(&to);
	}
	return 0;
}

/* ---- exec, fork, exit */

struct exec_args {
	u64 start;
	u64 total;
	u64 filename;
	u32 parent;
};

/* For the current task. 0 when the path does not fit. */
__noinline int emit_exec(u32 slot, u32 path_area, struct exec_args *a)
{
	struct bpf_dynptr record;
	struct target to;
	struct record_exec *e;
	int piece, fits = 1;
	void *path;
	u64 len;
	long n = 0;

	find(&to, slot);
	if (!to.ring || !a)
		return 1;
	len = a->total < to.sub->args_max ? a->total : to.sub->args_max;
	if (bpf_ringbuf_reserve_dynptr(
		to.ring, sizeof(*e) + path_area + ((len + ARGS_PIECE - 1) & -ARGS_PIECE), 0,
		&record)) {
		lose(slot, ring_full, 1);
		goto discard;
	}
	e = bpf_dynptr_data(&record, 0, sizeof(*e));
	if (!e)
		goto discard;
	if (path_area == SMALL_PATH) {
		path = bpf_dynptr_data(&record, sizeof(*e), SMALL_PATH);
		if (path)
			n = bpf_probe_read_kernel_str(path, SMALL_PATH, (void *)a->filename);
		if (n == SMALL_PATH) {
			fits = 0;
			goto discard;
		}
	} else {
		path = bpf_dynptr_data(&record, sizeof(*e), LARGE_PATH);
		if (path)
			n = bpf_probe_read_kernel_str(path, LARGE_PATH, (void *)a->filename);
	}
	fill(&e->h, RECORD_EXEC, bpf_get_current_task_btf(), a->parent);
	e->path_area = path_area;
	e->path_len = n > 0 ? n - 1 : 0;
	e->args_total = a->total;
	e->args_len = len;
	bpf_for(piece, 0, MAX_ARGS / ARGS_PIECE)
	{
		u64 at = (u64)piece * ARGS_PIECE, left;
		void *area;

		if (at >= len)
			break;
		left = len - at;
		/* Compared after this, so that the verifier sees the bound in the register used. */
		barrier_var(left);
		if (left > ARGS_PIECE)
			left = ARGS_PIECE;
		area = bpf_dynptr_data(&record, sizeof(*e) + path_area + at, ARGS_PIECE);
		if (!area)
			break;
		if (bpf_probe_read_user(area, left, (void *)(a->start + at))) {
			e->args_len = at;
			lose(slot, read_fault, 1);
			break;
		}
	}
	bpf_ringbuf_submit_dynptr(&record, flags_for(&to));
	wait_for_more(&to);
	return 1;
discard:
	/*
	 * This wakes the reader too: it sleeps in front of the record, and a later one wakes only a
	 * reader that has come as far as that one.
	 */
	bpf_ringbuf_discard_dynptr(&record, 0);
	return fits;
}

__noinline int emit_execs(u32 who, struct exec_args *a)
{
	u32 slot;

	for_each_subscriber(slot, who)
	{
		if (!emit_exec(slot, SMALL_PATH, a))
			emit_exec(slot, LARGE_PATH, a);
	}
	return 0;
}

/* In the cgroup v2 hierarchy, where every task is somewhere; ids of others may be the same numbers.
 */
static bool is_v2(struct cgroup *cgrp)
{
	struct task_struct *task = bpf_get_current_task_btf();

	return BPF_CORE_READ(cgrp, root) == BPF_CORE_READ(task, cgroups, dfl_cgrp, root);
}

/* A process that is moved into a tracked cgroup is tracked from then on. */
SEC("tp_btf/cgroup_attach_task")
int BPF_PROG(on_cgroup_attach, struct cgroup *to, const char *path, struct task_struct *task)
{
	u32 found;

	if (!(filters_in_use & FILTER_CGROUPS) || !is_v2(to))
		return 0;
	found = marks_of((u64)BPF_CORE_READ(to, self.cgroup));
	if (found)
		track(task->group_leader, found);
	return 0;
}

static __always_inline int exec(struct task_struct *task, pid_t old_pid, struct linux_binprm *bprm)
{
	u32 tracked = tracked_by(task), found = matches(task), who;
	struct exec_args a = {};
	struct process_state *s;

	if (filters_in_use & FILTER_PATHS)
		found |= path_matches(bprm);
	/* A thread that is not the leader lost the leader's marks with it: ask the parent. */
	if (old_pid != task->pid)
		found |= tracked_by(task->real_parent);
	if (found & ~tracked) {
		track(task, found);
		tracked |= found;
	}
	who = wanted_by(RECORD_EXEC, tracked);
	if (!who)
		return 0;
	s = bpf_task_storage_get(&processes, task, NULL, 0);
	a.parent = s ? s->parent : 0;
	a.start = task->mm->arg_start;
	a.total = task->mm->arg_end - a.start;
	a.filename = (u64)BPF_CORE_READ(bprm, filename);
	return emit_execs(who, &a);
}

static __always_inline int fork(struct task_struct *parent, struct task_struct *child)
{
	u32 tracked = tracked_by(parent->group_leader), who;
	struct process_state *s;
	union record r = {};

	/* All else it has from its parent, which would be tracked for it; only this may differ. */
	if (filters_in_use & FILTER_CGROUPS)
		tracked |= cgroup_matches(child);
	/* Who forked it is kept for those who hear of it later. */
	if (tracked || audiences[RECORD_EXEC].of_all || audiences[RECORD_EXIT].of_all) {
		s = track(child, tracked);
		if (s)
			s->parent = parent->tgid;
	}
	who = wanted_by(RECORD_FORK, tracked);
	if (!who)
		return 0;
	fill(&r.h, RECORD_FORK, parent, 0);
	r.fork.child_pid = child->pid;
	return emit(who, &r);
}

/*
 * The largest resident set since the last exec, where the memory is still there to ask
 * (kernel 6.16); else what getrusage(2) says, which may stem from before the exec: from who forked
 * it.
 */
static u64 peak_pages(struct task_struct *task, struct signal_struct *sig)
{
	struct mm_struct *mm = task->mm;
	u64 peak, now = 0;

	if (!mm)
		return sig->maxrss;
	peak = mm->hiwater_rss;
	/* file, anonymous and shared pages; the counters of single CPUs may lag by some pages */
	for (int i = 0; i < 4; i++) {
		s64 pages = 0;

		if (i != MM_SWAPENTS)
			bpf_core_read(&pages, sizeof(pages), &mm->rss_stat[i].count);
		if (pages > 0)
			now += pages;
	}
	return peak > now ? peak : now;
}

static void fill_exit(struct record_exit *r, struct task_struct *task, u32 parent)
{
	struct task_struct *leader = task->group_leader;
	struct signal_struct *sig = task->signal;

	fill(&r->h, RECORD_EXIT, task, parent);
	r->duration_ns = r->h.timestamp - leader->start_boottime;
	/* The signal struct has the threads that were reaped; add those that were not. */
	r->utime_ns = sig->utime + task->utime;
	r->stime_ns = sig->stime + task->stime;
	r->runtime_ns = sig->sum_sched_runtime + task->se.sum_exec_runtime;
	r->read_bytes = sig->ioac.read_bytes + task->ioac.read_bytes;
	r->write_bytes = sig->ioac.write_bytes + task->ioac.write_bytes;
	if (leader != task) {
		r->utime_ns += leader->utime;
		r->stime_ns += leader->stime;
		r->runtime_ns += leader->se.sum_exec_runtime;
		r->read_bytes += leader->ioac.read_bytes;
		r->write_bytes += leader->ioac.write_bytes;
	}
	r->maxrss_pages = peak_pages(task, sig);
	r->code = sig->group_exit_code;
	r->oom_killed = sig->oom_mm != NULL;
}

static void flush_opens(struct task_struct *task);

static __always_inline int process_exit(struct task_struct *task)
{
	struct task_struct *leader = task->group_leader;
	struct process_state *s;
	union record r;
	u32 who;

	flush_opens(task);
	if (unwanted(RECORD_EXIT) || task->signal->live.counter > 0)
		return 0;
	who = wanted_by(RECORD_EXIT, tracked_by(leader));
	if (!who)
		return 0;
	__builtin_memset(&r, 0, sizeof(r));
	/*
	 * The process ends with its last thread. Two that exit at once may both see none alive, so
	 * the first to mark the leader reports.
	 */
	s = state_of(leader);
	if (s && __sync_lock_test_and_set(&s->exited, 1))
		return 0;
	fill_exit(&r.exit, task, s ? s->parent : 0);
	return emit(who, &r);
}

/*
 * The kernel skips a program that another task on the CPU is in the middle of, and tasks that are
 * in these may be preempted (since 7.0). So each has two stand-ins, which look whether one before
 * them ran: one stand-in may be preempted too while it does the work, with a third task to come.
 * Turning preemption off would be no cure, for the task is then preempted when it turns it on
 * again.
 *
 * Each event is noted by its task, which may change the CPU between the two.
 */
struct noted {
	u64 event[NR_HOOKS];
};

#define NOTED 4096 /* a power of two; overwritten by the task whose pid is so much larger */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, NOTED);
	__type(key, u32);
	__type(value, struct noted);
} noted SEC(".maps");

static u64 *noted_at(u32 hook, struct task_struct *task)
{
	u32 key = task->pid & (NOTED - 1);
	struct noted *n = bpf_map_lookup_elem(&noted, &key);

	return n ? &n->event[hook] : NULL;
}

/* A task is forked once and exits once; the number of its execs is in the second. */
static u64 event_of(struct task_struct *task)
{
	return task->start_boottime + task->self_exec_id;
}

static __always_inline void note(u32 hook, struct task_struct *task)
{
	u64 *event = noted_at(hook, task);

	if (event)
		*event = event_of(task);
}

static __always_inline bool skipped(u32 hook, struct task_struct *task)
{
	u64 *event = noted_at(hook, task);

	if (!event || *event == event_of(task))
		return false;
	*event = event_of(task);
	__sync_fetch_and_add(&made_up_for[hook], 1);
	return true;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_exec, struct task_struct *task, pid_t old_pid, struct linux_binprm *bprm)
{
	note(HOOK_EXEC, task);
	return exec(task, old_pid, bprm);
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_exec_second, struct task_struct *task, pid_t old_pid, struct linux_binprm *bprm)
{
	return skipped(HOOK_EXEC, task) ? exec(task, old_pid, bprm) : 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_exec_third, struct task_struct *task, pid_t old_pid, struct linux_binprm *bprm)
{
	return skipped(HOOK_EXEC, task) ? exec(task, old_pid, bprm) : 0;
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(on_fork, struct task_struct *parent, struct task_struct *child)
{
	/* Not of threads. */
	if (child->pid != child->tgid)
		return 0;
	note(HOOK_FORK, child);
	return fork(parent, child);
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(on_fork_second, struct task_struct *parent, struct task_struct *child)
{
	if (child->pid != child->tgid)
		return 0;
	return skipped(HOOK_FORK, child) ? fork(parent, child) : 0;
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(on_fork_third, struct task_struct *parent, struct task_struct *child)
{
	if (child->pid != child->tgid)
		return 0;
	return skipped(HOOK_FORK, child) ? fork(parent, child) : 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_exit, struct task_struct *task)
{
	note(HOOK_EXIT, task);
	return process_exit(task);
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_exit_second, struct task_struct *task)
{
	return skipped(HOOK_EXIT, task) ? process_exit(task) : 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_exit_third, struct task_struct *task)
{
	return skipped(HOOK_EXIT, task) ? process_exit(task) : 0;
}

/* ---- the OOM killer */

/* The vmlinux.h at hand stems from a kernel without memory controller. */
struct page_counter___memcg {
	atomic_long_t usage;
	unsigned long max;
} __attribute__((preserve_access_index));

struct mem_cgroup___memcg {
	struct page_counter___memcg memory;
} __attribute__((preserve_access_index));

enum cgroup_subsys_id___memcg {
	memory_cgrp_id___memcg = 4,
};

/* The nearest cgroup whose memory.max is reached: the kernel kills when a charge did not fit. */
static void find_limit(struct task_struct *task, struct record_oom_kill *r)
{
	struct cgroup_subsys_state *css = NULL;
	struct css_set *set;

	if (!bpf_core_enum_value_exists(enum cgroup_subsys_id___memcg, memory_cgrp_id___memcg))
		return;
	set = BPF_CORE_READ(task, cgroups);
	bpf_core_read(&css, sizeof(css),
		      &set->subsys[bpf_core_enum_value(enum cgroup_subsys_id___memcg,
						       memory_cgrp_id___memcg)]);
	for (int i = 0; i < 32 && css; i++) {
		/* The css is the first member of struct mem_cgroup. */
		struct mem_cgroup___memcg *memcg = (void *)css;

		if (BPF_CORE_READ(memcg, memory.usage.counter) + 64 >=
		    BPF_CORE_READ(memcg, memory.max)) {
			r->limit_cgroup_id = BPF_CORE_READ(css, cgroup, kn, id);
			r->limit_pages = BPF_CORE_READ(memcg, memory.max);
			return;
		}
		css = BPF_CORE_READ(css, parent);
	}
}

SEC("tp_btf/mark_victim")
int BPF_PROG(on_oom_kill, struct task_struct *task)
{
	u32 who = wanted_by(RECORD_OOM_KILL, tracked_by(task->group_leader));
	union record r = {};

	if (!who)
		return 0;
	fill(&r.h, RECORD_OOM_KILL, task, 0);
	find_limit(task, &r.oom_kill);
	return emit(who, &r);
}

/* ---- names of cgroups */

struct text_large {
	struct record_text t;
	char text[LARGE_PATH];
};

SEC("tp_btf/cgroup_mkdir")
int BPF_PROG(on_cgroup_mkdir, struct cgroup *cgrp, const char *path)
{
	struct task_struct *task = bpf_get_current_task_btf();
	u32 slot, who = audiences[RECORD_CGROUP].of_all;
	struct text_large *r;
	struct target to;
	long n;

	if (!is_v2(cgrp))
		return 0;
	for_each_subscriber(slot, who)
	{
		find(&to, slot);
		if (!to.ring)
			continue;
		r = bpf_ringbuf_reserve(to.ring, sizeof(*r), 0);
		/* Not an event: the reader then looks the name up by itself. */
		if (!r)
			continue;
		fill(&r->t.h, RECORD_CGROUP, task, 0);
		r->t.h.cgroup_id = BPF_CORE_READ(cgrp, kn, id);
		n = bpf_probe_read_kernel_str(r->text, sizeof(r->text), path);
		r->t.path_area = sizeof(r->text);
		r->t.path_len = n > 0 ? n - 1 : 0;
		submit(&to, r);
	}
	return 0;
}

/* ---- lines of interactive shells */

struct text_line {
	struct record_text t;
	char text[LINE_LEN];
};

SEC("uretprobe")
int BPF_URETPROBE(on_readline, const char *line)
{
	struct task_struct *task = bpf_get_current_task_btf();
	u32 slot, who = wanted_by(RECORD_BASH_READLINE, tracked_by(task->group_leader));
	struct text_line *r;
	struct target to;
	long n;

	if (!line)
		return 0;
	for_each_subscriber(slot, who)
	{
		r = reserve(&to, slot, sizeof(*r));
		if (!r)
			continue;
		fill(&r->t.h, RECORD_BASH_READLINE, task, 0);
		n = bpf_probe_read_user_str(r->text, sizeof(r->text), line);
		if (n < 0)
			lose(slot, read_fault, 1);
		r->t.path_area = sizeof(r->text);
		r->t.path_len = n > 0 ? n - 1 : 0;
		submit_without_timer(&to, r);
	}
	return 0;
}

/* ---- opens
 *
 * All is read at the exit of the system call: the kernel itself has just read the path then, so its
 * page is present, and the arguments are still in the saved registers.
 */

static u32 open_audience(struct task_struct *task)
{
	if (unwanted(RECORD_FILE_OPEN))
		return 0;
	return wanted_by(RECORD_FILE_OPEN, tracked_by(task->group_leader));
}

/* What one record says. */
struct opened {
	u64 path; /* in user memory */
	u64 count;
	u32 flags;
	s32 result;
	u32 path_area; /* a small one has been read: it is the last one */
	u32 unread;
};

static __always_inline int emit_open(u32 slot, u32 path_area, struct opening *o,
				     struct opened *opened)
{
	struct record_file_open *f;
	struct target to;
	long n;

	if (!o || !opened)
		return 0;
	f = reserve(&to, slot, sizeof(*f) + path_area);
	if (!f)
		return 0;
	if (path_area == SMALL_PATH)
		n = bpf_probe_read_kernel_str(f + 1, path_area, o->last);
	else
		n = bpf_probe_read_user_str(f + 1, path_area, (void *)opened->path);
	if (n < 0 || opened->unread)
		lose(slot, read_fault, 1);
	fill(&f->h, RECORD_FILE_OPEN, bpf_get_current_task_btf(), 0);
	f->count = opened->count;
	f->path_area = path_area;
	f->path_len = n > 0 ? n - 1 : 0;
	f->flags = opened->flags;
	f->result = opened->result;
	submit_without_timer(&to, f);
	return 0;
}

__noinline int emit_short_open(u32 slot, struct opening *o, struct opened *opened)
{
	return emit_open(slot, SMALL_PATH, o, opened);
}

__noinline int emit_long_open(u32 slot, struct opening *o, struct opened *opened)
{
	return emit_open(slot, LARGE_PATH, o, opened);
}

/* To those that had not their share of this second yet; for the current task. */
__noinline int emit_opens(u32 who, struct opening *o, struct opened *opened)
{
	u32 slot, process = bpf_get_current_pid_tgid() >> 32;
	u64 now = bpf_ktime_get_boot_ns();

	if (!o || !opened)
		return 0;
	if (now - o->second >= 1000000000) {
		o->second = now;
		o->in_second = 0;
	}
	o->in_second++;
	for_each_subscriber(slot, who)
	{
		if (process == subscriber_at(slot).reader)
			continue;
		if (o->in_second > subscriber_at(slot).open_rate)
			lose(slot, rate_limited, opened->count);
		else if (opened->path_area == SMALL_PATH)
			emit_short_open(slot, o, opened);
		else
			emit_long_open(slot, o, opened);
	}
	return 0;
}

/* The record of the repetitions that were held back. */
static void flush(struct opening *o, u32 who)
{
	struct opened opened = {
	    .count = o->repeated,
	    .flags = o->repeated_flags,
	    .result = o->repeated_result,
	    .path_area = SMALL_PATH,
	};

	o->repeated = 0;
	if (opened.count)
		emit_opens(who, o, &opened);
}

static void flush_opens(struct task_struct *task)
{
	struct opening *o;

	if (unwanted(RECORD_FILE_OPEN))
		return;
	o = bpf_task_storage_get(&openings, task, NULL, 0);
	if (o)
		flush(o, open_audience(task));
}

/* How long repetitions may be held back: the shortest of those who want them. */
__noinline u64 window_of(u32 who)
{
	u64 window = ~0ULL;
	u32 slot;

	for_each_subscriber(slot, who)
	{
		u64 of_this = subscriber_at(slot).open_window_ns;

		if (of_this < window)
			window = of_this;
	}
	return window;
}

/*
 * The path of an open file from the root of its mount namespace, symbolic links followed: names are
 * put before each other from the file up. Returns where it begins, or 0 when it does not fit or
 * there is none.
 */
__noinline u32 resolve(u64 address, struct resolved *out)
{
	struct file *file = (void *)address;
	struct vfsmount *vfs = BPF_CORE_READ(file, f_path.mnt);
	struct mount *mount = (void *)vfs - bpf_core_field_offset(struct mount, mnt);
	struct dentry *dentry = BPF_CORE_READ(file, f_path.dentry);
	u32 at = SMALL_PATH - 1;
	char *to;
	int i;

	if (!out)
		return 0;
	to = (char *)out->bytes;
	to[at] = 0;
	bpf_for(i, 0, 64)
	{
		struct dentry *parent = BPF_CORE_READ(dentry, d_parent);
		const unsigned char *name;
		u32 len;

		if (dentry == BPF_CORE_READ(mount, mnt.mnt_root) || dentry == parent) {
			struct mount *above = BPF_CORE_READ(mount, mnt_parent);

			/* Nothing put before: the root itself, or what is in no directory. */
			if (above == mount)
				return at == SMALL_PATH - 1 ? 0 : at;
			dentry = BPF_CORE_READ(mount, mnt_mountpoint);
			mount = above;
			continue;
		}
		name = BPF_CORE_READ(dentry, d_name.name);
		len = BPF_CORE_READ(dentry, d_name.len);
		if (len >= at)
			return 0;
		at -= len + 1;
		/* Both are below SMALL_PATH, and the buffer is twice as long. */
		to[at & (SMALL_PATH - 1)] = '/';
		bpf_probe_read_kernel(&to[(at & (SMALL_PATH - 1)) + 1], len & (SMALL_PATH - 1),
				      name);
		dentry = parent;
	}
	return 0;
}

/* `user_path` is in user memory. */
__noinline int opened_by_current(u64 user_path, u64 flags, s64 result)
{
	struct task_struct *task = bpf_get_current_task_btf();
	u32 at, who = open_audience(task);
	u64 now, hash = 14695981039346656037ULL;
	struct opened opened = {
	    .path = user_path,
	    .count = 1,
	    .flags = flags,
	    .result = result,
	    .path_area = SMALL_PATH,
	};
	struct file *file = NULL;
	struct opening *o;
	char *path;
	long n;

	if (!who)
		return 0;
	o = bpf_task_storage_get(&openings, task, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!o)
		return no_memory(who);
	now = bpf_ktime_get_boot_ns();
	path = (char *)o->given;
	__builtin_memset(path, 0, SMALL_PATH);
	n = bpf_probe_read_user_str(path, SMALL_PATH, (void *)user_path);
	if (result >= 0) {
		struct file **files = BPF_CORE_READ(task, files, fdt, fd);

		bpf_probe_read_kernel(&file, sizeof(file), files + result);
	}
	if (n == SMALL_PATH) {
		flush(o, who);
		o->hash = 0;
		opened.path_area = LARGE_PATH;
		return emit_opens(who, o, &opened);
	}
	for (int i = 0; i < SMALL_PATH / 8; i++)
		hash = (hash ^ ((u64 *)path)[i]) * 1099511628211ULL;
	/* One name may be two files, in two directories. */
	if (file)
		hash ^= (u64)BPF_CORE_READ(file, f_path.dentry);
	if (n > 0 && hash == o->hash && now - o->since < window_of(who)) {
		o->repeated++;
		o->repeated_flags = flags;
		o->repeated_result = result;
		return 0;
	}
	flush(o, who);
	opened.unread = n < 0;
	o->hash = hash;
	o->since = now;
	at = file ? resolve((u64)file, &o->resolved) : 0;
	if (at)
		path = (char *)o->resolved.bytes + (at & (SMALL_PATH - 1));
	bpf_probe_read_kernel_str(o->last, SMALL_PATH, path);
	return emit_opens(who, o, &opened);
}

#define CURRENT_REGS() ((struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf()))

SEC("tracepoint")
int on_open(struct trace_event_raw_sys_exit *ctx)
{
	struct pt_regs *regs = CURRENT_REGS();

	return opened_by_current(PT_REGS_PARM1_CORE_SYSCALL(regs), PT_REGS_PARM2_CORE_SYSCALL(regs),
				 ctx->ret);
}

SEC("tracepoint")
int on_creat(struct trace_event_raw_sys_exit *ctx)
{
	/* O_CREAT | O_WRONLY | O_TRUNC */
	return opened_by_current(PT_REGS_PARM1_CORE_SYSCALL(CURRENT_REGS()), 0100 | 01 | 01000,
				 ctx->ret);
}

SEC("tracepoint")
int on_openat(struct trace_event_raw_sys_exit *ctx)
{
	struct pt_regs *regs = CURRENT_REGS();

	return opened_by_current(PT_REGS_PARM2_CORE_SYSCALL(regs), PT_REGS_PARM3_CORE_SYSCALL(regs),
				 ctx->ret);
}

SEC("tracepoint")
int on_openat2(struct trace_event_raw_sys_exit *ctx)
{
	struct pt_regs *regs = CURRENT_REGS();
	u64 flags = 0;

	/* struct open_how begins with its flags */
	bpf_probe_read_user(&flags, sizeof(flags), (void *)PT_REGS_PARM3_CORE_SYSCALL(regs));
	return opened_by_current(PT_REGS_PARM2_CORE_SYSCALL(regs), flags, ctx->ret);
}

/* ---- processes that run already */

/* Takes the mark off all processes: it may be left from an earlier subscriber of the slot. */
SEC("iter/task")
int unmark_all(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct process_state *s;

	if (!task)
		return 0;
	s = bpf_task_storage_get(&processes, task, NULL, 0);
	if (s)
		__sync_fetch_and_and(&s->tracked, ~(1U << (marked_slot & 31)));
	return 0;
}

/* Marks those that match, or that have an ancestor that does. */
SEC("iter/task")
int mark_existing(struct bpf_iter__task *ctx)
{
	u32 bit = 1U << (marked_slot & 31), found;
	struct task_struct *task = ctx->task, *ancestor;

	if (!task || task->pid != task->tgid)
		return 0;
	found = matches(task) & bit;
	ancestor = task;
	for (int i = 0; i < 64 && !found; i++) {
		ancestor = BPF_CORE_READ(ancestor, real_parent, group_leader);
		if (BPF_CORE_READ(ancestor, tgid) <= 1)
			break;
		found = matches_at((u64)ancestor) & bit;
	}
	if (found)
		track(task, bit);
	return 0;
}
