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
 * slices behind and then catches up: CPUs that switch at the same moment do not see the task that
 * the other one is just putting back, and take the next in its place.
 *  - Tasks bound to some CPUs stand in the same queue; a CPU takes the first that it may run.
 *  - A cgroup that has used up its cpu.max quota counts as inactive. Its tasks wait in a queue of
 * its own until a timer refills the quota; what was used beyond it is owed.
 *
 * docs/scheduler.md has the reasons and what was measured.
 */
#include <scx/common.bpf.h>
#include <scx/compat.bpf.h>

#include "scheduler.h"
#include "shares.h"

char _license[] SEC("license") = "GPL";

#define CLOCK_MONOTONIC 1
/* The queue of all tasks; those that a cgroup holds back wait in the queue of its id. */
#define QUEUE 0
#define MAX_DEPTH 32
/* On the way of each wake-up or switch, where a call costs more than what is called. */
#define HOT __always_inline
#define MAX_CPUS 1024
/* The weight of a cgroup's own tasks beside its children: that of a child nobody configured. */
#define SELF_WEIGHT 100
/* What a cgroup that cannot use its share (one task on two CPUs) may claim later is bounded too. */
#define MAX_LAG 20
/* How many slices of its cgroup a task of small weight waits at most beyond its turn. */
#define MAX_TURNS 20

/* How far tasks of high rank stand before the others in the queue, while their cgroup is within its
 * share: more than any two slices lie apart. And by how many slices those of low rank stand behind
 * their virtual time. */
#define LEAD (1ULL << 46)
#define WAY_BACK 1
/* cpu.idle: the least weight there is. */
#define IDLE_WEIGHT 1
#define DEFAULT_WEIGHT 100

/* Slices get shorter when so many wait that a round of all would take longer than this. */
#define ROUND 200000000ULL
/* A turn costs no more than this on each CPU, however small the share: for so long a cgroup waits
 * at most for the next one. And the shortest one. */
#define LONGEST 500000000ULL
#define MIN_TURN 500000ULL
/* Shorter ones would end with the next tick of the kernel, so they get a timer. */
#define TICK 4000000ULL
/* The least slice that a nearly used up quota leaves, and how often a held back cgroup is looked
 * at. */
#define MIN_SLICE 1000000ULL
#define MIN_PAUSE 100000ULL
#define MAX_PAUSE 50000000ULL
/* How old a share may be. */
#define SHARE_AGE 2000000ULL
/* How old a setting may be that the kernel does not report. */
#define CHECK_SETTINGS 10000000ULL
/* A task that has waited for so long, held back or one of many, runs for an instant: the kernel's
 * watchdog counts from when it last ran. How often that is looked at in the queue, and for how many
 * at most. */
#define MAX_WAIT 5000000000ULL
#define CHECK_WAITS 500000000ULL
#define MAX_HURRIED 50
/* Who is held back on request has one part in so many of one CPU. */
#define HELD_PART 20
#define HELD_PERIOD 100000000ULL

#define SIGNAL_GROUP_EXIT 0x4
#define SIGKILL_BIT (1ULL << 8)

const volatile struct sched_config cfg = {
    .slice_ns = 5000000,
};
struct sched_stats stats = {};
u64 vtime_now;
/* Changes whenever a cgroup gets or loses a quota. */
u64 limits = 1;
/* Changes with every weight. */
u64 weights = 1;
u32 nr_limited;
u32 nr_throttled;

UEI_DEFINE(uei);

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 17);
	__type(key, u64);
	__type(value, struct sched_cgroup);
} sched_cgroups SEC(".maps");

/* Wakes user space when the scheduler exits: one byte. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} exited SEC(".maps");

struct task_ctx {
	u64 cgroup;
	u64 ran;      /* its CPU time, as the kernel counts it, up to which it has been charged */
	u64 start;    /* virtual time at which what was granted last begins */
	u64 charged;  /* virtual time granted and not yet used or given back */
	u64 held;     /* the throttled cgroup that holds it back; 0: none */
	u64 waits;    /* since when it has not run */
	u64 used;     /* since it was put on the CPU, or last asked to go on */
	u32 weight;   /* by its nice value; 0 when not counted among the runnable ones */
	s32 cpu;      /* where it runs, or did last */
	s32 last;     /* where it ran when that was last counted; below 0: nowhere yet */
	bool runs;    /* it has a CPU, but for what comes before all tasks of ours */
	bool counted; /* the statistics have that it was put there */
	bool touch;   /* may run for an instant although it is held back */
	bool leads;   /* stands before its virtual time */
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct task_ctx);
} task_ctxs SEC(".maps");

struct turn {
	struct bpf_timer timer;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_CPUS);
	__type(key, u32);
	__type(value, struct turn);
} turns SEC(".maps");

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

static struct task_ctx *ctx_of(struct task_struct *p)
{
	return bpf_task_storage_get(&task_ctxs, p, NULL, 0);
}

static struct sched_cgroup *cgroup_by_id(u64 id)
{
	return bpf_map_lookup_elem(&sched_cgroups, &id);
}

static u32 weight_of(struct sched_cgroup *cg)
{
	if (cg->idle)
		return IDLE_WEIGHT;
	return cg->weight ?: 1;
}

/* Under the lock, before each change of active_weight. */
static __always_inline void average(struct sched_cgroup *cg, u64 now)
{
	/* While nothing is active there is nothing to share. */
	if (cg->active_weight && before(cg->averaged, now))
		cg->mean = cg->mean ? mean_after(cg->mean, cg->active_weight, now - cg->averaged)
				    : cg->active_weight << MEAN_BITS;
	cg->averaged = now;
}

/*
 * Brings the parent's active_weight up to date with one child. Everyone calls it after a change of
 * the child, so whoever comes last sees the final state, in whatever order the updates were.
 */
static bool give_weight(struct sched_cgroup *cg, struct sched_cgroup *parent)
{
	u64 now = scx_bpf_now();
	u32 want;
	bool changed;

	bpf_spin_lock(&parent->lock);
	average(parent, now);
	want = cg->active_weight && !cg->throttled ? weight_of(cg) : 0;
	changed = want != cg->given;
	parent->active_weight += want;
	parent->active_weight -= cg->given;
	cg->given = want;
	bpf_spin_unlock(&parent->lock);
	return changed;
}

/*
 * What follows with __noinline and without static is for the verifier: such a function is verified
 * once, not at each of its callers.
 */
__noinline int give_weight_up(u64 id)
{
	u32 i;

	bpf_for(i, 0, MAX_DEPTH)
	{
		struct sched_cgroup *cg = id ? cgroup_by_id(id) : NULL;
		struct sched_cgroup *parent = cg && cg->parent ? cgroup_by_id(cg->parent) : NULL;

		if (!parent || !give_weight(cg, parent))
			break;
		id = cg->parent;
	}
	return 0;
}

/*
 * Where a cgroup begins that has not run yet: where the last one beside it ended. Without this, a
 * session that makes a new cgroup for each of its calls would start afresh with each.
 */
static u64 inherited(struct sched_cgroup *cg)
{
	struct sched_cgroup *parent = cg->parent ? cgroup_by_id(cg->parent) : NULL;

	return parent && !cg->began ? later(parent->left, vtime_now - cfg.slice_ns)
				    : vtime_now - cfg.slice_ns;
}

/*
 * How tasks of a cgroup stand against others in latency. The nearest weight that somebody has
 * changed says it, so that calls have the rank of their session.
 */
__noinline s32 rank_of(u64 id)
{
	struct sched_cgroup *cg = id ? cgroup_by_id(id) : NULL;
	u64 generation = weights, at = id;
	s32 rank = 0;
	u32 i;

	if (!cg)
		return 0;
	if (cg->ranks == generation)
		return cg->rank;
	bpf_for(i, 0, MAX_DEPTH)
	{
		struct sched_cgroup *next = at ? cgroup_by_id(at) : NULL;
		u32 weight;

		if (!next || !next->parent)
			break;
		weight = weight_of(next);
		if (weight != DEFAULT_WEIGHT) {
			rank = weight > DEFAULT_WEIGHT ? 1 : -1;
			break;
		}
		at = next->parent;
	}
	cg->rank = rank;
	cg->ranks = generation;
	return rank;
}

/* The next slice starts no earlier than that. */
static HOT void raise_finish(struct sched_cgroup *cg, u64 least)
{
	u64 finish = cg->finish, was;
	u32 i;

	/* Others may charge, or give back, meanwhile. */
	for (i = 0; i < 8 && before(finish, least); i++) {
		was = __sync_val_compare_and_swap(&cg->finish, finish, least);
		if (was == finish)
			break;
		finish = was;
	}
}

/*
 * Its first task became runnable, or the last one is no more. As with give_weight(), whoever comes
 * last sees the final state.
 */
static __noinline void count_itself(struct sched_cgroup *cg)
{
	struct sched_cgroup *parent;
	u64 now = scx_bpf_now();
	u32 self;

	bpf_spin_lock(&cg->lock);
	average(cg, now);
	self = cg->nr_runnable > 0 ? SELF_WEIGHT : 0;
	cg->active_weight += self;
	cg->active_weight -= cg->self;
	cg->self = self;
	bpf_spin_unlock(&cg->lock);
	give_weight_up(cg->id);
	parent = !self && cg->parent ? cgroup_by_id(cg->parent) : NULL;
	if (parent)
		parent->left = later(parent->left, cg->finish);
}

/* One task more, or less, of the cgroup is runnable. */
static HOT void count_runnable(struct sched_cgroup *cg, s64 change, s64 weight)
{
	s64 had;

	if (change > 0 && !cg->nr_runnable) {
		raise_finish(cg, inherited(cg));
		cg->began = 1;
	}
	__sync_fetch_and_add(&cg->task_weight, weight);
	had = __sync_fetch_and_add(&cg->nr_runnable, change);
	if (!had || !(had + change))
		count_itself(cg);
}

/*
 * One level of inverse_share. Not a part of its loop: what a loop leaves behind in the registers of
 * a call's arguments, 6.18 takes for needed by the next round, and does not load the program
 * ("backtracking call unexpected regs").
 */
__noinline u64 inverse_of_child(u64 inverse, u64 mean, u64 active, u64 passed, u64 weight)
{
	if (active && mean)
		mean = mean_after(mean, active, passed);
	return inverse_below(inverse, (mean + (1 << (MEAN_BITS - 1))) >> MEAN_BITS, weight);
}

/* 1 / share, ONE being the whole machine. */
__noinline u64 inverse_share(u64 id, u64 now)
{
	u64 inverse = ONE, weight = SELF_WEIGHT;
	u32 i;

	bpf_for(i, 0, MAX_DEPTH)
	{
		struct sched_cgroup *cg = id ? cgroup_by_id(id) : NULL;

		if (!cg)
			break;
		u64 since = cg->averaged, passed = before(since, now) ? now - since : 0;
		inverse = inverse_of_child(inverse, cg->mean, cg->active_weight, passed, weight);
		weight = weight_of(cg);
		id = cg->parent;
	}
	return inverse;
}

/*
 * The kernel's own threads that are bound to one CPU (ksoftirqd, migration, RCU, kworkers) serve
 * that CPU for everyone: no group's share is charged for them.
 */
static HOT bool serves_cpu(struct task_struct *p)
{
	return (p->flags & PF_KTHREAD) && p->nr_cpus_allowed == 1;
}

/*
 * The kernel reports every change of a cgroup's settings: cpu.max since 6.17, cpu.idle later. Where
 * it does not, they are read from its struct task_group.
 */
static bool settings_reported(void)
{
	return bpf_core_field_exists(((struct sched_ext_ops *)0)->cgroup_set_idle);
}

/*
 * Puts in force what is the least: cpu.max, or the quota of who is held back. A new limit starts
 * with a full quota.
 */
static void enforce(struct sched_cgroup *cg)
{
	u64 now = scx_bpf_now(), quota, period, burst;
	bool was, throttled, changed;

	bpf_spin_lock(&cg->lock);
	quota = cg->max.quota;
	period = cg->max.period;
	burst = cg->max.burst;
	if (cg->held_until && !before(now, cg->held_until))
		cg->held_until = 0;
	if (cg->held_until && (!quota || quota > period / HELD_PART)) {
		quota = HELD_PERIOD / HELD_PART;
		period = HELD_PERIOD;
		burst = 0;
	}
	was = cg->now.quota;
	throttled = cg->throttled;
	changed = quota != cg->now.quota || period != cg->now.period || burst != cg->now.burst;
	if (changed) {
		cg->now.quota = quota;
		cg->now.period = period;
		cg->now.burst = burst;
		cg->budget = quota;
		cg->refilled = now;
	}
	bpf_spin_unlock(&cg->lock);
	if (was != !!quota) {
		__sync_fetch_and_add(&nr_limited, was ? -1 : 1);
		__sync_fetch_and_add(&limits, 1);
	}
	/* Looks at the new one at once. */
	if (changed && throttled)
		bpf_timer_start(&cg->timer, 0, 0);
}

static void set_limit(struct sched_cgroup *cg, u64 quota, u64 period, u64 burst)
{
	bpf_spin_lock(&cg->lock);
	cg->max.quota = quota;
	cg->max.period = period;
	cg->max.burst = burst;
	bpf_spin_unlock(&cg->lock);
	enforce(cg);
}

static void set_idle(struct sched_cgroup *cg, bool idle)
{
	/* Who ends it has the default weight again, says the kernel. */
	if (cg->idle && !idle)
		cg->weight = DEFAULT_WEIGHT;
	cg->idle = idle;
	__sync_fetch_and_add(&weights, 1);
	give_weight_up(cg->id);
}

/* Reads cpu.max and cpu.idle where the kernel keeps them. */
static void check_settings(struct sched_cgroup *cg, u64 now)
{
	struct task_group *group = (void *)cg->group;
	u64 quota, period, burst;

	bool idle;

	if (!group || (cg->checked && now - cg->checked < CHECK_SETTINGS))
		return;
	cg->checked = now;
	idle = BPF_CORE_READ(group, idle);
	if (idle != cg->idle)
		set_idle(cg, idle);
	period = BPF_CORE_READ(group, cfs_bandwidth.period);
	quota = BPF_CORE_READ(group, cfs_bandwidth.quota);
	burst = BPF_CORE_READ(group, cfs_bandwidth.burst);
	if ((s64)quota < 0 || !period)
		quota = 0;
	if (quota != cg->max.quota ||
	    (quota && (period != cg->max.period || burst != cg->max.burst)))
		set_limit(cg, quota, period, burst);
}

__noinline int check_all_settings(u64 task_group, u64 id, u64 now)
{
	struct task_group *group = (void *)task_group;
	u32 i;

	bpf_for(i, 0, MAX_DEPTH)
	{
		struct sched_cgroup *cg = id ? cgroup_by_id(id) : NULL;

		if (!cg || !group)
			break;
		if (!cg->group && BPF_CORE_READ(group, css.cgroup, kn, id) == id)
			cg->group = (u64)group;
		check_settings(cg, now);
		group = BPF_CORE_READ(group, parent);
		id = cg->parent;
	}
	return 0;
}

/* The nearest cgroup with a quota, from this one up: its id, or 0. */
__noinline u64 limited(u64 id)
{
	struct sched_cgroup *cg = id && nr_limited ? cgroup_by_id(id) : NULL;
	u64 generation = limits, at = id, found = 0;
	u32 i;

	if (!cg)
		return 0;
	if (cg->limits == generation)
		return cg->limited;
	bpf_for(i, 0, MAX_DEPTH)
	{
		struct sched_cgroup *next = at ? cgroup_by_id(at) : NULL;

		if (!next)
			break;
		if (next->now.quota) {
			found = at;
			break;
		}
		at = next->parent;
	}
	cg->limited = found;
	cg->limits = generation;
	return found;
}

/* Under the lock. Returns the time until the next refill. */
static __always_inline u64 refill(struct sched_cgroup *cg, u64 now)
{
	u64 period = cg->now.period, passed, most = cg->now.quota + cg->now.burst;

	if (!cg->now.quota || !period || before(now, cg->refilled))
		return MAX_PAUSE;
	passed = (now - cg->refilled) / period;
	if (passed) {
		cg->refilled += passed * period;
		/* More than it can owe or save. */
		if (passed > 1000000)
			passed = 1000000;
		cg->budget += passed * cg->now.quota;
		if (cg->budget > (s64)most)
			cg->budget = most;
	}
	return cg->refilled + period - now;
}

/* Takes CPU time from every quota that it counts against. */
__noinline int spend(u64 id, u64 used, u64 now)
{
	u32 i;

	bpf_for(i, 0, MAX_DEPTH)
	{
		struct sched_cgroup *cg;
		bool over = false;
		u64 pause;

		id = limited(id);
		cg = id ? cgroup_by_id(id) : NULL;
		if (!cg)
			break;
		bpf_spin_lock(&cg->lock);
		pause = refill(cg, now);
		cg->budget -= used;
		if (cg->now.quota && cg->budget <= 0 && !cg->throttled) {
			cg->throttled = now;
			over = true;
		}
		bpf_spin_unlock(&cg->lock);
		if (over) {
			__sync_fetch_and_add(&nr_throttled, 1);
			give_weight_up(cg->id);
			bpf_timer_start(&cg->timer, pause < MAX_PAUSE ? pause : MAX_PAUSE, 0);
		}
		id = cg->parent;
	}
	return 0;
}

/* The nearest cgroup, from this one up, whose quota is used up: its id, or 0. */
__noinline u64 throttled_at(u64 id)
{
	u32 i;

	bpf_for(i, 0, MAX_DEPTH)
	{
		struct sched_cgroup *cg;

		id = limited(id);
		cg = id ? cgroup_by_id(id) : NULL;
		if (!cg)
			break;
		if (cg->throttled)
			return id;
		id = cg->parent;
	}
	return 0;
}

/* What the quotas leave of a slice. */
__noinline u64 slice_left(u64 id, u64 slice)
{
	u32 i;

	bpf_for(i, 0, MAX_DEPTH)
	{
		struct sched_cgroup *cg;
		s64 budget;

		id = limited(id);
		cg = id ? cgroup_by_id(id) : NULL;
		if (!cg || slice <= MIN_SLICE)
			break;
		budget = cg->budget;
		if (budget < (s64)slice)
			slice = budget > (s64)MIN_SLICE ? budget : MIN_SLICE;
		id = cg->parent;
	}
	return slice;
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

static HOT void unhold(struct task_ctx *tc)
{
	u64 id = tc->held ? __sync_lock_test_and_set(&tc->held, 0) : 0;
	struct sched_cgroup *cg = id ? cgroup_by_id(id) : NULL;

	if (cg)
		__sync_fetch_and_add(&cg->holding, -1);
}

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

SEC("tp_btf/signal_generate")
int BPF_PROG(agentcg_signal, int sig, void *info, struct task_struct *p)
{
	if (killed(p))
		look_for_killed();
	return 0;
}

/* The cgroup whose quota is used up so that the task may not run: its id, or 0. */
static u64 throttled_by(struct task_struct *p, struct task_ctx *tc)
{
	if (!nr_throttled || tc->touch || serves_cpu(p) || dying(p))
		return 0;
	return throttled_at(tc->cgroup);
}

/*
 * Where a task must wait because a quota is used up: the id of the cgroup, which is that of its
 * queue too; 0 when it may run. `holding` is raised before the second look: whoever lifts the
 * throttling then either is seen here or sees that a task is about to come.
 */
static __noinline u64 hold(struct task_struct *p, struct task_ctx *tc)
{
	u64 id = throttled_by(p, tc);
	struct sched_cgroup *cg = id ? cgroup_by_id(id) : NULL;

	if (!cg)
		return 0;
	unhold(tc);
	__sync_fetch_and_add(&cg->holding, 1);
	tc->held = id;
	barrier();
	if (cg->throttled)
		return id;
	unhold(tc);
	return 0;
}

/*
 * Puts what a cgroup held back into the queue; with `since`, only what has not run since then, and
 * what has been killed meanwhile.
 */
static void release(u64 id, u64 since)
{
	struct task_struct *p;

	/* A timer has it anyway; 6.16 wants it said. */
	bpf_rcu_read_lock();
	bpf_for_each(scx_dsq, p, id, 0)
	{
		struct task_ctx *tc = ctx_of(p);
		s32 cpu;

		if (!tc)
			continue;
		if (since && !dying(p)) {
			if (!before(tc->waits, since))
				continue;
			tc->touch = true;
		}
		cpu = scx_bpf_pick_idle_cpu(p->cpus_ptr, 0);
		/* Before: once moved it may run, and be held back again. */
		unhold(tc);
		if (is_away(scx_bpf_task_cpu(p))) {
			send_away(BPF_FOR_EACH_ITER, p);
			continue;
		}
		scx_bpf_dsq_move_vtime(BPF_FOR_EACH_ITER, p, QUEUE, 0);
		if (cpu >= 0)
			kick(cpu, SCX_KICK_IDLE);
	}
	bpf_rcu_read_unlock();
}

static int look_at_limit(void *map, u64 *key, struct sched_cgroup *cg)
{
	u64 now = scx_bpf_now(), id = *key, pause;
	bool lift = false;

	if (!settings_reported())
		check_settings(cg, now);
	if (cg->held_until)
		enforce(cg);
	bpf_spin_lock(&cg->lock);
	pause = refill(cg, now);
	if (cg->throttled && (!cg->now.quota || cg->budget > 0)) {
		if (cg->now.quota == cg->max.quota)
			cg->own.throttled_ns += now - cg->throttled;
		else
			cg->own.held_ns += now - cg->throttled;
		cg->throttled = 0;
		lift = true;
	}
	bpf_spin_unlock(&cg->lock);
	if (lift) {
		__sync_fetch_and_add(&nr_throttled, -1);
		give_weight_up(cg->id);
	}
	if (cg->throttled) {
		release(id, now - MAX_WAIT);
	} else {
		release(id, 0);
		/* Some are on their way here. */
		if (cg->holding)
			pause = MIN_SLICE;
		else if (!cg->held_until)
			return 0;
	}
	/* The time may stand still for us when we are detached: never again at once. */
	pause = pause > MIN_PAUSE ? pause : MIN_PAUSE;
	bpf_timer_start(&cg->timer, pause < MAX_PAUSE ? pause : MAX_PAUSE, 0);
	return 0;
}

/*
 * Its share, and how long a slice may be: shorter when many wait, or for a small share. Shares are
 * means over 100 ms; for who runs shortly and often they need not be looked up each time.
 */
static __noinline void look_up_share_now(struct sched_cgroup *cg, u64 now)
{
	u64 slice = cfg.slice_ns, inverse;
	u64 least = slice < MIN_TURN ? slice : MIN_TURN;
	s64 waiting;

	inverse = inverse_share(cg->id, now);
	waiting = scx_bpf_dsq_nr_queued(QUEUE);
	if (waiting > 0 && slice * waiting > ROUND * nr_cpus)
		slice = ROUND * nr_cpus / waiting;
	if (virtual(slice, inverse) > LONGEST * nr_cpus)
		slice = LONGEST * nr_cpus * ONE / inverse;
	cg->slice = later(least, slice);
	cg->inverse = inverse;
	cg->looked = now;
}

static HOT void look_up_share(struct sched_cgroup *cg, u64 now)
{
	if (!cg->inverse || !before(now, cg->looked + SHARE_AGE))
		look_up_share_now(cg, now);
}

/* No longer than what is left of the quotas. */
static HOT u64 slice_within(struct sched_cgroup *cg, u64 now)
{
	look_up_share(cg, now);
	return nr_limited ? slice_left(cg->id, cg->slice) : cg->slice;
}

static HOT u64 cost(u64 ns, u64 inverse)
{
	u64 time = virtual(ns, inverse), most = LONGEST * nr_cpus;

	return time < most ? time : most;
}

/* Gives back what a task was granted and charges what it used. */
static HOT void settle(struct task_ctx *tc, struct sched_cgroup *cg, u64 used, u64 now)
{
	u64 owed = -tc->charged;

	if (used) {
		look_up_share(cg, now);
		owed += cost(used, cg->inverse);
	}
	__sync_fetch_and_add(&cg->finish, owed);
	tc->charged = 0;
}

/* What a cgroup that stays runnable did not use counts from there on. */
static HOT u64 earliest(void)
{
	return vtime_now - MAX_LAG * cfg.slice_ns;
}

/* Where the next slice of a cgroup starts in virtual time. */
static HOT u64 start_of(struct sched_cgroup *cg)
{
	return later(cg->finish, earliest());
}

/*
 * How much later than its turn a task comes whose weight is less than that of its neighbours in the
 * cgroup, so that it gets its part of what the cgroup gets: for what it used, they get theirs.
 */
static HOT u64 turns_left_out(struct task_ctx *tc, struct sched_cgroup *cg)
{
	u64 used = tc->used, most = MAX_TURNS * cfg.slice_ns;
	s64 others = cg->task_weight - tc->weight, even;

	if (!used || !tc->weight)
		return 0;
	even = (s64)tc->weight * (cg->nr_runnable - 1);
	if (others <= even)
		return 0;
	used = used * (u64)(others - even) / tc->weight;
	return virtual(used < most ? used : most, cg->inverse);
}

/*
 * Where a task stands in the queue whose slice starts there. Of high rank: before everybody else,
 * until its cgroup has had its share. So it gets the CPU earlier, but not more of it.
 */
static HOT u64 place_of(struct task_ctx *tc, struct sched_cgroup *cg, u64 start)
{
	s32 rank = cg->ranks == weights ? cg->rank : rank_of(cg->id);

	tc->leads = rank > 0 && before(start, vtime_now + cfg.slice_ns);
	start += turns_left_out(tc, cg);
	if (tc->leads)
		return start - LEAD;
	return rank < 0 ? start + WAY_BACK * cfg.slice_ns : start;
}

/* The same for a task that enters the queue: who has been killed is first, one turn at a time. */
static HOT u64 place_in_queue(struct task_struct *p, struct task_ctx *tc, struct sched_cgroup *cg,
			      u64 start)
{
	u64 place = place_of(tc, cg, start);

	if (!killed(p))
		return place;
	tc->leads = true;
	return vtime_now - LEAD;
}

/* The clock follows the slices in their order; those that come before it say nothing. */
static void advance_clock(struct task_ctx *tc, u64 start)
{
	if (!tc->leads && before(vtime_now, start))
		vtime_now = start;
}

/* Grants a slice; returns its virtual start time. */
static HOT u64 charge(struct task_ctx *tc, struct sched_cgroup *cg, u64 slice)
{
	/* Taken off the queue without having run: moved, or its affinity changed. */
	if (tc->charged)
		settle(tc, cg, 0, 0);
	tc->charged = cost(slice, cg->inverse);
	raise_finish(cg, earliest());
	tc->start = __sync_fetch_and_add(&cg->finish, tc->charged);
	return tc->start;
}

/* Statistics: the task was put on a CPU, and has had so much since. */
static HOT void count_run(struct task_ctx *tc, struct sched_cgroup *cg, u64 had, u64 now)
{
	u64 passed = now - tc->waits, most = (1ULL << SCHED_WAITS) - 1;
	u64 wait = before(had, passed) ? (passed - had) / 1000 : 0;
	u32 i = log2_u32((wait < most ? wait : most) | 1);

	if (i < SCHED_WAITS)
		__sync_fetch_and_add(&cg->own.waits[i], 1);
	__sync_fetch_and_add(&cg->own.runs, 1);
	if (tc->last != tc->cpu)
		__sync_fetch_and_add(&cg->own.migrations, 1);
	tc->last = tc->cpu;
	tc->counted = true;
}

/* Kernels differ in the size and the sign of the field. */
static HOT bool on_cpu(struct task_struct *task)
{
	return BPF_CORE_READ_BITFIELD(task, on_cpu);
}

/* Not all kernels have these fields in the same places, or tell of `runqueues` itself. */
struct rq___clock {
	u64 clock_task;
} __attribute__((preserve_access_index));

struct cfs_rq___clock {
	struct rq___clock *rq;
} __attribute__((preserve_access_index));

struct task_struct___clock {
	struct {
		struct cfs_rq___clock *cfs_rq;
	} se;
} __attribute__((preserve_access_index));

/* The clock by which the kernel counts the CPU time of a task that runs. */
static HOT u64 clock_task(struct task_struct *p)
{
	return ((struct task_struct___clock *)p)->se.cfs_rq->rq->clock_task;
}

/*
 * The time since the task was put on the CPU or last asked, by the kernel's count: that includes
 * what switching to it took, which is much for those that run shortly, and leaves out interrupts.
 */
static HOT u64 take_runtime(struct task_struct *p, struct task_ctx *tc, struct sched_cgroup *cg,
			    u64 now)
{
	u64 total = p->se.sum_exec_runtime, used = 0, until;

	/* The kernel counts only after it has said that a task sleeps. */
	if (on_cpu(p)) {
		until = clock_task(p);
		if (before(p->se.exec_start, until))
			total += until - p->se.exec_start;
	}
	if (before(tc->ran, total))
		used = total - tc->ran;
	tc->ran += used;
	tc->used += used;
	__sync_fetch_and_add(&cg->own.run_ns, used);
	if (!tc->counted)
		count_run(tc, cg, used, now);
	if (!settings_reported())
		check_all_settings((u64)BPF_CORE_READ(p, sched_task_group), tc->cgroup, now);
	if (nr_limited)
		spend(tc->cgroup, used, now);
	return used;
}

/* A task wants to run that did not. */
static HOT void begin(struct task_struct *p, struct task_ctx *tc, struct sched_cgroup *cg, u64 now)
{
	if (tc->weight)
		return;
	tc->ran = p->se.sum_exec_runtime;
	tc->waits = now;
	tc->used = 0;
	if (serves_cpu(p))
		return;
	tc->weight = p->scx.weight;
	count_runnable(cg, 1, tc->weight);
}

/* A task leaves the CPU, or has left it. */
static HOT void stop(struct task_struct *p, struct task_ctx *tc, struct sched_cgroup *cg, u64 now)
{
	u64 used = take_runtime(p, tc, cg, now);

	tc->runs = false;
	tc->waits = now;
	if (tc->weight)
		settle(tc, cg, used, now);
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
