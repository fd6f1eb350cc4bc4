package job

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/backup"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/retention"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// piles are servers' logs and base backups in destinations.
type piles struct {
	*bench
	a     *Access
	known Known
	now   time.Time
	away  []string // destinations of the configuration that a run does not write to
}

func newPiles(t *testing.T) *piles {
	return &piles{bench: newBench(t), a: access(t, unset, AccessOptions{}), known: Known{Dir: t.TempDir()}, now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
}

// make makes the snapshot of a stream in what can be reached of destinations.
func (p *piles) make(s Stream, dests ...string) {
	p.t.Helper()
	p.now = p.now.Add(time.Minute)
	o := p.options(dests...)
	o.Sources, o.Streams, o.Now, o.Known = nil, []Stream{s}, func() time.Time { return p.now }, p.known
	for _, d := range p.away {
		o.Others = append(o.Others, p.place(d))
	}
	res, err := Backup(p.t.Context(), p.a, o)
	if err != nil || res.Streams[0].Err != nil {
		p.t.Fatal(err, res)
	}
}

func (p *piles) push(n int, dests ...string) {
	p.t.Helper()
	p.make(pileLog("main", segment(n), func(line string) { p.t.Error(line) }, func(ctx context.Context, to *logWriter) error {
		return to.Put(ctx, segment(n), 1, strings.NewReader(fmt.Sprint("content of ", n)))
	}), dests...)
}

func (p *piles) base(dests ...string) {
	p.t.Helper()
	p.make(Stream{Name: "base", Kind: tree.KindPostgreSQLBase, Source: DatabaseSource(tree.KindPostgreSQLBase, "main"),
		Produce: func(_ context.Context, to *backup.Sink, _ fs.FS) error { return put(to, "base.json", "{}") }}, dests...)
}

// forgetBase forgets the oldest base backup of a destination.
func (p *piles) forgetBase(dest string) {
	p.t.Helper()
	d := p.loaded(p.a, dest)
	for _, s := range d.Snapshots {
		if s.Kind == tree.KindPostgreSQLBase {
			if err := d.Repo.Forget(p.t.Context(), s.ID); err != nil {
				p.t.Fatal(err)
			}
			return
		}
	}
	p.t.Fatal("there is none")
}

// want compares the segments that a destination has.
func (p *piles) want(dest string, from, to int) {
	p.t.Helper()
	l, err := OpenLog(p.t.Context(), p.loaded(p.a, dest), tree.KindPostgreSQLLog, "h", "main")
	if err != nil {
		p.t.Fatal(err)
	}
	got, err := l.Names(p.t.Context())
	if err != nil {
		p.t.Fatal(err)
	}
	var want []string
	for n := from; n < to; n++ {
		want = append(want, segment(n))
		r, err := l.Open(p.t.Context(), segment(n))
		if err != nil {
			p.t.Errorf("%s: %v", dest, err)
			continue
		}
		text, err := io.ReadAll(r)
		if r.Close(); err != nil || string(text) != fmt.Sprint("content of ", n) {
			p.t.Errorf("%s: %s is %q, %v", dest, segment(n), text, err)
		}
	}
	if !slices.Equal(got, want) {
		p.t.Errorf("%s has %v, want %v", dest, got, want)
	}
}

// unplug takes a destination away, and returns what brings it back.
func (p *piles) unplug(dest string) (plug func()) {
	p.t.Helper()
	if err := os.Rename(p.place(dest), p.place(dest)+".away"); err != nil {
		p.t.Fatal(err)
	}
	return func() {
		p.t.Helper()
		if err := os.Rename(p.place(dest)+".away", p.place(dest)); err != nil {
			p.t.Fatal(err)
		}
	}
}

// TestLogsOfSeveralDestinations: what the base backups of any destination need is in all of
// them, whichever are there.
func TestLogsOfSeveralDestinations(t *testing.T) {
	p := newPiles(t)
	p.base("a", "b")
	for n := range 3 {
		p.push(n, "a", "b")
	}
	// b keeps its base backups for longer than a.
	p.now = p.now.Add(3 * logMargin)
	p.base("a", "b")
	p.forgetBase("a")
	p.push(3, "a", "b")
	p.push(4, "a", "b")
	p.want("a", 0, 5)
	p.want("b", 0, 5)

	// It is away: what it misses meanwhile is there when it comes back.
	plug := p.unplug("b")
	for n := 5; n < 9; n++ {
		p.push(n, "a", "b")
	}
	p.want("a", 0, 9)
	plug()
	p.push(9, "a", "b")
	p.want("b", 0, 10)

	// A run that leaves it out trims nothing that it needs, nor does one that cannot know.
	p.away = []string{"b"}
	p.push(10, "a")
	p.push(11, "a")
	p.want("a", 0, 12)
	p.away = nil

	// Its old base backup is gone, and was seen to be: from then on the log is trimmed, also
	// while it is away.
	p.forgetBase("b")
	p.push(12, "a", "b")
	p.push(13, "a", "b") // the snapshot before the newest stays
	p.want("a", 3, 14)
	p.want("b", 3, 14)
	p.now = p.now.Add(3 * logMargin)
	p.base("a", "b")
	p.push(14, "a", "b")
	plug = p.unplug("b")
	p.forgetBase("a")
	p.push(15, "a", "b")
	p.push(16, "a", "b")
	p.want("a", 3, 17) // b still has the base backup of before
	plug()
	p.forgetBase("b")
	p.push(17, "a", "b")
	p.unplug("b")
	p.push(18, "a", "b")
	p.want("a", 14, 19)
}

// TestLogsOfAnUnknownDestination: one that was never seen may need everything, and so may
// one that had no base backup when it was seen.
func TestLogsOfAnUnknownDestination(t *testing.T) {
	for _, seen := range []bool{false, true} {
		p := newPiles(t)
		if seen {
			p.push(9, "b")
		}
		p.away = []string{"b"}
		p.base("a")
		p.push(0, "a")
		p.now = p.now.Add(3 * logMargin)
		p.base("a")
		p.forgetBase("a")
		for n := 1; n < 4; n++ {
			p.push(n, "a")
		}
		p.want("a", 0, 4)
	}
}

// TestTaggedLogs: tags are those of a section, and keep nothing; what is held stays.
func TestTaggedLogs(t *testing.T) {
	p := newPiles(t)
	push := func(n int, tag string) {
		t.Helper()
		s := pileLog("main", segment(n), func(line string) { t.Error(line) }, func(ctx context.Context, to *logWriter) error {
			return to.Put(ctx, segment(n), 1, strings.NewReader(fmt.Sprint("content of ", n)))
		})
		s.Tags = []string{tag}
		p.make(s, "a")
	}
	for n := range 5 {
		tag := "shop"
		if n == 1 {
			tag = retention.Hold
		}
		push(n, tag)
	}
	if all := p.loaded(p.a, "a").Snapshots; len(all) != 3 || all[0].Tags[0] != retention.Hold {
		t.Errorf("%+v", all)
	}
	p.want("a", 0, 5)
}

// alone makes a snapshot that has nothing of those before, as a write-only host does.
func (p *piles) alone(kind tree.Kind, files map[string]string, tags ...string) {
	p.t.Helper()
	p.make(Stream{Name: "alone", Kind: kind, Source: DatabaseSource(kind, "main"), Tags: tags,
		Produce: func(_ context.Context, to *backup.Sink, _ fs.FS) (err error) {
			for name, text := range files {
				err = errors.Join(err, put(to, name, text))
			}
			return err
		}}, "a")
}

func (p *piles) forget(policy retention.Policy) (*Forgetting, error) {
	o := ForgetOptions{Policy: policy, Known: p.known, Now: p.now, By: tree.Snapshot{User: "u"}}
	dry := o
	dry.DryRun = true
	said, sayErr := p.loaded(p.a, "a").Forget(p.t.Context(), dry)
	f, err := p.loaded(p.a, "a").Forget(p.t.Context(), o)
	if fmt.Sprint(sayErr) != fmt.Sprint(err) || len(said.Gathered) != len(f.Gathered) || !sameIDs(said.Forgotten, f.Forgotten) {
		p.t.Errorf("a dry run says %+v, %v; and %+v, %v was done", said, sayErr, f, err)
	}
	return f, err
}

func sameIDs(a, b []repo.ID) bool {
	sorted := func(ids []repo.ID) []repo.ID {
		return slices.SortedFunc(slices.Values(ids), func(a, b repo.ID) int { return bytes.Compare(a[:], b[:]) })
	}
	return slices.Equal(sorted(a), sorted(b))
}

// TestGatherLog: rules do not decide about a log, of which each snapshot may have another
// piece; a host that can read makes one of them all.
func TestGatherLog(t *testing.T) {
	p := newPiles(t)
	p.base("a")
	for n := range 6 {
		p.alone(tree.KindPostgreSQLLog, map[string]string{segment(n): fmt.Sprint("content of ", n)})
	}
	p.alone(tree.KindPostgreSQLLog, map[string]string{segment(5): "content of 5"}) // pushed twice
	f, err := p.forget(retention.Policy{Last: 1})
	if err != nil || len(f.Forgotten) != 6 || len(f.Gathered) != 1 {
		t.Fatalf("%+v, %v", f, err)
	}
	p.want("a", 0, 6)
	d := p.loaded(p.a, "a")
	logs := slices.DeleteFunc(slices.Clone(d.Snapshots), func(s *tree.Snapshot) bool { return s.Kind != tree.KindPostgreSQLLog })
	if len(logs) != 2 || logs[1].Counts.Files != 6 || logs[1].Host != "h" || logs[1].User != "u" {
		t.Fatalf("%+v", logs)
	}
	p.wantReadable("a")

	// It is the one that the next ones follow, and nothing happens twice.
	if f, err = p.forget(retention.Policy{Last: 1}); err != nil || len(f.Forgotten) != 0 {
		t.Errorf("%+v, %v", f, err)
	}
	p.push(6, "a")
	p.push(7, "a")
	p.want("a", 0, 8)

	// What no base backup needs is left out.
	p.now = p.now.Add(3 * logMargin)
	p.base("a")
	p.forgetBase("a")
	for n := 8; n < 12; n++ {
		p.alone(tree.KindPostgreSQLLog, map[string]string{segment(n): fmt.Sprint("content of ", n)})
	}
	if _, err = p.forget(retention.Policy{Last: 1}); err != nil {
		t.Fatal(err)
	}
	p.want("a", 8, 12)
}

// TestGatherHeld: what is held stays, wherever in the log it is; a dry run says what goes.
func TestGatherHeld(t *testing.T) {
	for held := range 6 {
		p := newPiles(t)
		p.base("a")
		for n := range 6 {
			var tags []string
			if n == held {
				tags = []string{retention.Hold}
			}
			p.alone(tree.KindPostgreSQLLog, map[string]string{segment(n): fmt.Sprint("content of ", n)}, tags...)
		}
		if f, err := p.forget(retention.Policy{Last: 1}); err != nil || len(f.Gathered) != 1 || len(f.Forgotten) < 4 {
			t.Errorf("held %d: %+v, %v", held, f, err)
		}
		p.want("a", 0, 6)
		d := p.loaded(p.a, "a")
		if n := len(slices.DeleteFunc(slices.Clone(d.Snapshots), func(s *tree.Snapshot) bool { return !slices.Contains(s.Tags, retention.Hold) })); n != 1 {
			t.Errorf("held %d: %d are held now", held, n)
		}
		p.wantReadable("a")
	}
}

// wantReadable reads whatever a destination has.
func (p *piles) wantReadable(dest string) {
	p.t.Helper()
	var all []repo.ID
	for _, s := range p.loaded(p.a, dest).Snapshots {
		all = append(all, s.ID)
	}
	p.wantSnapshots(p.a, dest, all...)
}

// TestLogConflict: of two different files of one name neither is taken, or lost.
func TestLogConflict(t *testing.T) {
	p := newPiles(t)
	p.base("a")
	for n := range 4 {
		p.alone(tree.KindPostgreSQLLog, map[string]string{segment(n): fmt.Sprint("content of ", n)})
	}
	p.alone(tree.KindPostgreSQLLog, map[string]string{segment(2): "content of another"})
	before := len(p.loaded(p.a, "a").Snapshots)
	f, err := p.forget(retention.Policy{Last: 1})
	conflict, ok := errors.AsType[*LogConflict](err)
	if !ok || conflict.File != segment(2) || len(f.Forgotten) != 0 || !strings.Contains(hint(err), "db list") {
		t.Fatalf("%+v, %v, %q", f, err, hint(err))
	}
	failure, ok := errors.AsType[*Failure](err)
	if !ok || failure.Code != ExitPartial {
		t.Errorf("%v", err)
	}
	d := p.loaded(p.a, "a")
	if len(d.Snapshots) != before {
		t.Errorf("%d snapshots of %d", len(d.Snapshots), before)
	}
	l, err := OpenLog(t.Context(), d, tree.KindPostgreSQLLog, "h", "main")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Open(t.Context(), segment(2)); !errors.As(err, &conflict) || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if r, err := l.Open(t.Context(), segment(1)); err != nil {
		t.Error(err)
	} else {
		r.Close()
	}
	if c, err := l.Conflicts(t.Context()); err != nil || len(c) != 1 {
		t.Errorf("%v, %v", c, err)
	}
	// The wrong one is named and forgotten.
	if _, err := d.Forget(t.Context(), ForgetOptions{Names: []string{conflict.Snapshots[0].ID.String()}, Known: p.known, Now: p.now}); err != nil {
		t.Fatal(err)
	}
	p.want("a", 0, 4)
}

// TestBinlogConflict: a log that has grown is the same; one that only has the name is not.
func TestBinlogConflict(t *testing.T) {
	const one = "20260301T000000Z-binlog.000001"
	long := strings.Repeat("0123456789", 500_000)
	for name, tt := range map[string]struct {
		files    []string
		conflict bool
	}{
		"grown":               {[]string{"a", "ab", "abc"}, false},
		"grown in the middle": {[]string{"ab", "abc", "a", "abc"}, false},
		"large":               {[]string{long[:4_000_000], long, long[:3_999_999]}, false},
		"another":             {[]string{"ab", "ac", "a"}, true},
		"another beginning":   {[]string{"abc", "b", "abc"}, true},
		"large, another end":  {[]string{long[:4_000_000] + "x", long, "0"}, true},
		"large, another":      {[]string{"x" + long[1:], long, "0"}, true},
	} {
		p := newPiles(t)
		for _, text := range tt.files {
			p.alone(tree.KindMySQLLog, map[string]string{one: text})
		}
		d := p.loaded(p.a, "a")
		l, err := OpenLog(t.Context(), d, tree.KindMySQLLog, "h", "main")
		if err != nil {
			t.Fatal(err)
		}
		r, err := l.Open(t.Context(), one)
		if _, ok := errors.AsType[*LogConflict](err); ok != tt.conflict || err != nil && !ok {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			text, err := io.ReadAll(r)
			longest := slices.MaxFunc(tt.files, func(a, b string) int { return len(a) - len(b) })
			if r.Close(); err != nil || string(text) != longest {
				t.Errorf("%s: %d bytes, %v", name, len(text), err)
			}
		}
		// A snapshot with another log of the name is not superseded by a longer one.
		last := d.Snapshots[len(d.Snapshots)-1]
		if err := ForgetLogs(t.Context(), d, last, &Outlook{Open: []*Destination{d}}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		want := 3
		switch name {
		case "grown":
			want = 2
		case "grown in the middle", "another beginning": // the oldest is the newest once more
			want = 2
		}
		if n := len(p.loaded(p.a, "a").Snapshots); n != want {
			t.Errorf("%s: %d snapshots stay, want %d", name, n, want)
		}
	}
}

// TestPushed: what was stored with a write-only key is noted, and another file of the name
// refused, also behind a line that was cut short, and when the older half has gone.
func TestPushed(t *testing.T) {
	dir := t.TempDir()
	file := func(text string) string { return write(t, filepath.Join(dir, text), text) }
	name := Known{Dir: dir}.pushed(repo.ID{1}, "main")
	try := func(segment, path string) error {
		p := &pushed{name: name, segment: segment}
		if err := p.check(path); err != nil {
			return err
		}
		return p.add()
	}
	one, two := file("one"), file("two")
	for _, path := range []string{one, one} {
		if err := try(segment(1), path); err != nil {
			t.Fatal(err)
		}
	}
	if err := try(segment(1), two); err == nil || !strings.Contains(hint(err), "new timeline") {
		t.Errorf("%v", err)
	}
	f, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(segment(2) + " 0123"); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := try(segment(2), two); err != nil { // it was not reported as stored
		t.Fatal(err)
	}
	if err := try(segment(2), one); err == nil {
		t.Error("the line behind one that is cut short is not read")
	}
	if err := try(segment(1), two); err == nil {
		t.Error("the first line is forgotten")
	}
	// It is bounded.
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	line := segment(3) + " " + strings.Repeat("0", 64) + "\n"
	write(t, name, string(b)+strings.Repeat(line, maxPushedBytes/len(line)+1))
	if err := try(segment(4), one); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(name)
	if err != nil || info.Size() > maxPushedBytes/2+1000 || info.Size() < maxPushedBytes/2-1000 {
		t.Errorf("%d bytes, %v", info.Size(), err)
	}
	if err := try(segment(4), two); err == nil {
		t.Error("the newest line is gone")
	}
}
