package repo

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/seal"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
	"github.com/SP1R4/BackupHandler/v3/internal/storage/storagetest"
)

// A list that cannot be read now is an error, never an empty list.
func TestCondemnedReadError(t *testing.T) {
	m := newStore(t)
	r, _ := openIn(t, m, "")
	s := smallSource(1)
	mustBackup(t, r, s)
	condemn(t, r, packIDs(t, m)...)

	failing := storagetest.NewFault(m, func(op storagetest.Op, _ int) storagetest.Outcome {
		if strings.HasPrefix(op.Name, "condemned/") {
			return storagetest.Fail
		}
		return storagetest.Pass
	}, storagetest.Get)
	_, _, err := tryOpen(t.Context(), failing, "")
	wantIs(t, err, storagetest.ErrFault)

	// The same for the last look before a snapshot.
	id, _, err := backup(t.Context(), withBackend(r, failing), s, WriterOptions{})
	wantIs(t, err, storagetest.ErrFault)
	if got := objects(t, m, "snapshots"); len(got) != 1 || got[0] == objectName(kindSnapshot, id) {
		t.Errorf("snapshots %v", got)
	}

	// And for a list of a later version.
	name := objects(t, m, "condemned")[0]
	data := getObject(t, m, name)
	data[4] = 2
	replace(t, m, name, data)
	_, _, err = tryOpen(t.Context(), m, "")
	if _, ok := errors.AsType[*seal.NewerVersionError](err); !ok {
		t.Errorf("a list of version 2: %v", err)
	}
}

// Chunks in condemned packs can be read, and are stored again.
func TestCondemnedIsAbsent(t *testing.T) {
	m := newStore(t)
	r, _ := openIn(t, m, "")
	s := smallSource(1)
	first, stats := mustBackup(t, r, s)
	old := packIDs(t, m)
	condemn(t, r, old...)
	for _, cache := range []string{"", t.TempDir()} {
		r, report := openIn(t, m, cache)
		if !report.OK() {
			t.Errorf("%+v", report)
		}
		wantSnapshots(t, r, first)
	}
	r, _ = openIn(t, m, "")
	second, again := mustBackup(t, r, s)
	if again.ChunksAdded.Load() != stats.ChunksAdded.Load() || again.ChunksKnown.Load() != 0 {
		t.Errorf("%d of %d chunks stored again", again.ChunksAdded.Load(), stats.ChunksAdded.Load())
	}
	// The pruner deletes the packs, and crashes before it publishes a new index.
	for _, id := range old {
		replace(t, m, packName(id), nil)
	}
	r, report := openIn(t, m, "")
	if !report.OK() {
		t.Errorf("condemned packs that are gone are reported: %+v", report)
	}
	wantSnapshots(t, r, first, second)
}

// A list that is published during a run keeps it from committing, whether its
// packs are older or the run's own.
func TestCondemnedDuringRun(t *testing.T) {
	s, more := smallSource(1), smallSource(2)
	tests := []struct {
		name   string
		before source
		run    source
		pick   func(old, all []ID) []ID
		raced  bool
	}{
		{"relied", s, s, func(old, _ []ID) []ID { return old }, true},
		{"not relied", s, more, func(old, _ []ID) []ID { return old }, false},
		{"own", source{}, more, func(_, all []ID) []ID { return all[:1] }, true},
		{"of nobody", s, s, func(_, _ []ID) []ID { return []ID{{1}} }, false},
	}
	for _, tt := range tests {
		for _, gone := range []bool{false, true} {
			t.Run(tt.name, func(t *testing.T) {
				m := newStore(t)
				r, _ := openIn(t, m, "")
				first, _ := mustBackup(t, r, tt.before)
				old := packIDs(t, m)
				r, _ = openIn(t, m, "")
				w, err := r.NewWriter(t.Context(), WriterOptions{})
				if err != nil {
					t.Fatal(err)
				}
				defer w.Abort()
				if err := tt.run.write(w, 1); err != nil {
					t.Fatal(err)
				}
				if err := w.Flush(); err != nil {
					t.Fatal(err)
				}
				other, _ := openIn(t, m, "")
				list := tt.pick(old, packIDs(t, m))
				if !gone {
					condemn(t, other, list...)
				} else if tt.raced { // a whole prune has taken place
					for _, id := range list {
						replace(t, m, packName(id), nil)
					}
				}
				id := NewID()
				err = w.Commit(id, tt.run.body())
				if !tt.raced {
					if err != nil {
						t.Fatal(err)
					}
					wantReadable(t, m, first, id)
					return
				}
				wantIs(t, err, ErrRaced)
				if got := objects(t, m, "snapshots"); len(got) != 1 {
					t.Errorf("snapshots %v", got)
				}
				// The run is repeated, and stores what is missing.
				r, _ = openIn(t, m, "")
				second, _ := mustBackup(t, r, tt.run)
				for _, id := range list {
					if !gone {
						replace(t, m, packName(id), nil)
					}
				}
				r, _ = openIn(t, m, "")
				wantSnapshots(t, r, first, second)
			})
		}
	}
}

// forgetful is a store whose listings miss what was created lately.
type forgetful struct {
	storage.Backend
	hide string
}

func (f forgetful) List(ctx context.Context, dir string, fn func(storage.Info) error) error {
	return f.Backend.List(ctx, dir, func(info storage.Info) error {
		if strings.HasPrefix(info.Name, f.hide) {
			return nil
		}
		return fn(info)
	})
}

// A pack that a listing misses is there all the same.
func TestCommitWithLateListing(t *testing.T) {
	m := newStore(t)
	r, _ := openIn(t, m, "")
	s := smallSource(1)
	first, _ := mustBackup(t, r, s)
	r, _ = openIn(t, m, "")
	second, _, err := backup(t.Context(), withBackend(r, forgetful{m, "packs/"}), s, WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	wantReadable(t, m, first, second)
}

// A damaged list is reported, and does not stop backups: no pruner can act on it.
func TestCondemnedDamaged(t *testing.T) {
	m := newStore(t)
	r, _ := openIn(t, m, "")
	s := smallSource(1)
	first, _ := mustBackup(t, r, s)
	list := condemn(t, r, packIDs(t, m)...)
	flip(t, m, objectName(kindCondemned, list), 50)
	r, report := openIn(t, m, "")
	if report.OK() || len(report.CondemnedList) != 1 || report.CondemnedList[0] != list {
		t.Errorf("%+v", report)
	}
	second, stats := mustBackup(t, r, s)
	if stats.ChunksAdded.Load() != 0 {
		t.Error("chunks were stored again")
	}
	wantSnapshots(t, r, first, second)
}
