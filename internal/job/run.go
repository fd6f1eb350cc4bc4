package job

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/command"
	"github.com/SP1R4/BackupHandler/v3/internal/durable"
	"github.com/SP1R4/BackupHandler/v3/internal/journal"
)

const (
	// stopTime is how long what a run does may go on after a signal. What is stored is
	// safe at any moment, so that the run then ends without it.
	stopTime = 1500 * time.Millisecond
	// hookGrace is how long a hook may clean up once it is asked to end.
	hookGrace = 10 * time.Second
	// lockPatience is how long a lock is tried even without Wait: somebody who reads
	// the record of runs has each lock for a moment.
	lockPatience = 500 * time.Millisecond
	lockPoll     = 50 * time.Millisecond
	lockHint     = "nothing was done; is the state directory ([STATE] dir) writable?"
)

// ErrReported is the error of a run whose output has told already what went wrong.
var ErrReported = errors.New("see above")

// A Notifier tells people and programs about runs. It does not fail: what could not be
// told is in what it returns.
type Notifier interface {
	Started(ctx context.Context, run *journal.Run) []journal.Told
	// Ended is given all other runs, the newest first. The run may be among them: then
	// only those behind it were before it.
	Ended(ctx context.Context, run *journal.Run, before []journal.Run) []journal.Told
}

// Hooks are the commands around a run: lines for the shell; "" for none.
type Hooks struct {
	Before, After        string
	OnSuccess, OnFailure string
	// Sources have their own, for runs that have them.
	Sources []SourceHooks

	Limit  time.Duration // of each
	Env    []string      // to which [Runner.Do] adds what there is to know of the run
	Redact func(string) string
}

// SourceHooks are the commands around a run that are there for one source.
type SourceHooks struct {
	Path          string
	Before, After string
}

// A Runner makes runs: from the lock to the record, with all that is around the work
// itself. docs/runs.md is what it does, in order. It makes one run at a time.
type Runner struct {
	Runs     *journal.Runs // nil: there is no state directory, so nothing is recorded or locked
	Sentinel string        // file with the state of the last run; "": none
	Wait     time.Duration // for another run of the same configuration
	Hooks    Hooks
	Notify   Notifier // nil: nobody is told

	// Preflight refuses runs that should not be made; nil: none. What it returns is
	// the user's to see.
	Preflight func(ctx context.Context, run *journal.Run) error
	// Ended tells monitoring of the run, once it is recorded; nil: nobody. What it warns of
	// is added to the record.
	Ended func(ctx context.Context, run *journal.Run)

	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// Warnings returns what the user has been warned of so far. What it has when the run
	// begins is about the configuration, and said at each start: it makes no run one to
	// look at.
	Warnings func() []string
	Warn     func(string)
	Log      *slog.Logger
	// Ending says that the process must not be ended, until it is called with false.
	Ending func(bool)
	// Tidy waits until the work that was left behind has removed what must not stay.
	Tidy func()

	said int // warnings before the run
}

// LockName names the lock of the runs of one command of one configuration: of a file,
// or of what stands for one on a command line.
func LockName(name string, configuration ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(configuration, "\x00")))
	return name + "-" + hex.EncodeToString(sum[:8]) + ".lock"
}

// Do makes a run. run says what it is, and holds what became of it afterwards; work,
// which may go on for a moment after the context has ended, fills in a copy of its own. A
// run with run.Lock is the only one with this lock.
//
// The error is that of the run.
func (r *Runner) Do(ctx context.Context, run *journal.Run, work func(ctx context.Context, run *journal.Run) error) error {
	r.Ending(true)
	defer r.Ending(false)
	r.said = len(r.Warnings())
	run.Status = journal.Running
	lock, err := r.lock(ctx, run)
	if err != nil {
		// The lock is another's, and so is the state of the last run. A record with it
		// would make the run that has it look as if it had crashed.
		run.Lock = ""
		r.close(context.WithoutCancel(ctx), run, err, false)
		return err
	}
	if lock != nil {
		defer lock.Unlock()
		if r.Notify != nil {
			if err := TellCrashes(context.WithoutCancel(ctx), r.Runs, run.Config, run.Lock, r.Notify, r.Log); err != nil {
				r.Warn(err.Error())
			}
		}
		r.put(run)
	}
	r.sentinel(run)
	if r.Notify != nil {
		run.Told = append(run.Told, r.Notify.Started(ctx, run)...)
	}
	err = r.attempt(ctx, run, work)
	if c := ctx.Err(); c != nil {
		err = c
	}
	r.close(context.WithoutCancel(ctx), run, err, true)
	return err
}

// crashedLock is held by whoever tells of runs that crashed.
const crashedLock = "crashed.lock"

// TellCrashes tells of runs of a configuration that ended without a word, as they could
// not do so themselves, and records that it has. Of those of one series only the newest
// is told, and none that a newer run has followed, which told how things stand. If nobody
// could be told, the next one tries. mine is the name of a lock that the caller has; "":
// none.
func TellCrashes(ctx context.Context, runs *journal.Runs, config, mine string, n Notifier, log *slog.Logger) error {
	if err := runs.MakeLocks(); err != nil {
		return err
	}
	lock, err := durable.TryLock(runs.LockPath(crashedLock))
	if errors.Is(err, durable.ErrLocked) {
		return nil // somebody is at it
	}
	if err != nil {
		return err
	}
	defer lock.Unlock()
	all, crashed, err := runs.Crashes(mine)
	if err != nil {
		return err
	}
	newer := make(map[string]bool) // series that have one
	for i := range all {
		run := all[i]
		if run.Config != config {
			continue
		}
		if crashed[run.ID] {
			failed := false
			if !newer[run.Series()] {
				told := n.Ended(ctx, &run, all)
				failed = len(told) > 0
				for _, t := range told {
					if failed = failed && t.Error != ""; t.Error != "" {
						log.Warn("could not tell of a run that crashed", "run", run.ID, "channel", t.Channel, "error", t.Error)
					}
				}
				run.Told = append(run.Told, told...)
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			if !failed {
				log.Warn("a run has crashed", "run", run.ID, "command", run.Command)
				if err := runs.Put(&run); err != nil {
					return err
				}
			}
		}
		// One that was refused for it has told of nothing else.
		newer[run.Series()] = newer[run.Series()] || run.Lock != ""
	}
	return nil
}

// lock takes the run's lock; nil: it has none.
func (r *Runner) lock(ctx context.Context, run *journal.Run) (*durable.Lock, error) {
	if r.Runs == nil || run.Lock == "" {
		run.Lock = ""
		return nil, nil
	}
	if err := r.Runs.MakeLocks(); err != nil {
		return nil, Fail(ExitRefused, fmt.Errorf("make the directory of locks: %w", err), lockHint)
	}
	said := false
	for start := time.Now(); ; {
		lock, err := durable.TryLock(r.Runs.LockPath(run.Lock))
		if err == nil {
			return lock, nil
		}
		if !errors.Is(err, durable.ErrLocked) {
			return nil, Fail(ExitRefused, err, lockHint)
		}
		waited := time.Since(start)
		if waited >= lockPatience && !said {
			said = true
			if r.Wait > 0 {
				r.Log.Info("waits for another run", "run", r.holder(run))
			}
		}
		if waited >= max(r.Wait, lockPatience) {
			return nil, Fail(ExitRefused, fmt.Errorf("another %s of this configuration is going on%s", run.Command, r.holder(run)),
				"wait for it with --wait 30m; 'backup-handler runs' shows it")
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(lockPoll):
		}
	}
}

// holder describes the run that has the lock; "" if it cannot be told.
func (r *Runner) holder(run *journal.Run) string {
	all, err := r.Runs.List()
	if err != nil {
		return ""
	}
	for i := range all {
		if o := &all[i]; o.Lock == run.Lock && o.Status == journal.Running {
			return fmt.Sprintf(": run %s, process %d, since %s", o.ID, o.PID, o.Start.Local().Format("2006-01-02 15:04:05"))
		}
	}
	return ""
}

// attempt is the run without what records and tells it.
func (r *Runner) attempt(ctx context.Context, run *journal.Run, work func(context.Context, *journal.Run) error) error {
	if r.Preflight != nil {
		err := r.stage(run, "preflight", func() error { return r.Preflight(ctx, run) })
		if err != nil {
			return Fail(ExitRefused, err, "")
		}
	}
	pre, post := "pre_"+run.Command, "post_"+run.Command
	// What was begun is ended, in the opposite order, whatever comes in between.
	type ending struct{ name, line, source string }
	var endings []ending
	err := r.before(ctx, run, pre, r.Hooks.Before, "")
	if err == nil {
		endings = append(endings, ending{post, r.Hooks.After, ""})
		for _, s := range r.Hooks.Sources {
			if !slices.ContainsFunc(run.Sources, func(o journal.SourceRun) bool { return o.Path == s.Path }) {
				continue
			}
			if err = r.before(ctx, run, pre, s.Before, s.Path); err != nil {
				break
			}
			endings = append(endings, ending{post, s.After, s.Path})
		}
	}
	if err == nil {
		err = r.stage(run, run.Command, func() error { return r.work(ctx, run, work) })
	}
	after := context.WithoutCancel(ctx)
	r.settle(run, cmp.Or(ctx.Err(), err))
	for i := len(endings) - 1; i >= 0; i-- {
		e := endings[i]
		r.after(after, run, e.name, e.line, e.source)
	}
	return err
}

// stage notes how long something takes.
func (r *Runner) stage(run *journal.Run, name string, do func() error) error {
	start := time.Now()
	err := do()
	s := journal.Stage{Name: name, Start: start, Seconds: time.Since(start).Seconds()}
	if err != nil {
		s.Error = err.Error()
	}
	run.Stages = append(run.Stages, s)
	return err
}

// work does what the run is for. When the context has ended, what still goes on after a
// moment is left behind.
func (r *Runner) work(ctx context.Context, run *journal.Run, work func(context.Context, *journal.Run) error) error {
	mine := *run
	mine.Stages = nil
	done := make(chan error, 1)
	go func() { done <- work(ctx, &mine) }()
	finish := func(err error) error {
		mine.Stages = append(run.Stages, mine.Stages...)
		*run = mine
		return err
	}
	select {
	case err := <-done:
		return finish(err)
	case <-ctx.Done():
	}
	select {
	case err := <-done:
		return finish(err)
	case <-time.After(stopTime):
		r.Tidy()
		return ctx.Err()
	}
}

// before runs a hook that may refuse the run.
func (r *Runner) before(ctx context.Context, run *journal.Run, name, line, source string) error {
	res := r.hook(ctx, run, name, line, source, "")
	if res.Err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return Fail(ExitRefused, fmt.Errorf("%s %w%s", hookName(name, source), res.Err, lastLine(res.LastLine)), "nothing was done; the application log has all that it has printed")
}

// after runs a hook that cannot change what the run has done.
func (r *Runner) after(ctx context.Context, run *journal.Run, name, line, source string) {
	if line == "" {
		return
	}
	stats, err := statsFile(run)
	if err != nil {
		r.Warn(fmt.Sprintf("%s has no BACKUP_HANDLER_STATS_FILE: %v", hookName(name, source), err))
	} else {
		defer os.Remove(stats)
	}
	if res := r.hook(ctx, run, name, line, source, stats); res.Err != nil {
		r.Warn(fmt.Sprintf("%s %v%s", hookName(name, source), res.Err, lastLine(res.LastLine)))
	}
}

func hookName(name, source string) string {
	if source == "" {
		return "the hook " + name
	}
	return "the hook " + name + " of " + source
}

// lastLine is what a failed hook has said, behind a colon.
func lastLine(line string) string {
	const most = 200
	if len(line) > most {
		line = strings.ToValidUTF8(line[:most], "") + "…"
	}
	if line == "" {
		return ""
	}
	return ": " + line
}

func (r *Runner) hook(ctx context.Context, run *journal.Run, name, line, source, stats string) command.Result {
	if line == "" {
		return command.Result{}
	}
	log := r.Log.With("hook", name)
	if source != "" {
		log = log.With("source", source)
	}
	log.Info("hook starts")
	env := append(append([]string(nil), r.Hooks.Env...), hookEnv(run, name, source, stats)...)
	var res command.Result
	_ = r.stage(run, name, func() error {
		res = command.Run(ctx, command.Command{
			Line: line, Env: env, Limit: r.Hooks.Limit, Grace: hookGrace, Redact: r.Hooks.Redact,
			OnLine: func(line string, stderr bool) {
				if stderr {
					log.Warn("hook prints", "line", line)
				} else {
					log.Info("hook prints", "line", line)
				}
			},
		})
		return res.Err
	})
	log.Info("hook ended", "exit_code", res.ExitCode, "seconds", res.Took.Seconds(), "dropped_bytes", res.Dropped)
	return res
}

// hookEnv is what hooks learn of the run.
func hookEnv(run *journal.Run, name, source, stats string) []string {
	env := []string{
		"BACKUP_HANDLER_HOOK=" + name,
		"BACKUP_HANDLER_RUN_ID=" + run.ID,
		"BACKUP_HANDLER_COMMAND=" + run.Command,
		"BACKUP_HANDLER_TRIGGER=" + run.Trigger,
		"BACKUP_HANDLER_CONFIG=" + run.Config,
		"BACKUP_HANDLER_MODE=" + run.Mode,
		"BACKUP_HANDLER_STATUS=" + string(run.Status),
	}
	if source != "" {
		env = append(env, "BACKUP_HANDLER_SOURCE="+source)
	}
	if run.Status.Over() {
		env = append(env, "BACKUP_HANDLER_EXIT_CODE="+strconv.Itoa(run.Exit), "BACKUP_HANDLER_SNAPSHOT="+run.Snapshot, "BACKUP_HANDLER_ERROR="+strings.ReplaceAll(run.Error, "\x00", ""))
	}
	if stats != "" {
		env = append(env, "BACKUP_HANDLER_STATS_FILE="+stats)
	}
	return env
}

// statsFile writes the record of the run to a file for a hook, which is for this user
// alone.
func statsFile(run *journal.Run) (string, error) {
	f, err := os.CreateTemp("", "backup-handler-run-*.json")
	if err != nil {
		return "", err
	}
	enc := json.NewEncoder(f)
	enc.SetIndent("", "  ")
	if err := errors.Join(enc.Encode(run), f.Close()); err != nil {
		os.Remove(f.Name())
		return "", err
	}
	return f.Name(), nil
}

// warnings are those of the run.
func (r *Runner) warnings() []string { return append([]string(nil), r.Warnings()[r.said:]...) }

// settle says how the run went.
func (r *Runner) settle(run *journal.Run, err error) {
	run.Warnings = r.warnings()
	run.Exit, run.Status = ExitOK, journal.Success
	switch f, ok := errors.AsType[*Failure](err); {
	case err == nil:
		if len(run.Warnings) > 0 {
			run.Status = journal.Warning
		}
		return
	case errors.Is(err, context.Canceled):
		run.Exit, run.Status = ExitInterrupted, journal.Interrupted
		run.Error = "interrupted"
		return
	case ok:
		run.Exit, run.Hint = f.Code, f.Hint
	default:
		run.Exit = ExitUsage
	}
	run.Status = journal.Failed
	if run.Exit == ExitRefused && run.Command != "drill" { // whose 2 says something else
		run.Status = journal.Refused
	}
	switch {
	case !errors.Is(err, ErrReported):
		run.Error = err.Error()
	case run.Error == "":
		run.Error = "not all was done as it should be; the application log says more"
	}
}

// close ends a run: with the hooks for how it went, its record, and whoever is told.
func (r *Runner) close(ctx context.Context, run *journal.Run, err error, began bool) {
	r.settle(run, err)
	if began {
		if name, line := "on_success", r.Hooks.OnSuccess; run.Status.Good() {
			r.after(ctx, run, name, line, "")
		} else {
			r.after(ctx, run, "on_failure", r.Hooks.OnFailure, "")
		}
		r.settle(run, err) // with what hooks have given reason to
	}
	run.End = time.Now()
	if r.Now != nil {
		run.End = r.Now()
	}
	var before []journal.Run
	if r.Runs != nil {
		all, lerr := r.Runs.List()
		if lerr != nil {
			r.Warn(lerr.Error())
		}
		for i := range all {
			if all[i].ID != run.ID {
				before = append(before, all[i])
			}
		}
	}
	r.put(run) // whatever becomes of those who are told
	if r.Ended != nil {
		r.Ended(ctx, run)
		if n := len(run.Warnings); n < len(r.warnings()) {
			r.settle(run, err)
			r.put(run)
		}
	}
	if r.Notify != nil {
		run.Told = append(run.Told, r.Notify.Ended(ctx, run, before)...)
		for _, t := range run.Told {
			if t.Error != "" { // whoever sees the output is told, at least
				r.Warn(fmt.Sprintf("%s could not be told of the run: %s", t.Channel, t.Error))
			}
		}
		if len(run.Told) > 0 {
			r.put(run)
		}
	}
	if began {
		r.sentinel(run)
	}
}

func (r *Runner) put(run *journal.Run) {
	if r.Runs == nil {
		return
	}
	if err := r.Runs.Put(run); err != nil {
		r.Warn(err.Error())
	}
}

func (r *Runner) sentinel(run *journal.Run) {
	if r.Sentinel == "" {
		return
	}
	if err := journal.WriteSentinel(r.Sentinel, run); err != nil {
		r.Warn(err.Error())
	}
}
