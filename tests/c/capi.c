/* Runtimes, sessions, the scheduler, memory protection and events: capi ROOT, with a cgroup that
 * may be made. Needs root. */

#include "check.h"
#include <errno.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

static void sessions(agentcg_runtime_t *runtime, const char *root)
{
	agentcg_session_options_t options;
	agentcg_limits_t limits;
	agentcg_session_t *session, *other;
	agentcg_usage_t usage;
	char path[4096], *json;

	FAILS(agentcg_session_open(runtime, "a/b", NULL, &session), INVALID_INPUT, "a/b");
	FAILS(agentcg_session_open(runtime, "\xff", NULL, &session), INVALID_INPUT, "UTF-8");
	FAILS(agentcg_session_open(runtime, NULL, NULL, &session), INVALID_INPUT, "name is NULL");
	agentcg_session_options_init(&options, sizeof(options));
	options.priority = 7;
	FAILS(agentcg_session_open(runtime, "a", &options, &session), INVALID_INPUT, "priority 7");

	agentcg_session_options_init(&options, sizeof(options));
	options.priority = AGENTCG_PRIORITY_HIGH;
	OK(agentcg_session_open(runtime, "a", &options, &session));
	snprintf(path, sizeof(path), "%s/a", root);
	CHECK(!strcmp(agentcg_session_path(session), path));
	FAILS(agentcg_session_open(runtime, "a", NULL, &other), ALREADY_EXISTS, path);
	CHECK(other == NULL);

	agentcg_limits_init(&limits, sizeof(limits));
	options.limits = &limits;
	limits.cpu_weight = 10001;
	FAILS(agentcg_session_open(runtime, "b", &options, &other), INVALID_INPUT, "10001");
	agentcg_limits_init(&limits, sizeof(limits));
	limits.memory_max = 64 << 20;
	limits.swap_max = AGENTCG_UNLIMITED;
	if (supported("memory_controller")) {
		OK(agentcg_session_open(runtime, "b", &options, &other));
		agentcg_session_free(other);
	} else {
		FAILS(agentcg_session_open(runtime, "b", &options, &other), UNSUPPORTED,
		      "memory.max");
	}

	OK(agentcg_move_pid(runtime, getpid(), session));
	OK(agentcg_session_usage_json(session, &json));
	CHECK(strstr(json, "\"cpu_user_us\":"));
	agentcg_string_free(json);
	memset(&usage, 0, sizeof(usage));
	OK(agentcg_session_usage(session, &usage, sizeof(usage)));
	CHECK(usage.cpu_user_us != AGENTCG_UNSET && usage.max_rss_bytes == AGENTCG_UNSET);
	/* As much as a program has room for that was compiled with another header. */
	usage.memory_current_bytes = 7;
	OK(agentcg_session_usage(session, &usage, sizeof(usage.memory_peak_bytes)));
	CHECK(usage.memory_current_bytes == 7);
	agentcg_limits_init(&limits, sizeof(limits));
	OK(agentcg_session_set_limits(session, &limits));
	limits.io_weight = 10001;
	FAILS(agentcg_session_set_limits(session, &limits), INVALID_INPUT, "10001");
	CHECK(!strcmp(agentcg_session_name(session), "a"));
	agentcg_error_t *error = agentcg_move_pid(runtime, 0x7fffffff, session);
	CHECK(agentcg_error_errno(error) == ENOENT || agentcg_error_errno(error) == ESRCH);
	CHECK(strstr(agentcg_error_message(error), agentcg_error_path(error)));
	FAILS(error, NOT_FOUND, "");

	/* Freeing it moves this process back and removes the cgroup. */
	agentcg_session_free(session);
	CHECK(access(path, F_OK) == -1);
}

static void scheduler(agentcg_runtime_t *runtime)
{
	agentcg_scheduler_options_t options;
	agentcg_scheduler_t *scheduler;
	char *json;

	agentcg_scheduler_options_init(&options, sizeof(options));
	CHECK(options.slice_us == 5000 && options.scope == AGENTCG_SCHEDULER_ALL);
	options.slice_us = 1;
	FAILS(agentcg_start_scheduler(runtime, &options, &scheduler), INVALID_INPUT, "slice");
	if (!supported("sched_ext")) {
		FAILS(agentcg_start_scheduler(runtime, NULL, &scheduler), UNSUPPORTED, "sched_ext");
		return;
	}
	OK(agentcg_start_scheduler(runtime, NULL, &scheduler));
	OK(agentcg_scheduler_exited(scheduler, &json));
	CHECK(json == NULL);
	OK(agentcg_scheduler_stats_json(scheduler, &json));
	CHECK(strstr(json, "\"queued\":"));
	agentcg_string_free(json);
	CHECK(agentcg_scheduler_fd(scheduler) >= 0);
	agentcg_scheduler_free(scheduler);
}

static void memory(agentcg_runtime_t *runtime)
{
	agentcg_memcg_options_t options;
	agentcg_session_t *high;
	agentcg_memory_t *memory;
	char *json;

	OK(agentcg_session_open(runtime, "high", NULL, &high));
	const char *paths[] = {agentcg_session_path(high)};
	agentcg_memcg_options_init(&options, sizeof(options));
	CHECK(options.delay_ms == 50 && options.window_ms == 1000 && options.below_low);
	FAILS(agentcg_attach_memcg_ops(runtime, &options, &memory), INVALID_INPUT, "high");
	options.nr_high = 1;
	FAILS(agentcg_attach_memcg_ops(runtime, &options, &memory), INVALID_INPUT, "high is NULL");
	options.high = paths;
	if (supported("memory_controller") && supported("psi")) {
		OK(agentcg_attach_memcg_ops(runtime, &options, &memory));
		OK(agentcg_memory_stats_json(memory, &json));
		CHECK(strstr(json, "\"stalls\":0"));
		CHECK(agentcg_memory_backend(memory) != NULL);
		FAILS(agentcg_memory_add(memory, paths[0], AGENTCG_MEMORY_LOW), INVALID_INPUT,
		      paths[0]);
		FAILS(agentcg_memory_add(memory, paths[0], 2), INVALID_INPUT, "role 2");
		OK(agentcg_memory_remove(memory, paths[0]));
		FAILS(agentcg_memory_remove(memory, paths[0]), NOT_FOUND, paths[0]);
		OK(agentcg_memory_add(memory, paths[0], AGENTCG_MEMORY_LOW));
		agentcg_string_free(json);
		agentcg_memory_free(memory);
	} else {
		FAILS(agentcg_attach_memcg_ops(runtime, &options, &memory), UNSUPPORTED, paths[0]);
	}
	agentcg_session_free(high);
}

static void events(agentcg_runtime_t *runtime)
{
	agentcg_event_filter_t filter;
	agentcg_events_t *events;
	const int32_t self = getpid();
	const agentcg_event_t *event;
	char *line, pid[40];
	int executed = 0, exited = 0;

	agentcg_event_filter_init(&filter, sizeof(filter));
	filter.kinds = 1 << 10;
	FAILS(agentcg_subscribe(runtime, &filter, &events), INVALID_INPUT, "0x400");
	filter.kinds = AGENTCG_EVENT_EXEC | AGENTCG_EVENT_EXIT;
	filter.mode = AGENTCG_EVENTS_TRACKED_ONLY;
	filter.pids = &self;
	filter.nr_pids = 1;
	filter.nr_uids = 1;
	FAILS(agentcg_subscribe(runtime, &filter, &events), INVALID_INPUT, "uids is NULL");
	filter.nr_uids = 0;
	filter.delay_ms = 1001;
	FAILS(agentcg_subscribe(runtime, &filter, &events), INVALID_INPUT, "delay");
	filter.delay_ms = 5;
	OK(agentcg_subscribe(runtime, &filter, &events));
	OK(agentcg_events_missing_json(events, &line));
	CHECK(!strcmp(line, "[]"));
	agentcg_string_free(line);
	OK(agentcg_events_json(events, &line));
	CHECK(line == NULL);
	OK(agentcg_events_next(events, 1, &event));
	CHECK(event == NULL);

	const pid_t child = fork();
	if (child == 0) {
		execl("/bin/true", "true", "an argument", (char *)NULL);
		_exit(127);
	}
	waitpid(child, NULL, 0);
	struct pollfd fd = {agentcg_events_fd(events), POLLIN, 0};
	CHECK(poll(&fd, 1, 5000) == 1);
	snprintf(pid, sizeof(pid), "\"pid\":%d,", child);
	while (!exited) {
		OK(agentcg_events_next(events, 5000, &event));
		CHECK(event != NULL && event->pid == child && event->ppid == self);
		CHECK(event->cgroup && !event->session && !event->tool_call && event->timestamp);
		OK(agentcg_events_json(events, &line));
		CHECK(strstr(line, pid));
		if (event->kind == AGENTCG_EVENT_EXEC) {
			CHECK(!strcmp(event->filename, "/bin/true") &&
			      !strcmp(event->comm, "true"));
			CHECK(event->argc == 2 && !strcmp(event->argv[1], "an argument"));
			CHECK(event->argv[2] == NULL && !event->argv_truncated);
			CHECK(strstr(line, "[\"true\",\"an argument\"]"));
			executed = 1;
		} else {
			CHECK(event->kind == AGENTCG_EVENT_EXIT && event->exit_code == 0);
			CHECK(event->signal == 0 && !event->argv && !event->oom_killed);
			CHECK(strstr(line, "\"exit_code\":0"));
			exited = 1;
		}
		agentcg_string_free(line);
	}
	CHECK(executed);
	OK(agentcg_events_stats_json(events, &line));
	CHECK(!strcmp(line, "{\"received\":2,\"ring_full\":0,\"rate_limited\":0,\"read_fault\":0,"
			    "\"map_full\":0,\"recursion\":0}"));
	agentcg_string_free(line);
	agentcg_events_free(events);
}

/* By executable and user, with arguments that are cut. */
static void event_options(agentcg_runtime_t *runtime)
{
	agentcg_event_filter_t filter;
	agentcg_events_t *events;
	const char *const executables[] = {"/bin/ech"};
	const uint32_t uid = 54321;
	const agentcg_event_t *event;

	agentcg_event_filter_init(&filter, sizeof(filter));
	CHECK(filter.kinds == 63 && filter.delay_ms == 10 && filter.open_window_ms == 100);
	CHECK(filter.open_rate == 1000 && filter.args_bytes == 16 << 10);
	CHECK(filter.buffer_bytes == 8 << 20);
	filter.mode = AGENTCG_EVENTS_TRACKED_ONLY;
	filter.kinds = AGENTCG_EVENT_EXEC | AGENTCG_EVENT_OOM_KILL;
	filter.executables = executables;
	filter.nr_executables = 1;
	filter.uids = &uid;
	filter.nr_uids = 1;
	filter.args_bytes = 7;
	filter.delay_ms = 0;
	OK(agentcg_subscribe(runtime, &filter, &events));
	for (int i = 0; i < 3; i++) {
		const pid_t child = fork();
		if (child == 0) {
			if (i == 1 && setuid(uid))
				_exit(126);
			if (i == 2)
				execl("/bin/echo", "echo", "hello", (char *)NULL);
			execl("/bin/true", "true", (char *)NULL);
			_exit(127);
		}
		waitpid(child, NULL, 0);
	}
	OK(agentcg_events_next(events, 5000, &event));
	CHECK(event && event->uid == 54321 && !strcmp(event->filename, "/bin/true"));
	OK(agentcg_events_next(events, 5000, &event));
	CHECK(event && event->argc == 2 && !strcmp(event->argv[1], "he") && event->argv_truncated);
	OK(agentcg_events_next(events, 0, &event));
	CHECK(event == NULL);
	agentcg_events_free(events);
}

int main(int argc, char **argv)
{
	agentcg_runtime_options_t options;
	agentcg_runtime_t *second;

	CHECK(argc == 2);
	agentcg_runtime_t *runtime = runtime_at(argv[1]);
	agentcg_runtime_options_init(&options, sizeof(options));
	options.root = argv[1];
	FAILS(agentcg_runtime_new(&options, &second), BUSY, argv[1]);
	sessions(runtime, argv[1]);
	scheduler(runtime);
	memory(runtime);
	if (supported("process_events")) {
		events(runtime);
		event_options(runtime);
	} else {
		puts("no process events here");
	}

	/* A session keeps what it needs. */
	agentcg_session_t *session;
	OK(agentcg_session_open(runtime, "survivor", NULL, &session));
	agentcg_runtime_free(runtime);
	CHECK(access(agentcg_session_path(session), F_OK) == 0);
	agentcg_session_free(session);
	CHECK(access(argv[1], F_OK) == -1);
	return 0;
}
