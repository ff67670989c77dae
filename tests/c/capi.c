/* Exercises libagentcg: capi ROOT, with a cgroup that may be made. Needs root and process events.
 */

#include <agentcg.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(condition)                                                                           \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);    \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

static void ok_at(int line, agentcg_error_t *error)
{
	if (error) {
		fprintf(stderr, "line %d: %s\n", line, agentcg_error_message(error));
		exit(1);
	}
}
#define OK(call) ok_at(__LINE__, call)

static void fails_at(int line, agentcg_error_t *error, agentcg_error_code_t code, const char *text)
{
	if (agentcg_error_code(error) != code || !strstr(agentcg_error_message(error), text)) {
		fprintf(stderr, "line %d: expected error %d, \"%s\"; got %d, \"%s\"\n", line, code,
			text, agentcg_error_code(error), agentcg_error_message(error));
		exit(1);
	}
	agentcg_error_free(error);
}
#define FAILS(call, code, text) fails_at(__LINE__, call, AGENTCG_ERROR_##code, text)

static int supported(const char *name)
{
	char *json, wanted[100];

	OK(agentcg_capabilities_json(&json));
	snprintf(wanted, sizeof(wanted), "{\"name\":\"%s\",\"supported\":true", name);
	const int found = strstr(json, wanted) != NULL;
	agentcg_string_free(json);
	return found;
}

static void null_is_fine(void)
{
	agentcg_runtime_t *runtime = (agentcg_runtime_t *)1;

	agentcg_string_free(NULL);
	agentcg_error_free(NULL);
	agentcg_runtime_free(NULL);
	agentcg_session_free(NULL);
	agentcg_scheduler_free(NULL);
	agentcg_memory_free(NULL);
	agentcg_events_free(NULL);
	agentcg_session_config_init(NULL);
	agentcg_scheduler_config_init(NULL);
	agentcg_memcg_config_init(NULL);
	agentcg_event_filter_init(NULL);
	CHECK(agentcg_error_code(NULL) == AGENTCG_OK);
	CHECK(agentcg_error_errno(NULL) == 0);
	CHECK(!strcmp(agentcg_error_message(NULL), ""));
	CHECK(agentcg_session_path(NULL) == NULL);
	CHECK(agentcg_events_fd(NULL) == -1);
	CHECK(agentcg_scheduler_fd(NULL) == -1);

	FAILS(agentcg_capabilities_json(NULL), INVALID_INPUT, "json_out is NULL");
	FAILS(agentcg_runtime_new(NULL, NULL), INVALID_INPUT, "out is NULL");
	FAILS(agentcg_runtime_new("/no/such/cgroup", &runtime), NOT_FOUND, "/no/such");
	CHECK(runtime == NULL);
	FAILS(agentcg_runtime_new("/tmp/agentcg", &runtime), INVALID_INPUT, "/tmp");

	agentcg_session_t *session;
	agentcg_scheduler_t *scheduler;
	agentcg_memory_t *memory;
	agentcg_events_t *events;
	char *json;
	FAILS(agentcg_session_open(NULL, "a", NULL, &session), INVALID_INPUT, "runtime is NULL");
	FAILS(agentcg_session_usage_json(NULL, &json), INVALID_INPUT, "session is NULL");
	FAILS(agentcg_move_pid(NULL, 1, NULL), INVALID_INPUT, "runtime is NULL");
	FAILS(agentcg_start_scheduler(NULL, NULL, &scheduler), INVALID_INPUT, "runtime is NULL");
	FAILS(agentcg_scheduler_exited(NULL, &json), INVALID_INPUT, "scheduler is NULL");
	FAILS(agentcg_scheduler_stats_json(NULL, &json), INVALID_INPUT, "scheduler is NULL");
	FAILS(agentcg_attach_memcg_ops(NULL, NULL, &memory), INVALID_INPUT, "runtime is NULL");
	FAILS(agentcg_memory_stats_json(NULL, &json), INVALID_INPUT, "memory is NULL");
	FAILS(agentcg_subscribe(NULL, NULL, &events), INVALID_INPUT, "runtime is NULL");
	FAILS(agentcg_events_next(NULL, 0, &json), INVALID_INPUT, "events is NULL");
	FAILS(agentcg_events_missing_json(NULL, &json), INVALID_INPUT, "events is NULL");
	FAILS(agentcg_events_stats_json(NULL, &json), INVALID_INPUT, "events is NULL");
}

static void sessions(agentcg_runtime_t *runtime, const char *root)
{
	agentcg_session_config_t config;
	agentcg_session_t *session, *other;
	char path[4096], *json;

	FAILS(agentcg_session_open(runtime, "a/b", NULL, &session), INVALID_INPUT, "a/b");
	FAILS(agentcg_session_open(runtime, "\xff", NULL, &session), INVALID_INPUT, "UTF-8");
	FAILS(agentcg_session_open(runtime, NULL, NULL, &session), INVALID_INPUT, "name is NULL");
	agentcg_session_config_init(&config);
	config.priority = 7;
	FAILS(agentcg_session_open(runtime, "a", &config, &session), INVALID_INPUT, "priority 7");

	agentcg_session_config_init(&config);
	config.priority = AGENTCG_PRIORITY_HIGH;
	OK(agentcg_session_open(runtime, "a", &config, &session));
	snprintf(path, sizeof(path), "%s/a", root);
	CHECK(!strcmp(agentcg_session_path(session), path));
	FAILS(agentcg_session_open(runtime, "a", NULL, &other), ALREADY_EXISTS, path);
	CHECK(other == NULL);

	config.memory_max = 64 << 20;
	config.swap_max = AGENTCG_UNLIMITED;
	if (supported("memory_controller")) {
		OK(agentcg_session_open(runtime, "b", &config, &other));
		agentcg_session_free(other);
	} else {
		FAILS(agentcg_session_open(runtime, "b", &config, &other), UNSUPPORTED,
		      "memory.max");
	}

	OK(agentcg_move_pid(runtime, getpid(), session));
	OK(agentcg_session_usage_json(session, &json));
	CHECK(strstr(json, "\"cpu_user_us\":"));
	agentcg_string_free(json);
	agentcg_error_t *error = agentcg_move_pid(runtime, 0x7fffffff, session);
	CHECK(agentcg_error_errno(error) == ENOENT || agentcg_error_errno(error) == ESRCH);
	FAILS(error, NOT_FOUND, "");

	/* Freeing it moves this process back and removes the cgroup. */
	agentcg_session_free(session);
	CHECK(access(path, F_OK) == -1);
}

static void scheduler(agentcg_runtime_t *runtime)
{
	agentcg_scheduler_config_t config;
	agentcg_scheduler_t *scheduler;
	char *json;

	agentcg_scheduler_config_init(&config);
	CHECK(config.slice_us == 5000 && config.scope == AGENTCG_SCHEDULER_ALL);
	config.slice_us = 1;
	FAILS(agentcg_start_scheduler(runtime, &config, &scheduler), INVALID_INPUT, "slice");
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
	agentcg_memcg_config_t config;
	agentcg_session_t *high;
	agentcg_memory_t *memory;
	char *json;

	OK(agentcg_session_open(runtime, "high", NULL, &high));
	const char *paths[] = {agentcg_session_path(high)};
	agentcg_memcg_config_init(&config);
	CHECK(config.delay_ms == 50 && config.window_ms == 1000 && config.below_low);
	FAILS(agentcg_attach_memcg_ops(runtime, &config, &memory), INVALID_INPUT, "high");
	config.nr_high = 1;
	FAILS(agentcg_attach_memcg_ops(runtime, &config, &memory), INVALID_INPUT, "high is NULL");
	config.high = paths;
	if (supported("memory_controller") && supported("psi")) {
		OK(agentcg_attach_memcg_ops(runtime, &config, &memory));
		OK(agentcg_memory_stats_json(memory, &json));
		CHECK(strstr(json, "\"stalls\":0"));
		agentcg_string_free(json);
		agentcg_memory_free(memory);
	} else {
		FAILS(agentcg_attach_memcg_ops(runtime, &config, &memory), UNSUPPORTED, paths[0]);
	}
	agentcg_session_free(high);
}

static void events(agentcg_runtime_t *runtime)
{
	agentcg_event_filter_t filter;
	agentcg_events_t *events;
	const int32_t self = getpid();
	char *line, pid[40];
	int executed = 0, exited = 0;

	agentcg_event_filter_init(&filter);
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
	OK(agentcg_events_next(events, 1, &line));
	CHECK(line == NULL);

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
		OK(agentcg_events_next(events, 5000, &line));
		CHECK(line != NULL);
		CHECK(strstr(line, pid));
		executed |= strstr(line, "\"event\":\"EXEC\"") &&
			    strstr(line, "[\"true\",\"an argument\"]");
		exited |= strstr(line, "\"event\":\"EXIT\"") && strstr(line, "\"exit_code\":0");
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
	char *line;

	agentcg_event_filter_init(&filter);
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
	OK(agentcg_events_next(events, 5000, &line));
	CHECK(line && strstr(line, "\"uid\":54321,") && strstr(line, "\"/bin/true\""));
	agentcg_string_free(line);
	OK(agentcg_events_next(events, 5000, &line));
	CHECK(line && strstr(line, "[\"echo\",\"he\"]") && strstr(line, "\"argv_truncated\":true"));
	agentcg_string_free(line);
	OK(agentcg_events_next(events, 0, &line));
	CHECK(line == NULL);
	agentcg_events_free(events);
}

int main(int argc, char **argv)
{
	agentcg_runtime_t *runtime, *second;

	CHECK(argc == 2);
	printf("libagentcg %s\n", agentcg_version());
	null_is_fine();
	OK(agentcg_runtime_new(argv[1], &runtime));
	FAILS(agentcg_runtime_new(argv[1], &second), BUSY, argv[1]);
	sessions(runtime, argv[1]);
	scheduler(runtime);
	memory(runtime);
	events(runtime);
	event_options(runtime);

	/* A session keeps what it needs. */
	agentcg_session_t *session;
	OK(agentcg_session_open(runtime, "survivor", NULL, &session));
	agentcg_runtime_free(runtime);
	CHECK(access(agentcg_session_path(session), F_OK) == 0);
	agentcg_session_free(session);
	CHECK(access(argv[1], F_OK) == -1);
	return 0;
}
