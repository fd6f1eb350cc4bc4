package seal

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"strings"
	"testing"
)

func TestObjectRoundTrip(t *testing.T) {
	x := NewAEAD(repeated(1))
	for _, n := range []int{0, 1, 15, 16, 17, 100_000} {
		body := bytes.Repeat([]byte{7}, n)
		object := x.SealObject([]byte("head"), 3, []byte("name"), body)[4:]
		if len(object) != n+ObjectOverhead {
			t.Errorf("body of %d bytes: object of %d", n, len(object))
		}
		got, err := x.OpenObject([]byte("head"), 3, []byte("name"), object)
		if err != nil || string(got) != "head"+string(body) {
			t.Errorf("body of %d bytes: opened %d, %v", n, len(got), err)
		}
	}
	a, b := x.SealObject(nil, 3, nil, nil), x.SealObject(nil, 3, nil, nil)
	if bytes.Equal(a, b) {
		t.Error("two objects are equal")
	}
}

func TestObjectRefuses(t *testing.T) {
	x := NewAEAD(repeated(1))
	aad := []byte("name")
	object := x.SealObject(nil, 3, aad, []byte("body"))
	for i := range 8 * len(object) {
		bad := bytes.Clone(object)
		bad[i/8] ^= 1 << (i % 8)
		b, err := x.OpenObject(nil, 3, aad, bad)
		if i/8 == 4 && bad[4] > 1 {
			var newer *NewerVersionError
			if !errors.As(err, &newer) || newer.Version != int(bad[4]) || b != nil {
				t.Errorf("version %d: %v", bad[4], err)
			}
			continue
		}
		if !errors.Is(err, ErrCorrupt) || b != nil {
			t.Errorf("bit %d flipped: %q, %v", i, b, err)
		}
	}
	for n := range len(object) {
		if _, err := x.OpenObject(nil, 3, aad, object[:n]); !errors.Is(err, ErrCorrupt) {
			t.Errorf("first %d bytes: %v", n, err)
		}
	}
	for name, err := range map[string]error{
		"kind": second(x.OpenObject(nil, 4, aad, object)),
		"aad":  second(x.OpenObject(nil, 3, []byte("other"), object)),
		"tail": second(x.OpenObject(nil, 3, aad, append(bytes.Clone(object), 0))),
		"key":  second(NewAEAD(repeated(2)).OpenObject(nil, 3, aad, object)),
	} {
		if !errors.Is(err, ErrCorrupt) {
			t.Errorf("other %s: %v", name, err)
		}
	}
}

func second(_ []byte, err error) error { return err }

// TestObjectGolden opens an object of version 1; the file is never regenerated.
func TestObjectGolden(t *testing.T) {
	text, err := os.ReadFile("testdata/object-v1.hex")
	if err != nil {
		t.Fatal(err)
	}
	object, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	x := NewAEAD(repeated(1))
	body, err := x.OpenObject(nil, 'i', []byte("index/golden"), object)
	if err != nil || string(body) != "a sealed object of version 1" {
		t.Fatalf("opened %q, %v", body, err)
	}
	var nonce Nonce
	copy(nonce[:], object[objectHeaderSize:])
	if again := x.sealObject(nil, nonce, 'i', []byte("index/golden"), body); !bytes.Equal(again, object) {
		t.Errorf("sealed again: %x", again)
	}
}

func FuzzOpenObject(f *testing.F) {
	x := NewAEAD(repeated(1))
	object := x.SealObject(nil, 3, []byte("name"), []byte("body"))
	f.Add(object)
	f.Add([]byte("BHOB\x02"))
	f.Add(append([]byte("BHOB\x02\x03\x00\x00"), make([]byte, 60)...))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := x.OpenObject(nil, 3, []byte("name"), data)
		if err != nil && b != nil {
			t.Fatalf("data %x with error %v", b, err)
		}
		if err == nil && string(b) != "body" {
			t.Fatalf("forged %x", data)
		}
	})
}
