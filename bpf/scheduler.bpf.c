// SPDX-License-Identifier: GPL-2.0-only
/*
 * A sched_ext scheduler that shares the CPU by cgroup weight over a flattened hierarchy.
 *
 * Start-time fair queueing, with cgroups as the flows and time slices as the packets: a slice that
 * a task asks for starts, in virtual time, where the last one granted to its cgroup ends, and takes
 * slice / share. The share of a cgroup is the product, up the hierarchy, of its weight over that of
 * all active siblings. All CPUs serve one queue in the order of these start times, so the share is
 * kept over any number of CPUs and tasks.
 *
 *  - The whole slice is charged when it is asked for and the unused part given back when the task
 *    stops, so queued tasks of one cgroup never share a start time.
 *  - A task that goes on running competes with the head of the queue like any other: without this a
 *    group whose every task runs would look as if it wanted nothing.
 *  - A cgroup that slept starts one slice before the current virtual time: it neither saves up what
 *    it did not use nor waits behind those that ran. One that stays runnable may fall MAX_LAG
 *    slices behind and then catches up: CPUs that switch at the same moment do not see the task
 *    that the other one is just putting back, and take the next in its place.
 *  - Tasks bound to some CPUs stand in the same queue; a CPU takes the first that it may run.
 *  - A cgroup that has used up its cpu.max quota counts as inactive. Its tasks wait in a queue
 *    of its own until a timer refills the quota; what was used beyond it is owed.
 *
 * This file has what the kernel calls, scheduler/ the parts that it is made of; docs/scheduler.md
 * has the reasons and what was measured.
 */
#include "scheduler/slices.h"

char _license[] SEC("license") = "GPL";

UEI_DEFINE(uei);

/* Wakes user space when the scheduler exits: one byte. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} exited SEC(".maps");

SEC("tp_btf/signal_generate")
int BPF_PROG(agentcg_signal, int sig, void *info, struct task_struct *p)
{
	if (killed(p))
		look_for_killed();
	return 0;
}

s32 BPF_STRUCT_OPS(agentcg_select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	struct sched_cgroup *cg;
	struct task_ctx *tc;
	bool idle = false;
	s32 cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &idle);
	u64 slice, now;

	if (!idle)
		return cpu;
	tc = ctx_of(p);
	cg = tc ? cgroup_by_id(tc->cgroup) : NULL;
	if (!cg || throttled_by(p, tc))
		return cpu;
	now = scx_bpf_now();
	begin(p, tc, cg, now);
	slice = slice_within(cg, now);
	p->scx.dsq_vtime = place_in_queue(p, tc, cg, charge(tc, cg, slice));
	__sync_fetch_and_add(&stats.direct, 1);
	scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, slice, 0);
	return cpu;
}

void BPF_STRUCT_OPS(agentcg_enqueue, struct task_struct *p, u64 enq_flags)
{
	struct task_ctx *tc = ctx_of(p);
	struct sched_cgroup *cg = tc ? cgroup_by_id(tc->cgroup) : NULL;
	bool woken = enq_flags & SCX_ENQ_WAKEUP;
	u64 place = vtime_now, slice = cfg.slice_ns, held = 0, now = scx_bpf_now();
	s32 cpu;

	if (cg && tc->runs) {
		__sync_fetch_and_add(&cg->own.preemptions, 1);
		stop(p, tc, cg, now);
	}
	if (serves_cpu(p)) {
		scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL, cfg.slice_ns, enq_flags);
		return;
	}
	if (cg) {
		begin(p, tc, cg, now);
		slice = slice_within(cg, now);
		place = place_in_queue(p, tc, cg, charge(tc, cg, slice));
		unhold(tc);
		held = nr_throttled ? hold(p, tc) : 0;
	}
	if (held) {
		scx_bpf_dsq_insert_vtime(p, held, slice, place, enq_flags);
		return;
	}
	if (cg && woken && tc->leads && run_at_once(p, place, slice, enq_flags))
		return;
	__sync_fetch_and_add(&stats.queued, 1);
	scx_bpf_dsq_insert_vtime(p, QUEUE, slice, place, enq_flags);
	/* Its quota was refilled after its CPU had decided to go idle. */
	if (enq_flags & SCX_ENQ_LAST) {
		kick(scx_bpf_task_cpu(p), 0);
		return;
	}
	/* The CPU that the task woke on looks at the queue by itself when it was idle. */
	if (!look_for_cpu(place, distance(woken)) || !can_kick())
		return;
	cpu = scx_bpf_pick_idle_cpu(p->cpus_ptr, 0);
	if (cpu >= 0)
		kick(cpu, SCX_KICK_IDLE);
	else if (cg && (cpu = find_displaced(p, place, woken)) >= 0)
		kick(cpu, SCX_KICK_PREEMPT);
}

/*
 * A CPU goes idle, and counts as such from now on. What somebody queued since it looked, it has to
 * find by itself: nobody saw that it would be idle.
 */
void BPF_STRUCT_OPS(agentcg_update_idle, s32 cpu, bool idle)
{
	if (!idle)
		return;
	/* Atomic, so that the look at the queue comes after it: who enters that looks here. */
	__sync_lock_test_and_set(&cpu_of(cpu)->busy, 0);
	if (scx_bpf_dsq_nr_queued(QUEUE) > 0)
		kick(cpu, 0);
}

/* Takes a task whose quota is used up out of the queue. */
static bool set_aside(struct bpf_iter_scx_dsq *it, struct task_struct *p)
{
	struct task_ctx *tc = ctx_of(p);
	u64 id = tc ? hold(p, tc) : 0;

	if (!id)
		return false;
	if (!scx_bpf_dsq_move_vtime(it, p, id, 0))
		__sync_val_compare_and_swap(&tc->held, id, 0);
	return true;
}

/*
 * Takes the first task that this CPU may run, if it stands before `place` or `any` will do. That
 * very task: between a look and a plain take of the first one, another CPU may have taken what was
 * seen, and the next may stand far behind.
 */
static bool take(s32 cpu, u64 place, bool any)
{
	struct task_struct *p;
	bool taken = false;
	u64 at;

	bpf_for_each(scx_dsq, p, QUEUE, 0)
	{
		if (!bpf_cpumask_test_cpu(cpu, p->cpus_ptr))
			continue;
		at = p->scx.dsq_vtime;
		if (!any && !before(at, place))
			break;
		if (nr_throttled && set_aside(BPF_FOR_EACH_ITER, p))
			continue;
		taken = scx_bpf_dsq_move(BPF_FOR_EACH_ITER, p, SCX_DSQ_LOCAL, 0);
		if (taken) {
			note_place(cpu, at);
			break;
		}
	}
	return taken;
}

static bool take_any(s32 cpu)
{
	return nr_throttled ? take(cpu, 0, true) : scx_bpf_dsq_move_to_local(QUEUE, 0);
}

void BPF_STRUCT_OPS(agentcg_dispatch, s32 cpu, struct task_struct *prev)
{
	struct sched_cgroup *cg;
	struct task_ctx *tc;
	u64 used, start, place, slice, now;

	if (!prev || !(prev->scx.flags & SCX_TASK_QUEUED)) {
		take_any(cpu);
		return;
	}
	tc = ctx_of(prev);
	cg = tc ? cgroup_by_id(tc->cgroup) : NULL;
	if (!cg) {
		if (!take_any(cpu))
			scx_bpf_task_set_slice(prev, cfg.slice_ns);
		return;
	}
	now = scx_bpf_now();
	used = take_runtime(prev, tc, cg, now);
	settle(tc, cg, used, now);
	if (throttled_by(prev, tc)) {
		take_any(cpu);
		return;
	}
	start = start_of(cg);
	place = place_of(tc, cg, start);
	if (take(cpu, place, false))
		return;
	slice = slice_within(cg, now);
	charge(tc, cg, slice);
	tc->used = 0;
	note_place(cpu, place);
	advance_clock(tc, start);
	__sync_fetch_and_add(&stats.kept, 1);
	scx_bpf_task_set_slice(prev, slice);
	time_turn(cpu, slice);
}

void BPF_STRUCT_OPS(agentcg_running, struct task_struct *p)
{
	struct task_ctx *tc = ctx_of(p);
	u32 cpu = scx_bpf_task_cpu(p);
	struct sched_cgroup *cg;

	if (!tc)
		return;
	unhold(tc);
	if (tc->touch) {
		tc->touch = false;
		kick(cpu, SCX_KICK_PREEMPT);
	}
	cpu_of(cpu)->busy = 1;
	time_turn(cpu, p->scx.slice);
	note_place(cpu, serves_cpu(p) ? 0 : p->scx.dsq_vtime);
	/* The kernel did not ask where it is to run. */
	if (!tc->weight && (cg = cgroup_by_id(tc->cgroup)))
		begin(p, tc, cg, scx_bpf_now());
	if (!tc->runs) {
		tc->runs = true;
		tc->cpu = cpu;
		if (tc->last < 0)
			tc->last = cpu;
		tc->counted = !tc->weight;
		tc->used = 0;
	}
	if (tc->charged && tc->weight)
		advance_clock(tc, tc->start);
}

/* A task sleeps, or leaves us or its cgroup. */
void BPF_STRUCT_OPS(agentcg_quiescent, struct task_struct *p, u64 deq_flags)
{
	struct task_ctx *tc = ctx_of(p);
	struct sched_cgroup *cg = tc ? cgroup_by_id(tc->cgroup) : NULL;

	if (!cg)
		return;
	if (tc->runs)
		stop(p, tc, cg, scx_bpf_now());
	if (!tc->weight)
		return;
	if (tc->charged)
		settle(tc, cg, 0, 0);
	unhold(tc);
	count_runnable(cg, -1, -(s64)tc->weight);
	tc->weight = 0;
	/* Its process ends, and other threads of it may wait. */
	if ((p->flags & PF_EXITING) && (p->signal->flags & SIGNAL_GROUP_EXIT) &&
	    p->signal->live.counter > 0)
		look_for_killed();
}

/* Its nice value changed. */
void BPF_STRUCT_OPS(agentcg_set_weight, struct task_struct *p, u32 weight)
{
	struct task_ctx *tc = ctx_of(p);
	struct sched_cgroup *cg = tc && tc->weight ? cgroup_by_id(tc->cgroup) : NULL;

	if (!cg)
		return;
	__sync_fetch_and_add(&cg->task_weight, (s64)weight - tc->weight);
	tc->weight = weight;
}

s32 BPF_STRUCT_OPS(agentcg_init_task, struct task_struct *p, struct scx_init_task_args *args)
{
	struct task_ctx *tc =
	    bpf_task_storage_get(&task_ctxs, p, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);

	if (!tc)
		return -ENOMEM;
	tc->cgroup = args->cgroup->kn->id;
	tc->last = -1;
	return 0;
}

static u64 or_none(u64 quota_us)
{
	/* "max" is RUNTIME_INF, all ones. */
	return (s64)quota_us < 0 ? 0 : quota_us * 1000;
}

/* Too large for the stack; bytes, because a lock and a timer may only be in maps. */
static const char new_cgroup[sizeof(struct sched_cgroup)];

s32 BPF_STRUCT_OPS_SLEEPABLE(agentcg_cgroup_init, struct cgroup *cgrp,
			     struct scx_cgroup_init_args *args)
{
	struct sched_cgroup *cg;
	u64 id = cgrp->kn->id;
	s32 err;

	err = bpf_map_update_elem(&sched_cgroups, &id, new_cgroup, BPF_ANY);
	if (err)
		return err;
	cg = cgroup_by_id(id);
	if (!cg)
		return -ENOENT;
	cg->id = id;
	cg->weight = args->weight;
	if (bpf_core_field_exists(args->sched_idle))
		cg->idle = args->sched_idle;
	/* The root has no parent, and reading through the null pointer gives 0. */
	cg->parent = BPF_CORE_READ(cgrp, self.parent, cgroup, kn, id);
	cg->finish = vtime_now;
	if (bpf_core_field_exists(args->bw_quota_us)) {
		cg->max.quota = or_none(args->bw_quota_us);
		cg->max.period = args->bw_period_us * 1000;
		cg->max.burst = args->bw_burst_us * 1000;
	}
	err = bpf_timer_init(&cg->timer, &sched_cgroups, CLOCK_MONOTONIC);
	if (!err)
		err = bpf_timer_set_callback(&cg->timer, look_at_limit);
	if (!err)
		err = scx_bpf_create_dsq(id, -1);
	if (!err)
		enforce(cg);
	return err;
}

static void add_usage(struct sched_usage *to, struct sched_usage *from)
{
	u32 i;

	__sync_fetch_and_add(&to->run_ns, from->run_ns);
	__sync_fetch_and_add(&to->runs, from->runs);
	__sync_fetch_and_add(&to->preemptions, from->preemptions);
	__sync_fetch_and_add(&to->migrations, from->migrations);
	__sync_fetch_and_add(&to->throttled_ns, from->throttled_ns);
	__sync_fetch_and_add(&to->held_ns, from->held_ns);
	for (i = 0; i < SCHED_WAITS; i++)
		__sync_fetch_and_add(&to->waits[i], from->waits[i]);
}

void BPF_STRUCT_OPS(agentcg_cgroup_exit, struct cgroup *cgrp)
{
	u64 id = cgrp->kn->id, throttled;
	struct sched_cgroup *cg = cgroup_by_id(id), *parent;

	if (!cg)
		return;
	cg->held_until = 0;
	set_limit(cg, 0, 0, 0);
	bpf_spin_lock(&cg->lock);
	throttled = cg->throttled;
	cg->throttled = 0;
	bpf_spin_unlock(&cg->lock);
	if (throttled)
		__sync_fetch_and_add(&nr_throttled, -1);
	parent = cg->parent ? cgroup_by_id(cg->parent) : NULL;
	if (parent) {
		add_usage(&parent->gone, &cg->own);
		add_usage(&parent->gone, &cg->gone);
	}
	scx_bpf_destroy_dsq(id);
	bpf_map_delete_elem(&sched_cgroups, &id);
}

/* Holds a cgroup back for some time, or ends that; user space calls it. */
SEC("syscall")
int hold_back(struct sched_hold *hold)
{
	struct sched_cgroup *cg;
	int err = -ENOENT;

	bpf_rcu_read_lock();
	cg = cgroup_by_id(hold->cgroup);
	if (cg) {
		cg->held_until = hold->hold_ns ? scx_bpf_now() + hold->hold_ns : 0;
		enforce(cg);
		/* Sees when it expires. */
		bpf_timer_start(&cg->timer, 0, 0);
		err = 0;
	}
	bpf_rcu_read_unlock();
	return err;
}

/* Called with quota_us all ones when the limit is lifted. */
void BPF_STRUCT_OPS(agentcg_cgroup_set_bandwidth, struct cgroup *cgrp, u64 period_us, u64 quota_us,
		    u64 burst_us)
{
	struct sched_cgroup *cg = cgroup_by_id(cgrp->kn->id);

	if (cg)
		set_limit(cg, or_none(quota_us), period_us * 1000, burst_us * 1000);
}

void BPF_STRUCT_OPS(agentcg_cgroup_move, struct task_struct *p, struct cgroup *from,
		    struct cgroup *to)
{
	struct sched_cgroup *cg = cgroup_by_id(to->kn->id);
	struct task_ctx *tc = ctx_of(p);

	if (!tc)
		return;
	tc->cgroup = to->kn->id;
	/* It begins no earlier than the first that comes was served: see inherited(). */
	if (cg && !cg->began)
		cg->finish = later(cg->finish, tc->start);
}

void BPF_STRUCT_OPS(agentcg_cgroup_set_weight, struct cgroup *cgrp, u32 weight)
{
	struct sched_cgroup *cg = cgroup_by_id(cgrp->kn->id);

	if (!cg)
		return;
	cg->weight = weight;
	__sync_fetch_and_add(&weights, 1);
	give_weight_up(cg->id);
}

void BPF_STRUCT_OPS(agentcg_cgroup_set_idle, struct cgroup *cgrp, bool idle)
{
	struct sched_cgroup *cg = cgroup_by_id(cgrp->kn->id);

	if (cg)
		set_idle(cg, idle);
}

/* The queue is not tied to CPUs, so they may come and go; without these the kernel would restart
 * us. */
void BPF_STRUCT_OPS(agentcg_cpu_online, s32 cpu)
{
	cpu_of(cpu)->away = false;
	cpu_of(cpu)->busy = 0;
	__sync_fetch_and_add(&nr_cpus, 1);
}

void BPF_STRUCT_OPS(agentcg_cpu_offline, s32 cpu)
{
	struct task_struct *p;

	cpu_of(cpu)->away = true;
	__sync_fetch_and_add(&nr_cpus, -1);
	/* Nobody is displaced there. */
	note_place(cpu, 0);
	bpf_for_each(scx_dsq, p, QUEUE, 0)
	{
		if (scx_bpf_task_cpu(p) == cpu)
			send_away(BPF_FOR_EACH_ITER, p);
	}
}

static s32 init_timers(void)
{
	u32 key = 0, nr_ids = scx_bpf_nr_cpu_ids();
	struct search *search = bpf_map_lookup_elem(&searches, &key);
	s32 err;

	if (!search)
		return -ENOENT;
	err = bpf_timer_init(&search->timer, &searches, CLOCK_MONOTONIC);
	if (!err)
		err = bpf_timer_set_callback(&search->timer, search_queue);
	bpf_for(key, 0, nr_ids < MAX_CPUS ? nr_ids : MAX_CPUS)
	{
		struct turn *turn = bpf_map_lookup_elem(&turns, &key);

		if (err || !turn)
			break;
		err = bpf_timer_init(&turn->timer, &turns, CLOCK_MONOTONIC);
		if (!err)
			err = bpf_timer_set_callback(&turn->timer, end_turn);
	}
	return err;
}

s32 BPF_STRUCT_OPS_SLEEPABLE(agentcg_init)
{
	const struct cpumask *online = scx_bpf_get_online_cpumask();
	s32 err;

	nr_cpu_ids = scx_bpf_nr_cpu_ids();
	nr_cpus = bpf_cpumask_weight(online);
	scx_bpf_put_cpumask(online);
	err = scx_bpf_create_dsq(QUEUE, -1) ?: init_timers();
	if (!err)
		look_for_killed();
	return err;
}

void BPF_STRUCT_OPS(agentcg_exit, struct scx_exit_info *ei)
{
	char byte = 1;

	UEI_RECORD(uei, ei);
	bpf_ringbuf_output(&exited, &byte, sizeof(byte), BPF_RB_FORCE_WAKEUP);
}

SCX_OPS_DEFINE(agentcg_ops, .select_cpu = (void *)agentcg_select_cpu,
	       .enqueue = (void *)agentcg_enqueue, .update_idle = (void *)agentcg_update_idle,
	       .dispatch = (void *)agentcg_dispatch, .running = (void *)agentcg_running,
	       .quiescent = (void *)agentcg_quiescent, .set_weight = (void *)agentcg_set_weight,
	       .init_task = (void *)agentcg_init_task, .cgroup_init = (void *)agentcg_cgroup_init,
	       .cgroup_exit = (void *)agentcg_cgroup_exit,
	       .cgroup_move = (void *)agentcg_cgroup_move,
	       .cgroup_set_weight = (void *)agentcg_cgroup_set_weight,
	       .cgroup_set_bandwidth = (void *)agentcg_cgroup_set_bandwidth,
	       .cgroup_set_idle = (void *)agentcg_cgroup_set_idle,
	       .cpu_online = (void *)agentcg_cpu_online, .cpu_offline = (void *)agentcg_cpu_offline,
	       .init = (void *)agentcg_init, .exit = (void *)agentcg_exit, .timeout_ms = 20000,
	       .name = "agentcg");
