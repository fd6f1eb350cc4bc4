package repo

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

// testIndex is an index without a repository behind it.
func testIndex(cache *cacheDir) *index {
	x := &index{repo: &Repository{id: ID{7}}, cache: cache}
	x.segs.Store(new([]*segment))
	return x
}

// packsOf returns the packs that are there, and their sizes.
func packsOf(t testing.TB, r *Repository) map[ID]int64 {
	t.Helper()
	r.index.mu.Lock()
	defer r.index.mu.Unlock()
	packs := make(map[ID]int64)
	if err := r.index.eachPack(func(id ID, size int64) { packs[id] = size }); err != nil {
		t.Fatal(err)
	}
	return packs
}

// setStates makes packs of a segment there, and condemned or not.
func setStates(s *segment, state func(id ID) (there, condemned bool)) error {
	return s.eachPack(nil, func(i int, id ID, _ int64) {
		there, condemned := state(id)
		s.there.unset(i)
		s.fresh.unset(i)
		if there {
			s.there.set(i)
		}
		if there && !condemned {
			s.fresh.set(i)
		}
	})
}

// tableOf makes a pack of one block with the given chunks.
func tableOf(number uint64, ids ...ID) packTable {
	t := packTable{kind: Data, size: int64(number) + 1, blocks: make([]blockRef, 1)}
	binary.BigEndian.PutUint64(t.id[:], number)
	b := &t.blocks[0]
	for i, id := range ids {
		b.chunks = append(b.chunks, chunkRef{id, uint32(i + 1)})
		b.raw += uint32(i + 1)
	}
	b.stored = b.raw + tagBytes
	return t
}

func numbered(n uint64) (id ID) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], n)
	h := sha256.Sum256(b[:])
	return ID(h[:])
}

// Whatever is added, look-ups search few segments, and find everything.
func TestSegmentsStayFew(t *testing.T) {
	for _, cached := range []bool{false, true} {
		for _, adopted := range []bool{false, true} {
			t.Run(fmt.Sprintf("cached=%t/adopted=%t", cached, adopted), func(t *testing.T) {
				var cache *cacheDir
				if cached {
					cache = openCache(t.TempDir(), ID{7})
				}
				x := testIndex(cache)
				if adopted {
					table := tableOf(1<<40, numbered(1<<40))
					s, err := segmentOf(x.repo.id, []packTable{table}, nil)
					if err != nil {
						t.Fatal(err)
					}
					must(t, setStates(s, func(ID) (there, condemned bool) { return true, false }))
					x.segs.Store(&[]*segment{s})
				}
				n := uint64(0)
				for i := range 300 {
					var ids []ID
					// At first each a third of the one before, so that no file is worth
					// merging; then of very different sizes.
					size := 1 + i%7*i%50
					if i < 8 {
						size = 1 + 6561/[]int{1, 3, 9, 27, 81, 243, 729, 2187}[i]
					}
					for range size {
						ids = append(ids, numbered(n))
						n++
					}
					if err := x.add([]packTable{tableOf(uint64(i), ids...)}, numbered(1<<50+uint64(i))); err != nil {
						t.Fatal(err)
					}
					if cached && (i < 8 || i%10 == 9) {
						x.mu.Lock()
						x.compact(true)
						x.mu.Unlock()
					}
					files, loose := 0, 0
					for _, s := range *x.segs.Load() {
						if s.entries.n == 0 {
							t.Fatalf("after %d: a segment without entries", i)
						}
						if s.file != "" {
							files++
						} else {
							loose++
						}
					}
					if files > maxSegments || loose > maxSegments+1 {
						t.Fatalf("after %d: %d files and %d segments in memory", i, files, loose)
					}
				}
				for i := range n {
					id := numbered(i)
					if !x.find(&id, true, nil) {
						t.Fatalf("chunk %d is lost", i)
					}
				}
				if id := numbered(1 << 40); x.find(&id, false, nil) != adopted {
					t.Error("the adopted pack is lost")
				}
				covered := make(map[ID]int)
				for _, s := range *x.segs.Load() {
					for _, id := range s.covers {
						covered[id]++
					}
				}
				for i := range uint64(300) {
					if covered[numbered(1<<50+i)] != 1 {
						t.Errorf("index object %d is covered %d times", i, covered[numbered(1<<50+i)])
					}
				}
				x.close()
			})
		}
	}
}

// adversarial draws IDs of which many share their first 8 bytes, repeat, or lie at
// the ends.
func adversarial() *rapid.Generator[ID] {
	part := rapid.SampledFrom([]uint64{0, 1, 2, 1 << 63, 1<<63 + 1, 1<<64 - 2, 1<<64 - 1, 0x0123456789abcdef})
	return rapid.Custom(func(t *rapid.T) (id ID) {
		switch rapid.IntRange(0, 3).Draw(t, "shape") {
		case 0:
			binary.BigEndian.PutUint64(id[:], part.Draw(t, "high"))
			binary.BigEndian.PutUint64(id[8:], part.Draw(t, "low"))
		case 1: // one prefix
			binary.BigEndian.PutUint64(id[:], 0x0123456789abcdef)
			binary.BigEndian.PutUint64(id[8:], rapid.Uint64Range(0, 5000).Draw(t, "low"))
		case 2: // clustered
			binary.BigEndian.PutUint64(id[:], 1<<60+rapid.Uint64Range(0, 5000).Draw(t, "near"))
		default:
			id = numbered(rapid.Uint64Range(0, 100_000).Draw(t, "n"))
		}
		return id
	})
}

// The index agrees with a map, whatever IDs, packs, states and merges.
func TestIndexAgainstMap(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine: nothing for the race detector")
	}
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "cache")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		var cache *cacheDir
		if rapid.Bool().Draw(t, "cached") {
			cache = openCache(dir, ID{7})
		}
		x := testIndex(cache)
		defer x.close()
		type state struct{ there, condemned bool }
		packs := make(map[ID]state)
		want := make(map[ID][]ID) // chunk → packs that have it
		ids := adversarial()
		for i := range rapid.IntRange(1, 12).Draw(t, "adds") {
			list := rapid.SliceOfN(ids, 1, 40).Draw(t, "ids")
			switch rapid.IntRange(0, 3).Draw(t, "bulk") {
			case 0: // duplicates of one ID over several pages
				for range 400 {
					list = append(list, list[0])
				}
			case 1: // many of one prefix, in order
				base := list[0]
				for n := range uint64(500) {
					binary.BigEndian.PutUint64(base[8:], n*3)
					list = append(list, base)
				}
			}
			table := tableOf(uint64(i), list...)
			st := state{rapid.Bool().Draw(t, "there"), rapid.IntRange(0, 3).Draw(t, "condemned") == 0}
			packs[table.id] = st
			for _, id := range list {
				want[id] = append(want[id], table.id)
			}
			s, err := segmentOf(x.repo.id, []packTable{table}, []ID{numbered(1<<50 + uint64(i))})
			if err != nil {
				t.Fatal(err)
			}
			if err := setStates(s, func(ID) (there, condemned bool) { return st.there, st.condemned }); err != nil {
				t.Fatal(err)
			}
			x.mu.Lock()
			x.insert(s)
			x.mu.Unlock()
			if rapid.IntRange(0, 2).Draw(t, "compact") == 0 {
				x.mu.Lock()
				x.compact(true)
				x.mu.Unlock()
			}
		}
		check := func(id ID) {
			for _, rely := range []bool{false, true} {
				expect := false
				for _, p := range want[id] {
					expect = expect || packs[p].there && !(rely && packs[p].condemned)
				}
				var loc Location
				if got := x.find(&id, rely, &loc); got != expect {
					t.Fatalf("find(%s, rely %t) = %t", id, rely, got)
				}
				if expect && (!slices.Contains(want[id], loc.Block.Pack) || !packs[loc.Block.Pack].there) {
					t.Fatalf("%s is in pack %s", id, loc.Block.Pack)
				}
			}
		}
		for id := range want {
			check(id)
			for i := range id { // neighbours
				near := id
				near[i]++
				check(near)
				near[i] -= 2
				check(near)
			}
		}
		check(ID{})
		check(ID(bytes.Repeat([]byte{0xff}, 16)))
	})
}

// Search returns the first of equal entries, and the place where others would be.
func TestSegmentSearch(t *testing.T) {
	for _, n := range []int{0, 1, 2, entriesPerPage - 1, entriesPerPage, entriesPerPage + 1, 2*entriesPerPage - 1, 2 * entriesPerPage, 2*entriesPerPage + 1, 5000} {
		for name, gen := range map[string]func(i int) ID{
			"uniform":   func(i int) ID { return numbered(uint64(i)) },
			"low":       func(i int) (id ID) { binary.BigEndian.PutUint64(id[8:], uint64(i)*2+1); return id },
			"high":      func(i int) (id ID) { binary.BigEndian.PutUint64(id[:], ^uint64(i)); return id },
			"pairs":     func(i int) (id ID) { binary.BigEndian.PutUint64(id[:], uint64(i/2)<<32); return id },
			"equal":     func(int) ID { return ID{5} },
			"two ends":  func(i int) ID { return ID(bytes.Repeat([]byte{byte(-(i % 2))}, 16)) },
			"quadratic": func(i int) (id ID) { binary.BigEndian.PutUint64(id[:], uint64(i)*uint64(i)*uint64(i)*1e6); return id },
		} {
			var ids []ID
			for i := range n {
				ids = append(ids, gen(i))
			}
			var packs []packTable
			for part := range slices.Chunk(ids, 1000) {
				packs = append(packs, tableOf(uint64(len(packs)), part...))
			}
			s, err := segmentOf(ID{7}, packs, nil)
			if err != nil {
				t.Fatal(err)
			}
			slices.SortFunc(ids, func(a, b ID) int { return bytes.Compare(a[:], b[:]) })
			for _, id := range append([]ID{{}, ID(bytes.Repeat([]byte{0xff}, 16)), {5}, {4, 255}, {5, 1}}, ids...) {
				want, _ := slices.BinarySearchFunc(ids, id, func(a, b ID) int { return bytes.Compare(a[:], b[:]) })
				if got, err := s.search(&id); err != nil || got != want {
					t.Fatalf("%s, %d entries: search(%s) = %d, %v; want %d", name, n, id, got, err, want)
				}
			}
		}
	}
}

// Whichever page of a segment is damaged, whoever needs it notices, and nothing that
// was read is wrong.
func TestEveryPageIsChecked(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine: nothing for the race detector")
	}
	var tables []packTable
	for i := range uint64(400) {
		var ids []ID
		for j := range uint64(5) {
			ids = append(ids, numbered(i*5+j))
		}
		tables = append(tables, tableOf(i, ids...))
	}
	covers := make([]ID, 300)
	whole, err := segmentOf(ID{7}, tables, covers)
	must(t, err)
	pages := len(whole.data) / pageBytes
	if pages != 1+16+1+4+3+2 {
		t.Fatalf("%d pages", pages)
	}
	for page := range pages {
		for _, at := range []int{0, 1, pageBytes / 2, pageBody - 1, pageBody, pageBytes - 1} {
			data := bytes.Clone(whole.data)
			data[page*pageBytes+at] ^= 1
			s, err := openSegment(data, ID{7})
			if err != nil {
				if page != 0 && page < pages-2 {
					t.Fatalf("page %d: %v", page, err)
				}
				continue
			}
			noticed := setStates(s, func(ID) (there, condemned bool) { return true, false }) != nil
			for i := range s.packs.n {
				s.fresh.set(i)
			}
			for i := range uint64(2000) {
				id := numbered(i)
				var loc, want Location
				ok, err := s.find(&id, true, nil, &loc)
				noticed = noticed || err != nil
				for j := range whole.packs.n {
					whole.there.set(j)
				}
				whole.find(&id, false, nil, &want)
				if err == nil && (!ok || loc != want) {
					t.Fatalf("page %d: chunk %d is found %t, %+v", page, i, ok, loc)
				}
			}
			if !noticed {
				t.Errorf("damage of page %d at %d was not noticed", page, at)
			}
			s, err = openSegment(data, ID{7})
			must(t, err)
			const keys = 17 // are made anew
			if _, err := mergeSegments(new(sizedBuffer), ID{7}, []*segment{s, whole}); err == nil && page != keys {
				t.Errorf("page %d was merged", page)
			}
		}
	}
}

// What look-ups rely on while segments are merged stays known.
func TestRelianceSurvivesMerges(t *testing.T) {
	x := testIndex(openCache(t.TempDir(), ID{7}))
	defer x.close()
	const n = 300
	added := make(chan uint64, n)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for i := range added {
				id := numbered(i)
				if !x.find(&id, true, nil) {
					t.Errorf("chunk %d is lost", i)
				}
			}
		})
	}
	for i := range uint64(n) {
		s, err := segmentOf(x.repo.id, []packTable{tableOf(i, numbered(i))}, []ID{numbered(1<<50 + i)})
		must(t, err)
		must(t, setStates(s, func(ID) (there, condemned bool) { return true, false }))
		x.mu.Lock()
		x.insert(s)
		x.mu.Unlock()
		added <- i
		if i%7 == 0 {
			x.mu.Lock()
			x.compact(true)
			x.mu.Unlock()
		}
	}
	close(added)
	wg.Wait()
	if got := len(x.reliedUpon()); got != n {
		t.Errorf("%d packs are relied upon, want %d", got, n)
	}
}

// Look-ups go on while index objects are added and segments merged.
func TestConcurrentFind(t *testing.T) {
	x := testIndex(openCache(t.TempDir(), ID{7}))
	defer x.close()
	added := make(chan int, 200)
	var wg sync.WaitGroup
	for w := range 2 {
		wg.Go(func() {
			for n := range added {
				for i := 0; i <= n; i += 1 + w*3 {
					id := numbered(uint64(i))
					if !x.find(&id, true, nil) {
						t.Errorf("chunk %d is lost after %d", i, n)
						return
					}
				}
			}
		})
	}
	for i := range 200 {
		if err := x.add([]packTable{tableOf(uint64(i), numbered(uint64(i)))}, numbered(1<<50+uint64(i))); err != nil {
			t.Error(err)
		}
		if i%20 == 0 {
			x.mu.Lock()
			x.compact(true)
			x.mu.Unlock()
		}
		added <- i
	}
	close(added)
	wg.Wait()
}

// Arbitrary bytes in the cache are an error, never a panic; with right checksums
// they may say anything, but within their bounds.
func FuzzSegment(f *testing.F) {
	tables := []packTable{tableOf(0, numbered(0), numbered(1)), tableOf(1, numbered(2))}
	s, err := segmentOf(ID{7}, tables, []ID{{1}, {2}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(s.data, true)
	f.Add(s.data, false)
	f.Add([]byte{}, true)
	f.Add(make([]byte, pageBytes), true)
	huge := bytes.Clone(s.data)
	binary.LittleEndian.PutUint64(huge[24:], 1<<63)
	f.Add(huge, true)
	f.Fuzz(func(t *testing.T, data []byte, fix bool) {
		if fix {
			data = bytes.Clone(data)
			for p := 0; p+pageBytes <= len(data); p += pageBytes {
				sealPage(data[p : p+pageBytes])
			}
		}
		s, err := openSegment(data, ID{7})
		if err != nil {
			return
		}
		if setStates(s, func(ID) (there, condemned bool) { return true, false }) != nil {
			return
		}
		for i := range uint64(4) {
			id := numbered(i)
			var loc Location
			s.find(&id, true, nil, &loc)
		}
		s.find(&ID{}, false, nil, nil)
		// What is merged can be opened.
		var buf sizedBuffer
		if _, err := mergeSegments(&buf, ID{7}, []*segment{s, s}); err == nil {
			if _, err := openSegment(buf, ID{7}); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func sealPage(p []byte) {
	binary.LittleEndian.PutUint32(p[pageBody:], crc32.Checksum(p[:pageBody], castagnoli))
}

// The index of a million chunks, from a mapped file: look-ups of what is there, and
// of what is not.
func BenchmarkFind(b *testing.B) {
	const n = 1 << 20
	cache := openCache(b.TempDir(), ID{7})
	x := testIndex(cache)
	defer x.close()
	ids := make([]ID, n)
	var tables []packTable
	for i := range ids {
		ids[i] = numbered(uint64(i))
		if i%1024 == 1023 {
			tables = append(tables, tableOf(uint64(i), ids[i-1023:i+1]...))
		}
	}
	if err := x.add(tables, ID{1}); err != nil {
		b.Fatal(err)
	}
	if segs := *x.segs.Load(); len(segs) != 1 || segs[0].file == "" {
		b.Fatal("the index is not in one file")
	}
	for _, known := range []bool{true, false} {
		b.Run(fmt.Sprintf("known=%t", known), func(b *testing.B) {
			rnd := rand.New(rand.NewPCG(1, 1))
			b.ReportAllocs()
			for b.Loop() {
				id := ids[rnd.IntN(n)]
				if !known {
					id[0]++
				}
				var loc Location
				if x.find(&id, true, &loc) != known {
					b.Fatal("wrong")
				}
			}
		})
	}
}
