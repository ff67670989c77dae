/* What agentcg-bench has C do: bench ROOT, with commands on standard input.
 *
 * run N, spawn N: as many calls of /bin/true; prints the median in ns
 * open:           a stream of the events of agentcg-true, in a buffer of 64 MiB
 * read:           reads all that wait; prints their number and the time in ns */

#include <agentcg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char *const TRUE[] = {"/bin/true", NULL};

static void check(agentcg_error_t *error)
{
	if (error) {
		fprintf(stderr, "bench.c: %s\n", agentcg_error_message(error));
		exit(1);
	}
}

static long long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int compare(const void *a, const void *b)
{
	const long long x = *(const long long *)a, y = *(const long long *)b;

	return (x > y) - (x < y);
}

static void calls(const agentcg_session_t *session, int spawn, int n)
{
	agentcg_call_options_t options;
	long long *times = malloc((size_t)n * sizeof(*times));

	agentcg_call_options_init(&options, sizeof(options));
	for (int i = 0; i < 3; i++)
		options.stdio[i] = AGENTCG_STDIO_NULL;
	for (int i = 0; i < n; i++) {
		const long long since = now();
		agentcg_outcome_t *outcome;

		if (spawn) {
			agentcg_call_t *call;
			check(agentcg_session_spawn(session, TRUE, &options, &call));
			check(agentcg_call_wait(call, -1, &outcome));
			agentcg_call_free(call);
		} else {
			check(agentcg_session_run(session, TRUE, &options, &outcome));
		}
		if (agentcg_outcome_verdict(outcome) != AGENTCG_VERDICT_COMPLETED)
			exit(1);
		agentcg_outcome_free(outcome);
		times[i] = now() - since;
	}
	qsort(times, (size_t)n, sizeof(*times), compare);
	printf("%lld\n", times[n / 2]);
	free(times);
}

static agentcg_events_t *open_events(const agentcg_runtime_t *runtime)
{
	static const char *const commands[] = {"agentcg-true"};
	agentcg_event_filter_t filter;
	agentcg_events_t *events;

	agentcg_event_filter_init(&filter, sizeof(filter));
	filter.mode = AGENTCG_EVENTS_TRACKED_ONLY;
	filter.kinds = AGENTCG_EVENT_EXEC | AGENTCG_EVENT_EXIT;
	filter.commands = commands;
	filter.nr_commands = 1;
	filter.buffer_bytes = 64 << 20;
	check(agentcg_subscribe(runtime, &filter, &events));
	return events;
}

static void read_events(agentcg_events_t *events)
{
	const agentcg_event_t *event;
	const long long since = now();
	unsigned long n = 0, bytes = 0;

	for (;;) {
		check(agentcg_events_next(events, 0, &event));
		if (!event)
			break;
		n++;
		bytes += strlen(event->comm) + strlen(event->cgroup);
	}
	printf("%lu %lld\n", bytes ? n : 0, now() - since);
	agentcg_events_free(events);
}

int main(int argc, char **argv)
{
	agentcg_runtime_options_t where;
	agentcg_runtime_t *runtime;
	agentcg_session_t *session;
	agentcg_events_t *events = NULL;
	char line[100];
	int n;

	if (argc != 2)
		return 2;
	agentcg_runtime_options_init(&where, sizeof(where));
	where.root = argv[1];
	check(agentcg_runtime_new(&where, &runtime));
	check(agentcg_session_open(runtime, "bench", NULL, &session));
	while (fgets(line, sizeof(line), stdin)) {
		if (sscanf(line, "run %d", &n) == 1)
			calls(session, 0, n);
		else if (sscanf(line, "spawn %d", &n) == 1)
			calls(session, 1, n);
		else if (!strcmp(line, "open\n"))
			events = open_events(runtime), puts("ok");
		else if (!strcmp(line, "read\n") && events)
			read_events(events), events = NULL;
		else
			return 2;
		fflush(stdout);
	}
	agentcg_session_free(session);
	agentcg_runtime_free(runtime);
	return 0;
}
