/* SPDX-License-Identifier: GPL-2.0-only */
/* The arithmetic of shares and virtual time: for scheduler.bpf.c, and for its test in user space.
 */
#ifndef AGENTCG_SHARES_H
#define AGENTCG_SHARES_H

/* Inverse shares have 10 fractional bits; the cap keeps a second * inverse below 2^63. */
#define ONE (1ULL << 10)
#define MAX_INVERSE (1ULL << 32)

/* Virtual time wraps. */
static inline bool before(u64 a, u64 b)
{
	return (s64)(a - b) < 0;
}

static inline u64 later(u64 a, u64 b)
{
	return before(a, b) ? b : a;
}

/* From 1 / share of a cgroup to that of a child of this weight, `total` being that of all active
 * children. */
static inline u64 inverse_below(u64 inverse, u64 total, u64 weight)
{
	/* Not counted as active yet: alone. */
	if (total > weight)
		inverse = inverse * total / weight;
	return inverse > MAX_INVERSE ? MAX_INVERSE : inverse;
}

/* What run time costs in virtual time. */
static inline u64 virtual(u64 ns, u64 inverse)
{
	return ns * inverse / ONE;
}

#endif
