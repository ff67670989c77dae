// SPDX-License-Identifier: GPL-2.0-only
/*
 * The least that a process in a cgroup of its own takes: what the kernel does for it, and nothing
 * of a library. Bare system calls, no errors explained, nothing measured.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* struct clone_args of linux/sched.h, version 2 */
struct args {
	uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
	uint64_t set_tid, set_tid_size, cgroup;
};

/* CLONE_VM | CLONE_VFORK | CLONE_PIDFD | CLONE_INTO_CGROUP */
#define FLAGS (0x100 | 0x4000 | 0x1000 | 0x200000000ULL)

extern char **environ;

static char *const TRUE[] = {"/bin/true", NULL};

__attribute__((noreturn, used)) static void child(int null)
{
	for (int fd = 0; fd < 3; fd++)
		dup2(null, fd);
	execve(TRUE[0], TRUE, environ);
	_exit(127);
}

/* Runs /bin/true in the new cgroup `name` below `calls`, and removes it. 0, or an errno. */
int agentcg_floor(int calls, const char *name)
{
#ifdef __x86_64__
	static char stack[65536] __attribute__((aligned(16)));
	int cgroup, pidfd = -1, null;
	siginfo_t info;
	long pid;

	if (mkdirat(calls, name, 0755))
		return errno;
	cgroup = openat(calls, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	struct args args = {
	    .flags = FLAGS,
	    .pidfd = (uintptr_t)&pidfd,
	    .exit_signal = SIGCHLD,
	    .stack = (uintptr_t)stack,
	    .stack_size = sizeof(stack),
	    .cgroup = cgroup,
	};
	/* The child leaves by the call, on its own stack. */
	register long in_child __asm__("r12") = null;
	register void *run __asm__("r13") = child;

	__asm__ volatile("syscall\n\t"
			 "test %%rax, %%rax\n\t"
			 "jnz 1f\n\t"
			 "mov %%r12d, %%edi\n\t"
			 "call *%%r13\n\t"
			 "1:"
			 : "=a"(pid)
			 : "0"(SYS_clone3), "D"(&args), "S"(sizeof(args)), "r"(in_child), "r"(run)
			 : "rcx", "r11", "memory");
	close(null);
	if (pid < 0)
		return -pid;
	struct pollfd ready = {.fd = pidfd, .events = POLLIN};

	poll(&ready, 1, -1);
	waitid(P_PIDFD, pidfd, &info, WEXITED);
	close(pidfd);
	close(cgroup);
	if (unlinkat(calls, name, AT_REMOVEDIR))
		return errno;
	return info.si_status;
#else
	(void)calls, (void)name;
	return ENOSYS;
#endif
}
