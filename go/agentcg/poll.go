package agentcg

import (
	"os"
	"syscall"
)

// pollable duplicates a descriptor of the library for Go's network poller.
func pollable(fd uintptr, name string) (*os.File, error) {
	duplicate, _, errno := syscall.Syscall(syscall.SYS_FCNTL, fd, syscall.F_DUPFD_CLOEXEC, 0)
	if errno != 0 {
		return nil, os.NewSyscallError("fcntl", errno)
	}
	// What makes os.NewFile give it to the poller.
	if err := syscall.SetNonblock(int(duplicate), true); err != nil {
		syscall.Close(int(duplicate))
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(duplicate, name), nil
}
