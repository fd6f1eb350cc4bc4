package seal

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var (
	repoA = [RepoIDSize]byte{0xA}
	repoB = [RepoIDSize]byte{0xB}
	noon  = time.Date(2026, 2, 28, 12, 0, 0, 999, time.FixedZone("", 3600))
)

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func keyFile(t testing.TB, fill byte) *KeyFile {
	return must(NewKeyFile(bytes.Repeat([]byte{fill}, KeySize)))(t)
}

func passphrase(t testing.TB, text string) *Passphrase { return must(NewPassphrase([]byte(text)))(t) }

func identity(t testing.TB, fill byte) *Identity {
	return must(GenerateIdentity(bytes.NewReader(bytes.Repeat([]byte{fill}, identitySize))))(t)
}

func wrap(t testing.TB, secret Secret, by Locker, kdf KDF) Slot {
	t.Helper()
	return must(Wrap(rand.Reader, repoA, secret, by, WrapOptions{Label: "été's key", Created: noon, KDF: kdf}))(t)
}

func TestSlotRoundTrip(t *testing.T) {
	secret := newSecret(t, 9)
	for name, tt := range map[string]struct {
		lock         Locker
		open, closed Credential
		kdf          KDF
	}{
		"pbkdf2":    {passphrase(t, "correct"), passphrase(t, "correct"), passphrase(t, "wrong"), KDF{}},
		"argon2id":  {passphrase(t, "correct"), passphrase(t, "correct"), passphrase(t, "wrong"), Argon2id(3, 64<<10, 4)},
		"keyfile":   {keyFile(t, 1), keyFile(t, 1), keyFile(t, 2), KDF{}},
		"recipient": {identity(t, 1).Recipient(), identity(t, 1), identity(t, 2), KDF{}},
		"none":      {None{}, None{}, keyFile(t, 1), KDF{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			slot := must(DecodeSlot(wrap(t, secret, tt.lock, tt.kdf).Encode()))(t)
			if slot.Label != "été's key" || !slot.Created.Equal(noon.Truncate(time.Second)) || slot.Kind != tt.lock.kind() {
				t.Errorf("slot %v", slot)
			}
			got, i, err := Unwrap(repoA, []Slot{slot}, tt.closed, tt.open)
			if err != nil || i != 0 || !got.Equal(secret) {
				t.Fatalf("unwrap: %d, %v", i, err)
			}
			if got, i, err = Unwrap(repoA, []Slot{slot}, tt.closed); !errors.Is(err, ErrWrongKey) || i != -1 || !got.IsZero() {
				t.Errorf("wrong credential: %d, %v", i, err)
			}
			got, _, err = Unwrap(repoB, []Slot{slot}, tt.open)
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrWrongKey) || !got.IsZero() {
				t.Errorf("other repository: %v", err)
			}
		})
	}
}

func TestUnwrapErrorsNameKinds(t *testing.T) {
	secret := newSecret(t, 9)
	slots := []Slot{wrap(t, secret, keyFile(t, 1), KDF{}), wrap(t, secret, None{}, KDF{})}
	_, _, err := Unwrap(repoA, slots)
	if !errors.Is(err, ErrWrongKey) || !strings.Contains(err.Error(), "none, keyfile") {
		t.Error(err)
	}
	if _, _, err = Unwrap(repoA, nil, None{}); !errors.Is(err, ErrWrongKey) {
		t.Error(err)
	}
	if _, _, err = Unwrap(repoA, make([]Slot, MaxSlots+1), None{}); err == nil {
		t.Error("too many slots accepted")
	}
	if _, _, err = Unwrap(repoA, []Slot{{Kind: KindNone, Created: noon}}, None{}); err == nil {
		t.Error("a slot that was never decoded is accepted")
	}
}

// TestNoneNeedsConsent: a store cannot talk a client with a key into a slot
// without one.
func TestNoneNeedsConsent(t *testing.T) {
	slot := wrap(t, newSecret(t, 66), None{}, KDF{})
	if s, _, err := Unwrap(repoA, []Slot{slot}, keyFile(t, 1), identity(t, 1)); !errors.Is(err, ErrWrongKey) || !s.IsZero() {
		t.Error(err)
	}
}

func TestUnwrapTriesCheapFirst(t *testing.T) {
	secret := newSecret(t, 9)
	// Were its passphrase tried, this slot would take hours, or fail.
	dear := wrap(t, secret, keyFile(t, 1), KDF{})
	dear.Kind, dear.KDF = KindPassphrase, KDF{Name: "none such"}
	slots := []Slot{dear, wrap(t, secret, identity(t, 1).Recipient(), KDF{}), wrap(t, secret, keyFile(t, 1), KDF{})}
	got, i, err := Unwrap(repoA, slots, passphrase(t, "x"), identity(t, 1), keyFile(t, 1))
	if err != nil || i != 2 || !got.Equal(secret) {
		t.Errorf("slot %d, %v", i, err)
	}
	if got, i, err = Unwrap(repoA, slots, passphrase(t, "x"), identity(t, 1)); err != nil || i != 1 || !got.Equal(secret) {
		t.Errorf("slot %d, %v", i, err)
	}
}

// TestSlotBitFlips flips every bit of the stored form of the cheap kinds.
func TestSlotBitFlips(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine: nothing for the race detector")
	}
	secret := newSecret(t, 9)
	for _, tt := range []struct {
		lock Locker
		open Credential
	}{
		{keyFile(t, 1), keyFile(t, 1)},
		{identity(t, 1).Recipient(), identity(t, 1)},
		{None{}, None{}},
	} {
		stored := wrap(t, secret, tt.lock, KDF{}).Encode()
		decoded := 0
		for i := range 8 * len(stored) {
			bad := bytes.Clone(stored)
			bad[i/8] ^= 1 << (i % 8)
			slot, err := DecodeSlot(bad)
			if err != nil {
				continue
			}
			decoded++
			got, _, err := Unwrap(repoA, []Slot{slot}, tt.open)
			if !errors.Is(err, ErrWrongKey) && !errors.Is(err, ErrCorrupt) || !got.IsZero() {
				t.Fatalf("%s, bit %d flipped: %v", tt.lock.kind(), i, err)
			}
		}
		if decoded == 0 {
			t.Errorf("%s: no flip reaches the cipher", tt.lock.kind())
		}
	}
}

// TestPassphraseSlotFields alters each field of a passphrase's slot.
func TestPassphraseSlotFields(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine: nothing for the race detector")
	}
	secret := newSecret(t, 9)
	whole := wrap(t, secret, passphrase(t, "correct"), KDF{})
	for name, alter := range map[string]func(*Slot){
		"label":      func(s *Slot) { s.Label += "x" },
		"created":    func(s *Slot) { s.Created = s.Created.Add(time.Second) },
		"iterations": func(s *Slot) { s.KDF.Iterations++ },
		"salt":       func(s *Slot) { s.salt[31] ^= 1 },
		"nonce":      func(s *Slot) { s.nonce[0] ^= 1 },
		"sealed":     func(s *Slot) { s.sealed[0] ^= 1 },
		"check":      func(s *Slot) { s.check[0] ^= 1 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := must(DecodeSlot(whole.Encode()))(t)
			alter(&s)
			got, _, err := Unwrap(repoA, []Slot{s}, passphrase(t, "correct"))
			if !errors.Is(err, ErrWrongKey) && !errors.Is(err, ErrCorrupt) || !got.IsZero() {
				t.Error(err)
			}
		})
	}
}

func TestDecodeSlotBounds(t *testing.T) {
	stored := string(wrap(t, newSecret(t, 9), passphrase(t, "x"), KDF{}).Encode())
	replace := func(old, new string) string {
		if !strings.Contains(stored, old) {
			t.Fatalf("no %s in %s", old, stored)
		}
		return strings.Replace(stored, old, new, 1)
	}
	const pbkdf2 = "\"kdf\": \"pbkdf2-hmac-sha256\",\n  \"iterations\": 600000"
	argon := func(params string) string { return replace(pbkdf2, "\"kdf\": \"argon2id\",\n  "+params) }
	for _, good := range []string{
		stored,
		replace("600000", "10000000"),
		argon("\"time\": 3,\n  \"memory_kib\": 65536,\n  \"threads\": 1"),
		argon("\"time\": 16,\n  \"memory_kib\": 1048576,\n  \"threads\": 16"),
		argon("\"time\": 100,\n  \"memory_kib\": 65536,\n  \"threads\": 4"),
	} {
		if _, err := DecodeSlot([]byte(good)); err != nil {
			t.Errorf("%v: %s", err, good)
		}
	}
	for name, bad := range map[string]string{
		"few iterations":  replace("600000", "599999"),
		"many iterations": replace("600000", "10000001"),
		"no iterations":   replace(",\n  \"iterations\": 600000", ""),
		"overflow":        replace("600000", "4295567296"),
		"unknown KDF":     replace("pbkdf2-hmac-sha256", "scrypt"),
		"mixed KDFs":      replace("600000", "600000,\n  \"time\": 3"),
		"weak time":       argon("\"time\": 2,\n  \"memory_kib\": 65536,\n  \"threads\": 1"),
		"long time":       argon("\"time\": 101,\n  \"memory_kib\": 65536,\n  \"threads\": 1"),
		"little memory":   argon("\"time\": 3,\n  \"memory_kib\": 65535,\n  \"threads\": 1"),
		"much memory":     argon("\"time\": 3,\n  \"memory_kib\": 1048577,\n  \"threads\": 1"),
		"much work":       argon("\"time\": 17,\n  \"memory_kib\": 1048576,\n  \"threads\": 1"),
		"no threads":      argon("\"time\": 3,\n  \"memory_kib\": 65536"),
		"many threads":    argon("\"time\": 3,\n  \"memory_kib\": 65536,\n  \"threads\": 17"),
		"other kind":      replace(`"passphrase"`, `"keyfile"`),
		"unknown kind":    replace(`"passphrase"`, `"password"`),
		"version 0":       replace(`"version": 1`, `"version": 0`),
		"unknown field":   replace(`"version": 1,`, `"version": 1, "x": 1,`),
		"repeated field":  replace(`"version": 1,`, `"version": 1, "version": 1,`),
		"case":            replace(`"kind"`, `"Kind"`),
		"space":           stored + " ",
		"zone":            replace(`:00Z`, `:00+00:00`),
		"label controls":  replace("été", `\u001b[31m`),
		"label escape":    replace("été", `\u0041`),
		"label size":      replace("été", strings.Repeat("x", MaxLabelSize)),
		"KEM":             replace(`"nonce"`, `"kem": "MLKEM768-X25519",`+"\n  \"nonce\""),
		"too large":       stored + strings.Repeat(" ", MaxSlotSize),
		"empty":           "",
		"null":            "null",
		"array":           "[]",
	} {
		if s, err := DecodeSlot([]byte(bad)); err == nil {
			t.Errorf("%s: accepted as %v", name, s)
		}
	}
	var newer *NewerVersionError
	if _, err := DecodeSlot([]byte(`{"version": 2, "kind": {}}`)); !errors.As(err, &newer) || newer.Version != 2 {
		t.Errorf("version 2: %v", err)
	}
}

func TestWrapRefuses(t *testing.T) {
	secret := newSecret(t, 9)
	for name, tt := range map[string]struct {
		secret Secret
		opts   WrapOptions
	}{
		"zero secret": {Secret{}, WrapOptions{Created: noon}},
		"no time":     {secret, WrapOptions{}},
		"label":       {secret, WrapOptions{Created: noon, Label: "a\nb"}},
		"weak KDF":    {secret, WrapOptions{Created: noon, KDF: PBKDF2(1000)}},
	} {
		if _, err := Wrap(rand.Reader, repoA, tt.secret, passphrase(t, "x"), tt.opts); err == nil {
			t.Errorf("%s accepted", name)
		}
	}
	if _, err := Wrap(bytes.NewReader(make([]byte, 40)), repoA, secret, keyFile(t, 1), WrapOptions{Created: noon}); err == nil {
		t.Error("exhausted randomness accepted")
	}
	for _, n := range []int{0, 31, 33, 64} {
		if _, err := NewKeyFile(make([]byte, n)); err == nil {
			t.Errorf("key file of %d bytes accepted", n)
		}
	}
	for _, n := range []int{0, 4097} {
		if _, err := NewPassphrase(make([]byte, n)); err == nil {
			t.Errorf("passphrase of %d bytes accepted", n)
		}
	}
}

// TestSlotGolden opens slots of version 1. The files are never regenerated.
func TestSlotGolden(t *testing.T) {
	secret := newSecret(t, 9)
	for name, credential := range map[string]Credential{
		"passphrase": passphrase(t, "correct horse battery staple"),
		"argon2id":   passphrase(t, "correct horse battery staple"),
		"keyfile":    keyFile(t, 1),
		"recipient":  identity(t, 1),
		"none":       None{},
	} {
		path := filepath.Join("testdata", "slot-v1-"+name+".json")
		stored, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		slot := must(DecodeSlot(stored))(t)
		got, _, err := Unwrap(repoA, []Slot{slot}, credential)
		if err != nil || !got.Equal(secret) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSlotPrintsNoSecret(t *testing.T) {
	slot := wrap(t, newSecret(t, 9), None{}, KDF{})
	b := must(json.Marshal(slot))(t)
	if want := `{"kind":"none","label":"été's key","created":"2026-02-28T11:00:00Z"}`; string(b) != want {
		t.Errorf("JSON %s", b)
	}
}

func TestKeyText(t *testing.T) {
	id := must(GenerateIdentity(rand.Reader))(t)
	again := must(ParseIdentity(" " + id.Text() + "\n"))(t)
	if again.Text() != id.Text() || len(id.Text()) != 63 {
		t.Errorf("identity has %d characters", len(id.Text()))
	}
	pub := id.Recipient().String()
	r := must(ParseRecipient(pub + "\r\n"))(t)
	if r.String() != pub || len(pub) != 1957 {
		t.Errorf("recipient has %d characters", len(pub))
	}
	slot := wrap(t, newSecret(t, 9), r, KDF{})
	if _, _, err := Unwrap(repoA, []Slot{slot}, again); err != nil {
		t.Error(err)
	}
	for i := range 8 * len(id.Text()) {
		bad := []byte(id.Text())
		bad[i/8] ^= 1 << (i % 8)
		if _, err := ParseIdentity(string(bad)); err == nil {
			t.Errorf("bit %d flipped: accepted", i)
		} else if strings.Contains(err.Error(), string(bad[5:25])) {
			t.Errorf("error quotes the identity: %v", err)
		}
	}
	for i := range len(pub) {
		bad := []byte(pub)
		bad[i] ^= 1 << (i % 7)
		if _, err := ParseRecipient(string(bad)); err == nil {
			t.Errorf("character %d changed: accepted", i)
		}
	}
	for _, bad := range []string{"", "bhpk1", pub[:len(pub)-1], pub + "a", strings.ToUpper(pub), id.Text(),
		pub[:100] + "\n" + pub[101:], pub[:len(pub)-8] + "\n\n\n\n\n\n\n\n"} {
		if _, err := ParseRecipient(bad); err == nil {
			t.Errorf("recipient %.20q of %d characters accepted", bad, len(bad))
		}
	}
}

func FuzzDecodeSlot(f *testing.F) {
	for _, by := range []Locker{keyFile(f, 1), identity(f, 1).Recipient(), None{}, passphrase(f, "x")} {
		f.Add(wrap(f, newSecret(f, 9), by, KDF{}).Encode())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := DecodeSlot(data)
		if err == nil && !bytes.Equal(s.Encode(), data) {
			t.Fatal("accepted a form that is not canonical")
		}
	})
}

func FuzzParseRecipient(f *testing.F) {
	f.Add(identity(f, 1).Recipient().String())
	f.Add("bhpk1")
	f.Fuzz(func(t *testing.T, text string) {
		if r, err := ParseRecipient(text); err == nil && r.String() != strings.TrimSpace(text) {
			t.Fatal("accepted a form that is not canonical")
		}
	})
}

func FuzzParseIdentity(f *testing.F) {
	f.Add(identity(f, 1).Text())
	f.Add("BHSK1")
	f.Fuzz(func(t *testing.T, text string) {
		if i, err := ParseIdentity(text); err == nil && i.Text() != strings.TrimSpace(text) {
			t.Fatal("accepted a form that is not canonical")
		}
	})
}

func BenchmarkPBKDF2(b *testing.B) {
	for b.Loop() {
		if _, err := DefaultKDF().stretch([]byte("passphrase"), make([]byte, saltSize)); err != nil {
			b.Fatal(err)
		}
	}
}
