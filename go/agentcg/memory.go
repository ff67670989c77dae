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

// StuckAction is what is done about a cgroup that stands still above its memory.high.
type StuckAction uint32

// What is done; the zero value only tells, in the statistics and the log.
const (
	ReportStuck StuckAction = C.AGENTCG_STUCK_REPORT
	FreezeStuck StuckAction = C.AGENTCG_STUCK_FREEZE // until the protection ends
	LiftStuck   StuckAction = C.AGENTCG_STUCK_LIFT   // memory.high to max, until the protection ends
)

// MemoryRole is on which side of the protection a cgroup is.
type MemoryRole uint32

// The sides.
const (
	HighMemory MemoryRole = C.AGENTCG_MEMORY_HIGH
	LowMemory  MemoryRole = C.AGENTCG_MEMORY_LOW
)

// MemcgConfig is whom to protect against whom, and how. Begin with DefaultMemcgConfig: zero means
// something for most of it.
type MemcgConfig struct {
	High      []string      // cgroups to protect
	Low       []string      // cgroups to hold back while a high one stalls
	Delay     time.Duration // of an allocation of a low one, at most 2 s; 0 leaves them alone
	Window    time.Duration // how long protection lasts after the last stall, 100 ms to 60 s
	Threshold uint64        // page faults a second that count as a stall; needs kernel 6.16, 0: none
	Backend   MemoryBackend
	BelowLow  bool // protect with memory.low
	BelowMin  bool // protect with memory.min, at the risk that others are killed
	Freeze    bool // freeze low ones for a part of the time when nothing else helps

	StuckAfter time.Duration // at memory.high without progress, 5 s or more: stuck
	WhenStuck  StuckAction
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
		Freeze:    bool(c.freeze),

		StuckAfter: time.Duration(c.stuck_after_ms) * time.Millisecond,
		WhenStuck:  StuckAction(c.when_stuck),
	}
}

// ProtectionWindow is a time during which the high cgroups were protected.
type ProtectionWindow struct {
	StartedAt  time.Time `json:"started_at"`
	DurationMs uint64    `json:"duration_ms"` // up to now for the one that is open
	BecauseOf  string    `json:"because_of"`  // the cgroup whose stall opened it
	Stalls     uint64    `json:"stalls"`
}

// MemorySessionStats is what was done for or with one cgroup. Fields that do not apply to its role
// stay 0.
type MemorySessionStats struct {
	Cgroup      string `json:"cgroup"`
	Role        string `json:"role"`    // high or low
	Present     bool   `json:"present"` // false while it does not exist
	Active      bool   `json:"active"`  // it is protected, or slowed, now
	Stalls      uint64 `json:"stalls"`
	ProtectedMs uint64 `json:"protected_ms"`
	WorkingSet  uint64 `json:"working_set"` // high: what it needs to run without stalls, bytes
	Part        uint64 `json:"part"`        // low: what it may have while a high one hurts, bytes
	Calls       uint64 `json:"calls"`       // questions of the kernel to the BPF hooks
	Answered    uint64 `json:"answered"`    // those answered with protection or a delay
	DelayMs     uint64 `json:"delay_ms"`    // these delays together
	Held        uint64 `json:"held"`        // low: times its memory.high was set
	Yielded     uint64 `json:"yielded"`     // low: times its cpu.weight was lowered
	Braked      uint64 `json:"braked"`      // low: times the scheduler was told to hold it back
	Reclaimed   uint64 `json:"reclaimed"`   // low: bytes reclaimed from it
	FrozenMs    uint64 `json:"frozen_ms"`   // low: the time it was frozen
}

// StuckCgroup is a cgroup that its own memory.high has brought to a standstill.
type StuckCgroup struct {
	At            time.Time `json:"at"`
	Cgroup        string    `json:"cgroup"`
	DurationMs    uint64    `json:"duration_ms"`
	HighEvents    uint64    `json:"high_events"` // how often it met its memory.high meanwhile
	UserMs        uint64    `json:"user_ms"`     // CPU time in user mode meanwhile
	MemoryCurrent uint64    `json:"memory_current"`
	MemoryHigh    uint64    `json:"memory_high"`
	Action        string    `json:"action"` // report, freeze or lift
}

// MemoryStats is what a protection has done so far.
type MemoryStats struct {
	Active      bool                 `json:"active"` // a window is open now
	Stalls      uint64               `json:"stalls"`
	Ignored     uint64               `json:"ignored"` // stalls at the cgroup's own limit
	Windows     uint64               `json:"windows"`
	ProtectedMs uint64               `json:"protected_ms"`
	Sessions    []MemorySessionStats `json:"sessions"`
	Stuck       []StuckCgroup        `json:"stuck"`
	Recent      []ProtectionWindow   `json:"recent"`
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
	if options.stuck_after_ms, err = roundUp("StuckAfter", config.StuckAfter); err != nil {
		return nil, err
	}
	options.when_stuck = C.uint32_t(config.WhenStuck)
	options.freeze = C.bool(config.Freeze)
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

// Add takes one more cgroup up. One that is removed later is taken up again when it comes back.
func (m *MemoryProtection) Add(cgroup string, role MemoryRole) error {
	return m.on(cgroup, func(c *C.agentcg_memory_t, path *C.char) *C.agentcg_error_t {
		return C.agentcg_memory_add(c, path, C.uint32_t(role))
	})
}

// Remove lets go of a cgroup; what was changed in it is put back.
func (m *MemoryProtection) Remove(cgroup string) error {
	return m.on(cgroup, func(c *C.agentcg_memory_t, path *C.char) *C.agentcg_error_t {
		return C.agentcg_memory_remove(c, path)
	})
}

func (m *MemoryProtection) on(cgroup string, do func(*C.agentcg_memory_t, *C.char) *C.agentcg_error_t) error {
	defer goruntime.KeepAlive(m)
	var a arena
	defer a.free()
	path := a.string(cgroup)
	if a.err != nil {
		return a.err
	}
	return m.h.with(func(c unsafe.Pointer) error {
		return check(do((*C.agentcg_memory_t)(c), path))
	})
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
