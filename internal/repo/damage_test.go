package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/seal"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
	"github.com/SP1R4/BackupHandler/v3/internal/storage/storagetest"
)

// A damaged index object is reported each time, with the cache and without, and
// what its packs hold is read, verified and used all the same.
func TestDamagedIndexObject(t *testing.T) {
	for _, how := range []string{"before the cache", "behind the cache"} {
		t.Run(how, func(t *testing.T) {
			m, cache := newStore(t), t.TempDir()
			r, _ := openIn(t, m, "")
			s := smallSource(1)
			id, _ := mustBackup(t, r, s)
			name := objects(t, m, "index")[0]
			if how == "behind the cache" {
				r, _ = openIn(t, m, cache)
				r.Close()
			}
			flip(t, m, name, 60)
			for i := range 3 {
				r, report := openIn(t, m, cache)
				if how == "before the cache" && (report.OK() || len(report.DamagedIndex) != 1 || report.Adopted != report.Packs) {
					t.Errorf("open %d: %+v", i, report)
				}
				wantSnapshots(t, r, id)
				check, err := r.CheckData(t.Context(), CheckOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if check.Packs != report.Packs || check.Chunks != int64(len(s.data)+len(s.meta)) {
					t.Errorf("check %d read %d of %d packs, %d chunks", i, check.Packs, report.Packs, check.Chunks)
				}
				if len(check.Damaged) != 0 || len(check.Faults) != 1 || !strings.Contains(check.Faults[0], "index") {
					t.Errorf("check %d: %+v", i, check)
				}
				r.Close()
			}
			// A pack of it that is damaged is noticed, too.
			pack := packIDs(t, m)[0]
			flip(t, m, packName(pack), 20)
			r, _ = openIn(t, m, cache)
			check, err := r.CheckData(t.Context(), CheckOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if len(check.Damaged) == 0 || len(check.Faults) != 2 {
				t.Errorf("%+v", check)
			}
			r.Close()
			// The next backup publishes the tables again.
			replace(t, m, packName(pack), nil)
			r, _ = openIn(t, m, cache)
			again, _ := mustBackup(t, r, s)
			replace(t, m, name, nil)
			wantReadable(t, m, id, again)
		})
	}
}

// A damage changes or replaces one object of a store.
type damage struct {
	name string
	do   func(t *testing.T, m *storage.Memory, name string, foreign, sibling []byte)
}

func damages() []damage {
	at := func(where string, i func(n int) int) damage {
		return damage{"flip " + where, func(t *testing.T, m *storage.Memory, name string, _, _ []byte) {
			flip(t, m, name, i(len(getObject(t, m, name))))
		}}
	}
	cut := func(where string, to func(n int) int) damage {
		return damage{"cut " + where, func(t *testing.T, m *storage.Memory, name string, _, _ []byte) {
			data := getObject(t, m, name)
			replace(t, m, name, append([]byte{}, data[:to(len(data))]...))
		}}
	}
	return []damage{
		at("magic", func(int) int { return 1 }),
		at("nonce", func(int) int { return 9 }),
		at("body", func(int) int { return 70 }),
		at("end", func(n int) int { return n - 1 }),
		cut("one byte", func(n int) int { return n - 1 }),
		cut("to half", func(n int) int { return n / 2 }),
		cut("to nothing", func(int) int { return 0 }),
		{"grown", func(t *testing.T, m *storage.Memory, name string, _, _ []byte) {
			replace(t, m, name, append(bytes.Clone(getObject(t, m, name)), 0))
		}},
		{"removed", func(t *testing.T, m *storage.Memory, name string, _, _ []byte) { replace(t, m, name, nil) }},
		{"foreign", func(t *testing.T, m *storage.Memory, name string, foreign, _ []byte) { replace(t, m, name, foreign) }},
		{"sibling's", func(t *testing.T, m *storage.Memory, name string, _, sibling []byte) { replace(t, m, name, sibling) }},
	}
}

// Each kind of object, each damage: what docs/format.md §12 promises. No damage
// yields wrong data, hides another snapshot, or survives unnoticed; and a backup
// afterwards makes everything readable again, as far as it stores chunks again.
func TestDamage(t *testing.T) {
	one, two := smallSource(1), smallSource(2)
	m := newStore(t)
	r, _ := openIn(t, m, "")
	idOne, _ := mustBackup(t, r, one)
	packsOne := objects(t, m, "packs")
	indexOne, snapshotOne := objects(t, m, "index")[0], objects(t, m, "snapshots")[0]
	r, _ = openIn(t, m, "")
	idTwo, _ := mustBackup(t, r, two)

	other := newStore(t)
	ro, _ := openIn(t, other, "")
	mustBackup(t, ro, one)
	sibling := storage.NewMemory()
	initIn(t, sibling, InitOptions{Sibling: r})
	rs, _ := openIn(t, sibling, "")
	mustBackup(t, rs, one)

	kinds := map[string]string{"index": indexOne, "snapshots": snapshotOne}
	for _, name := range packsOne {
		id, _ := parseName("packs", name)
		table, err := r.readTable(t.Context(), id, int64(len(getObject(t, m, name))))
		must(t, err)
		kinds[fmt.Sprintf("packs, kind %d", table.kind)] = name
	}
	if len(kinds) != 4 {
		t.Fatalf("kinds %v", kinds)
	}
	for kind, name := range kinds {
		for _, d := range damages() {
			t.Run(kind+"/"+d.name, func(t *testing.T) {
				m := m.Clone()
				dir, _, _ := strings.Cut(name, "/")
				d.do(t, m, name, getObject(t, other, objects(t, other, dir)[0]), getObject(t, sibling, objects(t, sibling, dir)[0]))
				r, report, err := tryOpen(t.Context(), m, "")
				must(t, err)
				defer r.Close()

				snapshots, err := r.Snapshots(t.Context())
				must(t, err)
				readable := make(map[ID]bool)
				for _, s := range snapshots {
					if s.Err != nil {
						wantIs(t, s.Err, ErrCorrupt)
						continue
					}
					readable[s.ID] = true
					src := one
					if s.ID == idTwo {
						src = two
					}
					if !bytes.Equal(s.Body, src.body()) {
						t.Errorf("snapshot %s has another body", s.ID)
					}
				}
				if wantOne := dir != "snapshots"; !readable[idTwo] || readable[idOne] != wantOne {
					t.Errorf("readable snapshots: %v", readable)
				}
				lost := 0
				var buf []byte
				for i, src := range []source{one, two} {
					for _, c := range append(src.data[:len(src.data):len(src.data)], src.meta...) {
						buf, err = r.Load(t.Context(), hashOf(c), uint32(len(c)), buf)
						switch {
						case err == nil && bytes.Equal(buf, c):
						case err == nil:
							t.Error("wrong data")
						case i == 1:
							t.Errorf("a chunk of the other snapshot: %v", err)
						case errors.Is(err, ErrMissing), errors.Is(err, ErrCorrupt):
							lost++
						default:
							t.Error(err)
						}
					}
				}
				check, err := r.CheckData(t.Context(), CheckOptions{Workers: 2})
				must(t, err)
				noticed := !report.OK() || len(check.Faults) > 0 || len(readable) < len(snapshots)
				switch {
				case dir != "packs":
					if lost > 0 {
						t.Errorf("%d chunks are lost", lost)
					}
				case strings.HasPrefix(d.name, "flip"):
					// The index still has the table: only a flipped block loses anything.
					if wantLost := d.name == "flip nonce" || d.name == "flip body"; lost > 0 != wantLost || len(check.Damaged) != lost {
						t.Errorf("%d chunks are lost, %d damaged", lost, len(check.Damaged))
					}
				default:
					if lost == 0 {
						t.Error("nothing is lost with the pack")
					}
				}
				if removed := d.name == "removed" && dir != "packs"; noticed == removed {
					t.Errorf("noticed: %t; %+v, %+v", noticed, report, check)
				}

				// What is missing, and what this process could not read, is stored
				// again by the next backup; other copies then serve.
				again, stats, err := backup(t.Context(), r, one, WriterOptions{})
				must(t, err)
				if dir != "packs" {
					lost = 0
				}
				if int(stats.ChunksAdded.Load()) != lost {
					t.Errorf("%d chunks stored again, want %d", stats.ChunksAdded.Load(), lost)
				}
				if dir == "packs" {
					r, _ := openIn(t, m, "")
					wantSnapshots(t, r, idOne, idTwo, again)
				}
				// Opening notices by its size that a pack is another one.
				sized := len(report.MissingPacks)+len(report.ResizedPacks) > 0
				if dir == "packs" && !sized && (d.name == "removed" || strings.HasPrefix(d.name, "cut")) {
					t.Error("opening has not noticed it")
				}
			})
		}
	}
}

// Two packs, index objects or snapshots under each other's names are noticed.
func TestSwapped(t *testing.T) {
	for _, dir := range []string{"packs", "index", "snapshots"} {
		m := newStore(t)
		r, _ := openIn(t, m, "")
		mustBackup(t, r, source{data: smallSource(1).data})
		r, _ = openIn(t, m, "")
		mustBackup(t, r, source{data: smallSource(3).data})
		names := objects(t, m, dir)
		if len(names) != 2 {
			t.Fatalf("%s: %v", dir, names)
		}
		a, b := getObject(t, m, names[0]), getObject(t, m, names[1])
		replace(t, m, names[0], b)
		replace(t, m, names[1], a)
		r, report := openIn(t, m, "")
		check, err := r.CheckData(t.Context(), CheckOptions{})
		must(t, err)
		snapshots, err := r.Snapshots(t.Context())
		must(t, err)
		bad := 0
		for _, s := range snapshots {
			if s.Err != nil {
				bad++
			}
		}
		if dir == "snapshots" && bad != 2 || dir == "index" && len(report.DamagedIndex) != 2 || dir == "packs" && len(check.Faults) == 0 && report.OK() {
			t.Errorf("%s: %d snapshots damaged, %+v, %+v", dir, bad, report, check)
		}
		if dir == "index" {
			wantSnapshots(t, r, snapshots[0].ID, snapshots[1].ID)
		}
	}
}

// Two blocks of one pack that have changed places are noticed, though each is
// authentic.
func TestSwappedBlocks(t *testing.T) {
	m := newStore(t)
	r, _ := openIn(t, m, "")
	// Blocks of the same size, in the only metadata pack.
	var s source
	for i := range uint64(2 * BlockBytes / smallParams.Max) {
		s.meta = append(s.meta, randomBytes(i, smallParams.Max))
	}
	id, _, err := backup(t.Context(), r, s, WriterOptions{Compression: NoCompression})
	must(t, err)
	first, _ := r.Locate(hashOf(s.meta[0]))
	last, _ := r.Locate(hashOf(s.meta[len(s.meta)-1]))
	if first.Block.Pack != last.Block.Pack || first.Block.Stored != last.Block.Stored || first.Block.Offset == last.Block.Offset {
		t.Fatalf("%+v, %+v", first.Block, last.Block)
	}
	name := packName(first.Block.Pack)
	data := bytes.Clone(getObject(t, m, name))
	a := data[first.Block.Offset:][:first.Block.Stored]
	b := data[last.Block.Offset:][:last.Block.Stored]
	for i := range a {
		a[i], b[i] = b[i], a[i]
	}
	replace(t, m, name, data)
	r, _ = openIn(t, m, "")
	_, err = readAll(t.Context(), r)
	wantIs(t, err, ErrCorrupt)
	check, err := r.CheckData(t.Context(), CheckOptions{})
	must(t, err)
	if len(check.Damaged) != len(s.meta) {
		t.Errorf("%d chunks damaged", len(check.Damaged))
	}
	if snapshots, err := r.Snapshots(t.Context()); err != nil || len(snapshots) != 1 || snapshots[0].ID != id {
		t.Errorf("%+v, %v", snapshots, err)
	}
}

// A pack whose table is damaged and that no index object mentions is named, its
// chunks are stored again.
func TestDamagedOrphan(t *testing.T) {
	m := newStore(t)
	r, _ := openIn(t, m, "")
	s := smallSource(1)
	id, _ := mustBackup(t, r, s)
	for _, name := range objects(t, m, "index") {
		replace(t, m, name, nil)
	}
	names := objects(t, m, "packs")
	flip(t, m, names[0], len(getObject(t, m, names[0]))-1)
	r, report := openIn(t, m, "")
	if report.OK() || len(report.DamagedPacks) != 1 || report.Adopted != 1 {
		t.Errorf("%+v", report)
	}
	check, err := r.CheckData(t.Context(), CheckOptions{})
	must(t, err)
	if len(check.Faults) != 1 {
		t.Errorf("%+v", check)
	}
	again, stats := mustBackup(t, r, s)
	if stats.ChunksAdded.Load() == 0 || stats.ChunksKnown.Load() == 0 {
		t.Errorf("%d added, %d known", stats.ChunksAdded.Load(), stats.ChunksKnown.Load())
	}
	r, _ = openIn(t, m, "")
	wantSnapshots(t, r, id, again)
}

// Damage of the source is not copied: the copy fails, and names it. A damaged
// table alone does no harm, as the index has it.
func TestCopyOfDamaged(t *testing.T) {
	for _, withSibling := range []bool{true, false} {
		for _, part := range []string{"block", "table"} {
			t.Run(fmt.Sprintf("%s/sibling=%t", part, withSibling), func(t *testing.T) {
				m := newStore(t)
				src, _ := openIn(t, m, "")
				s := smallSource(1)
				id, _ := mustBackup(t, src, s)
				for _, name := range objects(t, m, "packs") {
					at := 30
					if part == "table" {
						at = len(getObject(t, m, name)) - 60
					}
					flip(t, m, name, at)
				}
				to := storage.NewMemory()
				o := InitOptions{}
				if withSibling {
					o.Sibling = src
				}
				initIn(t, to, o)
				dst, _ := openIn(t, to, "")
				err := copySnapshot(t.Context(), dst, src, id, s)
				if part == "table" {
					must(t, err)
					wantReadable(t, to, id)
					return
				}
				wantIs(t, err, ErrCorrupt)
				wantReadable(t, to)
			})
		}
	}
}

// Objects of a later version are refused as such.
func TestNewerObjects(t *testing.T) {
	for _, dir := range []string{"index", "snapshots"} {
		m := newStore(t)
		r, _ := openIn(t, m, "")
		mustBackup(t, r, smallSource(1))
		name := objects(t, m, dir)[0]
		data := bytes.Clone(getObject(t, m, name))
		data[4] = 2
		replace(t, m, name, data)
		r, _, err := tryOpen(t.Context(), m, "")
		if dir == "snapshots" {
			must(t, err)
			snapshots, err2 := r.Snapshots(t.Context())
			must(t, err2)
			err = snapshots[0].Err
			r.Close()
		}
		if _, ok := errors.AsType[*seal.NewerVersionError](err); !ok {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

// Objects that are none of ours are named and left alone.
func TestUnknownObjects(t *testing.T) {
	m := newStore(t)
	names := []string{"packs/xx", "packs/00/" + strings.Repeat("1", 32), "index/readme", "parity/x", "sessions/y"}
	for _, name := range names {
		storagetest.Put(t, m, name, []byte("x"))
	}
	r, report := openIn(t, m, "")
	if !report.OK() || !slices.Equal(slices.Sorted(slices.Values(report.Unknown)), []string{"index/readme", names[1], "packs/xx"}) {
		t.Errorf("%+v", report)
	}
	id, _ := mustBackup(t, r, smallSource(1))
	wantReadable(t, m, id)
	for _, name := range names {
		getObject(t, m, name)
	}
}

// A check reads what it is asked to.
func TestCheckSelect(t *testing.T) {
	m := newStore(t)
	r, _ := openIn(t, m, "")
	mustBackup(t, r, smallSource(1))
	want := packIDs(t, m)[1]
	var bytes atomic.Int64
	check, err := r.CheckData(t.Context(), CheckOptions{
		Select: func(id ID) bool { return id == want }, Progress: func(n int64) { bytes.Add(n) },
	})
	must(t, err)
	if check.Packs != 1 || check.Blocks == 0 || bytes.Load() == 0 {
		t.Errorf("%+v, %d bytes", check, bytes.Load())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = r.CheckData(ctx, CheckOptions{})
	wantIs(t, err, context.Canceled)
}

// Repair data is asked for where something is damaged, not where the store fails: whoever
// waits for a server waits once.
func TestOpenAsksOnce(t *testing.T) {
	m := newStore(t)
	var asked []string
	failing := storagetest.NewFault(m, func(op storagetest.Op, _ int) storagetest.Outcome {
		asked = append(asked, op.Name)
		if op.Name == configName {
			return storagetest.Fail
		}
		return storagetest.Pass
	}, storagetest.Get)
	_, _, err := tryOpen(t.Context(), failing, "")
	wantIs(t, err, storagetest.ErrFault)
	if slices.ContainsFunc(asked, func(name string) bool { return strings.HasPrefix(name, "parity") }) {
		t.Errorf("asked for %q", asked)
	}
}
