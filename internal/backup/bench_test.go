package backup_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/backup"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/seal"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

const (
	benchSmall      = 2000
	benchDirs       = 100
	benchLargeBytes = 12 << 20 // each of two
)

// benchSource has many small files of words, one large file of words and one of
// noise. It returns how many bytes they have.
func benchSource(b *testing.B) (*source, int64) {
	s := newSource(b)
	rnd := rand.New(rand.NewPCG(1, 2))
	zipf := rand.NewZipf(rnd, 1.3, 2, 2000)
	words := func(n int) []byte {
		out := make([]byte, 0, n+16)
		for len(out) < n {
			out = append(strconv.AppendUint(out, 46_656+zipf.Uint64()*7919, 36), ' ')
		}
		return out[:n]
	}
	var total int64
	for i := range benchSmall {
		n := int(min(100<<10, 4000+6000*rnd.ExpFloat64()))
		s.file(fmt.Sprintf("/src/dir-%02d/file-%04d", i%benchDirs, i), words(n))
		total += int64(n)
	}
	s.file("/src/words", words(benchLargeBytes))
	s.file("/src/noise", random(1, benchLargeBytes))
	return s, total + 2*benchLargeBytes
}

// benchStore is an empty repository with the chunk sizes of a new one.
func benchStore(b *testing.B) *storage.Memory {
	m := storage.NewMemory()
	err := repo.Init(b.Context(), m, repo.InitOptions{
		Lockers: []seal.Locker{seal.None{}}, Wrap: seal.WrapOptions{Created: time.Unix(1_700_000_000, 0)},
	})
	if err != nil {
		b.Fatal(err)
	}
	return m
}

// BenchmarkRun is everything between a source and a store, both in memory: walk,
// read, split, hash, look up, compress, seal, pack, commit. BenchmarkRun/unchanged
// reads nothing and finds that out.
func BenchmarkRun(b *testing.B) {
	s, total := benchSource(b)
	run := func(b *testing.B, r *repo.Repository, parent *tree.Snapshot) *tree.Snapshot {
		b.Helper()
		o := options(s.roots("/src"))
		o.Parent, o.Write = parent, repo.WriterOptions{Compression: repo.Default, Sealers: 2}
		snap, err := backup.Run(context.Background(), r, tree.Snapshot{Time: time.Now(), Host: "h", Mode: tree.Full}, o)
		if err != nil || snap.Counts.Problems != 0 {
			b.Fatal(err, snap)
		}
		return snap
	}
	b.Run("first", func(b *testing.B) {
		b.SetBytes(total)
		b.ReportAllocs()
		for b.Loop() {
			b.StopTimer()
			r := open(b, benchStore(b))
			b.StartTimer()
			snap := run(b, r, nil)
			b.StopTimer()
			if snap.Counts.New != benchSmall+2 {
				b.Fatalf("%d new files, want %d", snap.Counts.New, benchSmall+2)
			}
			if err := r.Close(); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	})
	// As the first one, but for a parent that had none of the files: each is looked at
	// for package guard.
	b.Run("new", func(b *testing.B) {
		b.SetBytes(total)
		empty := newSource(b)
		empty.file("/src/other", []byte("x"))
		for b.Loop() {
			b.StopTimer()
			r := open(b, benchStore(b))
			o := options(empty.roots("/src"))
			o.Write = repo.WriterOptions{Compression: repo.Default, Sealers: 2}
			parent, err := backup.Run(context.Background(), r, tree.Snapshot{Time: time.Now(), Host: "h", Mode: tree.Full}, o)
			if err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
			snap := run(b, r, parent)
			b.StopTimer()
			if snap.Drift == nil || snap.Drift.Noise != 1 || snap.Counts.New != benchSmall+2 {
				b.Fatalf("%+v", snap.Drift)
			}
			if err := r.Close(); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	})
	b.Run("unchanged", func(b *testing.B) {
		full := benchStore(b)
		r := open(b, full)
		parent := run(b, r, nil)
		full = full.Clone() // Close ends the original
		if err := r.Close(); err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			b.StopTimer()
			r := open(b, full.Clone())
			b.StartTimer()
			snap := run(b, r, parent)
			b.StopTimer()
			if snap.Counts.Unmodified != benchSmall+2 {
				b.Fatalf("%d unmodified files, want %d", snap.Counts.Unmodified, benchSmall+2)
			}
			if err := r.Close(); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/benchSmall, "ns/file")
	})
}
