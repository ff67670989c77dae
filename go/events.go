package agentcg

// #include <agentcg.h>
// #include <stdlib.h>
import "C"

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// EventMode says whose events are delivered. A process is tracked when its command, pid, user, cgroup
// or executable is named in the filter, or when its parent was tracked when it forked.
type EventMode uint32

// The modes; the zero value is Everybody.
const (
	Everybody      EventMode = C.AGENTCG_EVENTS_ALL
	FilesOfTracked EventMode = C.AGENTCG_EVENTS_FILES_OF_TRACKED // FILE_OPEN of tracked ones only
	TrackedOnly    EventMode = C.AGENTCG_EVENTS_TRACKED_ONLY
)

// EventKind is a set of kinds of events, as bits.
type EventKind uint32

// The kinds.
const (
	ExecEvents         EventKind = C.AGENTCG_EVENT_EXEC
	ExitEvents         EventKind = C.AGENTCG_EVENT_EXIT
	ForkEvents         EventKind = C.AGENTCG_EVENT_FORK
	FileOpenEvents     EventKind = C.AGENTCG_EVENT_FILE_OPEN // needs tracefs
	BashReadlineEvents EventKind = C.AGENTCG_EVENT_BASH_READLINE
	OOMKillEvents      EventKind = C.AGENTCG_EVENT_OOM_KILL // needs kernel 6.9
)

// AtOnce is no time, for options whose zero value is the default.
const AtOnce time.Duration = -1

// EventFilter is what to report; filtered in the kernel. Its zero value is everything. Times are
// rounded up to milliseconds.
type EventFilter struct {
	Mode        EventMode
	Kinds       EventKind // 0: all
	Commands    []string  // "python" also matches python3 and python3.11
	Pids        []int32
	Cgroups     []string
	UIDs        []uint32
	Executables []string      // what the path given to exec begins with
	MinDuration time.Duration // EXIT is left out for processes that lived less
	Delay       time.Duration // how long an event may wait for others, at most 1 s; AtOnce costs much; 0: 10 ms
	OpenWindow  time.Duration // repeated opens of a path within it become one event; AtOnce: none do; 0: 100 ms
	OpenRate    uint32        // FILE_OPEN events of a thread in a second, more are dropped; 0: 1000
	ArgsBytes   uint32        // arguments are cut beyond this; 0: 16 KiB
	BufferBytes uint32        // the kernel's buffer; 0: 8 MiB
}

// EventStats is what a stream has delivered and what was lost.
type EventStats struct {
	Received    uint64 `json:"received"`     // events delivered, Dropped left out
	RingFull    uint64 `json:"ring_full"`    // lost because the kernel's buffer was full
	RateLimited uint64 `json:"rate_limited"` // file events beyond OpenRate
	ReadFault   uint64 `json:"read_fault"`   // delivered, with a path or arguments missing
	MapFull     uint64 `json:"map_full"`     // processes and opens for which the kernel had no memory
	Recursion   uint64 `json:"recursion"`    // runs of a probe that the kernel skipped
}

// Dropped is how many events were not delivered.
func (s *EventStats) Dropped() uint64 {
	return s.RingFull + s.RateLimited + s.MapFull + s.Recursion
}

// MissingProbe is something that was asked for and that this kernel does not give.
type MissingProbe struct {
	What  string `json:"what"`
	Error string `json:"error"`
}

// Events is a stream of process events, in the order in which the kernel wrote them.
type Events struct {
	mu      sync.Mutex
	c       *C.agentcg_events_t
	missing []MissingProbe
	// A duplicate of the library's descriptor, which Go's network poller waits on: no thread waits.
	ready *os.File
	conn  syscall.RawConn
}

// Subscribe attaches the probes that a filter needs.
func (r *Runtime) Subscribe(filter EventFilter) (*Events, error) {
	e := &Events{}
	err := r.with(func(c *C.agentcg_runtime_t) error {
		return e.open(c, filter)
	})
	if err != nil {
		e.Close()
		return nil, err
	}
	return e, nil
}

func (e *Events) open(c *C.agentcg_runtime_t, filter EventFilter) error {
	var cfilter C.agentcg_event_filter_t
	C.agentcg_event_filter_init(&cfilter)
	cfilter.mode = C.uint32_t(filter.Mode)
	if filter.Kinds != 0 {
		cfilter.kinds = C.uint32_t(filter.Kinds)
	}
	for _, number := range []struct {
		given uint32
		place *C.uint32_t
	}{
		{filter.OpenRate, &cfilter.open_rate},
		{filter.ArgsBytes, &cfilter.args_bytes},
		{filter.BufferBytes, &cfilter.buffer_bytes},
	} {
		if number.given != 0 {
			*number.place = C.uint32_t(number.given)
		}
	}
	for _, duration := range []struct {
		name  string
		given time.Duration
		place *C.uint64_t
	}{
		{"MinDuration", filter.MinDuration, &cfilter.min_duration_ms},
		{"Delay", filter.Delay, &cfilter.delay_ms},
		{"OpenWindow", filter.OpenWindow, &cfilter.open_window_ms},
	} {
		switch {
		case duration.given == AtOnce && duration.name != "MinDuration":
			*duration.place = 0
		case duration.given < 0:
			message := fmt.Sprintf("invalid %s %v: it is negative", duration.name, duration.given)
			return &Error{Code: ErrInvalidInput, Message: message}
		case duration.given > 0:
			// Not down: a short time is something else than none.
			*duration.place = C.uint64_t((duration.given-1)/time.Millisecond + 1)
		}
	}
	var free func()
	cfilter.commands, free = cstrings(filter.Commands)
	defer free()
	cfilter.nr_commands = C.size_t(len(filter.Commands))
	cfilter.cgroups, free = cstrings(filter.Cgroups)
	defer free()
	cfilter.nr_cgroups = C.size_t(len(filter.Cgroups))
	cfilter.executables, free = cstrings(filter.Executables)
	defer free()
	cfilter.nr_executables = C.size_t(len(filter.Executables))
	if n := len(filter.UIDs); n > 0 {
		uids := C.CBytes(unsafe.Slice((*byte)(unsafe.Pointer(&filter.UIDs[0])), n*4))
		defer C.free(uids)
		cfilter.uids = (*C.uint32_t)(uids)
		cfilter.nr_uids = C.size_t(n)
	}
	if n := len(filter.Pids); n > 0 {
		pids := C.CBytes(unsafe.Slice((*byte)(unsafe.Pointer(&filter.Pids[0])), n*4))
		defer C.free(pids)
		cfilter.pids = (*C.int32_t)(pids)
		cfilter.nr_pids = C.size_t(n)
	}
	if err := check(C.agentcg_subscribe(c, &cfilter, &e.c)); err != nil {
		return err
	}
	var text *C.char
	if err := check(C.agentcg_events_missing_json(e.c, &text)); err != nil {
		return err
	}
	if err := decode(text, &e.missing); err != nil {
		return err
	}
	return e.poll(uintptr(C.agentcg_events_fd(e.c)))
}

func (e *Events) poll(fd uintptr) error {
	duplicate, _, errno := syscall.Syscall(syscall.SYS_FCNTL, fd, syscall.F_DUPFD_CLOEXEC, 0)
	if errno != 0 {
		return os.NewSyscallError("fcntl", errno)
	}
	// What makes os.NewFile give it to the poller.
	if err := syscall.SetNonblock(int(duplicate), true); err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	e.ready = os.NewFile(duplicate, "agentcg events")
	var err error
	e.conn, err = e.ready.SyscallConn()
	return err
}

// Missing is what the filter asks for and this kernel cannot give; everything else is delivered.
func (e *Events) Missing() []MissingProbe {
	return e.missing
}

// Stats says what was delivered and lost so far.
func (e *Events) Stats() (*EventStats, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.c == nil {
		return nil, os.ErrClosed
	}
	var text *C.char
	if err := check(C.agentcg_events_stats_json(e.c, &text)); err != nil {
		return nil, err
	}
	stats := &EventStats{}
	return stats, decode(text, stats)
}

// Next waits for the next event, until the deadline (os.ErrDeadlineExceeded) or Close (os.ErrClosed).
func (e *Events) Next() (Event, error) {
	var event Event
	var err error
	waited := e.conn.Read(func(uintptr) bool {
		event, err = e.tryNext()
		return event != nil || err != nil
	})
	switch {
	case waited == nil:
		return event, err
	case errors.Is(waited, os.ErrDeadlineExceeded):
		return nil, waited
	default:
		return nil, os.ErrClosed
	}
}

// SetDeadline says until when Next waits, now and from now on; zero: for ever.
func (e *Events) SetDeadline(t time.Time) error {
	return e.ready.SetReadDeadline(t)
}

func (e *Events) tryNext() (Event, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.c == nil {
		return nil, os.ErrClosed
	}
	var text *C.char
	if err := check(C.agentcg_events_next(e.c, 0, &text)); err != nil || text == nil {
		return nil, err
	}
	defer C.agentcg_string_free(text)
	return parseEvent([]byte(C.GoString(text)))
}

// Close detaches the probes and ends Next.
func (e *Events) Close() error {
	if e.ready != nil {
		e.ready.Close()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	C.agentcg_events_free(e.c)
	e.c = nil
	return nil
}
