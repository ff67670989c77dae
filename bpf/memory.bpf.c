// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory protection.
 *
 * The tracepoints see at once when a high session begins to hurt: reclaim is begun on its behalf,
 * or it faults a lot while memory is short. They open its window of protection and tell user space,
 * which measures, and extends or ends the window. On every kernel with BTF.
 *
 * The hooks of memcg_bpf_ops, where the kernel has them, keep what such a session uses out of
 * reclaim and slow low sessions that have more than their part. Outside of a window they cost a
 * comparison.
 *
 * Revisions 3 to 6 of memcg_bpf_ops and revision 7 have their own tables, and share the programs,
 * which read the first argument only. User space loads the table that the kernel's BTF knows.
 */
#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "memory.h"

#define MSEC 1000000ULL
/* User space hears of a session that goes on hurting this often. */
#define TELL_EVERY (100 * MSEC)
/* Memory counts as short for so long after somebody had to reclaim. */
#define SHORT_FOR (1000 * MSEC)

char LICENSE[] SEC("license") = "GPL";

/* The part that is read; the headers come from a kernel without memory controller. */
struct mem_cgroup {
	struct cgroup_subsys_state css;
	struct page_counter memory;
} __attribute__((preserve_access_index));

const volatile struct memory_config cfg = {};

/* Some session is protected up to then; both sides write. */
u64 hurting_until = 0;
/* Memory is short up to then. */
u64 short_until = 0;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_MEMORY_SESSIONS);
	__type(key, u64);
	__type(value, struct memory_session);
} sessions SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 << 10);
} hurts SEC(".maps");

/* The session that a cgroup belongs to: itself or the next above it; *of is the cgroup found. */
static struct memory_session *session_of(struct cgroup_subsys_state *css,
					 struct cgroup_subsys_state **of, u64 *id)
{
	for (int i = 0; i < MAX_MEMORY_DEPTH && css; i++) {
		*id = BPF_CORE_READ(css, cgroup, kn, id);
		struct memory_session *session = bpf_map_lookup_elem(&sessions, id);
		if (session) {
			*of = css;
			return session;
		}
		css = BPF_CORE_READ(css, parent);
	}
	return NULL;
}

static struct memory_session *session_of_memcg(struct mem_cgroup *memcg, u64 *usage)
{
	struct cgroup_subsys_state *css = NULL;
	u64 id;
	struct memory_session *session = session_of(&memcg->css, &css, &id);

	if (session) {
		struct mem_cgroup *of = container_of(css, struct mem_cgroup, css);
		*usage = (u64)BPF_CORE_READ(of, memory.usage.counter) * 4096;
	}
	return session;
}

static void hurt(struct memory_session *session, u64 id, u32 sign)
{
	u64 now = bpf_ktime_get_ns();
	u64 until = now + cfg.window_ns;
	bool opened = session->until < now;

	__sync_fetch_and_add(&session->hurts[sign & (NR_SIGNS - 1)], 1);
	/* A race makes a window shorter by the time between two signs. */
	if (session->until < until)
		session->until = until;
	if (hurting_until < until)
		hurting_until = until;
	if (!opened && now - session->told < TELL_EVERY)
		return;
	session->told = now;
	struct memory_hurt *record = bpf_ringbuf_reserve(&hurts, sizeof(*record), 0);
	/* Without room there is one in it that says the same. */
	if (!record)
		return;
	record->cgroup_id = id;
	record->sign = sign;
	record->pad = 0;
	bpf_ringbuf_submit(record, 0);
}

static void reclaim_begins(void)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct cgroup *cgroup = BPF_CORE_READ(task, cgroups, dfl_cgrp);
	struct cgroup_subsys_state *of;
	u64 id;

	short_until = bpf_ktime_get_ns() + SHORT_FOR;
	struct memory_session *session =
	    session_of(__builtin_preserve_access_index(&cgroup->self), &of, &id);
	if (session && session->role == ROLE_HIGH)
		hurt(session, id, SIGN_RECLAIM);
}

SEC("?tp_btf/mm_vmscan_direct_reclaim_begin")
int BPF_PROG(direct_reclaim)
{
	reclaim_begins();
	return 0;
}

SEC("?tp_btf/mm_vmscan_memcg_reclaim_begin")
int BPF_PROG(memcg_reclaim)
{
	reclaim_begins();
	return 0;
}

SEC("?tp_btf/mm_vmscan_kswapd_wake")
int BPF_PROG(kswapd_wakes)
{
	short_until = bpf_ktime_get_ns() + SHORT_FOR;
	return 0;
}

SEC("?tp_btf/count_memcg_events")
int BPF_PROG(memcg_event, struct mem_cgroup *memcg, int item, unsigned long n)
{
	u64 now, id;
	struct cgroup_subsys_state *of;

	if (item != bpf_core_enum_value(enum vm_event_item, PGFAULT))
		return 0;
	now = bpf_ktime_get_ns();
	if (short_until < now)
		return 0;
	struct memory_session *session = session_of(&memcg->css, &of, &id);
	if (!session || session->role != ROLE_HIGH)
		return 0;
	if (now - session->faults_since > 1000 * MSEC) {
		session->faults_since = now;
		session->faults = 0;
	}
	if (__sync_fetch_and_add(&session->faults, n) + n > cfg.faults_per_second) {
		session->faults_since = now;
		session->faults = 0;
		hurt(session, id, SIGN_FAULTS);
	}
	return 0;
}

static bool protect(struct mem_cgroup *memcg)
{
	u64 now, usage;

	if (!hurting_until)
		return false;
	now = bpf_ktime_get_ns();
	if (hurting_until < now)
		return false;
	struct memory_session *session = session_of_memcg(memcg, &usage);
	if (!session || session->role != ROLE_HIGH)
		return false;
	__sync_fetch_and_add(&session->calls, 1);
	if (session->until < now || usage > session->target)
		return false;
	__sync_fetch_and_add(&session->active, 1);
	return true;
}

SEC("struct_ops/below_low")
bool BPF_PROG(below_low, struct mem_cgroup *memcg)
{
	return cfg.below_low && protect(memcg);
}

SEC("struct_ops/below_min")
bool BPF_PROG(below_min, struct mem_cgroup *memcg)
{
	return cfg.below_min && protect(memcg);
}

/* No delay without pain, none below the part; above it in proportion: all of it at a quarter more.
 */
SEC("struct_ops/delay")
unsigned int BPF_PROG(delay, struct mem_cgroup *memcg)
{
	u64 usage, over, ms;

	if (!hurting_until || hurting_until < bpf_ktime_get_ns())
		return 0;
	struct memory_session *session = session_of_memcg(memcg, &usage);
	if (!session || session->role != ROLE_LOW)
		return 0;
	__sync_fetch_and_add(&session->calls, 1);
	if (!session->part || usage <= session->part)
		return 0;
	over = usage - session->part;
	ms = over * 4 * cfg.delay_ms / session->part;
	if (ms > cfg.delay_ms)
		ms = cfg.delay_ms;
	if (!ms)
		return 0;
	__sync_fetch_and_add(&session->active, 1);
	__sync_fetch_and_add(&session->delay_ms, ms);
	return ms;
}

struct memcg_bpf_ops___v6 {
	void (*handle_cgroup_online)(struct mem_cgroup *memcg);
	void (*handle_cgroup_offline)(struct mem_cgroup *memcg);
	bool (*below_low)(struct mem_cgroup *memcg);
	bool (*below_min)(struct mem_cgroup *memcg);
	unsigned int (*get_high_delay_ms)(struct mem_cgroup *memcg);
};

struct memcg_bpf_ops___v7 {
	void (*handle_cgroup_online)(struct mem_cgroup *memcg);
	void (*handle_cgroup_offline)(struct mem_cgroup *memcg);
	bool (*below_low)(struct mem_cgroup *memcg, unsigned long elow, unsigned long usage);
	bool (*below_min)(struct mem_cgroup *memcg, unsigned long emin, unsigned long usage);
	unsigned int (*memcg_charged)(struct mem_cgroup *memcg, unsigned int nr_pages);
	void (*memcg_uncharged)(struct mem_cgroup *memcg, unsigned int nr_pages);
};

SEC(".struct_ops.link")
struct memcg_bpf_ops___v6 high_v6 = {
    .below_low = (void *)below_low,
    .below_min = (void *)below_min,
};

SEC(".struct_ops.link")
struct memcg_bpf_ops___v6 low_v6 = {
    .get_high_delay_ms = (void *)delay,
};

SEC(".struct_ops.link")
struct memcg_bpf_ops___v7 high_v7 = {
    .below_low = (void *)below_low,
    .below_min = (void *)below_min,
};

SEC(".struct_ops.link")
struct memcg_bpf_ops___v7 low_v7 = {
    .memcg_charged = (void *)delay,
};
