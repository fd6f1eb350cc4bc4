package chunk

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func newSplitter(t testing.TB, key byte, p Params) *Splitter {
	t.Helper()
	s, err := New([32]byte{key}, p)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func randomBytes(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// split cuts data that is all in memory.
func split(s *Splitter, data []byte) []int {
	var sizes []int
	for len(data) > 0 {
		n := s.Cut(data, 0, true)
		sizes = append(sizes, n)
		data = data[n:]
	}
	return sizes
}

// model is the package comment, word by word.
func model(s *Splitter, data []byte, p Params) []int {
	normal := p.Min + (3*p.Avg-4*p.Min)*9/32
	var sizes []int
	for len(data) > 0 {
		n := min(len(data), p.Max)
		for l := p.Min; l < n; l++ {
			var h uint64
			for i := 1; i <= 64; i++ {
				h += s.table[data[l-i]] << (i - 1)
			}
			t := (uint64(1) << 63) / uint64(4*p.Avg) * 2
			if l >= normal {
				t = (uint64(1) << 63) / uint64(p.Avg/4) * 2
			}
			if h < t {
				n = l
				break
			}
		}
		sizes = append(sizes, n)
		data = data[n:]
	}
	return sizes
}

func TestParamsValidate(t *testing.T) {
	for _, tt := range []struct {
		p  Params
		ok bool
	}{
		{Params{256 << 10, 1 << 20, 4 << 20}, true},
		{Params{64, 256, 512}, true},
		{Params{63, 256, 512}, false},
		{Params{64, 128, 512}, false},
		{Params{128, 256, 512}, true},
		{Params{129, 256, 512}, false},
		{Params{64, 256, 511}, false},
		{Params{64, 1000, 4000}, false},
		{Params{64, 16 << 20, 32 << 20}, true},
		{Params{64, 16 << 20, 64 << 20}, true},
		{Params{64, 16 << 20, 64<<20 + 1}, false},
		{Params{64, 32 << 20, 64 << 20}, false},
		{Params{}, false},
		{Params{-1, -256, -1}, false},
	} {
		if err := tt.p.Validate(); (err == nil) != tt.ok {
			t.Errorf("%+v: %v", tt.p, err)
		}
		if _, err := New([32]byte{}, tt.p); (err == nil) != tt.ok {
			t.Errorf("New with %+v: %v", tt.p, err)
		}
	}
}

// TestGolden holds the format: another implementation wrote the file.
func TestGolden(t *testing.T) {
	f, err := os.Open("testdata/gear-1.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var stream []byte
	for i := uint64(0); len(stream) < 6<<20; i++ {
		sum := sha256.Sum256(binary.LittleEndian.AppendUint64([]byte("gear-1 golden"), i))
		stream = append(stream, sum[:]...)
	}
	var (
		key    [32]byte
		params Params
		s      *Splitter
		length int
		cases  int
	)
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		word, rest, _ := strings.Cut(sc.Text(), " ")
		switch word {
		case "key":
			if _, err := hex.Decode(key[:], []byte(rest)); err != nil {
				t.Fatal(err)
			}
		case "params":
			if _, err := fmt.Sscan(rest, &params.Min, &params.Avg, &params.Max); err != nil {
				t.Fatal(err)
			}
			if s, err = New(key, params); err != nil {
				t.Fatal(err)
			}
		case "table-sha256":
			var b []byte
			for _, g := range s.table {
				b = binary.LittleEndian.AppendUint64(b, g)
			}
			if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != rest {
				t.Errorf("key %x: table has SHA-256 %x, want %s", key, sum, rest)
			}
		case "length":
			if length, err = strconv.Atoi(rest); err != nil {
				t.Fatal(err)
			}
		case "cuts":
			var want []int
			for field := range strings.FieldsSeq(rest) {
				n, err := strconv.Atoi(field)
				if err != nil {
					t.Fatal(err)
				}
				want = append(want, n)
			}
			if got := split(s, stream[:length]); !slices.Equal(got, want) {
				t.Errorf("key %x, %+v:\n got %v\nwant %v", key, params, got, want)
			}
			cases++
		}
	}
	if err := sc.Err(); err != nil || cases != 5 {
		t.Fatalf("read %d cases, %v", cases, err)
	}
}

// TestPortions feeds a stream in random portions, and compares with the model.
func TestPortions(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		avg := 256 << rapid.IntRange(0, 2).Draw(t, "avg")
		p := Params{
			Min: rapid.IntRange(MinSize, avg/2).Draw(t, "min"),
			Avg: avg,
			Max: rapid.IntRange(2*avg, 8*avg).Draw(t, "max"),
		}
		s, err := New([32]byte{rapid.Byte().Draw(t, "key")}, p)
		if err != nil {
			t.Fatal(err)
		}
		data := randomBytes(rapid.Byte().Draw(t, "seed"), rapid.IntRange(0, 8*p.Max).Draw(t, "length"))
		if rapid.Bool().Draw(t, "low entropy") {
			for i := range data {
				data[i] &= 1
			}
		}
		want := model(s, data, p)
		if got := split(s, data); !slices.Equal(got, want) {
			t.Fatalf("whole: got %v, want %v", got, want)
		}

		var got []int
		start, have, scanned := 0, 0, 0 // chunk's start, bytes fed, bytes examined
		for start < len(data) {
			n := s.Cut(data[start:have], scanned, have == len(data))
			if n == 0 {
				if have == len(data) || have-start >= p.Max {
					t.Fatalf("no cut with %d bytes at %d of %d", have-start, start, len(data))
				}
				scanned = have - start
				if rapid.IntRange(0, 9).Draw(t, "forget") == 0 {
					scanned = rapid.IntRange(0, scanned).Draw(t, "scanned")
				}
				have = min(len(data), have+rapid.IntRange(0, p.Max).Draw(t, "portion"))
				continue
			}
			got = append(got, n)
			start, scanned = start+n, 0
		}
		if !slices.Equal(got, want) {
			t.Fatalf("portions: got %v, want %v", got, want)
		}
	})
}

func TestBoundaries(t *testing.T) {
	p := Params{64, 256, 1024}
	s := newSplitter(t, 1, p)
	zeros := make([]byte, 4096)
	for _, tt := range []struct {
		n     int
		final bool
		want  int
	}{
		{0, false, 0}, {0, true, 0},
		{1, false, 0}, {1, true, 1},
		{63, false, 0}, {63, true, 63},
		{64, true, 64}, {65, true, 65},
		{1023, false, 0}, {1023, true, 1023},
		{1024, false, 1024}, {1024, true, 1024},
		{1025, false, 1024}, {4096, true, 1024},
	} {
		for _, scanned := range []int{0, tt.n / 2, min(tt.n, 1023)} {
			if got := s.Cut(zeros[:tt.n], scanned, tt.final); got != tt.want {
				t.Errorf("%d zeros, %d scanned, final %t: %d, want %d", tt.n, scanned, tt.final, got, tt.want)
			}
		}
	}
	for _, scanned := range []int{-1, 11} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%d scanned of 10: no panic", scanned)
				}
			}()
			s.Cut(zeros[:10], scanned, false)
		}()
	}
}

// TestMinimumCut puts a cut exactly at the minimum: the whole window of the first
// tested position must count.
func TestMinimumCut(t *testing.T) {
	s := newSplitter(t, 1, Params{64, 256, 1024})
	found := 0
	for seed := range 4000 {
		data := make([]byte, 200)
		r := rand.New(rand.NewPCG(uint64(seed), 0))
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		if prime(&s.table, data[:64]) < s.hard {
			found++
			if n := s.Cut(data, 0, false); n != 64 {
				t.Fatalf("seed %d: cut at %d, want 64", seed, n)
			}
		}
	}
	if found == 0 {
		t.Fatal("no seed has a cut at the minimum")
	}
}

func TestDistribution(t *testing.T) {
	data := randomBytes(7, 16<<20)
	for _, p := range []Params{{64, 4096, 32768}, {1024, 4096, 16384}, {2048, 4096, 8192}, {4096, 16384, 65536}} {
		sizes := split(newSplitter(t, 1, p), data)
		for i, n := range sizes {
			if n > p.Max || n < p.Min && i < len(sizes)-1 {
				t.Fatalf("%+v: chunk %d has %d bytes", p, i, n)
			}
		}
		mean := float64(len(data)) / float64(len(sizes))
		if r := mean / float64(p.Avg); r < 0.92 || r > 1.08 {
			t.Errorf("%+v: mean %.0f, %.2f of the average", p, mean, r)
		}
	}
}

func TestConstantDataCutsAtMax(t *testing.T) {
	p := Params{1024, 4096, 16384}
	for key := range byte(8) {
		s := newSplitter(t, key, p)
		for _, n := range split(s, make([]byte, 8*p.Max)) {
			if n != p.Max {
				t.Fatalf("key %d: chunk of %d zeros", key, n)
			}
		}
	}
}

func TestEditIsLocal(t *testing.T) {
	s := newSplitter(t, 1, Params{1024, 4096, 16384})
	old := randomBytes(3, 4<<20)
	r := rand.New(rand.NewPCG(1, 2))
	for range 10 {
		edited := slices.Insert(slices.Clone(old), r.IntN(len(old)), []byte("ten bytes!")...)
		kept := make(map[[32]byte]bool)
		rest := old
		for _, n := range split(s, old) {
			kept[sha256.Sum256(rest[:n])] = true
			rest = rest[n:]
		}
		same, total := 0, 0
		rest = edited
		for _, n := range split(s, edited) {
			if kept[sha256.Sum256(rest[:n])] {
				same++
			}
			total++
			rest = rest[n:]
		}
		if total-same > 10 || same*100 < 95*total {
			t.Errorf("%d of %d chunks kept", same, total)
		}
	}
}

func TestKeysDiffer(t *testing.T) {
	p := Params{1024, 4096, 16384}
	data := randomBytes(3, 1<<20)
	ends := func(key byte) map[int]bool {
		m := make(map[int]bool)
		at := 0
		for _, n := range split(newSplitter(t, key, p), data) {
			at += n
			m[at] = true
		}
		return m
	}
	a, b := ends(1), ends(2)
	common := 0
	for at := range a {
		if b[at] {
			common++
		}
	}
	if common > 5 { // the end is common; by chance about 256/4096 more
		t.Errorf("two keys share %d of %d split points", common, len(a))
	}
}

func TestFormatHidesTable(t *testing.T) {
	s := newSplitter(t, 1, Params{64, 256, 1024})
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		if got := fmt.Sprintf(verb, s); got != "gear-1(min 64, max 1024)" {
			t.Errorf("%s prints %s", verb, got)
		}
	}
}

func TestCutDoesNotAllocate(t *testing.T) {
	s := newSplitter(t, 1, Params{64, 256, 1024})
	data := randomBytes(1, 4096)
	if n := testing.AllocsPerRun(100, func() { s.Cut(data, 0, false) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzCut(f *testing.F) {
	f.Add([]byte{}, uint16(0), true)
	f.Add(bytes.Repeat([]byte("abc"), 500), uint16(700), false)
	p := Params{64, 256, 1024}
	s := newSplitter(f, 1, p)
	f.Fuzz(func(t *testing.T, data []byte, fed uint16, final bool) {
		var want []int
		if want = model(s, data, p); len(want) == 0 {
			want = []int{0}
		}
		first := int(fed) % (len(data) + 1)
		n := s.Cut(data[:first], 0, false)
		if n == 0 {
			n = s.Cut(data, first, true)
		}
		if n != want[0] {
			t.Fatalf("cut at %d, want %d", n, want[0])
		}
		n = s.Cut(data, 0, final)
		if n != want[0] && (final || n != 0 || len(want) > 1) {
			t.Fatalf("cut at %d, want %d, final %t", n, want[0], final)
		}
	})
}

func BenchmarkCut(b *testing.B) {
	data := randomBytes(1, 16<<20)
	for _, p := range []Params{{256 << 10, 1 << 20, 4 << 20}, {64, 1 << 20, 4 << 20}, {16 << 10, 64 << 10, 256 << 10}} {
		s := newSplitter(b, 1, p)
		b.Run(fmt.Sprintf("min=%d,avg=%d", p.Min, p.Avg), func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				for rest := data; len(rest) > 0; rest = rest[s.Cut(rest, 0, true):] {
				}
			}
		})
	}
}

func BenchmarkNew(b *testing.B) {
	for b.Loop() {
		newSplitter(b, 1, Params{256 << 10, 1 << 20, 4 << 20})
	}
}
