/*
 * agentcg: control and measure what AI agents' tool calls take from a Linux machine.
 *
 * - A function that can fail returns NULL for success, or an error that the caller frees.
 * - What a function gives through a pointer to a pointer belongs to the caller, and is NULL after
 *   an error.
 * - Handles are freed with their own function, which accepts NULL, in any order; nobody may use
 *   them at that time or later. Freeing one undoes what it did.
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
 * A limit that is left as the kernel has it.
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
} agentcg_event_kind_t;

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
 * What to report; filtered in the kernel. Fill it with `agentcg_event_filter_init`. The library
 * copies what it needs before it returns. It may change with the SONAME.
 */
typedef struct {
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
 * Whom to protect against whom, and how. Fill it with `agentcg_memcg_config_init`, then set `high`.
 * The library copies what it needs before it returns. It may change with the SONAME.
 */
typedef struct {
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
   * How long an allocation of a low one may be delayed, ms, at most 2000; 0 leaves them alone.
   * Default 50. The backend `cgroup` sets `memory.high`, and the kernel chooses the delay.
   */
  uint64_t delay_ms;
  /**
   * How long protection lasts after the last stall, ms, 100 to 60000. Default 1000.
   */
  uint64_t window_ms;
  /**
   * A stall counts only with at least this many major faults and refaults since the last one.
   * Default 0: every stall counts.
   */
  uint64_t threshold;
  /**
   * An `agentcg_memory_backend_t`. Default: the best.
   */
  uint32_t backend;
  /**
   * Protect with `memory.low`, which reclaim honours while it can. Default true.
   */
  bool below_low;
  /**
   * Protect with `memory.min`, which reclaim always honours, at the risk that others are killed.
   * Default false.
   */
  bool below_min;
} agentcg_memcg_config_t;

/**
 * How to schedule. Fill it with `agentcg_scheduler_config_init`. It may change with the SONAME.
 */
typedef struct {
  /**
   * How long a task runs before others are looked at: 100 to 1000000 µs, default 5000.
   */
  uint64_t slice_us;
  /**
   * An `agentcg_scheduler_scope_t`.
   */
  uint32_t scope;
} agentcg_scheduler_config_t;

/**
 * Priority and limits of a session. Fill it with `agentcg_session_config_init`, then set what you
 * want: 0 is a limit too. It may change with the SONAME.
 */
typedef struct {
  /**
   * An `agentcg_priority_t`.
   */
  uint32_t priority;
  /**
   * `cpu.weight`, 1 to 10000; 0 (unset): that of the priority.
   */
  uint32_t cpu_weight;
  /**
   * CPUs' worth of time (`cpu.max`), as in 1.5; 0 (unset): no limit.
   */
  double cpu_max;
  /**
   * `memory.low` in bytes, AGENTCG_UNLIMITED or AGENTCG_UNSET; so are the next three.
   */
  uint64_t memory_low;
  /**
   * `memory.high`.
   */
  uint64_t memory_high;
  /**
   * `memory.max`.
   */
  uint64_t memory_max;
  /**
   * `memory.swap.max`.
   */
  uint64_t swap_max;
  /**
   * `pids.max`: processes and threads, AGENTCG_UNLIMITED or AGENTCG_UNSET.
   */
  uint64_t pids_max;
} agentcg_session_config_t;

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
 * Frees an error. NULL is fine.
 */
void agentcg_error_free(agentcg_error_t *error);

/**
 * Fills in the defaults: all kinds of events of all processes. NULL is ignored.
 */
void agentcg_event_filter_init(agentcg_event_filter_t *filter);

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
 * The next event as one line of JSON with the kind in `event`; lost events are reported as
 * `DROPPED`. Waits at most `timeout_ms`, for ever with -1, not at all with 0; signals do not end
 * the wait.
 *
 * `json_out` receives NULL when the time is over, or a string that the caller frees with
 * `agentcg_string_free`.
 *
 * Errors: BPF or OS when the kernel's buffer cannot be read; INVALID_INPUT for NULL.
 */
agentcg_error_t *agentcg_events_next(agentcg_events_t *events, int64_t timeout_ms, char **json_out);

/**
 * Detaches the probes. NULL is fine.
 */
void agentcg_events_free(agentcg_events_t *events);

/**
 * Fills in the defaults, with nobody to protect. NULL is ignored.
 */
void agentcg_memcg_config_init(agentcg_memcg_config_t *config);

/**
 * Starts to protect the memory of some cgroups against others, while they stall for it
 * (`memory.pressure`). Needs the memory controller and PSI.
 *
 * `out` receives the protection, which the caller frees with `agentcg_memory_free`.
 *
 * Errors: INVALID_INPUT for overlapping cgroups, bad options and what is no cgroup; NOT_FOUND;
 * UNSUPPORTED without memory controller, PSI or the backend; BUSY when one of the cgroups is
 * protected already; PERMISSION_DENIED.
 */
agentcg_error_t *agentcg_attach_memcg_ops(const agentcg_runtime_t *runtime,
                                          const agentcg_memcg_config_t *config,
                                          agentcg_memory_t **out);

/**
 * What the protection has done so far, as JSON: `active`, `stalls`, `ignored`, `windows`,
 * `protected_ms`, `recent` (the last windows).
 *
 * `json_out` receives a string that the caller frees with `agentcg_string_free`.
 *
 * Errors: INVALID_INPUT for NULL.
 */
agentcg_error_t *agentcg_memory_stats_json(const agentcg_memory_t *memory, char **json_out);

/**
 * Ends the protection and puts back every value that it changed. NULL is fine.
 */
void agentcg_memory_free(agentcg_memory_t *memory);

/**
 * Takes a subtree. It needs root, or a subtree that was delegated to the user.
 *
 * `root` is the path of the cgroup below which the sessions are made; it is made if it is missing,
 * in an existing parent. NULL: `agentcg` below the cgroup v2 mount. `out` receives the runtime,
 * which the caller frees with `agentcg_runtime_free`. Callable from any thread.
 *
 * Errors: UNSUPPORTED without cgroup v2; INVALID_INPUT when the parent is no cgroup;
 * PERMISSION_DENIED; BUSY when another runtime holds the root.
 */
agentcg_error_t *agentcg_runtime_new(const char *root, agentcg_runtime_t **out);

/**
 * Frees a runtime. NULL is fine. Its sessions, schedulers, memory protections and event streams go
 * on until they are freed themselves.
 */
void agentcg_runtime_free(agentcg_runtime_t *runtime);

/**
 * Moves a process with all its threads into a session (`cgroup.procs`); its later children are born
 * there.
 *
 * Errors: NOT_FOUND when the process is gone; PERMISSION_DENIED; INVALID_INPUT for NULL.
 */
agentcg_error_t *agentcg_move_pid(const agentcg_runtime_t *runtime,
                                  int32_t pid,
                                  const agentcg_session_t *session);

/**
 * Fills in the defaults: a slice of 5 ms, all tasks. NULL is ignored.
 */
void agentcg_scheduler_config_init(agentcg_scheduler_config_t *config);

/**
 * Attaches a CPU scheduler that shares the CPU by `cpu.weight`. Needs root and a kernel with
 * sched_ext (6.16). There can be one on a machine (`/sys/kernel/sched_ext/state`).
 *
 * `config` NULL: the defaults. `out` receives the scheduler, which the caller frees with
 * `agentcg_scheduler_free`.
 *
 * Errors: UNSUPPORTED without sched_ext; BUSY when another scheduler is attached, naming it;
 * INVALID_INPUT for a bad slice or scope; PERMISSION_DENIED; BPF.
 */
agentcg_error_t *agentcg_start_scheduler(const agentcg_runtime_t *runtime,
                                         const agentcg_scheduler_config_t *config,
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
 * Fills in the defaults: priority normal, nothing limited. NULL is ignored.
 */
void agentcg_session_config_init(agentcg_session_config_t *config);

/**
 * Makes a session: the cgroup `name` below the runtime's root.
 *
 * `name` is one path component in UTF-8, at most 128 bytes, not starting with a dot and without
 * the prefix of a kernel file (`memory.`). `config` NULL: the defaults. `out` receives the session,
 * which the caller frees with `agentcg_session_free`.
 *
 * Errors, with nothing left behind: INVALID_INPUT for a bad name or limit; ALREADY_EXISTS;
 * UNSUPPORTED for a limit whose controller the root does not have; PERMISSION_DENIED.
 */
agentcg_error_t *agentcg_session_open(const agentcg_runtime_t *runtime,
                                      const char *name,
                                      const agentcg_session_config_t *config,
                                      agentcg_session_t **out);

/**
 * The path of the session's cgroup directory. It belongs to the session and lives as long as that.
 * NULL for NULL.
 */
const char *agentcg_session_path(const agentcg_session_t *session);

/**
 * What the session has used so far, as a JSON object: `cpu_user_us`, `cpu_system_us`,
 * `cpu_throttled_us`, `memory_current_bytes`, `memory_peak_bytes`, `swap_peak_bytes`,
 * `memory_stall_us`, `cpu_stall_us`, `io_stall_us`, `io_read_bytes`, `io_write_bytes`, `pids_peak`,
 * `memory_high_events`, `oom_kills`. What the kernel did not give, as without the memory
 * controller, is left out, and named with the reason in `unavailable`.
 *
 * `json_out` receives a string that the caller frees with `agentcg_string_free`.
 *
 * Errors: NOT_FOUND when the cgroup is gone; INVALID_INPUT for NULL.
 */
agentcg_error_t *agentcg_session_usage_json(const agentcg_session_t *session, char **json_out);

/**
 * Ends a session: processes that are left are moved back to where they came from, and the cgroup
 * is removed. NULL is fine.
 */
void agentcg_session_free(agentcg_session_t *session);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* AGENTCG_H */
