// Package agentcg controls and measures what AI agents' tool calls take from a Linux machine.
//
//	runtime, err := agentcg.New()                                     // a cgroup subtree of our own
//	session, err := runtime.Session("agent-1", agentcg.SessionConfig{Priority: agentcg.High})
//	cmd := session.Command(ctx, "make", "check")                      // shaped like os/exec
//	cmd.Limits.MemoryMax = agentcg.LimitOf(2 << 30)
//	out, err := cmd.CombinedOutput()
//	fmt.Println(cmd.Outcome.Verdict, cmd.Outcome.Advice)              // oom_killed, and what to do about it
//
// It is libagentcg for Go: building needs agentcg.h and libagentcg where the C compiler looks, or
// CGO_CFLAGS and CGO_LDFLAGS that say where they are. Go 1.19 (Debian 12) or later.
//
// What a function makes is undone by Close of its result; closing twice does nothing, and a closed
// handle answers os.ErrClosed. A handle that is forgotten is closed when the garbage collector finds
// it. All types but Cmd are safe for concurrent use. Failures are of type *Error.
package agentcg

// #cgo LDFLAGS: -lagentcg
// #include <agentcg.h>
import "C"

import (
	"encoding/json"
	"os"
	goruntime "runtime"
	"unsafe"
)

// Version is that of libagentcg.
func Version() string {
	return C.GoString(C.agentcg_version())
}

// Runtime is the owner of one cgroup subtree and of the sessions in it.
//
// The last of the runtime and its sessions to be closed removes the cgroups that it made.
type Runtime struct {
	h    handle
	path string
}

// Option is something that New may be told.
type Option func(*runtimeOptions)

type runtimeOptions struct {
	c    *C.agentcg_runtime_options_t // in C's memory: C calls back with what is in it
	root string
	log  func(LogLevel, string)
}

// WithRoot names the cgroup below which the sessions are made; it is made if it is missing. Default:
// agentcg below the cgroup v2 mount, or below our own cgroup where that is all we may write to.
func WithRoot(path string) Option {
	return func(o *runtimeOptions) { o.root = path }
}

// WithShared lets several processes use the root at once: a session that is there already is joined,
// and the last one out removes it.
func WithShared() Option {
	return func(o *runtimeOptions) { o.c.shared = true }
}

// WithKeepOrphans moves tool calls whose program was killed out, to the parent of the root, instead of
// killing them.
func WithKeepOrphans() Option {
	return func(o *runtimeOptions) { o.c.keep_orphans = true }
}

// WithCapacity bounds what the tool calls of all sessions may need together, by their limits; others
// wait.
func WithCapacity(capacity Capacity) Option {
	return func(o *runtimeOptions) {
		o.c.capacity_memory, o.c.capacity_calls, o.c.capacity_cpus = capacity.c()
	}
}

// WithLog hears what the runtime and all that it gives have to log, up to a level. The function is
// called in any goroutine, also at once in several; it must neither use the package nor panic.
func WithLog(level LogLevel, log func(level LogLevel, message string)) Option {
	return func(o *runtimeOptions) {
		o.c.log_level = C.uint32_t(level)
		o.log = log
	}
}

// New takes a cgroup subtree. It needs root, or a subtree that was delegated to the user.
//
// ErrUnsupported without cgroup v2; ErrBusy when another runtime holds the root.
func New(options ...Option) (*Runtime, error) {
	var a arena
	defer a.free()
	var o runtimeOptions
	o.c = (*C.agentcg_runtime_options_t)(a.alloc(unsafe.Sizeof(*o.c)))
	C.agentcg_runtime_options_init(o.c, C.size_t(unsafe.Sizeof(*o.c)))
	for _, option := range options {
		option(&o)
	}
	o.c.root = a.optional(o.root)
	if a.err != nil {
		return nil, a.err
	}
	var log *logger
	if o.log != nil {
		log = newLogger(o.log, o.c)
		defer log.release()
	}
	var c *C.agentcg_runtime_t
	if err := check(C.agentcg_runtime_new(o.c, &c)); err != nil {
		return nil, err
	}
	r := &Runtime{path: C.GoString(C.agentcg_runtime_path(c))}
	r.h.set(unsafe.Pointer(c), log, func(c unsafe.Pointer) { C.agentcg_runtime_free((*C.agentcg_runtime_t)(c)) })
	goruntime.SetFinalizer(r, (*Runtime).Close)
	return r, nil
}

// Path is the root cgroup's directory.
func (r *Runtime) Path() string {
	return r.path
}

// MovePid moves a process with all its threads into a session; its later children are born there.
// Once the session has tool calls, it goes to the cgroup agent beside them.
func (r *Runtime) MovePid(pid int, s *Session) error {
	return r.with(func(r *C.agentcg_runtime_t) error {
		return s.with(func(s *C.agentcg_session_t) error {
			return check(C.agentcg_move_pid(r, C.int32_t(pid), s))
		})
	})
}

// Close gives the subtree back. Sessions and what else it gave out go on until they are closed.
func (r *Runtime) Close() error {
	goruntime.SetFinalizer(r, nil)
	r.h.close()
	return nil
}

func (r *Runtime) with(f func(*C.agentcg_runtime_t) error) error {
	defer goruntime.KeepAlive(r)
	return r.h.with(func(c unsafe.Pointer) error { return f((*C.agentcg_runtime_t)(c)) })
}

// decode reads a JSON string of the library into v and frees it.
func decode(text *C.char, v any) error {
	defer C.agentcg_string_free(text)
	return json.Unmarshal([]byte(C.GoString(text)), v)
}

var errClosed = os.ErrClosed
