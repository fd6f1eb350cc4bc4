package repo_test

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
)

// The benchmarks go through Writer and Reader as a run does, over a store in
// memory, with one sealer: what one processor compresses and seals, opens and
// decompresses. Hashes are made before.

const (
	benchChunk = 64 << 10
	benchBytes = 16 << 20 // of one iteration
)

// A benchData is content in chunks.
type benchData struct {
	chunks [][]byte
	hashes []repo.Hash
}

func newBenchData(content []byte) benchData {
	var d benchData
	for at := 0; at < len(content); at += benchChunk {
		c := content[at : at+benchChunk]
		d.chunks, d.hashes = append(d.chunks, c), append(d.hashes, sha256.Sum256(c))
	}
	return d
}

// benchText compresses about as well as source code: words, a few of them often.
func benchText(n int) []byte {
	zipf := rand.NewZipf(rand.New(rand.NewPCG(1, 2)), 1.3, 2, 2000)
	b := make([]byte, 0, n+16)
	for len(b) < n {
		b = append(strconv.AppendUint(b, 46_656+zipf.Uint64()*7919, 36), ' ')
	}
	return b[:n]
}

func benchNoise(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

func benchKey(b *testing.B) *seal.KeyFile {
	key, err := seal.NewKeyFile(make([]byte, 32))
	if err != nil {
		b.Fatal(err)
	}
	return key
}

// benchRepository is an empty one in memory, with the chunk sizes of a new one.
func benchRepository(b *testing.B) *repo.Repository {
	b.Helper()
	key, store := benchKey(b), storage.NewMemory()
	err := repo.Init(b.Context(), store, repo.InitOptions{
		Lockers: []seal.Locker{key}, Wrap: seal.WrapOptions{Created: time.Unix(1_700_000_000, 0)},
	})
	if err != nil {
		b.Fatal(err)
	}
	r, err := repo.Open(b.Context(), store, repo.Options{Credentials: []seal.Credential{key}})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := r.LoadIndex(b.Context()); err != nil {
		b.Fatal(err)
	}
	return r
}

func benchStore(b *testing.B, r *repo.Repository, d benchData, level repo.Compression) *repo.Writer {
	b.Helper()
	w, err := r.NewWriter(b.Context(), repo.WriterOptions{Compression: level, Sealers: 1, Readers: 1})
	if err != nil {
		b.Fatal(err)
	}
	batch := w.Batch(repo.Data)
	for i, c := range d.chunks {
		tail, err := batch.Tail()
		if err != nil {
			b.Fatal(err)
		}
		copy(tail, c)
		if _, err := batch.Add(len(c), 0, d.hashes[i]); err != nil {
			b.Fatal(err)
		}
	}
	if err := batch.Flush(); err != nil {
		b.Fatal(err)
	}
	if err := w.Commit(repo.NewID(), []byte("snapshot")); err != nil {
		b.Fatal(err)
	}
	return w
}

// BenchmarkWriter compresses, seals and packs. stored/raw is what remains.
func BenchmarkWriter(b *testing.B) {
	text, noise := newBenchData(benchText(benchBytes)), newBenchData(benchNoise(benchBytes))
	for _, bc := range []struct {
		name  string
		data  benchData
		level repo.Compression
	}{
		{"text", text, repo.Default},
		{"text", text, repo.Fastest},
		{"text", text, repo.Better},
		{"text", text, repo.NoCompression},
		{"noise", noise, repo.Default},
	} {
		b.Run(fmt.Sprintf("%s/%s", bc.name, bc.level), func(b *testing.B) {
			b.SetBytes(benchBytes)
			b.ReportAllocs()
			var stored int64
			for b.Loop() {
				b.StopTimer()
				r := benchRepository(b)
				b.StartTimer()
				stored = benchStore(b, r, bc.data, bc.level).Stats.BytesStored.Load()
				b.StopTimer()
				if err := r.Close(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
			b.ReportMetric(float64(stored)/benchBytes, "stored/raw")
		})
	}
}

// BenchmarkWriterKnown is a run in which every chunk is stored already.
func BenchmarkWriterKnown(b *testing.B) {
	r, d := benchRepository(b), newBenchData(benchText(benchBytes))
	defer r.Close()
	benchStore(b, r, d, repo.Default)
	w, err := r.NewWriter(b.Context(), repo.WriterOptions{Compression: repo.Default, Sealers: 1, Readers: 1})
	if err != nil {
		b.Fatal(err)
	}
	defer w.Abort()
	batch := w.Batch(repo.Data)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := batch.Tail(); err != nil {
			b.Fatal(err)
		}
		added, err := batch.Add(benchChunk, 0, d.hashes[i%len(d.hashes)])
		if err != nil || added {
			b.Fatalf("added %t, %v", added, err)
		}
	}
}

// BenchmarkReadBlock fetches, opens and decompresses every block.
func BenchmarkReadBlock(b *testing.B) {
	for _, bc := range []struct {
		name string
		data benchData
	}{
		{"text", newBenchData(benchText(benchBytes))},
		{"noise", newBenchData(benchNoise(benchBytes))},
	} {
		b.Run(bc.name, func(b *testing.B) {
			r := benchRepository(b)
			defer r.Close()
			benchStore(b, r, bc.data, repo.Default)
			type place struct {
				pack   repo.ID
				offset uint32
			}
			seen := map[place]bool{}
			var blocks []repo.Block
			for _, h := range bc.data.hashes {
				loc, ok := r.Locate(h)
				if !ok {
					b.Fatal("a chunk is not there")
				}
				if at := (place{loc.Block.Pack, loc.Block.Offset}); !seen[at] {
					seen[at] = true
					blocks = append(blocks, loc.Block)
				}
			}
			var buf []byte
			b.SetBytes(benchBytes)
			b.ReportAllocs()
			for b.Loop() {
				total := 0
				for i := range blocks {
					var err error
					if buf, err = r.ReadBlock(b.Context(), &blocks[i], buf); err != nil {
						b.Fatal(err)
					}
					total += len(buf)
				}
				if total != benchBytes {
					b.Fatalf("read %d bytes, want %d", total, benchBytes)
				}
			}
		})
	}
}

// BenchmarkLoad reads chunks one by one in the order in which they were stored,
// as a restore to a pipe does, and checks each against its hash.
func BenchmarkLoad(b *testing.B) {
	r, d := benchRepository(b), newBenchData(benchText(benchBytes))
	defer r.Close()
	benchStore(b, r, d, repo.Default)
	buf := make([]byte, benchChunk)
	b.SetBytes(benchBytes)
	b.ReportAllocs()
	for b.Loop() {
		for _, h := range d.hashes {
			if _, err := r.Load(b.Context(), h, benchChunk, buf); err != nil {
				b.Fatal(err)
			}
		}
	}
}
