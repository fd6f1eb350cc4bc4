package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
	"github.com/SP1R4/BackupHandler/v3/internal/storage/storagetest"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// stream makes a snapshot of /src.
func (x *fixture) stream(b storage.Backend, o Options, produce func(context.Context, *Sink) error) (*tree.Snapshot, error) {
	x.t.Helper()
	o.Now = func() time.Time { return time.Unix(1_700_000_100, 0) }
	snap := tree.Snapshot{Host: "host", Kind: tree.KindStream, Mode: tree.Full, Sources: []tree.Path{"/src"}, Time: o.Now()}
	return Stream(x.t.Context(), x.open(b), snap, o, produce)
}

// written makes the files, in portions of some bytes, all of them open at once.
func written(files map[string][]byte, portion int) func(context.Context, *Sink) error {
	return func(_ context.Context, k *Sink) error {
		rest := make(map[string][]byte)
		open := make(map[string]io.WriteCloser)
		for name, data := range files {
			w, err := k.Create(name)
			if err != nil {
				return err
			}
			open[name], rest[name] = w, data
		}
		for len(open) > 0 {
			for name, w := range open {
				n := min(portion, len(rest[name]))
				if got, err := w.Write(rest[name][:n]); err != nil || got != n {
					return fmt.Errorf("wrote %d of %d: %w", got, n, err)
				}
				if rest[name] = rest[name][n:]; len(rest[name]) > 0 {
					continue
				}
				if err := w.Close(); err != nil {
					return err
				}
				delete(open, name)
			}
		}
		return nil
	}
}

func below(dir string, files map[string][]byte) map[string][]byte {
	out := make(map[string][]byte)
	for name, data := range files {
		out[strings.TrimSuffix(dir+"/"+name, "/.")] = data
	}
	return out
}

// What is written is stored exactly as the same files of a file system are.
func TestStreamIsStoredAsFilesAre(t *testing.T) {
	x := newFixture(t)
	large := bytesOf(1, 10_000_000)
	files := map[string][]byte{"large": large, "d/e/some": large[:70_000], "d/small": []byte("x"), "empty": {}}
	walked := x.backup(folder("src",
		file("large", large), folder("d", folder("e", file("some", large[:70_000])), file("small", []byte("x"))), file("empty", nil)), Options{FileSHA256: true})
	p := new(Progress)
	snap, err := x.stream(x.store, Options{FileSHA256: true, Parent: walked, Progress: p}, written(files, 9999))
	must(t, err)
	x.wantFiles(snap, below("/src", files))
	c := snap.Counts
	if c.Files != 4 || c.Dirs != 4 || c.Unmodified != 4 || c.New+c.Changed != 0 || c.DataAdded != 0 || c.Bytes != 10_070_001 || c.BytesRead != c.Bytes {
		t.Errorf("%+v", c)
	}
	if p.Files.Load() != 4 || p.Bytes.Load() != c.Bytes || p.TotalFiles.Load() != 4 || !strings.HasPrefix(p.Current(), "/src/") {
		t.Errorf("progress: %d files, %d bytes, at %q", p.Files.Load(), p.Bytes.Load(), p.Current())
	}
	r := x.open(x.store)
	for name := range files {
		a, err := tree.Lookup(t.Context(), r, walked.RootNode(), "/src/"+name)
		must(t, err)
		b, err := tree.Lookup(t.Context(), r, snap.RootNode(), "/src/"+name)
		must(t, err)
		sumA, okA := a.ContentHash()
		sumB, okB := b.ContentHash()
		if !sameContent(a, b) || !okA || !okB || sumA != sumB || name == "large" && !b.Indirect {
			t.Errorf("%s: %+v, %+v", name, a, b)
		}
		if b.Mode != 0o600 || int(b.UID) != os.Getuid() || int(b.GID) != os.Getgid() || b.MTime.Sec != 1_700_000_100 || b.Links != 1 || b.Inode != 0 {
			t.Errorf("%s: %+v", name, b)
		}
	}
	for _, name := range []string{"/src", "/src/d/e"} {
		n, err := tree.Lookup(t.Context(), r, snap.RootNode(), name)
		must(t, err)
		if n.Mode != 0o700 || n.MTime.Sec != 1_700_000_100 || n.Links != 1 {
			t.Errorf("%s: %+v", name, n)
		}
	}
	if snap.Mode != tree.Full || snap.Parent == nil || *snap.Parent != walked.ID || snap.Drift != nil {
		t.Errorf("%+v", snap)
	}
	states := map[string]string{}
	files["d/small"], files["more"] = []byte("y"), []byte("z")
	delete(files, "empty")
	again, err := x.stream(x.store, Options{Parent: snap, OnFile: func(at, state string) { states[at] = state }}, written(files, 100_000))
	must(t, err)
	x.wantFiles(again, below("/src", files))
	if !maps.Equal(states, map[string]string{"/src/large": "unmodified", "/src/d/e/some": "unmodified", "/src/d/small": "changed", "/src/more": "new"}) {
		t.Errorf("%v", states)
	}
}

// Any files in any portions.
func TestStreamRandom(t *testing.T) {
	x := newFixture(t)
	rapid.Check(t, func(rt *rapid.T) {
		files := map[string][]byte{}
		for i := range rapid.IntRange(0, 6).Draw(rt, "files") {
			name := rapid.SampledFrom([]string{"", "a/", "a/b/", "c/"}).Draw(rt, "dir") + fmt.Sprint("f", i)
			// Around the least and the greatest chunk, and what is looked at at a time.
			size := rapid.SampledFrom([]int{0, 1, 1 << 10, 16 << 10, scanBytes, 200_000}).Draw(rt, "size") + rapid.IntRange(-1, 1).Draw(rt, "more")
			files[name] = bytesOf(rapid.IntRange(1, 3).Draw(rt, "seed"), max(size, 0))
		}
		portion := rapid.SampledFrom([]int{1000, scanBytes - 1, scanBytes, scanBytes + 1, 1 << 20}).Draw(rt, "portion")
		snap, err := x.stream(x.store, Options{Readers: rapid.IntRange(1, 3).Draw(rt, "readers")}, written(files, portion))
		if err != nil {
			rt.Fatal(err)
		}
		x.wantFiles(snap, below("/src", files))
	})
}

// More files are open than there are blocks, in one goroutine and in many.
func TestStreamManyOpenFiles(t *testing.T) {
	x := newFixture(t)
	files := map[string][]byte{}
	for i := range 300 {
		files[fmt.Sprintf("%d/%d", i%7, i)] = bytesOf(i, 30_000)
	}
	o := Options{Readers: 1, Write: repo.WriterOptions{Sealers: 1}}
	snap, err := x.stream(x.store, o, written(files, 5000))
	must(t, err)
	x.wantFiles(snap, below("/src", files))
	snap, err = x.stream(x.store, o, func(_ context.Context, k *Sink) error {
		var wg sync.WaitGroup
		errs := make(chan error, len(files))
		for name, data := range files {
			wg.Go(func() {
				w, err := k.Create(name)
				if err == nil {
					_, err = w.Write(data)
					err = errors.Join(err, w.Close())
				}
				errs <- err
			})
		}
		wg.Wait()
		close(errs)
		for err := range errs {
			if err != nil {
				return err
			}
		}
		return nil
	})
	must(t, err)
	x.wantFiles(snap, below("/src", files))
}

// The source may be a file itself.
func TestStreamOneFile(t *testing.T) {
	x := newFixture(t)
	files := map[string][]byte{".": bytesOf(1, 50_000)}
	snap, err := x.stream(x.store, Options{}, written(files, 1000))
	must(t, err)
	x.wantFiles(snap, below("/src", files))
	again, err := x.stream(x.store, Options{Parent: snap}, written(files, 1000))
	must(t, err)
	if c := again.Counts; c.Unmodified != 1 || c.DataAdded != 0 || c.Files != 1 || c.Dirs != 1 {
		t.Errorf("%+v", c)
	}
}

func TestStreamNames(t *testing.T) {
	x := newFixture(t)
	_, err := x.stream(x.store, Options{}, func(_ context.Context, k *Sink) error {
		for _, tt := range []struct {
			name string
			want error
		}{
			{"", fs.ErrInvalid}, {"/a", fs.ErrInvalid}, {"a/", fs.ErrInvalid}, {"../a", fs.ErrInvalid}, {"a/../b", fs.ErrInvalid}, {"a\x00b", fs.ErrInvalid},
			{"\xff", fs.ErrInvalid},
			{"a/b", nil}, {"a/b", fs.ErrExist}, {"a", fs.ErrExist}, {"a/b/c", fs.ErrExist}, {".", fs.ErrExist}, {"c", nil},
		} {
			w, err := k.Create(tt.name)
			if !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
				t.Errorf("%q: %v", tt.name, err)
			}
			if err == nil {
				must(t, w.Close())
				if _, err := w.Write([]byte("x")); !errors.Is(err, fs.ErrClosed) {
					t.Error("written behind the end:", err)
				}
				if err := w.Close(); !errors.Is(err, fs.ErrClosed) {
					t.Error("closed twice:", err)
				}
			}
		}
		return nil
	})
	must(t, err)
}

// An unanswered store fails to give packs.
type unanswered struct {
	storage.Backend
	err error
}

func (u *unanswered) Get(ctx context.Context, name string, off, length int64) (io.ReadCloser, error) {
	if strings.HasPrefix(name, "packs/") {
		return nil, u.err
	}
	return u.Backend.Get(ctx, name, off, length)
}

func TestStreamKeep(t *testing.T) {
	x := newFixture(t)
	a, b, c := bytesOf(1, 200_000), bytesOf(2, 100_000), bytesOf(3, 9_000_000)
	first, err := x.stream(x.store, Options{}, written(map[string][]byte{"log/1": a, "log/2": b, "log/old/3": c, "dump": a[1:]}, 50_000))
	must(t, err)
	_, err = x.stream(x.store, Options{}, func(_ context.Context, k *Sink) error {
		if ok, err := k.Keep("log"); ok || err != nil {
			t.Errorf("kept of no parent: %v, %v", ok, err)
		}
		return nil
	})
	must(t, err)
	second, err := x.stream(x.store, Options{Parent: first}, func(ctx context.Context, k *Sink) error {
		for name, want := range map[string]bool{"log": true, "none": false, "log/none": false, "dump/none": false} {
			if ok, err := k.Keep(name); ok != want || err != nil {
				t.Errorf("%s: %v, %v", name, ok, err)
			}
		}
		if _, err := k.Create("log/1"); !errors.Is(err, fs.ErrExist) {
			t.Errorf("created what is kept: %v", err)
		}
		if _, err := k.Keep("log/1"); !errors.Is(err, fs.ErrExist) {
			t.Errorf("kept twice: %v", err)
		}
		return written(map[string][]byte{"log/4": b[5:], "dump": a[2:]}, 1000)(ctx, k)
	})
	must(t, err)
	x.wantFiles(second, map[string][]byte{"/src/log/1": a, "/src/log/2": b, "/src/log/old/3": c, "/src/log/4": b[5:], "/src/dump": a[2:]})
	n := second.Counts
	if n.BytesRead != int64(len(b)-5+len(a)-2) || n.Unmodified != 3 || n.New != 1 || n.Changed != 1 || n.Files != 5 || second.Mode != tree.Incremental {
		t.Errorf("%+v, %s", n, second.Mode)
	}
	all, err := x.stream(x.store, Options{Parent: second}, func(_ context.Context, k *Sink) error {
		ok, err := k.Keep(".")
		if !ok {
			t.Error("not kept")
		}
		return err
	})
	must(t, err)
	if all.Counts.BytesAdded != 0 || all.Counts.Unmodified != 5 || !slices.Equal(all.Root, second.Root) {
		t.Errorf("%+v", all.Counts)
	}
	// A store that does not answer now is no reason to leave anything out.
	away := errors.New("no answer")
	_, err = x.stream(&unanswered{Backend: x.store, err: away}, Options{Parent: second}, func(_ context.Context, k *Sink) error {
		ok, err := k.Keep("log")
		if ok || !errors.Is(err, away) {
			t.Errorf("without an answer: %v, %v", ok, err)
		}
		return err
	})
	if !errors.Is(err, away) {
		t.Errorf("a snapshot without what could not be read: %v", err)
	}
	// What is not whole any more is not kept.
	must(t, x.store.List(t.Context(), "packs", func(i storage.Info) error { return x.store.Delete(t.Context(), i.Name) }))
	lost, err := x.stream(x.store, Options{Parent: second}, func(_ context.Context, k *Sink) error {
		ok, err := k.Keep("log")
		if ok || err != nil {
			t.Errorf("kept what is lost: %v, %v", ok, err)
		}
		return err
	})
	must(t, err)
	x.wantFiles(lost, nil)
}

// snapshots counts those of a store.
func snapshots(t *testing.T, b storage.Backend) (n int) {
	t.Helper()
	must(t, b.List(t.Context(), "snapshots", func(storage.Info) error { n++; return nil }))
	return n
}

// Half a stream is no snapshot.
func TestStreamFails(t *testing.T) {
	broken := errors.New("server has gone away")
	for name, tt := range map[string]struct {
		produce func(context.Context, *Sink) error
		want    error
	}{
		"producer": {func(ctx context.Context, k *Sink) error {
			return errors.Join(written(map[string][]byte{"a": bytesOf(1, 1_000_000)}, 1000)(ctx, k), broken)
		}, broken},
		"not closed": {func(_ context.Context, k *Sink) error {
			w, err := k.Create("a")
			if err == nil {
				_, err = w.Write(bytesOf(1, 1_000_000))
			}
			return err
		}, nil},
		"used behind the end": {func(_ context.Context, k *Sink) error {
			w, err := k.Create("a")
			must(t, err)
			t.Cleanup(func() {
				if _, err := w.Write([]byte("x")); !errors.Is(err, errSinkEnded) {
					t.Errorf("written behind the end: %v", err)
				}
				if err := w.Close(); !errors.Is(err, errSinkEnded) {
					t.Errorf("closed behind the end: %v", err)
				}
				if _, err := k.Create("b"); !errors.Is(err, errSinkEnded) {
					t.Errorf("created behind the end: %v", err)
				}
			})
			return broken
		}, broken},
	} {
		t.Run(name, func(t *testing.T) {
			x := newFixture(t)
			snap, err := x.stream(x.store, Options{}, tt.produce)
			source, ok := errors.AsType[*SourceError](err)
			if snap != nil || !ok || source.Path != "/src" || tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("%v, %v", snap, err)
			}
			if n := snapshots(t, x.store); n != 0 {
				t.Errorf("%d snapshots", n)
			}
		})
	}
	t.Run("context", func(t *testing.T) {
		x := newFixture(t)
		ctx, cancel := context.WithCancel(t.Context())
		_, err := Stream(ctx, x.open(x.store), tree.Snapshot{Sources: []tree.Path{"/src"}}, Options{Now: time.Now}, func(ctx context.Context, k *Sink) error {
			cancel()
			return written(map[string][]byte{"a": bytesOf(1, 1_000_000)}, 1000)(ctx, k)
		})
		if !errors.Is(err, context.Canceled) || snapshots(t, x.store) != 0 {
			t.Errorf("%v, %d snapshots", err, snapshots(t, x.store))
		}
	})
}

// A store that fails at any write ends the run with its error, whatever the producer
// makes of that.
// TestStreamStoreFailsMeanwhile: who has nothing to write is told that it is of no use.
func TestStreamStoreFailsMeanwhile(t *testing.T) {
	x := newFixture(t)
	silent := make(chan struct{})
	f := storagetest.NewFault(x.store.(*storage.Memory).Clone(), func(storagetest.Op, int) storagetest.Outcome {
		<-silent
		return storagetest.Cut
	})
	snap, err := x.stream(f, Options{}, func(ctx context.Context, k *Sink) error {
		w, err := k.Create("a")
		if err != nil {
			return err
		}
		_, err = w.Write(bytesOf(1, 2_500_000)) // a block is full, and is stored in the background
		close(silent)
		must(t, err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Minute):
			t.Error("it was not told")
			return nil
		}
	})
	if _, source := errors.AsType[*SourceError](err); err == nil || snap != nil || source || errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestStreamStoreFails(t *testing.T) {
	x := newFixture(t)
	data := bytesOf(1, 300_000)
	files := map[string][]byte{"a": data, "d/b": data[5:]}
	for n := 0; ; n++ {
		m := x.store.(*storage.Memory).Clone()
		f := storagetest.CutAfter(m, n)
		snap, err := x.stream(f, Options{}, func(ctx context.Context, k *Sink) error {
			if written(files, 10_000)(ctx, k) != nil {
				return errors.New("broken pipe")
			}
			return nil
		})
		if !f.IsCut() {
			must(t, err)
			if n < 3 {
				t.Errorf("only %d writes", n)
			}
			return
		}
		if _, source := errors.AsType[*SourceError](err); err == nil || snap != nil || source {
			t.Errorf("cut after %d writes: %v", n, err)
		}
		y := &fixture{t, m, x.key}
		again, err := y.stream(m, Options{}, written(files, 10_000))
		must(t, err)
		y.wantFiles(again, below("/src", files))
	}
}
