package agentcg

// #include <agentcg.h>
import "C"

import "unsafe"

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

// ParseLimit reads a size as people write it: 512M, 1.5G, 4096, max. K, M and G are powers of 1024.
func ParseLimit(text string) (Limit, error) {
	var a arena
	defer a.free()
	ctext := a.string(text)
	if a.err != nil {
		return Limit{}, a.err
	}
	var bytes C.uint64_t
	err := check(C.agentcg_parse_limit(ctext, &bytes))
	return Limit{err == nil, uint64(bytes)}, err
}

func (l Limit) c() C.uint64_t {
	if !l.set {
		return C.AGENTCG_UNSET
	}
	return C.uint64_t(l.value)
}

// Limits is what a session or a tool call may take. Its zero value limits nothing.
type Limits struct {
	MemoryMin  Limit    // memory.min: never reclaimed
	MemoryLow  Limit    // memory.low: reclaimed only when nothing else is left
	MemoryHigh Limit    // memory.high: above it the processes are slowed and reclaimed
	MemoryMax  Limit    // memory.max: above it the OOM killer comes
	SwapMax    Limit    // memory.swap.max
	PidsMax    Limit    // pids.max: processes and threads
	CPUMax     float64  // cpu.max, CPUs' worth of time; 0: no limit
	CPUWeight  uint32   // cpu.weight, 1 to 10000; 0: that of the priority
	IOWeight   uint32   // io.weight, 1 to 10000; 0: as it is
	IOMax      []string // lines of io.max: "259:0 rbps=10M wiops=100"
}

// c copies the limits to C.
func (l *Limits) c(a *arena) *C.agentcg_limits_t {
	c := (*C.agentcg_limits_t)(a.alloc(unsafe.Sizeof(C.agentcg_limits_t{})))
	C.agentcg_limits_init(c, C.size_t(unsafe.Sizeof(*c)))
	c.memory_min = l.MemoryMin.c()
	c.memory_low = l.MemoryLow.c()
	c.memory_high = l.MemoryHigh.c()
	c.memory_max = l.MemoryMax.c()
	c.swap_max = l.SwapMax.c()
	c.pids_max = l.PidsMax.c()
	c.cpu_max = C.double(l.CPUMax)
	c.cpu_weight = C.uint32_t(l.CPUWeight)
	c.io_weight = C.uint32_t(l.IOWeight)
	c.io_max = a.list(l.IOMax)
	c.nr_io_max = C.size_t(len(l.IOMax))
	return c
}

// Capacity is what tool calls may need together, by their limits. Zero is not bounded.
type Capacity struct {
	Memory uint64  // bytes
	CPUs   float64 // to the thousandth
	Calls  uint64  // at the same time
}

func (c Capacity) c() (memory, calls C.uint64_t, cpus C.double) {
	return unset(c.Memory), unset(c.Calls), C.double(c.CPUs)
}

// unset is for numbers of which zero is no value.
func unset(n uint64) C.uint64_t {
	if n == 0 {
		return C.AGENTCG_UNSET
	}
	return C.uint64_t(n)
}
