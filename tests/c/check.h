/* What the programs of the C tests share. */

#ifndef CHECK_H
#define CHECK_H

#include <agentcg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                           \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);    \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

static inline void ok_at(int line, agentcg_error_t *error)
{
	if (error) {
		fprintf(stderr, "line %d: %s\n", line, agentcg_error_message(error));
		exit(1);
	}
}
#define OK(call) ok_at(__LINE__, call)

static inline void fails_at(int line, agentcg_error_t *error, agentcg_error_code_t code,
			    const char *text)
{
	if (agentcg_error_code(error) != code || !strstr(agentcg_error_message(error), text)) {
		fprintf(stderr, "line %d: expected error %d, \"%s\"; got %d, \"%s\"\n", line, code,
			text, agentcg_error_code(error), agentcg_error_message(error));
		exit(1);
	}
	agentcg_error_free(error);
}
#define FAILS(call, code, text) fails_at(__LINE__, call, AGENTCG_ERROR_##code, text)

static inline int supported(const char *name)
{
	char *json, wanted[100];

	OK(agentcg_capabilities_json(&json));
	snprintf(wanted, sizeof(wanted), "{\"name\":\"%s\",\"supported\":true", name);
	const int found = strstr(json, wanted) != NULL;
	agentcg_string_free(json);
	return found;
}

static inline agentcg_runtime_t *runtime_at(const char *root)
{
	agentcg_runtime_options_t options;
	agentcg_runtime_t *runtime;

	agentcg_runtime_options_init(&options, sizeof(options));
	options.root = root;
	OK(agentcg_runtime_new(&options, &runtime));
	CHECK(!strcmp(agentcg_runtime_path(runtime), root));
	return runtime;
}

#endif
