// What agentcg-bench has Go do, as c/bench.c does in C.
package main

import (
	"bufio"
	"context"
	"fmt"
	"log"
	"os"
	"sort"
	"time"

	"agentcg"
)

func check(err error) {
	if err != nil {
		log.Fatal("bench.go: ", err)
	}
}

func calls(session *agentcg.Session, spawn bool, n int) {
	times := make([]time.Duration, n)
	for i := range times {
		since := time.Now()
		command := session.Command(context.Background(), "/bin/true")
		if spawn {
			check(command.Start())
			check(command.Wait())
		} else {
			check(command.Run())
		}
		times[i] = time.Since(since)
	}
	sort.Slice(times, func(i, j int) bool { return times[i] < times[j] })
	fmt.Println(times[n/2].Nanoseconds())
}

func read(stream *agentcg.EventStream) {
	since := time.Now()
	n, bytes := 0, 0
	for {
		event, err := stream.TryNext()
		check(err)
		if event == nil {
			break
		}
		n++
		switch event := event.(type) {
		case *agentcg.Exec:
			bytes += len(event.Comm) + len(event.Cgroup)
		case *agentcg.Exit:
			bytes += len(event.Comm) + len(event.Cgroup)
		}
	}
	if bytes == 0 {
		n = 0
	}
	fmt.Println(n, time.Since(since).Nanoseconds())
	stream.Close()
}

func main() {
	runtime, err := agentcg.New(agentcg.WithRoot(os.Args[1]))
	check(err)
	defer runtime.Close()
	session, err := runtime.Session("bench", agentcg.SessionConfig{})
	check(err)
	defer session.Close()
	var stream *agentcg.EventStream
	for input := bufio.NewScanner(os.Stdin); input.Scan(); {
		var n int
		switch line := input.Text(); {
		case line == "open":
			stream, err = runtime.Subscribe(agentcg.EventFilter{
				Mode:        agentcg.TrackedOnly,
				Kinds:       agentcg.ExecEvents | agentcg.ExitEvents,
				Commands:    []string{"agentcg-true"},
				BufferBytes: 64 << 20,
			})
			check(err)
			fmt.Println("ok")
		case line == "read":
			read(stream)
		default:
			var what string
			_, err := fmt.Sscanf(line, "%s %d", &what, &n)
			check(err)
			calls(session, what == "spawn", n)
		}
	}
}
