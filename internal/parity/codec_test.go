package parity

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"testing"
)

const golden = "62574d59f45b1eb6"

func random(seed uint64, n int) []byte {
	rnd := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	b := make([]byte, n)
	rnd.Read(b)
	return b
}

func encode(t testing.TB, percent int, object []byte) []byte {
	t.Helper()
	e, err := NewEncoder(percent)
	if err != nil {
		t.Fatal(err)
	}
	for p := object; len(p) > 0; { // in pieces of odd sizes
		n := min(len(p), 1+len(p)*7/11)
		e.Write(p[:n])
		p = p[n:]
	}
	return e.Finish("packs/x")
}

func mended(t *testing.T, raw, damaged []byte, size int) ([]byte, error) {
	t.Helper()
	d, err := Decode("packs/x", raw)
	if err != nil {
		return nil, err
	}
	p, err := d.Mend(damaged)
	if err != nil {
		return nil, err
	}
	if int(p.Size) != size {
		t.Fatalf("size %d, not %d", p.Size, size)
	}
	out := make([]byte, size)
	copy(out, damaged)
	p.Apply(out, 0)
	// In parts, too.
	for off := 0; off < size; off += 10_007 {
		n := min(10_007, size-off)
		part := make([]byte, n)
		if off < len(damaged) {
			copy(part, damaged[off:])
		}
		p.Apply(part, int64(off))
		if !bytes.Equal(part, out[off:off+n]) {
			t.Fatalf("part at %d differs from the whole", off)
		}
	}
	return out, nil
}

// As much as the share of the parity comes back, wherever it is lost: single bits, whole
// sectors, one after the other or scattered, in the object and in the parity.
func TestMend(t *testing.T) {
	for _, size := range []int{1, 600, 4095, 4096, 4097, 8192, 3 << 20, 17<<20 + 5, 35 << 20} {
		for _, percent := range []int{1, 5, 20, 50, 100} {
			if size > 4<<20 && (percent != 5 || testing.Short()) || size > 1<<20 && percent > 20 && testing.Short() {
				continue
			}
			object := random(uint64(size), size)
			raw := encode(t, percent, object)
			d, err := Decode("packs/x", raw)
			if err != nil {
				t.Fatalf("%d bytes, %d%%: %v", size, percent, err)
			}
			if got := float64(len(raw)) / float64(size); size > 1<<20 && got > 1.17*float64(percent)/100+0.004 {
				t.Errorf("%d bytes, %d%%: parity of %.4f", size, percent, got)
			}
			rnd := rand.New(rand.NewPCG(uint64(size), uint64(percent)))
			budget := d.rows * d.m // in one piece, so many are spread evenly
			t.Run("", func(t *testing.T) {
				damaged := bytes.Clone(object)
				first := 0
				if n := d.cells - budget; n > 0 {
					first = rnd.IntN(n)
				}
				from, to := first*cellBytes, min(size, (first+budget)*cellBytes)
				copy(damaged[from:to], random(9, to-from))
				if got, err := mended(t, raw, damaged, size); err != nil || !bytes.Equal(got, object) {
					t.Errorf("%d bytes, %d%%, %d cells in a row: %v", size, percent, budget, err)
				}
				// Truncated by as much.
				if got, err := mended(t, raw, object[:max(0, size-budget*cellBytes+cellBytes)], size); err != nil || !bytes.Equal(got, object) {
					t.Errorf("%d bytes, %d%%, truncated: %v", size, percent, err)
				}
				// Scattered bits, in each row as many as it has cells left, and the
				// rest of them in the parity.
				damaged, half := bytes.Clone(object), bytes.Clone(raw)
				for row := range d.rows {
					n := rnd.IntN(d.m + 1)
					var cells []int
					for i := row; i < d.cells; i += d.rows {
						cells = append(cells, i)
					}
					rnd.Shuffle(len(cells), func(i, j int) { cells[i], cells[j] = cells[j], cells[i] })
					for _, i := range cells[:min(n, len(cells))] {
						at := min(size-1, i*cellBytes+rnd.IntN(cellBytes))
						damaged[at] ^= 1 << rnd.IntN(8)
					}
					for j := range d.m - min(n, len(cells)) {
						half[headBytes+int(d.sumBytes())+(j*d.rows+row)*cellBytes+rnd.IntN(cellBytes)] ^= 4
					}
				}
				// And one head and one list of sums.
				half[rnd.IntN(headBytes)] ^= 1
				half[headBytes+rnd.IntN(int(d.sumBytes()))] ^= 1
				if got, err := mended(t, half, damaged, size); err != nil || !bytes.Equal(got, object) {
					t.Errorf("%d bytes, %d%%, scattered: %v", size, percent, err)
				}
			})
		}
	}
}

// More damage than parity is an error, never other bytes.
func TestMendTooMuch(t *testing.T) {
	object := random(1, 5<<20)
	raw := encode(t, 5, object)
	d, err := Decode("packs/x", raw)
	if err != nil {
		t.Fatal(err)
	}
	damaged := bytes.Clone(object)
	for i := range d.m + 1 { // of the same row
		damaged[i*d.rows*cellBytes] ^= 1
	}
	if _, err := d.Mend(damaged); !errors.Is(err, ErrTooMuch) {
		t.Errorf("one cell too many: %v", err)
	}
	if _, err := d.Mend(random(2, len(object))); !errors.Is(err, ErrTooMuch) {
		t.Errorf("another object: %v", err)
	}
	if _, err := Decode("packs/y", raw); !errors.Is(err, ErrNone) {
		t.Errorf("under another name: %v", err)
	}
	for _, n := range []int{0, 1, headBytes, len(raw) - 1} {
		if _, err := Decode("packs/x", raw[:n]); !errors.Is(err, ErrNone) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

// The code is what docs/format.md says, computed here without the library.
func TestFormat(t *testing.T) {
	mul := func(a, b byte) (p byte) {
		for ; b > 0; b >>= 1 {
			if b&1 > 0 {
				p ^= a
			}
			carry := a & 0x80
			if a <<= 1; carry > 0 {
				a ^= 0x1d
			}
		}
		return p
	}
	inv := func(a byte) byte {
		for b := range 256 {
			if mul(a, byte(b)) == 1 {
				return byte(b)
			}
		}
		t.Fatal("no inverse")
		return 0
	}
	object := random(3, 300*cellBytes+77) // two rows
	raw := encode(t, 5, object)
	d, err := Decode("packs/x", raw)
	if err != nil {
		t.Fatal(err)
	}
	if d.q != 241 || d.rows != 2 || d.m != 8 || d.cells != 301 {
		t.Fatalf("%+v", d.shape)
	}
	padded := append(bytes.Clone(object), make([]byte, cellBytes)...)
	for row := range d.rows {
		for j := range d.m {
			for _, at := range []int{0, 1, 4095} {
				var want byte
				for i := row; i < d.cells; i += d.rows {
					want ^= mul(padded[i*cellBytes+at], inv(byte((d.q+j)^(i%d.q))))
				}
				if got := d.raw[(j*d.rows+row)*cellBytes+at]; got != want {
					t.Fatalf("row %d, parity %d, byte %d: %d, not %d", row, j, at, got, want)
				}
			}
		}
	}
	// Never to be regenerated.
	sum := sha256.Sum256(raw)
	if got := hex.EncodeToString(sum[:8]); got != golden {
		t.Errorf("the object of this version: %s", got)
	}
}

func FuzzDecode(f *testing.F) {
	for _, size := range []int{600, 9000} { // few columns: the library's matrices are slow here
		e := &Encoder{percent: 100, q: 5, m: 3, rows: make([][][]byte, manyRows)}
		e.rs, _ = newCode(e.q, e.m)
		e.Write(random(1, size))
		f.Add(e.Finish("packs/x"), random(1, size))
		f.Add(e.Finish("packs/x"), random(1, size/2))
	}
	f.Fuzz(func(t *testing.T, raw, object []byte) {
		d, err := Decode("packs/x", raw)
		if err != nil || d.q > 16 {
			return
		}
		if p, err := d.Mend(object); err == nil {
			buf := make([]byte, min(p.Size, 1<<16))
			p.Apply(buf, 0)
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	object := random(1, 32<<20)
	b.SetBytes(int64(len(object)))
	for b.Loop() {
		e, _ := NewEncoder(5)
		e.Write(object)
		e.Finish("packs/x")
	}
}

func BenchmarkMend(b *testing.B) {
	object := random(1, 32<<20)
	raw := encode(b, 5, object)
	for i := range 100 {
		object[i*300_000] ^= 1
	}
	b.SetBytes(int64(len(object)))
	for b.Loop() {
		d, err := Decode("packs/x", raw)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := d.Mend(object); err != nil {
			b.Fatal(err)
		}
	}
}
