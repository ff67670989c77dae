package agentcg

// #include <agentcg.h>
import "C"

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"
)

// A Read of Stdin that has not ended so long after the call may wait for ever.
const patience = 100 * time.Millisecond

// The largest pipe that the kernel makes (fs.pipe-max-size).
const maxPipe = 1 << 20

// pipes is what connects a call with us.
type pipes struct {
	stdio  [3]C.int32_t
	theirs []*os.File // ends of pipes for the call
	ours   []*os.File // our ends

	input   *copier
	outputs []*copier
}

// copier copies between a pipe and what is no file.
type copier struct {
	pipe *os.File
	copy func() error
	done chan error
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
	return c.outputPipe(1, "Stdout", &c.Stdout)
}

// StderrPipe is as StdoutPipe, from the standard error.
func (c *Cmd) StderrPipe() (io.ReadCloser, error) {
	return c.outputPipe(2, "Stderr", &c.Stderr)
}

func (c *Cmd) outputPipe(fd int, name string, output *io.Writer) (io.ReadCloser, error) {
	if *output != nil {
		return nil, fmt.Errorf("agentcg: %s is set already", name)
	}
	theirs, ours, err := c.pipe(fd)
	if err != nil {
		return nil, err
	}
	*output = theirs
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

// connect says what becomes of the call's three descriptors.
func (c *Cmd) connect() error {
	if in := c.Stdin; in != nil {
		pipe, err := c.give(0, in)
		if err != nil {
			return err
		}
		if pipe != nil {
			c.input = &copier{pipe: pipe, copy: func() error { return copyInput(pipe, in) }}
		}
	}
	for i, out := range []io.Writer{c.Stdout, c.Stderr} {
		out := out
		if out == nil {
			continue
		}
		if i == 1 && same(c.Stdout, out) {
			c.stdio[2] = c.stdio[1]
			continue
		}
		pipe, err := c.give(i+1, out)
		if err != nil {
			return err
		}
		if pipe != nil {
			c.outputs = append(c.outputs, &copier{pipe: pipe, copy: func() error { return copyOutput(out, pipe) }})
		}
	}
	return nil
}

// give gives the call a file, or, for anything else, the end of a pipe; then our end is the result.
func (c *Cmd) give(fd int, what any) (ours *os.File, err error) {
	file, ok := what.(*os.File)
	if !ok {
		if file, ours, err = c.pipe(fd); err != nil {
			return nil, err
		}
	}
	c.stdio[fd], err = descriptor(file)
	return ours, err
}

// descriptor is the number of an open file. That of a closed one would mean something else.
func descriptor(file *os.File) (C.int32_t, error) {
	fd := file.Fd()
	if fd == ^uintptr(0) {
		return 0, fmt.Errorf("agentcg: a file for the call: %w", os.ErrClosed)
	}
	return C.int32_t(fd), nil
}

// descriptors are the numbers of files that the call inherits.
func descriptors(a *arena, files []*os.File) (*C.int32_t, C.size_t, error) {
	list := make([]int32, len(files))
	for i, file := range files {
		list[i] = -1
		if file != nil {
			fd, err := descriptor(file)
			if err != nil {
				return nil, 0, err
			}
			list[i] = int32(fd)
		}
	}
	return (*C.int32_t)(numbers(a, list)), C.size_t(len(list)), nil
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

func (c *copier) start() {
	c.done = make(chan error, 1)
	go func() { c.done <- c.copy() }()
}

// copy starts the copying.
func (p *pipes) copy() {
	if p.input != nil {
		p.input.start()
	}
	for _, output := range p.outputs {
		output.start()
	}
}

// copied ends the copying, for the call is over, and gives the first error.
func (p *pipes) copied() error {
	var failed error
	for _, output := range p.outputs {
		// What it left in the background may keep the pipe open.
		output.pipe.SetReadDeadline(time.Unix(1, 0))
	}
	for _, output := range p.outputs {
		if err := <-output.done; failed == nil {
			failed = err
		}
	}
	if p.input != nil {
		p.input.pipe.Close()
		select {
		case err := <-p.input.done:
			if failed == nil {
				failed = err
			}
		case <-time.After(patience):
		}
	}
	closeAll(p.ours)
	return failed
}

func copyInput(pipe *os.File, in io.Reader) error {
	_, err := io.Copy(pipe, in)
	pipe.Close()
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, os.ErrClosed) {
		return nil // it did not want all of it
	}
	return err
}

// copyOutput copies to the end of the pipe, or, after its deadline, what is in the pipe.
func copyOutput(out io.Writer, pipe *os.File) error {
	_, err := io.Copy(out, pipe)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	pipe.SetReadDeadline(time.Time{})
	conn, err := pipe.SyscallConn()
	if err != nil {
		return err
	}
	left := make([]byte, maxPipe)
	n := 0
	err = conn.Read(func(fd uintptr) bool {
		for n < len(left) {
			m, _ := syscall.Read(int(fd), left[n:])
			if m <= 0 {
				break
			}
			n += m
		}
		return true
	})
	if err != nil {
		return err
	}
	_, err = out.Write(left[:n])
	return err
}
