// Runs a command as a tool call and says what its processes do meanwhile: events COMMAND [ARG]...
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"

	"agentcg"
)

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	runtime, err := agentcg.New(agentcg.WithRoot(os.Getenv("AGENTCG_ROOT")))
	check(err)
	defer runtime.Close()
	session, err := runtime.Session("example", agentcg.SessionConfig{Priority: agentcg.Low})
	check(err)
	defer session.Close()
	stream, err := runtime.Subscribe(agentcg.EventFilter{
		Mode:    agentcg.TrackedOnly,
		Cgroups: []string{session.Path()}, // and all below it
	})
	check(err)
	defer stream.Close()

	command := session.Command(ctx, os.Args[1], os.Args[2:]...)
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
	check(command.Start())
	over := make(chan error, 1)
	go func() { over <- command.Wait() }()

	events := stream.Events(ctx)
	for running := true; running; {
		select {
		case event, ok := <-events:
			if !ok {
				log.Fatal(stream.Err())
			}
			switch event := event.(type) {
			case *agentcg.Exec:
				fmt.Println(event.Pid, "runs", event.FullCommand())
			case *agentcg.Exit:
				fmt.Println(event.Pid, "ends after", event.DurationMs, "ms")
				running = int(event.Pid) != command.Pid
			case *agentcg.Dropped:
				fmt.Println(event.Count, "events are lost:", event.Reason)
			}
		case <-ctx.Done():
			running = false
		}
	}
	if err := <-over; err != nil {
		fmt.Println(err)
	}
	if usage := command.Outcome.Usage; usage.CPUUser != nil && usage.CPUSystem != nil {
		fmt.Println("CPU:", *usage.CPUUser+*usage.CPUSystem)
	}
}
