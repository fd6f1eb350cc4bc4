package job

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/seal"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
	"github.com/SP1R4/BackupHandler/v3/internal/storage/storagetest"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

func TestFilterResolve(t *testing.T) {
	snap := func(name, host, when string, tags ...string) *tree.Snapshot {
		return &tree.Snapshot{ID: id(name), Host: host, Time: at("2026-01-" + when + " 00:00:00"), Tags: tags, Sources: []tree.Path{"/home", "/etc"}}
	}
	a1, a2, b1, b3 := snap("a1a1", "a", "01", "x"), snap("a2a2", "a", "02"), snap("b1b1", "b", "01"), snap("b3b3", "b", "03", "x")
	s2, s4 := snap("5252", "a", "02"), snap("5454", "a", "04", "x")
	s2.Kind, s2.Sources = tree.KindStream, []tree.Path{"/stream/pg"}
	s4.Kind, s4.Sources = tree.KindMySQL, []tree.Path{"/db/shop"}
	kinds, dumps, others := []*tree.Snapshot{a1, s2, s4}, []*tree.Snapshot{s2, s4}, []*tree.Snapshot{b1, s2, s4}
	several, one := []*tree.Snapshot{a1, b1, a2, b3}, []*tree.Snapshot{a1, a2}
	for _, tt := range []struct {
		all        []*tree.Snapshot
		f          Filter
		name, this string
		want       *tree.Snapshot // nil: ErrNoSnapshot
		note       bool
	}{
		{several, Filter{}, "latest", "a", a2, true},
		{several, Filter{}, "latest", "b", b3, true},
		{several, Filter{}, "latest", "c", nil, false}, // never another machine's
		{several, Filter{}, "latest", "", nil, false},
		{several, Filter{Host: "b"}, "latest", "a", b3, false},
		{several, Filter{Host: "b"}, "latest", "c", b3, false},
		{several, Filter{Host: "c"}, "latest", "c", nil, false},
		{several, Filter{Tag: "x"}, "latest", "a", a1, true},
		{several, Filter{Tag: "y"}, "latest", "a", nil, false},
		{several, Filter{}, "2026-01-05", "a", a2, true},
		{several, Filter{}, "2026-01-01", "b", b1, true},
		{several, Filter{}, "2026-01-05", "c", nil, false},
		// An ID is what it says.
		{several, Filter{}, "b3b3", "a", b3, false},
		{several, Filter{}, "b3b3", "c", b3, false},
		{several, Filter{Host: "a"}, "b3b3", "a", nil, false},
		{several, Filter{}, "nonsense", "c", nil, false},
		// The only host is meant, whoever asks: a new machine restores an old one.
		{one, Filter{}, "latest", "c", a2, false},
		{one, Filter{}, "2026-01-01", "c", a1, false},
		{nil, Filter{}, "latest", "a", nil, false},
		{one, Filter{Path: "/home/ann"}, "latest", "a", a2, false},
		{one, Filter{Path: "/"}, "latest", "a", a2, false},
		{one, Filter{Path: "/home2"}, "latest", "a", nil, false},
		// Files are meant where there are any, and other filters do not change what is
		// meant.
		{kinds, Filter{}, "latest", "a", a1, false},
		{kinds, Filter{}, "latest", "c", a1, false},
		{kinds, Filter{}, "2026-01-03", "a", a1, false},
		{kinds, Filter{Path: "/db/shop"}, "latest", "a", nil, false},
		{kinds, Filter{Kind: "files"}, "latest", "a", a1, false},
		{kinds, Filter{Kind: "stream"}, "latest", "a", s2, false},
		{kinds, Filter{Kind: "mysql"}, "2026-01-03", "a", nil, false},
		{kinds, Filter{Kind: "postgresql"}, "latest", "a", nil, false},
		{kinds, Filter{}, "5454", "a", s4, false},
		{dumps, Filter{}, "latest", "a", s4, false},
		{dumps, Filter{}, "2026-01-03", "a", s2, false},
		{others, Filter{}, "latest", "a", s4, true}, // the files are another host's
		{others, Filter{Host: "b"}, "latest", "a", b1, false},
	} {
		got, note, err := tt.f.Resolve(tt.all, tt.name, tt.this)
		if got != tt.want || (note != "") != tt.note || (err == nil) != (tt.want != nil) || err != nil && !errors.Is(err, ErrNoSnapshot) {
			t.Errorf("%+v of %d for %q, %q: %v, %q, %v", tt.f, len(tt.all), tt.this, tt.name, got, note, err)
		}
	}
	if got := Hosts([]*tree.Snapshot{b3, a1, b1, a2}); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("%v", got)
	}
}

// loaded opens a repository.
func (b *bench) loaded(a *Access, dest string) *Destination {
	b.t.Helper()
	d, err := a.OpenDestination(b.t.Context(), b.place(dest))
	if err == nil {
		err = d.Load(b.t.Context())
	}
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { d.Close() })
	return d
}

func (b *bench) copy(from, to *Access, src string, o CopyOptions, targets ...string) *CopyResult {
	b.t.Helper()
	o.Note = func(string) {}
	for i := range targets {
		targets[i] = b.place(targets[i])
	}
	res, err := Copy(b.t.Context(), to, b.loaded(from, src), targets, o)
	if err != nil {
		b.t.Fatal(err)
	}
	return res
}

// A copy takes what was asked for, also what catching up would take for forgotten.
func TestCopyOlder(t *testing.T) {
	a, b := access(t, unset, AccessOptions{}), newBench(t)
	var ids []repo.ID
	for range 3 {
		ids = append(ids, b.well(a, "a"))
	}
	res := b.copy(a, a, "a", CopyOptions{Names: []string{ids[2].String()}}, "b")
	if res.Failed() || b.fingerprint("a") != b.fingerprint("b") {
		t.Errorf("%+v, or no sibling", res)
	}
	b.wantSnapshots(a, "b", ids[2])
	p := new(CopyProgress)
	res = b.copy(a, a, "a", CopyOptions{Progress: p}, "b", "c")
	b.wantSnapshots(a, "b", ids...)
	b.wantSnapshots(a, "c", ids...)
	if res.Failed() || p.Snapshots.Load() != 5 || p.TotalSnapshots.Load() != 5 || p.Bytes() == 0 {
		t.Errorf("%+v, %+v", res, p)
	}
	for _, target := range res.Targets {
		if want := 3 - target.There; len(target.Copied) != want || len(target.Missing) != want {
			t.Errorf("%s: %d there, %v copied", target.Location, target.There, target.Copied)
		}
	}
}

// The holder of another key learns nothing of the source's secret; both ends are
// read with keys of their own.
func TestCopyApart(t *testing.T) {
	mine, theirs, b := access(t, unset, AccessOptions{KeyFile: keyFile(t, "m")}), access(t, unset, AccessOptions{KeyFile: keyFile(t, "t")}), newBench(t)
	s := b.well(mine, "a")
	b.copy(mine, theirs, "a", CopyOptions{Apart: true}, "x", "y")
	if b.fingerprint("a") == b.fingerprint("x") || b.fingerprint("x") != b.fingerprint("y") {
		t.Error("the secret is the source's, or the targets are no siblings")
	}
	b.wantSnapshots(theirs, "x", s)
	b.wantSnapshots(theirs, "y", s)
	if _, err := mine.Open(t.Context(), b.place("x")); !errors.Is(err, seal.ErrWrongKey) {
		t.Errorf("%v", err)
	}
	// None of them lies open.
	plain := access(t, off, AccessOptions{})
	b.copy(mine, plain, "a", CopyOptions{}, "open")
	if b.fingerprint("a") == b.fingerprint("open") {
		t.Error("the secret of an encrypted repository lies open in another one")
	}
}

func TestOnlyGiven(t *testing.T) {
	env := func(string) (string, bool) { return "a passphrase", true }
	config := on + "key_file = " + keyFile(t, "c") + "\npassphrase = configured\nrecipients = " + identity(t).Recipient().String() + "\n"
	for name, o := range map[string]AccessOptions{
		"key file":   {KeyFile: keyFile(t, "k")},
		"passphrase": {PassphraseFile: write(t, filepath.Join(t.TempDir(), "p"), "another")},
	} {
		o.OnlyGiven, o.Env = true, env
		for _, text := range []string{config, off, unset} {
			a := access(t, text, o)
			if len(a.Credentials) != 1 || len(a.Lockers) != 1 || !a.EncryptNew {
				t.Errorf("%s: %d credentials, %d lockers, encrypts %t", name, len(a.Credentials), len(a.Lockers), a.EncryptNew)
			}
		}
	}
}

// A destination that fails at any write stops no other one, and catches up in the
// next run.
func TestOneFailsHalfway(t *testing.T) {
	a, b := access(t, unset, AccessOptions{}), newBench(t)
	ids := []repo.ID{b.well(a, "a"), b.well(a, "a")}
	have := func(s storage.Backend) (got []repo.ID) {
		for _, s := range openStore(t, s).Snapshots {
			got = append(got, s.ID)
		}
		return got
	}
	first := b.loaded(a, "a")
	all := first.Snapshots[0].Group()
	created := func() *storage.Memory {
		m := storage.NewMemory()
		if err := repo.Init(t.Context(), m, repo.InitOptions{Lockers: []seal.Locker{seal.None{}}, Sibling: first.Repo, Wrap: seal.WrapOptions{Created: time.Now()}}); err != nil {
			t.Fatal(err)
		}
		return m
	}
	for _, outcome := range []storagetest.Outcome{storagetest.Fail, storagetest.Lose, storagetest.Cut} {
		for n, failed := 0, true; failed; n++ {
			bad, good := created(), created()
			x, y := openStore(t, storagetest.At(bad, n, outcome)), openStore(t, good)
			copyToOthers(t.Context(), []*Destination{first, x, y}, all, repo.WriterOptions{})
			failed = x.Err != nil
			if first.Err != nil || y.Err != nil || !slices.Equal(have(good), ids) {
				t.Fatalf("%v at %d: %v, %v", outcome, n, y.Err, have(good))
			}
			x = openStore(t, bad)
			copyToOthers(t.Context(), []*Destination{first, x}, all, repo.WriterOptions{})
			if x.Err != nil || !slices.Equal(have(bad), ids) {
				t.Fatalf("after %v at %d: %v, %v", outcome, n, x.Err, have(bad))
			}
			if !failed && n < 6 {
				t.Fatalf("only %d writes", n)
			}
		}
	}
}

// openStore opens the repository in a store, which stays open.
func openStore(t *testing.T, s storage.Backend) *Destination {
	t.Helper()
	r, err := repo.Open(t.Context(), kept{s}, repo.Options{Credentials: []seal.Credential{seal.None{}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	d := &Destination{Location: "store", Repo: r}
	if err := d.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	return d
}

// kept stays open when a repository is closed.
type kept struct{ storage.Backend }

func (kept) Close() error { return nil }

// A run that takes too long is ended, as a failure that names the limit, and what it
// stored is used.
func TestMaxDuration(t *testing.T) {
	a, b := access(t, unset, AccessOptions{}), newBench(t)
	wantEnded := func(res *BackupResult, err error) {
		t.Helper()
		f, ok := errors.AsType[*Failure](err)
		if !ok || f.Code != ExitPartial || !strings.Contains(f.Error(), "max_duration") || f.Hint == "" || res.Snapshot != nil {
			t.Errorf("%v, %+v", err, res)
		}
	}
	o := b.options("a", "b")
	o.MaxDuration = 1
	wantEnded(Backup(t.Context(), a, o))
	// In the middle of the run: it waits until the time is over.
	o = b.options("a", "b")
	o.MaxDuration = time.Second
	over := time.Now().Add(o.MaxDuration + 200*time.Millisecond)
	o.OnFile = func(string, string) { time.Sleep(time.Until(over)) }
	wantEnded(Backup(t.Context(), a, o))
	// An interrupt is none.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Backup(ctx, a, o); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	// Without end, or with time enough, all is well.
	o = b.options("a", "b")
	o.MaxDuration = time.Hour
	res, err := Backup(t.Context(), a, o)
	if err != nil || res.Failed() {
		t.Fatalf("%v, %+v", err, res)
	}
	b.wantSnapshots(a, "a", res.Snapshot.ID)
	b.wantSnapshots(a, "b", res.Snapshot.ID)
}

// A repository that another process has just created, and is writing to, is no
// foreign directory and no remains.
func TestPlaceOvertaken(t *testing.T) {
	a, b := access(t, unset, AccessOptions{}), newBench(t)
	b.well(a, "a")
	if place, err := Place(b.place("a")); err != nil || place != b.place("a") {
		t.Errorf("%q, %v", place, err)
	}
	d := &Destination{Location: b.place("a")}
	if err := a.create(t.Context(), d, nil); err != nil || d.Created || len(d.Place) == 0 {
		t.Errorf("%v, %+v", err, d)
	}
	d.Close()
}
