package guard

import (
	"bytes"
	"compress/flate"
	"encoding/base64"
	"math/rand/v2"
	"strings"
	"testing"
)

func random(rnd *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rnd.Uint32() >> 9)
	}
	return b
}

func TestNoise(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	for _, n := range []int{512, 513, 700, 1024, 4096, 5000} {
		for range 2000 {
			if b := random(rnd, n); !Noise(b) {
				t.Fatalf("%d random bytes are not noise: %.0f", n, chiSquare(b[:min(n, SampleBytes)]))
			}
		}
	}
	ascending := make([]byte, 4096)
	for i := range ascending {
		ascending[i] = byte(i)
	}
	half := random(rnd, 4096)
	copy(half[2048:], bytes.Repeat([]byte("half of it are words. "), 100))
	for name, b := range map[string][]byte{
		"nothing": nil, "few": random(rnd, 511), "zeros": make([]byte, 4096), "ascending": ascending, "half": half,
		"words":  []byte(strings.Repeat("the quick brown fox jumps over the lazy dog. ", 100)),
		"base64": []byte(base64.StdEncoding.EncodeToString(random(rnd, 3000))),
	} {
		if Noise(b) {
			t.Errorf("%s are noise", name)
		}
	}
}

// What is compressed is noise or not; its header says that it is to be so.
func TestHeader(t *testing.T) {
	var z bytes.Buffer
	w, _ := flate.NewWriter(&z, 9)
	_, _ = w.Write(random(rand.New(rand.NewPCG(2, 2)), 5000))
	w.Close()
	for name, head := range map[string]string{
		"docx": "PK\x03\x04\x14\x00", "jpg": "\xff\xd8\xff\xe0", "mp4": "\x00\x00\x00\x20ftypisom\x00\x00", "mp3": "\xff\xfb\x90\x64", "pdf": "%PDF-1.7", "gz": "\x1f\x8b\x08",
	} {
		if !Header(append([]byte(head), z.Bytes()...)) {
			t.Errorf("%s has no header", name)
		}
	}
	for name, b := range map[string]string{"nothing": "", "OpenSSL": "Salted__12345678", "age": "age-encryption.org/v1", "words": "Dear Sir"} {
		if Header([]byte(b)) {
			t.Errorf("%s has a header", name)
		}
	}
	rnd, hits := rand.New(rand.NewPCG(3, 3)), 0
	for range 100_000 {
		if Header(random(rnd, 64)) {
			hits++
		}
	}
	if hits > 200 { // a frame of MPEG audio is 11 bits
		t.Errorf("%d of 100,000 random files have a header", hits)
	}
	for name, want := range map[string]bool{"a.JPG": true, "a.docx": true, "a.txt": false, "a": false, ".zip": true, "a.jpg.locked": false} {
		if Promises(name) != want {
			t.Errorf("%s: %v", name, !want)
		}
	}
}

func BenchmarkNoise(b *testing.B) {
	rnd := rand.New(rand.NewPCG(4, 4))
	for name, data := range map[string][]byte{"random": random(rnd, 4096), "words": bytes.Repeat([]byte("Dear Sir, "), 500)} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				Noise(data)
			}
		})
	}
}
