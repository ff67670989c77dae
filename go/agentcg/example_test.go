package agentcg_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"agentcg"
)

// Examples cannot be skipped, and most of these need cgroups of their own.
func TestMain(m *testing.M) {
	flag.Parse()
	if found, err := agentcg.Probe(); err == nil && !found.Supports("cgroup_create") && flag.Lookup("test.run").Value.String() == "" {
		fmt.Println("the examples are left out:", found.Get("cgroup_create").Detail)
		flag.Set("test.run", "^Test")
	}
	os.Exit(m.Run())
}

func exampleRoot() string {
	found, err := agentcg.Probe()
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf("%s/agentcg-example-%d", found.Get("cgroup2").Detail, os.Getpid())
}

func Example() {
	runtime, err := agentcg.New(agentcg.WithRoot(exampleRoot()))
	if err != nil {
		panic(err)
	}
	defer runtime.Close()
	session, err := runtime.Session("agent-1", agentcg.SessionConfig{Priority: agentcg.High})
	if err != nil {
		panic(err)
	}
	defer session.Close()

	out, err := session.Command(context.Background(), "echo", "hello").Output()
	fmt.Printf("%s%v\n", out, err)
	// Output:
	// hello
	// <nil>
}

func ExampleSession_Command() {
	runtime, err := agentcg.New(agentcg.WithRoot(exampleRoot()))
	if err != nil {
		panic(err)
	}
	defer runtime.Close()
	session, err := runtime.Session("agent-1", agentcg.SessionConfig{})
	if err != nil {
		panic(err)
	}
	defer session.Close()

	command := session.Command(context.Background(), "sleep", "1000")
	command.Timeout = 50 * time.Millisecond
	err = command.Run()
	var exit *agentcg.ExitError
	if errors.As(err, &exit) {
		fmt.Println(exit.Outcome.Verdict, "by", exit.Outcome.Cause.Limit)
	}
	// Output: timed_out by timeout
}

func ExampleCmd_Run() {
	runtime, err := agentcg.New(agentcg.WithRoot(exampleRoot()))
	if err != nil {
		panic(err)
	}
	defer runtime.Close()
	session, err := runtime.Session("agent-1", agentcg.SessionConfig{})
	if err != nil {
		panic(err)
	}
	defer session.Close()

	// All processes of the call are killed when the context is done.
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	err = session.Command(ctx, "sh", "-c", "sleep 1000 & sleep 1000").Run()
	fmt.Println(errors.Is(err, context.DeadlineExceeded))
	// Output: true
}

func ExampleRuntime_StartScheduler() {
	runtime, err := agentcg.New()
	if err != nil {
		panic(err)
	}
	defer runtime.Close()
	scheduler, err := runtime.StartScheduler(agentcg.SchedulerConfig{})
	switch {
	case errors.Is(err, agentcg.ErrUnsupported):
		fmt.Println("the kernel's scheduler it is:", err)
	case errors.Is(err, os.ErrPermission):
		fmt.Println("be root:", err)
	case err == nil:
		defer scheduler.Close()
	}
}

func ExampleEventStream_Events() {
	runtime, err := agentcg.New()
	if err != nil {
		panic(err)
	}
	defer runtime.Close()
	stream, err := runtime.Subscribe(agentcg.EventFilter{
		Mode:     agentcg.TrackedOnly,
		Commands: []string{"python", "make"},
	})
	if err != nil {
		panic(err)
	}
	defer stream.Close()

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for event := range stream.Events(ctx) {
		switch event := event.(type) {
		case *agentcg.Exec:
			fmt.Println(event.Pid, event.FullCommand())
		case *agentcg.Exit:
			fmt.Println(event.Pid, "ended with", event.ExitCode)
		}
	}
}
