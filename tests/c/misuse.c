/* NULL and misuse of every function: misuse. Needs nothing. tests/c/test_c.py compares the
 * functions named here with those of the library. */

#include "check.h"

/* Functions that accept NULL and do nothing, or say nothing. */
static void null_is_fine(void)
{
	agentcg_string_free(NULL);
	agentcg_error_free(NULL);
	agentcg_runtime_free(NULL);
	agentcg_session_free(NULL);
	agentcg_scheduler_free(NULL);
	agentcg_memory_free(NULL);
	agentcg_events_free(NULL);
	agentcg_call_free(NULL);
	agentcg_outcome_free(NULL);
	agentcg_canceller_free(NULL);
	agentcg_runtime_options_init(NULL, sizeof(agentcg_runtime_options_t));
	agentcg_session_options_init(NULL, sizeof(agentcg_session_options_t));
	agentcg_limits_init(NULL, sizeof(agentcg_limits_t));
	agentcg_call_options_init(NULL, sizeof(agentcg_call_options_t));
	agentcg_scheduler_options_init(NULL, sizeof(agentcg_scheduler_options_t));
	agentcg_memcg_options_init(NULL, sizeof(agentcg_memcg_options_t));
	agentcg_event_filter_init(NULL, sizeof(agentcg_event_filter_t));
	CHECK(agentcg_error_code(NULL) == AGENTCG_OK);
	CHECK(agentcg_error_errno(NULL) == 0);
	CHECK(!strcmp(agentcg_error_message(NULL), ""));
	CHECK(agentcg_error_path(NULL) == NULL);
	CHECK(agentcg_error_help(NULL) == NULL);
	CHECK(agentcg_runtime_path(NULL) == NULL);
	CHECK(agentcg_session_path(NULL) == NULL);
	CHECK(agentcg_session_name(NULL) == NULL);
	CHECK(agentcg_events_fd(NULL) == -1);
	CHECK(agentcg_scheduler_fd(NULL) == -1);
	CHECK(agentcg_memory_backend(NULL) == NULL);
	CHECK(agentcg_call_pid(NULL) == -1);
	CHECK(agentcg_call_name(NULL) == NULL);
	CHECK(agentcg_call_path(NULL) == NULL);
	CHECK(agentcg_call_take_pipe(NULL, 0) == -1);
	CHECK(agentcg_outcome_verdict(NULL) == AGENTCG_VERDICT_UNKNOWN);
	CHECK(agentcg_outcome_exit_code(NULL) == -1);
	CHECK(agentcg_outcome_signal(NULL) == 0);
	CHECK(agentcg_outcome_shell_status(NULL) == -1);
	CHECK(agentcg_outcome_duration_us(NULL) == 0);
	CHECK(agentcg_outcome_queued_us(NULL) == 0);
	CHECK(agentcg_outcome_advice(NULL) == NULL);
	CHECK(agentcg_outcome_error(NULL) == NULL);
	CHECK(agentcg_outcome_json(NULL) == NULL);
	CHECK(!agentcg_outcome_cause(NULL, NULL, 0));
	CHECK(!agentcg_outcome_output(NULL, 1, NULL, 0));
	agentcg_outcome_usage(NULL, NULL, 0);
}

/* Functions that say which argument is missing. */
static void null_is_refused(void)
{
	agentcg_runtime_t *runtime = (agentcg_runtime_t *)1;
	agentcg_session_t *session;
	agentcg_scheduler_t *scheduler;
	agentcg_memory_t *memory;
	agentcg_events_t *events;
	agentcg_call_t *call;
	agentcg_outcome_t *outcome;
	agentcg_usage_t usage;
	const agentcg_event_t *event;
	const char *const argv[] = {"true", NULL};
	uint64_t bytes;
	int32_t fd;
	char *json;

	FAILS(agentcg_capabilities_json(NULL), INVALID_INPUT, "json_out is NULL");
	FAILS(agentcg_inspect_json(NULL, &json), INVALID_INPUT, "root is NULL");
	FAILS(agentcg_inspect_json("/", NULL), INVALID_INPUT, "json_out is NULL");
	FAILS(agentcg_parse_limit(NULL, &bytes), INVALID_INPUT, "text is NULL");
	FAILS(agentcg_parse_limit("1", NULL), INVALID_INPUT, "bytes_out is NULL");
	FAILS(agentcg_runtime_new(NULL, NULL), INVALID_INPUT, "out is NULL");
	FAILS(agentcg_session_open(NULL, "a", NULL, &session), INVALID_INPUT, "runtime is NULL");
	FAILS(agentcg_session_open(runtime, "a", NULL, NULL), INVALID_INPUT, "out is NULL");
	FAILS(agentcg_session_usage(NULL, &usage, sizeof(usage)), INVALID_INPUT, "session is NULL");
	FAILS(agentcg_session_usage_json(NULL, &json), INVALID_INPUT, "session is NULL");
	FAILS(agentcg_session_set_limits(NULL, NULL), INVALID_INPUT, "session is NULL");
	FAILS(agentcg_session_move_agent(NULL, 1), INVALID_INPUT, "session is NULL");
	FAILS(agentcg_session_freeze(NULL, true), INVALID_INPUT, "session is NULL");
	FAILS(agentcg_session_kill_calls(NULL), INVALID_INPUT, "session is NULL");
	FAILS(agentcg_session_kill(NULL), INVALID_INPUT, "session is NULL");
	FAILS(agentcg_session_run(NULL, argv, NULL, &outcome), INVALID_INPUT, "session is NULL");
	FAILS(agentcg_session_spawn(NULL, argv, NULL, &call), INVALID_INPUT, "session is NULL");
	FAILS(agentcg_session_respawn(NULL, argv, NULL, NULL, &call), INVALID_INPUT,
	      "session is NULL");
	FAILS(agentcg_move_pid(NULL, 1, NULL), INVALID_INPUT, "runtime is NULL");
	FAILS(agentcg_start_scheduler(NULL, NULL, &scheduler), INVALID_INPUT, "runtime is NULL");
	FAILS(agentcg_scheduler_exited(NULL, &json), INVALID_INPUT, "scheduler is NULL");
	FAILS(agentcg_scheduler_stats_json(NULL, &json), INVALID_INPUT, "scheduler is NULL");
	FAILS(agentcg_attach_memcg_ops(NULL, NULL, &memory), INVALID_INPUT, "runtime is NULL");
	FAILS(agentcg_memory_stats_json(NULL, &json), INVALID_INPUT, "memory is NULL");
	FAILS(agentcg_memory_add(NULL, "/", AGENTCG_MEMORY_LOW), INVALID_INPUT, "memory is NULL");
	FAILS(agentcg_memory_remove(NULL, NULL), INVALID_INPUT, "memory is NULL");
	FAILS(agentcg_subscribe(NULL, NULL, &events), INVALID_INPUT, "runtime is NULL");
	FAILS(agentcg_events_next(NULL, 0, &event), INVALID_INPUT, "events is NULL");
	FAILS(agentcg_events_json(NULL, &json), INVALID_INPUT, "events is NULL");
	FAILS(agentcg_events_missing_json(NULL, &json), INVALID_INPUT, "events is NULL");
	FAILS(agentcg_events_stats_json(NULL, &json), INVALID_INPUT, "events is NULL");
	FAILS(agentcg_call_wait(NULL, 0, &outcome), INVALID_INPUT, "call is NULL");
	FAILS(agentcg_call_fd(NULL, &fd), INVALID_INPUT, "call is NULL");
	FAILS(agentcg_call_usage(NULL, &usage, sizeof(usage)), INVALID_INPUT, "call is NULL");
	FAILS(agentcg_call_usage_json(NULL, &json), INVALID_INPUT, "call is NULL");
	FAILS(agentcg_call_cancel(NULL), INVALID_INPUT, "call is NULL");
	FAILS(agentcg_call_kill(NULL), INVALID_INPUT, "call is NULL");
	FAILS(agentcg_call_signal(NULL, 15), INVALID_INPUT, "call is NULL");
	FAILS(agentcg_call_freeze(NULL, true), INVALID_INPUT, "call is NULL");
	FAILS(agentcg_canceller_cancel(NULL), INVALID_INPUT, "canceller is NULL");
}

/* Structs of other sizes, as another version of the header has them. */
static void sizes(void)
{
	struct {
		agentcg_runtime_options_t known;
		uint64_t later;
	} newer;
	agentcg_runtime_options_t options;
	agentcg_runtime_t *runtime = (agentcg_runtime_t *)1;

	memset(&options, 0xaa, sizeof(options));
	FAILS(agentcg_runtime_new(&options, &runtime), INVALID_INPUT,
	      "agentcg_runtime_options_init");
	CHECK(runtime == NULL);
	options.size = 0;
	FAILS(agentcg_runtime_new(&options, &runtime), INVALID_INPUT, "invalid size 0");
	memset(&newer, 0xaa, sizeof(newer));
	agentcg_runtime_options_init(&newer.known, sizeof(newer));
	CHECK(newer.known.size == sizeof(newer) && newer.later == 0);
	newer.known.root = "/no/such/cgroup";
	FAILS(agentcg_runtime_new(&newer.known, &runtime), NOT_FOUND, "/no/such");
	newer.later = 1;
	FAILS(agentcg_runtime_new(&newer.known, &runtime), UNSUPPORTED, "does not know");
	/* No room for anything. */
	options.size = 7;
	agentcg_runtime_options_init(&options, 3);
	CHECK(options.size == 7);
}

static void values(void)
{
	agentcg_runtime_options_t options;
	agentcg_runtime_t *runtime;
	uint64_t bytes;
	char version[40];

	OK(agentcg_parse_limit("1.5K", &bytes));
	CHECK(bytes == 1536);
	OK(agentcg_parse_limit("max", &bytes));
	CHECK(bytes == AGENTCG_UNLIMITED);
	FAILS(agentcg_parse_limit("12Q", &bytes), INVALID_INPUT, "12Q");
	FAILS(agentcg_parse_limit("\xff", &bytes), INVALID_INPUT, "UTF-8");
	agentcg_runtime_options_init(&options, sizeof(options));
	options.root = "/tmp/agentcg";
	FAILS(agentcg_runtime_new(&options, &runtime), INVALID_INPUT, "/tmp");
	options.log_level = 9;
	FAILS(agentcg_runtime_new(&options, &runtime), INVALID_INPUT, "log_level 9");
	CHECK(!strcmp(agentcg_verdict_name(AGENTCG_VERDICT_OOM_KILLED), "oom_killed"));
	CHECK(!strcmp(agentcg_verdict_name(12345), "unknown"));
	snprintf(version, sizeof(version), "%d.%d.%d", AGENTCG_VERSION_MAJOR, AGENTCG_VERSION_MINOR,
		 AGENTCG_VERSION_PATCH);
	CHECK(!strcmp(agentcg_version(), version));
	agentcg_canceller_t *canceller = agentcg_canceller_new();
	OK(agentcg_canceller_cancel(canceller));
	agentcg_canceller_free(canceller);
	CHECK(!supported("no such thing"));
	char *json;
	OK(agentcg_inspect_json("/no/such/cgroup", &json));
	CHECK(!strcmp(json, "[]"));
	agentcg_string_free(json);
	FAILS(agentcg_inspect_json("/tmp", &json), INVALID_INPUT, "/tmp");
	CHECK(json == NULL);
}

int main(void)
{
	null_is_fine();
	null_is_refused();
	sizes();
	values();
	return 0;
}
