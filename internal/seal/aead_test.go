package seal

import (
	"bytes"
	"crypto/sha3"
	"encoding/hex"
	"errors"
	"sync"
	"testing"
)

func repeated(b byte) (key [KeySize]byte) {
	for i := range key {
		key[i] = b
	}
	return key
}

// TestXAESVectors has the vectors of https://c2sp.org/XAES-256-GCM.
func TestXAESVectors(t *testing.T) {
	nonce := Nonce([]byte("ABCDEFGHIJKLMNOPQRSTUVWX"))
	for _, tt := range []struct {
		key  byte
		k1   string
		aad  string
		want string
	}{
		{1, "e531954aca063d5b8d9c47a47d4cc6f0", "",
			"ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"},
		{3, "23810ec50edb99f374409466ed1f4b7b", "c2sp.org/XAES-256-GCM",
			"986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"},
	} {
		x := NewAEAD(repeated(tt.key))
		if got := hex.EncodeToString(x.k1[:]); got != tt.k1 {
			t.Errorf("key %d: K1 %s, want %s", tt.key, got, tt.k1)
		}
		for range 2 { // derived, then remembered
			sealed := x.Seal(nil, nonce, []byte("XAES-256-GCM"), []byte(tt.aad))
			if got := hex.EncodeToString(sealed); got != tt.want {
				t.Errorf("key %d: %s, want %s", tt.key, got, tt.want)
			}
			plain, err := x.Open(nil, nonce, sealed, []byte(tt.aad))
			if err != nil || string(plain) != "XAES-256-GCM" {
				t.Errorf("key %d: opened %q, %v", tt.key, plain, err)
			}
		}
	}
}

// TestXAESAccumulated is the specification's randomised test.
func TestXAESAccumulated(t *testing.T) {
	s, d := sha3.NewSHAKE128(), sha3.NewSHAKE128()
	read := func(n int) []byte {
		b := make([]byte, n)
		s.Read(b)
		return b
	}
	for range 10_000 {
		x := NewAEAD([KeySize]byte(read(KeySize)))
		nonce := Nonce(read(NonceSize))
		plaintext := read(int(read(1)[0]))
		aad := read(int(read(1)[0]))
		sealed := x.Seal(nil, nonce, plaintext, aad)
		if len(sealed) != len(plaintext)+Overhead {
			t.Fatalf("%d bytes sealed are %d", len(plaintext), len(sealed))
		}
		opened, err := x.Open(nil, nonce, sealed, aad)
		if err != nil || !bytes.Equal(opened, plaintext) {
			t.Fatalf("opened %x, %v", opened, err)
		}
		d.Write(sealed)
	}
	sum := make([]byte, 32)
	d.Read(sum)
	if got, want := hex.EncodeToString(sum), "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939"; got != want {
		t.Errorf("hash %s, want %s", got, want)
	}
}

func TestAEADRefuses(t *testing.T) {
	x := NewAEAD(repeated(1))
	nonce := Nonce{1, 2, 3}
	aad := []byte("aad")
	sealed := x.Seal(nil, nonce, []byte("plaintext"), aad)
	refused := func(what string, x *AEAD, nonce Nonce, sealed, aad []byte) {
		t.Helper()
		if b, err := x.Open(nil, nonce, sealed, aad); !errors.Is(err, ErrCorrupt) || b != nil {
			t.Errorf("%s: %q, %v", what, b, err)
		}
	}
	for i := range 8 * len(sealed) {
		b := bytes.Clone(sealed)
		b[i/8] ^= 1 << (i % 8)
		refused("flipped sealed bit", x, nonce, b, aad)
	}
	for i := range 8 * NonceSize {
		n := nonce
		n[i/8] ^= 1 << (i % 8)
		refused("flipped nonce bit", x, n, sealed, aad)
	}
	for n := range len(sealed) {
		refused("cut short", x, nonce, sealed[:n], aad)
	}
	refused("other aad", x, nonce, sealed, []byte("aae"))
	refused("no aad", x, nonce, sealed, nil)
	refused("other key", NewAEAD(repeated(2)), nonce, sealed, aad)
}

func TestAEADInPlaceAndAppend(t *testing.T) {
	x := NewAEAD(repeated(1))
	buf := append(make([]byte, 0, 100), "in place"...)
	sealed := x.Seal(buf[:0], Nonce{}, buf, nil)
	if &sealed[0] != &buf[0] {
		t.Error("not sealed in place")
	}
	opened, err := x.Open(sealed[:0], Nonce{}, sealed, nil)
	if err != nil || string(opened) != "in place" || &opened[0] != &buf[0] {
		t.Errorf("opened %q, %v", opened, err)
	}
	if got := x.Seal([]byte("head"), Nonce{}, nil, nil); len(got) != 4+Overhead || string(got[:4]) != "head" {
		t.Errorf("appended to %x", got)
	}
}

// TestAEADConcurrent makes prefixes collide in the cache; run it with -race.
func TestAEADConcurrent(t *testing.T) {
	x := NewAEAD(repeated(1))
	var wg sync.WaitGroup
	for g := range byte(8) {
		wg.Go(func() {
			for i := range 200 {
				nonce := Nonce{byte(i%3) * cacheSlots, g, 23: byte(i)}
				sealed := x.Seal(nil, nonce, []byte{g}, nil)
				fresh := NewAEAD(repeated(1))
				if b, err := fresh.Open(nil, nonce, sealed, nil); err != nil || b[0] != g {
					t.Errorf("opened %x, %v", b, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestAEADDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes sync.Pool drop entries")
	}
	x := NewAEAD(repeated(1))
	plaintext := make([]byte, 4096)
	sealed := make([]byte, 0, 4096+Overhead)
	opened := make([]byte, 0, 4096)
	nonce := Nonce{5}
	if n := testing.AllocsPerRun(100, func() {
		nonce[23]++
		sealed = x.Seal(sealed[:0], nonce, plaintext, nil)
		if _, err := x.Open(opened, nonce, sealed, nil); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkAEAD(b *testing.B) {
	for _, size := range []struct {
		name string
		n    int
	}{{"4KiB", 4 << 10}, {"1MiB", 1 << 20}} {
		x := NewAEAD(repeated(1))
		plaintext := make([]byte, size.n)
		sealed := x.Seal(nil, Nonce{}, plaintext, nil)
		b.Run("seal/"+size.name, func(b *testing.B) {
			b.SetBytes(int64(size.n))
			b.ReportAllocs()
			for b.Loop() {
				x.Seal(sealed[:0], Nonce{}, plaintext, nil)
			}
		})
		sealed = x.Seal(nil, Nonce{}, plaintext, nil)
		b.Run("open/"+size.name, func(b *testing.B) {
			b.SetBytes(int64(size.n))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := x.Open(plaintext[:0], Nonce{}, sealed, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("new prefix", func(b *testing.B) {
		x := NewAEAD(repeated(1))
		var nonce Nonce
		out := make([]byte, 0, Overhead)
		for b.Loop() {
			nonce[1]++
			x.Seal(out, nonce, nil, nil)
		}
	})
}
