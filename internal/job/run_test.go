//go:build unix

package job

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/SP1R4/BackupHandler/v3/internal/durable"
	"github.com/SP1R4/BackupHandler/v3/internal/journal"
)

// A runBench is a runner whose hooks write to a file.
type runBench struct {
	t        *testing.T
	dir      string
	r        Runner
	log      bytes.Buffer
	warnings []string
	started  []journal.Run
	ended    []journal.Run
	before   [][]journal.Run
	ending   atomic.Int32
	tidied   bool
}

func newRunBench(t *testing.T) *runBench {
	b := &runBench{t: t, dir: t.TempDir()}
	hook := func(what string) string { return "echo " + what + " $BACKUP_HANDLER_STATUS >>" + b.path("hooks") }
	b.r = Runner{
		Runs: journal.OpenRuns(b.path("state")), Sentinel: b.path("state", "Logs", "last.json"), Notify: b,
		Hooks: Hooks{
			Before: hook("pre"), After: hook("post"), OnSuccess: hook("success"), OnFailure: hook("failure"), Limit: time.Minute, Env: os.Environ(),
			Sources: []SourceHooks{{"/a", hook("pre a"), hook("post a")}, {"/b", hook("pre b"), hook("post b")}, {"/not in this run", hook("pre c"), hook("post c")}},
			Redact:  func(s string) string { return strings.ReplaceAll(s, "hunter2", "***") },
		},
		Warnings: func() []string { return b.warnings }, Warn: func(s string) { b.warnings = append(b.warnings, s) },
		Log: slog.New(slog.NewTextHandler(&b.log, nil)),
		Ending: func(yes bool) {
			if yes {
				b.ending.Add(1)
			} else {
				b.ending.Add(-1)
			}
		},
		Tidy: func() { b.tidied = true },
	}
	return b
}

func (b *runBench) path(parts ...string) string {
	return filepath.Join(append([]string{b.dir}, parts...)...)
}

func (b *runBench) Started(_ context.Context, run *journal.Run) []journal.Told {
	b.started = append(b.started, *run)
	return []journal.Told{{Channel: "start"}}
}

func (b *runBench) Ended(ctx context.Context, run *journal.Run, before []journal.Run) []journal.Told {
	if ctx.Err() != nil {
		b.t.Error("nobody can be told any more")
	}
	b.ended, b.before = append(b.ended, *run), append(b.before, before)
	return []journal.Told{{Channel: "mail", Error: "no"}, {Channel: "chat"}}
}

// run makes one, and returns its record as it was kept.
func (b *runBench) run(ctx context.Context, id string, work func(ctx context.Context, run *journal.Run) error) (journal.Run, error) {
	b.t.Helper()
	os.Remove(b.path("hooks"))
	run := &journal.Run{ID: id, Command: "backup", Start: time.Now(), Lock: LockName("backup", "c"), Sources: []journal.SourceRun{{Path: "/a"}, {Path: "/b"}}}
	err := b.r.Do(ctx, run, work)
	if b.ending.Load() != 0 {
		b.t.Error("the process would never end")
	}
	runs, lerr := b.r.Runs.List()
	if lerr != nil || len(runs) == 0 || runs[0].ID != id {
		b.t.Fatalf("the record: %v, %v", runs, lerr)
	}
	if d := cmp.Diff(*run, runs[0]); d != "" {
		b.t.Errorf("the record differs: %s", d)
	}
	var s struct {
		Status string `json:"status"`
		RunID  string `json:"run_id"`
	}
	data, rerr := os.ReadFile(b.r.Sentinel)
	if rerr != nil || json.Unmarshal(data, &s) != nil {
		b.t.Fatal(rerr)
	}
	if want := map[bool]string{true: "success", false: "failure"}[run.Status.Good()]; s.Status != want || s.RunID != id {
		b.t.Errorf("the sentinel says %+v of %s", s, run.Status)
	}
	return runs[0], err
}

func (b *runBench) hooks(want string) {
	b.t.Helper()
	got, _ := os.ReadFile(b.path("hooks"))
	if d := cmp.Diff(want, strings.ReplaceAll(strings.TrimSpace(string(got)), "\n", ", ")); d != "" {
		b.t.Error(d)
	}
}

func TestRun(t *testing.T) {
	b := newRunBench(t)
	run, err := b.run(t.Context(), "1", func(_ context.Context, run *journal.Run) error {
		run.Snapshot = "abc"
		run.Stages = append(run.Stages, journal.Stage{Name: "retention"})
		return nil
	})
	if err != nil || run.Status != journal.Success || run.Exit != 0 || run.Snapshot != "abc" {
		t.Errorf("%+v: %v", run, err)
	}
	b.hooks("pre running, pre a running, pre b running, post b success, post a success, post success, success success")
	var stages []string
	for _, s := range run.Stages {
		stages = append(stages, s.Name)
	}
	if d := cmp.Diff("pre_backup pre_backup pre_backup retention backup post_backup post_backup post_backup on_success", strings.Join(stages, " ")); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]journal.Told{{Channel: "start"}, {Channel: "mail", Error: "no"}, {Channel: "chat"}}, run.Told); d != "" {
		t.Error(d)
	}
	if len(b.started) != 1 || b.started[0].Status != journal.Running || len(b.before[0]) != 0 {
		t.Errorf("%+v", b.started)
	}
	// A warning is seen, and the run before is known.
	run, err = b.run(t.Context(), "2", func(context.Context, *journal.Run) error {
		b.r.Warn("look")
		return nil
	})
	if err != nil || run.Status != journal.Warning || run.Exit != 0 || len(run.Warnings) != 1 {
		t.Errorf("%+v: %v", run, err)
	}
	b.hooks("pre running, pre a running, pre b running, post b warning, post a warning, post warning, success warning")
	if len(b.before[1]) != 1 || b.before[1][0].ID != "1" {
		t.Errorf("%+v", b.before[1])
	}
}

func TestRunFails(t *testing.T) {
	ran := false
	work := func(err error) func(context.Context, *journal.Run) error {
		return func(_ context.Context, run *journal.Run) error {
			ran = true
			run.Snapshot = "kept"
			return err
		}
	}
	for name, c := range map[string]struct {
		change func(*runBench)
		err    error
		code   int
		status journal.Status
		says   string
		hooks  string
	}{
		"failed": {
			err: &Failure{ExitPartial, errors.New("a disk is full"), "buy one"}, code: ExitPartial, status: journal.Failed, says: "a disk is full",
			hooks: "pre running, pre a running, pre b running, post b failure, post a failure, post failure, failure failure",
		},
		"reported": {
			err: &Failure{Code: ExitPartial, Err: ErrReported}, code: ExitPartial, status: journal.Failed, says: "log",
			hooks: "pre running, pre a running, pre b running, post b failure, post a failure, post failure, failure failure",
		},
		"refused": {
			err: &Failure{Code: ExitRefused, Err: errors.New("no source")}, code: ExitRefused, status: journal.Refused, says: "no source",
			hooks: "pre running, pre a running, pre b running, post b refused, post a refused, post refused, failure refused",
		},
		"pre-flight": {
			change: func(b *runBench) {
				b.r.Preflight = func(context.Context, *journal.Run) error { return errors.New("wrong volume") }
			}, code: ExitRefused, status: journal.Refused, says: "wrong volume", hooks: "failure refused",
		},
		"pre-hook": {
			change: func(b *runBench) { b.r.Hooks.Before = "echo one; echo is hunter2 >&2; exit 4" },
			code:   ExitRefused, status: journal.Refused, says: "the hook pre_backup failed with exit code 4: is ***", hooks: "failure refused",
		},
		"pre-hook of a source": {
			change: func(b *runBench) { b.r.Hooks.Sources[1].Before = "exit 5" },
			code:   ExitRefused, status: journal.Refused, says: "the hook pre_backup of /b failed with exit code 5",
			hooks: "pre running, pre a running, post a refused, post refused, failure refused",
		},
		"hook that hangs": {
			change: func(b *runBench) {
				b.r.Hooks.Limit = 200 * time.Millisecond
				b.r.Hooks.Before = "sleep 600 & sleep 600"
			}, code: ExitRefused, status: journal.Refused, says: "longer than 200ms", hooks: "failure refused",
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newRunBench(t)
			ran = false
			if c.change != nil {
				c.change(b)
			}
			run, err := b.run(t.Context(), "1", work(c.err))
			f, ok := errors.AsType[*Failure](err)
			if !ok || f.Code != c.code || run.Exit != c.code || run.Status != c.status || !strings.Contains(run.Error, c.says) {
				t.Errorf("%v; %+v", err, run)
			}
			if ran != (c.err != nil) || (run.Snapshot == "kept") != ran {
				t.Errorf("work was done: %t", ran)
			}
			if c.err != nil && run.Hint != f.Hint {
				t.Errorf("hint %q", run.Hint)
			}
			b.hooks(c.hooks)
			if strings.Contains(b.log.String(), "hunter2") {
				t.Error("a secret is in the log")
			}
		})
	}
}

// A hook afterwards changes nothing about what was done.
func TestRunPostHookFails(t *testing.T) {
	b := newRunBench(t)
	b.r.Hooks.After = "echo cannot mount; exit 1"
	run, err := b.run(t.Context(), "1", func(context.Context, *journal.Run) error { return nil })
	if err != nil || run.Status != journal.Warning || len(run.Warnings) != 1 || run.Warnings[0] != "the hook post_backup failed with exit code 1: cannot mount" {
		t.Errorf("%+v: %v", run, err)
	}
	b.hooks("pre running, pre a running, pre b running, post b success, post a success, success warning")
}

// A signal ends the work; hooks, record and those who are told have their time.
func TestRunInterrupted(t *testing.T) {
	for name, deaf := range map[string]bool{"at once": false, "deaf": true} {
		t.Run(name, func(t *testing.T) {
			b := newRunBench(t)
			ctx, cancel := context.WithCancel(t.Context())
			end := make(chan struct{})
			defer close(end)
			run, err := b.run(ctx, "1", func(ctx context.Context, run *journal.Run) error {
				cancel()
				if deaf {
					<-end
				}
				run.Snapshot = "mine"
				return ctx.Err()
			})
			if !errors.Is(err, context.Canceled) || run.Status != journal.Interrupted || run.Exit != ExitInterrupted || b.tidied != deaf {
				t.Errorf("%+v: %v", run, err)
			}
			b.hooks("pre running, pre a running, pre b running, post b interrupted, post a interrupted, post interrupted, failure interrupted")
		})
	}
	t.Run("in a hook", func(t *testing.T) {
		b := newRunBench(t)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		b.r.Hooks.Sources[0].Before = "touch " + b.path("there") + "; sleep 600"
		go func() {
			for {
				if _, err := os.Stat(b.path("there")); err == nil {
					break
				}
				time.Sleep(5 * time.Millisecond)
			}
			cancel()
		}()
		run, err := b.run(ctx, "1", func(context.Context, *journal.Run) error { panic("no") })
		if !errors.Is(err, context.Canceled) || run.Status != journal.Interrupted {
			t.Errorf("%+v: %v", run, err)
		}
		b.hooks("pre running, post interrupted, failure interrupted")
	})
}

func TestRunAlone(t *testing.T) {
	b := newRunBench(t)
	first, second := newRunBench(t), newRunBench(t)
	second.r.Runs, second.r.Sentinel = b.r.Runs, b.r.Sentinel
	first.r.Runs, first.r.Sentinel = b.r.Runs, b.r.Sentinel
	do := func(b *runBench, id, lock string, work func() error) (*journal.Run, error) {
		run := &journal.Run{ID: id, Command: "backup", Start: time.Now(), Lock: lock}
		return run, b.r.Do(t.Context(), run, func(context.Context, *journal.Run) error { return work() })
	}
	_, err := do(first, "1", "x", func() error {
		run, err := do(second, "2", "x", func() error { panic("two at a time") })
		if f, ok := errors.AsType[*Failure](err); !ok || f.Code != ExitRefused || run.Status != journal.Refused ||
			!strings.Contains(err.Error(), "another backup") || !strings.Contains(err.Error(), "run 1") {
			t.Errorf("%v: %+v", err, run)
		}
		second.hooks("")
		if runs, err := b.r.Runs.List(); err != nil || len(runs) != 2 || runs[1].Status != journal.Running {
			t.Errorf("the run that goes on: %+v %v", runs, err)
		}
		if data, err := os.ReadFile(b.r.Sentinel); err != nil || !strings.Contains(string(data), `"started"`) {
			t.Errorf("the sentinel is not that of the run that goes on: %s %v", data, err)
		}
		if len(second.ended) != 1 || len(second.started) != 0 {
			t.Error("nobody was told of the refusal")
		}
		if _, err := do(second, "3", "y", func() error { return nil }); err != nil {
			t.Errorf("another configuration: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// One that waits.
	second.r.Wait = time.Minute
	waited := make(chan error)
	if _, err := do(first, "4", "x", func() error {
		go func() {
			_, err := do(second, "5", "x", func() error { return nil })
			waited <- err
		}()
		time.Sleep(lockPatience + 2*lockPoll)
		select {
		case err := <-waited:
			t.Errorf("did not wait: %v", err)
		default:
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := <-waited; err != nil {
		t.Error(err)
	}
	runs, err := b.r.Runs.List()
	var got []string
	for _, r := range runs {
		got = append(got, r.ID+" "+string(r.Status))
	}
	if d := cmp.Diff("5 success, 4 success, 3 success, 2 refused, 1 success", strings.Join(got, ", ")); d != "" || err != nil {
		t.Error(d, err)
	}
}

// Runs that were killed are told of by the next one, once: the newest of each command, if
// none has followed.
func TestRunTellsCrashes(t *testing.T) {
	b := newRunBench(t)
	if err := b.r.Runs.MakeLocks(); err != nil {
		t.Fatal(err)
	}
	held, err := durable.TryLock(b.r.Runs.LockPath("held"))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Unlock()
	for _, r := range []journal.Run{
		{ID: "1", Command: "verify", Lock: "v", Status: journal.Running}, {ID: "2", Command: "backup", Lock: LockName("backup", "c"), Status: journal.Running},
		{ID: "3", Command: "verify", Lock: "v", Status: journal.Running}, {ID: "4", Command: "drill", Lock: "held", Status: journal.Running},
	} {
		if err := b.r.Runs.Put(&r); err != nil {
			t.Fatal(err)
		}
	}
	good := func(context.Context, *journal.Run) error { return nil }
	b.r.Notify = nil // it is somebody else's to tell
	if _, err := b.run(t.Context(), "5", good); err != nil {
		t.Fatal(err)
	}
	b.r.Notify = b
	for range 2 {
		if _, err := b.run(t.Context(), "6", good); err != nil {
			t.Fatal(err)
		}
	}
	var told []string
	for i, r := range b.ended {
		told = append(told, fmt.Sprintf("%s %s %d after %d", r.ID, r.Status, r.Exit, len(b.before[i])))
	}
	if d := cmp.Diff("3 crashed -1 after 5, 6 success 0 after 5, 6 success 0 after 5", strings.Join(told, ", ")); d != "" {
		t.Error(d)
	}
	data, err := os.ReadFile(b.path("state", "Logs", "runs.jsonl"))
	if n := strings.Count(string(data), `"status":"crashed"`); err != nil || n != 3 {
		t.Errorf("%d crashes are recorded: %v", n, err)
	}
	runs, err := b.r.Runs.List()
	if err != nil || runs[2].ID != "4" || runs[2].Status != journal.Running {
		t.Errorf("the run that goes on: %+v %v", runs, err)
	}
}

// A signal while a run waits for another: people are told all the same.
func TestRunInterruptedWaiting(t *testing.T) {
	b := newRunBench(t)
	b.r.Wait = time.Minute
	if err := b.r.Runs.MakeLocks(); err != nil {
		t.Fatal(err)
	}
	held, err := durable.TryLock(b.r.Runs.LockPath("x"))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Unlock()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	run := &journal.Run{ID: "1", Command: "backup", Start: time.Now(), Lock: "x"}
	err = b.r.Do(ctx, run, func(context.Context, *journal.Run) error { panic("not alone") })
	if !errors.Is(err, context.Canceled) || run.Status != journal.Interrupted || len(b.ended) != 1 {
		t.Errorf("%v: %+v", err, run)
	}
}

// What hooks learn.
func TestHookVariables(t *testing.T) {
	b := newRunBench(t)
	b.r.Hooks = Hooks{
		Before: "env >" + b.path("pre"), After: "env >" + b.path("post") + `; cp "$BACKUP_HANDLER_STATS_FILE" ` + b.path("stats") + `; echo "$BACKUP_HANDLER_STATS_FILE" >` + b.path("name"),
		Env: []string{"PATH=" + os.Getenv("PATH"), "MINE=1"}, Redact: func(s string) string { return s },
	}
	if _, err := b.run(t.Context(), "7", func(_ context.Context, run *journal.Run) error {
		run.Snapshot = "abc"
		return Fail(ExitPartial, errors.New("why"), "")
	}); err == nil {
		t.Error("it succeeded")
	}
	for name, want := range map[string][]string{
		"pre":  {"MINE=1", "BACKUP_HANDLER_HOOK=pre_backup", "BACKUP_HANDLER_RUN_ID=7", "BACKUP_HANDLER_STATUS=running", "BACKUP_HANDLER_COMMAND=backup"},
		"post": {"BACKUP_HANDLER_HOOK=post_backup", "BACKUP_HANDLER_STATUS=failure", "BACKUP_HANDLER_EXIT_CODE=3", "BACKUP_HANDLER_SNAPSHOT=abc", "BACKUP_HANDLER_ERROR=why"},
	} {
		data, err := os.ReadFile(b.path(name))
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range want {
			if !strings.Contains("\n"+string(data), "\n"+w+"\n") {
				t.Errorf("%s lacks %s:\n%s", name, w, data)
			}
		}
	}
	var run journal.Run
	data, err := os.ReadFile(b.path("stats"))
	if err != nil || json.Unmarshal(data, &run) != nil || run.ID != "7" || run.Status != journal.Failed {
		t.Errorf("%s: %v", data, err)
	}
	name, err := os.ReadFile(b.path("name"))
	if _, serr := os.Stat(strings.TrimSpace(string(name))); err != nil || !errors.Is(serr, os.ErrNotExist) {
		t.Errorf("the file stays: %v %v", err, serr)
	}
}

// Without a state directory, or with one that cannot be written, runs are made all the
// same where nothing has to be locked.
func TestRunWithoutState(t *testing.T) {
	b := newRunBench(t)
	b.r.Runs, b.r.Sentinel = nil, ""
	run := &journal.Run{ID: "1", Command: "restore", Start: time.Now(), Lock: "x"}
	if err := b.r.Do(t.Context(), run, func(context.Context, *journal.Run) error { return nil }); err != nil || run.Status != journal.Success {
		t.Error(run, err)
	}
	b.r.Runs = journal.OpenRuns(b.path("file"))
	if err := os.WriteFile(b.path("file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	run = &journal.Run{ID: "2", Command: "restore", Start: time.Now()}
	if err := b.r.Do(t.Context(), run, func(context.Context, *journal.Run) error { return nil }); err != nil {
		t.Error(err)
	}
	if !strings.Contains(fmt.Sprint(b.warnings), "record the run") {
		t.Errorf("%q", b.warnings)
	}
	run = &journal.Run{ID: "3", Command: "backup", Start: time.Now(), Lock: "x"}
	err := b.r.Do(t.Context(), run, func(context.Context, *journal.Run) error { panic("without a lock") })
	if f, ok := errors.AsType[*Failure](err); !ok || f.Code != ExitRefused || f.Hint == "" {
		t.Error(err)
	}
}

// Monitoring is told when the run is recorded, and what goes wrong there is in the record,
// and fails nothing.
func TestMonitoringIsToldOfRuns(t *testing.T) {
	for _, fails := range []bool{false, true} {
		b := newRunBench(t)
		fault := errors.New("no room")
		var seen journal.Status
		b.r.Ended = func(_ context.Context, run *journal.Run) {
			all, err := b.r.Runs.List()
			if err != nil || len(all) != 1 || all[0].Status != run.Status || all[0].End.IsZero() {
				t.Errorf("%v: the record is %+v", err, all)
			}
			seen = run.Status
			b.r.Warn("metrics: nowhere to write")
		}
		kept, err := b.run(t.Context(), "a", func(context.Context, *journal.Run) error {
			if fails {
				return fault
			}
			return nil
		})
		want := [2]journal.Status{journal.Success, journal.Warning}
		if fails {
			want = [2]journal.Status{journal.Failed, journal.Failed}
		}
		if errors.Is(err, fault) != fails || seen != want[0] || kept.Status != want[1] || len(kept.Warnings) != 1 || fails != (kept.Error != "") {
			t.Errorf("fails %v: error %v, told %s, kept %+v", fails, err, seen, kept)
		}
		for _, s := range kept.Stages {
			if s.Start.Before(kept.Start) || s.Start.Add(time.Duration(s.Seconds*float64(time.Second))).After(kept.End.Add(time.Millisecond)) {
				t.Errorf("stage %+v is not within %v to %v", s, kept.Start, kept.End)
			}
		}
	}
}
