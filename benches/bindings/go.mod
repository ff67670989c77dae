module bench

go 1.19

require agentcg v0.0.0

replace agentcg => ../../go/agentcg
