package agentcg

// #include <agentcg.h>
import "C"

import (
	goruntime "runtime"
	"sync"
	"time"
	"unsafe"
)

// Priority is how a session stands against the others when CPU or memory is short.
type Priority uint32

// The priorities; the zero value is Normal.
const (
	Normal Priority = C.AGENTCG_PRIORITY_NORMAL
	High   Priority = C.AGENTCG_PRIORITY_HIGH
	Low    Priority = C.AGENTCG_PRIORITY_LOW
)

// SessionConfig is the priority and the limits of a session. Its zero value limits nothing.
type SessionConfig struct {
	Priority Priority
	Limits            // of the whole session
	Agent    Limits   // of the cgroup agent, in which the harness lives beside its tool calls
	Call     Limits   // of each tool call that does not say otherwise
	Capacity Capacity // what the calls of the session may need together; others wait
	// What memory:low, medium and high mean in a hint, bytes; 0: 512 MiB, 2 GiB, 8 GiB.
	HintLow, HintMedium, HintHigh uint64
	TimeMax                       time.Duration // the longest time that a hint may ask for; 0: any
}

// Session is one agent's cgroup.
type Session struct {
	h          handle
	name, path string

	mu     sync.Mutex
	starts map[*canceller]struct{} // of calls that are being started; nil when it is closed
}

// Session makes a session: the cgroup name below the root. A limit whose controller is missing is
// ErrUnsupported.
func (r *Runtime) Session(name string, config SessionConfig) (*Session, error) {
	var a arena
	defer a.free()
	var options C.agentcg_session_options_t
	C.agentcg_session_options_init(&options, C.size_t(unsafe.Sizeof(options)))
	options.priority = C.uint32_t(config.Priority)
	options.limits = config.Limits.c(&a)
	options.agent_limits = config.Agent.c(&a)
	options.call_limits = config.Call.c(&a)
	options.capacity_memory, options.capacity_calls, options.capacity_cpus = config.Capacity.c()
	for _, hint := range []struct {
		bytes uint64
		place *C.uint64_t
	}{
		{config.HintLow, &options.hint_low},
		{config.HintMedium, &options.hint_medium},
		{config.HintHigh, &options.hint_high},
	} {
		if hint.bytes != 0 {
			*hint.place = C.uint64_t(hint.bytes)
		}
	}
	timeMax, err := milliseconds("TimeMax", config.TimeMax)
	if err != nil {
		return nil, err
	}
	options.time_max_ms = timeMax
	cname := a.string(name)
	if a.err != nil {
		return nil, a.err
	}
	s := &Session{name: name, starts: map[*canceller]struct{}{}}
	err = r.with(func(r2 *C.agentcg_runtime_t) error {
		var c *C.agentcg_session_t
		if err := check(C.agentcg_session_open(r2, cname, &options, &c)); err != nil {
			return err
		}
		s.path = C.GoString(C.agentcg_session_path(c))
		s.h.set(unsafe.Pointer(c), r.h.log, func(c unsafe.Pointer) { C.agentcg_session_free((*C.agentcg_session_t)(c)) })
		return nil
	})
	if err != nil {
		return nil, err
	}
	goruntime.SetFinalizer(s, (*Session).Close)
	return s, nil
}

func (s *Session) with(f func(*C.agentcg_session_t) error) error {
	defer goruntime.KeepAlive(s)
	return s.h.with(func(c unsafe.Pointer) error { return f((*C.agentcg_session_t)(c)) })
}

// starting is with, for what starts a call and may wait for it to be admitted: the end of the session
// is the end of the wait.
func (s *Session) starting(c *canceller, f func(*C.agentcg_session_t) error) error {
	s.mu.Lock()
	if s.starts == nil {
		s.mu.Unlock()
		return errClosed
	}
	s.starts[c] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.starts, c)
		s.mu.Unlock()
	}()
	return s.with(f)
}

// Name is the session's name.
func (s *Session) Name() string {
	return s.name
}

// Path is the cgroup's directory.
func (s *Session) Path() string {
	return s.path
}

// SetLimits changes limits while the session runs; what is unset stays as it is.
func (s *Session) SetLimits(limits Limits) error {
	var a arena
	defer a.free()
	climits := limits.c(&a)
	if a.err != nil {
		return a.err
	}
	return s.with(func(s *C.agentcg_session_t) error {
		return check(C.agentcg_session_set_limits(s, climits))
	})
}

// MoveAgent moves the harness itself into the session's cgroup agent, and makes it the last that the
// OOM killer takes.
func (s *Session) MoveAgent(pid int) error {
	return s.with(func(s *C.agentcg_session_t) error {
		return check(C.agentcg_session_move_agent(s, C.int32_t(pid)))
	})
}

// Usage reads what the session and its calls have used so far.
func (s *Session) Usage() (*Usage, error) {
	var usage *Usage
	err := s.with(func(s *C.agentcg_session_t) (err error) {
		usage, err = readUsage(
			func(u *C.agentcg_usage_t, size C.size_t) *C.agentcg_error_t {
				return C.agentcg_session_usage(s, u, size)
			},
			func(text **C.char) *C.agentcg_error_t { return C.agentcg_session_usage_json(s, text) },
		)
		return err
	})
	return usage, err
}

// Freeze stops all processes of the session where they are, tool calls included. Do not freeze the
// session that you are in.
func (s *Session) Freeze() error {
	return s.freeze(true)
}

// Thaw lets them go on.
func (s *Session) Thaw() error {
	return s.freeze(false)
}

func (s *Session) freeze(frozen bool) error {
	return s.with(func(s *C.agentcg_session_t) error {
		return check(C.agentcg_session_freeze(s, C.bool(frozen)))
	})
}

// KillCalls kills the tool calls of the session, all of them, and what they left in the background.
// The harness lives.
func (s *Session) KillCalls() error {
	return s.with(func(s *C.agentcg_session_t) error {
		return check(C.agentcg_session_kill_calls(s))
	})
}

// Kill kills every process of the session, the harness included. Do not kill the session that you are
// in.
func (s *Session) Kill() error {
	return s.with(func(s *C.agentcg_session_t) error {
		return check(C.agentcg_session_kill(s))
	})
}

// Close kills the tool calls that run, and those that wait to be admitted, moves other processes back
// to where they came from and removes the cgroup.
func (s *Session) Close() error {
	goruntime.SetFinalizer(s, nil)
	s.mu.Lock()
	for c := range s.starts {
		c.cancel()
	}
	s.starts = nil
	s.mu.Unlock()
	s.h.close()
	return nil
}
