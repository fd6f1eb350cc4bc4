package preflight

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// one is the only result of some checks.
func one(t *testing.T, results []Result) Result {
	t.Helper()
	if len(results) != 1 {
		t.Fatalf("%d results: %+v", len(results), results)
	}
	return results[0]
}

// check fails the test unless a result is of a state, and its text holds words. What is
// refused has a hint.
func (r Result) check(t *testing.T, want State, words ...string) {
	t.Helper()
	if r.State != want {
		t.Errorf("%s: %+v", want, r)
	}
	for _, w := range words {
		if !strings.Contains(r.Text, w) {
			t.Errorf("the text does not tell of %q: %+v", w, r)
		}
	}
	if r.State == Refused && r.Hint == "" {
		t.Errorf("no hint: %+v", r)
	}
	if strings.Contains(r.Text+r.Hint, "\n") {
		t.Errorf("more than a line: %+v", r)
	}
}

// bare is a machine on which nothing need be mounted.
func bare() *Machine { return &Machine{Wait: time.Minute} }

func TestSource(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	for _, err := range []error{
		os.Mkdir(path("empty"), 0o700), os.Mkdir(path("full"), 0o700), os.WriteFile(path("full/file"), []byte("x"), 0o600),
		os.WriteFile(path("nothing"), nil, 0o600), os.Symlink("full", path("link")), os.Symlink("none", path("dangling")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	source := func(name string, o SourceOptions) Result {
		t.Helper()
		return one(t, bare().Source(t.Context(), path(name), o))
	}
	source("full", SourceOptions{}).check(t, OK)
	source("link", SourceOptions{}).check(t, OK)
	source("full/file", SourceOptions{}).check(t, OK)
	source("nothing", SourceOptions{}).check(t, OK) // an empty file is a file
	source("none", SourceOptions{}).check(t, Refused, "does not exist")
	source("dangling", SourceOptions{}).check(t, Refused, "does not exist")
	source("full/file/below", SourceOptions{}).check(t, Refused)
	source("empty", SourceOptions{}).check(t, Refused, "empty")
	source("empty", SourceOptions{Had: 7}).check(t, Refused, "empty", "7 files")
	source("empty", SourceOptions{Had: 7, AllowEmpty: true}).check(t, OK, "empty", "--allow-empty")
	source("none", SourceOptions{Hooked: true}).check(t, Skipped, "does not exist before the hook runs")
	source("empty", SourceOptions{Hooked: true}).check(t, Skipped, "it is empty before the hook runs")
	source("empty", SourceOptions{Hooked: true, AllowEmpty: true}).check(t, OK, "empty", "--allow-empty")
	source("full/file/below", SourceOptions{Hooked: true}).check(t, Refused)
	source("full", SourceOptions{Hooked: true}).check(t, OK)
}

func TestWritable(t *testing.T) {
	dir := t.TempDir()
	names := func() string {
		entries, _ := os.ReadDir(dir)
		return fmt.Sprint(entries)
	}
	before := names()
	one(t, bare().Writable(t.Context(), dir)).check(t, OK)
	one(t, bare().Writable(t.Context(), filepath.Join(dir, "a", "b"))).check(t, OK, "in "+dir)
	if names() != before {
		t.Errorf("left behind: %s", names())
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	one(t, bare().Writable(t.Context(), file)).check(t, Refused, "not a directory")
	one(t, bare().Writable(t.Context(), filepath.Join(file, "below"))).check(t, Refused, "not a directory")
}

func TestSpace(t *testing.T) {
	const mib, gib = 1 << 20, 1 << 30
	f := func(stored ...int64) Forecast { return NewForecast(stored) }
	for _, c := range []struct {
		name    string
		room    Room
		minFree int64
		f       Forecast
		want    State
		words   string
	}{
		{"a first run", Room{gib, -1}, 0, f(), Skipped, "1.0 GiB free"},
		{"a first run, and enough", Room{gib, -1}, gib, f(), OK, "min_free"},
		{"a first run, and not enough", Room{gib - 1, -1}, gib, f(), Refused, "min_free"},
		{"full", Room{0, -1}, 0, f(), Refused, "full"},
		{"room for twice the largest", Room{2 * gib, -1}, 0, f(gib, mib, mib), OK, "usual run stores 1.0 MiB"},
		{"a byte less", Room{2*gib - 1, -1}, 0, f(gib, mib, mib), Warning, "has stored 1.0 GiB"},
		{"room for a usual one", Room{mib, -1}, 0, f(gib, mib, mib), Warning, "has stored 1.0 GiB"},
		{"a byte less than for that", Room{mib - 1, -1}, 0, f(gib, mib, mib), Refused, "usual run stores 1.0 MiB"},
		{"runs that stored nothing", Room{1, -1}, 0, f(0, 0), OK, ""},
		{"min_free goes first", Room{2 * gib, -1}, 3 * gib, f(mib), Refused, "less than min_free, 3.0 GiB"},
		{"no inodes", Room{gib, 0}, 0, f(mib), Refused, "inodes"},
		{"few inodes", Room{gib, minInodes - 1}, 0, f(mib), Refused, "inodes"},
		{"enough inodes", Room{gib, minInodes}, 0, f(mib), OK, ""},
		{"inodes for packs", Room{8 * gib, minInodes + 31}, 0, f(gib), Refused, "inodes"},
		{"enough of them", Room{8 * gib, minInodes + 32}, 0, f(gib), OK, ""},
	} {
		r := Space("/d", c.room, c.minFree, c.f)
		t.Run(c.name, func(t *testing.T) { r.check(t, c.want, c.words) })
		if r.Check != CheckSpace || r.Subject != "/d" || (r.State == OK || r.State == Skipped) && r.Hint != "" {
			t.Errorf("%s: %+v", c.name, r)
		}
	}
	if got, want := f(5, 1, 3), (Forecast{3, 3, 5}); got != want {
		t.Errorf("%+v", got)
	}
	if got, want := f(5, 1), (Forecast{2, 5, 5}); got != want { // the larger half
		t.Errorf("%+v", got)
	}
}

func TestRoomAt(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{dir, filepath.Join(dir, "not", "yet")} {
		if r, err := bare().RoomAt(path); err != nil || r.Bytes <= 0 {
			t.Errorf("%s: %+v, %v", path, r, err)
		}
	}
	one(t, bare().OwnSpace(t.Context(), filepath.Join(dir, "state"))).check(t, OK, "free")
	if r := bare().OwnSpace(t.Context(), ""); len(r) > 0 {
		t.Errorf("no directory: %+v", r)
	}
}

func TestClock(t *testing.T) {
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	built := now.Add(-time.Hour)
	for _, c := range []struct {
		name          string
		built, newest time.Time
		want          State
	}{
		{"nothing is known", time.Time{}, time.Time{}, OK},
		{"after all", built, built, OK},
		{"a day before the build", now.Add(24 * time.Hour), time.Time{}, OK},
		{"more than a day before it", now.Add(24*time.Hour + time.Second), time.Time{}, Refused},
		{"a little before the last backup", built, now.Add(10 * time.Minute), OK},
		{"before the last backup", built, now.Add(10*time.Minute + 1), Warning},
		{"a day before it", built, now.Add(24 * time.Hour), Warning},
		{"more than a day", built, now.Add(24*time.Hour + 1), Refused},
	} {
		t.Run(c.name, func(t *testing.T) { ClockOf(now, c.built, c.newest).check(t, c.want) })
	}
}

func TestStale(t *testing.T) {
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name     string
		age      time.Duration
		interval time.Duration
		factor   float64
		want     State
		words    string
	}{
		{"fresh", time.Hour, time.Hour, 2, OK, "1 h 0 min"},
		{"twice the interval", 2 * time.Hour, time.Hour, 2, OK, "2 h 0 min"},
		{"more", 2*time.Hour + time.Second, time.Hour, 2, Warning, "every 1 h 0 min"},
		{"another factor", 2*time.Hour + time.Second, time.Hour, 3, OK, ""},
		{"no schedule", 1000 * time.Hour, 0, 2, Skipped, "41 d 16 h"},
		{"from the future", -time.Hour, time.Hour, 2, OK, "0 min"},
	} {
		t.Run(c.name, func(t *testing.T) { StaleAfter(now, now.Add(-c.age), c.interval, c.factor).check(t, c.want, c.words) })
	}
	StaleAfter(now, time.Time{}, time.Hour, 2).check(t, Skipped, "no good backup")
}

func TestReport(t *testing.T) {
	var r Report
	if r.State() != OK || AnyRefused(r.Results) {
		t.Error("an empty report is not ok")
	}
	for _, c := range []struct{ add, want State }{{Skipped, OK}, {OK, OK}, {Warning, Warning}, {OK, Warning}, {Refused, Refused}, {Warning, Refused}} {
		if r.Add(Result{State: c.add}); r.State() != c.want {
			t.Errorf("after %s: %s", c.add, r.State())
		}
	}
	if n := len(r.With(Warning)); n != 2 || !AnyRefused(r.Results) {
		t.Errorf("%d warnings", n)
	}
}

// A file system that hangs does not make a check hang.
func TestNoAnswer(t *testing.T) {
	hang := make(chan struct{})
	defer close(hang)
	m := &Machine{Wait: time.Millisecond}
	forever := func() []Result { <-hang; return nil }
	one(t, m.within(t.Context(), CheckSource, "/hung", forever)).check(t, Refused, "does not answer")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("stopped"))
	m.Wait = time.Hour
	if r := one(t, m.within(ctx, CheckSource, "/hung", forever)); r.State != Refused || !strings.Contains(r.Text, "stopped") {
		t.Errorf("%+v", r)
	}
}

func TestUnescape(t *testing.T) {
	for _, c := range []struct {
		in, mark     string
		digits, base int
		want         string
	}{
		{`/mnt/my\040disk`, `\`, 3, 8, "/mnt/my disk"},
		{`\134\011`, `\`, 3, 8, "\\\t"},
		{`a\04`, `\`, 3, 8, `a\04`},
		{`a\999`, `\`, 3, 8, `a\999`},
		{`My\x20Disk\x2f1`, `\x`, 2, 16, "My Disk/1"},
		{`\xc3\xa4`, `\x`, 2, 16, "ä"},
		{`\x2`, `\x`, 2, 16, `\x2`},
		{"", `\x`, 2, 16, ""},
	} {
		if got := unescape(c.in, c.mark, c.digits, c.base); got != c.want {
			t.Errorf("%q: %q, want %q", c.in, got, c.want)
		}
	}
}

func TestBelow(t *testing.T) {
	dir := t.TempDir()
	for _, err := range []error{os.Mkdir(filepath.Join(dir, "disk"), 0o700), os.Symlink("disk", filepath.Join(dir, "link"))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		path, dir string
		want      bool
	}{
		{"disk", "disk", true}, {"disk/a/b", "disk", true}, {"disk2", "disk", false}, {".", "disk", false},
		{"link/a", "disk", true}, {"disk/a", "link", true}, {"disk/../other", "disk", false},
	} {
		if got := Below(filepath.Join(dir, c.path), filepath.Join(dir, c.dir)); got != c.want {
			t.Errorf("%s below %s: %t", c.path, c.dir, got)
		}
	}
}

func TestOwned(t *testing.T) {
	if runtime.GOOS == "windows" {
		one(t, bare().Owned(t.Context(), t.TempDir(), "0")).check(t, Refused, "cannot be found out")
		return
	}
	dir, me := t.TempDir(), fmt.Sprint(os.Geteuid())
	one(t, bare().Owned(t.Context(), dir, me)).check(t, OK)
	one(t, bare().Owned(t.Context(), dir, "4294967294")).check(t, Refused, "belongs to", "4294967294")
	one(t, bare().Owned(t.Context(), dir, "nobody-of-this-name")).check(t, Refused, "no user nobody-of-this-name")
	one(t, bare().Owned(t.Context(), filepath.Join(dir, "none"), me)).check(t, Skipped, "does not exist")
}

func FuzzFstab(f *testing.F) {
	f.Add("# comment\nUUID=1 /mnt/my\\040disk ext4 defaults 0 2\n/dev/sda2 none swap sw 0 0\n")
	f.Add("a /\\ b")
	f.Fuzz(func(t *testing.T, text string) {
		table, err := parseFstab(strings.NewReader(text))
		if err != nil {
			return
		}
		for _, p := range table {
			if !filepath.IsAbs(p) || p == "/" || p != filepath.Clean(p) {
				t.Errorf("%q: mount point %q", text, p)
			}
		}
	})
}
