package repo

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/SP1R4/BackupHandler/v3/internal/chunk"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
	"github.com/SP1R4/BackupHandler/v3/internal/storage/storagetest"
)

// slow is a backend whose writers block until they are told to go on, or their
// context ends.
type slow struct {
	storage.Backend
	release <-chan struct{}
}

func (s slow) Create(ctx context.Context, name string) (storage.Writer, error) {
	w, err := s.Backend.Create(ctx, name)
	return slowWriter{w, ctx, s.release}, err
}

type slowWriter struct {
	storage.Writer
	ctx     context.Context
	release <-chan struct{}
}

func (w slowWriter) wait() error {
	select {
	case <-w.release:
		return nil
	case <-w.ctx.Done():
		return w.ctx.Err()
	}
}

func (w slowWriter) Write(p []byte) (int, error) {
	if err := w.wait(); err != nil {
		return 0, err
	}
	return w.Writer.Write(p)
}

func (w slowWriter) Commit() error {
	if err := w.wait(); err != nil {
		w.Abort()
		return err
	}
	return w.Writer.Commit()
}

// within fails the test if f takes longer than a second.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(time.Second):
		t.Fatalf("%s has not ended within a second", what)
	}
}

// Readers that fill blocks, and those blocked in Tail, end with an error when the
// run is aborted or cancelled, and no goroutine is left.
func TestAbortWithReaders(t *testing.T) {
	for _, how := range []string{"abort", "cancel", "abort at once"} {
		t.Run(how, func(t *testing.T) {
			leak := goleak.IgnoreCurrent()
			m := newStore(t)
			r, _ := openIn(t, m, "")
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			w, err := withBackend(r, slow{m, make(chan struct{})}).NewWriter(ctx, WriterOptions{Sealers: 2, Readers: 4})
			if err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			errs := make([]error, 8) // more than Readers: some wait in Tail for ever
			for i := range errs {
				wg.Go(func() {
					b := w.Batch(Kind(1 + i%2))
					for n := uint64(0); errs[i] == nil; n++ {
						errs[i] = addData(b, randomBytes(uint64(i)<<12+n, smallParams.Max))
					}
					if errs[i] == nil {
						errs[i] = b.Flush()
					}
				})
			}
			if how != "abort at once" {
				time.Sleep(50 * time.Millisecond)
			}
			if how == "cancel" {
				cancel()
			}
			within(t, "abort", func() {
				w.Abort()
				wg.Wait()
			})
			for _, err := range errs {
				wantIs(t, err, context.Canceled)
			}
			if err := w.Commit(NewID(), nil); err == nil {
				t.Error("a commit after it succeeded")
			}
			if got := objects(t, m, "packs"); len(got) != 0 {
				t.Errorf("packs %v", got)
			}
			r.Close()
			goleak.VerifyNone(t, leak)
		})
	}
}

func TestCancelDuringCommit(t *testing.T) {
	leak := goleak.IgnoreCurrent()
	m := newStore(t)
	r, _ := openIn(t, m, "")
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	within(t, "run", func() {
		_, _, err := backup(ctx, withBackend(r, slow{m, make(chan struct{})}), smallSource(1), WriterOptions{Sealers: 2, Readers: 2})
		wantIs(t, err, context.Canceled)
	})
	r.Close()
	goleak.VerifyNone(t, leak)
}

// The end of a run leaves nothing behind, whichever it is.
func TestNoGoroutinesLeft(t *testing.T) {
	ends := map[string]func(t *testing.T, w *Writer){
		"commit": func(t *testing.T, w *Writer) {
			if err := w.Commit(NewID(), []byte("[]")); err != nil {
				t.Error(err)
			}
			w.Abort()
		},
		"abort": func(_ *testing.T, w *Writer) { w.Abort(); w.Abort() },
		"flush, abort": func(t *testing.T, w *Writer) {
			if err := w.Flush(); err != nil {
				t.Error(err)
			}
			w.Abort()
			if w.ctx.Err() == nil {
				t.Error("the context is still alive")
			}
		},
		"flush twice, commit": func(t *testing.T, w *Writer) {
			if err := errors.Join(w.Flush(), w.Flush(), w.Commit(NewID(), []byte("[]"))); err != nil {
				t.Error(err)
			}
		},
		"commit twice": func(t *testing.T, w *Writer) {
			if err := w.Commit(NewID(), []byte("[]")); err != nil {
				t.Error(err)
			}
			if err := w.Commit(NewID(), []byte("[]")); err == nil {
				t.Error("the second one succeeded")
			}
		},
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			leak := goleak.IgnoreCurrent()
			r, _ := openIn(t, newStore(t), t.TempDir())
			w, err := r.NewWriter(t.Context(), WriterOptions{Sealers: 3, Readers: 3})
			if err != nil {
				t.Fatal(err)
			}
			if err := smallSource(1).write(w, 3); err != nil {
				t.Fatal(err)
			}
			end(t, w)
			// Nothing can be added any more.
			if err := addData(w.Batch(Data), []byte("late")); err == nil {
				b := w.Batch(Data)
				if err := addData(b, []byte("later")); err == nil && b.Flush() == nil {
					t.Error("a block was taken after the end")
				}
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
			goleak.VerifyNone(t, leak)
		})
	}
}

// A chunk that was taken on but never reached a pack is an error, not a snapshot
// without it.
func TestForgottenBatch(t *testing.T) {
	m := newStore(t)
	r, _ := openIn(t, m, "")
	w, err := r.NewWriter(t.Context(), WriterOptions{Readers: 2})
	if err != nil {
		t.Fatal(err)
	}
	if err := addData(w.Batch(Data), []byte("forgotten")); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(NewID(), []byte("[]")); err == nil {
		t.Error("committed")
	}
	if got := objects(t, m, "snapshots"); len(got) != 0 {
		t.Errorf("snapshots %v", got)
	}
}

// A copy that fails halfway leaves a writer that either still knows what it took
// on, or refuses to commit.
func TestCommitAfterFailedCopy(t *testing.T) {
	for _, sibling := range []bool{true, false} {
		t.Run(fmt.Sprintf("sibling=%t", sibling), func(t *testing.T) {
			m := newStore(t)
			src, _ := openIn(t, m, "")
			// Two blocks in the only metadata pack, the second damaged.
			var s source
			for i := range uint64(80) {
				s.meta = append(s.meta, randomBytes(i, smallParams.Max))
			}
			mustBackup(t, src, s)
			last, ok := src.Locate(hashOf(s.meta[79]))
			if !ok {
				t.Fatal("not stored")
			}
			to := storage.NewMemory()
			o := InitOptions{Params: chunk.Params{Min: 64, Avg: 256, Max: 512}}
			if sibling {
				o = InitOptions{Sibling: src}
			}
			initIn(t, to, o)
			flip(t, m, packName(last.Block.Pack), int(last.Block.Offset)+5)
			dst, _ := openIn(t, to, "")
			// With one chunk less, the first block does not fill one here.
			first, _ := mustBackup(t, dst, source{meta: s.meta[:1]})
			w, err := dst.NewWriter(t.Context(), WriterOptions{Readers: CopyBatches})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Abort()
			wantIs(t, w.Copy(t.Context(), src, hashes(s)), ErrCorrupt)
			// Take those that are said to be there into a snapshot.
			var rest source
			for _, c := range s.meta {
				if w.Has(hashOf(c)) {
					rest.meta = append(rest.meta, c)
				}
			}
			id := NewID()
			if err := w.Commit(id, rest.body()); err != nil {
				t.Fatal(err)
			}
			wantReadable(t, to, first, id)
		})
	}
}

// When the storage fails, the run fails, however many goroutines take part.
func TestFailedRunEnds(t *testing.T) {
	for n := range 6 {
		leak := goleak.IgnoreCurrent()
		m := newStore(t)
		r, _ := openIn(t, m, "")
		f := storagetest.At(m, n, storagetest.Fail)
		var s source
		for i := range uint64(300) {
			s.data = append(s.data, randomBytes(i, smallParams.Max))
		}
		within(t, "run", func() {
			_, _, err := backup(t.Context(), withBackend(r, f), s, WriterOptions{Sealers: 2, Readers: 3})
			wantIs(t, err, storagetest.ErrFault)
		})
		r.Close()
		goleak.VerifyNone(t, leak)
	}
}
