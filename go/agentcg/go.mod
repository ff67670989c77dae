module agentcg

go 1.19
