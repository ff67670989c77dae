/*
 * agentcg: control and measure what AI agents' tool calls take from a Linux machine.
 *
 * - A function that can fail returns NULL for success, or an error that the caller frees.
 * - What a function gives through a pointer to a pointer belongs to the caller, unless it says
 *   otherwise, and is NULL after an error.
 * - Handles are freed with their own function, which accepts NULL, in any order; nobody may use
 *   them at that time or later. Freeing one undoes what it did.
 * - Structs of options are filled by their `_init` function, which is given their size, before
 *   members are set: a program goes on to work with a later library that has more of them. What a
 *   library does not know is refused, not ignored.
 * - Paths are the system's bytes, other strings UTF-8. JSON is always valid: bytes that are not
 *   UTF-8 become U+FFFD.
 * - No function aborts or unwinds. The library installs no signal handlers and prints
 *   nothing, but for a report of a defect of its own on standard error.
 *
 * SPDX-License-Identifier: GPL-2.0-only
 */

#ifndef AGENTCG_H
#define AGENTCG_H

/* Generated from agentcg-capi/src; `AGENTCG_UPDATE_HEADER=1 cargo test -p agentcg-capi` writes it anew. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/**
 * The version of the header: major.
 */
#define AGENTCG_VERSION_MAJOR 0

/**
 * The version of the header: minor. It changes when something is added.
 */
#define AGENTCG_VERSION_MINOR 1

/**
 * The version of the header: patch.
 */
#define AGENTCG_VERSION_PATCH 0

/**
 * In place of a descriptor: what the function does by default. `agentcg_session_spawn`: inherit.
 * `agentcg_session_run`: nothing for standard input, capture for output and error.
 */
#define AGENTCG_STDIO_DEFAULT -1

/**
 * In place of a descriptor: the same as ours.
 */
#define AGENTCG_STDIO_INHERIT -2

/**
 * In place of a descriptor: `/dev/null`.
 */
#define AGENTCG_STDIO_NULL -3

/**
 * In place of a descriptor: a pipe, whose other end `agentcg_call_take_pipe` gives.
 */
#define AGENTCG_STDIO_PIPE -4

/**
 * In place of standard output or error: kept for the outcome.
 */
#define AGENTCG_STDIO_CAPTURE -5

/**
 * In place of standard error: where standard output goes.
 */
#define AGENTCG_STDIO_STDOUT -6

/**
 * In place of a user, group or mask: as we have it.
 */
#define AGENTCG_UNSET_ID UINT32_MAX

/**
 * Not set: the default, or a limit that is left as the kernel has it. In a usage: the kernel did
 * not give this number.
 */
#define AGENTCG_UNSET UINT64_MAX

/**
 * No limit: `max` in the kernel's file.
 */
#define AGENTCG_UNLIMITED (UINT64_MAX - 1)

/**
 * The class of a failure. The values never change; later versions may add some.
 */
typedef enum {
  /**
   * No error: the code of NULL.
   */
  AGENTCG_OK = 0,
  /**
   * A name, size, path, option or pointer is not valid; nothing was changed.
   */
  AGENTCG_ERROR_INVALID_INPUT = 1,
  /**
   * The cgroup, file or process does not exist (any more).
   */
  AGENTCG_ERROR_NOT_FOUND = 2,
  /**
   * It exists already.
   */
  AGENTCG_ERROR_ALREADY_EXISTS = 3,
  /**
   * Our privileges do not allow it.
   */
  AGENTCG_ERROR_PERMISSION_DENIED = 4,
  /**
   * In use by another process, or still populated.
   */
  AGENTCG_ERROR_BUSY = 5,
  /**
   * This kernel, or its configuration, cannot do it; the message says how to get it.
   */
  AGENTCG_ERROR_UNSUPPORTED = 6,
  /**
   * It did not happen within the given time.
   */
  AGENTCG_ERROR_TIMED_OUT = 7,
  /**
   * Any other failure that the kernel reported.
   */
  AGENTCG_ERROR_OS = 8,
  /**
   * A BPF object could not be opened, loaded or attached.
   */
  AGENTCG_ERROR_BPF = 9,
  /**
   * A defect of agentcg.
   */
  AGENTCG_ERROR_INTERNAL = 10,
} agentcg_error_code_t;

/**
 * What a call came to, in one word. Later versions may add some.
 */
typedef enum {
  /**
   * Not known to this version; also that of NULL.
   */
  AGENTCG_VERDICT_UNKNOWN = 0,
  /**
   * It exited with status 0 and nothing of it was killed.
   */
  AGENTCG_VERDICT_COMPLETED = 1,
  /**
   * It exited with another status.
   */
  AGENTCG_VERDICT_FAILED = 2,
  /**
   * A signal that was not ours ended it.
   */
  AGENTCG_VERDICT_SIGNALED = 3,
  /**
   * The OOM killer took it, or a process of it, whatever its exit status.
   */
  AGENTCG_VERDICT_OOM_KILLED = 4,
  /**
   * Its time was over.
   */
  AGENTCG_VERDICT_TIMED_OUT = 5,
  /**
   * It failed, and forks of it had been refused by `pids.max`.
   */
  AGENTCG_VERDICT_PIDS_EXHAUSTED = 6,
  /**
   * It was cancelled, through a handle or by `agentcg kill`.
   */
  AGENTCG_VERDICT_CANCELLED = 7,
  /**
   * The program was never started.
   */
  AGENTCG_VERDICT_SPAWN_FAILED = 8,
} agentcg_verdict_t;

/**
 * How a session stands against the others when CPU or memory is short.
 */
typedef enum {
  /**
   * `cpu.weight` 100, the kernel's default.
   */
  AGENTCG_PRIORITY_NORMAL = 0,
  /**
   * Served first: `cpu.weight` 150.
   */
  AGENTCG_PRIORITY_HIGH = 1,
  /**
   * Yields to the others: `cpu.weight` 50.
   */
  AGENTCG_PRIORITY_LOW = 2,
} agentcg_priority_t;

/**
 * Which tasks the scheduler takes over.
 */
typedef enum {
  /**
   * Every normal task of the machine.
   */
  AGENTCG_SCHEDULER_ALL = 0,
  /**
   * Only processes placed in the runtime's sessions, and their children.
   */
  AGENTCG_SCHEDULER_AGENTS = 1,
} agentcg_scheduler_scope_t;

/**
 * The mechanism behind memory protection.
 */
typedef enum {
  /**
   * The best one that there is.
   */
  AGENTCG_MEMORY_AUTO = 0,
  /**
   * BPF hooks in the kernel's memory controller.
   */
  AGENTCG_MEMORY_MEMCG_BPF_OPS = 1,
  /**
   * PSI triggers and the cgroup v2 files.
   */
  AGENTCG_MEMORY_CGROUP = 2,
} agentcg_memory_backend_t;

/**
 * On which side of the protection a cgroup is.
 */
typedef enum {
  /**
   * Protected while it stalls.
   */
  AGENTCG_MEMORY_HIGH = 0,
  /**
   * Held back while a high one stalls.
   */
  AGENTCG_MEMORY_LOW = 1,
} agentcg_memory_role_t;

/**
 * What is done about a cgroup that stands still above its `memory.high`.
 */
typedef enum {
  /**
   * Only tell: in the statistics and the log.
   */
  AGENTCG_STUCK_REPORT = 0,
  /**
   * Freeze it until the protection ends or someone thaws it.
   */
  AGENTCG_STUCK_FREEZE = 1,
  /**
   * Set its `memory.high` to `max` until the protection ends; its `memory.max` holds then.
   */
  AGENTCG_STUCK_LIFT = 2,
} agentcg_stuck_action_t;

/**
 * Whose events are delivered. A process is tracked when its command, pid, user, cgroup or executable
 * is named in the filter, or when its parent was tracked when it forked.
 */
typedef enum {
  /**
   * Everybody's.
   */
  AGENTCG_EVENTS_ALL = 0,
  /**
   * Everybody's, but FILE_OPEN of tracked processes only.
   */
  AGENTCG_EVENTS_FILES_OF_TRACKED = 1,
  /**
   * Those of tracked processes.
   */
  AGENTCG_EVENTS_TRACKED_ONLY = 2,
} agentcg_event_mode_t;

/**
 * The kinds of events, as bits.
 */
typedef enum {
  /**
   * A program was executed; tracepoint `sched_process_exec`.
   */
  AGENTCG_EVENT_EXEC = 1,
  /**
   * A process ended; tracepoint `sched_process_exit`.
   */
  AGENTCG_EVENT_EXIT = 2,
  /**
   * A process forked; tracepoint `sched_process_fork`.
   */
  AGENTCG_EVENT_FORK = 4,
  /**
   * A file was opened; tracepoints of `open`, `openat`, `openat2`, `creat`; needs tracefs.
   */
  AGENTCG_EVENT_FILE_OPEN = 8,
  /**
   * A line was entered in an interactive bash; a uretprobe on `readline` of `/bin/bash`.
   */
  AGENTCG_EVENT_BASH_READLINE = 16,
  /**
   * The OOM killer chose a process; tracepoint `mark_victim`, kernel 6.9.
   */
  AGENTCG_EVENT_OOM_KILL = 32,
  /**
   * Events were lost. Always reported; it cannot be asked for.
   */
  AGENTCG_EVENT_DROPPED = (1 << 30),
} agentcg_event_kind_t;

/**
 * How grave a line of the log is.
 */
typedef enum {
  /**
   * Something does not work any more.
   */
  AGENTCG_LOG_ERROR = 1,
  /**
   * Something was not done; the rest goes on.
   */
  AGENTCG_LOG_WARN = 2,
  /**
   * What was done.
   */
  AGENTCG_LOG_INFO = 3,
  /**
   * For those who look for a defect.
   */
  AGENTCG_LOG_DEBUG = 4,
} agentcg_log_level_t;

/**
 * The level of the cgroup tree whose limit was met.
 */
typedef enum {
  /**
   * The call's own cgroup.
   */
  AGENTCG_SCOPE_CALL = 0,
  /**
   * Its session, which it shares with other calls.
   */
  AGENTCG_SCOPE_SESSION = 1,
  /**
   * A cgroup above the session.
   */
  AGENTCG_SCOPE_ANCESTOR = 2,
  /**
   * The machine; inside a container also the cgroups that are not visible there.
   */
  AGENTCG_SCOPE_HOST = 3,
} agentcg_scope_t;

/**
 * What a cause did to the call.
 */
typedef enum {
  /**
   * It ended it.
   */
  AGENTCG_EFFECT_ENDED = 0,
  /**
   * It slowed it, or took a process of it, without being what ended it.
   */
  AGENTCG_EFFECT_HAMPERED = 1,
  /**
   * It was met while the call ran, but others may be the ones that it hit.
   */
  AGENTCG_EFFECT_POSSIBLE = 2,
} agentcg_effect_t;

/**
 * Whether a call that the OOM killer ended at its own `memory.max` is run once more, with twice the
 * memory: by `agentcg_session_run`, or by the caller with `agentcg_session_respawn`, and only where
 * standard input is `/dev/null` or `input`.
 */
typedef enum {
  /**
   * With the hint `memory:auto`.
   */
  AGENTCG_RETRY_DEFAULT = 0,
  /**
   * Never.
   */
  AGENTCG_RETRY_NEVER = 1,
  /**
   * Once.
   */
  AGENTCG_RETRY_ONCE = 2,
} agentcg_retry_t;

/**
 * A tool call that has been started: one command and all its descendants, in a cgroup of its own.
 * Several threads may use it at once. It may outlive the handles of its session and runtime;
 * freeing the session's kills it.
 */
typedef struct agentcg_call_t agentcg_call_t;

/**
 * Ends one call from another thread, from before it is started until it is over. Several threads
 * may use it at once.
 */
typedef struct agentcg_canceller_t agentcg_canceller_t;

/**
 * What failed, on which object, what the kernel said and what can be done about it.
 *
 * A function that can fail returns one, owned by the caller and freed with `agentcg_error_free`, or
 * NULL for success. It never changes: any number of threads may read it.
 */
typedef struct agentcg_error_t agentcg_error_t;

/**
 * A stream of process events, in the order in which the kernel wrote them. One thread at a time may
 * use it.
 */
typedef struct agentcg_events_t agentcg_events_t;

/**
 * Running memory protection. Several threads may use it at once.
 */
typedef struct agentcg_memory_t agentcg_memory_t;

/**
 * What came of a tool call. It never changes: any number of threads may read it.
 */
typedef struct agentcg_outcome_t agentcg_outcome_t;

/**
 * The owner of one cgroup v2 subtree and of the sessions in it. Several threads may use it at once.
 *
 * The last of the runtime and its sessions to be freed removes the cgroups that the runtime made
 * and switches controllers off again that it switched on. What a process that was killed left
 * behind is removed by the next runtime on the same root.
 */
typedef struct agentcg_runtime_t agentcg_runtime_t;

/**
 * The attached sched_ext scheduler. One thread at a time may use it.
 */
typedef struct agentcg_scheduler_t agentcg_scheduler_t;

/**
 * One agent's cgroup. Several threads may use it at once. It may outlive its runtime's handle.
 */
typedef struct agentcg_session_t agentcg_session_t;

/**
 * What a session or a tool call may take. Fill it with `agentcg_limits_init`, then set what you
 * want: 0 is a limit too. The library copies what it needs before it returns.
 *
 * Numbers are bytes, or processes and threads; AGENTCG_UNLIMITED or AGENTCG_UNSET (the default).
 */
typedef struct {
  /**
   * The size of the struct; `agentcg_limits_init` sets it.
   */
  size_t size;
  /**
   * `memory.min`: never reclaimed.
   */
  uint64_t memory_min;
  /**
   * `memory.low`: reclaimed only when nothing else is left.
   */
  uint64_t memory_low;
  /**
   * `memory.high`: above it the processes are slowed and reclaimed.
   */
  uint64_t memory_high;
  /**
   * `memory.max`: above it the OOM killer comes.
   */
  uint64_t memory_max;
  /**
   * `memory.swap.max`.
   */
  uint64_t swap_max;
  /**
   * `pids.max`: processes and threads.
   */
  uint64_t pids_max;
  /**
   * CPUs' worth of time (`cpu.max`), as in 1.5; 0 (unset): no limit.
   */
  double cpu_max;
  /**
   * `cpu.weight`, 1 to 10000; 0 (unset): that of the priority.
   */
  uint32_t cpu_weight;
  /**
   * `io.weight`, 1 to 10000, for devices with BFQ or iocost; 0: unset.
   */
  uint32_t io_weight;
  /**
   * Lines of `io.max`: "259:0 rbps=10M wiops=100"; may be NULL with `nr_io_max` 0.
   */
  const char *const *io_max;
  /**
   * How many.
   */
  size_t nr_io_max;
} agentcg_limits_t;

/**
 * A resource limit as of setrlimit(2).
 */
typedef struct {
  /**
   * `RLIMIT_NOFILE`, ...
   */
  uint32_t resource;
  /**
   * The soft limit.
   */
  uint64_t soft;
  /**
   * The hard limit.
   */
  uint64_t hard;
} agentcg_rlimit_t;

/**
 * How to run a tool call. Fill it with `agentcg_call_options_init`. The library copies what it
 * needs before it returns.
 */
typedef struct {
  /**
   * The size of the struct; `agentcg_call_options_init` sets it.
   */
  size_t size;
  /**
   * Of the call's cgroup; NULL: those of the session's `call_limits`.
   */
  const agentcg_limits_t *limits;
  /**
   * What the agent says that it needs: "memory:high,time:5m"; NULL: nothing. It becomes limits
   * of the call, below `limits`, within those of the session.
   */
  const char *hint;
  /**
   * After this time all processes get SIGTERM, and after the grace they are killed, ms, 1 or
   * more; AGENTCG_UNSET (the default): never.
   */
  uint64_t timeout_ms;
  /**
   * From SIGTERM to `cgroup.kill`, ms; 0: at once; AGENTCG_UNSET (the default): 2000.
   */
  uint64_t grace_ms;
  /**
   * How long it may wait for admission, where there is a capacity, ms; AGENTCG_UNSET (the
   * default): for ever.
   */
  uint64_t queue_timeout_ms;
  /**
   * How long killed processes are waited for before the outcome names them as survivors, ms;
   * AGENTCG_UNSET (the default): 10000.
   */
  uint64_t teardown_ms;
  /**
   * Samples the usage at this interval for `timeline` in the JSON, ms, 1 or more; AGENTCG_UNSET
   * (the default): never.
   */
  uint64_t sample_ms;
  /**
   * Standard input, output and error: a descriptor, which stays the caller's, or one of
   * AGENTCG_STDIO_*. Default AGENTCG_STDIO_DEFAULT.
   */
  int32_t stdio[3];
  /**
   * An `agentcg_retry_t`.
   */
  uint32_t retry;
  /**
   * Standard input: these bytes, then the end; NULL: as `stdio[0]` says.
   */
  const void *input;
  /**
   * How many.
   */
  size_t input_length;
  /**
   * How much is kept of each captured output, bytes; of more than that the first and the last
   * half. AGENTCG_UNSET (the default): 10 MiB.
   */
  uint64_t capture_limit;
  /**
   * Changes of our environment, ended by NULL: "NAME=VALUE" sets, "NAME" removes. NULL: none.
   */
  const char *const *env;
  /**
   * The working directory; NULL: ours.
   */
  const char *cwd;
  /**
   * The name of the call and of its cgroup; NULL: one is made up.
   */
  const char *name;
  /**
   * What the program is told as its own name; NULL: as it was given.
   */
  const char *arg0;
  /**
   * Ends the call from another thread, also before it is started; NULL: nobody does. It may be
   * freed at any time.
   */
  const agentcg_canceller_t *canceller;
  /**
   * A file that remembers what commands took, for the hint `memory:auto`; it is made when it is
   * missing, and written when an outcome is given. NULL: none.
   */
  const char *history;
  /**
   * Supplementary groups; may be NULL with `nr_groups` 0: as we have them, none with `uid`.
   */
  const uint32_t *groups;
  /**
   * How many.
   */
  size_t nr_groups;
  /**
   * Resource limits; may be NULL with `nr_rlimits` 0.
   */
  const agentcg_rlimit_t *rlimits;
  /**
   * How many.
   */
  size_t nr_rlimits;
  /**
   * Descriptors that the call has as 3, 4, ..., in this order and whatever their numbers here; -1:
   * closed there. They stay the caller's. May be NULL with `nr_fds` 0.
   */
  const int32_t *fds;
  /**
   * How many.
   */
  size_t nr_fds;
  /**
   * Runs as this user; AGENTCG_UNSET_ID (the default): ours.
   */
  uint32_t uid;
  /**
   * Runs with this group; AGENTCG_UNSET_ID (the default): ours.
   */
  uint32_t gid;
  /**
   * The file mode creation mask; AGENTCG_UNSET_ID (the default): ours.
   */
  uint32_t umask;
  /**
   * `oom_score_adj` of its processes, -1000 to 1000; INT32_MIN (the default): ours plus 500.
   */
  int32_t oom_score_adj;
  /**
   * The environment is `env` alone. Default false.
   */
  bool env_clear;
  /**
   * The OOM killer takes the call as a whole, `memory.oom.group` (kernel 4.19). Default true.
   */
  bool oom_group;
  /**
   * Processes that the main process leaves behind live on in the session's cgroup `background`,
   * until the session ends. Default false: they are killed.
   */
  bool background;
  /**
   * Variables such as `OMP_NUM_THREADS` and `MAKEFLAGS` follow the limits, unless they are set
   * already. Default true.
   */
  bool budget;
  /**
   * In a POSIX session of its own, setsid(2). Default false.
   */
  bool new_session;
  /**
   * Passes on descriptors from 3 up that are not close-on-exec. Default false: `fds` only.
   */
  bool inherit_fds;
} agentcg_call_options_t;

/**
 * What a session or a tool call used, descendants included; AGENTCG_UNSET where the kernel does not
 * say it. Later versions may add members at the end.
 */
typedef struct {
  /**
   * The most memory at one time, page cache included, bytes (`memory.peak`, kernel 5.19).
   */
  uint64_t memory_peak_bytes;
  /**
   * Memory now, bytes; only of what still runs (`memory.current`).
   */
  uint64_t memory_current_bytes;
  /**
   * The most swap at one time, bytes (`memory.swap.peak`, kernel 6.5).
   */
  uint64_t swap_peak_bytes;
  /**
   * The largest resident set of one process of a call, bytes (wait4).
   */
  uint64_t max_rss_bytes;
  /**
   * CPU time in user mode, µs (`cpu.stat`).
   */
  uint64_t cpu_user_us;
  /**
   * CPU time in the kernel, µs.
   */
  uint64_t cpu_system_us;
  /**
   * Held back by its own `cpu.max`, summed over the CPUs, µs.
   */
  uint64_t cpu_throttled_us;
  /**
   * Time in which some task waited for a CPU, µs (`cpu.pressure`).
   */
  uint64_t cpu_stall_us;
  /**
   * Time in which some task waited for memory, µs (`memory.pressure`).
   */
  uint64_t memory_stall_us;
  /**
   * Time in which some task waited for I/O, µs (`io.pressure`).
   */
  uint64_t io_stall_us;
  /**
   * Read from block devices, bytes (`io.stat`).
   */
  uint64_t io_read_bytes;
  /**
   * Written to block devices, bytes.
   */
  uint64_t io_write_bytes;
  /**
   * The most processes and threads at one time (`pids.peak`, kernel 6.1).
   */
  uint64_t pids_peak;
  /**
   * How often it went over its own `memory.high` and was slowed for it (`memory.events`).
   */
  uint64_t memory_high_events;
  /**
   * Processes killed by an OOM killer, as the kernel counts them (`memory.events`): one that it chose
   * with `memory.oom.group` most often twice.
   */
  uint64_t oom_kills;
} agentcg_usage_t;

/**
 * What to report; filtered in the kernel. Fill it with `agentcg_event_filter_init`. The library
 * copies what it needs before it returns.
 */
typedef struct {
  /**
   * The size of the struct; `agentcg_event_filter_init` sets it.
   */
  size_t size;
  /**
   * An `agentcg_event_mode_t`.
   */
  uint32_t mode;
  /**
   * `agentcg_event_kind_t` bits. Default: all.
   */
  uint32_t kinds;
  /**
   * Command names to track, at most 15 bytes each; `python` also matches `python3` and
   * `python3.11`. May be NULL with `nr_commands` 0, as the other lists may; each has at most 256
   * entries.
   */
  const char *const *commands;
  /**
   * How many.
   */
  size_t nr_commands;
  /**
   * Processes to track.
   */
  const int32_t *pids;
  /**
   * How many.
   */
  size_t nr_pids;
  /**
   * Paths of cgroup v2 directories to track, with everything below them.
   */
  const char *const *cgroups;
  /**
   * How many.
   */
  size_t nr_cgroups;
  /**
   * Users to track.
   */
  const uint32_t *uids;
  /**
   * How many.
   */
  size_t nr_uids;
  /**
   * Processes to track, by what the path given to exec begins with, at most 251 bytes each.
   */
  const char *const *executables;
  /**
   * How many.
   */
  size_t nr_executables;
  /**
   * EXIT is left out for processes that lived less than this, ms. Default 0.
   */
  uint64_t min_duration_ms;
  /**
   * How long an event may wait for others before the descriptor becomes readable, ms, at most
   * 1000; 0: not at all, at many times the cost. Default 10.
   */
  uint64_t delay_ms;
  /**
   * Repeated opens of one path by a thread within this time become one event, ms. Default 100.
   */
  uint64_t open_window_ms;
  /**
   * FILE_OPEN events of one thread in a second; more are counted as dropped. Default 1000.
   */
  uint32_t open_rate;
  /**
   * Arguments of EXEC are cut beyond this many bytes, at most 1 MiB and a quarter of the buffer.
   * Default 16 KiB.
   */
  uint32_t args_bytes;
  /**
   * The size of the kernel's buffer in bytes, 4 KiB to 1 GiB, rounded up to a power of two.
   * Default 8 MiB.
   */
  uint32_t buffer_bytes;
} agentcg_event_filter_t;

/**
 * Something that a process did, or a loss of such reports. It and its strings, which are the
 * system's bytes, belong to the stream and live until the next call of `agentcg_events_next` on it.
 *
 * What a kind does not have is 0 or NULL. Later versions may add kinds, and members at the end.
 */
typedef struct {
  /**
   * An `agentcg_event_kind_t`; 0 for a kind that this version has no members for.
   */
  uint32_t kind;
  /**
   * The process (thread group).
   */
  int32_t pid;
  /**
   * The process that forked it, also when that is gone by now.
   */
  int32_t ppid;
  /**
   * The user.
   */
  uint32_t uid;
  /**
   * ns since boot, suspend included (`CLOCK_BOOTTIME`).
   */
  uint64_t timestamp;
  /**
   * The kernel's id of the cgroup.
   */
  uint64_t cgroup_id;
  /**
   * The command name, at most 15 bytes.
   */
  const char *comm;
  /**
   * The cgroup's path; NULL when it is older than the stream and gone.
   */
  const char *cgroup;
  /**
   * The session, or NULL.
   */
  const char *session;
  /**
   * The tool call, or NULL.
   */
  const char *tool_call;
  /**
   * EXEC: the path that was executed, as given.
   */
  const char *filename;
  /**
   * EXEC: the arguments, with a NULL after them.
   */
  const char *const *argv;
  /**
   * EXEC: how many.
   */
  size_t argc;
  /**
   * EXEC: there was more than fits.
   */
  bool argv_truncated;
  /**
   * EXIT: it dumped core.
   */
  bool core_dumped;
  /**
   * EXIT: the OOM killer chose it.
   */
  bool oom_killed;
  /**
   * EXIT: the exit code; -1 when a signal killed it.
   */
  int32_t exit_code;
  /**
   * EXIT: the signal that killed it, or 0.
   */
  int32_t signal;
  /**
   * FORK: the new process; `pid` is the parent.
   */
  int32_t child_pid;
  /**
   * EXIT: since it was forked, ms.
   */
  uint64_t duration_ms;
  /**
   * EXIT: CPU time in user mode, µs.
   */
  uint64_t cpu_user_us;
  /**
   * EXIT: CPU time in the kernel, µs.
   */
  uint64_t cpu_system_us;
  /**
   * EXIT: the largest resident set, bytes.
   */
  uint64_t memory_peak_bytes;
  /**
   * EXIT: read from block devices, bytes.
   */
  uint64_t read_bytes;
  /**
   * EXIT: written to block devices, bytes.
   */
  uint64_t write_bytes;
  /**
   * FILE_OPEN: the path, symbolic links followed; as given where the open failed or it is longer
   * than 255 bytes.
   */
  const char *filepath;
  /**
   * FILE_OPEN: the `O_*` flags.
   */
  uint32_t flags;
  /**
   * FILE_OPEN: the file descriptor, or minus the errno.
   */
  int32_t result;
  /**
   * FILE_OPEN: how many opens it stands for. DROPPED: how many events were lost.
   */
  uint64_t count;
  /**
   * BASH_READLINE: the line, at most 1023 bytes.
   */
  const char *command;
  /**
   * OOM_KILL: the cgroup whose `memory.max` was reached; NULL: the machine's memory was.
   */
  const char *limit_cgroup;
  /**
   * OOM_KILL: the kernel's id of that cgroup, or 0.
   */
  uint64_t limit_cgroup_id;
  /**
   * OOM_KILL: that `memory.max`, bytes, or AGENTCG_UNSET.
   */
  uint64_t limit_bytes;
  /**
   * DROPPED: why, as in the JSON: `ring_full`, `rate_limited`, ...
   */
  const char *reason;
} agentcg_event_t;

/**
 * Whom to protect against whom, and how. Fill it with `agentcg_memcg_options_init`, then set `high`.
 * The library copies what it needs before it returns.
 */
typedef struct {
  /**
   * The size of the struct; `agentcg_memcg_options_init` sets it.
   */
  size_t size;
  /**
   * Paths of the cgroups to protect; at least one.
   */
  const char *const *high;
  /**
   * How many.
   */
  size_t nr_high;
  /**
   * Paths of the cgroups to hold back while a high one stalls; may be NULL with `nr_low` 0.
   */
  const char *const *low;
  /**
   * How many.
   */
  size_t nr_low;
  /**
   * The longest delay of an allocation batch of a low one that has a quarter more than its part,
   * ms, at most 2000; less above the part in proportion, none below. 0 leaves them alone. Default
   * 50. The backend `cgroup` sets `memory.high`, and the kernel chooses the delay.
   */
  uint64_t delay_ms;
  /**
   * How long all is protected after the last stall, ms, 100 to 60000: then less, while others
   * press; up to 32 times longer while that is missed. Default 1000.
   */
  uint64_t window_ms;
  /**
   * So many page faults a second of a high one count as a stall while memory is short; needs
   * kernel 6.16. Default 0: faults do not count.
   */
  uint64_t threshold;
  /**
   * A cgroup that meets its `memory.high` for so long without progress is stuck, ms, at least
   * 5000. Default 10000.
   */
  uint64_t stuck_after_ms;
  /**
   * An `agentcg_memory_backend_t`. Default: the best.
   */
  uint32_t backend;
  /**
   * An `agentcg_stuck_action_t`: what is done then. Default: it is only told.
   */
  uint32_t when_stuck;
  /**
   * Protect with `memory.low`, which reclaim honours while it can. Default true.
   */
  bool below_low;
  /**
   * Protect with `memory.min`, which reclaim always honours, at the risk that others are killed.
   * Default false.
   */
  bool below_min;
  /**
   * Freeze low ones for 200 ms of each 600 when nothing else helps. Default true.
   */
  bool freeze;
} agentcg_memcg_options_t;

/**
 * The resource that ended or hampered a call. Its strings belong to the outcome. Later versions may
 * add members at the end.
 */
typedef struct {
  /**
   * The kernel file of the limit, `memory.max`, `pids.max`, ...; `timeout`; or `memory` for the
   * machine's.
   */
  const char *limit;
  /**
   * What the limit was, bytes; AGENTCG_UNSET for limits that are no sizes.
   */
  uint64_t limit_bytes;
  /**
   * What the limit was, where it is no size: processes, CPUs, ms for `timeout`; else negative.
   */
  double limit_value;
  /**
   * The cgroup whose limit it was, or NULL.
   */
  const char *cgroup;
  /**
   * The command name of the process that the OOM killer chose; NULL where the kernel did not say
   * it.
   */
  const char *victim_comm;
  /**
   * Its process id, or 0.
   */
  int32_t victim_pid;
  /**
   * An `agentcg_scope_t`: whose limit it was.
   */
  uint32_t scope;
  /**
   * An `agentcg_effect_t`.
   */
  uint32_t effect;
} agentcg_cause_t;

/**
 * Output that was kept: all, or the head and the tail. Later versions may add members at the end.
 */
typedef struct {
  /**
   * What was kept, any bytes, no NUL at the end. It belongs to the outcome.
   */
  const char *bytes;
  /**
   * How many.
   */
  size_t length;
  /**
   * Bytes written by the call in all.
   */
  uint64_t total;
  /**
   * Where bytes are missing: so many bytes into `bytes`; SIZE_MAX when nothing is.
   */
  size_t cut_at;
} agentcg_output_t;

/**
 * Takes a line of the log: its `agentcg_log_level_t`, and UTF-8 that is gone when the function
 * returns. It is called in any thread, also at once in several, and must neither call the library
 * nor unwind.
 */
typedef void (*agentcg_log_fn_t)(void *data, uint32_t level, const char *message);

/**
 * How to take a subtree. Fill it with `agentcg_runtime_options_init`. The library copies what it
 * needs before it returns.
 */
typedef struct {
  /**
   * The size of the struct; `agentcg_runtime_options_init` sets it.
   */
  size_t size;
  /**
   * The path of the cgroup below which the sessions are made; it is made if it is missing, in an
   * existing parent. NULL: `agentcg` below the cgroup v2 mount, or below our own cgroup where
   * that is all we may write to (a subtree that systemd delegated).
   */
  const char *root;
  /**
   * Takes what the runtime and all that it gives have to log; NULL: nobody. It is not called any
   * more when they are all freed.
   */
  agentcg_log_fn_t log;
  /**
   * Given to `log` as it is.
   */
  void *log_data;
  /**
   * The least grave `agentcg_log_level_t` that is logged. Default AGENTCG_LOG_INFO.
   */
  uint32_t log_level;
  /**
   * Several processes use the root at once: a session that is there already is joined, and the
   * last one out removes it. Default false.
   */
  bool shared;
  /**
   * Tool calls whose program was killed are moved out to the parent of the root when the next
   * runtime takes it, instead of being killed. Default false.
   */
  bool keep_orphans;
  /**
   * What the tool calls of all sessions may need together, by their limits; others wait. Bytes
   * of memory; AGENTCG_UNSET (the default): not bounded.
   */
  uint64_t capacity_memory;
  /**
   * As `capacity_memory`, in calls at the same time.
   */
  uint64_t capacity_calls;
  /**
   * As `capacity_memory`, in CPUs; 0 (the default): not bounded.
   */
  double capacity_cpus;
} agentcg_runtime_options_t;

/**
 * How to schedule. Fill it with `agentcg_scheduler_options_init`.
 */
typedef struct {
  /**
   * The size of the struct; `agentcg_scheduler_options_init` sets it.
   */
  size_t size;
  /**
   * How long a task runs before others are looked at: 100 to 1000000 µs, default 5000.
   */
  uint64_t slice_us;
  /**
   * An `agentcg_scheduler_scope_t`.
   */
  uint32_t scope;
} agentcg_scheduler_options_t;

/**
 * Priority and limits of a session. Fill it with `agentcg_session_options_init`. The library copies
 * what it needs before it returns.
 */
typedef struct {
  /**
   * The size of the struct; `agentcg_session_options_init` sets it.
   */
  size_t size;
  /**
   * Of the whole session; NULL: none.
   */
  const agentcg_limits_t *limits;
  /**
   * Of the cgroup `agent`, in which the harness lives beside its tool calls; NULL: none. Without
   * a `memory_low` it is unlimited: pressure inside the session takes from the calls first.
   */
  const agentcg_limits_t *agent_limits;
  /**
   * Of each tool call that does not say otherwise; NULL: none.
   */
  const agentcg_limits_t *call_limits;
  /**
   * What the calls of the session may need together, by their limits; others wait. Bytes of
   * memory; AGENTCG_UNSET (the default): not bounded.
   */
  uint64_t capacity_memory;
  /**
   * As `capacity_memory`, in calls at the same time.
   */
  uint64_t capacity_calls;
  /**
   * As `capacity_memory`, in CPUs; 0 (the default): not bounded.
   */
  double capacity_cpus;
  /**
   * What `memory:low` in a hint means, bytes. Default 512 MiB.
   */
  uint64_t hint_low;
  /**
   * What `memory:medium` means. Default 2 GiB.
   */
  uint64_t hint_medium;
  /**
   * What `memory:high` means. Default 8 GiB.
   */
  uint64_t hint_high;
  /**
   * The longest time that a hint may ask for, ms; AGENTCG_UNSET (the default): any.
   */
  uint64_t time_max_ms;
  /**
   * An `agentcg_priority_t`. Default AGENTCG_PRIORITY_NORMAL.
   */
  uint32_t priority;
} agentcg_session_options_t;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The version of the library, as in "0.1.0". Static: it must not be freed. Callable from any
 * thread.
 */
const char *agentcg_version(void);

/**
 * What this kernel and our privileges allow, found by trying: the JSON of `agentcg doctor --json`.
 * Needs no privileges and no runtime; takes some ms. Callable from any thread.
 *
 * `json_out` receives a string that the caller frees with `agentcg_string_free`.
 *
 * Errors: INVALID_INPUT for NULL.
 */
agentcg_error_t *agentcg_capabilities_json(char **json_out);

/**
 * Frees a string that a function of this library gave to the caller. NULL is fine.
 */
void agentcg_string_free(char *string);

/**
 * A canceller for one call, which the caller frees with `agentcg_canceller_free`. Callable from any
 * thread.
 */
agentcg_canceller_t *agentcg_canceller_new(void);

/**
 * Kills the call at once, or keeps it from being started; its verdict is `cancelled`. Nothing
 * happens to one that is over.
 *
 * Errors: those of writing `cgroup.kill`; INVALID_INPUT for NULL.
 */
agentcg_error_t *agentcg_canceller_cancel(const agentcg_canceller_t *canceller);

/**
 * Frees a canceller; its call goes on. NULL is fine.
 */
void agentcg_canceller_free(agentcg_canceller_t *canceller);

/**
 * Fills in the defaults. `size` is `sizeof` the struct. NULL is ignored.
 */
void agentcg_call_options_init(agentcg_call_options_t *options, size_t size);

/**
 * Runs a tool call and waits until it is over and its cgroup gone. Standard output and error are
 * captured unless `options` say otherwise. To end it meanwhile there is `canceller`.
 *
 * `argv` is the program and its arguments, ended by NULL; a name without a slash is looked for in
 * the `PATH` that the call will have. `options` NULL: the defaults. `out` receives the outcome,
 * which the caller frees with `agentcg_outcome_free`. A program that cannot be started is an outcome
 * with AGENTCG_VERDICT_SPAWN_FAILED, not an error.
 *
 * Errors, with nothing left behind: INVALID_INPUT for bad options; UNSUPPORTED for a limit whose
 * controller is missing; PERMISSION_DENIED; those of making a cgroup.
 */
agentcg_error_t *agentcg_session_run(const agentcg_session_t *session,
                                     const char *const *argv,
                                     const agentcg_call_options_t *options,
                                     agentcg_outcome_t **out);

/**
 * Starts a tool call. Standard input, output and error are ours unless `options` say otherwise.
 * Waits before only where there is a capacity.
 *
 * `argv` and `options` are as for `agentcg_session_run`. `out` receives the call, which the caller
 * frees with `agentcg_call_free`; that kills it. A program that cannot be started is a call that
 * is over at once.
 *
 * Errors: as of `agentcg_session_run`.
 */
agentcg_error_t *agentcg_session_spawn(const agentcg_session_t *session,
                                       const char *const *argv,
                                       const agentcg_call_options_t *options,
                                       agentcg_call_t **out);

/**
 * Starts once more, with twice the memory, a call that the OOM killer ended at its own `memory.max`:
 * as `agentcg_retry_t` in `options` says, and as far as the session allows it.
 *
 * `argv` and `options` are those of the first call, and `first` is its outcome, which the outcome of
 * the new one has in its JSON as `retries`. `out` receives the call, as of `agentcg_session_spawn`,
 * or NULL when it is not to be tried again.
 *
 * Errors: as of `agentcg_session_run`; INVALID_INPUT for NULL in place of `first`.
 */
agentcg_error_t *agentcg_session_respawn(const agentcg_session_t *session,
                                         const char *const *argv,
                                         const agentcg_call_options_t *options,
                                         const agentcg_outcome_t *first,
                                         agentcg_call_t **out);

/**
 * The main process; -1 when it could not be started, and for NULL.
 */
int32_t agentcg_call_pid(const agentcg_call_t *call);

/**
 * The call's name, that of its cgroup. It belongs to the call and lives as long as that. NULL for
 * NULL.
 */
const char *agentcg_call_name(const agentcg_call_t *call);

/**
 * The path of the call's cgroup directory, `ROOT/SESSION/calls/NAME`, which is gone when it is over.
 * It belongs to the call and lives as long as that. NULL for NULL.
 */
const char *agentcg_call_path(const agentcg_call_t *call);

/**
 * Gives away our end of the pipe on standard input (`fd` 0), output (1) or error (2), for
 * AGENTCG_STDIO_PIPE: the caller closes it. What is not taken is closed when the outcome is given.
 * -1 when there is none, it was given already, and for NULL.
 */
int32_t agentcg_call_take_pipe(const agentcg_call_t *call, int32_t fd);

/**
 * A descriptor for poll(2) or an event loop that is readable when the call is over; then
 * `agentcg_call_wait` gives its outcome at once.
 *
 * `fd_out` receives the descriptor. It belongs to the call: do not read from it, do not close it.
 *
 * Errors: OS when there are too many descriptors; NOT_FOUND when the outcome was given before;
 * INVALID_INPUT for NULL.
 */
agentcg_error_t *agentcg_call_fd(const agentcg_call_t *call, int32_t *fd_out);

/**
 * Waits until the call is over and its cgroup gone, at most `timeout_ms`, for ever with -1, not at
 * all with 0; signals do not end the wait. Standard input is closed first, if our end was not taken
 * and the wait is for ever.
 *
 * `out` receives NULL when the time is over, or the outcome, which the caller frees with
 * `agentcg_outcome_free`. It is given once.
 *
 * Errors: NOT_FOUND when it was given before; INVALID_INPUT for NULL, and in a forked child.
 */
agentcg_error_t *agentcg_call_wait(const agentcg_call_t *call,
                                   int64_t timeout_ms,
                                   agentcg_outcome_t **out);

/**
 * What the call has used so far, or in all when it is over, into the caller's struct; `size` is
 * `sizeof` that. What the kernel did not give is AGENTCG_UNSET; `agentcg_call_usage_json` has the
 * reasons.
 *
 * Errors: INVALID_INPUT for NULL.
 */
agentcg_error_t *agentcg_call_usage(const agentcg_call_t *call,
                                    agentcg_usage_t *usage_out,
                                    size_t size);

/**
 * The same as a JSON object, as of `agentcg_session_usage_json`.
 *
 * `json_out` receives a string that the caller frees with `agentcg_string_free`.
 *
 * Errors: INVALID_INPUT for NULL.
 */
agentcg_error_t *agentcg_call_usage_json(const agentcg_call_t *call, char **json_out);

/**
 * Ends the call: SIGTERM to all its processes, `cgroup.kill` after the grace. Its verdict is
 * `cancelled`. Nothing happens to one that is over.
 *
 * Errors: INVALID_INPUT for NULL.
 */
agentcg_error_t *agentcg_call_cancel(const agentcg_call_t *call);

/**
 * Kills all processes of the call at once. Its verdict is `cancelled`. Nothing happens to one that
 * is over.
 *
 * Errors: INVALID_INPUT for NULL.
 */
agentcg_error_t *agentcg_call_kill(const agentcg_call_t *call);

/**
 * Sends a signal to the main process, and leaves it at that. Nothing happens when that has ended.
 *
 * Errors: INVALID_INPUT for a number that is no signal, and for NULL.
 */
agentcg_error_t *agentcg_call_signal(const agentcg_call_t *call, int32_t signal);

/**
 * Stops all processes of the call where they are (`cgroup.freeze`, kernel 5.2), or lets them go on.
 *
 * Errors: NOT_FOUND when the call is over; INVALID_INPUT for NULL.
 */
agentcg_error_t *agentcg_call_freeze(const agentcg_call_t *call, bool frozen);

/**
 * Frees a call; it is killed when it is not over. NULL is fine.
 */
void agentcg_call_free(agentcg_call_t *call);

/**
 * The class of an error; `AGENTCG_OK` for NULL.
 */
agentcg_error_code_t agentcg_error_code(const agentcg_error_t *error);

/**
 * The kernel's errno; 0 when the kernel was not asked, and for NULL.
 */
int32_t agentcg_error_errno(const agentcg_error_t *error);

/**
 * What happened, where, and the way out where there is one: one line of UTF-8. It belongs to the
 * error and lives as long as that. Empty for NULL.
 */
const char *agentcg_error_message(const agentcg_error_t *error);

/**
 * The kernel file, cgroup or program that the failure is about. It belongs to the error and lives
 * as long as that. NULL where there is none, and for NULL.
 */
const char *agentcg_error_path(const agentcg_error_t *error);

/**
 * The way out, which is part of the message too. It belongs to the error and lives as long as that.
 * NULL where there is none, and for NULL.
 */
const char *agentcg_error_help(const agentcg_error_t *error);

/**
 * Frees an error. NULL is fine.
 */
void agentcg_error_free(agentcg_error_t *error);

/**
 * Fills in the defaults: all kinds of events of all processes. `size` is `sizeof` the struct. NULL
 * is ignored.
 */
void agentcg_event_filter_init(agentcg_event_filter_t *filter, size_t size);

/**
 * Attaches the probes that a filter needs. Needs root, or CAP_BPF and CAP_PERFMON, and a kernel
 * with BTF.
 *
 * `filter` NULL: the defaults. `out` receives the stream, which the caller frees with
 * `agentcg_events_free`.
 *
 * Errors: INVALID_INPUT for a filter that cannot be; NOT_FOUND for a cgroup or pid that does not
 * exist; BUSY at the 17th stream of the process; PERMISSION_DENIED; BPF.
 */
agentcg_error_t *agentcg_subscribe(const agentcg_runtime_t *runtime,
                                   const agentcg_event_filter_t *filter,
                                   agentcg_events_t **out);

/**
 * What the filter asks for and this kernel cannot give (FILE_OPEN without tracefs), as a JSON array
 * of `{"what", "error"}`; everything else is delivered.
 *
 * `json_out` receives a string that the caller frees with `agentcg_string_free`.
 *
 * Errors: INVALID_INPUT for NULL.
 */
agentcg_error_t *agentcg_events_missing_json(agentcg_events_t *events, char **json_out);

/**
 * What was delivered and lost so far, as JSON: `received`, `ring_full`, `rate_limited`,
 * `read_fault`, `map_full`, `recursion`.
 *
 * `json_out` receives a string that the caller frees with `agentcg_string_free`.
 *
 * Errors: BPF when the kernel's counters cannot be read; INVALID_INPUT for NULL.
 */
agentcg_error_t *agentcg_events_stats_json(agentcg_events_t *events, char **json_out);

/**
 * A descriptor for poll(2) or an event loop that is readable when events wait. Then call
 * `agentcg_events_next` with a time-out of 0 until it gives NULL: events that were taken from the
 * kernel already do not show here. It belongs to the stream: do not read from it, do not close it.
 * -1 for NULL.
 */
int32_t agentcg_events_fd(const agentcg_events_t *events);

/**
 * The next event; lost ones are reported as AGENTCG_EVENT_DROPPED. Waits at most `timeout_ms`, for
 * ever with -1, not at all with 0; signals do not end the wait.
 *
 * `out` receives NULL when the time is over, or the event, which belongs to the stream and lives
 * until the next call of this function, or until the stream is freed.
 *
 * Errors: BPF or OS when the kernel's buffer cannot be read; INVALID_INPUT for NULL.
 */
agentcg_error_t *agentcg_events_next(agentcg_events_t *events,
                                     int64_t timeout_ms,
                                     const agentcg_event_t **out);

/**
 * The event that `agentcg_events_next` gave last, as one line of JSON described by
 * `docs/events.schema.json`.
 *
 * `json_out` receives a string that the caller frees with `agentcg_string_free`; NULL before the
 * first event.
 *
 * Errors: INVALID_INPUT for NULL.
 */
agentcg_error_t *agentcg_events_json(const agentcg_events_t *events, char **json_out);

/**
 * Detaches the probes. NULL is fine.
 */
void agentcg_events_free(agentcg_events_t *events);

/**
 * The sessions below a runtime's root with their calls, whoever made them, as a JSON array: for each
 * session `name`, `path`, `frozen`, `processes`, `background`, `usage` and `calls`, for each of these
 * `name`, `session`, `path`, `command`, `owner`, `owner_alive`, `started_ms` (since 1970), `frozen`,
 * `processes`, `usage`. Empty when there is no such cgroup. Nothing is locked or changed, and no
 * runtime is needed: what is said may be over a moment later. Callable from any thread.
 *
 * `root` is the path of the cgroup, as of `agentcg_runtime_path`. `json_out` receives a string that
 * the caller frees with `agentcg_string_free`.
 *
 * Errors: INVALID_INPUT when it is no cgroup, and for NULL; those of reading it.
 */
agentcg_error_t *agentcg_inspect_json(const char *root,
                                      char **json_out);

/**
 * Fills in the defaults: nothing is limited. `size` is `sizeof` the struct. NULL is ignored.
 */
void agentcg_limits_init(agentcg_limits_t *limits, size_t size);

/**
 * Reads a size as people write it, `512M`, `1.5G`, `4096`, into bytes; `max` is
 * AGENTCG_UNLIMITED. K, M and G are powers of 1024. Callable from any thread.
 *
 * Errors: INVALID_INPUT for another text, naming it, and for NULL.
 */
agentcg_error_t *agentcg_parse_limit(const char *text, uint64_t *bytes_out);

/**
 * Fills in the defaults, with nobody to protect. `size` is `sizeof` the struct. NULL is ignored.
 */
void agentcg_memcg_options_init(agentcg_memcg_options_t *options, size_t size);

/**
 * Starts to protect the memory of some cgroups against others, while they stall for it. Needs the
 * memory controller and PSI. While the runtime's scheduler is attached, low ones that do not let the
 * high ones be are held back on the CPU too.
 *
 * `out` receives the protection, which the caller frees with `agentcg_memory_free`.
 *
 * Errors: INVALID_INPUT for overlapping cgroups, bad options and what is no cgroup; NOT_FOUND;
 * UNSUPPORTED without memory controller, PSI, the backend, or what a threshold needs; BUSY when one of the cgroups is
 * protected already; PERMISSION_DENIED.
 */
agentcg_error_t *agentcg_attach_memcg_ops(const agentcg_runtime_t *runtime,
                                          const agentcg_memcg_options_t *options,
                                          agentcg_memory_t **out);

/**
 * The name of the mechanism in use: `memcg_bpf_ops` or `cgroup`. Static: it must not be freed. NULL
 * for NULL.
 */
const char *agentcg_memory_backend(const agentcg_memory_t *memory);

/**
 * Takes one more cgroup up, in an `agentcg_memory_role_t`. One that is removed later is taken up
 * again when it comes back.
 *
 * Errors: those of `agentcg_attach_memcg_ops` for this cgroup.
 */
agentcg_error_t *agentcg_memory_add(const agentcg_memory_t *memory,
                                    const char *cgroup,
                                    uint32_t role);

/**
 * Lets go of a cgroup; what was changed in it is put back.
 *
 * Errors: NOT_FOUND when the protection does not have it.
 */
agentcg_error_t *agentcg_memory_remove(const agentcg_memory_t *memory, const char *cgroup);

/**
 * What the protection has done so far, as JSON: `backend`, `sees_reclaim`, `active`, `stalls`,
 * `ignored`, `windows`, `protected_ms`, `sessions` (by cgroup), `stuck`, `recent` (the last windows);
 * docs/memory.md says what each is.
 *
 * `json_out` receives a string that the caller frees with `agentcg_string_free`.
 *
 * Errors: INVALID_INPUT for NULL.
 */
agentcg_error_t *agentcg_memory_stats_json(const agentcg_memory_t *memory,
                                           char **json_out);

/**
 * Ends the protection and puts back every value that it changed. NULL is fine.
 */
void agentcg_memory_free(agentcg_memory_t *memory);

/**
 * What the call came to. AGENTCG_VERDICT_UNKNOWN for NULL.
 */
agentcg_verdict_t agentcg_outcome_verdict(const agentcg_outcome_t *outcome);

/**
 * The name of a verdict as the JSON has it, `oom_killed`; `unknown` for a number that is none.
 * Static: it must not be freed. Callable from any thread.
 */
const char *agentcg_verdict_name(uint32_t verdict);

/**
 * The exit status of the main process; -1 when a signal ended it, it was never started, or its
 * status is not known, and for NULL.
 */
int32_t agentcg_outcome_exit_code(const agentcg_outcome_t *outcome);

/**
 * The signal that ended the main process, or 0.
 */
int32_t agentcg_outcome_signal(const agentcg_outcome_t *outcome);

/**
 * The status that a shell would show: that of the command, 128 + n for signal n, 127 for a program
 * that was not found, 126 for one that cannot be executed; -1 when it is not known, and for NULL.
 */
int32_t agentcg_outcome_shell_status(const agentcg_outcome_t *outcome);

/**
 * From the start until the main process had ended, µs. 0 for NULL.
 */
uint64_t agentcg_outcome_duration_us(const agentcg_outcome_t *outcome);

/**
 * The wait for admission before the start, µs. 0 for NULL.
 */
uint64_t agentcg_outcome_queued_us(const agentcg_outcome_t *outcome);

/**
 * What an agent should do about it, in words; empty when there is nothing to say. It belongs to the
 * outcome and lives as long as that. NULL for NULL.
 */
const char *agentcg_outcome_advice(const agentcg_outcome_t *outcome);

/**
 * Why the program was never started (AGENTCG_VERDICT_SPAWN_FAILED): NOT_FOUND,
 * PERMISSION_DENIED, ... It belongs to the outcome: do not free it. NULL when it was started.
 */
const agentcg_error_t *agentcg_outcome_error(const agentcg_outcome_t *outcome);

/**
 * What the call used, into the caller's struct; `size` is `sizeof` that. What the kernel did not
 * give is AGENTCG_UNSET; the JSON has the reasons. For NULL nothing is written.
 */
void agentcg_outcome_usage(const agentcg_outcome_t *outcome,
                           agentcg_usage_t *usage_out,
                           size_t size);

/**
 * The resource behind the verdict, or that hampered the call, into the caller's struct; `size` is
 * `sizeof` that. False, and nothing is written, when there is none, and for NULL.
 */
bool agentcg_outcome_cause(const agentcg_outcome_t *outcome,
                           agentcg_cause_t *cause_out,
                           size_t size);

/**
 * Standard output (`fd` 1) or error (2) that was captured, into the caller's struct; `size` is
 * `sizeof` that. False, and nothing is written, when it was not captured, and for NULL.
 */
bool agentcg_outcome_output(const agentcg_outcome_t *outcome,
                            int32_t fd,
                            agentcg_output_t *output_out,
                            size_t size);

/**
 * The outcome as JSON on one line, as `agentcg run --report` writes it, described by
 * `docs/outcome.schema.json`; without the captured output. It belongs to the outcome and lives as
 * long as that. NULL for NULL.
 */
const char *agentcg_outcome_json(const agentcg_outcome_t *outcome);

/**
 * Frees an outcome. NULL is fine.
 */
void agentcg_outcome_free(agentcg_outcome_t *outcome);

/**
 * Fills in the defaults. `size` is `sizeof` the struct. NULL is ignored.
 */
void agentcg_runtime_options_init(agentcg_runtime_options_t *options, size_t size);

/**
 * Takes a subtree. It needs root, or a subtree that was delegated to the user.
 *
 * `options` NULL: the defaults. `out` receives the runtime, which the caller frees with
 * `agentcg_runtime_free`. Callable from any thread.
 *
 * Errors: UNSUPPORTED without cgroup v2; INVALID_INPUT when the parent is no cgroup;
 * PERMISSION_DENIED; BUSY when another runtime holds the root.
 */
agentcg_error_t *agentcg_runtime_new(const agentcg_runtime_options_t *options,
                                     agentcg_runtime_t **out);

/**
 * The path of the root cgroup's directory. It belongs to the runtime and lives as long as that.
 * NULL for NULL.
 */
const char *agentcg_runtime_path(const agentcg_runtime_t *runtime);

/**
 * Frees a runtime. NULL is fine. Its sessions, schedulers, memory protections and event streams go
 * on until they are freed themselves.
 */
void agentcg_runtime_free(agentcg_runtime_t *runtime);

/**
 * Moves a process with all its threads into a session (`cgroup.procs`); its later children are born
 * there. Once the session has tool calls, it goes to the cgroup `agent` beside them.
 *
 * Errors: NOT_FOUND when the process is gone; PERMISSION_DENIED; INVALID_INPUT for NULL.
 */
agentcg_error_t *agentcg_move_pid(const agentcg_runtime_t *runtime,
                                  int32_t pid,
                                  const agentcg_session_t *session);

/**
 * Fills in the defaults: a slice of 5 ms, all tasks. `size` is `sizeof` the struct. NULL is
 * ignored.
 */
void agentcg_scheduler_options_init(agentcg_scheduler_options_t *options, size_t size);

/**
 * Attaches a CPU scheduler that shares the CPU by `cpu.weight`. Needs root and a kernel with
 * sched_ext (6.16). There can be one on a machine (`/sys/kernel/sched_ext/state`).
 *
 * `options` NULL: the defaults. `out` receives the scheduler, which the caller frees with
 * `agentcg_scheduler_free`.
 *
 * Errors: UNSUPPORTED without sched_ext; BUSY when another scheduler is attached, naming it;
 * INVALID_INPUT for a bad slice or scope; PERMISSION_DENIED; BPF.
 */
agentcg_error_t *agentcg_start_scheduler(const agentcg_runtime_t *runtime,
                                         const agentcg_scheduler_options_t *options,
                                         agentcg_scheduler_t **out);

/**
 * Why the kernel detached the scheduler, as JSON (`kind`, `code`, `reason`, `message`, `dump`), or
 * NULL while it is attached.
 *
 * `json_out` receives NULL or a string that the caller frees with `agentcg_string_free`.
 *
 * Errors: INVALID_INPUT for NULL.
 */
agentcg_error_t *agentcg_scheduler_exited(agentcg_scheduler_t *scheduler, char **json_out);

/**
 * Counters since it was attached, as JSON: `direct` (wake-ups straight to an idle CPU), `queued`,
 * `kept` (times a task ran on because nobody stood before it), `displaced` (times a CPU had to
 * choose again because another had put back a task that came first).
 *
 * `json_out` receives a string that the caller frees with `agentcg_string_free`.
 *
 * Errors: INVALID_INPUT for NULL.
 */
agentcg_error_t *agentcg_scheduler_stats_json(agentcg_scheduler_t *scheduler, char **json_out);

/**
 * A descriptor for poll(2) that becomes readable when the kernel detaches the scheduler. It belongs
 * to the scheduler: do not read from it, do not close it. -1 for NULL.
 */
int32_t agentcg_scheduler_fd(const agentcg_scheduler_t *scheduler);

/**
 * Detaches the scheduler; the kernel's own takes over. NULL is fine.
 */
void agentcg_scheduler_free(agentcg_scheduler_t *scheduler);

/**
 * Fills in the defaults: priority normal, nothing limited. `size` is `sizeof` the struct. NULL is
 * ignored.
 */
void agentcg_session_options_init(agentcg_session_options_t *options, size_t size);

/**
 * Makes a session: the cgroup `name` below the runtime's root.
 *
 * `name` is one path component in UTF-8, at most 128 bytes, not starting with a dot and without
 * the prefix of a kernel file (`memory.`). `options` NULL: the defaults. `out` receives the
 * session, which the caller frees with `agentcg_session_free`.
 *
 * Errors, with nothing left behind: INVALID_INPUT for a bad name or limit; ALREADY_EXISTS;
 * UNSUPPORTED for a limit whose controller the root does not have; PERMISSION_DENIED.
 */
agentcg_error_t *agentcg_session_open(const agentcg_runtime_t *runtime,
                                      const char *name,
                                      const agentcg_session_options_t *options,
                                      agentcg_session_t **out);

/**
 * The session's name. It belongs to the session and lives as long as that. NULL for NULL.
 */
const char *agentcg_session_name(const agentcg_session_t *session);

/**
 * The path of the session's cgroup directory. It belongs to the session and lives as long as that.
 * NULL for NULL.
 */
const char *agentcg_session_path(const agentcg_session_t *session);

/**
 * Changes limits while the session runs; what is unset stays as it is.
 *
 * Errors: INVALID_INPUT; UNSUPPORTED for a limit whose controller the root does not have.
 */
agentcg_error_t *agentcg_session_set_limits(const agentcg_session_t *session,
                                            const agentcg_limits_t *limits);

/**
 * Moves the harness itself into the session's cgroup `agent`, and makes it the last that the OOM
 * killer takes: its `oom_score_adj` is lowered by 500 until the session ends (needs
 * CAP_SYS_RESOURCE; without it the score stays).
 *
 * Errors: NOT_FOUND when the process is gone; PERMISSION_DENIED; INVALID_INPUT for NULL.
 */
agentcg_error_t *agentcg_session_move_agent(const agentcg_session_t *session, int32_t pid);

/**
 * What the session and its calls have used so far, into the caller's struct; `size` is `sizeof`
 * that. What the kernel did not give is AGENTCG_UNSET; `agentcg_session_usage_json` has the
 * reasons.
 *
 * Errors: NOT_FOUND when the cgroup is gone; INVALID_INPUT for NULL.
 */
agentcg_error_t *agentcg_session_usage(const agentcg_session_t *session,
                                       agentcg_usage_t *usage_out,
                                       size_t size);

/**
 * What the session has used so far, as a JSON object with the names of `agentcg_usage_t`. What the
 * kernel did not give, as without the memory controller, is left out, and named with the reason in
 * `unavailable`.
 *
 * `json_out` receives a string that the caller frees with `agentcg_string_free`.
 *
 * Errors: NOT_FOUND when the cgroup is gone; INVALID_INPUT for NULL.
 */
agentcg_error_t *agentcg_session_usage_json(const agentcg_session_t *session, char **json_out);

/**
 * Stops all processes of the session where they are, tool calls included (`cgroup.freeze`, kernel
 * 5.2), or lets them go on. Do not freeze the session that you are in.
 *
 * Errors: NOT_FOUND when the cgroup is gone; INVALID_INPUT for NULL.
 */
agentcg_error_t *agentcg_session_freeze(const agentcg_session_t *session, bool frozen);

/**
 * Kills the tool calls of the session, all of them, with the verdict `cancelled`, and what they
 * left in the background. The harness lives.
 *
 * Errors: NOT_FOUND when the cgroup is gone; INVALID_INPUT for NULL.
 */
agentcg_error_t *agentcg_session_kill_calls(const agentcg_session_t *session);

/**
 * Kills every process of the session, the harness included (`cgroup.kill`, kernel 5.14). Do not
 * kill the session that you are in.
 *
 * Errors: NOT_FOUND when the cgroup is gone; INVALID_INPUT for NULL.
 */
agentcg_error_t *agentcg_session_kill(const agentcg_session_t *session);

/**
 * Ends a session: tool calls that run are killed, other processes that are left are moved back to
 * where they came from, and the cgroup is removed. NULL is fine.
 */
void agentcg_session_free(agentcg_session_t *session);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* AGENTCG_H */
