package repo

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

// watched is a backend that tells of each read of a pack, before and after.
type watched struct {
	storage.Backend
	before func()
	after  func(n int)
}

func (w watched) Get(ctx context.Context, name string, off, length int64) (io.ReadCloser, error) {
	rc, err := w.Backend.Get(ctx, name, off, length)
	if err == nil && strings.HasPrefix(name, "packs/") {
		rc = watchedReader{rc, w}
	}
	return rc, err
}

type watchedReader struct {
	io.ReadCloser
	w watched
}

func (r watchedReader) Read(p []byte) (int, error) {
	r.w.before()
	n, err := r.ReadCloser.Read(p)
	r.w.after(n)
	return n, err
}

// manyBlocks is a repository with mib blocks of about 1 MiB, and how long they are
// together.
func manyBlocks(t *testing.T, mib uint64) (m *storage.Memory, blocks int, bytes int64) {
	m = newStore(t)
	r, _ := openIn(t, m, "")
	s := source{}
	for i := range 64 * mib {
		s.data = append(s.data, randomBytes(i, 16<<10))
	}
	mustBackup(t, r, s)
	for _, id := range packIDs(t, m) {
		bytes += int64(len(getObject(t, m, packName(id))))
	}
	r, _ = openIn(t, m, "")
	rep := wantClean(t, r)
	return m, int(rep.Blocks), bytes
}

// TestCheckCancel cancels a check before each read of a pack.
func TestCheckCancel(t *testing.T) {
	m, blocks, _ := manyBlocks(t, 4)
	r, _ := openIn(t, m, "")
	for after := int64(1); ; after++ {
		ctx, cancel := context.WithCancel(t.Context())
		var reads atomic.Int64
		r = withBackend(r, watched{m, func() {
			if reads.Add(1) == after {
				cancel()
			}
		}, func(int) {}})
		rep, err := r.CheckData(ctx, CheckOptions{Workers: 2})
		cancel()
		if err == nil {
			if int(rep.Blocks) != blocks || len(rep.Faults) > 0 || after < 3 {
				t.Errorf("after %d reads: %+v", after, rep)
			}
			return
		}
		if !errors.Is(err, context.Canceled) || rep != nil {
			t.Fatalf("after %d reads: %v, %v", after, rep, err)
		}
	}
}

// TestCheckBound has those who open blocks stand still: reading waits for them.
func TestCheckBound(t *testing.T) {
	m, blocks, bytes := manyBlocks(t, 10)
	synctest.Test(t, func(t *testing.T) {
		r, _ := openIn(t, m, "")
		var read atomic.Int64
		r = withBackend(r, watched{m, func() {}, func(n int) { read.Add(int64(n)) }})
		goOn := make(chan struct{})
		done := make(chan struct{})
		const workers = 2
		go func() {
			defer close(done)
			rep, err := r.CheckData(context.Background(), CheckOptions{Workers: workers, Progress: func(int64) { <-goOn }})
			if err != nil || int(rep.Blocks) != blocks || len(rep.Faults) > 0 {
				t.Errorf("%+v, %v", rep, err)
			}
		}()
		synctest.Wait()
		// A block in the hands of each opener, one of each reader, and as much in
		// its buffer as that takes at most.
		const most = workers * 3 * (BlockBytes + tagBytes)
		if n := read.Load(); n == 0 || n > most || n >= bytes {
			t.Errorf("%d of %d bytes were read, want at most %d", n, bytes, most)
		}
		close(goOn)
		<-done
	})
}
