/* Tool calls, and what runtimes log: calls ROOT, with a cgroup that may be made. Needs root. */

#include "check.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *const TRUE[] = {"true", NULL};
static const char *const SLEEP[] = {"sleep", "1000", NULL};

/* valgrind 3.19 has no pidfd_open, makes a fork of a vfork, so that what the child says of its exec
 * is lost, and has limits of its own for descriptors. */
static bool valgrind;

static agentcg_call_options_t defaults(void)
{
	agentcg_call_options_t options;

	agentcg_call_options_init(&options, sizeof(options));
	return options;
}

static agentcg_outcome_t *shell(const agentcg_session_t *session, const char *script,
				const agentcg_call_options_t *options)
{
	const char *const argv[] = {"sh", "-c", script, NULL};
	agentcg_outcome_t *outcome;

	OK(agentcg_session_run(session, argv, options, &outcome));
	return outcome;
}

static int prints(const agentcg_outcome_t *outcome, int fd, const char *text)
{
	agentcg_output_t output;

	CHECK(agentcg_outcome_output(outcome, fd, &output, sizeof(output)));
	return output.length == strlen(text) && !memcmp(output.bytes, text, output.length);
}

static void misuse(const agentcg_session_t *session)
{
	const char *const nothing[] = {NULL};
	const char *const bad_io[] = {"tea"};
	agentcg_call_options_t options;
	agentcg_limits_t limits;
	agentcg_outcome_t *outcome = (agentcg_outcome_t *)1;
	agentcg_call_t *call;

	FAILS(agentcg_session_run(session, NULL, NULL, &outcome), INVALID_INPUT, "argv");
	CHECK(outcome == NULL);
	FAILS(agentcg_session_spawn(session, nothing, NULL, &call), INVALID_INPUT, "argv");
	FAILS(agentcg_session_run(session, TRUE, NULL, NULL), INVALID_INPUT, "out is NULL");
	FAILS(agentcg_session_spawn(session, TRUE, NULL, NULL), INVALID_INPUT, "out is NULL");
#define REFUSED(member, value, text)                                                               \
	do {                                                                                       \
		options = defaults();                                                              \
		options.member = value;                                                            \
		FAILS(agentcg_session_run(session, TRUE, &options, &outcome), INVALID_INPUT,       \
		      text);                                                                       \
	} while (0)
	REFUSED(size, 1, "invalid size 1");
	REFUSED(timeout_ms, 0, "timeout_ms");
	REFUSED(sample_ms, 0, "sample");
	REFUSED(stdio[0], -7, "-7");
	REFUSED(stdio[1], 12345, "12345");
	REFUSED(stdio[1], AGENTCG_STDIO_STDOUT, "standard output");
	REFUSED(stdio[0], AGENTCG_STDIO_CAPTURE, "standard input");
	REFUSED(retry, 3, "retry 3");
	REFUSED(hint, "memory:huge", "huge");
	REFUSED(hint, "\xff", "UTF-8");
	REFUSED(name, "a/b", "a/b");
	REFUSED(oom_score_adj, 1001, "1001");
	REFUSED(nr_groups, 1, "groups is NULL");
	REFUSED(nr_rlimits, 1, "rlimits is NULL");
	REFUSED(nr_fds, 1, "fds is NULL");
	const int no_fd[] = {-2};
	options = defaults();
	options.fds = no_fd;
	options.nr_fds = 1;
	FAILS(agentcg_session_run(session, TRUE, &options, &outcome), INVALID_INPUT, "-2 of fds");
	FAILS(agentcg_session_respawn(session, TRUE, NULL, NULL, &call), INVALID_INPUT,
	      "first is NULL");
	CHECK(call == NULL);
	options = defaults();
	options.stdio[1] = 12345;
	agentcg_error_t *error = agentcg_session_run(session, TRUE, &options, &outcome);
	CHECK(agentcg_error_errno(error) == EBADF);
	agentcg_error_free(error);
	agentcg_limits_init(&limits, sizeof(limits));
	limits.nr_io_max = 1;
	REFUSED(limits, &limits, "io_max is NULL");
	limits.io_max = bad_io;
	REFUSED(limits, &limits, "tea");
	options = defaults();
	options.stdio[0] = AGENTCG_STDIO_PIPE;
	OK(agentcg_session_spawn(session, SLEEP, &options, &call));
	FAILS(agentcg_call_wait(call, 0, NULL), INVALID_INPUT, "out is NULL");
	FAILS(agentcg_call_fd(call, NULL), INVALID_INPUT, "fd_out is NULL");
	FAILS(agentcg_call_usage(call, NULL, 8), INVALID_INPUT, "usage_out is NULL");
	FAILS(agentcg_call_signal(call, 4711), INVALID_INPUT, "4711");
	CHECK(agentcg_call_take_pipe(call, 3) == -1 && agentcg_call_take_pipe(call, 1) == -1);
	/* Killed with all that belongs to it. */
	agentcg_call_free(call);
	FAILS(agentcg_session_usage(session, NULL, 8), INVALID_INPUT, "usage_out is NULL");
	FAILS(agentcg_session_usage_json(session, NULL), INVALID_INPUT, "json_out is NULL");
}

static void outcomes(const agentcg_session_t *session)
{
	const char *const missing[] = {"no-such-program", NULL};
	agentcg_call_options_t options = defaults();
	agentcg_outcome_t *outcome;
	agentcg_output_t output;
	agentcg_usage_t usage;
	agentcg_cause_t cause;

	outcome = shell(session, "cat; echo out; echo error >&2; exit 3", NULL);
	CHECK(agentcg_outcome_verdict(outcome) == AGENTCG_VERDICT_FAILED);
	CHECK(agentcg_outcome_exit_code(outcome) == 3 && agentcg_outcome_signal(outcome) == 0);
	CHECK(agentcg_outcome_shell_status(outcome) == 3);
	CHECK(agentcg_outcome_duration_us(outcome) > 0 && agentcg_outcome_error(outcome) == NULL);
	CHECK(prints(outcome, 1, "out\n") && prints(outcome, 2, "error\n"));
	CHECK(!agentcg_outcome_output(outcome, 0, &output, sizeof(output)));
	CHECK(!agentcg_outcome_cause(outcome, &cause, sizeof(cause)));
	agentcg_outcome_usage(outcome, &usage, sizeof(usage));
	CHECK(usage.cpu_user_us != AGENTCG_UNSET && usage.max_rss_bytes > 4096);
	CHECK(strstr(agentcg_outcome_json(outcome), "\"verdict\":\"failed\""));
	CHECK(agentcg_outcome_json(outcome) == agentcg_outcome_json(outcome));
	agentcg_outcome_free(outcome);

	/* More memory would not have helped. */
	agentcg_call_t *call = (agentcg_call_t *)1;
	options.retry = AGENTCG_RETRY_ONCE;
	options.stdio[0] = AGENTCG_STDIO_NULL;
	outcome = shell(session, "exit 3", NULL);
	OK(agentcg_session_respawn(session, TRUE, &options, outcome, &call));
	CHECK(call == NULL);
	agentcg_outcome_free(outcome);

	outcome = shell(session, "kill -9 $$", NULL);
	CHECK(agentcg_outcome_verdict(outcome) == AGENTCG_VERDICT_SIGNALED);
	CHECK(agentcg_outcome_exit_code(outcome) == -1 && agentcg_outcome_signal(outcome) == 9);
	CHECK(agentcg_outcome_shell_status(outcome) == 137);
	agentcg_outcome_free(outcome);

	options.timeout_ms = 50;
	options.grace_ms = 0;
	outcome = shell(session, "sleep 1000", &options);
	CHECK(agentcg_outcome_verdict(outcome) == AGENTCG_VERDICT_TIMED_OUT);
	CHECK(agentcg_outcome_cause(outcome, &cause, sizeof(cause)));
	CHECK(!strcmp(cause.limit, "timeout") && cause.limit_bytes == AGENTCG_UNSET);
	CHECK(cause.limit_value == 50 && cause.scope == AGENTCG_SCOPE_CALL);
	CHECK(cause.effect == AGENTCG_EFFECT_ENDED && !cause.victim_comm && !cause.victim_pid);
	CHECK(strstr(agentcg_outcome_advice(outcome), "time"));
	agentcg_outcome_free(outcome);

	if (valgrind)
		return;
	OK(agentcg_session_run(session, missing, NULL, &outcome));
	CHECK(agentcg_outcome_verdict(outcome) == AGENTCG_VERDICT_SPAWN_FAILED);
	CHECK(agentcg_error_code(agentcg_outcome_error(outcome)) == AGENTCG_ERROR_NOT_FOUND);
	CHECK(agentcg_error_help(agentcg_outcome_error(outcome)) != NULL);
	CHECK(agentcg_outcome_shell_status(outcome) == 127);
	agentcg_outcome_free(outcome);
}

/* What a call finds about it. */
static void surroundings(const agentcg_session_t *session)
{
	const char *const env[] = {"GIVEN=a=b", "HOME", NULL};
	const uint32_t groups[] = {54, 55};
	const agentcg_rlimit_t rlimits[] = {{7 /* RLIMIT_NOFILE */, 20, 30}};
	agentcg_call_options_t options = defaults();
	agentcg_outcome_t *outcome;
	agentcg_output_t output;

	options.env = env;
	options.cwd = "/usr";
	options.name = "mine";
	options.arg0 = "me";
	options.groups = groups;
	options.nr_groups = 2;
	options.rlimits = rlimits;
	options.nr_rlimits = 1;
	options.uid = 5432;
	options.gid = 5433;
	options.umask = 027;
	options.new_session = true;
	options.input = "a line\n";
	options.input_length = 7;
	outcome =
	    shell(session,
		  "read -r line; echo $0 $GIVEN/$HOME $PWD $line $AGENTCG_CALL $(id -u) $(id -G) "
		  "$(ulimit -Sn) $(ulimit -Hn) $(umask)",
		  &options);
	CHECK(valgrind ||
	      prints(outcome, 1, "me a=b/ /usr a line mine 5432 5433 54 55 20 30 0027\n"));
	agentcg_outcome_free(outcome);

	options = defaults();
	options.env_clear = true;
	options.capture_limit = 4;
	options.stdio[2] = AGENTCG_STDIO_STDOUT;
	outcome = shell(session, "echo $HOME; echo 12345678 >&2", &options);
	CHECK(agentcg_outcome_output(outcome, 1, &output, sizeof(output)));
	CHECK(output.length == 4 && output.total == 10 && output.cut_at == 2);
	CHECK(!memcmp(output.bytes, "\n18\n", 4));
	CHECK(!agentcg_outcome_output(outcome, 2, &output, sizeof(output)));
	agentcg_outcome_free(outcome);
}

/* Descriptors of ours under other numbers, even under each other's. */
static void inherited(const agentcg_session_t *session)
{
	enum { NUMBERS = 64, KEPT = NUMBERS, CLOSED = NUMBERS - 1 };
	agentcg_call_options_t options = defaults();
	agentcg_outcome_t *outcome;
	int32_t given[NUMBERS];
	char text[200] = "";
	int fds[2];

	CHECK(pipe(fds) == 0 && write(fds[1], "from a pipe\n", 12) == 12);
	CHECK(fds[0] > 2 && fds[1] > 2 && fds[0] < CLOSED && fds[1] < CLOSED);
	CHECK(dup2(fds[0], CLOSED) == CLOSED && dup2(fds[0], KEPT + 3) == KEPT + 3);
	for (int i = 0; i < NUMBERS; i++)
		given[i] = -1;
	given[fds[0] - 3] = fds[1];
	given[fds[1] - 3] = fds[0];
	options.fds = given;
	options.nr_fds = NUMBERS;
	options.inherit_fds = true;
	snprintf(text, sizeof(text),
		 "read -r line <&%d; echo $line; echo back >&%d; ls -d /proc/self/fd/{%d,%d}",
		 fds[1], fds[0], CLOSED, KEPT + 3);
	const char *const argv[] = {"bash", "-c", text, NULL};
	OK(agentcg_session_run(session, argv, &options, &outcome));
	CHECK(prints(outcome, 1, "from a pipe\n/proc/self/fd/67\n"));
	agentcg_outcome_free(outcome);
	memset(text, 0, sizeof(text));
	CHECK(read(fds[0], text, sizeof(text)) == 5 && !strcmp(text, "back\n"));
	close(CLOSED), close(KEPT + 3), close(fds[0]), close(fds[1]);
}

/* What a call does not read of its input is no signal for us, who do not ignore it. */
static void unread_input(const agentcg_session_t *session)
{
	static char input[1 << 20];
	agentcg_call_options_t options = defaults();
	agentcg_outcome_t *outcome;
	agentcg_call_t *call;
	sigset_t waiting;

	signal(SIGPIPE, SIG_DFL);
	options.input = input;
	options.input_length = sizeof(input);
	OK(agentcg_session_run(session, TRUE, &options, &outcome));
	CHECK(agentcg_outcome_verdict(outcome) == AGENTCG_VERDICT_COMPLETED);
	agentcg_outcome_free(outcome);
	OK(agentcg_session_spawn(session, TRUE, &options, &call));
	OK(agentcg_call_wait(call, -1, &outcome));
	CHECK(agentcg_outcome_verdict(outcome) == AGENTCG_VERDICT_COMPLETED);
	agentcg_outcome_free(outcome);
	agentcg_call_free(call);
	CHECK(sigpending(&waiting) == 0 && !sigismember(&waiting, SIGPIPE));
}

/* Handles may be freed in any order, and what is left of them answers on. */
static void freed_in_any_order(const char *root)
{
	enum { RUNTIME, SESSION, CALL, CANCELLER, HANDLES };

	for (int order = 0; order < HANDLES * HANDLES; order++) {
		agentcg_runtime_t *runtime = runtime_at(root);
		agentcg_call_options_t options = defaults();
		agentcg_session_t *session;
		agentcg_call_t *call;
		char *json;

		options.canceller = agentcg_canceller_new();
		options.stdio[0] = AGENTCG_STDIO_PIPE;
		OK(agentcg_session_open(runtime, "order", NULL, &session));
		OK(agentcg_session_spawn(session, SLEEP, &options, &call));
		for (int i = 0, first = order / HANDLES; i < HANDLES; i++) {
			/* From the first on, up or down. */
			const int up = order % 2,
				  which = (first + (up ? i : HANDLES - i)) % HANDLES;

			if (which == RUNTIME) {
				agentcg_runtime_free(runtime), runtime = NULL;
			} else if (which == SESSION) {
				agentcg_session_free(session), session = NULL;
			} else if (which == CALL) {
				agentcg_call_free(call), call = NULL;
			} else {
				OK(agentcg_canceller_cancel(options.canceller));
				agentcg_canceller_free((agentcg_canceller_t *)options.canceller);
			}
			if (call) {
				OK(agentcg_call_usage_json(call, &json));
				CHECK(strstr(json, "\"unavailable\""));
				agentcg_string_free(json);
				OK(agentcg_call_signal(call, SIGCONT));
			}
		}
		CHECK(access(root, F_OK) == -1);
	}
}

static void spawned(const agentcg_session_t *session)
{
	const char *const cat[] = {"cat", NULL};
	agentcg_call_options_t options = defaults();
	agentcg_outcome_t *outcome;
	agentcg_usage_t usage;
	agentcg_call_t *call;
	char text[10], path[4096];
	int fds[2];
	int32_t over;

	/* Pipes of ours, and one of the library's. */
	CHECK(pipe(fds) == 0);
	options.stdio[0] = AGENTCG_STDIO_PIPE;
	options.stdio[1] = fds[1];
	OK(agentcg_session_spawn(session, cat, &options, &call));
	close(fds[1]);
	CHECK(agentcg_call_pid(call) > 0);
	snprintf(path, sizeof(path), "%s/calls/%s", agentcg_session_path(session),
		 agentcg_call_name(call));
	CHECK(!strcmp(agentcg_call_path(call), path) && access(path, F_OK) == 0);
	snprintf(path, sizeof(path), "%s/..", agentcg_session_path(session));
	char *root = realpath(path, NULL), *json;
	OK(agentcg_inspect_json(root, &json));
	CHECK(strstr(json, agentcg_call_path(call)) && strstr(json, "\"command\":\"cat\""));
	agentcg_string_free(json);
	free(root);
	snprintf(path, sizeof(path), "%s", agentcg_call_path(call));
	const int in = agentcg_call_take_pipe(call, 0);
	CHECK(in > 2 && agentcg_call_take_pipe(call, 0) == -1);
	CHECK(write(in, "hello", 5) == 5 && read(fds[0], text, sizeof(text)) == 5);
	OK(agentcg_call_usage(call, &usage, sizeof(usage)));
	CHECK(usage.cpu_system_us != AGENTCG_UNSET);

	OK(agentcg_call_freeze(call, true));
	CHECK(write(in, "hello", 5) == 5);
	struct pollfd echoed = {fds[0], POLLIN, 0};
	CHECK(poll(&echoed, 1, 50) == 0);
	OK(agentcg_call_freeze(call, false));
	CHECK(poll(&echoed, 1, 5000) == 1);

	OK(agentcg_call_wait(call, 0, &outcome));
	CHECK(outcome == NULL);
	OK(agentcg_call_wait(call, 10, &outcome));
	CHECK(outcome == NULL);
	OK(agentcg_call_fd(call, &over));
	struct pollfd ready = {over, POLLIN, 0};
	CHECK(poll(&ready, 1, 0) == 0);
	close(in);
	CHECK(poll(&ready, 1, 5000) == 1);
	OK(agentcg_call_wait(call, 0, &outcome));
	CHECK(agentcg_outcome_verdict(outcome) == AGENTCG_VERDICT_COMPLETED);
	CHECK(access(path, F_OK) == -1);
	agentcg_outcome_free(outcome);
	/* It is given once; the handle answers on. */
	FAILS(agentcg_call_wait(call, -1, &outcome), NOT_FOUND, "given");
	CHECK(outcome == NULL);
	OK(agentcg_call_usage(call, &usage, sizeof(usage)));
	OK(agentcg_call_kill(call));
	OK(agentcg_call_cancel(call));
	OK(agentcg_call_signal(call, SIGTERM));
	FAILS(agentcg_call_freeze(call, true), NOT_FOUND, "cgroup");
	agentcg_call_free(call);
	close(fds[0]);

	/* Its end of the input is closed for it. */
	options = defaults();
	options.stdio[0] = AGENTCG_STDIO_PIPE;
	OK(agentcg_session_spawn(session, cat, &options, &call));
	OK(agentcg_call_wait(call, -1, &outcome));
	CHECK(agentcg_outcome_exit_code(outcome) == 0);
	agentcg_outcome_free(outcome);
	agentcg_call_free(call);
}

static void ended(const agentcg_session_t *session)
{
	const struct {
		agentcg_error_t *(*end)(const agentcg_call_t *);
		int signal;
	} ways[] = {{agentcg_call_kill, SIGKILL}, {agentcg_call_cancel, SIGTERM}};
	agentcg_outcome_t *outcome;
	agentcg_call_t *call;

	for (size_t i = 0; i < (valgrind ? 1 : 2); i++) {
		OK(agentcg_session_spawn(session, SLEEP, NULL, &call));
		OK(ways[i].end(call));
		OK(agentcg_call_wait(call, -1, &outcome));
		CHECK(agentcg_outcome_verdict(outcome) == AGENTCG_VERDICT_CANCELLED);
		CHECK(agentcg_outcome_signal(outcome) == ways[i].signal);
		agentcg_outcome_free(outcome);
		agentcg_call_free(call);
	}
	OK(agentcg_session_spawn(session, SLEEP, NULL, &call));
	OK(valgrind ? agentcg_session_kill(session) : agentcg_call_signal(call, SIGINT));
	OK(agentcg_call_wait(call, -1, &outcome));
	CHECK(valgrind || agentcg_outcome_verdict(outcome) == AGENTCG_VERDICT_SIGNALED);
	agentcg_outcome_free(outcome);
	agentcg_call_free(call);

	OK(agentcg_session_spawn(session, SLEEP, NULL, &call));
	OK(agentcg_session_freeze(session, true));
	OK(agentcg_session_freeze(session, false));
	OK(agentcg_session_kill_calls(session));
	OK(agentcg_call_wait(call, -1, &outcome));
	CHECK(agentcg_outcome_verdict(outcome) == AGENTCG_VERDICT_CANCELLED);
	agentcg_outcome_free(outcome);
	agentcg_call_free(call);

	/* Cancelled before it is started. */
	agentcg_call_options_t options = defaults();
	agentcg_canceller_t *canceller = agentcg_canceller_new();
	OK(agentcg_canceller_cancel(canceller));
	options.canceller = canceller;
	OK(agentcg_session_run(session, TRUE, &options, &outcome));
	CHECK(agentcg_outcome_verdict(outcome) == AGENTCG_VERDICT_CANCELLED);
	agentcg_canceller_free(canceller);
	agentcg_outcome_free(outcome);

	/* When it is over, nothing happens. */
	options.canceller = canceller = agentcg_canceller_new();
	OK(agentcg_session_run(session, TRUE, &options, &outcome));
	CHECK(agentcg_outcome_verdict(outcome) == AGENTCG_VERDICT_COMPLETED);
	OK(agentcg_canceller_cancel(canceller));
	agentcg_canceller_free(canceller);
	agentcg_outcome_free(outcome);
}

/* The OOM killer takes a call at its own memory.max, and it is tried again with twice as much. */
static void out_of_memory(const agentcg_session_t *session)
{
	const char *const argv[] = {"tail", "/dev/zero", NULL};
	agentcg_call_options_t options = defaults();
	agentcg_limits_t limits;
	agentcg_outcome_t *outcome;
	agentcg_cause_t cause;
	agentcg_usage_t usage;

	agentcg_limits_init(&limits, sizeof(limits));
	limits.memory_max = 16 << 20;
	limits.swap_max = 0;
	options.limits = &limits;
	options.retry = AGENTCG_RETRY_ONCE;
	OK(agentcg_session_run(session, argv, &options, &outcome));
	CHECK(agentcg_outcome_verdict(outcome) == AGENTCG_VERDICT_OOM_KILLED);
	CHECK(agentcg_outcome_cause(outcome, &cause, sizeof(cause)));
	CHECK(!strcmp(cause.limit, "memory.max") && cause.limit_bytes == 32 << 20);
	CHECK(cause.scope == AGENTCG_SCOPE_CALL && cause.limit_value < 0 && cause.cgroup);
	CHECK(cause.victim_pid > 0 && !strcmp(cause.victim_comm, "tail"));
	agentcg_outcome_usage(outcome, &usage, sizeof(usage));
	CHECK(usage.oom_kills >= 1 && usage.oom_kills != AGENTCG_UNSET);
	CHECK(usage.memory_peak_bytes > 16 << 20 && usage.memory_peak_bytes <= 32 << 20);
	CHECK(strstr(agentcg_outcome_json(outcome), "\"retries\":[{"));
	agentcg_outcome_free(outcome);

	/* Each step by the caller, with a descriptor that is given again. */
	agentcg_outcome_t *first;
	agentcg_call_t *call;
	options.stdio[0] = AGENTCG_STDIO_NULL;
	options.stdio[1] = open("/dev/null", O_WRONLY);
	OK(agentcg_session_spawn(session, argv, &options, &call));
	OK(agentcg_call_wait(call, -1, &first));
	agentcg_call_free(call);
	options.retry = AGENTCG_RETRY_NEVER;
	OK(agentcg_session_respawn(session, argv, &options, first, &call));
	CHECK(call == NULL);
	options.retry = AGENTCG_RETRY_ONCE;
	OK(agentcg_session_respawn(session, argv, &options, first, &call));
	agentcg_outcome_free(first);
	CHECK(call != NULL);
	OK(agentcg_call_wait(call, -1, &outcome));
	CHECK(agentcg_outcome_cause(outcome, &cause, sizeof(cause)));
	CHECK(cause.limit_bytes == 32 << 20);
	CHECK(strstr(agentcg_outcome_json(outcome), "\"retries\":[{"));
	agentcg_outcome_free(outcome);
	agentcg_call_free(call);
	close(options.stdio[1]);
}

static void *run_many(void *argument)
{
	const agentcg_session_t *session = argument;

	for (int i = 0; i < 20; i++) {
		agentcg_outcome_t *outcome = shell(session, "echo $AGENTCG_CALL; exit 7", NULL);
		CHECK(agentcg_outcome_exit_code(outcome) == 7);
		agentcg_outcome_free(outcome);
	}
	return NULL;
}

static void *wait_for(void *call)
{
	agentcg_outcome_t *outcome;

	OK(agentcg_call_wait(call, -1, &outcome));
	return outcome;
}

static void *run_cancelled(void *argument)
{
	void *const *both = argument;
	agentcg_call_options_t options = defaults();
	agentcg_outcome_t *outcome;

	options.canceller = both[1];
	OK(agentcg_session_run(both[0], SLEEP, &options, &outcome));
	return outcome;
}

static void threads(agentcg_session_t *session)
{
	enum { THREADS = 6 };
	pthread_t thread[THREADS];
	agentcg_usage_t usage;
	agentcg_call_t *call;
	void *outcome;

	for (int i = 0; i < THREADS; i++)
		CHECK(!pthread_create(&thread[i], NULL, run_many, session));
	for (int i = 0; i < 20; i++)
		OK(agentcg_session_usage(session, &usage, sizeof(usage)));
	for (int i = 0; i < THREADS; i++)
		CHECK(!pthread_join(thread[i], NULL));

	/* One waits, another looks and kills. */
	OK(agentcg_session_spawn(session, SLEEP, NULL, &call));
	CHECK(!pthread_create(&thread[0], NULL, wait_for, call));
	OK(agentcg_call_usage(call, &usage, sizeof(usage)));
	CHECK(agentcg_call_take_pipe(call, 1) == -1);
	OK(agentcg_call_kill(call));
	CHECK(!pthread_join(thread[0], &outcome));
	CHECK(agentcg_outcome_verdict(outcome) == AGENTCG_VERDICT_CANCELLED);
	agentcg_outcome_free(outcome);
	agentcg_call_free(call);

	agentcg_canceller_t *canceller = agentcg_canceller_new();
	void *both[] = {session, canceller};
	CHECK(!pthread_create(&thread[0], NULL, run_cancelled, both));
	poll(NULL, 0, 20); /* any state will do */
	OK(agentcg_canceller_cancel(canceller));
	CHECK(!pthread_join(thread[0], &outcome));
	CHECK(agentcg_outcome_verdict(outcome) == AGENTCG_VERDICT_CANCELLED);
	agentcg_outcome_free(outcome);
	agentcg_canceller_free(canceller);
}

/* What there is for room is given to one after the other. */
static void admission(agentcg_runtime_t *runtime)
{
	agentcg_session_options_t wanted;
	agentcg_call_options_t options = defaults();
	agentcg_session_t *session;
	agentcg_outcome_t *outcome;
	agentcg_call_t *first;

	agentcg_session_options_init(&wanted, sizeof(wanted));
	wanted.capacity_calls = 1;
	OK(agentcg_session_open(runtime, "one", &wanted, &session));
	OK(agentcg_session_spawn(session, SLEEP, NULL, &first));
	options.queue_timeout_ms = 30;
	OK(agentcg_session_run(session, TRUE, &options, &outcome));
	CHECK(agentcg_outcome_verdict(outcome) == AGENTCG_VERDICT_SPAWN_FAILED);
	CHECK(agentcg_outcome_queued_us(outcome) >= 30000);
	CHECK(agentcg_error_code(agentcg_outcome_error(outcome)) == AGENTCG_ERROR_TIMED_OUT);
	agentcg_outcome_free(outcome);
	/* A call outlives the handle of its session; freeing that kills it. */
	agentcg_session_free(session);
	OK(agentcg_call_wait(first, -1, &outcome));
	CHECK(agentcg_outcome_verdict(outcome) == AGENTCG_VERDICT_CANCELLED);
	agentcg_outcome_free(outcome);
	agentcg_call_free(first);
}

static atomic_int lines;

static void count_lines(void *data, uint32_t level, const char *message)
{
	CHECK(data == &lines && level >= AGENTCG_LOG_ERROR && level <= AGENTCG_LOG_INFO);
	if (strstr(message, "what a killed process left"))
		lines++;
}

/* The next runtime on the root says that it cleans up after us. */
static void logged(const char *root)
{
	agentcg_runtime_options_t options;
	agentcg_runtime_t *runtime;
	char path[4096];

	snprintf(path, sizeof(path), "%s/left", root);
	for (int child = fork(), status; child != -1; child = -1) {
		if (child == 0) {
			agentcg_session_t *session;
			OK(agentcg_session_open(runtime_at(root), "left", NULL, &session));
			_exit(0); /* nothing is freed */
		}
		CHECK(waitpid(child, &status, 0) == child && status == 0);
	}
	CHECK(access(path, F_OK) == 0);
	agentcg_runtime_options_init(&options, sizeof(options));
	options.root = root;
	options.log = count_lines;
	options.log_data = &lines;
	OK(agentcg_runtime_new(&options, &runtime));
	CHECK(lines == 1 && access(path, F_OK) == -1);
	agentcg_runtime_free(runtime);
}

int main(int argc, char **argv)
{
	agentcg_session_t *session;

	CHECK(argc == 2);
	valgrind = getenv("VALGRIND") != NULL;
	logged(argv[1]);
	agentcg_runtime_t *runtime = runtime_at(argv[1]);
	OK(agentcg_session_open(runtime, "calls", NULL, &session));
	misuse(session);
	outcomes(session);
	surroundings(session);
	if (!valgrind)
		inherited(session);
	unread_input(session);
	spawned(session);
	ended(session);
	threads(session);
	admission(runtime);
	if (supported("memory_controller"))
		out_of_memory(session);
	else
		puts("no memory controller here");
	agentcg_session_free(session);
	agentcg_runtime_free(runtime);
	CHECK(access(argv[1], F_OK) == -1);
	if (!valgrind)
		freed_in_any_order(argv[1]);
	return 0;
}
