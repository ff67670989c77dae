// Runs a command in a session and says what its processes did and used: go run . COMMAND [ARG]...
package main

import (
	"fmt"
	"log"
	"os"
	"os/exec"

	"agentcg"
)

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	runtime, err := agentcg.NewRuntime(os.Getenv("AGENTCG_ROOT"))
	check(err)
	session, err := runtime.OpenSession("example", agentcg.SessionConfig{Priority: agentcg.Low})
	check(err)
	events, err := runtime.Subscribe(agentcg.EventFilter{Mode: agentcg.TrackedOnly, Cgroups: []string{session.Path()}})
	check(err)

	// Children are born where their parent is.
	check(runtime.MovePid(os.Getpid(), session))
	command := exec.Command(os.Args[1], os.Args[2:]...)
	command.Stdout, command.Stderr = os.Stdout, os.Stderr
	check(command.Start())
	for running := true; running; {
		event, err := events.Next()
		check(err)
		switch event := event.(type) {
		case *agentcg.Exec:
			fmt.Println(event.Pid, "runs", event.FullCommand)
		case *agentcg.Exit:
			fmt.Println(event.Pid, "ends after", event.DurationMs, "ms")
			running = int(event.Pid) != command.Process.Pid
		}
	}
	command.Wait()
	usage, err := session.Usage()
	check(err)
	if usage.CPUUser != nil && usage.CPUSystem != nil {
		fmt.Println("CPU:", *usage.CPUUser+*usage.CPUSystem, "µs")
	}

	check(events.Close())
	check(session.Close())
	check(runtime.Close())
	os.Exit(command.ProcessState.ExitCode())
}
