/* Runs a command with a limit and says what came of it: run MEMORY_MAX COMMAND [ARG]...
 *
 * The verdict and the advice go to standard error, the outcome as JSON to the file $REPORT. */

#include <agentcg.h>
#include <stdio.h>
#include <stdlib.h>

static void check(agentcg_error_t *error)
{
	if (error) {
		fprintf(stderr, "run: %s\n", agentcg_error_message(error));
		exit(125);
	}
}

static void report(const agentcg_outcome_t *outcome)
{
	FILE *file = getenv("REPORT") ? fopen(getenv("REPORT"), "w") : NULL;
	agentcg_usage_t usage;
	agentcg_cause_t cause;

	fprintf(stderr, "%s", agentcg_verdict_name(agentcg_outcome_verdict(outcome)));
	if (agentcg_outcome_cause(outcome, &cause, sizeof(cause)))
		fprintf(stderr, " by %s", cause.limit);
	agentcg_outcome_usage(outcome, &usage, sizeof(usage));
	if (usage.memory_peak_bytes != AGENTCG_UNSET)
		fprintf(stderr, ", %llu KiB at most",
			(unsigned long long)usage.memory_peak_bytes >> 10);
	fprintf(stderr, "\n%s\n", agentcg_outcome_advice(outcome));
	if (file) {
		fprintf(file, "%s\n", agentcg_outcome_json(outcome));
		fclose(file);
	}
}

int main(int argc, char **argv)
{
	agentcg_runtime_options_t where;
	agentcg_call_options_t options;
	agentcg_limits_t limits;
	agentcg_runtime_t *runtime;
	agentcg_session_t *session;
	agentcg_outcome_t *outcome;

	if (argc < 3)
		return 2;
	agentcg_limits_init(&limits, sizeof(limits));
	check(agentcg_parse_limit(argv[1], &limits.memory_max));
	agentcg_runtime_options_init(&where, sizeof(where));
	where.root = getenv("AGENTCG_ROOT");
	check(agentcg_runtime_new(&where, &runtime));
	check(agentcg_session_open(runtime, "example", NULL, &session));

	agentcg_call_options_init(&options, sizeof(options));
	options.limits = &limits;
	for (int i = 0; i < 3; i++)
		options.stdio[i] = AGENTCG_STDIO_INHERIT;
	check(agentcg_session_run(session, (const char *const *)argv + 2, &options, &outcome));
	report(outcome);

	const int status = agentcg_outcome_shell_status(outcome);
	agentcg_outcome_free(outcome);
	agentcg_session_free(session);
	agentcg_runtime_free(runtime);
	return status < 0 ? 125 : status;
}
