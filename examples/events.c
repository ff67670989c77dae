/* Runs a command as a tool call and prints what its processes do meanwhile, as JSON:
 * events COMMAND [ARG]...
 *
 * One epoll loop waits for both, as a program with an event loop of its own does. */

#include <agentcg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

static void check(agentcg_error_t *error)
{
	if (error) {
		fprintf(stderr, "events: %s\n", agentcg_error_message(error));
		exit(125);
	}
}

/* All that waits, for the descriptor does not become readable again for it. */
static void print(agentcg_events_t *events)
{
	const agentcg_event_t *event;
	char *line;

	for (;;) {
		check(agentcg_events_next(events, 0, &event));
		if (!event)
			return;
		check(agentcg_events_json(events, &line));
		puts(line);
		agentcg_string_free(line);
		if (event->kind == AGENTCG_EVENT_EXEC && event->argv_truncated)
			fprintf(stderr, "events: more than %zu arguments\n", event->argc);
	}
}

static void watch(int epoll, int fd)
{
	struct epoll_event wanted = {EPOLLIN, {0}};

	wanted.data.fd = fd;
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &wanted)) {
		perror("epoll_ctl");
		exit(125);
	}
}

int main(int argc, char **argv)
{
	agentcg_runtime_options_t where;
	agentcg_event_filter_t filter;
	agentcg_runtime_t *runtime;
	agentcg_session_t *session;
	agentcg_events_t *events;
	agentcg_outcome_t *outcome = NULL;
	agentcg_call_t *call;
	const char *cgroup;
	int over;

	if (argc < 2)
		return 2;
	agentcg_runtime_options_init(&where, sizeof(where));
	where.root = getenv("AGENTCG_ROOT");
	check(agentcg_runtime_new(&where, &runtime));
	check(agentcg_session_open(runtime, "example", NULL, &session));

	agentcg_event_filter_init(&filter, sizeof(filter));
	filter.mode = AGENTCG_EVENTS_TRACKED_ONLY;
	cgroup = agentcg_session_path(session);
	filter.cgroups = &cgroup; /* and all below it */
	filter.nr_cgroups = 1;
	check(agentcg_subscribe(runtime, &filter, &events));
	check(agentcg_session_spawn(session, (const char *const *)argv + 1, NULL, &call));
	check(agentcg_call_fd(call, &over));

	const int epoll = epoll_create1(EPOLL_CLOEXEC);
	watch(epoll, agentcg_events_fd(events));
	watch(epoll, over);
	while (!outcome) {
		struct epoll_event ready;

		if (epoll_wait(epoll, &ready, 1, -1) < 1)
			continue;
		/* The events of a process are there before its end is known. */
		print(events);
		if (ready.data.fd == over) {
			check(agentcg_call_wait(call, 0, &outcome));
			print(events);
		}
	}
	close(epoll);
	fprintf(stderr, "%s\n", agentcg_verdict_name(agentcg_outcome_verdict(outcome)));

	const int status = agentcg_outcome_shell_status(outcome);
	agentcg_outcome_free(outcome);
	agentcg_call_free(call);
	agentcg_events_free(events);
	agentcg_session_free(session);
	agentcg_runtime_free(runtime);
	return status < 0 ? 125 : status;
}
