package agentcg

// #include <agentcg.h>
import "C"

import (
	"fmt"
	"os"
	"syscall"
)

// Code is the class of a failure. It is an error itself, for errors.Is:
//
//	if errors.Is(err, agentcg.ErrUnsupported) { ... }
type Code int

// The classes of failures.
const (
	ErrInvalidInput  Code = C.AGENTCG_ERROR_INVALID_INPUT
	ErrNotFound      Code = C.AGENTCG_ERROR_NOT_FOUND
	ErrAlreadyExists Code = C.AGENTCG_ERROR_ALREADY_EXISTS
	ErrPermission    Code = C.AGENTCG_ERROR_PERMISSION_DENIED
	ErrBusy          Code = C.AGENTCG_ERROR_BUSY
	ErrUnsupported   Code = C.AGENTCG_ERROR_UNSUPPORTED
	ErrTimedOut      Code = C.AGENTCG_ERROR_TIMED_OUT
	ErrOS            Code = C.AGENTCG_ERROR_OS
	ErrBPF           Code = C.AGENTCG_ERROR_BPF
	ErrInternal      Code = C.AGENTCG_ERROR_INTERNAL
)

var codeNames = map[Code]string{
	ErrInvalidInput:  "invalid input",
	ErrNotFound:      "not found",
	ErrAlreadyExists: "already exists",
	ErrPermission:    "permission denied",
	ErrBusy:          "busy",
	ErrUnsupported:   "not supported",
	ErrTimedOut:      "timed out",
	ErrOS:            "the kernel reported a failure",
	ErrBPF:           "BPF failed",
	ErrInternal:      "a defect of agentcg",
}

// Error is the name of the class.
func (c Code) Error() string {
	return "agentcg: " + codeNames[c]
}

// Error is what failed, on which object, what the kernel said and what can be done about it.
type Error struct {
	Code    Code
	Errno   syscall.Errno // 0 when the kernel was not asked
	Message string        // all of it, the help too
	Path    string        // the kernel file, cgroup or program that it is about, or ""
	Help    string        // the way out, or ""
}

// Error is the message.
func (e *Error) Error() string {
	return "agentcg: " + e.Message
}

// Is compares with a Code, and with what the package os has for it.
func (e *Error) Is(target error) bool {
	switch target {
	case e.Code:
		return true
	case os.ErrPermission:
		return e.Code == ErrPermission
	case os.ErrNotExist:
		return e.Code == ErrNotFound
	case os.ErrExist:
		return e.Code == ErrAlreadyExists
	case os.ErrDeadlineExceeded:
		return e.Code == ErrTimedOut
	}
	return false
}

// Unwrap gives the errno, so that errors.Is also finds fs.ErrPermission and its like.
func (e *Error) Unwrap() error {
	if e.Errno == 0 {
		return nil
	}
	return e.Errno
}

func invalid(format string, values ...any) error {
	return &Error{Code: ErrInvalidInput, Message: fmt.Sprintf(format, values...)}
}

func check(e *C.agentcg_error_t) error {
	if e == nil {
		return nil
	}
	defer C.agentcg_error_free(e)
	return errorOf(e)
}

func errorOf(e *C.agentcg_error_t) *Error {
	return &Error{
		Code:    Code(C.agentcg_error_code(e)),
		Errno:   syscall.Errno(C.agentcg_error_errno(e)),
		Message: C.GoString(C.agentcg_error_message(e)),
		Path:    C.GoString(C.agentcg_error_path(e)),
		Help:    C.GoString(C.agentcg_error_help(e)),
	}
}
