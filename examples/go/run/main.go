// Runs a command with a limit and says what came of it: run MEMORY_MAX COMMAND [ARG]...
//
// The verdict and the advice go to standard error, the outcome as JSON to the file $REPORT.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"

	"agentcg"
)

func run() (*agentcg.Outcome, error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	limit, err := agentcg.ParseLimit(os.Args[1])
	if err != nil {
		return nil, err
	}
	runtime, err := agentcg.New(agentcg.WithRoot(os.Getenv("AGENTCG_ROOT")))
	if err != nil {
		return nil, err
	}
	defer runtime.Close()
	session, err := runtime.Session("example", agentcg.SessionConfig{})
	if err != nil {
		return nil, err
	}
	defer session.Close()

	command := session.Command(ctx, os.Args[2], os.Args[3:]...)
	command.Limits.MemoryMax = limit
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = command.Run()
	var exit *agentcg.ExitError
	if errors.As(err, &exit) {
		return exit.Outcome, nil
	}
	return command.Outcome, err
}

func main() {
	log.SetFlags(0)
	outcome, err := run()
	if err != nil {
		log.Fatal(err)
	}
	said := outcome.Verdict.String()
	if outcome.Cause != nil {
		said += " by " + outcome.Cause.Limit
	}
	if peak := outcome.Usage.MemoryPeak; peak != nil {
		said += fmt.Sprintf(", %d KiB at most", *peak>>10)
	}
	log.Printf("%s\n%s", said, outcome.Advice)
	if path := os.Getenv("REPORT"); path != "" {
		if err := os.WriteFile(path, append(outcome.JSON, '\n'), 0o666); err != nil {
			log.Fatal(err)
		}
	}
	if !outcome.Success() {
		os.Exit(1)
	}
}
