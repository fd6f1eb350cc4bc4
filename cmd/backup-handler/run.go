package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/SP1R4/BackupHandler/v3/internal/daemon"
	"github.com/SP1R4/BackupHandler/v3/internal/job"
	"github.com/SP1R4/BackupHandler/v3/internal/journal"
	"github.com/SP1R4/BackupHandler/v3/internal/location"
	"github.com/SP1R4/BackupHandler/v3/internal/notify"
)

// maxWarnings is how many warnings of a run are kept for its record.
const maxWarnings = 200

// A runKind says what a run is.
type runKind struct {
	command string
	mode    string
	// alone, unless nil: there is only one at a time for this configuration and these
	// words of the command line.
	alone []string
	wait  time.Duration
	// adHoc: a backup that is none of the configuration.
	adHoc bool
	// preflight refuses runs that should not be made; nil: none.
	preflight func(ctx context.Context, run *journal.Run) error
}

// waitFlag lets a command wait for another run.
func waitFlag(c *cobra.Command) *parsed[time.Duration] {
	f := &parsed[time.Duration]{kind: "duration", parse: parseLimit}
	c.Flags().Var(f, "wait", "wait as long for another run of the same configuration to end, e.g. 30m (default: refuse)")
	return f
}

// asRun does work as a run: alone, with hooks, recorded and told of. load has been
// called.
func (a *app) asRun(ctx context.Context, k runKind, work func(ctx context.Context, run *journal.Run) error) error {
	r := job.Runner{
		Wait: k.wait, Log: a.log, Warnings: a.warnings, Warn: func(line string) { a.warn("%s", line) }, Preflight: k.preflight,
		Ending: func(yes bool) {
			if yes {
				a.ending.Add(1)
			} else {
				a.ending.Add(-1)
			}
		},
		Tidy: a.awaitTidy,
	}
	var err error
	if r.Hooks, err = a.hooks(k.command); err != nil {
		broken := job.Fail(job.ExitUsage, err, "") // a run like any other: recorded and told of
		r.Preflight = func(context.Context, *journal.Run) error { return broken }
	}
	if dir, err := a.cfg.StateDir(); err == nil {
		r.Runs = journal.OpenRuns(dir)
	} // else load has said that there is none
	run := &journal.Run{
		ID: a.runID, Command: k.command, Trigger: a.trigger(), Start: a.started, Host: hostName(), User: userName(), PID: os.Getpid(),
		Version: version, Mode: k.mode, AdHoc: k.adHoc,
	}
	if run.Config, err = absoluteConfig(a.cfg); err != nil {
		return err
	}
	if n, err := a.notifier(); err != nil {
		a.warn("nobody is told of this run: %v", err)
	} else if watched := run.Trigger == "cli" && a.terminal(); !watched || k.command == "backup" {
		r.Notify = teller{n, watched}
	}
	if k.alone != nil {
		run.Lock = job.LockName(k.command, slices.Concat([]string{run.Config}, k.alone)...)
	}
	if k.command == "backup" && !k.adHoc && r.Runs != nil {
		if r.Sentinel, err = a.cfg.StatusSentinel(); err != nil {
			a.warn("there is no status_sentinel: %v", err)
		}
	}
	r.Ended = func(ctx context.Context, run *journal.Run) { a.tellMonitoring(ctx, r.Runs, run) }
	a.tellStart(r.Runs, run)
	a.log.Info("run starts", "command", run.Command, "trigger", run.Trigger)
	err = r.Do(ctx, run, work)
	a.log.Info("run ended", "command", run.Command, "status", string(run.Status), "exit_code", run.Exit, "seconds", run.Took(time.Now()).Seconds())
	return err
}

// A teller tells of runs what somebody who watches has not seen: of a mistake on the
// command line nobody else need know.
type teller struct {
	*notify.Notifier
	watched bool
}

func (t teller) Ended(ctx context.Context, run *journal.Run, before []journal.Run) []journal.Told {
	if t.watched && run.Exit == job.ExitUsage {
		return nil
	}
	return t.Notifier.Ended(ctx, run, before)
}

// recorded does the work of a command other than backup as a run, unless nothing is to
// be changed. With wait, there is only one of it at a time for each configuration.
func (a *app) recorded(ctx context.Context, command string, dryRun bool, wait *parsed[time.Duration], work func(ctx context.Context, run *journal.Run) error) error {
	if err := a.load(); err != nil {
		return err
	}
	if dryRun {
		return work(ctx, &journal.Run{})
	}
	k := runKind{command: command}
	if wait != nil {
		k.alone, k.wait = slices.Concat([]string{""}, a.backupDirs), wait.or(0)
	}
	return a.asRun(ctx, k, work)
}

// destination notes what became of a repository.
func destination(run *journal.Run, place, problem string) {
	run.Destinations = append(run.Destinations, journal.DestinationRun{Location: location.Redact(place), Error: problem})
	if problem != "" && run.Error == "" {
		run.Error = location.Redact(place) + ": " + problem
	}
}

// trigger is what has started the program.
func (a *app) trigger() string {
	if t, _ := a.env(daemon.TriggerEnv); slices.Contains([]string{"schedule", "timer", "telegram"}, t) {
		return t
	}
	return "cli"
}

// hooks are those of a command.
func (a *app) hooks(command string) (job.Hooks, error) {
	c, err := a.cfg.Hooks()
	if err != nil {
		return job.Hooks{}, err
	}
	h := job.Hooks{Limit: c.Timeout, Redact: a.redactor()}
	switch command {
	case "backup":
		h.Before, h.After, h.OnSuccess, h.OnFailure = c.PreBackup, c.PostBackup, c.OnSuccess, c.OnFailure
		for _, s := range c.Sources {
			h.Sources = append(h.Sources, job.SourceHooks{Path: s.Path, Before: s.PreBackup, After: s.PostBackup})
		}
	case "restore":
		h.Before, h.After = c.PreRestore, c.PostRestore
	}
	if h.Before+h.After+h.OnSuccess+h.OnFailure == "" && len(h.Sources) == 0 {
		return job.Hooks{}, nil
	}
	if err := a.cfg.Trusted(); err != nil {
		return job.Hooks{}, &job.Failure{Code: job.ExitUsage, Err: fmt.Errorf("hooks are not run, and so nothing is: %w", err), Hint: job.TrustHint}
	}
	h.Env = a.hookEnvironment()
	return h, nil
}

// hookEnvironment is the program's own, without what opens repositories.
func (a *app) hookEnvironment() []string {
	secret, _ := a.env(job.PassphraseEnv)
	return slices.DeleteFunc(slices.Clone(a.environ), func(v string) bool {
		name, value, _ := strings.Cut(v, "=")
		return name == job.PassphraseEnv || secret != "" && value == secret
	})
}

// noteWarning keeps a warning for the record of the run.
func (a *app) noteWarning(line string) {
	a.warnMu.Lock()
	defer a.warnMu.Unlock()
	if len(a.warned) < maxWarnings && !slices.Contains(a.warned, line) {
		a.warned = append(a.warned, line)
	}
}

// warnings returns what was warned of so far.
func (a *app) warnings() []string {
	a.warnMu.Lock()
	defer a.warnMu.Unlock()
	return slices.Clone(a.warned)
}

// fail notes why a run whose output has told already has failed.
func fail(run *journal.Run, code int, why string) error {
	if code != job.ExitOK {
		run.Error = oneLine(why)
	}
	return outcome(code)
}
