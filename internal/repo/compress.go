package repo

import (
	"fmt"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"
)

// Compression is how hard blocks are compressed.
type Compression string

// The levels of compression, as the configuration names them.
const (
	Fastest       Compression = "fastest"
	Default       Compression = "default"
	Better        Compression = "better"
	Best          Compression = "best"
	NoCompression Compression = "off"
)

// encoderWindow bounds how far back the compressor looks. Blocks are of some 1.75 MiB,
// and measured with 1 and 2 MiB their sizes are the same to the third digit, but each
// sealer keeps as much in memory.
const encoderWindow = 1 << 20

func newEncoder(level zstd.EncoderLevel) (*zstd.Encoder, error) {
	// No checksum: blocks are authenticated. One goroutine per encoder. What repeats
	// nothing may have fewer values than a byte has, as base64 and hexadecimal digits do.
	return zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(1), zstd.WithAllLitEntropyCompression(true),
		zstd.WithEncoderCRC(false), zstd.WithWindowSize(encoderWindow), zstd.WithLowerEncoderMem(true))
}

// A compressor compresses blocks for one goroutine.
type compressor struct {
	enc  *zstd.Encoder // of the level asked for; nil: nothing is compressed
	fast *zstd.Encoder // where enc gains next to nothing; nil: enc for all
}

func newCompressor(c Compression) (*compressor, error) {
	level := zstd.SpeedDefault
	switch c {
	case NoCompression:
		return new(compressor), nil
	case Fastest:
		level = zstd.SpeedFastest
	case Better:
		level = zstd.SpeedBetterCompression
	case Best:
		level = zstd.SpeedBestCompression
	case Default, "":
	default:
		return nil, fmt.Errorf("unknown compression %q", c)
	}
	enc, err := newEncoder(level)
	if err != nil || level != zstd.SpeedDefault {
		return &compressor{enc: enc}, err
	}
	fast, err := newEncoder(zstd.SpeedFastest)
	return &compressor{enc: enc, fast: fast}, err
}

// trend is what the blocks of a batch were like lately, so that not each of them has
// to be tried: samples stand for those that do not compress, and what the fast level
// makes as small as the default one is left to it. Sealers share it.
type trend struct {
	noise atomic.Int32 // blocks in a row that did not compress
	// What the next blocks are compressed by: the fast level while it is below 0,
	// the default one while it is above, both at 0. It counts towards 0.
	level atomic.Int32
}

const (
	// noisyAfter is how many blocks in a row have to be incompressible before
	// samples stand for the next ones; noisyFor is for how many, before one is
	// tried whole again.
	noisyAfter = 4
	noisyFor   = 12
	// Samples are pieces of a block at equal distances: together a twentieth of it.
	samples     = 12
	sampleBytes = 8 << 10

	// The default level has to save one byte in fastGain of what the fast one makes
	// of a block, to be worth half as much time again. In logs it saves less, in
	// source code and disk images several times as much: ADR 0020.
	fastGain = 40
	// fastFor and slowFor are for how many blocks one block tells.
	fastFor = 12
	slowFor = 48
)

// compress appends to dst what plain is compressed to; false if it is to be stored as
// it is.
func (c *compressor) compress(dst, plain []byte, t *trend) ([]byte, bool) {
	if c.enc == nil || c.isNoise(dst, plain, t) {
		return dst, false
	}
	out := c.encode(dst, plain, t)
	small := worthwhile(len(out)-len(dst), len(plain))
	t.tried(small)
	return out, small
}

// worthwhile says whether a block is stored compressed.
func worthwhile(compressed, plain int) bool { return compressed < plain-plain/64 }

func (c *compressor) encode(dst, plain []byte, t *trend) []byte {
	if c.fast == nil {
		return c.enc.EncodeAll(plain, dst)
	}
	switch level := t.level.Load(); {
	case level < 0:
		t.level.Add(1)
		return c.fast.EncodeAll(plain, dst)
	case level > 0:
		t.level.Add(-1)
		return c.enc.EncodeAll(plain, dst)
	}
	out := c.fast.EncodeAll(plain, dst)
	fast := len(out) - len(dst)
	out = c.enc.EncodeAll(plain, out[:len(dst)])
	switch size := len(out) - len(dst); {
	case !worthwhile(fast, len(plain)): // tells nothing about others
	case size > fast-fast/fastGain:
		t.level.Store(-fastFor)
	default:
		t.level.Store(slowFor)
	}
	return out
}

// isNoise says that compressing a block is not worth trying: the ones before it from
// the same batch were incompressible, and so are samples of this one. The free space
// of scratch is overwritten.
func (c *compressor) isNoise(scratch, plain []byte, t *trend) bool {
	if t.noise.Load() < noisyAfter || len(plain) < 2*samples*sampleBytes {
		return false
	}
	for i := range samples {
		at := (len(plain) - sampleBytes) / (samples - 1) * i
		out := c.enc.EncodeAll(plain[at:at+sampleBytes], scratch)
		if len(out)-len(scratch) < sampleBytes-sampleBytes/64 {
			return false
		}
	}
	t.tried(false)
	return true
}

// tried records how a block has compressed.
func (t *trend) tried(compressed bool) {
	switch {
	case compressed:
		t.noise.Store(0)
	case t.noise.Add(1) >= noisyAfter+noisyFor:
		t.noise.Store(noisyAfter - 1)
	}
}
