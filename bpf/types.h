/* SPDX-License-Identifier: GPL-2.0-only */
/* The kernel's integers where vmlinux.h is not: for bindgen, and for tests in user space. */
#ifndef AGENTCG_TYPES_H
#define AGENTCG_TYPES_H

#ifndef __VMLINUX_H__
typedef unsigned char u8;
typedef int s32;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long s64;
#endif

#endif
