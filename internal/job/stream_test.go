package job

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/backup"
	"github.com/SP1R4/BackupHandler/v3/internal/dbdump"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/retention"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// prints is a stream of one file.
func prints(name, text string, err error) Stream {
	return Stream{Name: "[STREAM " + name + "]", Kind: tree.KindStream, Source: "/stream/" + name, What: "echo " + text,
		Produce: func(_ context.Context, to *backup.Sink, _ fs.FS) error { return errors.Join(put(to, "out", text), err) }}
}

func put(to dbdump.Sink, name, text string) error {
	w, err := to.Create(name)
	if err != nil {
		return err
	}
	_, err = io.WriteString(w, text)
	return errors.Join(err, w.Close())
}

// stored reads what a destination has of a stream.
func (b *bench) stored(a *Access, dest string, s StreamResult) string {
	b.t.Helper()
	d := b.loaded(a, dest)
	i := slices.IndexFunc(d.Snapshots, func(x *tree.Snapshot) bool { return s.Snapshot != nil && x.ID == s.Snapshot.ID })
	if i < 0 {
		b.t.Fatalf("%s has no snapshot of %s", dest, s.Name)
	}
	n, err := tree.Lookup(b.t.Context(), d.Repo, d.Snapshots[i].RootNode(), s.Source+"/out")
	if err != nil {
		b.t.Fatal(err)
	}
	var text strings.Builder
	err = tree.EachChunk(b.t.Context(), d.Repo, n, func(c tree.Chunk) error {
		data, err := d.Repo.Load(b.t.Context(), c.Hash, c.Size, nil)
		text.Write(data)
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return text.String()
}

// ids are the snapshots of a run.
func ids(res *BackupResult) (out []repo.ID) {
	for _, s := range res.Made() {
		out = append(out, s.ID)
	}
	return out
}

// A stream that fails keeps neither the files nor other streams from anything, and
// leaves nothing that looks like a backup of it.
func TestStreams(t *testing.T) {
	a, b := access(t, unset, AccessOptions{}), newBench(t)
	o := b.options("a", "b")
	gone := &dbdump.Error{Err: errors.New("the server has gone away"), Hint: "start it"}
	o.Tags = []string{"nightly"}
	o.Streams = []Stream{prints("one", strings.Repeat("one", 100_000), nil), prints("bad", strings.Repeat("half", 100_000), gone), prints("two", "two", nil)}
	o.Streams[2].Tags = []string{"small"}
	res, err := Backup(t.Context(), a, o)
	if err != nil || !res.Failed() || len(res.Made()) != 3 {
		t.Fatalf("%v, %v", res, err)
	}
	for _, d := range []string{"a", "b"} {
		b.wantSnapshots(a, d, ids(res)...)
		if got := b.stored(a, d, res.Streams[0]); got != strings.Repeat("one", 100_000) {
			t.Errorf("%s: %d bytes", d, len(got))
		}
		if got := b.stored(a, d, res.Streams[2]); got != "two" {
			t.Errorf("%s: %q", d, got)
		}
	}
	bad := res.Streams[1]
	if bad.Snapshot != nil || !errors.Is(bad.Err, gone) || bad.Err.Error() != "the server has gone away" || bad.Hint() != "start it" {
		t.Errorf("%v: %v, %q", bad.Snapshot, bad.Err, bad.Hint())
	}
	two := res.Streams[2].Snapshot
	if two.Kind != tree.KindStream || !slices.Equal(two.Tags, []string{"nightly", "small"}) || !slices.Equal(two.Sources, []tree.Path{"/stream/two"}) ||
		two.Host != "h" || two.User != "u" || two.Mode != tree.Full || len(two.Users) > 1 || two.Parent != nil {
		t.Errorf("%+v", two)
	}
	if res.Snapshot.Kind != tree.KindFiles || res.Snapshot.Counts.Files != 2 {
		t.Errorf("%+v", res.Snapshot)
	}

	// The next ones compare with the ones before, each with its own.
	o.Streams = []Stream{prints("bad", "whole", nil), prints("one", strings.Repeat("one", 100_000), nil)}
	again, err := Backup(t.Context(), a, o)
	if err != nil || again.Failed() {
		t.Fatal(err, again)
	}
	if p := again.Streams[0].Snapshot.Parent; p != nil {
		t.Errorf("the first of its kind has the parent %v", p)
	}
	one := again.Streams[1].Snapshot
	if one.Parent == nil || *one.Parent != res.Streams[0].Snapshot.ID || one.Counts.DataAdded != 0 || one.Counts.Unmodified != 1 {
		t.Errorf("%+v", one)
	}
	if p := again.Snapshot.Parent; p == nil || *p != res.Snapshot.ID {
		t.Errorf("the files have the parent %v", p)
	}

	// Rules are for each by itself.
	d := b.loaded(a, "a")
	f, err := d.Forget(t.Context(), ForgetOptions{Groups: []tree.Group{one.Group(), again.Snapshot.Group()}, Policy: retention.Policy{Last: 1}, Now: b.clock})
	if err != nil || !slices.Equal(f.Forgotten, []repo.ID{res.Snapshot.ID, res.Streams[0].Snapshot.ID}) {
		t.Errorf("forgot %v, %v", f.Forgotten, err)
	}
}

// A run may have nothing but streams, and a dry one runs none.
func TestOnlyStreams(t *testing.T) {
	a, b := access(t, unset, AccessOptions{}), newBench(t)
	o := b.options("a")
	o.Sources, o.Streams = nil, []Stream{prints("one", "one", nil)}
	o.DryRun = true
	o.Streams[0].Produce = func(context.Context, *backup.Sink, fs.FS) error { t.Error("a dry run runs it"); return nil }
	before := content(t, b.root)
	res, err := Backup(t.Context(), a, o)
	if err != nil || res.Failed() || len(res.Streams) != 1 || res.Streams[0].What != "echo one" || !reflect.DeepEqual(content(t, b.root), before) {
		t.Errorf("%+v, %v", res, err)
	}
	o = b.options("a")
	o.Sources, o.Streams = nil, []Stream{prints("one", "one", nil)}
	res, err = Backup(t.Context(), a, o)
	if err != nil || res.Failed() || res.Snapshot != nil || len(res.Made()) != 1 {
		t.Errorf("%+v, %v", res, err)
	}
	b.wantSnapshots(a, "a", ids(res)...)
	o.Streams = []Stream{prints("one", "one", errors.New("no"))}
	if res, err = Backup(t.Context(), a, o); err != nil || !res.Failed() || len(res.Made()) != 0 {
		t.Errorf("%+v, %v", res, err)
	}
	o.Streams = nil
	if _, err = Backup(t.Context(), a, o); err == nil {
		t.Error("a backup of nothing")
	}
}

// What the snapshot before holds can be read, and taken over.
func TestStreamBefore(t *testing.T) {
	a, b := access(t, unset, AccessOptions{}), newBench(t)
	run := func(produce func(context.Context, *backup.Sink, fs.FS) error) *BackupResult {
		o := b.options("a", "b")
		o.Sources, o.Streams = nil, []Stream{{Name: "log", Kind: tree.KindMySQLLog, Source: "/db/shop/log", Produce: produce}}
		res, err := Backup(t.Context(), a, o)
		if err != nil || res.Failed() {
			t.Fatal(err, res.Streams[0].Err)
		}
		return res
	}
	run(func(_ context.Context, to *backup.Sink, before fs.FS) error {
		if before != nil {
			t.Error("there is something before the first")
		}
		return put(to, "log.1", "first")
	})
	res := run(func(_ context.Context, to *backup.Sink, before fs.FS) error {
		if got, err := fs.ReadFile(before, "log.1"); err != nil || string(got) != "first" {
			t.Errorf("%q, %v", got, err)
		}
		kept, err := to.Keep(".")
		if !kept {
			t.Error("not kept")
		}
		return errors.Join(err, put(to, "log.2", "second"))
	})
	if c := res.Streams[0].Snapshot.Counts; c.Files != 2 || c.BytesRead != 6 || c.Unmodified != 1 {
		t.Errorf("%+v", c)
	}
}

// A destination that fails during a stream costs that one: the next makes it. Files that
// it has are in the others already.
func TestStreamFirstFails(t *testing.T) {
	a, b := access(t, unset, AccessOptions{}), newBench(t)
	o := b.options("a", "b", "c")
	calls := 0
	s := prints("one", "one", nil)
	s.Produce = func(_ context.Context, to *backup.Sink, _ fs.FS) error {
		if calls++; calls == 1 { // its disk is pulled out
			if err := os.RemoveAll(b.place("a")); err != nil {
				t.Fatal(err)
			}
			write(t, b.place("a"), "no directory")
		}
		return put(to, "out", "one")
	}
	o.Streams = []Stream{s, prints("two", "two", nil)}
	res, err := Backup(t.Context(), a, o)
	if err != nil || calls != 2 || res.Destinations[0].Err == nil || res.Destinations[1].Err != nil || res.Destinations[2].Err != nil || len(res.Made()) != 3 {
		t.Fatalf("%d calls, %+v, %v", calls, res, err)
	}
	for _, d := range []string{"b", "c"} {
		b.wantSnapshots(a, d, ids(res)...)
	}
}

// A repository that is pruned during a stream has the program run once more.
func TestStreamRaced(t *testing.T) {
	a, b := access(t, unset, AccessOptions{}), newBench(t)
	o := b.options("a")
	o.Sources = nil
	text := strings.Repeat("some text", 10_000)
	o.Streams = []Stream{prints("one", text, nil)}
	if res, err := Backup(t.Context(), a, o); err != nil || res.Failed() {
		t.Fatal(err, res)
	}
	calls := 0
	o.Streams[0].Produce = func(_ context.Context, to *backup.Sink, _ fs.FS) error {
		err := put(to, "out", text)
		if calls++; calls == 1 {
			packs, e := filepath.Glob(filepath.Join(b.place("a"), "packs", "*", "*"))
			more, _ := filepath.Glob(filepath.Join(b.place("a"), "packs", "*"))
			n := 0
			for _, p := range append(packs, more...) {
				if info, err := os.Stat(p); err == nil && info.Mode().IsRegular() {
					e = errors.Join(e, os.Remove(p))
					n++
				}
			}
			if e != nil || n == 0 {
				t.Errorf("removed %d packs: %v", n, e)
			}
		}
		return err
	}
	res, err := Backup(t.Context(), a, o)
	if err != nil || res.Failed() || calls != 2 {
		t.Fatalf("%d calls: %v, %v", calls, err, res.Streams[0].Err)
	}
	if got := b.stored(a, "a", res.Streams[0]); got != text {
		t.Errorf("%d bytes", len(got))
	}
}

// The end of the context, and of the time, leave no snapshot of a stream.
func TestStreamEnds(t *testing.T) {
	a, b := access(t, unset, AccessOptions{}), newBench(t)
	ctx, cancel := context.WithCancel(t.Context())
	o := b.options("a")
	hangs := func(end func()) Stream {
		s := prints("one", "one", nil)
		s.Produce = func(ctx context.Context, to *backup.Sink, _ fs.FS) error {
			err := put(to, "out", "one")
			end()
			<-ctx.Done()
			return errors.Join(err, errors.New("killed"))
		}
		return s
	}
	o.Streams = []Stream{hangs(cancel), prints("two", "two", nil)}
	res, err := Backup(ctx, a, o)
	if !errors.Is(err, context.Canceled) || len(res.Made()) != 1 || res.Streams[0].Err == nil || res.Streams[1].Err == nil {
		t.Errorf("%+v, %v", res, err)
	}
	o = b.options("a")
	o.MaxDuration = 200 * time.Millisecond
	o.Streams = []Stream{hangs(func() {}), prints("two", "two", nil)}
	// A slow machine may have ended with the files.
	if res, err = Backup(t.Context(), a, o); err != nil {
		if f, ok := errors.AsType[*Failure](err); !ok || f.Code != ExitPartial {
			t.Errorf("%v", err)
		}
		return
	}
	if !res.Failed() || res.Streams[0].Snapshot != nil || !strings.Contains(res.Streams[0].Err.Error(), "max_duration") {
		t.Errorf("%+v", res.Streams[0])
	}
}
