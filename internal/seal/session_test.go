package seal

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"
)

func TestWriteOnlySlot(t *testing.T) {
	repoID := [RepoIDSize]byte{1}
	secret, err := NewSecret(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	all := NewKeys(secret)
	raw := bytes.Repeat([]byte{7}, KeySize)
	file, _ := NewKeyFile(raw)
	identity, err := GenerateIdentity(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, by := range []struct {
		l Locker
		c Credential
	}{{file, file}, {identity.Recipient(), identity}} {
		slot, err := WrapWriteOnly(rand.Reader, repoID, all, by.l, WrapOptions{Created: time.Now(), Label: "web"})
		if err != nil {
			t.Fatal(err)
		}
		slot, err = DecodeSlot(slot.Encode())
		if err != nil || slot.Role != RoleWrite || len(slot.Encode()) > MaxSlotSize {
			t.Fatal(err, slot)
		}
		got, _, err := Unwrap(repoID, []Slot{slot}, by.c)
		if err != nil {
			t.Fatal(err)
		}
		if got.Equal(secret) {
			t.Fatal("a write-only slot opens to the master secret")
		}
		keys, err := slot.Keys(repoID, got)
		if err != nil {
			t.Fatal(err)
		}
		if !keys.WriteOnly() || keys.Data != nil || keys.Meta != nil || all.WriteOnly() {
			t.Error("a write-only host has keys that it must not have")
		}
		hash := [32]byte{5}
		if keys.ChunkID(hash) != all.ChunkID(hash) || keys.Chunker() != all.Chunker() || keys.Fingerprint() != all.Fingerprint() ||
			keys.ConfigMAC([]byte("c")) != all.ConfigMAC([]byte("c")) {
			t.Error("its keys are others")
		}
		if out, err := all.Index.Open(nil, Nonce{}, keys.Index.Seal(nil, Nonce{}, []byte("x"), nil), nil); err != nil || string(out) != "x" {
			t.Error("index:", err)
		}
		// A slot of the whole repository goes first.
		full, err := Wrap(rand.Reader, repoID, secret, by.l, WrapOptions{Created: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		if got, i, err := Unwrap(repoID, []Slot{slot, full}, by.c); err != nil || i != 1 || !got.Equal(secret) {
			t.Errorf("slot %d: %v", i, err)
		}
		// Nobody turns one into the other.
		text := string(slot.Encode())
		for _, role := range []string{"", `"role": "read",`} {
			i := strings.Index(text, `"role"`)
			j := i + strings.Index(text[i:], "\n")
			if _, err := DecodeSlot([]byte(text[:i] + role + text[j:])); err == nil {
				t.Errorf("role %q decodes", role)
			}
		}
		bad := slot
		bad.grant = bytes.Clone(slot.grant)
		bad.grant[100] ^= 1
		if _, err := bad.Keys(repoID, got2(t, repoID, slot, by.c)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("an altered grant: %v", err)
		}
		if _, err := WrapWriteOnly(rand.Reader, repoID, keys, by.l, WrapOptions{Created: time.Now()}); err == nil {
			t.Error("a write-only host makes slots")
		}
	}
	if _, err := WrapWriteOnly(rand.Reader, repoID, all, None{}, WrapOptions{Created: time.Now()}); err == nil {
		t.Error("a write-only slot without a key")
	}
}

func got2(t *testing.T, repoID [RepoIDSize]byte, s Slot, c Credential) Secret {
	t.Helper()
	secret, _, err := Unwrap(repoID, []Slot{s}, c)
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

func TestSession(t *testing.T) {
	secret, _ := NewSecret(rand.Reader)
	all := NewKeys(secret)
	repoID, id := [RepoIDSize]byte{1}, [RepoIDSize]byte{2}
	file, _ := NewKeyFile(make([]byte, KeySize))
	slot, err := WrapWriteOnly(rand.Reader, repoID, all, file, WrapOptions{Created: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	host, err := slot.Keys(repoID, got2(t, repoID, slot, file))
	if err != nil {
		t.Fatal(err)
	}
	s, object, err := host.NewSession(repoID, id)
	if err != nil || len(object) != SessionSize {
		t.Fatal(err, len(object))
	}
	opened, err := all.OpenSession(repoID, id, object)
	if err != nil {
		t.Fatal(err)
	}
	sealed := s.Data.Seal(nil, Nonce{}, []byte("block"), nil)
	if out, err := opened.Data.Open(nil, Nonce{}, sealed, nil); err != nil || string(out) != "block" {
		t.Error(err)
	}
	if _, err := opened.Meta.Open(nil, Nonce{}, sealed, nil); err == nil {
		t.Error("blocks and snapshots have the same key")
	}
	if _, err := all.Data.Open(nil, Nonce{}, sealed, nil); err == nil {
		t.Error("sealed with the data key")
	}
	if _, err := host.OpenSession(repoID, id, object); err == nil {
		t.Error("the host opens its session again")
	}
	for i := range object {
		bad := bytes.Clone(object)
		bad[i] ^= 1
		if i%97 == 0 || i < 8 || i > len(object)-20 {
			if _, err := all.OpenSession(repoID, id, bad); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("byte %d: %v", i, err)
			}
		}
	}
	for _, x := range [][2][RepoIDSize]byte{{{9}, id}, {repoID, {9}}} {
		if _, err := all.OpenSession(x[0], x[1], object); !errors.Is(err, ErrCorrupt) {
			t.Errorf("elsewhere: %v", err)
		}
	}
}

// writeOnlyGolden is what version 1 of the format has made once.
type writeOnlyGolden struct{ Slot, Session, Block, Snapshot []byte }

// What was written once opens for ever.
func TestWriteOnlyGolden(t *testing.T) {
	text, err := os.ReadFile("testdata/writeonly.json")
	if err != nil {
		t.Fatal(err)
	}
	var g writeOnlyGolden
	if err := json.Unmarshal(text, &g); err != nil {
		t.Fatal(err)
	}
	var key [SecretSize]byte
	for i := range key {
		key[i] = byte(i * 7)
	}
	all := NewKeys(secretOf(key))
	repoID, id := [RepoIDSize]byte{1, 2, 3}, [RepoIDSize]byte{4, 5, 6}
	slot, err := DecodeSlot(g.Slot)
	if err != nil {
		t.Fatal(err)
	}
	file, _ := NewKeyFile([]byte("0123456789abcdef0123456789abcdef"))
	host, err := slot.Keys(repoID, got2(t, repoID, slot, file))
	if err != nil || host.Fingerprint() != all.Fingerprint() || host.ChunkID([32]byte{1}) != all.ChunkID([32]byte{1}) || host.Chunker() != all.Chunker() {
		t.Fatal("other keys", err)
	}
	s, err := all.OpenSession(repoID, id, g.Session)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := s.Data.Open(nil, Nonce{9}, g.Block, nil); err != nil || string(b) != "a block" {
		t.Error(err)
	}
	if b, err := s.Meta.Open(nil, Nonce{9}, g.Snapshot, nil); err != nil || string(b) != "a snapshot" {
		t.Error(err)
	}
}
