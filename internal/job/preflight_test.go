package job

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/config"
	"github.com/SP1R4/BackupHandler/v3/internal/journal"
	"github.com/SP1R4/BackupHandler/v3/internal/preflight"
	"github.com/SP1R4/BackupHandler/v3/internal/seal"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

// preflight makes the checks for what options would back up.
func (b *bench) preflight(a *Access, change func(*PreflightOptions), dests ...string) *preflight.Report {
	b.t.Helper()
	o := b.options(dests...)
	p := PreflightOptions{
		Config: config.Defaults(noEnv), Settings: config.Preflight{Enabled: true, StalenessFactor: 2},
		Sources: o.Sources, Destinations: o.Destinations, Host: o.Host, Known: o.Known, Now: o.Now,
		Machine: &preflight.Machine{MountInfo: "/proc/self/mountinfo", Wait: time.Minute},
	}
	if change != nil {
		change(&p)
	}
	rep := Preflight(b.t.Context(), a, p)
	for _, r := range rep.Results {
		if r.State == preflight.Refused && r.Hint == "" {
			b.t.Errorf("no hint: %+v", r)
		}
	}
	return rep
}

// found is the state of a check of a destination, or of all; "" if it was not made.
func found(rep *preflight.Report, check preflight.Check, dest string) (s preflight.State, text string) {
	for _, r := range rep.Results {
		if r.Check == check && r.Destination == dest {
			return r.State, r.Text
		}
	}
	return "", ""
}

func TestPreflight(t *testing.T) {
	a, b := access(t, unset, AccessOptions{}), newBench(t)
	known := Known{Dir: t.TempDir()}
	remember := func(o *PreflightOptions) { o.Known = known }
	want := func(rep *preflight.Report, dest string, checks map[preflight.Check]preflight.State) {
		t.Helper()
		for check, state := range checks {
			if got, text := found(rep, check, dest); got != state {
				t.Errorf("%s of %q: %q (%s), want %q", check, dest, got, text, state)
			}
		}
	}
	place := b.place("a")

	// Before the first backup.
	rep := b.preflight(a, remember, "a")
	want(rep, "", map[preflight.Check]preflight.State{
		preflight.CheckSource: preflight.OK, preflight.CheckClock: preflight.OK, preflight.CheckStale: preflight.Skipped,
	})
	want(rep, place, map[preflight.Check]preflight.State{
		preflight.CheckWritable: preflight.OK, preflight.CheckRepository: preflight.OK, preflight.CheckKey: preflight.OK, preflight.CheckSpace: preflight.Skipped,
	})
	if _, err := os.Stat(place); err == nil {
		t.Fatal("a repository was made")
	}
	if refused, err := Refusal(rep, []string{place}); err != nil || len(refused) > 0 {
		t.Errorf("refused: %v, %v", refused, err)
	}

	// After it: the snapshot is the last backup, and nothing of the repository changes.
	o := b.options("a")
	o.Known = known
	if _, err := Backup(t.Context(), a, o); err != nil {
		t.Fatal(err)
	}
	before := content(t, place)
	rep = b.preflight(a, func(o *PreflightOptions) { remember(o); o.Settings.Interval = time.Hour }, "a")
	want(rep, "", map[preflight.Check]preflight.State{preflight.CheckStale: preflight.OK})
	want(rep, place, map[preflight.Check]preflight.State{preflight.CheckRepository: preflight.OK, preflight.CheckKey: preflight.OK})
	stale := b.preflight(a, func(o *PreflightOptions) {
		o.Settings.Interval = time.Hour
		now := o.Now()
		o.Now = func() time.Time { return now.Add(3 * time.Hour) }
	}, "a")
	want(stale, "", map[preflight.Check]preflight.State{preflight.CheckStale: preflight.Warning})
	past := b.preflight(a, func(o *PreflightOptions) {
		now := o.Now()
		o.Now = func() time.Time { return now.Add(-48 * time.Hour) }
	}, "a")
	want(past, "", map[preflight.Check]preflight.State{preflight.CheckClock: preflight.Refused})
	wrong := access(t, unset, AccessOptions{KeyFile: keyFile(t, "x")})
	rep = b.preflight(wrong, remember, "a")
	want(rep, place, map[preflight.Check]preflight.State{preflight.CheckKey: preflight.Refused})
	if got := content(t, place); !maps.Equal(got, before) {
		t.Error("the repository was changed")
	}

	// Gone: its disk is not mounted.
	if err := os.Rename(place, b.place("away")); err != nil {
		t.Fatal(err)
	}
	rep = b.preflight(a, remember, "a", "b")
	want(rep, place, map[preflight.Check]preflight.State{preflight.CheckRepository: preflight.Refused, preflight.CheckSpace: ""})
	want(rep, b.place("b"), map[preflight.Check]preflight.State{preflight.CheckRepository: preflight.OK})
	refused, err := Refusal(rep, []string{place, b.place("b")})
	if err != nil || refused[place] == nil || len(refused) != 1 {
		t.Fatalf("one of two is gone: %v, %v", refused, err)
	}
	// The backup leaves it alone, and goes on with the other.
	o = b.options("a", "b")
	o.Refused = refused
	res, err := Backup(t.Context(), a, o)
	if err != nil || !res.Failed() || res.Destinations[0].Err != refused[place] || res.Destinations[1].Err != nil {
		t.Errorf("%v, %+v", err, res)
	}
	if _, err := os.Stat(place); err == nil {
		t.Error("a destination that was refused was made")
	}
	rep = b.preflight(a, remember, "a")
	if _, err := Refusal(rep, []string{place}); err == nil {
		t.Error("no destination is left, and a backup can be made")
	} else if f, ok := errors.AsType[*Failure](err); !ok || f.Code != ExitRefused || f.Hint == "" || !strings.HasPrefix(f.Error(), place+": ") {
		t.Errorf("%v", err)
	}
}

func TestPreflightSources(t *testing.T) {
	a, b := access(t, unset, AccessOptions{}), newBench(t)
	src := b.options("a").Sources[0]
	b.well(a, "a")
	if err := os.RemoveAll(src); err != nil {
		t.Fatal(err)
	}
	refusal := func(word string) {
		t.Helper()
		_, err := Refusal(b.preflight(a, nil, "a"), []string{b.place("a")})
		if f, ok := errors.AsType[*Failure](err); !ok || f.Code != ExitRefused || !strings.HasPrefix(f.Error(), "source "+src+": ") || !strings.Contains(f.Error(), word) {
			t.Errorf("%q: %v", word, err)
		}
	}
	refusal("does not exist")
	if err := os.Mkdir(src, 0o700); err != nil {
		t.Fatal(err)
	}
	refusal("it is empty; the last backup of it had ")
	rep := b.preflight(a, func(o *PreflightOptions) { o.AllowEmpty = true }, "a")
	if s, _ := found(rep, preflight.CheckSource, ""); s != preflight.OK {
		t.Errorf("allowed to be empty: %s", s)
	}
	rep = b.preflight(a, func(o *PreflightOptions) { o.Sources = nil; o.Settings.Enabled = false }, "a")
	if s, _ := found(rep, preflight.CheckSource, ""); s != preflight.Refused {
		t.Errorf("no source: %q", s)
	}
}

// What was opened for the checks is what the backup uses, once.
func TestPreflightKeeps(t *testing.T) {
	a, b := access(t, unset, AccessOptions{}), newBench(t)
	b.well(a, "a")
	keep := func(o *PreflightOptions) { o.Keep = true }
	b.preflight(a, keep, "a", "b")
	mine := a.kept.open[b.place("a")]
	if mine == nil || len(a.kept.open) != 1 {
		t.Fatalf("kept: %v", a.kept.open)
	}
	d, err := a.OpenDestination(t.Context(), b.place("a"))
	if err != nil || d != mine || len(d.Snapshots) > 0 {
		t.Errorf("%v, %p, want %p", err, d, mine)
	}
	again, err := a.OpenDestination(t.Context(), b.place("a"))
	if err != nil || again == mine {
		t.Errorf("%v: the same one again", err)
	}
	d.Close()
	again.Close()
	// A backup takes it over.
	b.preflight(a, keep, "a")
	b.well(a, "a")
	if len(a.kept.open) > 0 {
		t.Error("the backup has opened another one")
	}
	// What nobody takes is closed, and what is refused is not kept.
	b.preflight(a, keep, "a")
	mine = a.kept.open[b.place("a")]
	if err := a.Close(); err != nil || len(a.kept.open) > 0 {
		t.Errorf("%v, kept: %v", err, a.kept.open)
	}
	if err := mine.LoadSnapshots(t.Context()); err == nil {
		t.Error("it is still open")
	}
	b.preflight(a, func(o *PreflightOptions) { o.Keep = true; o.Settings.MinFree = 1 << 62 }, "a")
	if len(a.kept.open) > 0 {
		t.Error("what was refused is kept")
	}
	b.preflight(a, nil, "a")
	if len(a.kept.open) > 0 {
		t.Error("kept without being asked to")
	}
}

// [PREFLIGHT] enabled = False leaves what a backup needs.
func TestPreflightDisabled(t *testing.T) {
	a, b := access(t, unset, AccessOptions{}), newBench(t)
	b.well(a, "a")
	off := func(o *PreflightOptions) {
		o.Settings = config.Preflight{ExpectedUUID: "0123", ExpectedMount: b.place("a"), MinFree: 1 << 62, Interval: 1, StalenessFactor: 1}
		o.Built = o.Now().Add(time.Hour)
	}
	rep := b.preflight(a, off, "a")
	var checks []string
	for _, r := range rep.Results {
		checks = append(checks, string(r.Check)+" "+string(r.State))
	}
	if want := []string{"preflight skipped", "source ok", "repository ok", "key ok"}; !slices.Equal(checks, want) {
		t.Errorf("%q, want %q", checks, want)
	}
	if err := os.RemoveAll(b.place("src")); err != nil {
		t.Fatal(err)
	}
	if s, _ := found(b.preflight(a, off, "a"), preflight.CheckSource, ""); s != preflight.Refused {
		t.Errorf("a source that is gone: %q", s)
	}
}

// An unencrypted repository is not made where encryption is wanted and no key given.
func TestPreflightNoKey(t *testing.T) {
	a, b := access(t, "[ENCRYPTION]\nenabled = True\n", AccessOptions{}), newBench(t)
	if s, text := found(b.preflight(a, nil, "a"), preflight.CheckKey, b.place("a")); s != preflight.Refused {
		t.Errorf("%q %s", s, text)
	}
	asks := access(t, "[ENCRYPTION]\nenabled = True\n", AccessOptions{Prompt: func(string, bool) ([]byte, error) { return nil, errors.New("asked") }})
	if s, text := found(b.preflight(asks, nil, "a"), preflight.CheckKey, b.place("a")); s != preflight.OK {
		t.Errorf("%q %s", s, text)
	}
}

// The record of runs is the history: good runs of the same sources, without the first.
func TestPreflightRecorded(t *testing.T) {
	b := newBench(t)
	dir := t.TempDir()
	runs := journal.OpenRuns(dir)
	src := b.options("a").Sources
	start := time.Date(2026, 11, 1, 3, 0, 0, 0, time.UTC)
	n := 0
	put := func(status journal.Status, stored int64, change func(*journal.Run)) {
		t.Helper()
		r := &journal.Run{
			ID: start.Format("20060102T150405") + string(rune('a'+n)), Command: "backup", Status: status, Start: start, End: start.Add(time.Minute),
			Sources: []journal.SourceRun{{Path: src[0]}}, Counts: journal.Counts{Files: 10, New: 1, Stored: stored},
		}
		if change != nil {
			change(r)
		}
		if err := runs.Put(r); err != nil {
			t.Fatal(err)
		}
		n++
		start = start.Add(24 * time.Hour)
	}
	recorded := func() past {
		p := &preflighting{PreflightOptions: PreflightOptions{Runs: runs, Sources: src}}
		return p.recorded()
	}
	if h := recorded(); !h.last.IsZero() || !h.newest.IsZero() || len(h.stored) > 0 {
		t.Errorf("no runs: %+v", h)
	}
	put(journal.Success, 1000, func(r *journal.Run) { r.Counts.New = 10 }) // the first one
	for i := range int64(forecastRuns + 2) {
		put(journal.Success, i, nil)
	}
	last := start.Add(-24 * time.Hour)
	put(journal.Failed, 2000, nil)
	put(journal.Success, 3000, func(r *journal.Run) { r.DryRun = true })
	put(journal.Success, 4000, func(r *journal.Run) { r.Sources[0].Path = "/elsewhere" })
	put(journal.Success, 5000, func(r *journal.Run) { r.Command = "verify" })
	h := recorded()
	if !h.last.Equal(last.Add(time.Minute)) || !h.newest.Equal(last.Add(24*time.Hour)) || h.files != 10 {
		t.Errorf("last %v, newest %v, %d files", h.last, h.newest, h.files)
	}
	if want := []int64{11, 10, 9, 8, 7, 6, 5, 4, 3, 2}; !slices.Equal(h.stored, want) {
		t.Errorf("stored %v, want %v", h.stored, want)
	}
}

func TestOpenCheck(t *testing.T) {
	permanent := func(kind error) error { return &storage.PermanentError{Err: errors.New("no"), Kind: kind} }
	for _, c := range []struct {
		err    error
		remote bool
		want   preflight.Check
	}{
		{seal.ErrWrongKey, false, preflight.CheckKey},
		{ErrNoKey, true, preflight.CheckKey},
		{permanent(storage.ErrDenied), true, preflight.CheckCredentials},
		{permanent(storage.ErrClock), true, preflight.CheckClock},
		{permanent(nil), true, preflight.CheckReachable},
		{&storage.UnreachableError{Err: errors.New("no")}, true, preflight.CheckReachable},
		{&config.Error{}, true, preflight.CheckCredentials},
		{errors.New("damaged"), true, preflight.CheckRepository},
		{errors.New("damaged"), false, preflight.CheckRepository},
	} {
		if got := openCheck(c.err, c.remote); got != c.want {
			t.Errorf("%v: %s, want %s", c.err, got, c.want)
		}
	}
}

// Commands in a file that others can change are refused; without commands it is a
// warning.
func TestPreflightConfiguration(t *testing.T) {
	for text, want := range map[string]preflight.State{"": preflight.Warning, "[HOOKS]\npre_backup = true\n": preflight.Refused} {
		path := filepath.Join(t.TempDir(), "config.ini")
		if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chmod(path, 0o666)); err != nil {
			t.Fatal(err)
		}
		cfg, _, err := config.Load(path, noEnv)
		if err != nil {
			t.Fatal(err)
		}
		if cfg.Trusted() == nil {
			t.Skip("this system does not tell who can change a file")
		}
		p := &preflighting{PreflightOptions: PreflightOptions{Config: cfg}}
		rep := &preflight.Report{Results: p.configuration()}
		if rep.State() != want {
			t.Errorf("%q: %+v", text, rep.Results)
		}
	}
}

// An expected_mount that no destination is below protects nothing.
func TestPreflightUngoverned(t *testing.T) {
	a, b := access(t, unset, AccessOptions{}), newBench(t)
	for mount, want := range map[string]preflight.State{b.place("elsewhere"): preflight.Warning, "": ""} {
		rep := b.preflight(a, func(o *PreflightOptions) { o.Settings.ExpectedMount = mount }, "a")
		if s, text := found(rep, preflight.CheckVolume, ""); s != want {
			t.Errorf("%q: %q %s", mount, s, text)
		}
	}
	rep := b.preflight(a, func(o *PreflightOptions) { o.Settings.ExpectedMount = b.root }, "a")
	if s, text := found(rep, preflight.CheckVolume, ""); s != "" {
		t.Errorf("%q %s", s, text)
	}
}
