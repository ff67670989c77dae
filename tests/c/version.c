/* The least that a program can do with libagentcg; also compiled as C++. */

#include <agentcg.h>
#include <stdio.h>

int main(void)
{
	return puts(agentcg_version()) < 0;
}
