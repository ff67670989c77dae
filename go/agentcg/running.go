package agentcg

// #include <agentcg.h>
import "C"

import (
	"context"
	goruntime "runtime"
	"sync"
	"sync/atomic"
	"unsafe"
)

// call is one that was started.
type call struct {
	h         handle
	pid       int
	canceller *canceller
}

// open takes what the library has started.
func (c *call) open(started *C.agentcg_call_t, log *logger) {
	c.h.set(unsafe.Pointer(started), log, func(c unsafe.Pointer) { C.agentcg_call_free((*C.agentcg_call_t)(c)) })
	c.pid = int(C.agentcg_call_pid(started))
}

func (c *call) with(f func(*C.agentcg_call_t) error) error {
	defer goruntime.KeepAlive(c)
	return c.h.with(func(c unsafe.Pointer) error { return f((*C.agentcg_call_t)(c)) })
}

// A thread that waits in the library is woken sooner than a goroutine by Go's network poller. But no
// more than these do: the other goroutines wait without.
const maxWaiting = 16

var waiting atomic.Int32

// wait waits for the outcome, which is freed then.
func (c *call) wait(see func(*C.agentcg_outcome_t)) error {
	defer waiting.Add(-1)
	if waiting.Add(1) <= maxWaiting {
		_, err := c.take(-1, see)
		return err
	}
	var fd C.int32_t
	err := c.with(func(c *C.agentcg_call_t) error { return check(C.agentcg_call_fd(c, &fd)) })
	if err != nil {
		return err
	}
	ready, err := pollable(uintptr(fd), "agentcg call")
	if err != nil {
		return err
	}
	defer ready.Close()
	conn, err := ready.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = conn.Read(func(uintptr) (over bool) {
		over, failed = c.take(0, see)
		return over || failed != nil
	})
	if failed != nil {
		err = failed
	}
	return err
}

// take waits in the library; with 0 it only looks.
func (c *call) take(ms C.int64_t, see func(*C.agentcg_outcome_t)) (over bool, err error) {
	err = c.with(func(c *C.agentcg_call_t) error {
		var outcome *C.agentcg_outcome_t
		err := check(C.agentcg_call_wait(c, ms, &outcome))
		if outcome != nil {
			over = true
			see(outcome)
			C.agentcg_outcome_free(outcome)
		}
		return err
	})
	return over, err
}

func (c *call) close() {
	goruntime.SetFinalizer(c, nil)
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
