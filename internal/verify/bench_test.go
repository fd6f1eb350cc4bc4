package verify_test

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/seal"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
	"github.com/SP1R4/BackupHandler/v3/internal/verify"
)

const (
	benchFiles     = 2000
	benchFileBytes = 16 << 10
)

// benchRepository holds one snapshot of one directory: files of words, each of
// one chunk.
func benchRepository(b *testing.B) *repo.Repository {
	b.Helper()
	store := storage.NewMemory()
	err := repo.Init(b.Context(), store, repo.InitOptions{
		Lockers: []seal.Locker{seal.None{}}, Wrap: seal.WrapOptions{Created: time.Unix(1_700_000_000, 0)},
	})
	if err != nil {
		b.Fatal(err)
	}
	r, err := repo.Open(b.Context(), store, repo.Options{Credentials: []seal.Credential{seal.None{}}})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := r.LoadIndex(b.Context()); err != nil {
		b.Fatal(err)
	}
	w, err := r.NewWriter(b.Context(), repo.WriterOptions{Compression: repo.Default, Sealers: 2, Readers: 1})
	if err != nil {
		b.Fatal(err)
	}
	zipf := rand.NewZipf(rand.New(rand.NewPCG(1, 2)), 1.3, 2, 2000)
	batch := w.Batch(repo.Data)
	snap := &tree.Snapshot{ID: repo.NewID(), Time: time.Unix(1_700_000_000, 0), Host: "h", Sources: []tree.Path{"/"}}
	pages := tree.PageWriter{Page: func(page []byte) error {
		hash, err := w.AddMetadata(page)
		snap.Root = append(snap.Root, tree.Chunk{Hash: hash, Size: uint32(len(page))})
		return err
	}}
	for i := range benchFiles {
		tail, err := batch.Tail()
		if err != nil {
			b.Fatal(err)
		}
		content := tail[:0]
		for len(content) < benchFileBytes {
			content = append(strconv.AppendUint(content, 46_656+zipf.Uint64()*7919, 36), ' ')
		}
		c := tree.Chunk{Hash: sha256.Sum256(content[:benchFileBytes]), Size: benchFileBytes}
		if added, err := batch.Add(benchFileBytes, 0, c.Hash); err != nil || !added {
			b.Fatal(added, err)
		}
		n := &tree.Node{Name: fmt.Sprintf("file-%06d", i), Type: tree.File, Mode: 0o644, Links: 1, Size: int64(c.Size), Content: []tree.Chunk{c}}
		if err := pages.Add(n); err != nil {
			b.Fatal(err)
		}
	}
	if err := batch.Flush(); err != nil {
		b.Fatal(err)
	}
	if err := pages.Flush(); err != nil {
		b.Fatal(err)
	}
	body, err := tree.EncodeSnapshot(snap)
	if err != nil {
		b.Fatal(err)
	}
	if err := w.Commit(snap.ID, body); err != nil {
		b.Fatal(err)
	}
	return r
}

// BenchmarkRun checks a repository in memory: its structure only, and every byte.
func BenchmarkRun(b *testing.B) {
	r := benchRepository(b)
	defer r.Close()
	check := func(b *testing.B, o verify.Options) {
		b.Helper()
		report, err := verify.Run(b.Context(), r, o)
		if err != nil || !report.OK() || report.Files != benchFiles {
			b.Fatalf("%+v, %v", report, err)
		}
	}
	b.Run("structure", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			check(b, verify.Options{Workers: 2})
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/benchFiles, "ns/file")
	})
	b.Run("data", func(b *testing.B) {
		b.SetBytes(benchFiles * benchFileBytes)
		b.ReportAllocs()
		for b.Loop() {
			check(b, verify.Options{Workers: 2, ReadData: true})
		}
	})
}
