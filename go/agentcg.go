// Package agentcg controls and measures what AI agents' tool calls take from a Linux machine.
//
// It is libagentcg for Go: building needs agentcg.h and libagentcg where the C compiler looks, or
// CGO_CFLAGS and CGO_LDFLAGS that say where they are.
//
// What a function makes is undone by Close of its result; closing twice does nothing, and a closed
// handle answers os.ErrClosed. All types are safe for concurrent use. Failures are of type *Error.
package agentcg

// #cgo LDFLAGS: -lagentcg
// #include <agentcg.h>
// #include <stdlib.h>
import "C"

import (
	"encoding/json"
	"os"
	"sync"
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
	mu sync.RWMutex
	c  *C.agentcg_runtime_t
}

// NewRuntime takes the subtree at root, which is made if it is missing; "" is agentcg below the
// cgroup v2 mount. ErrBusy: another runtime holds it.
func NewRuntime(root string) (*Runtime, error) {
	var croot *C.char
	if root != "" {
		croot = C.CString(root)
		defer C.free(unsafe.Pointer(croot))
	}
	r := &Runtime{}
	if err := check(C.agentcg_runtime_new(croot, &r.c)); err != nil {
		return nil, err
	}
	return r, nil
}

// MovePid moves a process with all its threads into a session; its later children are born there.
func (r *Runtime) MovePid(pid int, s *Session) error {
	return r.with(func(c *C.agentcg_runtime_t) error {
		s.mu.RLock()
		defer s.mu.RUnlock()
		if s.c == nil {
			return os.ErrClosed
		}
		return check(C.agentcg_move_pid(c, C.int32_t(pid), s.c))
	})
}

// Close gives the subtree back. Sessions and what else it gave out go on until they are closed.
func (r *Runtime) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	C.agentcg_runtime_free(r.c)
	r.c = nil
	return nil
}

func (r *Runtime) with(f func(*C.agentcg_runtime_t) error) error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.c == nil {
		return os.ErrClosed
	}
	return f(r.c)
}

// decode reads a JSON string of the library into v and frees it.
func decode(text *C.char, v any) error {
	defer C.agentcg_string_free(text)
	return json.Unmarshal([]byte(C.GoString(text)), v)
}

// cstrings copies a list to C; free frees it.
func cstrings(list []string) (first **C.char, free func()) {
	if len(list) == 0 {
		return nil, func() {}
	}
	memory := C.malloc(C.size_t(len(list)) * C.size_t(unsafe.Sizeof(first)))
	copies := unsafe.Slice((**C.char)(memory), len(list))
	for i, s := range list {
		copies[i] = C.CString(s)
	}
	return (**C.char)(memory), func() {
		for _, s := range copies {
			C.free(unsafe.Pointer(s))
		}
		C.free(memory)
	}
}
