package agentcg

// #include <agentcg.h>
import "C"

import (
	goruntime "runtime"
	"time"
	"unsafe"
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
	h handle
}

// StartScheduler attaches a CPU scheduler that shares the CPU by cpu.weight; it needs root and a
// kernel with sched_ext.
func (r *Runtime) StartScheduler(config SchedulerConfig) (*Scheduler, error) {
	var options C.agentcg_scheduler_options_t
	C.agentcg_scheduler_options_init(&options, C.size_t(unsafe.Sizeof(options)))
	if config.Slice != 0 {
		options.slice_us = C.uint64_t(config.Slice.Microseconds())
	}
	options.scope = C.uint32_t(config.Scope)
	s := &Scheduler{}
	err := r.with(func(r2 *C.agentcg_runtime_t) error {
		var c *C.agentcg_scheduler_t
		if err := check(C.agentcg_start_scheduler(r2, &options, &c)); err != nil {
			return err
		}
		s.h.set(unsafe.Pointer(c), r.h.log, func(c unsafe.Pointer) { C.agentcg_scheduler_free((*C.agentcg_scheduler_t)(c)) })
		return nil
	})
	if err != nil {
		return nil, err
	}
	goruntime.SetFinalizer(s, (*Scheduler).Close)
	return s, nil
}

func (s *Scheduler) alone(f func(*C.agentcg_scheduler_t) error) error {
	defer goruntime.KeepAlive(s)
	return s.h.alone(func(c unsafe.Pointer) error { return f((*C.agentcg_scheduler_t)(c)) })
}

// Exited says why the kernel detached the scheduler; nil while it is attached.
func (s *Scheduler) Exited() (*SchedulerExit, error) {
	var exit *SchedulerExit
	err := s.alone(func(c *C.agentcg_scheduler_t) error {
		var text *C.char
		if err := check(C.agentcg_scheduler_exited(c, &text)); err != nil || text == nil {
			return err
		}
		exit = &SchedulerExit{}
		return decode(text, exit)
	})
	return exit, err
}

// Stats reads the counters.
func (s *Scheduler) Stats() (SchedulerStats, error) {
	var stats SchedulerStats
	err := s.alone(func(c *C.agentcg_scheduler_t) error {
		var text *C.char
		if err := check(C.agentcg_scheduler_stats_json(c, &text)); err != nil {
			return err
		}
		return decode(text, &stats)
	})
	return stats, err
}

// Close detaches the scheduler; the kernel's own takes over.
func (s *Scheduler) Close() error {
	goruntime.SetFinalizer(s, nil)
	s.h.close()
	return nil
}
