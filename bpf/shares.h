/* SPDX-License-Identifier: GPL-2.0-only */
/* The arithmetic of shares and virtual time: for the scheduler, and for its test in user space. */
#ifndef AGENTCG_SHARES_H
#define AGENTCG_SHARES_H

/* Inverse shares have 10 fractional bits; the cap keeps a second * inverse below 2^63. */
#define ONE (1ULL << 10)
#define MAX_INVERSE (1ULL << 32)
/* Nobody runs at less than a sixteenth of the cost, however small the mean still is. */
#define MIN_INVERSE (ONE / 16)

/* How far back the mean of the active weight looks, ns; its fractional bits; the most it counts. */
#define MEAN_SPAN 100000000ULL
#define MEAN_BITS 16
#define MAX_ACTIVE (1ULL << 24)

/* Virtual time wraps. */
static inline bool before(u64 a, u64 b)
{
	return (s64)(a - b) < 0;
}

static inline u64 later(u64 a, u64 b)
{
	return before(a, b) ? b : a;
}

/* A mean that forgets: what it becomes when the weight has been `active` for some time. */
static inline u64 mean_after(u64 mean, u64 active, u64 passed)
{
	const u64 span = MEAN_SPAN >> 10;
	u64 value = (active < MAX_ACTIVE ? active : MAX_ACTIVE) << MEAN_BITS;

	/* In units of 1024 ns, and after so long nothing of the past is left: it fits 64 bits. */
	passed = passed < 16 * MEAN_SPAN ? passed >> 10 : 16 * span;
	return (mean * span + value * passed + (span + passed) / 2) / (span + passed);
}

/* From 1 / share of a cgroup to that of a child of this weight, `total` being that of all active
 * children; 0 when none has been active yet. */
static inline u64 inverse_below(u64 inverse, u64 total, u64 weight)
{
	if (total)
		inverse = inverse * total / weight;
	if (inverse < MIN_INVERSE)
		return MIN_INVERSE;
	return inverse > MAX_INVERSE ? MAX_INVERSE : inverse;
}

/* What run time costs in virtual time. */
static inline u64 virtual(u64 ns, u64 inverse)
{
	return ns * inverse / ONE;
}

#endif
