package repo

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func newTestCompressor(t *testing.T, c Compression) *compressor {
	t.Helper()
	out, err := newCompressor(c)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// After blocks that do not compress, samples decide; what has anything in them that
// does is compressed whole, and every now and then a block is tried whole anyway.
func TestNoise(t *testing.T) {
	c := newTestCompressor(t, Default)
	var n trend
	random := randomBytes(1, BlockBytes)
	judged := func(plain []byte) (sampled bool) {
		if c.isNoise(nil, plain, &n) {
			return true
		}
		n.tried(worthwhile(len(c.enc.EncodeAll(plain, nil)), len(plain)))
		return false
	}
	for i := range noisyAfter {
		if judged(random) {
			t.Fatalf("block %d is judged by samples", i)
		}
	}
	for range 3 { // rounds
		for i := range noisyFor {
			if !judged(random) {
				t.Fatalf("block %d behind %d that do not compress is tried whole", i, noisyAfter)
			}
		}
		if judged(random) {
			t.Fatal("no block is ever tried whole again")
		}
	}
	// An eighth that compresses is seen wherever it begins.
	for at := 0; at+BlockBytes/8 <= BlockBytes; at += BlockBytes / 16 {
		mixed := slices.Clone(random)
		copy(mixed[at:], text(2, BlockBytes/4))
		var m trend
		m.noise.Store(noisyAfter)
		if c.isNoise(nil, mixed, &m) {
			t.Errorf("text at %d is taken for noise", at)
		}
	}
	if short := random[:2*samples*sampleBytes-1]; judged(short) {
		t.Error("a short block is judged by samples")
	}
	if judged(text(3, BlockBytes)) || n.noise.Load() != 0 {
		t.Error("a block that compresses ends nothing")
	}
}

// The default level is left to the fast one where it gains next to nothing, block
// after block, and taken up again when it does.
func TestFastWhereDefaultGainsNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine: nothing for the race detector")
	}
	c := newTestCompressor(t, Default)
	var trend trend
	// In lines that differ in random bytes all levels find the same; what is made of
	// a few thousand words repeats from afar.
	flat := func(seed uint64) []byte {
		b := randomBytes(seed, BlockBytes)
		for i := 0; i+200 <= len(b); i += 200 {
			copy(b[i:i+100], strings.Repeat("the same in each line, ", 5))
		}
		return b
	}
	prose := func(seed uint64) []byte {
		words := randomBytes(seed, 20_000)
		pick := rand.New(rand.NewPCG(seed, 1))
		var b []byte
		for len(b) < BlockBytes {
			at := pick.IntN(len(words) - 9)
			b = append(b, words[at:at+3+pick.IntN(6)]...)
		}
		return b
	}
	compress := func(plain []byte) (fast bool) {
		fast = trend.level.Load() < 0
		out, ok := c.compress([]byte("head"), plain, &trend)
		if !ok || string(out[:4]) != "head" {
			t.Fatal("not compressed, or not appended")
		}
		want := c.enc
		if fast {
			want = c.fast
		}
		if !slices.Equal(out[4:], want.EncodeAll(plain, nil)) {
			t.Fatal("compressed by another level")
		}
		return fast
	}
	if compress(flat(1)) {
		t.Fatal("the first block is not compressed as asked for")
	}
	for i := range fastFor {
		if !compress(flat(uint64(i))) {
			t.Fatalf("block %d behind one that tells is not left to the fast level", i)
		}
	}
	for i := range 1 + slowFor {
		if compress(prose(uint64(i))) {
			t.Fatalf("block %d of text is left to the fast level", i)
		}
	}
	if trend.level.Load() != 0 {
		t.Errorf("the next block tells nothing: %d", trend.level.Load())
	}
	for _, level := range []Compression{Fastest, Better, Best} {
		if c := newTestCompressor(t, level); c.fast != nil {
			t.Errorf("%s is left to another level", level)
		}
	}
}

// Noise that is written down in fewer characters than there are bytes compresses to what
// it is, also after noise: pictures in mails, and in dumps of databases.
func TestWrittenNoise(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine: nothing for the race detector")
	}
	noise := randomBytes(1, BlockBytes)
	digits := []byte(hex.EncodeToString(noise))[:BlockBytes]
	var mail, rows []byte
	for i, encoded := 0, []byte(base64.StdEncoding.EncodeToString(noise)); i < BlockBytes-78; i += 76 {
		mail = append(append(mail, encoded[i:i+76]...), "\r\n"...)
	}
	for i := 0; i < BlockBytes-1000; i += 1000 {
		rows = fmt.Appendf(rows, "(%d,0x%s),\n", i, digits[i:i+1000])
	}
	for _, level := range []Compression{Fastest, Default, Better, Best} {
		c := newTestCompressor(t, level)
		for name, kind := range map[string]struct {
			plain []byte
			most  float64
		}{"hexadecimal": {digits, 0.515}, "rows": {rows, 0.53}, "base64": {mail, 0.76}} {
			var trend trend
			for range noisyAfter {
				c.compress(nil, noise, &trend)
			}
			for i := range 3 {
				out, ok := c.compress(nil, kind.plain, &trend)
				if ratio := float64(len(out)) / float64(len(kind.plain)); !ok || ratio > kind.most {
					t.Errorf("%s, %s, block %d: %.3f of what it was, not %.3f", level, name, i, ratio, kind.most)
				}
			}
		}
	}
}

func TestNoCompression(t *testing.T) {
	c := newTestCompressor(t, NoCompression)
	if _, ok := c.compress(nil, text(1, BlockBytes), new(trend)); ok {
		t.Error("compressed")
	}
	if _, err := newCompressor("hard"); err == nil {
		t.Error("an unknown level is taken")
	}
}

// Samples leave the block as it is.
func TestNoiseLeavesTheBlock(t *testing.T) {
	var n trend
	n.noise.Store(noisyAfter)
	plain := randomBytes(1, 3<<20)
	want := slices.Clone(plain)
	if !newTestCompressor(t, Default).isNoise(make([]byte, 0, 10), plain, &n) || !slices.Equal(plain, want) {
		t.Error("samples change the block")
	}
}
