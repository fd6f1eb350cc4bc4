package repo

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

// atSnapshot does something when a snapshot is about to be stored.
type atSnapshot struct {
	storage.Backend
	do func(ctx context.Context) error
}

func (b atSnapshot) Create(ctx context.Context, name string) (storage.Writer, error) {
	w, err := b.Backend.Create(ctx, name)
	if err == nil && strings.HasPrefix(name, "snapshots/") {
		w = stopped{w, func() error { return b.do(ctx) }}
	}
	return w, err
}

type stopped struct {
	storage.Writer
	do func() error
}

func (w stopped) Commit() error {
	if err := w.do(); err != nil {
		w.Abort()
		return err
	}
	return w.Writer.Commit()
}

// TestCommitFinished: a snapshot that is being stored when its run is ended is stored, and
// the run knows; but nobody waits for ever.
func TestCommitFinished(t *testing.T) {
	commit := func(t *testing.T, do func(ctx context.Context, end func()) error) (stored int, err error) {
		m := newStore(t)
		r, _ := openIn(t, m, "")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		r = withBackend(r, atSnapshot{m, func(ctx context.Context) error { return do(ctx, cancel) }})
		id, _, err := backup(ctx, r, smallSource(1), WriterOptions{})
		if err == nil {
			wantReadable(t, m, id)
		}
		return len(objects(t, m, "snapshots")), err
	}
	n, err := commit(t, func(ctx context.Context, end func()) error {
		end()
		return ctx.Err()
	})
	if n != 1 || err != nil {
		t.Errorf("ended while it was being stored: %d snapshots, %v", n, err)
	}
	synctest.Test(t, func(t *testing.T) {
		n, err := commit(t, func(ctx context.Context, end func()) error {
			end()
			<-ctx.Done() // the server does not answer
			return ctx.Err()
		})
		if n != 0 || !errors.Is(err, context.Canceled) {
			t.Errorf("ended, and the server hangs: %d snapshots, %v", n, err)
		}
	})
}
