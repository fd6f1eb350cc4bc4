package seal

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// RepoIDSize is the size of a repository's ID in bytes.
const RepoIDSize = 16

// Bounds on key slots. Whoever holds the store can offer us any slots, so each
// limits what they make us do.
const (
	// MaxSlots is how many slots [Unwrap] considers.
	MaxSlots = 64
	// MaxSlotSize bounds an encoded slot, in bytes; the largest we write is a
	// recipient's with some 1,900.
	MaxSlotSize = 8 << 10
	// MaxLabelSize bounds a label, in bytes.
	MaxLabelSize = 128
)

// ErrWrongKey says that none of the given credentials opens any key slot.
var ErrWrongKey = errors.New("wrong key")

// Kind says what opens a slot.
type Kind string

const (
	KindPassphrase Kind = "passphrase"
	KindKeyFile    Kind = "keyfile"
	KindRecipient  Kind = "recipient"
	KindNone       Kind = "none"
)

// A Slot holds the master secret, wrapped for one credential. The exported fields
// may be shown; they are authenticated only once the slot has been opened. Change
// none of them. Printing and json.Marshal show no more than they; the stored form
// is [Slot.Encode].
//
// The stored form is JSON, exactly as Encode writes it; any other spelling of the
// same values is refused, so that a slot has one form. Binary fields are standard
// base64 with padding. The fields, in order, empty ones left out:
//
//	version     1
//	kind        passphrase, keyfile, recipient or none
//	label       for people; see [WrapOptions]
//	created     RFC 3339, UTC, whole seconds
//	kdf         passphrase: pbkdf2-hmac-sha256 or argon2id
//	iterations  of PBKDF2
//	time, memory_kib, threads  of Argon2id (version 19)
//	salt        passphrase, keyfile: 32 bytes
//	kem         recipient: MLKEM768-X25519
//	enc         recipient: the encapsulated key, 1120 bytes
//	nonce       passphrase, keyfile: 24 bytes
//	sealed      the secret: 48 bytes; none: 32 bytes, in clear
//	check       passphrase, keyfile, none: 32 bytes, see below
//	role        write: it wraps not the master secret, but what opens the grant
//	grant       write: nonce and sealed keys, docs/format.md §14
//
// The binding, from which no field but those made by wrapping is missing, is
//
//	"backup-handler v1 slot" repository-ID[16] str(kind) str(label) u64(created)
//	str(kdf) u32(iterations) u32(time) u32(memory_kib) u32(threads) str(salt) str(kem)
//
// with big-endian numbers, created in Unix seconds, and str a u16 length and the
// bytes; a slot with a role has str(role) behind it. With K = the key file, or the KDF's 32 bytes of passphrase and salt:
//
//   - passphrase, keyfile: HKDF-SHA256(K, salt, "backup-handler v1 slot key", 64
//     bytes) = check, key. Sealed is XAES-256-GCM with that key, the nonce, and
//     the binding as additional data. Check commits to K: without it one
//     prepared slot could open under many passphrases, and our success or
//     failure would tell them apart (partitioning oracle).
//   - recipient: HPKE (RFC 9180) in base mode, MLKEM768-X25519, HKDF-SHA256,
//     AES-256-GCM, info = the binding, no additional data.
//   - none: check = SHA-256(binding, secret).
type Slot struct {
	Kind    Kind      `json:"kind"`
	Label   string    `json:"label,omitempty"`
	Created time.Time `json:"created"`
	KDF     KDF       `json:"kdf,omitzero"` // of a passphrase, else zero
	// Role is what the slot opens to: "" is the master secret, RoleWrite the keys of a
	// write-only host.
	Role string `json:"role,omitempty"`

	salt, enc, nonce, sealed, check, grant []byte
}

// Format shows the exported fields only.
func (s Slot) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "%s slot %q of %s", string(s.Kind), s.Label, s.Created.Format(time.RFC3339))
}

// WrapOptions are what else is said about a slot.
type WrapOptions struct {
	// Label is shown to people: at most MaxLabelSize bytes of printable UTF-8
	// without double quote, backslash, <, > and &, which JSON may spell in two ways.
	Label string
	// Created is when; it is cut to whole seconds.
	Created time.Time
	// KDF stretches a passphrase; zero is [DefaultKDF]. Other kinds ignore it.
	KDF KDF

	role string
}

// A Locker can wrap a master secret: [*Passphrase], [*KeyFile], [*Recipient] or
// [None].
type Locker interface {
	kind() Kind
	// lock fills the fields of s that wrapping makes.
	lock(rand io.Reader, repoID [RepoIDSize]byte, s *Slot, secret Secret) error
}

// A Credential can unwrap a master secret: [*Passphrase], [*KeyFile], [*Identity]
// or [None].
type Credential interface {
	kind() Kind
	// unlock returns ErrWrongKey, or ErrCorrupt if the key is right.
	unlock(repoID [RepoIDSize]byte, s *Slot) (Secret, error)
}

// Wrap makes a slot of the repository repoID that opens to secret. Salt and nonce
// are read from rand, which is crypto/rand.Reader outside of tests; a recipient's
// encapsulation always takes its randomness from crypto/rand. A passphrase takes
// the time its KDF takes, some tenths of a second by default.
func Wrap(rand io.Reader, repoID [RepoIDSize]byte, secret Secret, by Locker, opts WrapOptions) (Slot, error) {
	if secret.IsZero() {
		return Slot{}, errors.New("wrap master secret: there is none")
	}
	s := Slot{
		Kind:    by.kind(),
		Label:   opts.Label,
		Created: opts.Created.UTC().Truncate(time.Second),
		Role:    opts.role,
	}
	if s.Kind == KindPassphrase {
		s.KDF = cmp.Or(opts.KDF, DefaultKDF())
	}
	if err := s.validateHead(); err != nil {
		return Slot{}, fmt.Errorf("wrap master secret: %w", err)
	}
	if err := by.lock(rand, repoID, &s, secret); err != nil {
		return Slot{}, fmt.Errorf("wrap master secret: %w", err)
	}
	return s, nil
}

// Unwrap opens one of the slots of the repository repoID with one of the
// credentials, and returns the master secret and the slot's index. It tries the
// cheap before the expensive, so that a key file or an identity saves stretching a
// passphrase, and a slot made to waste time comes last; slots of write-only hosts come
// after all others. What the secret stands for is [Slot.Keys].
//
// A slot of kind none opens only if [None] is among the credentials: else whoever
// holds the store could replace a passphrase's slot, and we would go on under a
// secret they know. A recipient's slot has no such protection against those who
// know the public key; see [Identity].
//
// The error is [ErrWrongKey], wrapped, with the kinds that are wanted; or, if a
// credential is right but its slot was altered or is another repository's,
// [ErrCorrupt], wrapped.
func Unwrap(repoID [RepoIDSize]byte, slots []Slot, credentials ...Credential) (Secret, int, error) {
	if len(slots) > MaxSlots {
		return Secret{}, -1, fmt.Errorf("repository has %d key slots, more than %d", len(slots), MaxSlots)
	}
	order := make([]int, len(slots))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Or(strings.Compare(slots[a].Role, slots[b].Role), cmp.Compare(slots[a].cost(), slots[b].cost()))
	})

	var corrupt error
	var kinds []string
	for _, i := range order {
		s := &slots[i]
		if k := string(s.Kind); !slices.Contains(kinds, k) {
			kinds = append(kinds, k)
		}
		for _, c := range credentials {
			if c.kind() != s.Kind {
				continue
			}
			if err := s.validate(); err != nil { // a slot that was not decoded
				return Secret{}, -1, fmt.Errorf("key slot %d: %w", i, err)
			}
			secret, err := c.unlock(repoID, s)
			switch {
			case err == nil:
				return secret, i, nil
			case errors.Is(err, ErrCorrupt):
				corrupt = fmt.Errorf("key slot %d was altered or is another repository's: %w", i, err)
			case !errors.Is(err, ErrWrongKey):
				return Secret{}, -1, fmt.Errorf("open key slot %d: %w", i, err)
			}
		}
	}
	if corrupt != nil {
		return Secret{}, -1, corrupt
	}
	if len(kinds) == 0 {
		return Secret{}, -1, fmt.Errorf("%w: the repository has no key slot", ErrWrongKey)
	}
	return Secret{}, -1, fmt.Errorf("%w: the repository opens with: %s", ErrWrongKey, strings.Join(kinds, ", "))
}

// cost is roughly the time an attempt takes, in µs.
func (s *Slot) cost() uint64 {
	switch s.Kind {
	case KindNone:
		return 0
	case KindKeyFile:
		return 10
	case KindRecipient:
		return 200
	default:
		return 1000 + s.KDF.cost()
	}
}

// binding returns the bytes that wrapping authenticates, see [Slot].
func (s *Slot) binding(repoID [RepoIDSize]byte) []byte {
	str := func(b []byte, s string) []byte {
		return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
	}
	b := append([]byte("backup-handler v1 slot"), repoID[:]...)
	b = str(b, string(s.Kind))
	b = str(b, s.Label)
	b = binary.BigEndian.AppendUint64(b, uint64(s.Created.Unix()))
	b = str(b, s.KDF.Name)
	b = binary.BigEndian.AppendUint32(b, s.KDF.Iterations)
	b = binary.BigEndian.AppendUint32(b, s.KDF.Time)
	b = binary.BigEndian.AppendUint32(b, s.KDF.MemoryKiB)
	b = binary.BigEndian.AppendUint32(b, uint32(s.KDF.Threads))
	b = str(b, string(s.salt))
	b = str(b, s.kem())
	if s.Role != "" {
		b = str(b, s.Role)
	}
	return b
}

func (s *Slot) kem() string {
	if s.Kind == KindRecipient {
		return kemName
	}
	return ""
}

// storedSlot is the stored form.
type storedSlot struct {
	Version    int    `json:"version"`
	Kind       Kind   `json:"kind"`
	Label      string `json:"label,omitempty"`
	Created    string `json:"created"`
	KDF        string `json:"kdf,omitempty"`
	Iterations uint32 `json:"iterations,omitempty"`
	Time       uint32 `json:"time,omitempty"`
	MemoryKiB  uint32 `json:"memory_kib,omitempty"`
	Threads    uint8  `json:"threads,omitempty"`
	Salt       []byte `json:"salt,omitempty"`
	KEM        string `json:"kem,omitempty"`
	Enc        []byte `json:"enc,omitempty"`
	Nonce      []byte `json:"nonce,omitempty"`
	Sealed     []byte `json:"sealed"`
	Check      []byte `json:"check,omitempty"`
	Role       string `json:"role,omitempty"`
	Grant      []byte `json:"grant,omitempty"`
}

const slotVersion = 1

// Encode returns the stored form. For kind none it holds the master secret.
func (s Slot) Encode() []byte {
	b, err := json.MarshalIndent(storedSlot{
		Version: slotVersion, Kind: s.Kind, Label: s.Label, Created: s.Created.Format(time.RFC3339),
		KDF: s.KDF.Name, Iterations: s.KDF.Iterations,
		Time: s.KDF.Time, MemoryKiB: s.KDF.MemoryKiB, Threads: s.KDF.Threads,
		Salt: s.salt, KEM: s.kem(), Enc: s.enc, Nonce: s.nonce, Sealed: s.sealed, Check: s.check,
		Role: s.Role, Grant: s.grant,
	}, "", "  ")
	if err != nil {
		panic("seal: " + err.Error()) // strings, numbers and bytes always encode
	}
	return append(b, '\n')
}

// DecodeSlot reads the stored form. It accepts only what [Slot.Encode] writes,
// within the bounds of this package; a newer version is a [*NewerVersionError].
// No secret is checked yet.
func DecodeSlot(data []byte) (Slot, error) {
	if len(data) > MaxSlotSize {
		return Slot{}, fmt.Errorf("key slot has %d bytes, more than %d", len(data), MaxSlotSize)
	}
	var version struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &version); err != nil {
		return Slot{}, fmt.Errorf("decode key slot: %w", err)
	}
	if version.Version > slotVersion {
		return Slot{}, &NewerVersionError{"key slot", version.Version}
	}
	var st storedSlot
	if err := json.Unmarshal(data, &st); err != nil {
		return Slot{}, fmt.Errorf("decode key slot: %w", err)
	}
	created, err := time.Parse(time.RFC3339, st.Created)
	if err != nil {
		return Slot{}, fmt.Errorf("decode key slot: %w", err)
	}
	s := Slot{
		Kind: st.Kind, Label: st.Label, Created: created.UTC(),
		KDF:  KDF{st.KDF, st.Iterations, st.Time, st.MemoryKiB, st.Threads},
		Role: st.Role,
		salt: st.Salt, enc: st.Enc, nonce: st.Nonce, sealed: st.Sealed, check: st.Check, grant: st.Grant,
	}
	if err := s.validate(); err != nil {
		return Slot{}, fmt.Errorf("decode key slot: %w", err)
	}
	// What else could differ: version 0, unknown or repeated fields, a KEM,
	// letters' case, spaces, padding.
	if !bytes.Equal(s.Encode(), data) {
		return Slot{}, errors.New("decode key slot: not in canonical form")
	}
	return s, nil
}

// validateHead checks the fields that exist before wrapping.
func (s *Slot) validateHead() error {
	switch s.Kind {
	case KindPassphrase:
		if err := s.KDF.validate(); err != nil {
			return err
		}
	case KindKeyFile, KindRecipient, KindNone:
		if s.KDF != (KDF{}) {
			return fmt.Errorf("a %s slot takes no key derivation", s.Kind)
		}
	default:
		return fmt.Errorf("unknown kind %q", s.Kind)
	}
	if s.Role != "" && (s.Role != RoleWrite || s.Kind == KindNone) {
		return fmt.Errorf("unknown role %q of a %s slot", s.Role, s.Kind)
	}
	if len(s.Label) > MaxLabelSize {
		return fmt.Errorf("label has %d bytes, more than %d", len(s.Label), MaxLabelSize)
	}
	if !utf8.ValidString(s.Label) || strings.ContainsFunc(s.Label, func(r rune) bool {
		return !unicode.IsPrint(r) || strings.ContainsRune(`"\<>&`, r)
	}) {
		return fmt.Errorf("label %q has characters that are not permitted", s.Label)
	}
	if y := s.Created.Year(); y < 1970 || y > 9999 {
		return fmt.Errorf("creation year %d is not between 1970 and 9999", y)
	}
	return nil
}

func (s *Slot) validate() error {
	if err := s.validateHead(); err != nil {
		return err
	}
	type sizes struct{ salt, enc, nonce, sealed, check, grant int }
	want := sizes{saltSize, 0, NonceSize, SecretSize + Overhead, checkSize, 0}
	switch s.Kind {
	case KindRecipient:
		want = sizes{0, encSize, 0, SecretSize + Overhead, 0, 0}
	case KindNone:
		want = sizes{0, 0, 0, SecretSize, sha256.Size, 0}
	}
	if s.Role == RoleWrite {
		want.grant = grantSize
	}
	if got := (sizes{len(s.salt), len(s.enc), len(s.nonce), len(s.sealed), len(s.check), len(s.grant)}); got != want {
		return fmt.Errorf("a %s slot's binary fields have sizes %v, want %v", s.Kind, got, want)
	}
	return nil
}
