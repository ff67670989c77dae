package agentcg

// #include <agentcg.h>
//
// // What an outcome says: all at once, for each way into C and back takes its time.
// typedef struct {
// 	agentcg_usage_t usage;
// 	agentcg_cause_t cause;
// 	agentcg_output_t output[2];
// 	const agentcg_error_t *error;
// 	const char *advice, *json;
// 	uint64_t duration_us, queued_us;
// 	uint32_t verdict;
// 	int32_t exit_code, signal;
// 	bool has_cause, has_output[2];
// } outcome_t;
//
// static void read_outcome(const agentcg_outcome_t *from, outcome_t *to)
// {
// 	agentcg_outcome_usage(from, &to->usage, sizeof(to->usage));
// 	to->has_cause = agentcg_outcome_cause(from, &to->cause, sizeof(to->cause));
// 	for (int i = 0; i < 2; i++)
// 		to->has_output[i] = agentcg_outcome_output(from, i + 1, &to->output[i], sizeof(to->output[i]));
// 	to->error = agentcg_outcome_error(from);
// 	to->advice = agentcg_outcome_advice(from);
// 	to->json = agentcg_outcome_json(from);
// 	to->duration_us = agentcg_outcome_duration_us(from);
// 	to->queued_us = agentcg_outcome_queued_us(from);
// 	to->verdict = agentcg_outcome_verdict(from);
// 	to->exit_code = agentcg_outcome_exit_code(from);
// 	to->signal = agentcg_outcome_signal(from);
// }
import "C"

import (
	"encoding/json"
	"syscall"
	"time"
	"unsafe"
)

// Verdict is what a call came to, in one word.
type Verdict uint32

// The verdicts.
const (
	Completed     Verdict = C.AGENTCG_VERDICT_COMPLETED      // status 0, and nothing of it was killed
	Failed        Verdict = C.AGENTCG_VERDICT_FAILED         // another status
	Signaled      Verdict = C.AGENTCG_VERDICT_SIGNALED       // a signal that was not ours
	OOMKilled     Verdict = C.AGENTCG_VERDICT_OOM_KILLED     // the OOM killer took a process of it, whatever its status
	TimedOut      Verdict = C.AGENTCG_VERDICT_TIMED_OUT      // its Timeout was over
	PidsExhausted Verdict = C.AGENTCG_VERDICT_PIDS_EXHAUSTED // it failed, and forks had been refused
	Cancelled     Verdict = C.AGENTCG_VERDICT_CANCELLED      // by its context, Cancel, Kill or agentcg kill
	SpawnFailed   Verdict = C.AGENTCG_VERDICT_SPAWN_FAILED   // never started
)

// String is the name that the JSON has: oom_killed.
func (v Verdict) String() string {
	return C.GoString(C.agentcg_verdict_name(C.uint32_t(v)))
}

// Scope is the level of the cgroup tree whose limit was met.
type Scope uint32

// The levels.
const (
	OfCall     Scope = C.AGENTCG_SCOPE_CALL
	OfSession  Scope = C.AGENTCG_SCOPE_SESSION
	OfAncestor Scope = C.AGENTCG_SCOPE_ANCESTOR
	OfHost     Scope = C.AGENTCG_SCOPE_HOST // the machine; in a container also the cgroups that are not visible there
)

// Effect is what a Cause did to the call.
type Effect uint32

// The effects.
const (
	Ended    Effect = C.AGENTCG_EFFECT_ENDED
	Hampered Effect = C.AGENTCG_EFFECT_HAMPERED // slowed it, or took a process of it
	Possible Effect = C.AGENTCG_EFFECT_POSSIBLE // met while it ran, perhaps by others
)

// Cause is the resource that ended or hampered a call.
type Cause struct {
	Limit      string // memory.max, pids.max, ...; timeout; memory for the machine's
	LimitBytes uint64 // 0 for a limit that is no size
	LimitValue float64
	Scope      Scope
	Effect     Effect
	Cgroup     string // whose limit it was, or ""
	VictimPid  int    // whom the OOM killer chose, or 0
	VictimComm string
}

// Output is what was kept of an output: all, or the head and the tail.
type Output struct {
	Bytes []byte
	Total uint64 // bytes written by the call
	CutAt int    // where bytes are missing; -1 when none are
}

// Outcome is what came of a tool call.
type Outcome struct {
	Verdict  Verdict
	ExitCode int            // of the main process; -1 when it has none
	Signal   syscall.Signal // that ended the main process, or 0
	Duration time.Duration  // until the main process had ended
	Queued   time.Duration  // the wait for admission before
	Advice   string         // what an agent should do about it, in words
	Cause    *Cause         // nil: no resource is behind it
	Usage    *Usage
	Stdout   *Output // nil: it was not captured
	Stderr   *Output
	Err      error           // why it was never started
	JSON     json.RawMessage // all of it, as agentcg run --report writes it
}

// Success says that it exited with status 0 and that nothing of it was killed.
func (o *Outcome) Success() bool {
	return o.Verdict == Completed
}

func outcomeOf(from *C.agentcg_outcome_t) *Outcome {
	var c C.outcome_t
	C.read_outcome(from, &c)
	text := C.GoString(c.json)
	o := &Outcome{
		Verdict:  Verdict(c.verdict),
		ExitCode: int(c.exit_code),
		Signal:   syscall.Signal(c.signal),
		Duration: microseconds(c.duration_us),
		Queued:   microseconds(c.queued_us),
		Advice:   C.GoString(c.advice),
		Usage:    usageOf(&c.usage, text),
		Stdout:   outputOf(&c, 0),
		Stderr:   outputOf(&c, 1),
		JSON:     json.RawMessage(text),
	}
	if c.error != nil {
		o.Err = errorOf(c.error)
	}
	if c.has_cause {
		o.Cause = causeOf(&c.cause)
	}
	return o
}

func causeOf(c *C.agentcg_cause_t) *Cause {
	cause := &Cause{
		Limit:      C.GoString(c.limit),
		Scope:      Scope(c.scope),
		Effect:     Effect(c.effect),
		Cgroup:     C.GoString(c.cgroup),
		VictimPid:  int(c.victim_pid),
		VictimComm: C.GoString(c.victim_comm),
	}
	if c.limit_bytes != C.AGENTCG_UNSET {
		cause.LimitBytes = uint64(c.limit_bytes)
	}
	if c.limit_value >= 0 {
		cause.LimitValue = float64(c.limit_value)
	}
	return cause
}

func outputOf(c *C.outcome_t, i int) *Output {
	if !c.has_output[i] {
		return nil
	}
	output := &c.output[i]
	kept := make([]byte, output.length)
	copy(kept, unsafe.Slice((*byte)(unsafe.Pointer(output.bytes)), len(kept)))
	cut := -1
	if output.cut_at != C.SIZE_MAX {
		cut = int(output.cut_at)
	}
	return &Output{Bytes: kept, Total: uint64(output.total), CutAt: cut}
}

func microseconds(n C.uint64_t) time.Duration {
	return time.Duration(n) * time.Microsecond
}

// Usage is what a call or a session used, descendants included. Nil: the kernel did not give it;
// Unavailable has the reason.
type Usage struct {
	MemoryPeak    *uint64        // the most memory at one time, bytes
	MemoryCurrent *uint64        // memory now; only of what still runs
	SwapPeak      *uint64        // the most swap at one time
	MaxRSS        *uint64        // the largest resident set of one process of a call
	CPUUser       *time.Duration // CPU time in user mode
	CPUSystem     *time.Duration // CPU time in the kernel
	CPUThrottled  *time.Duration // held back by its own cpu.max
	CPUStall      *time.Duration // some task waited for a CPU
	MemoryStall   *time.Duration // some task waited for memory
	IOStall       *time.Duration // some task waited for I/O
	IORead        *uint64        // from block devices, bytes
	IOWrite       *uint64
	PidsPeak      *uint64 // the most processes and threads at one time
	MemoryHigh    *uint64 // times it was slowed at its own memory.high
	OOMKills      *uint64 // as the kernel counts: with memory.oom.group the one that it chose most often twice

	json string
}

func usageOf(c *C.agentcg_usage_t, text string) *Usage {
	// In one allocation each.
	numbers, times := new([9]uint64), new([6]time.Duration)
	n, t := 0, 0
	number := func(c C.uint64_t) *uint64 {
		if c == C.AGENTCG_UNSET {
			return nil
		}
		n++
		numbers[n-1] = uint64(c)
		return &numbers[n-1]
	}
	duration := func(c C.uint64_t) *time.Duration {
		if c == C.AGENTCG_UNSET {
			return nil
		}
		t++
		times[t-1] = microseconds(c)
		return &times[t-1]
	}
	return &Usage{
		MemoryPeak:    number(c.memory_peak_bytes),
		MemoryCurrent: number(c.memory_current_bytes),
		SwapPeak:      number(c.swap_peak_bytes),
		MaxRSS:        number(c.max_rss_bytes),
		CPUUser:       duration(c.cpu_user_us),
		CPUSystem:     duration(c.cpu_system_us),
		CPUThrottled:  duration(c.cpu_throttled_us),
		CPUStall:      duration(c.cpu_stall_us),
		MemoryStall:   duration(c.memory_stall_us),
		IOStall:       duration(c.io_stall_us),
		IORead:        number(c.io_read_bytes),
		IOWrite:       number(c.io_write_bytes),
		PidsPeak:      number(c.pids_peak),
		MemoryHigh:    number(c.memory_high_events),
		OOMKills:      number(c.oom_kills),
		json:          text,
	}
}

// readUsage has a usage read twice: its numbers, and why some are missing.
func readUsage(
	numbers func(*C.agentcg_usage_t, C.size_t) *C.agentcg_error_t, reasons func(**C.char) *C.agentcg_error_t,
) (*Usage, error) {
	var c C.agentcg_usage_t
	if err := check(numbers(&c, C.size_t(unsafe.Sizeof(c)))); err != nil {
		return nil, err
	}
	var text *C.char
	if err := check(reasons(&text)); err != nil {
		return nil, err
	}
	defer C.agentcg_string_free(text)
	return usageOf(&c, C.GoString(text)), nil
}

// UnmarshalJSON reads the JSON of the library.
func (u *Usage) UnmarshalJSON(text []byte) error {
	var c C.agentcg_usage_t
	numbers := map[string]*C.uint64_t{
		"memory_peak_bytes": &c.memory_peak_bytes, "memory_current_bytes": &c.memory_current_bytes,
		"swap_peak_bytes": &c.swap_peak_bytes, "max_rss_bytes": &c.max_rss_bytes,
		"cpu_user_us": &c.cpu_user_us, "cpu_system_us": &c.cpu_system_us, "cpu_throttled_us": &c.cpu_throttled_us,
		"cpu_stall_us": &c.cpu_stall_us, "memory_stall_us": &c.memory_stall_us, "io_stall_us": &c.io_stall_us,
		"io_read_bytes": &c.io_read_bytes, "io_write_bytes": &c.io_write_bytes, "pids_peak": &c.pids_peak,
		"memory_high_events": &c.memory_high_events, "oom_kills": &c.oom_kills,
	}
	var given map[string]json.RawMessage
	if err := json.Unmarshal(text, &given); err != nil {
		return err
	}
	for name, place := range numbers {
		*place = C.AGENTCG_UNSET
		if number, there := given[name]; there {
			if err := json.Unmarshal(number, (*uint64)(place)); err != nil {
				return err
			}
		}
	}
	*u = *usageOf(&c, string(text))
	return nil
}

// Unavailable is a reason for each number that is missing, by its name in JSON: swap_peak_bytes.
func (u *Usage) Unavailable() map[string]string {
	var missing struct {
		Unavailable map[string]string `json:"unavailable"`
	}
	// The library's own JSON; of a usage without any there is nothing to say.
	_ = json.Unmarshal([]byte(u.json), &missing)
	return missing.Unavailable
}
