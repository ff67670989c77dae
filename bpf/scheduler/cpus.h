/* SPDX-License-Identifier: GPL-2.0-only */
/* What each CPU runs and until when, and who has it choose again. */
#ifndef AGENTCG_SCHEDULER_CPUS_H
#define AGENTCG_SCHEDULER_CPUS_H

#include "state.h"

#define CLOCK_MONOTONIC 1
#define MAX_CPUS 1024
/* Shorter ones would end with the next tick of the kernel, so they get a timer. */
#define TICK 4000000ULL

struct turn {
	struct bpf_timer timer;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_CPUS);
	__type(key, u32);
	__type(value, struct turn);
} turns SEC(".maps");

struct cpu_state {
	u64 place; /* where what it runs stood in the queue; 0 where nobody may be displaced */
	u64 ends;  /* what it runs ends then, if that is before the next tick; 0: it is not */
	u64 busy;  /* a task of ours has run since it was idle */
	bool away; /* it has gone, or is about to */
} cpus[MAX_CPUS];

u32 nr_cpus;
u32 nr_cpu_ids;

static HOT struct cpu_state *cpu_of(u32 cpu)
{
	return &cpus[cpu & (MAX_CPUS - 1)];
}

static bool is_away(s32 cpu)
{
	return cpu_of(cpu)->away;
}

/*
 * The kernel kicks by an interrupt that the CPU we run on sends to itself. One that has just gone
 * gets it no more, and still wakes who had it go: such a kick would wait there for ever, with all
 * later ones of that CPU when it is back behind it, and 7.3 waits for it when it detaches us.
 */
static HOT bool can_kick(void)
{
	s32 here = bpf_get_smp_processor_id();
	const struct cpumask *online;
	bool can;

	if (!is_away(here))
		return true;
	online = scx_bpf_get_online_cpumask();
	can = bpf_cpumask_test_cpu(here, online);
	scx_bpf_put_cpumask(online);
	return can;
}

static void kick(s32 cpu, u64 flags)
{
	if (can_kick())
		scx_bpf_kick_cpu(cpu, flags);
}

/*
 * A CPU on its way out takes nothing from our queues any more, and does not go before the last of
 * its tasks has. From its local queue the kernel moves them to CPUs where they may run, or makes
 * them run elsewhere if there are none.
 */
static void send_away(struct bpf_iter_scx_dsq *it, struct task_struct *p)
{
	s32 cpu = scx_bpf_task_cpu(p);

	scx_bpf_dsq_move(it, p, SCX_DSQ_LOCAL_ON | cpu, 0);
	kick(cpu, 0);
}

static HOT void note_place(s32 cpu, u64 place)
{
	cpu_of(cpu)->place = place;
}

/* A turn begins that ends on time also when that is before the next tick. */
static HOT void time_turn(u32 cpu, u64 slice)
{
	u64 *ends = &cpu_of(cpu)->ends;
	struct turn *turn;

	*ends = 0;
	if (slice >= TICK)
		return;
	turn = bpf_map_lookup_elem(&turns, &cpu);
	if (!turn)
		return;
	*ends = bpf_ktime_get_ns() + slice;
	bpf_timer_start(&turn->timer, slice, BPF_F_TIMER_CPU_PIN);
}

static int end_turn(void *map, u32 *cpu, struct turn *turn)
{
	u64 *ends = &cpu_of(*cpu)->ends;

	/* Of a turn that ended by itself it may come in the next one. */
	if (*ends && !before(bpf_ktime_get_ns(), *ends)) {
		*ends = 0;
		kick(*cpu, SCX_KICK_PREEMPT);
	}
	return 0;
}

/*
 * How far behind another a task must stand to be displaced: a slice for who had to leave a CPU,
 * half of one for who wakes. What wakes in a cgroup that did not use its share stands a slice
 * before all that run, so it runs at once; in one that did, it waits for its turn.
 */
static HOT u64 distance(bool woken)
{
	return woken ? cfg.slice_ns / 2 : cfg.slice_ns;
}

/* The CPU that runs what stands furthest behind `place`, and far enough. */
static s32 find_displaced(struct task_struct *p, u64 place, bool woken)
{
	u32 nr_ids = nr_cpu_ids, cpu;
	u32 first = woken ? scx_bpf_task_cpu(p) : bpf_get_smp_processor_id();
	u64 latest = place + distance(woken), at;
	s32 i, found = -1;

	/* The neighbours will do: with more CPUs the one that errs is soon another's neighbour. */
	for (i = woken ? 0 : 1; i < 8 && i < nr_ids; i++) {
		cpu = first + i;
		if (cpu >= nr_ids)
			cpu -= nr_ids;
		at = cpu_of(cpu)->place;
		if (!at || !before(latest, at) || !bpf_cpumask_test_cpu(cpu, p->cpus_ptr))
			continue;
		latest = at;
		found = cpu;
		/* Where it ran last: what it needs may still be in the cache. */
		if (!i)
			break;
	}
	if (found >= 0) {
		__sync_fetch_and_add(&stats.displaced, 1);
		/* The next one that looks takes another CPU. */
		note_place(found, place);
	}
	return found;
}

/*
 * Who wakes before all others does not wait for the kernel's threads of a CPU either: ksoftirqd can
 * be busy for long with what a fork storm leaves behind.
 */
static bool run_at_once(struct task_struct *p, u64 place, u64 slice, u64 enq_flags)
{
	s32 last = scx_bpf_task_cpu(p), cpu = find_displaced(p, place, true);

	if (cpu < 0 && !cpu_of(last)->place && bpf_cpumask_test_cpu(last, p->cpus_ptr))
		cpu = last;
	if (cpu < 0 || is_away(cpu))
		return false;
	note_place(cpu, place);
	scx_bpf_dsq_insert(p, SCX_DSQ_LOCAL_ON | cpu, slice, enq_flags | SCX_ENQ_PREEMPT);
	return true;
}

/*
 * Whether a CPU may be idle, or run what stands behind `place` by more than `distance`. Most often
 * none does, and to ask the kernel for an idle one, or who may be displaced for whom, takes longer.
 */
static HOT bool look_for_cpu(u64 place, u64 distance)
{
	u32 i;

	for (i = 0; i < 8 && i < nr_cpu_ids; i++) {
		if (!cpus[i].busy || before(place + distance, cpus[i].place))
			return true;
	}
	return nr_cpu_ids > 8;
}

#endif
