/* SPDX-License-Identifier: GPL-2.0-only */
/* What shares.h has, with names for Rust. */
#include <stdbool.h>

#include "types.h"

#include "shares.h"

u64 shares_inverse_below(u64 inverse, u64 total, u64 weight)
{
	return inverse_below(inverse, total, weight);
}

u64 shares_mean_after(u64 mean, u64 active, u64 passed)
{
	return mean_after(mean, active, passed);
}

u64 shares_virtual(u64 ns, u64 inverse)
{
	return virtual(ns, inverse);
}

u64 shares_later(u64 a, u64 b)
{
	return later(a, b);
}

bool shares_before(u64 a, u64 b)
{
	return before(a, b);
}
