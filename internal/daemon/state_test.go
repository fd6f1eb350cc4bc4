package daemon

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/durable"
	"github.com/SP1R4/BackupHandler/v3/internal/schedule"
)

var due = time.Date(2026, 1, 1, 2, 30, 0, 0, time.UTC)

func daily(t *testing.T, text string) schedule.Plan {
	t.Helper()
	s, err := schedule.Parse(text, time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	return schedule.Plan{Jobs: map[schedule.Kind]schedule.Schedule{schedule.Backup: s}, Zone: time.UTC, CatchUp: true}
}

// TestClaim: of many processes for one time, one runs.
func TestClaim(t *testing.T) {
	s := OpenState(filepath.Join(t.TempDir(), "with space"), "/c")
	release, err := s.lockDaemon()
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	var ran, taken atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			release, err := Claim(t.Context(), s.Env(Job{schedule.Backup, due, "schedule"}))
			switch {
			case err == nil:
				ran.Add(1)
				release()
			case errors.Is(err, ErrTaken):
				taken.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	all.Wait()
	if ran.Load() != 1 || taken.Load() != 7 {
		t.Errorf("%d ran, %d found it taken", ran.Load(), taken.Load())
	}
	if _, err := Claim(t.Context(), s.Env(Job{schedule.Backup, due.Add(-time.Hour), "schedule"})); !errors.Is(err, ErrTaken) {
		t.Errorf("an earlier time: %v", err)
	}
	if release, err := Claim(t.Context(), s.Env(Job{schedule.Verify, due, "schedule"})); err != nil {
		t.Errorf("another kind: %v", err)
	} else {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := Claim(ctx, s.Env(Job{schedule.Drill, due, "schedule"})); !errors.Is(err, context.Canceled) {
			t.Errorf("while another job runs: %v", err)
		}
		release()
	}
	for _, text := range []string{"", "backup", "backup yesterday id /dir", "backup 2026-01-01T02:30:00Z id"} {
		if _, err := Claim(t.Context(), text); err == nil || errors.Is(err, ErrTaken) {
			t.Errorf("%q: error %v", text, err)
		}
	}
}

// TestClaimCannotBeWritten: the job runs all the same.
func TestClaimCannotBeWritten(t *testing.T) {
	s := OpenState(t.TempDir(), "/c")
	release, err := s.lockDaemon()
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if err := os.Mkdir(s.file(), 0o700); err != nil { // a directory is in its place
		t.Fatal(err)
	}
	if _, err := Claim(t.Context(), s.Env(Job{schedule.Backup, due, "schedule"})); err == nil || errors.Is(err, ErrTaken) {
		t.Errorf("error %v", err)
	}
	if _, err := Claim(t.Context(), OpenState(filepath.Join(s.dir, "missing"), "/c").Env(Job{schedule.Backup, due, "schedule"})); err == nil {
		t.Error("no error without a state directory")
	}
}

func TestStateThatCannotBeUnderstood(t *testing.T) {
	for _, text := range []string{"", "{", "[]", `{"jobs":null}`, `{"jobs":{"backup":{"last":"soon"}}}`, strings.Repeat(" ", maxStateBytes) + "{}"} {
		s := OpenState(t.TempDir(), "/c")
		release, err := s.lockDaemon()
		if err != nil {
			t.Fatal(err)
		}
		defer release()
		if err := durable.WriteFile(s.file(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		entries, err := s.adopt(daily(t, "02:30"), 0, due)
		if err != nil || !entries[schedule.Backup].Last.Equal(due) {
			t.Errorf("%.10q: %v, %v", text, entries, err)
		}
	}
}

func TestUpcoming(t *testing.T) {
	s := OpenState(t.TempDir(), "/c")
	release, err := s.lockDaemon()
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	plan := daily(t, "02:30")
	now := due.Add(12 * time.Hour)
	want := func(what string, at time.Time, owed bool) {
		t.Helper()
		all, err := s.Upcoming(plan, "host", now)
		if err != nil || len(all) != 1 || all[0].Kind != schedule.Backup || !all[0].Due.Equal(at) || all[0].Owed != owed {
			t.Errorf("%s: %+v, %v, want %v", what, all, err, at)
		}
	}
	want("no daemon yet", due.AddDate(0, 0, 1), false)
	if _, err := s.adopt(plan, 0, due.Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	want("missed", due, false)
	if _, err := Claim(t.Context(), s.Env(Job{schedule.Backup, due, "schedule"})); err != nil {
		t.Fatal(err)
	}
	want("claimed", due.AddDate(0, 0, 1), false)
	claimer := &State{dir: s.dir, id: s.id} // as Claim has it
	if f, err := claimer.read(); err != nil || f.Config != "/c" {
		t.Errorf("the configuration is %q, %v", f.Config, err)
	}
	if err := s.settle(Job{schedule.Backup, due, "schedule"}, true); err != nil {
		t.Fatal(err)
	}
	want("interrupted", due.AddDate(0, 0, 1), true)
	plan.Jitter = time.Hour
	want("jitter", due.AddDate(0, 0, 1).Add(plan.Delay("host")), true)
	plan = daily(t, "04:30")
	want("another schedule", due.Add(2*time.Hour).AddDate(0, 0, 1), true)
	now = due.AddDate(-1, 0, 0)
	want("the clock was wrong", time.Date(2025, 1, 1, 4, 30, 0, 0, time.UTC), true)
}

// Somebody who looks whether there is a daemon does not keep one from starting.
func TestAskedWhileStarting(t *testing.T) {
	s := OpenState(t.TempDir(), "/c.ini")
	if s.Running() {
		t.Fatal("there is a daemon")
	}
	release, err := s.lockDaemon() // makes the directory
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.lockDaemon(); !errors.Is(err, ErrRunning) {
		t.Errorf("a second daemon: %v", err)
	}
	release()
	asker, err := durable.TryLock(s.lock("daemon"))
	if err != nil {
		t.Fatal(err)
	}
	waits := make(chan error, 1)
	go func() {
		release, err := s.lockDaemon()
		if err == nil {
			release()
		}
		waits <- err
	}()
	asker.Unlock()
	if err := <-waits; err != nil {
		t.Error(err)
	}
}
