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
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// Cmd is a tool call being prepared or run: one command and all its descendants, in a cgroup of its
// own. It is shaped like exec.Cmd, with limits, and an Outcome at the end. One goroutine may use it,
// but for Cancel, Kill, Signal, Freeze, Thaw and Usage, which any may at any time. It can be run once.
//
// Run, Output and CombinedOutput take a thread until the call is over, as those of os/exec do, and only
// Kill works meanwhile. Start and Wait are for the rest, and for many calls at a time: they take none.
//
// When the main process has ended, what it has left behind is killed with the call.
type Cmd struct {
	Path string   // the program; without a slash it is looked for in the PATH that the call has
	Args []string // Args[0] is what the program is told as its own name
	Env  []string // as of exec.Cmd: NAME=VALUE, and nil is that of this process
	Dir  string   // "": ours

	// As of exec.Cmd: nil is /dev/null, an *os.File is given to the call, anything else is copied by
	// a goroutine. The end of the call is the end of the copying: a Read of Stdin that goes on then is
	// left behind.
	Stdin          io.Reader
	Stdout, Stderr io.Writer

	// As of exec.Cmd: entry i becomes descriptor 3+i of the call; nil is closed there.
	ExtraFiles []*os.File

	Name         string        // of the call and its cgroup; "": one is made up
	Limits       Limits        // of the call
	Hint         string        // what the agent says that it needs: memory:high,time:5m
	Timeout      time.Duration // then SIGTERM to all of it, and SIGKILL after the grace; 0: never
	Grace        time.Duration // AtOnce; 0: 2 s
	QueueTimeout time.Duration // how long it may wait where there is a capacity; AtOnce; 0: for ever
	Sample       time.Duration // takes samples of the usage for the JSON; 0: none
	CaptureLimit int           // how much Output and CombinedOutput keep; 0: 10 MiB
	History      string        // a file that remembers what commands take, for the hint memory:auto
	Background   bool          // what the main process leaves behind lives on until the session ends
	NewSession   bool          // in a POSIX session of its own, setsid(2)
	NoBudget     bool          // leaves variables such as OMP_NUM_THREADS alone
	NoOOMGroup   bool          // the OOM killer may take single processes of it
	Credential   *syscall.Credential
	Umask        *int                   // the file mode creation mask; nil: ours
	Rlimits      map[int]syscall.Rlimit // of setrlimit(2), by syscall.RLIMIT_NOFILE and its like
	Retry        Retry                  // of Run, Output and CombinedOutput
	OOMScoreAdj  *int                   // nil: ours plus 500

	Pid     int      // of the main process, once Start has started it
	Outcome *Outcome // once it is over

	session   *Session
	ctx       context.Context
	canceller atomic.Pointer[canceller]
	call      atomic.Pointer[call] // not while Run has it
	started   bool
	waited    bool
	pipes
}

// Retry says whether Run, Output and CombinedOutput run a call once more, with twice the memory, that
// the OOM killer ended at its own memory.max, if the session allows it more. Only where Stdin is nil,
// and there are no pipes; what Stdout and Stderr have got by then stays. The JSON of the Outcome has the
// first call in retries.
type Retry uint32

// The zero value is RetryAuto.
const (
	RetryAuto  Retry = C.AGENTCG_RETRY_DEFAULT // with the hint memory:auto
	RetryNever Retry = C.AGENTCG_RETRY_NEVER
	RetryOnce  Retry = C.AGENTCG_RETRY_ONCE
)

// Command prepares a tool call in the session. It is killed when the context is done before it is
// over; a context of nil never is.
func (s *Session) Command(ctx context.Context, name string, args ...string) *Cmd {
	null := C.int32_t(C.AGENTCG_STDIO_NULL)
	return &Cmd{
		Path:    name,
		Args:    append([]string{name}, args...),
		session: s,
		ctx:     ctx,
		pipes:   pipes{stdio: [3]C.int32_t{null, null, null}},
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
	again := c.Retry
	if c.Stdin != nil || len(c.theirs) > 0 {
		again = RetryNever // the first one may have read it
	}
	err := c.begin(func(s *C.agentcg_session_t, argv **C.char, options *C.agentcg_call_options_t) error {
		options.retry = C.uint32_t(again)
		c.copy()
		var outcome *C.agentcg_outcome_t
		if err := check(C.agentcg_session_run(s, argv, options, &outcome)); err != nil {
			return err
		}
		defer C.agentcg_outcome_free(outcome)
		c.Outcome = outcomeOf(outcome)
		return nil
	})
	failed := c.copied()
	c.canceller.Load().close()
	if err == nil {
		err = c.exitError()
	}
	if err == nil {
		err = failed
	}
	return err
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

// Start starts the call. A program that cannot be started is an *ExitError with the verdict
// SpawnFailed, and errors.Is finds the reason, as os.ErrNotExist. After an error there is nothing to
// wait for.
func (c *Cmd) Start() error {
	started := &call{}
	err := c.begin(func(s *C.agentcg_session_t, argv **C.char, options *C.agentcg_call_options_t) error {
		var spawned *C.agentcg_call_t
		if err := check(C.agentcg_session_spawn(s, argv, options, &spawned)); err != nil {
			return err
		}
		started.open(spawned, c.session.h.log)
		return nil
	})
	started.canceller = c.canceller.Load()
	if err != nil {
		started.close()
	} else if started.pid < 0 {
		err = c.end(started)
	}
	if err != nil {
		closeAll(c.ours)
		return err
	}
	goruntime.SetFinalizer(started, (*call).close)
	c.call.Store(started)
	c.Pid = started.pid
	c.copy()
	return nil
}

// begin has the library start the call, which alone has its ends of the pipes then.
func (c *Cmd) begin(start func(*C.agentcg_session_t, **C.char, *C.agentcg_call_options_t) error) error {
	if c.started {
		return errors.New("agentcg: the call has been started already")
	}
	err := c.connect()
	c.started = true
	defer func() {
		closeAll(c.theirs)
		goruntime.KeepAlive(c.Stdin)
		goruntime.KeepAlive(c.Stdout)
		goruntime.KeepAlive(c.Stderr)
	}()
	if err == nil && c.ctx != nil {
		err = c.ctx.Err()
	}
	if err != nil {
		return err
	}
	// Else a goroutine that runs one call after the other never passes the scheduler, and Go's monitor
	// thread, which takes that for one that will not yield, wakes every 20 µs while the program runs.
	goruntime.Gosched()
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
	canceller := newCanceller(c.ctx)
	c.canceller.Store(canceller)
	options.canceller = canceller.c
	return c.session.starting(canceller, func(s *C.agentcg_session_t) error { return start(s, argv, options) })
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
		if id.NoSetGroups {
			return nil, invalid("Credential: NoSetGroups is not supported")
		}
		o.uid, o.gid = C.uint32_t(id.Uid), C.uint32_t(id.Gid)
		o.groups, o.nr_groups = (*C.uint32_t)(numbers(a, id.Groups)), C.size_t(len(id.Groups))
	}
	if c.Umask != nil {
		o.umask = C.uint32_t(*c.Umask)
	}
	o.rlimits, o.nr_rlimits = rlimits(a, c.Rlimits)
	var err error
	if o.fds, o.nr_fds, err = descriptors(a, c.ExtraFiles); err != nil {
		return nil, err
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
	started, err := c.running()
	if err != nil {
		return err
	}
	if c.waited {
		return errors.New("agentcg: the call has been waited for already")
	}
	err = c.end(started)
	if failed := c.copied(); err == nil {
		err = failed
	}
	return err
}

// end waits for the end of the call itself.
func (c *Cmd) end(started *call) error {
	c.waited = true
	err := started.wait(func(outcome *C.agentcg_outcome_t) { c.Outcome = outcomeOf(outcome) })
	started.close()
	if err != nil {
		return err
	}
	return c.exitError()
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

// running gives the call once it is started, to any goroutine.
func (c *Cmd) running() (*call, error) {
	if started := c.call.Load(); started != nil {
		return started, nil
	}
	return nil, errors.New("agentcg: the call has not been started")
}

// Cancel ends the call: SIGTERM to all its processes, SIGKILL after the grace.
func (c *Cmd) Cancel() error {
	return c.control(func(call *C.agentcg_call_t) *C.agentcg_error_t { return C.agentcg_call_cancel(call) })
}

// Kill kills all processes of the call at once.
func (c *Cmd) Kill() error {
	if canceller := c.canceller.Load(); canceller != nil && c.call.Load() == nil {
		return canceller.cancel()
	}
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
	err = call.with(func(c *C.agentcg_call_t) (err error) {
		usage, err = readUsage(
			func(u *C.agentcg_usage_t, size C.size_t) *C.agentcg_error_t { return C.agentcg_call_usage(c, u, size) },
			func(text **C.char) *C.agentcg_error_t { return C.agentcg_call_usage_json(c, text) },
		)
		return err
	})
	return usage, err
}
