package agentcg

// #include <agentcg.h>
import "C"

import (
	"os"
	"sync"
	"time"
)

// SchedulerScope says which tasks the scheduler takes over.
type SchedulerScope uint32

// The scopes; the zero value is AllTasks.
const (
	AllTasks   SchedulerScope = C.AGENTCG_SCHEDULER_ALL
	AgentTasks SchedulerScope = C.AGENTCG_SCHEDULER_AGENTS // those in sessions, and their children
)

// SchedulerConfig is how to schedule. Its zero value is the default.
type SchedulerConfig struct {
	Slice time.Duration // how long a task runs before others are looked at, 100 µs to 1 s; 0: 5 ms
	Scope SchedulerScope
}

// SchedulerStats are counters since the scheduler was attached.
type SchedulerStats struct {
	Direct    uint64 `json:"direct"`    // wake-ups that went straight to an idle CPU
	Queued    uint64 `json:"queued"`    // tasks put into the queue
	Kept      uint64 `json:"kept"`      // times a task went on running because nobody stood before it
	Displaced uint64 `json:"displaced"` // times a CPU had to choose again because another put back a task that came first
}

// SchedulerExit is why the kernel detached a scheduler, in its words.
type SchedulerExit struct {
	Kind    string `json:"kind"` // detached, error, stall, ...
	Code    int64  `json:"code"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
	Dump    string `json:"dump"`
}

// Scheduler is an attached sched_ext scheduler.
type Scheduler struct {
	mu sync.Mutex
	c  *C.agentcg_scheduler_t
}

// StartScheduler attaches a CPU scheduler that shares the CPU by cpu.weight; it needs root and a
// kernel with sched_ext.
func (r *Runtime) StartScheduler(config SchedulerConfig) (*Scheduler, error) {
	var cconfig C.agentcg_scheduler_config_t
	C.agentcg_scheduler_config_init(&cconfig)
	if config.Slice != 0 {
		cconfig.slice_us = C.uint64_t(config.Slice.Microseconds())
	}
	cconfig.scope = C.uint32_t(config.Scope)
	s := &Scheduler{}
	err := r.with(func(c *C.agentcg_runtime_t) error {
		return check(C.agentcg_start_scheduler(c, &cconfig, &s.c))
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Exited says why the kernel detached the scheduler; nil while it is attached.
func (s *Scheduler) Exited() (*SchedulerExit, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c == nil {
		return nil, os.ErrClosed
	}
	var text *C.char
	if err := check(C.agentcg_scheduler_exited(s.c, &text)); err != nil || text == nil {
		return nil, err
	}
	exit := &SchedulerExit{}
	return exit, decode(text, exit)
}

// Stats reads the counters.
func (s *Scheduler) Stats() (SchedulerStats, error) {
	var stats SchedulerStats
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c == nil {
		return stats, os.ErrClosed
	}
	var text *C.char
	if err := check(C.agentcg_scheduler_stats_json(s.c, &text)); err != nil {
		return stats, err
	}
	return stats, decode(text, &stats)
}

// Close detaches the scheduler; the kernel's own takes over.
func (s *Scheduler) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	C.agentcg_scheduler_free(s.c)
	s.c = nil
	return nil
}
