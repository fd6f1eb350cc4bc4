package repo

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/seal"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

// The index at its full size. A simulation stands for a store of incompressible
// chunks of 512 KiB: 64 chunks in a pack of 32 MiB, 5 in two blocks, 8 packs in an
// index object. That is the largest number of packs that so many chunks have, and
// what is kept in memory is by the pack. Its listing, its index objects and the
// file of the cache come from generators, so that what is measured is the index.
//
//	BENCH_CHUNKS=100000000 go test -run '^$' -bench IndexScale -benchtime 1x ./internal/repo
//
// BENCH_CHUNKS is the number of chunks, a million if it is not set. BENCH_CACHE is a
// directory that keeps the file of the cache (47 bytes a chunk) for the next time.

type simulation struct {
	chunks, blocks, packs, objects int
	seed                           uint64
}

func simulate(b *testing.B) simulation {
	chunks := 1_000_000
	if v := os.Getenv("BENCH_CHUNKS"); v != "" {
		n, err := strconv.Atoi(v)
		must(b, err)
		chunks = n
	}
	s := simulation{chunks: chunks, seed: 1}
	s.blocks = (chunks*2 + 4) / 5
	s.packs = (chunks + 63) / 64
	s.objects = (s.packs + indexGroup - 1) / indexGroup
	return s
}

// ascending calls fn with n random IDs in their order, without holding them: the
// gaps between uniform numbers that were sorted are exponentially distributed.
func (s simulation) ascending(stream uint64, n int, fn func(i int, id ID)) {
	rnd := rand.New(rand.NewPCG(s.seed, stream))
	at, end := 0.0, math.Exp2(64)
	step := end / (float64(n) + 4*math.Sqrt(float64(n)) + 16) // ends before 2^64 but once in 30,000 times
	for i := range n {
		at += rnd.ExpFloat64() * step
		var id ID
		binary.BigEndian.PutUint64(id[:], uint64(min(at, end-1<<12)))
		binary.BigEndian.PutUint64(id[8:], rnd.Uint64())
		fn(i, id)
	}
}

// object returns the ID of an index object; the number of it is in its end.
func (s simulation) object(i int) ID {
	id := numbered(1<<50 + uint64(i))
	binary.BigEndian.PutUint64(id[8:], uint64(i))
	return id
}

// A simulated store lists what a simulation says, and is otherwise the one below.
type simulated struct {
	storage.Backend
	s simulation
}

func (b simulated) List(ctx context.Context, dir string, fn func(storage.Info) error) error {
	switch dir {
	case "index":
		return b.s.listIndex(fn, 16<<10)
	case "packs": // directory by directory, in no order in each
		rnd := rand.New(rand.NewPCG(b.s.seed, 9))
		var ids []ID
		var err error
		flush := func() {
			rnd.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
			for _, id := range ids {
				if err == nil {
					err = fn(storage.Info{Name: packName(id), Size: dataPackBytes})
				}
			}
			ids = ids[:0]
		}
		b.s.ascending(2, b.s.packs, func(_ int, id ID) {
			if len(ids) > 0 && ids[0][0] != id[0] {
				flush()
			}
			ids = append(ids, id)
		})
		flush()
		return err
	}
	return b.Backend.List(ctx, dir, fn)
}

func (s simulation) listIndex(fn func(storage.Info) error, size int64) error {
	for i := range s.objects {
		if err := fn(storage.Info{Name: objectName(kindIndex, s.object(i)), Size: size}); err != nil {
			return err
		}
	}
	return nil
}

// write writes the file of the cache that has the whole index.
func (s simulation) write(w io.Writer, repoID ID) error {
	var covers []ID
	for i := range s.objects {
		covers = append(covers, s.object(i))
	}
	sw := newSegmentWriter(w, repoID, layout{s.chunks, s.blocks, s.packs, len(covers)})
	rnd := rand.New(rand.NewPCG(s.seed, 3))
	s.ascending(1, s.chunks, func(i int, id ID) {
		block := rnd.IntN(s.blocks)
		sw.entry(id[:], uint32(block*s.packs/s.blocks), uint32(block), uint32(rnd.IntN(2))<<19, 1<<19)
	})
	sw.endEntries()
	for range s.blocks {
		sw.block(8, &blockRef{stored: 1 << 20, raw: 1 << 20, compressed: true}, false)
	}
	sw.endTable()
	s.ascending(2, s.packs, func(_ int, id ID) { sw.pack(id, dataPackBytes) })
	sw.endTable()
	sw.objects(covers)
	return sw.err
}

// openSimulated opens a repository on a store that wrap makes.
func openSimulated(b *testing.B, wrap func(r *Repository, m storage.Backend) storage.Backend) (r *Repository, cache string) {
	cache = os.Getenv("BENCH_CACHE")
	if cache == "" {
		cache = b.TempDir()
	}
	store := filepath.Join(cache, "store")
	m, err := storage.OpenLocal(store)
	if err != nil {
		m, err = storage.CreateLocal(store)
		must(b, err)
		initIn(b, m, InitOptions{})
	}
	b.Cleanup(func() { m.Close() })
	r, err = Open(b.Context(), m, Options{Credentials: []seal.Credential{testKey(0)}, CacheDir: cache})
	must(b, err)
	r.backend = wrap(r, m)
	return r, cache
}

// anonymous is the resident memory in bytes that is not that of files.
func anonymous() float64 {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return math.NaN()
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "RssAnon:" {
			n, _ := strconv.ParseFloat(f[1], 64)
			return n * 1024
		}
	}
	return math.NaN()
}

// processorTime is how long the process ran so far, in seconds, to a hundredth: on
// a machine that others use the time on the clock says little.
func processorTime() float64 {
	text, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return math.NaN()
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	f := strings.Fields(rest)
	user, _ := strconv.ParseFloat(f[11], 64)
	system, _ := strconv.ParseFloat(f[12], 64)
	return (user + system) / 100
}

// heapBytes is what is in use of the heap, after a collection.
func heapBytes() float64 {
	runtime.GC()
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// Opening the index, and a million look-ups of what is there (hit) and of what is
// not (miss), by one goroutine and by two: the first after opening, when the
// pages are not mapped and their checksums not checked yet, and again.
func BenchmarkIndexScale(b *testing.B) {
	s := simulate(b)
	r, cache := openSimulated(b, func(_ *Repository, m storage.Backend) storage.Backend { return simulated{m, s} })
	dir := openCache(cache, r.id)
	if len(dir.read().Segments) == 0 {
		seg, err := dir.create(r.id, func(w io.Writer) error { return s.write(w, r.id) })
		must(b, err)
		must(b, dir.publish([]*segment{seg}))
		must(b, seg.close())
	}
	const lookups = 1_000_000
	rnd := rand.New(rand.NewPCG(5, 5))
	var hits []ID
	s.ascending(1, s.chunks, func(i int, id ID) {
		if rnd.IntN(s.chunks-i) < lookups-len(hits) {
			hits = append(hits, id)
		}
	})
	rnd.Shuffle(len(hits), func(i, j int) { hits[i], hits[j] = hits[j], hits[i] })
	misses := make([]ID, lookups)
	for i := range misses {
		binary.BigEndian.PutUint64(misses[i][:], rnd.Uint64())
		binary.BigEndian.PutUint64(misses[i][8:], rnd.Uint64())
	}
	x := &r.index
	search := func(ids []ID, want bool) {
		for i := range ids {
			if x.find(&ids[i], true, nil) != want {
				b.Error("wrong")
				return
			}
		}
	}
	look := func(what string, goroutines int, ids []ID, want bool) {
		start, cpu := time.Now(), processorTime()
		var wg sync.WaitGroup
		for part := range goroutines {
			wg.Go(func() { search(ids[part*len(ids)/goroutines:(part+1)*len(ids)/goroutines], want) })
		}
		wg.Wait()
		b.ReportMetric(float64(time.Since(start).Nanoseconds())/float64(len(ids)), "ns/"+what)
		b.ReportMetric((processorTime()-cpu)*1e9/float64(len(ids)), "cpu-ns/"+what)
	}
	// What the simulated store takes of the time to open.
	start, cpu := time.Now(), processorTime()
	for _, dir := range []string{"index", "packs"} {
		must(b, r.backend.List(b.Context(), dir, func(storage.Info) error { return nil }))
	}
	b.Logf("the listing alone: %.2f s, %.2f s of the processor", time.Since(start).Seconds(), processorTime()-cpu)
	b.ResetTimer()
	for b.Loop() {
		for _, goroutines := range []int{1, 2} {
			suffix := "-" + strconv.Itoa(goroutines)
			heap, anon := heapBytes(), anonymous()
			start, cpu := time.Now(), processorTime()
			report, err := r.LoadIndex(b.Context())
			must(b, err)
			b.ReportMetric(time.Since(start).Seconds(), "s/open")
			b.ReportMetric(processorTime()-cpu, "cpu-s/open")
			b.ReportMetric((anonymous()-anon)/(1<<20), "MiB-rss-open")
			if !report.OK() || report.Packs != s.packs {
				b.Fatalf("%+v", report)
			}
			look("hit-first"+suffix, goroutines, hits, true)
			look("miss-first"+suffix, goroutines, misses, false)
			look("hit-again"+suffix, goroutines, hits, true)
			look("miss-again"+suffix, goroutines, misses, false)
			b.ReportMetric((heapBytes()-heap)/(1<<20), "MiB-heap")
			b.ReportMetric((anonymous()-anon)/(1<<20), "MiB-rss")
			x.close()
		}
	}
}

// A described store has the index objects that a simulation says.
type described struct {
	simulated
	r     *Repository
	extra int // index objects behind those of the simulation
}

func (d described) pack(i int) ID { return numbered(1<<51 + uint64(i)) }

func (d described) List(ctx context.Context, dir string, fn func(storage.Info) error) error {
	s := d.s
	s.objects += d.extra
	switch dir {
	case "index":
		return s.listIndex(fn, 14<<10)
	case "packs":
		for i := range s.objects * indexGroup {
			if err := fn(storage.Info{Name: packName(d.pack(i)), Size: dataPackBytes}); err != nil {
				return err
			}
		}
		return nil
	}
	return d.Backend.List(ctx, dir, fn)
}

func (d described) Get(ctx context.Context, name string, off, length int64) (io.ReadCloser, error) {
	id, ok := parseName("index", name)
	if !ok {
		return d.Backend.Get(ctx, name, off, length)
	}
	number := int(binary.BigEndian.Uint64(id[8:]))
	var obj indexObject
	for i := range indexGroup {
		obj.packs = append(obj.packs, packTable{id: d.pack(number*indexGroup + i), size: dataPackBytes, kind: Data})
		t := &obj.packs[i]
		for j := range 26 {
			b := blockRef{stored: tagBytes}
			for k := range 2 + j%2 - j/25 {
				b.chunks = append(b.chunks, chunkRef{d.chunk(number, i*100+j*3+k), 1 << 19})
				b.stored, b.raw = b.stored+1<<19, b.raw+1<<19
			}
			t.blocks = append(t.blocks, b)
		}
	}
	body := append([]byte{0}, appendIndex(nil, &obj)...)
	return io.NopCloser(bytes.NewReader(d.r.keys.Index.SealObject(nil, kindIndex, d.r.objectAAD(id), body))), nil
}

func (d described) chunk(object, n int) (id ID) {
	rnd := rand.NewPCG(uint64(object), uint64(n))
	binary.BigEndian.PutUint64(id[:], rnd.Uint64())
	binary.BigEndian.PutUint64(id[8:], rnd.Uint64())
	return id
}

// Loading the index of a store without a cache (build), and then with one index
// object more (add). The heap is the most that is in use at any time, garbage
// included.
func BenchmarkIndexBuild(b *testing.B) {
	s := simulate(b)
	var d *described
	r, cache := openSimulated(b, func(r *Repository, m storage.Backend) storage.Backend {
		d = &described{simulated{m, s}, r, 0}
		return d
	})
	load := func(what string) {
		stop, peak := make(chan struct{}), make(chan float64)
		go func() {
			most := uint64(0)
			for {
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				most = max(most, m.HeapAlloc)
				select {
				case <-stop:
					peak <- float64(most)
					return
				case <-time.After(20 * time.Millisecond):
				}
			}
		}()
		start, cpu := time.Now(), processorTime()
		report, err := r.LoadIndex(b.Context())
		must(b, err)
		b.ReportMetric(time.Since(start).Seconds(), "s/"+what)
		b.ReportMetric(processorTime()-cpu, "cpu-s/"+what)
		close(stop)
		b.ReportMetric(<-peak/(1<<20), "MiB-peak/"+what)
		if !report.OK() || report.Packs != (s.objects+d.extra)*indexGroup {
			b.Fatalf("%+v", report)
		}
		for i := range 10_000 {
			id := d.chunk(i%(s.objects+d.extra), 100*(i%indexGroup))
			if !r.index.find(&id, true, nil) {
				b.Fatal("lost")
			}
			id[15]++
			if r.index.find(&id, true, nil) {
				b.Fatal("found")
			}
		}
	}
	for b.Loop() {
		d.extra = 0
		heap := heapBytes()
		load("build")
		b.ReportMetric((heapBytes()-heap)/(1<<20), "MiB-heap")
		d.extra = 1
		load("add")
		r.index.close()
		must(b, os.RemoveAll(openCache(cache, r.id).dir))
		openCache(cache, r.id)
	}
}
