package agentcg

// #include <agentcg.h>
import "C"

import (
	goruntime "runtime"
	"time"
	"unsafe"
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
	var c C.agentcg_memcg_options_t
	C.agentcg_memcg_options_init(&c, C.size_t(unsafe.Sizeof(c)))
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
	h       handle
	backend string
}

// AttachMemcgOps protects the memory of the high cgroups against the low ones while they stall.
func (r *Runtime) AttachMemcgOps(config MemcgConfig) (*MemoryProtection, error) {
	var a arena
	defer a.free()
	var options C.agentcg_memcg_options_t
	C.agentcg_memcg_options_init(&options, C.size_t(unsafe.Sizeof(options)))
	options.high, options.nr_high = a.list(config.High), C.size_t(len(config.High))
	options.low, options.nr_low = a.list(config.Low), C.size_t(len(config.Low))
	var err error
	if options.delay_ms, err = roundUp("Delay", config.Delay); err != nil {
		return nil, err
	}
	if options.window_ms, err = roundUp("Window", config.Window); err != nil {
		return nil, err
	}
	options.threshold = C.uint64_t(config.Threshold)
	options.backend = C.uint32_t(config.Backend)
	options.below_low = C.bool(config.BelowLow)
	options.below_min = C.bool(config.BelowMin)
	if a.err != nil {
		return nil, a.err
	}
	m := &MemoryProtection{}
	err = r.with(func(r2 *C.agentcg_runtime_t) error {
		var c *C.agentcg_memory_t
		if err := check(C.agentcg_attach_memcg_ops(r2, &options, &c)); err != nil {
			return err
		}
		m.backend = C.GoString(C.agentcg_memory_backend(c))
		m.h.set(unsafe.Pointer(c), r.h.log, func(c unsafe.Pointer) { C.agentcg_memory_free((*C.agentcg_memory_t)(c)) })
		return nil
	})
	if err != nil {
		return nil, err
	}
	goruntime.SetFinalizer(m, (*MemoryProtection).Close)
	return m, nil
}

// Backend is the name of the mechanism in use: memcg_bpf_ops or cgroup.
func (m *MemoryProtection) Backend() string {
	return m.backend
}

// Stats says what it has done so far.
func (m *MemoryProtection) Stats() (*MemoryStats, error) {
	defer goruntime.KeepAlive(m)
	stats := &MemoryStats{}
	err := m.h.with(func(c unsafe.Pointer) error {
		var text *C.char
		if err := check(C.agentcg_memory_stats_json((*C.agentcg_memory_t)(c), &text)); err != nil {
			return err
		}
		return decode(text, stats)
	})
	if err != nil {
		return nil, err
	}
	return stats, nil
}

// Close ends the protection and puts back every value that it changed.
func (m *MemoryProtection) Close() error {
	goruntime.SetFinalizer(m, nil)
	m.h.close()
	return nil
}
