package agentcg

// #include <agentcg.h>
// #include <stdlib.h>
import "C"

import (
	"strings"
	"sync"
	"time"
	"unsafe"
)

// handle is something of the library's, which is freed once and used by nobody then.
type handle struct {
	mu   sync.RWMutex
	c    unsafe.Pointer
	free func(unsafe.Pointer)
	log  *logger
}

// set keeps what the library has made. What it may log meanwhile goes to the log of its runtime.
func (h *handle) set(c unsafe.Pointer, log *logger, free func(unsafe.Pointer)) {
	h.c, h.free, h.log = c, free, log.hold()
}

// with is for what several threads may use at once.
func (h *handle) with(f func(unsafe.Pointer) error) error {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if h.c == nil {
		return errClosed
	}
	return f(h.c)
}

// alone is for what one thread may use at a time.
func (h *handle) alone(f func(unsafe.Pointer) error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.c == nil {
		return errClosed
	}
	return f(h.c)
}

func (h *handle) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.c != nil {
		h.free(h.c)
		h.c = nil
		h.log.release()
	}
}

// arena is C memory that lives as long as a call into the library. It is taken in blocks, most often
// one, for each way into C and back takes its time.
type arena struct {
	blocks []unsafe.Pointer
	used   uintptr // of the last one
	size   uintptr
	err    error
}

const blockSize = 8 << 10

func (a *arena) alloc(size uintptr) unsafe.Pointer {
	const align = 16
	size = (size + align - 1) / align * align
	if size > a.size-a.used {
		a.used, a.size = 0, blockSize
		if size > a.size {
			a.size = size
		}
		a.blocks = append(a.blocks, C.calloc(1, C.size_t(a.size)))
	}
	place := unsafe.Add(a.blocks[len(a.blocks)-1], a.used)
	a.used += size
	return place
}

func (a *arena) free() {
	for _, block := range a.blocks {
		C.free(block)
	}
}

// string copies a string, which must not contain NUL: C would see its beginning only.
func (a *arena) string(s string) *C.char {
	if strings.IndexByte(s, 0) >= 0 && a.err == nil {
		a.err = nul(s)
	}
	block := a.alloc(uintptr(len(s)) + 1)
	copy(unsafe.Slice((*byte)(block), len(s)), s)
	return (*C.char)(block)
}

// optional is NULL for "".
func (a *arena) optional(s string) *C.char {
	if s == "" {
		return nil
	}
	return a.string(s)
}

func nul(s string) error {
	return invalid("%q contains a NUL byte", s)
}

// list copies strings, with a NULL after them; NULL for none.
func (a *arena) list(list []string) **C.char {
	if len(list) == 0 {
		return nil
	}
	const pointer = unsafe.Sizeof((*C.char)(nil))
	size := uintptr(len(list)+1) * pointer
	start := size
	for _, s := range list {
		if strings.IndexByte(s, 0) >= 0 && a.err == nil {
			a.err = nul(s)
		}
		size += uintptr(len(s)) + 1
	}
	block := a.alloc(size)
	pointers := unsafe.Slice((**C.char)(block), len(list)+1)
	texts := unsafe.Slice((*byte)(block), size)
	for i, s := range list {
		pointers[i] = (*C.char)(unsafe.Pointer(&texts[start]))
		start += uintptr(copy(texts[start:], s)) + 1
	}
	return (**C.char)(block)
}

// numbers copies numbers of 32 bits; NULL for none.
func numbers[T int32 | uint32](a *arena, list []T) unsafe.Pointer {
	if len(list) == 0 {
		return nil
	}
	block := a.alloc(uintptr(len(list)) * 4)
	copy(unsafe.Slice((*T)(block), len(list)), list)
	return block
}

// roundUp is a time in milliseconds: a short one is something else than none.
func roundUp(name string, d time.Duration) (C.uint64_t, error) {
	if d < 0 {
		return 0, invalid("invalid %s %v: it is negative", name, d)
	}
	return C.uint64_t((d + time.Millisecond - 1) / time.Millisecond), nil
}

// milliseconds is the same where 0 is not set.
func milliseconds(name string, d time.Duration) (C.uint64_t, error) {
	ms, err := roundUp(name, d)
	if ms == 0 {
		ms = C.AGENTCG_UNSET
	}
	return ms, err
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
