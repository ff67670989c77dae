/* Runs a command and prints what it and its descendants did, as JSON: events COMMAND [ARG]... */

#include <agentcg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static void check(agentcg_error_t *error)
{
	if (error) {
		fprintf(stderr, "events: %s\n", agentcg_error_message(error));
		exit(125);
	}
}

int main(int argc, char **argv)
{
	agentcg_runtime_t *runtime;
	agentcg_events_t *events;
	agentcg_event_filter_t filter;
	const int32_t self = getpid();
	char *line;
	int status;

	if (argc < 2)
		return 2;
	check(agentcg_runtime_new(getenv("AGENTCG_ROOT"), &runtime));
	agentcg_event_filter_init(&filter);
	filter.mode = AGENTCG_EVENTS_TRACKED_ONLY;
	filter.pids = &self; /* and its descendants */
	filter.nr_pids = 1;
	check(agentcg_subscribe(runtime, &filter, &events));

	const pid_t child = fork();
	if (child == 0) {
		execvp(argv[1], argv + 1);
		_exit(127);
	}
	/* The events of a process are there before its parent hears of its end. */
	waitpid(child, &status, 0);
	for (;;) {
		check(agentcg_events_next(events, 0, &line));
		if (!line)
			break;
		puts(line);
		agentcg_string_free(line);
	}
	agentcg_events_free(events);
	agentcg_runtime_free(runtime);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
