// Command backup-handler keeps every version of a machine's files in encrypted,
// deduplicating repositories.
//
// A tour of the program: docs/overview.md. main.go: start and end. app.go: what
// all commands share. Each other file is one command, or a few of one kind.
package main

import (
	"context"
	"log"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/daemon"
	"github.com/SP1R4/BackupHandler/v3/internal/job"
)

// version is set by the build: -ldflags "-X main.version=…".
var version = "3.0.0-dev"

// graceAfterSignal is how long a run may take to stop. What is stored is safe at
// any moment, so that after it the process simply ends.
const graceAfterSignal = 1500 * time.Millisecond

// tidyTime is how long after that it may take to remove what must not stay.
const tidyTime = 2 * time.Minute

// endingTime is how long after that the end of a run may take: hooks that clean up, its
// record, those who are told.
const endingTime = 15 * time.Minute

// gcPercent keeps the garbage collector from letting the heap grow to twice what is
// live: most of that is buffers without pointers, which cost nothing to pass over.
// Measured with first backups of the benchmark's corpus: a tenth less memory at 50 than
// at Go's 100, a twentieth less at 35 than at 50, and processor time that differs by
// less than the machine's noise.
const gcPercent = 35

// gcFirst lets the heap grow to 16 MiB, four times Go's least, before gcPercent holds:
// with it from the beginning, the first collection came at 1.4 MiB, and a restore began
// with twelve of them.
const gcFirst = 400

// tuneGC sets when garbage is collected, unless the environment says it. Short commands end
// before the first collection, at 4 MiB, and are spared even the cost of setting something.
func tuneGC() {
	if _, set := os.LookupEnv("GOGC"); !set {
		atCollection(gcFirst, gcPercent)
	}
}

// atCollection sets the percentages one after the other, at the next collections.
func atCollection(percents ...int) {
	gone := new(*byte)
	runtime.AddCleanup(gone, func(percents []int) {
		debug.SetGCPercent(percents[0])
		if rest := percents[1:]; len(rest) > 0 {
			atCollection(rest...)
		}
	}, percents)
}

func main() {
	tuneGC()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	a := newApp(os.LookupEnv, os.Stdin, os.Stdout, os.Stderr)
	a.environ = os.Environ()
	log.SetFlags(0)
	log.SetOutput(strayLog{a})
	go func() {
		<-ctx.Done()
		if a.resident.Load() {
			return
		}
		time.Sleep(graceAfterSignal)
		a.awaitTidy()
		a.awaitEnding()
		os.Exit(job.ExitInterrupted)
	}()
	os.Exit(runDue(ctx, a))
}

// runDue runs the command line. One that a daemon has started claims its time first.
func runDue(ctx context.Context, a *app) int {
	if due, ok := os.LookupEnv(daemon.ClaimEnv); ok {
		os.Unsetenv(daemon.ClaimEnv) // it is not for what this process starts
		release, code := a.claimDue(ctx, due)
		if release == nil {
			return code
		}
		defer release()
	}
	return a.run(ctx, os.Args[1:])
}
