/* SPDX-License-Identifier: GPL-2.0-only */
/* Tasks in the queue that must come first: who has been killed, and who has waited too long. */
#ifndef AGENTCG_SCHEDULER_URGENT_H
#define AGENTCG_SCHEDULER_URGENT_H

#include "state.h"

/* How often the queue is looked through, and how many at most run for having waited. */
#define CHECK_WAITS 500000000ULL
#define MAX_HURRIED 50

/* Looks for tasks in the queue that must come first. */
struct search {
	struct bpf_timer timer;
	bool due;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct search);
} searches SEC(".maps");

/* On its way out: it can only give back what it has. */
static HOT bool dying(struct task_struct *p)
{
	return (p->flags & PF_EXITING) || (p->signal->flags & SIGNAL_GROUP_EXIT) ||
	       (p->pending.signal.sig[0] & SIGKILL_BIT);
}

/* The kernel itself sees to it that those run that have begun to exit. */
static HOT bool killed(struct task_struct *p)
{
	return !(p->flags & PF_EXITING) && dying(p);
}

/* Nobody says so to the scheduler when a task is killed that waits already. */
static void look_for_killed(void)
{
	u32 key = 0;
	struct search *search = bpf_map_lookup_elem(&searches, &key);

	if (!search || search->due)
		return;
	search->due = true;
	if (bpf_timer_start(&search->timer, MIN_PAUSE, 0))
		search->due = false;
}

/* Who has been killed comes first, and who has waited too long. */
static int search_queue(void *map, u32 *key, struct search *search)
{
	u64 now = scx_bpf_now();
	struct task_struct *p;
	u32 hurried = 0;

	search->due = false;
	bpf_rcu_read_lock();
	bpf_for_each(scx_dsq, p, QUEUE, 0)
	{
		struct task_ctx *tc = ctx_of(p);

		if (!tc || tc->leads)
			continue;
		if (!killed(p)) {
			if (hurried >= MAX_HURRIED || !before(tc->waits + MAX_WAIT, now))
				continue;
			hurried++;
			scx_bpf_dsq_move_set_slice(BPF_FOR_EACH_ITER, MIN_SLICE);
		}
		tc->leads = true;
		scx_bpf_dsq_move_set_vtime(BPF_FOR_EACH_ITER, vtime_now - LEAD);
		scx_bpf_dsq_move_vtime(BPF_FOR_EACH_ITER, p, QUEUE, 0);
	}
	bpf_rcu_read_unlock();
	bpf_timer_start(&search->timer, CHECK_WAITS, 0);
	return 0;
}

#endif
