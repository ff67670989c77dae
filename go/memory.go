package agentcg

// #include <agentcg.h>
import "C"

import (
	"os"
	"sync"
	"time"
)

// MemoryBackend is the mechanism behind memory protection.
type MemoryBackend uint32

// The mechanisms; the zero value is the best that there is.
const (
	AutoBackend        MemoryBackend = C.AGENTCG_MEMORY_AUTO
	MemcgBpfOpsBackend MemoryBackend = C.AGENTCG_MEMORY_MEMCG_BPF_OPS
	CgroupBackend      MemoryBackend = C.AGENTCG_MEMORY_CGROUP
)

// MemcgConfig is whom to protect against whom, and how. Begin with DefaultMemcgConfig: zero means
// something for most of it.
type MemcgConfig struct {
	High      []string      // cgroups to protect
	Low       []string      // cgroups to hold back while a high one stalls
	Delay     time.Duration // of an allocation of a low one, at most 2 s; 0 leaves them alone
	Window    time.Duration // how long protection lasts after the last stall, 100 ms to 60 s
	Threshold uint64        // major faults and refaults that a stall must have to count
	Backend   MemoryBackend
	BelowLow  bool // protect with memory.low
	BelowMin  bool // protect with memory.min, at the risk that others are killed
}

// DefaultMemcgConfig is the default, with nobody to protect.
func DefaultMemcgConfig() MemcgConfig {
	var c C.agentcg_memcg_config_t
	C.agentcg_memcg_config_init(&c)
	return MemcgConfig{
		Delay:     time.Duration(c.delay_ms) * time.Millisecond,
		Window:    time.Duration(c.window_ms) * time.Millisecond,
		Threshold: uint64(c.threshold),
		Backend:   MemoryBackend(c.backend),
		BelowLow:  bool(c.below_low),
		BelowMin:  bool(c.below_min),
	}
}

// ProtectionWindow is a time during which the high cgroups were protected.
type ProtectionWindow struct {
	StartedAt  time.Time `json:"started_at"`
	DurationMs uint64    `json:"duration_ms"` // up to now for the one that is open
	BecauseOf  string    `json:"because_of"`  // the cgroup whose stall opened it
	Stalls     uint64    `json:"stalls"`
}

// MemoryStats is what a protection has done so far.
type MemoryStats struct {
	Active      bool               `json:"active"` // a window is open now
	Stalls      uint64             `json:"stalls"`
	Ignored     uint64             `json:"ignored"` // below the threshold
	Windows     uint64             `json:"windows"`
	ProtectedMs uint64             `json:"protected_ms"`
	Recent      []ProtectionWindow `json:"recent"`
}

// MemoryProtection is running memory protection.
type MemoryProtection struct {
	mu sync.RWMutex
	c  *C.agentcg_memory_t
}

// AttachMemcgOps protects the memory of the high cgroups against the low ones while they stall.
func (r *Runtime) AttachMemcgOps(config MemcgConfig) (*MemoryProtection, error) {
	high, freeHigh := cstrings(config.High)
	defer freeHigh()
	low, freeLow := cstrings(config.Low)
	defer freeLow()
	cconfig := C.agentcg_memcg_config_t{
		high:      high,
		nr_high:   C.size_t(len(config.High)),
		low:       low,
		nr_low:    C.size_t(len(config.Low)),
		delay_ms:  C.uint64_t(config.Delay.Milliseconds()),
		window_ms: C.uint64_t(config.Window.Milliseconds()),
		threshold: C.uint64_t(config.Threshold),
		backend:   C.uint32_t(config.Backend),
		below_low: C.bool(config.BelowLow),
		below_min: C.bool(config.BelowMin),
	}
	m := &MemoryProtection{}
	err := r.with(func(c *C.agentcg_runtime_t) error {
		return check(C.agentcg_attach_memcg_ops(c, &cconfig, &m.c))
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

// Stats says what it has done so far.
func (m *MemoryProtection) Stats() (*MemoryStats, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.c == nil {
		return nil, os.ErrClosed
	}
	var text *C.char
	if err := check(C.agentcg_memory_stats_json(m.c, &text)); err != nil {
		return nil, err
	}
	stats := &MemoryStats{}
	return stats, decode(text, stats)
}

// Close ends the protection and puts back every value that it changed.
func (m *MemoryProtection) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	C.agentcg_memory_free(m.c)
	m.c = nil
	return nil
}
