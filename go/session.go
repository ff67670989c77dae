package agentcg

// #include <agentcg.h>
// #include <stdlib.h>
import "C"

import (
	"os"
	"sync"
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

// Limit is a limit that may be left as the kernel has it: its zero value.
type Limit struct {
	set   bool
	value uint64
}

// Unlimited is no limit: max in the kernel's file.
var Unlimited = Limit{true, C.AGENTCG_UNLIMITED}

// LimitOf is a limit in bytes, or in processes for PidsMax. Zero is a limit too.
func LimitOf(n uint64) Limit {
	return Limit{true, n}
}

func (l Limit) c() C.uint64_t {
	if !l.set {
		return C.AGENTCG_UNSET
	}
	return C.uint64_t(l.value)
}

// SessionConfig is the priority and the limits of a session. Its zero value limits nothing.
type SessionConfig struct {
	Priority   Priority
	CPUWeight  uint32  // cpu.weight, 1 to 10000; 0: that of the priority
	CPUMax     float64 // cpu.max, CPUs' worth of time; 0: no limit
	MemoryLow  Limit   // memory.low
	MemoryHigh Limit   // memory.high
	MemoryMax  Limit   // memory.max
	SwapMax    Limit   // memory.swap.max
	PidsMax    Limit   // pids.max
}

// Usage is what a cgroup and all below it have used so far. Nil: the kernel did not give it; then
// Unavailable has the reason, by the name of the JSON member.
type Usage struct {
	CPUUser       *uint64           `json:"cpu_user_us"`
	CPUSystem     *uint64           `json:"cpu_system_us"`
	CPUThrottled  *uint64           `json:"cpu_throttled_us"` // held back by its own cpu.max
	CPUStall      *uint64           `json:"cpu_stall_us"`     // some task waited for a CPU
	MemoryCurrent *uint64           `json:"memory_current_bytes"`
	MemoryPeak    *uint64           `json:"memory_peak_bytes"`
	SwapPeak      *uint64           `json:"swap_peak_bytes"`
	MemoryStall   *uint64           `json:"memory_stall_us"`    // some task waited for memory
	MemoryHigh    *uint64           `json:"memory_high_events"` // slowed at its own memory.high
	OOMKills      *uint64           `json:"oom_kills"`
	IORead        *uint64           `json:"io_read_bytes"`
	IOWrite       *uint64           `json:"io_write_bytes"`
	IOStall       *uint64           `json:"io_stall_us"` // some task waited for I/O
	PidsPeak      *uint64           `json:"pids_peak"`
	Unavailable   map[string]string `json:"unavailable"`
}

// Session is one agent's cgroup.
type Session struct {
	mu   sync.RWMutex
	c    *C.agentcg_session_t
	path string
}

// OpenSession makes a session: the cgroup name below the root. A limit whose controller is missing
// is ErrUnsupported.
func (r *Runtime) OpenSession(name string, config SessionConfig) (*Session, error) {
	cname := C.CString(name)
	defer C.free(unsafe.Pointer(cname))
	cconfig := C.agentcg_session_config_t{
		priority:    C.uint32_t(config.Priority),
		cpu_weight:  C.uint32_t(config.CPUWeight),
		cpu_max:     C.double(config.CPUMax),
		memory_low:  config.MemoryLow.c(),
		memory_high: config.MemoryHigh.c(),
		memory_max:  config.MemoryMax.c(),
		swap_max:    config.SwapMax.c(),
		pids_max:    config.PidsMax.c(),
	}
	s := &Session{}
	err := r.with(func(c *C.agentcg_runtime_t) error {
		return check(C.agentcg_session_open(c, cname, &cconfig, &s.c))
	})
	if err != nil {
		return nil, err
	}
	s.path = C.GoString(C.agentcg_session_path(s.c))
	return s, nil
}

// Path is the cgroup's directory.
func (s *Session) Path() string {
	return s.path
}

// Usage reads what the session has used so far.
func (s *Session) Usage() (*Usage, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.c == nil {
		return nil, os.ErrClosed
	}
	var text *C.char
	if err := check(C.agentcg_session_usage_json(s.c, &text)); err != nil {
		return nil, err
	}
	usage := &Usage{}
	return usage, decode(text, usage)
}

// Close moves the processes that are left back to where they came from and removes the cgroup.
func (s *Session) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	C.agentcg_session_free(s.c)
	s.c = nil
	return nil
}
