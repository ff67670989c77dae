package agentcg

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func calls(t *testing.T) *Session {
	t.Helper()
	return session(t, newRuntime(t), "calls", SessionConfig{})
}

func verdict(t *testing.T, err error, expected Verdict) *Outcome {
	t.Helper()
	var exit *ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("expected %v, got %v", expected, err)
	}
	if exit.Outcome.Verdict != expected {
		t.Fatalf("expected %v, got %v: %s", expected, exit.Outcome.Verdict, exit.Outcome.JSON)
	}
	return exit.Outcome
}

func TestOutput(t *testing.T) {
	s := calls(t)
	ctx := context.Background()
	command := s.Command(ctx, "sh", "-c", "echo out; echo error >&2; exit 3")
	out, err := command.Output()
	outcome := verdict(t, err, Failed)
	var exit *ExitError
	errors.As(err, &exit)
	if string(out) != "out\n" || string(exit.Stderr) != "error\n" || outcome != command.Outcome {
		t.Errorf("%q %q", out, exit.Stderr)
	}
	if outcome.ExitCode != 3 || outcome.Signal != 0 || outcome.Cause != nil || outcome.Err != nil || outcome.Success() {
		t.Errorf("%+v", outcome)
	}
	if outcome.Duration <= 0 || outcome.Usage.CPUUser == nil || *outcome.Usage.MaxRSS < 4096 {
		t.Errorf("%+v", outcome.Usage)
	}
	if !strings.Contains(err.Error(), "exit status 3") {
		t.Error(err)
	}
	var all struct {
		Verdict string
		Session string
	}
	if err := json.Unmarshal(outcome.JSON, &all); err != nil || all.Verdict != "failed" || all.Session != "calls" {
		t.Error(all, err)
	}

	combined, err := s.Command(ctx, "sh", "-c", "echo out; echo error >&2").CombinedOutput()
	if string(combined) != "out\nerror\n" || err != nil {
		t.Errorf("%q %v", combined, err)
	}

	command = s.Command(ctx, "sh", "-c", "echo 123456789")
	command.CaptureLimit = 4
	out, err = command.Output()
	kept := command.Outcome.Stdout
	if string(out) != "129\n"[:2]+"9\n" || err != nil || kept.Total != 10 || kept.CutAt != 2 {
		t.Errorf("%q %v %+v", out, err, kept)
	}
}

func TestPipesAndCopies(t *testing.T) {
	s := calls(t)
	ctx := context.Background()

	var out, err bytes.Buffer
	command := s.Command(ctx, "sh", "-c", "cat; echo error >&2")
	command.Stdin = strings.NewReader(strings.Repeat("line\n", 100_000))
	command.Stdout, command.Stderr = &out, &err
	if e := command.Run(); e != nil || out.Len() != 500_000 || err.String() != "error\n" {
		t.Error(e, out.Len(), err.String())
	}

	// One writer for both, and input that nobody reads.
	out.Reset()
	command = s.Command(ctx, "sh", "-c", "echo out; echo error >&2")
	command.Stdin = strings.NewReader(strings.Repeat("line\n", 100_000))
	command.Stdout, command.Stderr = &out, &out
	if e := command.Run(); e != nil || out.String() != "out\nerror\n" {
		t.Error(e, out.String())
	}

	command = s.Command(ctx, "cat")
	stdin, _ := command.StdinPipe()
	stdout, _ := command.StdoutPipe()
	stderr, _ := command.StderrPipe()
	if e := command.Start(); e != nil {
		t.Fatal(e)
	}
	fmt.Fprint(stdin, "hello")
	stdin.Close()
	text, e := io.ReadAll(stdout)
	if none, _ := io.ReadAll(stderr); len(none) != 0 {
		t.Error(none)
	}
	if w := command.Wait(); w != nil || e != nil || string(text) != "hello" {
		t.Error(w, e, string(text))
	}

	// A file is given as it is; nothing is /dev/null.
	file, _ := os.CreateTemp(t.TempDir(), "out")
	defer file.Close()
	command = s.Command(ctx, "sh", "-c", "cat; readlink /proc/self/fd/1 /proc/$$/fd/0 /proc/$$/fd/2")
	command.Stdout = file
	if e := command.Run(); e != nil {
		t.Error(e)
	}
	written, _ := os.ReadFile(file.Name())
	if string(written) != file.Name()+"\n/dev/null\n/dev/null\n" {
		t.Errorf("%q", written)
	}
}

// soon fails when something does not end.
func soon(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("it goes on:", what)
	}
}

// The end of the call is the end of the copying, whoever holds the other ends.
func TestCopyingEndsWithTheCall(t *testing.T) {
	s := calls(t)
	never, writer := io.Pipe()
	defer writer.Close()
	command := s.Command(context.Background(), "true")
	command.Stdin = never
	soon(t, "a Read of Stdin that nobody answers", func() {
		if err := command.Run(); err != nil {
			t.Error(err)
		}
	})

	var out, errors bytes.Buffer
	command = s.Command(context.Background(), "sh", "-c", "echo out; echo error >&2; sleep 1000 & head -c 70000 /dev/zero")
	command.Background = true
	command.Stdout, command.Stderr = &out, &errors
	soon(t, "what is left in the background", func() {
		if err := command.Run(); err != nil || out.Len() != 70004 || errors.String() != "error\n" {
			t.Error(err, out.Len(), errors.String())
		}
	})

	failed := fmt.Errorf("it is full")
	command = s.Command(context.Background(), "echo", "out")
	command.Stdout = writerFunc(func([]byte) (int, error) { return 0, failed })
	if err := command.Run(); err != failed {
		t.Error(err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// A descriptor that is closed is none, and least of all ours.
func TestClosedFiles(t *testing.T) {
	s := calls(t)
	file, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	file.Close()
	for _, closed := range []*os.File{file, nil} {
		command := s.Command(context.Background(), "true")
		command.Stdout = closed
		if err := command.Run(); !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
		command = s.Command(context.Background(), "true")
		command.Stdin = closed
		if err := command.Run(); !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	}
}

func TestSurroundings(t *testing.T) {
	s := calls(t)
	t.Setenv("AGENTCG_TEST_OURS", "ours")
	command := s.Command(context.Background(), "sh", "-c", "echo $AGENTCG_TEST_OURS $PWD $AGENTCG_CALL $0", "zero")
	command.Dir, command.Name = "/usr", "mine"
	if out, err := command.Output(); string(out) != "ours /usr mine zero\n" || err != nil {
		t.Errorf("%q %v", out, err)
	}
	command = s.Command(context.Background(), "/bin/sh", "-c", "echo $AGENTCG_TEST_OURS$GIVEN $(id -u) $(id -G) $0")
	command.Env = []string{"GIVEN=a=b", "PATH=/usr/bin:/bin"}
	command.Args[0] = "me"
	command.Credential = &syscall.Credential{Uid: 5432, Gid: 5433, Groups: []uint32{54}}
	if out, err := command.Output(); string(out) != "a=b 5432 5433 54 me\n" || err != nil {
		t.Errorf("%q %v", out, err)
	}
	command = s.Command(context.Background(), "true")
	command.Credential = &syscall.Credential{NoSetGroups: true}
	expect(t, command.Run(), ErrInvalidInput, "NoSetGroups")
	command = s.Command(context.Background(), "true", "a\x00b")
	expect(t, command.Run(), ErrInvalidInput, "NUL")
	command = s.Command(context.Background(), "true")
	command.Timeout = -time.Second
	expect(t, command.Run(), ErrInvalidInput, "Timeout")
	command = s.Command(context.Background(), "true")
	command.Hint = "memory:huge"
	expect(t, command.Run(), ErrInvalidInput, "huge")
}

func TestInherited(t *testing.T) {
	s := calls(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	command := s.Command(context.Background(), "sh", "-c", "echo back >&5; ls /proc/$$/fd")
	command.ExtraFiles = []*os.File{r, nil, w}
	out, err := command.Output()
	if string(out) != "0\n1\n2\n3\n5\n" || err != nil {
		t.Errorf("%q %v", out, err)
	}
	w.Close()
	if text, err := io.ReadAll(r); string(text) != "back\n" || err != nil {
		t.Error(string(text), err)
	}
	command = s.Command(context.Background(), "true")
	command.ExtraFiles = []*os.File{w}
	if err := command.Run(); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}

	umask := 0o27
	command = s.Command(context.Background(), "sh", "-c", "umask; ulimit -Sn; ulimit -Hn; ulimit -Sc")
	command.Umask = &umask
	command.Rlimits = map[int]syscall.Rlimit{
		syscall.RLIMIT_NOFILE: {Cur: 20, Max: 30}, syscall.RLIMIT_CORE: {Cur: 0, Max: 0},
	}
	if out, err := command.Output(); string(out) != "0027\n20\n30\n0\n" || err != nil {
		t.Errorf("%q %v", out, err)
	}
	command = s.Command(context.Background(), "true")
	command.Rlimits = map[int]syscall.Rlimit{4711: {}}
	if err := command.Run(); !errors.Is(err, syscall.EINVAL) {
		t.Error(err)
	}
}

// Go raises its limit of open files; what it runs has the one that Go was given.
func TestOpenFiles(t *testing.T) {
	if os.Getenv("AGENTCG_NOFILE") == "" {
		child := exec.Command("sh", "-c", `ulimit -Sn 123; exec "$0" -test.run '^TestOpenFiles$' -test.v`, os.Args[0])
		child.Env = append(os.Environ(), "AGENTCG_NOFILE=123")
		if out, err := child.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	s := calls(t)
	if out, err := s.Command(context.Background(), "sh", "-c", "ulimit -Sn").Output(); string(out) != "123\n" || err != nil {
		t.Errorf("%q %v", out, err)
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	limit.Cur = 200
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if out, err := s.Command(context.Background(), "sh", "-c", "ulimit -Sn").Output(); string(out) != "200\n" || err != nil {
		t.Errorf("%q %v", out, err)
	}
}

func TestNotStarted(t *testing.T) {
	s := calls(t)
	command := s.Command(context.Background(), "no-such-program")
	command.Stdin = strings.NewReader("input")
	err := command.Start()
	outcome := verdict(t, err, SpawnFailed)
	if !errors.Is(err, os.ErrNotExist) || !errors.Is(err, ErrNotFound) || outcome.ExitCode != -1 {
		t.Error(err)
	}
	err = s.Command(context.Background(), "/etc/passwd").Run()
	if verdict(t, err, SpawnFailed); !errors.Is(err, os.ErrPermission) {
		t.Error(err)
	}
	if err := command.Wait(); err == nil {
		t.Error("waited for what was not started")
	}
	if err := command.Start(); err == nil {
		t.Error("started twice")
	}
	if err := s.Command(context.Background(), "true").Kill(); err == nil {
		t.Error("killed what was not started")
	}
}

func TestContextKills(t *testing.T) {
	s := calls(t)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	// A child that ignores SIGTERM and outlives its parent is in the call too.
	command := s.Command(ctx, "sh", "-c", "trap '' TERM; sleep 1000 & sleep 1000; sleep 1000")
	since := time.Now()
	err := command.Run()
	outcome := verdict(t, err, Cancelled)
	if !errors.Is(err, context.DeadlineExceeded) || outcome.Signal != syscall.SIGKILL || time.Since(since) > 20*time.Second {
		t.Error(err, outcome.Signal)
	}
	if err := s.Command(ctx, "true").Start(); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	// A context that ends later changes nothing.
	ctx, cancel = context.WithCancel(context.Background())
	command = s.Command(ctx, "true")
	err = command.Run()
	cancel()
	if err != nil {
		t.Error(err)
	}
}

func TestContextEndsTheQueue(t *testing.T) {
	s := session(t, newRuntime(t), "one", SessionConfig{Capacity: Capacity{Calls: 1}})
	first := s.Command(context.Background(), "sleep", "1000")
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	err := s.Command(ctx, "true").Run()
	if verdict(t, err, Cancelled); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	late := s.Command(context.Background(), "true")
	late.QueueTimeout = 30 * time.Millisecond
	err = late.Run()
	if outcome := verdict(t, err, SpawnFailed); outcome.Queued < 30*time.Millisecond || !errors.Is(err, ErrTimedOut) {
		t.Error(outcome.Queued, err)
	}
	first.Kill()
	verdict(t, first.Wait(), Cancelled)
}

func TestCloseEndsTheQueue(t *testing.T) {
	r, err := New(WithRoot(root(t)), WithCapacity(Capacity{Calls: 1}))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	busy := session(t, r, "busy", SessionConfig{})
	first := busy.Command(context.Background(), "sleep", "1000")
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	s := session(t, r, "waits", SessionConfig{})
	waiting := make(chan error, 3)
	for i := 0; i < cap(waiting); i++ {
		go func() { waiting <- s.Command(context.Background(), "true").Run() }()
	}
	time.Sleep(50 * time.Millisecond)
	soon(t, "Close, while calls wait", func() { s.Close() })
	for i := 0; i < cap(waiting); i++ {
		verdict(t, <-waiting, Cancelled)
	}
	if err := s.Command(context.Background(), "true").Run(); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
}

// Any goroutine may control a call at any time: the race detector looks on.
func TestControlWhileItIsStarted(t *testing.T) {
	command := calls(t).Command(context.Background(), "sleep", "1000")
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for command.Kill() != nil {
			time.Sleep(time.Millisecond)
		}
	}()
	verdict(t, command.Run(), Cancelled)
	<-stopped
}

// A call that is forgotten is killed, though its output is copied and its context goes on.
func TestForgottenCall(t *testing.T) {
	s := calls(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	never, writer := io.Pipe()
	defer writer.Close()
	pid := func() int {
		command := s.Command(ctx, "sleep", "1000")
		command.Stdin, command.Stdout = never, &bytes.Buffer{}
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		return command.Pid
	}()
	for i := 0; i < 500; i++ {
		goruntime.GC()
		if syscall.Kill(pid, 0) == syscall.ESRCH {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Error("it still runs")
}

func TestControl(t *testing.T) {
	s := calls(t)
	command := s.Command(context.Background(), "cat")
	stdin, _ := command.StdinPipe()
	stdout, _ := command.StdoutPipe()
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	echoed := make(chan string, 10)
	go func() {
		b := make([]byte, 10)
		for {
			n, err := stdout.Read(b)
			if err != nil {
				close(echoed)
				return
			}
			echoed <- string(b[:n])
		}
	}()
	if err := command.Freeze(); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(stdin, "hello")
	select {
	case <-echoed:
		t.Error("it is not frozen")
	case <-time.After(50 * time.Millisecond):
	}
	if err := command.Thaw(); err != nil {
		t.Fatal(err)
	}
	if text := <-echoed; text != "hello" {
		t.Error(text)
	}
	usage, err := command.Usage()
	if err != nil || usage.CPUSystem == nil {
		t.Error(usage, err)
	}
	if _, missing := usage.Unavailable()["memory_current_bytes"]; missing != (usage.MemoryCurrent == nil) {
		t.Error(usage.Unavailable())
	}
	expect(t, command.Signal(4711), ErrInvalidInput, "4711")
	if err := command.Signal(syscall.SIGINT); err != nil {
		t.Error(err)
	}
	if outcome := verdict(t, command.Wait(), Signaled); outcome.Signal != syscall.SIGINT {
		t.Error(outcome.Signal)
	}
	if _, err := command.Usage(); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}

	command = s.Command(context.Background(), "sleep", "1000")
	command.Timeout, command.Grace = 50*time.Millisecond, AtOnce
	outcome := verdict(t, command.Run(), TimedOut)
	cause := outcome.Cause
	if cause == nil || cause.Limit != "timeout" || cause.LimitValue != 50 || cause.Scope != OfCall || cause.Effect != Ended {
		t.Errorf("%+v", cause)
	}

	command = s.Command(context.Background(), "sleep", "1000")
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	command.Cancel()
	if outcome := verdict(t, command.Wait(), Cancelled); outcome.Signal != syscall.SIGTERM {
		t.Error(outcome.Signal)
	}

	command = s.Command(context.Background(), "sleep", "1000")
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	s.KillCalls()
	verdict(t, command.Wait(), Cancelled)
	s.Close()
	if err := s.Command(context.Background(), "true").Run(); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
}

func TestOutOfMemory(t *testing.T) {
	s := calls(t)
	command := s.Command(context.Background(), "tail", "/dev/zero")
	command.Limits = Limits{MemoryMax: LimitOf(16 << 20), SwapMax: LimitOf(0)}
	err := command.Run()
	if !found.Supports("memory_controller") {
		expect(t, err, ErrUnsupported, "memory.max")
		return
	}
	outcome := verdict(t, err, OOMKilled)
	cause := outcome.Cause
	if cause == nil || cause.Limit != "memory.max" || cause.LimitBytes != 16<<20 || cause.VictimComm != "tail" || cause.VictimPid <= 0 {
		t.Errorf("%+v", cause)
	}
	usage := outcome.Usage
	if *usage.OOMKills < 1 || *usage.MemoryPeak < 15<<20 || !strings.Contains(err.Error(), outcome.Advice) {
		t.Errorf("%s", outcome.JSON)
	}
}

// With twice the memory it has enough, and what it took is remembered.
func TestRetry(t *testing.T) {
	s := calls(t)
	eat := func(retry Retry) *Cmd {
		command := s.Command(context.Background(), "python3", "-c", "print(len(b'x' * (40 << 20)))")
		command.Limits = Limits{MemoryMax: LimitOf(36 << 20), SwapMax: LimitOf(0)}
		command.History = filepath.Join(t.TempDir(), "history")
		command.Retry = retry
		return command
	}
	if !found.Supports("memory_controller") {
		expect(t, eat(RetryOnce).Run(), ErrUnsupported, "memory.max")
		return
	}
	command := eat(RetryNever)
	verdict(t, command.Run(), OOMKilled)
	if _, err := os.Stat(command.History); err != nil {
		t.Error(err)
	}
	verdict(t, eat(RetryAuto).Run(), OOMKilled)
	command = eat(RetryOnce)
	out, err := command.Output()
	if string(out) != "41943040\n" || err != nil {
		t.Errorf("%q %v %s", out, err, command.Outcome.JSON)
	}
	var all struct{ Retries []struct{ Verdict string } }
	if err := json.Unmarshal(command.Outcome.JSON, &all); err != nil || len(all.Retries) != 1 || all.Retries[0].Verdict != "oom_killed" {
		t.Errorf("%v %s", err, command.Outcome.JSON)
	}
	var copied bytes.Buffer
	command = eat(RetryOnce)
	command.Stdout = &copied
	if err := command.Run(); copied.String() != "41943040\n" || err != nil {
		t.Errorf("%q %v", copied.String(), err)
	}
	// The session allows no more.
	s.SetLimits(Limits{MemoryMax: LimitOf(36 << 20)})
	command = eat(RetryOnce)
	verdict(t, command.Run(), OOMKilled)
	if strings.Contains(string(command.Outcome.JSON), "retries\":[{") {
		t.Errorf("%s", command.Outcome.JSON)
	}
}

func TestManyAtOnce(t *testing.T) {
	s := calls(t)
	var all sync.WaitGroup
	for i := 0; i < 8; i++ {
		all.Add(1)
		go func(i int) {
			defer all.Done()
			for n := 0; n < 10; n++ {
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
				out, err := s.Command(ctx, "sh", "-c", fmt.Sprint("echo ", i, n)).Output()
				cancel()
				if string(out) != fmt.Sprintf("%d %d\n", i, n) || err != nil {
					t.Errorf("%q %v", out, err)
				}
			}
		}(i)
	}
	all.Wait()
}

// Some wait in a thread each, the others without one; all of them can be ended meanwhile.
func TestManyWait(t *testing.T) {
	threads := func() int {
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			t.Fatal(err)
		}
		return len(tasks)
	}
	s := calls(t)
	var all sync.WaitGroup
	var started []*Cmd
	before := threads()
	for i := 0; i < 4*maxWaiting; i++ {
		command := s.Command(context.Background(), "sleep", "1000")
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		started = append(started, command)
		all.Add(1)
		go func() {
			defer all.Done()
			if err := command.Wait(); command.Outcome == nil || command.Outcome.Verdict != Cancelled {
				t.Error(err)
			}
		}()
	}
	for waiting.Load() < int32(len(started)) {
		time.Sleep(time.Millisecond)
	}
	if now := threads(); now > before+2*maxWaiting {
		t.Errorf("%d threads, %d before", now, before)
	}
	for _, command := range started {
		if err := command.Kill(); err != nil {
			t.Error(err)
		}
	}
	all.Wait()
	if waiting.Load() != 0 {
		t.Error(waiting.Load())
	}
}
