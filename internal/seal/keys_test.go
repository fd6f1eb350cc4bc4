package seal

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func newSecret(t testing.TB, fill byte) Secret {
	t.Helper()
	s, err := NewSecret(bytes.NewReader(bytes.Repeat([]byte{fill}, SecretSize)))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSecret(t *testing.T) {
	a, b := newSecret(t, 1), newSecret(t, 1)
	if !a.Equal(b) || a.Equal(newSecret(t, 2)) || a.Equal(Secret{}) || !(Secret{}).Equal(Secret{}) {
		t.Error("Equal is wrong")
	}
	if a.IsZero() || !(Secret{}).IsZero() {
		t.Error("IsZero is wrong")
	}
	if _, err := NewSecret(io.LimitReader(rand.Reader, SecretSize-1)); err == nil {
		t.Error("31 bytes made a secret")
	}
}

// TestKeysGolden pins the derivations. The expected values come from another
// implementation of HKDF and HMAC.
func TestKeysGolden(t *testing.T) {
	k := NewKeys(newSecret(t, 7))
	id := k.ChunkID(sha256.Sum256([]byte("chunk")))
	chunker := k.Chunker()
	fingerprint := k.Fingerprint()
	config := k.ConfigMAC([]byte("config"))
	report := k.ReportMAC([]byte("report"))
	for _, tt := range []struct {
		name string
		got  []byte
		want string
	}{
		{"chunk id", id[:], goldenChunkID},
		{"chunker", chunker[:], goldenChunker},
		{"fingerprint", fingerprint[:], goldenFingerprint},
		{"config", config[:], goldenConfig},
		{"report", report[:], goldenReport},
	} {
		if got := hex.EncodeToString(tt.got); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
	for name, tt := range map[string]struct {
		x   *AEAD
		key string
	}{"data": {k.Data, goldenData}, "index": {k.Index, goldenIndex}, "meta": {k.Meta, goldenMeta}} {
		key, err := hex.DecodeString(tt.key)
		if err != nil {
			t.Fatal(err)
		}
		sealed := NewAEAD([KeySize]byte(key)).Seal(nil, Nonce{}, []byte("x"), nil)
		if _, err := tt.x.Open(nil, Nonce{}, sealed, nil); err != nil {
			t.Errorf("%s key is not %s", name, tt.key)
		}
	}
}

func TestChunkIDIsHMAC(t *testing.T) {
	k := NewKeys(newSecret(t, 9))
	key := make([]byte, KeySize)
	for i := range key {
		key[i] = k.id[0][i] ^ 0x36
	}
	for i := range byte(100) {
		hash := sha256.Sum256([]byte{i})
		m := hmac.New(sha256.New, key)
		m.Write(hash[:])
		if id := k.ChunkID(hash); !bytes.Equal(id[:], m.Sum(nil)[:ChunkIDSize]) {
			t.Fatalf("ID of %d is %x", i, id)
		}
	}
	if n := testing.AllocsPerRun(100, func() { k.ChunkID([32]byte{}) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestVerifyConfig(t *testing.T) {
	k := NewKeys(newSecret(t, 1))
	config := []byte("config")
	mac := k.ConfigMAC(config)
	if !k.VerifyConfig(config, mac[:]) {
		t.Error("right MAC refused")
	}
	other := NewKeys(newSecret(t, 2)).ConfigMAC(config)
	if k.VerifyConfig(config, other[:]) || k.VerifyConfig([]byte("Config"), mac[:]) ||
		k.VerifyConfig(config, mac[:31]) || k.VerifyConfig(config, nil) {
		t.Error("wrong MAC accepted")
	}
}

// TestNothingPrintsSecrets prints every value that holds a secret in every way,
// also from within unexported fields of others, where fmt calls no methods.
func TestNothingPrintsSecrets(t *testing.T) {
	const fill = 0xA7 // in decimal 167, in text "\xa7"
	raw := bytes.Repeat([]byte{fill}, 32)
	secret := newSecret(t, fill)
	keyFile, err := NewKeyFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	passphrase, err := NewPassphrase(raw)
	if err != nil {
		t.Fatal(err)
	}
	identity, err := GenerateIdentity(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	keys := NewKeys(secret)
	slot, err := Wrap(rand.Reader, [16]byte{}, secret, None{}, WrapOptions{Created: time.Unix(0, 0)})
	if err != nil {
		t.Fatal(err)
	}
	// A time of day may hold any digits.
	noTime := &slog.HandlerOptions{ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}
	type unexported struct{ v any }
	type hiding struct {
		k *Keys
		a *AEAD
		p *Passphrase
		f *KeyFile
		i *Identity
		s Secret
	}
	chunker := keys.Chunker()
	forbidden := []string{
		strings.Trim(fmt.Sprint(keys.Data.k1[:4]), "[]"), strings.Trim(fmt.Sprint(chunker[:4]), "[]"),
		strings.Trim(fmt.Sprint(keys.config[:4]), "[]"), strings.Trim(fmt.Sprint(keys.id[0][:4]), "[]"),
		// Four bytes of 0xa7 in every spelling; fewer may be part of a pointer.
		"167 167 167 167", "167,167,167,167", "a7a7a7a7", "A7A7A7A7", "\xa7\xa7\xa7\xa7", "0xa7, 0xa7, 0xa7, 0xa7",
		`\xa7\xa7\xa7\xa7`, "p6enp6en", identity.Text()[5:20],
	}
	for _, v := range []any{
		hiding{keys, keys.Data, passphrase, keyFile, identity, secret},
		secret, &secret, keyFile, passphrase, identity, keys, keys.Data, slot, &slot,
		struct{ s Secret }{secret}, struct{ K *Keys }{keys}, struct{ f *KeyFile }{keyFile},
		[]Secret{secret}, map[string]Secret{"k": secret}, unexported{passphrase}, unexported{secret},
		struct{ I *Identity }{identity}, struct{ s Slot }{Slot{Kind: KindNone}},
	} {
		var out strings.Builder
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		if b, err := json.Marshal(v); err == nil {
			out.Write(b)
		}
		slog.New(slog.NewJSONHandler(&out, noTime)).Info("m", "v", v)
		slog.New(slog.NewTextHandler(&out, noTime)).Info("m", "v", v)
		for _, f := range forbidden {
			if strings.Contains(out.String(), f) {
				t.Errorf("%T prints %q:\n%s", v, f, out.String())
			}
		}
	}
	if got := fmt.Sprint(secret); got != redaction {
		t.Errorf("a secret prints as %s", got)
	}
	if b, err := json.Marshal(secret); err != nil || string(b) != `"[redacted]"` {
		t.Errorf("a secret marshals as %s, %v", b, err)
	}
}

func BenchmarkChunkID(b *testing.B) {
	k := NewKeys(newSecret(b, 1))
	hash := sha256.Sum256(nil)
	b.ReportAllocs()
	for b.Loop() {
		hash[0]++
		k.ChunkID(hash)
	}
}
