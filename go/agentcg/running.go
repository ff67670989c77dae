package agentcg

// #include <agentcg.h>
import "C"

import (
	"context"
	"os"
	goruntime "runtime"
	"sync"
	"unsafe"
)

// call is one that was started.
type call struct {
	h   handle
	pid int
	// A duplicate of the library's descriptor, which Go's network poller waits on: no thread waits.
	ready     *os.File
	canceller *canceller
}

// open takes what the library has started.
func (c *call) open(started *C.agentcg_call_t, log *logger) error {
	c.h.set(unsafe.Pointer(started), log, func(c unsafe.Pointer) { C.agentcg_call_free((*C.agentcg_call_t)(c)) })
	c.pid = int(C.agentcg_call_pid(started))
	var fd C.int32_t
	if err := check(C.agentcg_call_fd(started, &fd)); err != nil {
		return err
	}
	ready, err := pollable(uintptr(fd), "agentcg call")
	c.ready = ready
	return err
}

func (c *call) with(f func(*C.agentcg_call_t) error) error {
	defer goruntime.KeepAlive(c)
	return c.h.with(func(c unsafe.Pointer) error { return f((*C.agentcg_call_t)(c)) })
}

// wait waits for the outcome, which is freed then.
func (c *call) wait(see func(*C.agentcg_outcome_t)) error {
	conn, err := c.ready.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = conn.Read(func(uintptr) bool {
		var outcome *C.agentcg_outcome_t
		failed = c.with(func(c *C.agentcg_call_t) error {
			return check(C.agentcg_call_wait(c, 0, &outcome))
		})
		if outcome != nil {
			see(outcome)
			C.agentcg_outcome_free(outcome)
		}
		return outcome != nil || failed != nil
	})
	if failed != nil {
		err = failed
	}
	return err
}

func (c *call) close() {
	goruntime.SetFinalizer(c, nil)
	if c.ready != nil {
		c.ready.Close()
	}
	c.h.close()
	c.canceller.close()
}

// canceller ends one call, from before it is started.
type canceller struct {
	mu   sync.Mutex
	c    *C.agentcg_canceller_t
	over chan struct{}
}

// newCanceller makes one that ends the call when the context is done.
func newCanceller(ctx context.Context) *canceller {
	c := &canceller{c: C.agentcg_canceller_new(), over: make(chan struct{})}
	if ctx != nil && ctx.Done() != nil {
		go func() {
			select {
			case <-ctx.Done():
				// The call is over, or its timeout and the end of the session are still there.
				_ = c.cancel()
			case <-c.over:
			}
		}()
	}
	return c
}

func (c *canceller) cancel() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.c == nil {
		return errClosed
	}
	return check(C.agentcg_canceller_cancel(c.c))
}

// close is fine for none, too.
func (c *canceller) close() {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.c != nil {
		C.agentcg_canceller_free(c.c)
		c.c = nil
		close(c.over)
	}
}
