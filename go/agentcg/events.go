package agentcg

// #include <agentcg.h>
import "C"

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	goruntime "runtime"
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

// EventStream is process events in the order in which the kernel wrote them.
type EventStream struct {
	h       handle
	missing []MissingProbe
	// A duplicate of the library's descriptor, which Go's network poller waits on: no thread waits.
	ready *os.File
	conn  syscall.RawConn
	next  *C.agentcg_event_t
	// Closed with the stream.
	closed chan struct{}
	once   sync.Once
	mu     sync.Mutex
	err    error
}

// Subscribe attaches the probes that a filter needs.
func (r *Runtime) Subscribe(filter EventFilter) (*EventStream, error) {
	e := &EventStream{closed: make(chan struct{})}
	err := r.with(func(c *C.agentcg_runtime_t) error {
		return e.open(c, filter, r.h.log)
	})
	if err != nil {
		e.Close()
		return nil, err
	}
	goruntime.SetFinalizer(e, (*EventStream).Close)
	return e, nil
}

func (e *EventStream) open(r *C.agentcg_runtime_t, filter EventFilter, log *logger) error {
	var a arena
	defer a.free()
	var cfilter C.agentcg_event_filter_t
	C.agentcg_event_filter_init(&cfilter, C.size_t(unsafe.Sizeof(cfilter)))
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
		if duration.given == AtOnce && duration.name != "MinDuration" {
			*duration.place = 0
		} else if duration.given != 0 {
			ms, err := milliseconds(duration.name, duration.given)
			if err != nil {
				return err
			}
			*duration.place = ms
		}
	}
	cfilter.commands, cfilter.nr_commands = a.list(filter.Commands), C.size_t(len(filter.Commands))
	cfilter.cgroups, cfilter.nr_cgroups = a.list(filter.Cgroups), C.size_t(len(filter.Cgroups))
	cfilter.executables, cfilter.nr_executables = a.list(filter.Executables), C.size_t(len(filter.Executables))
	cfilter.uids, cfilter.nr_uids = (*C.uint32_t)(numbers(&a, filter.UIDs)), C.size_t(len(filter.UIDs))
	cfilter.pids, cfilter.nr_pids = (*C.int32_t)(numbers(&a, filter.Pids)), C.size_t(len(filter.Pids))
	if a.err != nil {
		return a.err
	}
	var c *C.agentcg_events_t
	if err := check(C.agentcg_subscribe(r, &cfilter, &c)); err != nil {
		return err
	}
	e.h.set(unsafe.Pointer(c), log, func(c unsafe.Pointer) { C.agentcg_events_free((*C.agentcg_events_t)(c)) })
	var text *C.char
	if err := check(C.agentcg_events_missing_json(c, &text)); err != nil {
		return err
	}
	if err := decode(text, &e.missing); err != nil {
		return err
	}
	var err error
	if e.ready, err = pollable(uintptr(C.agentcg_events_fd(c)), "agentcg events"); err != nil {
		return err
	}
	e.conn, err = e.ready.SyscallConn()
	return err
}

func (e *EventStream) alone(f func(*C.agentcg_events_t) error) error {
	defer goruntime.KeepAlive(e)
	return e.h.alone(func(c unsafe.Pointer) error { return f((*C.agentcg_events_t)(c)) })
}

// Missing is what the filter asks for and this kernel cannot give; everything else is delivered.
func (e *EventStream) Missing() []MissingProbe {
	return e.missing
}

// Stats says what was delivered and lost so far.
func (e *EventStream) Stats() (*EventStats, error) {
	stats := &EventStats{}
	err := e.alone(func(c *C.agentcg_events_t) error {
		var text *C.char
		if err := check(C.agentcg_events_stats_json(c, &text)); err != nil {
			return err
		}
		return decode(text, stats)
	})
	if err != nil {
		return nil, err
	}
	return stats, nil
}

// Next waits for the next event, until the deadline (os.ErrDeadlineExceeded) or Close (os.ErrClosed).
func (e *EventStream) Next() (Event, error) {
	var event Event
	var err error
	waited := e.conn.Read(func(uintptr) bool {
		event, err = e.TryNext()
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

// Events gives the events in a channel, which is closed when the context is done, the stream is
// closed or it fails; then Err says why. Nobody else may read the stream or set its deadline meanwhile.
func (e *EventStream) Events(ctx context.Context) <-chan Event {
	events := make(chan Event, 64)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		// Ends a Next that waits.
		select {
		case <-ctx.Done():
			e.SetDeadline(time.Unix(1, 0))
		case <-stop:
		}
	}()
	go func() {
		defer close(events)
		defer func() {
			close(stop)
			<-stopped
			e.SetDeadline(time.Time{})
		}()
		for {
			event, err := e.Next()
			if err == nil {
				select {
				case events <- event:
					continue
				case <-ctx.Done():
				case <-e.closed:
					err = errClosed
				}
			}
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			e.mu.Lock()
			e.err = err
			e.mu.Unlock()
			return
		}
	}()
	return events
}

// Err is why the channel of Events was closed: the context's error, os.ErrClosed, or a failure.
func (e *EventStream) Err() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.err
}

// SetDeadline says until when Next waits, now and from now on; zero: for ever.
func (e *EventStream) SetDeadline(t time.Time) error {
	return e.ready.SetReadDeadline(t)
}

// TryNext gives the next event if one waits, else nil; it never waits.
func (e *EventStream) TryNext() (event Event, err error) {
	err = e.alone(func(c *C.agentcg_events_t) error {
		if err := check(C.agentcg_events_next(c, 0, &e.next)); err != nil || e.next == nil {
			return err
		}
		if event = eventOf(e.next); event != nil {
			return nil
		}
		event, err = unknown(c)
		return err
	})
	return event, err
}

// unknown is an event of a kind that came later.
func unknown(c *C.agentcg_events_t) (Event, error) {
	var text *C.char
	if err := check(C.agentcg_events_json(c, &text)); err != nil {
		return nil, err
	}
	event := &Unknown{JSON: json.RawMessage(C.GoString(text))}
	var kind struct {
		Event string `json:"event"`
	}
	err := decode(text, &kind)
	event.Kind = kind.Event
	return event, err
}

// Close detaches the probes and ends Next.
func (e *EventStream) Close() error {
	goruntime.SetFinalizer(e, nil)
	e.once.Do(func() { close(e.closed) })
	if e.ready != nil {
		e.ready.Close()
	}
	e.h.close()
	return nil
}
