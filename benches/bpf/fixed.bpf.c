// SPDX-License-Identifier: GPL-2.0-only
/* A policy to compare with: every allocation batch is delayed by the same time. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "GPL";

const volatile u32 delay_ms = 50;

SEC("struct_ops/delay")
unsigned int BPF_PROG(delay, struct mem_cgroup *memcg)
{
	return delay_ms;
}

struct memcg_bpf_ops___v6 {
	void (*handle_cgroup_online)(struct mem_cgroup *memcg);
	void (*handle_cgroup_offline)(struct mem_cgroup *memcg);
	bool (*below_low)(struct mem_cgroup *memcg);
	bool (*below_min)(struct mem_cgroup *memcg);
	unsigned int (*get_high_delay_ms)(struct mem_cgroup *memcg);
};

SEC(".struct_ops.link")
struct memcg_bpf_ops___v6 fixed = {
    .get_high_delay_ms = (void *)delay,
};
