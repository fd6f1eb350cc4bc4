// Package chunk finds the points at which a stream is split into chunks.
//
// The points depend on content only: an insertion moves the points around it
// and no others, so that two versions of a file share most of their chunks.
// They also depend on a key, so that two repositories split the same file
// differently.
//
// The package is pure arithmetic on byte slices. It must not know of files,
// packs, identifiers or configuration, and it holds no mutable state.
//
// # Algorithm gear-1
//
// The algorithm is part of the repository's format: the same key and parameters
// give the same points for ever (testdata/gear-1.txt, never regenerated).
//
//   - Table: G[0..255] are the 256 little-endian uint64 of the 2048 bytes
//     HKDF-Expand(SHA-256, PRK = key, info = "backup-handler gear-1").
//   - Hash: H(n) = sum of G[b[n-i]] << (i-1) for i = 1..64, modulo 2^64, where
//     b[n-1] is the last byte of the first n of the chunk. That is what
//     h = h<<1 + G[b] computes: a byte leaves the hash after 64 steps.
//   - Parameters Min, Avg, Max in bytes; let
//     Normal = Min + (3*Avg - 4*Min) * 9 / 32, rounded down.
//   - A chunk ends at the smallest n, Min <= n < Max, with H(n) < T(n), where
//     T(n) = 2^64 / (4*Avg) for n < Normal and 2^64 / (Avg/4) from there on;
//     failing that at Max, or where the stream ends.
//
// H < 2^k asks that the 64-k highest bits are zero: the highest depends on all 64
// bytes of the window, the others on a few bytes less. Two thresholds
// ("normalised chunking", Xia et al., FastCDC, USENIX ATC 2016) narrow the spread
// of sizes. With rates 1/(4*Avg) and then 4/Avg the mean size on random data is Avg
// where Normal = Min - 4*Avg*ln((Min/Avg+3)/3.75); the formula above stands in for
// that curve in integers, and keeps the mean within 4 % of Avg for every permitted
// Min.
//
// # What the key is worth
//
// Gear with a secret table is not a pseudo-random function. Alexeev, Percival
// and Zhang (ePrint 2025/532) and Truong, Merz, Scarlata, Günther and Paterson
// (ePrint 2025/558) recover the keys of such chunkers from the sizes of stored
// chunks of known or chosen files, and then recognise files by their sizes. The
// key here slows that down; it is not the defence. The defence is that a
// repository does not show the sizes: chunks lie inside compressed and sealed
// blocks, blocks in padded packs among others, and the tables that tell them
// apart are sealed. Whoever lists the store sees sizes of packs. Code that sends
// or stores single chunks visibly must not rely on this package for secrecy.
//
// Files: chunk.go (everything).
package chunk

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/bits"
)

// Algorithm is the name that a repository records for the split points of this
// package.
const Algorithm = "gear-1"

// Bounds on [Params], in bytes.
const (
	// MinSize is the least Min: the hash covers a window of 64 bytes, all of
	// which lie inside the chunk.
	MinSize = windowSize
	// MinAvg and MaxAvg bound Avg. Below 64 KiB an index entry costs a
	// noticeable share of the chunk; so small values are meant for tests. Above
	// 16 MiB little is deduplicated.
	MinAvg = 256
	MaxAvg = 16 << 20
	// MaxSize is the greatest Max: a writer holds several chunks in memory.
	MaxSize = 64 << 20
)

const (
	windowSize = 64 // bytes that influence a 64-bit hash shifted by 1 per byte
	tableInfo  = "backup-handler gear-1"
)

// Params are the sizes of chunks, in bytes. Every chunk but the last of a stream
// has at least Min bytes, none has more than Max, and the mean on random data is
// Avg.
type Params struct {
	Min, Avg, Max int
}

// Validate reports the first bound that p breaks: Avg is a power of two in
// [MinAvg, MaxAvg], MinSize <= Min <= Avg/2, and 2*Avg <= Max <= MaxSize. With
// Min above Avg/2 or Max below 2*Avg the mean could not be Avg.
func (p Params) Validate() error {
	switch {
	case p.Avg < MinAvg || p.Avg > MaxAvg:
		return fmt.Errorf("average chunk size %d is not between %d and %d", p.Avg, MinAvg, MaxAvg)
	case p.Avg&(p.Avg-1) != 0:
		return fmt.Errorf("average chunk size %d is not a power of two", p.Avg)
	case p.Min < MinSize || p.Min > p.Avg/2:
		return fmt.Errorf("minimum chunk size %d is not between %d and half the average, %d", p.Min, MinSize, p.Avg/2)
	case p.Max < 2*p.Avg || p.Max > MaxSize:
		return fmt.Errorf("maximum chunk size %d is not between twice the average, %d, and %d", p.Max, 2*p.Avg, MaxSize)
	}
	return nil
}

// A Splitter finds split points for one key and one set of parameters. It is
// immutable; any number of goroutines may use it.
type Splitter struct {
	min, normal, max int
	hard, easy       uint64 // thresholds before and from normal
	table            [256]uint64
}

// New derives a splitter from a key, which should be uniformly random, and p,
// which must be valid. It costs some 20 µs and 2 KiB.
func New(key [32]byte, p Params) (*Splitter, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	avgBits := bits.Len(uint(p.Avg)) - 1
	s := &Splitter{
		min:    p.Min,
		normal: p.Min + (3*p.Avg-4*p.Min)*9/32,
		max:    p.Max,
		hard:   1 << (64 - (avgBits + 2)),
		easy:   1 << (64 - (avgBits - 2)),
	}
	okm, err := hkdf.Expand(sha256.New, key[:], tableInfo, len(s.table)*8)
	if err != nil {
		return nil, fmt.Errorf("derive gear table: %w", err)
	}
	for i := range s.table {
		s.table[i] = binary.LittleEndian.Uint64(okm[8*i:])
	}
	return s, nil
}

// Format keeps the table, which is as secret as the key, out of messages.
func (s *Splitter) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "%s(min %d, max %d)", Algorithm, s.min, s.max)
}

// MaxSize returns the greatest length of a chunk, and so the least buffer with
// which [Splitter.Cut] always decides.
func (s *Splitter) MaxSize() int { return s.max }

// Cut returns the length of the chunk that begins at data[0], or 0 if that takes
// more data than there is, which happens only when final is false and data is
// shorter than MaxSize.
//
// Final says that the stream ends with data; then the rest may be a chunk
// shorter than the minimum, and only an empty data gives 0. Scanned is how many
// of the first bytes an earlier call for the same chunk has examined, that is
// len(data) of a call that returned 0, so that no byte is examined twice; 0 is
// always correct. The result does not depend on how a stream is portioned.
//
// Cut panics if scanned is not between 0 and len(data).
func (s *Splitter) Cut(data []byte, scanned int, final bool) int {
	if scanned < 0 || scanned > len(data) {
		panic(fmt.Sprintf("chunk: %d bytes scanned of %d", scanned, len(data)))
	}
	end := min(len(data), s.max)
	// pos is the next byte to take in; a cut after it makes a chunk of pos+1
	// bytes, so that the first one tested is exactly the minimum.
	pos := max(scanned, s.min-1)
	if pos < end {
		h := prime(&s.table, data[pos-(windowSize-1):pos])
		if hardEnd := min(s.normal-1, end); pos < hardEnd {
			var n int
			if n, h = scan(&s.table, data[pos:hardEnd], h, s.hard); n > 0 {
				return pos + n
			}
			pos = hardEnd
		}
		if n, _ := scan(&s.table, data[pos:end], h, s.easy); n > 0 {
			return pos + n
		}
	}
	if final || end == s.max {
		return end
	}
	return 0
}

// prime takes data into an empty hash.
func prime(table *[256]uint64, data []byte) uint64 {
	var h uint64
	for _, b := range data {
		h = h<<1 + table[b]
	}
	return h
}

// scan takes data into h byte by byte and stops after the first byte that
// brings h below limit. It returns how many bytes that took, or 0 if none did,
// and the hash.
//
// Two bytes at a time, h depends on its previous value by one shift and one
// addition instead of two of each, which on one core of an AMD EPYC makes
// 2.6 GB/s of 1.7; sixteen bytes per round, through an array pointer, leave no
// bounds checks and little loop.
func scan(table *[256]uint64, data []byte, h, limit uint64) (int, uint64) {
	i := 0
	for ; i+16 <= len(data); i += 16 {
		p := (*[16]byte)(data[i:])

		a := table[p[0]]
		ab := a<<1 + table[p[1]]
		mid := h<<1 + a
		h = h<<2 + ab
		if mid < limit {
			return i + 1, mid
		}
		if h < limit {
			return i + 2, h
		}

		a = table[p[2]]
		ab = a<<1 + table[p[3]]
		mid = h<<1 + a
		h = h<<2 + ab
		if mid < limit {
			return i + 3, mid
		}
		if h < limit {
			return i + 4, h
		}

		a = table[p[4]]
		ab = a<<1 + table[p[5]]
		mid = h<<1 + a
		h = h<<2 + ab
		if mid < limit {
			return i + 5, mid
		}
		if h < limit {
			return i + 6, h
		}

		a = table[p[6]]
		ab = a<<1 + table[p[7]]
		mid = h<<1 + a
		h = h<<2 + ab
		if mid < limit {
			return i + 7, mid
		}
		if h < limit {
			return i + 8, h
		}

		a = table[p[8]]
		ab = a<<1 + table[p[9]]
		mid = h<<1 + a
		h = h<<2 + ab
		if mid < limit {
			return i + 9, mid
		}
		if h < limit {
			return i + 10, h
		}

		a = table[p[10]]
		ab = a<<1 + table[p[11]]
		mid = h<<1 + a
		h = h<<2 + ab
		if mid < limit {
			return i + 11, mid
		}
		if h < limit {
			return i + 12, h
		}

		a = table[p[12]]
		ab = a<<1 + table[p[13]]
		mid = h<<1 + a
		h = h<<2 + ab
		if mid < limit {
			return i + 13, mid
		}
		if h < limit {
			return i + 14, h
		}

		a = table[p[14]]
		ab = a<<1 + table[p[15]]
		mid = h<<1 + a
		h = h<<2 + ab
		if mid < limit {
			return i + 15, mid
		}
		if h < limit {
			return i + 16, h
		}
	}
	for ; i < len(data); i++ {
		h = h<<1 + table[data[i]]
		if h < limit {
			return i + 1, h
		}
	}
	return 0, h
}
