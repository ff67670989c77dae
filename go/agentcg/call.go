package agentcg

// #include <agentcg.h>
import "C"

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	goruntime "runtime"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// Cmd is a tool call being prepared or run: one command and all its descendants, in a cgroup of its
// own. It is shaped like exec.Cmd, with limits, and an Outcome at the end. One goroutine may use it,
// but for Cancel, Kill, Signal, Freeze, Thaw and Usage. It can be run once.
//
// When the main process has ended, what it has left behind is killed with the call.
type Cmd struct {
	Path string   // the program; without a slash it is looked for in the PATH that the call has
	Args []string // Args[0] is what the program is told as its own name
	Env  []string // as of exec.Cmd: NAME=VALUE, and nil is that of this process
	Dir  string   // "": ours

	// As of exec.Cmd: nil is /dev/null, an *os.File is given to the call, anything else is copied by
	// a goroutine.
	Stdin          io.Reader
	Stdout, Stderr io.Writer

	Name         string        // of the call and its cgroup; "": one is made up
	Limits       Limits        // of the call
	Hint         string        // what the agent says that it needs: memory:high,time:5m
	Timeout      time.Duration // then SIGTERM to all of it, and SIGKILL after the grace; 0: never
	Grace        time.Duration // AtOnce; 0: 2 s
	QueueTimeout time.Duration // how long it may wait where there is a capacity; AtOnce; 0: for ever
	Sample       time.Duration // takes samples of the usage for the JSON; 0: none
	CaptureLimit int           // how much Output and CombinedOutput keep; 0: 10 MiB
	History      string        // a file that remembers what commands took, for the hint memory:auto
	Background   bool          // what the main process leaves behind lives on until the session ends
	NewSession   bool          // in a POSIX session of its own, setsid(2)
	NoBudget     bool          // leaves variables such as OMP_NUM_THREADS alone
	NoOOMGroup   bool          // the OOM killer may take single processes of it
	Credential   *syscall.Credential
	OOMScoreAdj  *int // nil: ours plus 500

	Pid     int      // of the main process, once it is started
	Outcome *Outcome // once it is over

	session   *Session
	ctx       context.Context
	call      *call
	canceller *canceller
	stdio     [3]C.int32_t
	theirs    []*os.File // ends of pipes for the call
	ours      []*os.File // our ends
	copiers   []func() error
	copied    chan error
	over      chan struct{}
	started   bool
	waited    bool
}

// Command prepares a tool call in the session. It is killed when the context is done before it is
// over; a context of nil never is.
func (s *Session) Command(ctx context.Context, name string, args ...string) *Cmd {
	return &Cmd{
		Path:    name,
		Args:    append([]string{name}, args...),
		session: s,
		ctx:     ctx,
		stdio:   [3]C.int32_t{C.AGENTCG_STDIO_NULL, C.AGENTCG_STDIO_NULL, C.AGENTCG_STDIO_NULL},
	}
}

// String is the command for people.
func (c *Cmd) String() string {
	var b bytes.Buffer
	b.WriteString(c.Path)
	for i, arg := range c.Args {
		if i > 0 {
			b.WriteByte(' ')
			b.WriteString(arg)
		}
	}
	return b.String()
}

// ExitError is a call that was not completed: a verdict other than Completed. Where the context ended
// it, errors.Is finds the context's error; where it was never started, the reason.
type ExitError struct {
	Outcome *Outcome
	Stderr  []byte // of Output
	cause   error
}

// Error is the verdict, with the status or signal where there is one, and the advice.
func (e *ExitError) Error() string {
	o := e.Outcome
	text := "agentcg: " + o.Verdict.String()
	switch {
	case o.Verdict == Failed && o.ExitCode >= 0:
		text += fmt.Sprintf(": exit status %d", o.ExitCode)
	case o.Verdict == Signaled:
		text += ": signal " + o.Signal.String()
	}
	if e.cause != nil {
		return text + ": " + e.cause.Error()
	}
	if o.Advice != "" {
		text += ": " + o.Advice
	}
	return text
}

// Unwrap is the context's error, or why it was never started.
func (e *ExitError) Unwrap() error {
	return e.cause
}

// Run starts the call and waits for its end. The error is nil when its verdict is Completed.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output runs the call and gives its standard output. When Stderr is nil, an ExitError has its
// standard error. Of more than CaptureLimit the head and the tail are kept.
func (c *Cmd) Output() ([]byte, error) {
	if c.Stdout != nil {
		return nil, errors.New("agentcg: Stdout is set already")
	}
	c.stdio[1] = C.AGENTCG_STDIO_CAPTURE
	if c.Stderr == nil {
		c.stdio[2] = C.AGENTCG_STDIO_CAPTURE
	}
	err := c.Run()
	if c.Outcome == nil || c.Outcome.Stdout == nil {
		return nil, err
	}
	var exit *ExitError
	if errors.As(err, &exit) && c.Outcome.Stderr != nil {
		exit.Stderr = c.Outcome.Stderr.Bytes
	}
	return c.Outcome.Stdout.Bytes, err
}

// CombinedOutput runs the call and gives its standard output and error in one.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	if c.Stdout != nil || c.Stderr != nil {
		return nil, errors.New("agentcg: Stdout or Stderr is set already")
	}
	c.stdio[1], c.stdio[2] = C.AGENTCG_STDIO_CAPTURE, C.AGENTCG_STDIO_STDOUT
	err := c.Run()
	if c.Outcome == nil || c.Outcome.Stdout == nil {
		return nil, err
	}
	return c.Outcome.Stdout.Bytes, err
}

// StdinPipe is a pipe to the standard input of the call. Wait closes it.
func (c *Cmd) StdinPipe() (io.WriteCloser, error) {
	if c.Stdin != nil {
		return nil, errors.New("agentcg: Stdin is set already")
	}
	theirs, ours, err := c.pipe(0)
	if err != nil {
		return nil, err
	}
	c.Stdin = theirs
	return ours, nil
}

// StdoutPipe is a pipe from the standard output of the call. Wait closes it: read all of it before.
func (c *Cmd) StdoutPipe() (io.ReadCloser, error) {
	if c.Stdout != nil {
		return nil, errors.New("agentcg: Stdout is set already")
	}
	theirs, ours, err := c.pipe(1)
	if err != nil {
		return nil, err
	}
	c.Stdout = theirs
	return ours, nil
}

// StderrPipe is as StdoutPipe, from the standard error.
func (c *Cmd) StderrPipe() (io.ReadCloser, error) {
	if c.Stderr != nil {
		return nil, errors.New("agentcg: Stderr is set already")
	}
	theirs, ours, err := c.pipe(2)
	if err != nil {
		return nil, err
	}
	c.Stderr = theirs
	return ours, nil
}

// pipe makes a pipe for one of the call's descriptors.
func (c *Cmd) pipe(fd int) (theirs, ours *os.File, err error) {
	if c.started {
		return nil, nil, errors.New("agentcg: the call has been started already")
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	theirs, ours = r, w
	if fd != 0 {
		theirs, ours = w, r
	}
	c.theirs = append(c.theirs, theirs)
	c.ours = append(c.ours, ours)
	return theirs, ours, nil
}

func (c *Cmd) connect() error {
	switch in := c.Stdin.(type) {
	case nil:
	case *os.File:
		c.stdio[0] = C.int32_t(in.Fd())
	default:
		theirs, ours, err := c.pipe(0)
		if err != nil {
			return err
		}
		c.stdio[0] = C.int32_t(theirs.Fd())
		c.copiers = append(c.copiers, func() error {
			_, err := io.Copy(ours, in)
			if errors.Is(err, syscall.EPIPE) || errors.Is(err, os.ErrClosed) {
				err = nil // it did not want all of it
			}
			ours.Close()
			return err
		})
	}
	for i, out := range []io.Writer{c.Stdout, c.Stderr} {
		fd := i + 1
		if out == nil {
			continue
		}
		if fd == 2 && same(c.Stdout, out) {
			c.stdio[2] = c.stdio[1]
			continue
		}
		if file, ok := out.(*os.File); ok {
			c.stdio[fd] = C.int32_t(file.Fd())
			continue
		}
		theirs, ours, err := c.pipe(fd)
		if err != nil {
			return err
		}
		c.stdio[fd] = C.int32_t(theirs.Fd())
		to := out
		c.copiers = append(c.copiers, func() error {
			_, err := io.Copy(to, ours)
			ours.Close()
			return err
		})
	}
	return nil
}

// same says that two writers are one; those that cannot be compared are not.
func same(a, b io.Writer) (equal bool) {
	defer func() {
		if recover() != nil {
			equal = false
		}
	}()
	return a == b
}

func closeAll(files []*os.File) {
	for _, file := range files {
		file.Close()
	}
}

// Start starts the call. A program that cannot be started is an *ExitError with the verdict
// SpawnFailed, and errors.Is finds the reason, as os.ErrNotExist. After an error there is nothing to
// wait for.
func (c *Cmd) Start() error {
	if c.started {
		return errors.New("agentcg: the call has been started already")
	}
	err := c.connect()
	c.started = true
	if err == nil && c.ctx != nil {
		err = c.ctx.Err()
	}
	if err == nil {
		err = c.spawn()
	}
	closeAll(c.theirs)
	goruntime.KeepAlive(c.Stdin)
	goruntime.KeepAlive(c.Stdout)
	goruntime.KeepAlive(c.Stderr)
	if err == nil && c.call.pid < 0 {
		c.waited = true
		c.Outcome, err = c.call.wait()
		if err == nil {
			err = c.exitError()
		}
		close(c.over)
		c.call.close()
		c.canceller.close()
	}
	if err != nil {
		closeAll(c.ours)
		return err
	}
	c.Pid = c.call.pid
	c.copied = make(chan error, len(c.copiers))
	for _, copier := range c.copiers {
		go func(copier func() error) { c.copied <- copier() }(copier)
	}
	return nil
}

func (c *Cmd) spawn() error {
	var a arena
	defer a.free()
	options, err := c.options(&a)
	if err != nil {
		return err
	}
	argv := a.list(append([]string{c.Path}, c.Args[min(1, len(c.Args)):]...))
	if a.err != nil {
		return a.err
	}
	c.over = make(chan struct{})
	c.canceller = newCanceller()
	options.canceller = c.canceller.c
	if c.ctx != nil && c.ctx.Done() != nil {
		go func() {
			select {
			case <-c.ctx.Done():
				c.canceller.cancel()
			case <-c.over:
			}
		}()
	}
	err = c.session.with(func(s *C.agentcg_session_t) error {
		var spawned *C.agentcg_call_t
		if err := check(C.agentcg_session_spawn(s, argv, options, &spawned)); err != nil {
			return err
		}
		c.call, err = newCall(spawned, c.session.h.log.hold())
		return err
	})
	if err != nil {
		close(c.over)
		c.canceller.close()
	}
	return err
}

func (c *Cmd) options(a *arena) (*C.agentcg_call_options_t, error) {
	o := (*C.agentcg_call_options_t)(a.alloc(unsafe.Sizeof(C.agentcg_call_options_t{})))
	C.agentcg_call_options_init(o, C.size_t(unsafe.Sizeof(*o)))
	o.limits = c.Limits.c(a)
	o.hint = a.optional(c.Hint)
	for _, duration := range []struct {
		name   string
		given  time.Duration
		atOnce bool
		place  *C.uint64_t
	}{
		{"Timeout", c.Timeout, false, &o.timeout_ms},
		{"Grace", c.Grace, true, &o.grace_ms},
		{"QueueTimeout", c.QueueTimeout, true, &o.queue_timeout_ms},
		{"Sample", c.Sample, false, &o.sample_ms},
	} {
		if duration.atOnce && duration.given == AtOnce {
			*duration.place = 0
			continue
		}
		ms, err := milliseconds(duration.name, duration.given)
		if err != nil {
			return nil, err
		}
		*duration.place = ms
	}
	o.stdio = c.stdio
	o.capture_limit = unset(uint64(max(c.CaptureLimit, 0)))
	// The environment as Go has it: the library would read C's while Go may write it.
	environment := c.Env
	if environment == nil {
		environment = os.Environ()
	}
	o.env, o.env_clear = a.list(environment), true
	o.cwd = a.optional(c.Dir)
	o.name = a.optional(c.Name)
	if len(c.Args) > 0 && c.Args[0] != c.Path {
		o.arg0 = a.string(c.Args[0])
	}
	o.history = a.optional(c.History)
	if c.OOMScoreAdj != nil {
		score := min(max(*c.OOMScoreAdj, math.MinInt32+1), math.MaxInt32)
		o.oom_score_adj = C.int32_t(score)
	}
	if id := c.Credential; id != nil {
		o.uid, o.gid = C.uint32_t(id.Uid), C.uint32_t(id.Gid)
		o.groups, o.nr_groups = (*C.uint32_t)(numbers(a, id.Groups)), C.size_t(len(id.Groups))
	}
	o.background = C.bool(c.Background)
	o.new_session = C.bool(c.NewSession)
	o.budget = C.bool(!c.NoBudget)
	o.oom_group = C.bool(!c.NoOOMGroup)
	return o, nil
}

// Wait waits until the call is over and its cgroup gone, and all is copied. The error is nil when the
// verdict is Completed, else an *ExitError, or what copying failed with.
func (c *Cmd) Wait() error {
	switch {
	case c.call == nil:
		return errors.New("agentcg: the call has not been started")
	case c.waited:
		return errors.New("agentcg: the call has been waited for already")
	}
	c.waited = true
	outcome, err := c.call.wait()
	close(c.over)
	c.call.close()
	c.canceller.close()
	// What copies from our Stdin may wait for ever, and nobody reads it any more.
	var failed error
	for range c.copiers {
		if e := <-c.copied; failed == nil {
			failed = e
		}
	}
	closeAll(c.ours)
	if err != nil {
		return err
	}
	c.Outcome = outcome
	if err := c.exitError(); err != nil {
		return err
	}
	return failed
}

func (c *Cmd) exitError() error {
	if c.Outcome.Verdict == Completed {
		return nil
	}
	e := &ExitError{Outcome: c.Outcome, cause: c.Outcome.Err}
	if c.Outcome.Verdict == Cancelled && c.ctx != nil && c.ctx.Err() != nil {
		e.cause = c.ctx.Err()
	}
	return e
}

// running gives the call while it runs, to any goroutine.
func (c *Cmd) running() (*call, error) {
	if c.call == nil {
		return nil, errors.New("agentcg: the call has not been started")
	}
	return c.call, nil
}

// Cancel ends the call: SIGTERM to all its processes, SIGKILL after the grace.
func (c *Cmd) Cancel() error {
	return c.control(func(call *C.agentcg_call_t) *C.agentcg_error_t { return C.agentcg_call_cancel(call) })
}

// Kill kills all processes of the call at once.
func (c *Cmd) Kill() error {
	return c.control(func(call *C.agentcg_call_t) *C.agentcg_error_t { return C.agentcg_call_kill(call) })
}

// Signal sends a signal to the main process, and leaves it at that.
func (c *Cmd) Signal(signal syscall.Signal) error {
	return c.control(func(call *C.agentcg_call_t) *C.agentcg_error_t {
		return C.agentcg_call_signal(call, C.int32_t(signal))
	})
}

// Freeze stops all processes of the call where they are.
func (c *Cmd) Freeze() error {
	return c.control(func(call *C.agentcg_call_t) *C.agentcg_error_t { return C.agentcg_call_freeze(call, true) })
}

// Thaw lets them go on.
func (c *Cmd) Thaw() error {
	return c.control(func(call *C.agentcg_call_t) *C.agentcg_error_t { return C.agentcg_call_freeze(call, false) })
}

func (c *Cmd) control(f func(*C.agentcg_call_t) *C.agentcg_error_t) error {
	call, err := c.running()
	if err != nil {
		return err
	}
	return call.with(func(c *C.agentcg_call_t) error { return check(f(c)) })
}

// Usage reads what the call has used so far. When it is over, the Outcome has it.
func (c *Cmd) Usage() (*Usage, error) {
	call, err := c.running()
	if err != nil {
		return nil, err
	}
	var usage *Usage
	err = call.with(func(c *C.agentcg_call_t) error {
		var u C.agentcg_usage_t
		if err := check(C.agentcg_call_usage(c, &u, C.size_t(unsafe.Sizeof(u)))); err != nil {
			return err
		}
		usage = usageOf(&u, "{}")
		return nil
	})
	return usage, err
}

// call is one that was started.
type call struct {
	h   handle
	pid int
	// A duplicate of the library's descriptor, which Go's network poller waits on: no thread waits.
	ready *os.File
}

func newCall(c *C.agentcg_call_t, log *logger) (*call, error) {
	this := &call{pid: int(C.agentcg_call_pid(c))}
	this.h.log = log
	this.h.set(unsafe.Pointer(c), func(c unsafe.Pointer) { C.agentcg_call_free((*C.agentcg_call_t)(c)) })
	goruntime.SetFinalizer(this, (*call).close)
	var fd C.int32_t
	err := check(C.agentcg_call_fd(c, &fd))
	if err == nil {
		this.ready, err = pollable(uintptr(fd), "agentcg call")
	}
	if err != nil {
		this.close()
		return nil, err
	}
	return this, nil
}

func (c *call) with(f func(*C.agentcg_call_t) error) error {
	defer goruntime.KeepAlive(c)
	return c.h.with(func(c unsafe.Pointer) error { return f((*C.agentcg_call_t)(c)) })
}

func (c *call) wait() (*Outcome, error) {
	conn, err := c.ready.SyscallConn()
	if err != nil {
		return nil, err
	}
	var outcome *Outcome
	var failed error
	err = conn.Read(func(uintptr) bool {
		failed = c.with(func(c *C.agentcg_call_t) error {
			var o *C.agentcg_outcome_t
			if err := check(C.agentcg_call_wait(c, 0, &o)); err != nil || o == nil {
				return err
			}
			defer C.agentcg_outcome_free(o)
			outcome = outcomeOf(o)
			return nil
		})
		return outcome != nil || failed != nil
	})
	if failed != nil {
		err = failed
	}
	return outcome, err
}

func (c *call) close() {
	goruntime.SetFinalizer(c, nil)
	if c.ready != nil {
		c.ready.Close()
	}
	c.h.close()
}

// canceller ends one call, from before it is started.
type canceller struct {
	mu sync.Mutex
	c  *C.agentcg_canceller_t
}

func newCanceller() *canceller {
	c := &canceller{c: C.agentcg_canceller_new()}
	goruntime.SetFinalizer(c, (*canceller).close)
	return c
}

func (c *canceller) cancel() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.c != nil {
		// The call is over, or its timeout and the end of the session are still there.
		_ = check(C.agentcg_canceller_cancel(c.c))
	}
}

func (c *canceller) close() {
	goruntime.SetFinalizer(c, nil)
	c.mu.Lock()
	defer c.mu.Unlock()
	C.agentcg_canceller_free(c.c)
	c.c = nil
}

// milliseconds rounds up: a short time is something else than none. 0 is not set.
func milliseconds(name string, d time.Duration) (C.uint64_t, error) {
	switch {
	case d < 0:
		return 0, &Error{Code: ErrInvalidInput, Message: fmt.Sprintf("invalid %s %v: it is negative", name, d)}
	case d == 0:
		return C.AGENTCG_UNSET, nil
	}
	return C.uint64_t((d-1)/time.Millisecond + 1), nil
}

func min(a, b int) int {
	if a < b {
		return a
	}
	return b
}

func max(a, b int) int {
	if a > b {
		return a
	}
	return b
}
