package repo

import (
	"errors"
	"fmt"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/storage"
	"github.com/SP1R4/BackupHandler/v3/internal/storage/storagetest"
)

var outcomes = map[string]storagetest.Outcome{
	"cut": storagetest.Cut, "lose and cut": storagetest.LoseCut, "fail": storagetest.Fail, "lose": storagetest.Lose,
}

// eachFault runs scenario once for each operation that changes something and each
// outcome, over a copy of start, and after(err, happened) on what is left in the
// store.
func eachFault(t *testing.T, start *storage.Memory, scenario func(b storage.Backend) error, after func(t *testing.T, left *storage.Memory, err error)) {
	t.Helper()
	clean := storagetest.NewFault(start.Clone(), func(storagetest.Op, int) storagetest.Outcome { return storagetest.Pass })
	if err := scenario(clean); err != nil {
		t.Fatal(err)
	}
	total := len(clean.Ops())
	if total < 10 {
		t.Fatalf("%d operations only", total)
	}
	step := 1
	if testing.Short() { // the same goroutines, a third as often
		step = 3
	}
	for name, outcome := range outcomes {
		for n := 0; n < total; n += step {
			t.Run(fmt.Sprintf("%s %d", name, n), func(t *testing.T) {
				left := start.Clone()
				f := storagetest.At(left, n, outcome)
				err := scenario(f)
				// The number of operations depends a little on the order of goroutines.
				happened := len(f.Ops()) > n
				if !happened && err != nil {
					t.Errorf("without a fault: %v", err)
				}
				if happened && err == nil && (outcome == storagetest.Cut || outcome == storagetest.LoseCut) {
					t.Errorf("%v was cut, and the run succeeded", f.Ops()[n])
				}
				after(t, left, err)
			})
		}
	}
}

// stored returns the IDs of all chunks in packs that are there.
func stored(t *testing.T, m *storage.Memory) map[ID]bool {
	t.Helper()
	r, _ := openIn(t, m, "")
	ids := make(map[ID]bool)
	for id, size := range packsOf(t, r) {
		table, err := r.readTable(t.Context(), id, size)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range table.blocks {
			for _, c := range b.chunks {
				if ids[c.id] {
					t.Errorf("chunk %s is stored twice", c.id.Short())
				}
				ids[c.id] = true
			}
		}
	}
	return ids
}

// wantContinued checks what a crash or fault has left: an older snapshot that is
// whole, and a repository in which the run can be repeated without storing
// anything twice.
func wantContinued(t *testing.T, left *storage.Memory, s source, runErr error, old, id ID) {
	t.Helper()
	r, report := openIn(t, left, "")
	if !report.OK() {
		t.Errorf("%+v", report)
	}
	ids, err := readAll(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	var wasOld, committed bool
	for _, got := range ids {
		switch got {
		case old:
			wasOld = true
		case id:
			committed = true
		default:
			t.Errorf("unknown snapshot %s", got)
		}
	}
	if !wasOld {
		t.Error("the older snapshot is lost")
	}
	if runErr == nil && !committed {
		t.Error("the run succeeded, and there is no snapshot")
	}
	wantClean(t, r)
	before := stored(t, left)

	again, stats := mustBackup(t, r, s)
	known := 0
	for _, c := range append(s.data[:len(s.data):len(s.data)], s.meta...) {
		if before[r.ChunkID(hashOf(c))] {
			known++
		}
	}
	if got := int(stats.ChunksKnown.Load()); got != known {
		t.Errorf("%d chunks were durable, %d were used", known, got)
	}
	stored(t, left) // none twice
	ids = append(ids, again)
	wantReadable(t, left, ids...)
	_, report = openIn(t, left, "")
	if report.Adopted != 0 {
		t.Errorf("%d packs are still without index", report.Adopted)
	}
}

func TestBackupFaults(t *testing.T) {
	start := newStore(t)
	r, _ := openIn(t, start, "")
	old, _ := mustBackup(t, r, smallSource(1))
	s := smallSource(2)
	s.data = append(s.data, smallSource(1).data[:3]...)
	id := NewID()
	run := func(b storage.Backend) error {
		r, _, err := tryOpen(t.Context(), b, "")
		if err != nil {
			return err
		}
		defer r.Close()
		w, err := r.NewWriter(t.Context(), WriterOptions{Sealers: 2, Readers: 3})
		if err != nil {
			return err
		}
		defer w.Abort()
		if err := s.write(w, 3); err != nil {
			return err
		}
		return w.Commit(id, s.body())
	}
	eachFault(t, start, run, func(t *testing.T, left *storage.Memory, err error) {
		wantContinued(t, left, s, err, old, id)
	})
}

// An earlier run was cut before its index: its packs are adopted, and the run that
// publishes them is cut, too.
func TestAdoptionFaults(t *testing.T) {
	start := newStore(t)
	r, _ := openIn(t, start, "")
	old, _ := mustBackup(t, r, smallSource(1))
	s := smallSource(2)
	half := source{data: s.data[:6], meta: s.meta[:2]}
	r, _ = openIn(t, start, "")
	w, err := r.NewWriter(t.Context(), WriterOptions{})
	must(t, err)
	must(t, half.write(w, 1))
	must(t, w.Flush())
	for _, name := range objects(t, start, "index") {
		replace(t, start, name, nil)
	}
	id := NewID()
	run := func(b storage.Backend) error {
		r, report, err := tryOpen(t.Context(), b, "")
		if err != nil {
			return err
		}
		defer r.Close()
		if report.Adopted == 0 {
			return errors.New("no pack was adopted")
		}
		w, err := r.NewWriter(t.Context(), WriterOptions{})
		if err != nil {
			return err
		}
		defer w.Abort()
		if err := s.write(w, 1); err != nil {
			return err
		}
		if n := int(w.Stats.ChunksKnown.Load()); n != 8 {
			return fmt.Errorf("%d chunks known", n)
		}
		return w.Commit(id, s.body())
	}
	eachFault(t, start, run, func(t *testing.T, left *storage.Memory, err error) {
		wantContinued(t, left, s, err, old, id)
	})
}

func TestCopyFaults(t *testing.T) {
	for _, sibling := range []bool{true, false} {
		t.Run(fmt.Sprintf("sibling=%t", sibling), func(t *testing.T) {
			from := newStore(t)
			src, _ := openIn(t, from, "")
			s := smallSource(2)
			id, _ := mustBackup(t, src, s)
			start := storage.NewMemory()
			o := InitOptions{}
			if sibling {
				o.Sibling = src
			}
			initIn(t, start, o)
			r, _ := openIn(t, start, "")
			old, _ := mustBackup(t, r, smallSource(1))
			run := func(b storage.Backend) error {
				dst, _, err := tryOpen(t.Context(), b, "")
				if err != nil {
					return err
				}
				defer dst.Close()
				return copySnapshot(t.Context(), dst, src, id, s)
			}
			eachFault(t, start, run, func(t *testing.T, left *storage.Memory, err error) {
				wantContinued(t, left, s, err, old, id)
			})
		})
	}
}

// Reads that fail make a run fail; they never make it take something for absent
// or present that is not.
func TestReadFaults(t *testing.T) {
	start := newStore(t)
	r, _ := openIn(t, start, "")
	s := smallSource(1)
	old, _ := mustBackup(t, r, s)
	condemn(t, r, ID{1})
	for _, name := range objects(t, start, "index") {
		replace(t, start, name, nil) // so that tables are read, too
	}
	for _, outcome := range []storagetest.Outcome{storagetest.Fail, storagetest.Lose, storagetest.Cut} {
		for n := 0; ; n++ {
			m := start.Clone()
			reads := 0
			f := storagetest.NewFault(m, func(op storagetest.Op, _ int) storagetest.Outcome {
				if op.Kind != storagetest.Get && op.Kind != storagetest.List {
					return storagetest.Pass
				}
				if reads++; reads == n+1 {
					return outcome
				}
				return storagetest.Pass
			}, storagetest.Get, storagetest.List)
			var stats *WriteStats
			r, _, err := tryOpen(t.Context(), f, "")
			if err == nil {
				_, stats, err = backup(t.Context(), r, s, WriterOptions{})
				r.Close()
			}
			if reads <= n {
				if n < 8 || err != nil {
					t.Fatalf("%d reads, %v", n, err)
				}
				break
			}
			if err == nil {
				t.Errorf("read %d, outcome %d: no error", n, outcome)
			} else if !errors.Is(err, storagetest.ErrFault) && !errors.Is(err, storagetest.ErrCut) {
				t.Errorf("read %d, outcome %d: %v", n, outcome, err)
			}
			if stats != nil && stats.ChunksAdded.Load() != 0 {
				t.Errorf("read %d: %d chunks were stored again", n, stats.ChunksAdded.Load())
			}
			r, _ = openIn(t, m, "")
			if got, err := readAll(t.Context(), r); err != nil || got[0] != old && got[len(got)-1] != old {
				t.Errorf("read %d: %v, %v", n, got, err)
			}
		}
	}
}
