package agentcg

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	goruntime "runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

var found = func() *Capabilities {
	found, err := Probe()
	if err != nil {
		panic(err)
	}
	return found
}()

func root(t *testing.T) string {
	t.Helper()
	if !found.Supports("cgroup_create") {
		t.Skip("needs root and cgroup v2:", found.Get("cgroup_create").Detail)
	}
	return fmt.Sprintf("%s/agentcg-go-%d", found.Get("cgroup2").Detail, os.Getpid())
}

func newRuntime(t *testing.T) *Runtime {
	t.Helper()
	r, err := New(WithRoot(root(t)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func session(t *testing.T, r *Runtime, name string, config SessionConfig) *Session {
	t.Helper()
	s, err := r.Session(name, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func expect(t *testing.T, err error, code Code, text string) {
	t.Helper()
	if !errors.Is(err, code) || !strings.Contains(err.Error(), text) {
		t.Errorf("expected %v with %q, got %v", code, text, err)
	}
}

func TestVersionAndCapabilities(t *testing.T) {
	if strings.Count(Version(), ".") != 2 {
		t.Error(Version())
	}
	if found.Kernel == "" || found.Get("sched_ext") == nil || found.Get("no such") != nil {
		t.Errorf("%+v", found)
	}
}

func TestErrors(t *testing.T) {
	_, err := New(WithRoot("/no/such/cgroup"))
	expect(t, err, ErrNotFound, "/no/such")
	if errors.Is(err, ErrBusy) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%#v", err)
	}
	var e *Error
	if !errors.As(err, &e) || e.Code != ErrNotFound || e.Errno == 0 {
		t.Errorf("%#v", err)
	}
	r := newRuntime(t)
	_, err = New(WithRoot(root(t)))
	expect(t, err, ErrBusy, "agentcg-go")
	_, err = r.Session("a/b", SessionConfig{})
	expect(t, err, ErrInvalidInput, "a/b")
	_, err = r.Subscribe(EventFilter{Mode: 3})
	expect(t, err, ErrInvalidInput, "mode")
	_, err = r.Subscribe(EventFilter{MinDuration: -1})
	expect(t, err, ErrInvalidInput, "MinDuration")
	_, err = r.Subscribe(EventFilter{Delay: 2 * time.Second})
	expect(t, err, ErrInvalidInput, "delay")
	_, err = r.Subscribe(EventFilter{OpenWindow: -time.Second})
	expect(t, err, ErrInvalidInput, "OpenWindow")
	_, err = r.Subscribe(EventFilter{BufferBytes: 1})
	expect(t, err, ErrInvalidInput, "buffer")
	_, err = r.Subscribe(EventFilter{Executables: []string{""}})
	expect(t, err, ErrInvalidInput, "executable")
}

func TestErrorsAreThoseOfOs(t *testing.T) {
	for code, expected := range map[Code]error{
		ErrPermission: os.ErrPermission, ErrNotFound: os.ErrNotExist, ErrAlreadyExists: os.ErrExist,
		ErrTimedOut: os.ErrDeadlineExceeded,
	} {
		err := fmt.Errorf("wrapped: %w", &Error{Code: code})
		if !errors.Is(err, expected) || !errors.Is(err, code) || errors.Is(err, ErrUnsupported) {
			t.Error(code)
		}
	}
	_, err := New(WithRoot("a\x00b"))
	expect(t, err, ErrInvalidInput, "NUL")
}

func TestParseLimit(t *testing.T) {
	if limit, err := ParseLimit("1.5K"); err != nil || limit != LimitOf(1536) {
		t.Error(limit, err)
	}
	if limit, err := ParseLimit("max"); err != nil || limit != Unlimited {
		t.Error(limit, err)
	}
	_, err := ParseLimit("12Q")
	expect(t, err, ErrInvalidInput, "12Q")
}

// What a killed process left is cleaned up by the next runtime, which says so.
func TestLog(t *testing.T) {
	where := root(t)
	if os.Getenv("AGENTCG_LEAVE") != "" {
		r, err := New(WithRoot(os.Getenv("AGENTCG_LEAVE")))
		if err == nil {
			_, err = r.Session("left", SessionConfig{})
		}
		if err != nil {
			t.Fatal(err)
		}
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	child := exec.Command(os.Args[0], "-test.run", "^TestLog$")
	child.Env = append(os.Environ(), "AGENTCG_LEAVE="+where)
	child.Run()
	if _, err := os.Stat(filepath.Join(where, "left")); err != nil {
		t.Fatal(err)
	}
	var lines atomic.Int32
	r, err := New(WithRoot(where), WithLog(LogInfo, func(level LogLevel, message string) {
		if level == LogInfo && strings.Contains(message, "what a killed process left") {
			lines.Add(1)
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	if lines.Load() != 1 {
		t.Error(lines.Load())
	}
}

// A handle that is forgotten is closed all the same.
func TestForgotten(t *testing.T) {
	r := newRuntime(t)
	path := func() string {
		s, err := r.Session("forgotten", SessionConfig{})
		if err != nil {
			t.Fatal(err)
		}
		return s.Path()
	}()
	for i := 0; i < 100; i++ {
		goruntime.GC()
		if _, err := os.Stat(path); err != nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Error("it is still there")
}

func TestSession(t *testing.T) {
	r := newRuntime(t)
	s := session(t, r, "a", SessionConfig{Priority: High})
	if s.Path() != filepath.Join(root(t), "a") {
		t.Error(s.Path())
	}
	cat := exec.Command("cat")
	stdin, _ := cat.StdinPipe()
	if err := cat.Start(); err != nil {
		t.Fatal(err)
	}
	if err := r.MovePid(cat.Process.Pid, s); err != nil {
		t.Fatal(err)
	}
	membership, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", cat.Process.Pid))
	if !strings.Contains(string(membership), "/a\n") {
		t.Errorf("%s", membership)
	}
	stdin.Close()
	cat.Wait()
	usage, err := s.Usage()
	if err != nil || usage.CPUUser == nil || usage.MaxRSS != nil {
		t.Errorf("%+v %v", usage, err)
	}
	if _, missing := usage.Unavailable()["memory_peak_bytes"]; missing != (usage.MemoryPeak == nil) {
		t.Error(usage.Unavailable())
	}
	if err := s.SetLimits(Limits{}); err != nil {
		t.Error(err)
	}
	expect(t, s.SetLimits(Limits{IOMax: []string{"tea"}}), ErrInvalidInput, "tea")
	if err := s.Freeze(); err != nil || s.Thaw() != nil {
		t.Error(err)
	}

	limited, err := r.Session("b", SessionConfig{Limits: Limits{MemoryMax: LimitOf(64 << 20), SwapMax: Unlimited}})
	if !found.Supports("memory_controller") {
		expect(t, err, ErrUnsupported, "memory.max")
	} else if err != nil {
		t.Error(err)
	} else {
		limited.Close()
	}

	s.Close()
	s.Close()
	if _, err := os.Stat(s.Path()); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if _, err := s.Usage(); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
	if err := r.MovePid(1, s); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
}

func TestInspect(t *testing.T) {
	r := newRuntime(t)
	s := session(t, r, "seen", SessionConfig{})
	command := s.Command(context.Background(), "sleep", "1000")
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	sessions, err := Inspect(r.Path())
	if err != nil || len(sessions) != 1 || len(sessions[0].Calls) != 1 {
		t.Fatalf("%+v %v", sessions, err)
	}
	seen := sessions[0]
	call := seen.Calls[0]
	if seen.Name != "seen" || seen.Path != s.Path() || seen.Processes != 1 || seen.Usage.CPUUser == nil {
		t.Errorf("%+v", seen)
	}
	if call.Command != "sleep 1000" || call.Owner != os.Getpid() || !call.OwnerAlive || call.Session != "seen" {
		t.Errorf("%+v", call)
	}
	if (call.Usage.MemoryPeak != nil) != found.Supports("memory_controller") || time.Since(call.Started()) > time.Hour {
		t.Errorf("%+v %+v", call.Usage, call.Started())
	}
	command.Kill()
	verdict(t, command.Wait(), Cancelled)
	if sessions, err := Inspect("/no/such/cgroup"); len(sessions) != 0 || err != nil {
		t.Errorf("%+v %v", sessions, err)
	}
	_, err = Inspect("/tmp")
	expect(t, err, ErrInvalidInput, "/tmp")
	_, err = Inspect("a\x00b")
	expect(t, err, ErrInvalidInput, "NUL")
}

func TestScheduler(t *testing.T) {
	r := newRuntime(t)
	_, err := r.StartScheduler(SchedulerConfig{Slice: time.Microsecond})
	expect(t, err, ErrInvalidInput, "slice")
	s, err := r.StartScheduler(SchedulerConfig{Scope: AgentTasks})
	if found.Backends.Scheduler != "sched_ext" {
		expect(t, err, ErrUnsupported, "sched_ext")
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if exit, err := s.Exited(); exit != nil || err != nil {
		t.Error(exit, err)
	}
	if _, err := s.Stats(); err != nil {
		t.Error(err)
	}
}

func TestMemoryProtection(t *testing.T) {
	r := newRuntime(t)
	high := session(t, r, "high", SessionConfig{})
	config := DefaultMemcgConfig()
	if config.Delay != 50*time.Millisecond || !config.BelowLow {
		t.Errorf("%+v", config)
	}
	config.Delay = -1
	_, err := r.AttachMemcgOps(config)
	expect(t, err, ErrInvalidInput, "Delay")
	config.Delay = 0
	config.High = []string{high.Path()}
	m, err := r.AttachMemcgOps(config)
	if found.Backends.Memory == "" {
		expect(t, err, ErrUnsupported, high.Path())
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	expect(t, m.Add(high.Path(), LowMemory), ErrInvalidInput, high.Path())
	if err := m.Remove(high.Path()); err != nil {
		t.Error(err)
	}
	if err := m.Remove(high.Path()); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if err := m.Add(high.Path(), LowMemory); err != nil {
		t.Error(err)
	}
	stats, err := m.Stats()
	if err != nil || stats.Stalls != 0 || len(stats.Sessions) != 1 || stats.Sessions[0].Role != "low" {
		t.Errorf("%+v %v", stats, err)
	}
}

func subscribe(t *testing.T, r *Runtime, filter EventFilter) *EventStream {
	t.Helper()
	if !found.Supports("process_events") {
		t.Skip(found.Get("process_events").Detail)
	}
	events, err := r.Subscribe(filter)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { events.Close() })
	return events
}

func TestEventChannel(t *testing.T) {
	events := subscribe(t, newRuntime(t), ours(ExecEvents|ExitEvents))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	channel := events.Events(ctx)
	command := exec.Command("true")
	command.Run()
	for event := range channel {
		if exit, ok := event.(*Exit); ok && int(exit.Pid) == command.Process.Pid {
			break
		}
	}
	cancel()
	for range channel {
	}
	if !errors.Is(events.Err(), context.Canceled) {
		t.Error(events.Err())
	}
	channel = events.Events(context.Background())
	events.Close()
	for range channel {
	}
	if !errors.Is(events.Err(), os.ErrClosed) {
		t.Error(events.Err())
	}
}

// Nobody reads the channel to its end, and the context is never done.
func TestEventChannelEndsWithTheStream(t *testing.T) {
	events := subscribe(t, newRuntime(t), ours(ExecEvents|ExitEvents))
	before := goruntime.NumGoroutine()
	channel := events.Events(context.Background())
	for i := 0; i < cap(channel); i++ {
		exec.Command("true").Run()
	}
	for len(channel) < cap(channel) {
		time.Sleep(time.Millisecond)
	}
	events.Close()
	for since := time.Now(); goruntime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Since(since) > 10*time.Second {
			t.Fatal("it still writes to the channel")
		}
	}
	if !errors.Is(events.Err(), os.ErrClosed) {
		t.Error(events.Err())
	}
}

// ours is what this process and its descendants do.
func ours(kinds EventKind) EventFilter {
	return EventFilter{Mode: TrackedOnly, Kinds: kinds, Pids: []int32{int32(os.Getpid())}}
}

func TestEvents(t *testing.T) {
	events := subscribe(t, newRuntime(t), ours(ExecEvents|ExitEvents))
	if len(events.Missing()) != 0 {
		t.Error(events.Missing())
	}
	events.SetDeadline(time.Now().Add(10 * time.Second))
	started := make(chan int, 1)
	// While Next waits.
	time.AfterFunc(100*time.Millisecond, func() {
		command := exec.Command("sh", "-c", "exit 3")
		command.Run()
		started <- command.ProcessState.Pid()
	})
	var argv []string
	for {
		event, err := events.Next()
		if err != nil {
			t.Fatal(err)
		}
		switch event := event.(type) {
		case *Exec:
			argv = event.Argv
		case *Exit:
			if event.Pid != int32(<-started) || event.ExitCode != 3 || event.Signal != 0 {
				t.Errorf("%+v", event)
			}
			if !reflect.DeepEqual(argv, []string{"sh", "-c", "exit 3"}) {
				t.Error(argv)
			}
			return
		}
	}
}

func TestNextEnds(t *testing.T) {
	events := subscribe(t, newRuntime(t), ours(ExecEvents|ExitEvents))
	events.SetDeadline(time.Now().Add(50 * time.Millisecond))
	if event, err := events.Next(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(event, err)
	}
	events.SetDeadline(time.Time{})
	time.AfterFunc(50*time.Millisecond, func() { events.Close() })
	for i := 0; i < 2; i++ {
		if event, err := events.Next(); !errors.Is(err, os.ErrClosed) {
			t.Error(event, err)
		}
	}
}

// until reads events until one satisfies the condition.
func until[E Event](t *testing.T, events *EventStream, condition func(E) bool) E {
	t.Helper()
	events.SetDeadline(time.Now().Add(10 * time.Second))
	for {
		event, err := events.Next()
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := event.(E); ok && condition(e) {
			return e
		}
	}
}

func TestEventOptions(t *testing.T) {
	r := newRuntime(t)
	events := subscribe(t, r, EventFilter{
		Mode:        TrackedOnly,
		Kinds:       ExecEvents,
		Executables: []string{"/bin/ech", "/usr/bin/ech"},
		Delay:       AtOnce,
		OpenWindow:  AtOnce,
		OpenRate:    10,
		ArgsBytes:   7,
		BufferBytes: 1 << 16,
	})
	ofUser := subscribe(t, r, EventFilter{Mode: TrackedOnly, Kinds: ExitEvents, UIDs: []uint32{54321}})

	exec.Command("true").Run()
	exec.Command("echo", "hello").Run()
	executed := until(t, events, func(*Exec) bool { return true })
	if !strings.HasSuffix(executed.Filename, "/bin/echo") || executed.FullCommand() != "echo he" || !executed.ArgvTruncated {
		t.Errorf("%+v", executed)
	}
	stats, err := events.Stats()
	if err != nil || stats.Received != 1 || stats.Dropped() != 0 {
		t.Errorf("%+v %v", stats, err)
	}

	command := exec.Command("true")
	command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 54321, Gid: 54321}}
	if err := command.Run(); err != nil {
		t.Fatal(err)
	}
	ended := until(t, ofUser, func(*Exit) bool { return true })
	if ended.UID != 54321 || int(ended.Pid) != command.Process.Pid {
		t.Errorf("%+v", ended)
	}
	events.Close()
	if _, err := events.Stats(); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
}

func TestBashReadline(t *testing.T) {
	events := subscribe(t, newRuntime(t), ours(BashReadlineEvents))
	if missing := events.Missing(); len(missing) > 0 {
		t.Skip(missing[0].Error)
	}
	// script(1) gives it a terminal.
	shell := exec.Command("script", "-q", "-c", "/bin/bash --norc --noprofile -i", "/dev/null")
	shell.Stdin = strings.NewReader("echo 'a  line'\nexit\n")
	if out, err := shell.CombinedOutput(); err != nil {
		t.Skipf("no interactive bash: %v: %s", err, out)
	}
	line := until(t, events, func(*BashReadline) bool { return true })
	if line.Command != "echo 'a  line'" || line.Comm != "bash" {
		t.Errorf("%+v", line)
	}
}
