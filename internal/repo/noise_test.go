package repo

import (
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// After blocks that do not compress, samples decide; what has anything in them that
// does is compressed whole, and every now and then a block is tried whole anyway.
func TestNoise(t *testing.T) {
	enc, err := Default.encoder()
	if err != nil {
		t.Fatal(err)
	}
	var n noise
	random := randomBytes(1, BlockBytes)
	judged := func(plain []byte) (sampled bool) {
		b := &block{buf: plain, n: len(plain), noise: &n}
		if isNoise(enc, b, nil) {
			return true
		}
		n.tried(len(enc.EncodeAll(plain, nil)) < len(plain)-len(plain)/64)
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
		m := noise{}
		m.blocks.Store(noisyAfter)
		if isNoise(enc, &block{buf: mixed, n: len(mixed), noise: &m}, nil) {
			t.Errorf("text at %d is taken for noise", at)
		}
	}
	if short := random[:2*samples*sampleBytes-1]; judged(short) {
		t.Error("a short block is judged by samples")
	}
	if judged(text(3, BlockBytes)) || n.expected() {
		t.Error("a block that compresses ends nothing")
	}
}

// What is judged by samples is stored, and read, as anything else.
func TestNoiseRoundTrip(t *testing.T) {
	b := &block{buf: randomBytes(1, 3<<20), n: 3 << 20, noise: new(noise)}
	b.noise.blocks.Store(noisyAfter)
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	want := slices.Clone(b.buf)
	scratch := make([]byte, 10)
	if !isNoise(enc, b, scratch) || !slices.Equal(b.buf, want) {
		t.Error("samples change the block")
	}
}
