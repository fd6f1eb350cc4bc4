package seal

import (
	"bytes"
	"crypto/hkdf"
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"

	"golang.org/x/crypto/argon2"
)

const (
	saltSize  = 32 // bytes
	checkSize = 32 // bytes of a slot's commitment to its key

	// maxPassphraseSize bounds a passphrase, in bytes: more is a file given by
	// mistake.
	maxPassphraseSize = 4096
)

// Names of key derivation functions.
const (
	KDFPBKDF2   = "pbkdf2-hmac-sha256"
	KDFArgon2id = "argon2id"
)

// Bounds on a KDF's cost. The lower ones keep a passphrase from being stored
// weakly; the upper ones keep a slot we are offered from taking hours.
const (
	// MinIterations is OWASP's number for PBKDF2-HMAC-SHA256 (2023), and the
	// default; MaxIterations takes some seconds.
	MinIterations = 600_000
	MaxIterations = 10_000_000

	// MinArgonTime and MinArgonMemoryKiB are the second recommendation of RFC
	// 9106, section 4.
	MinArgonTime      = 3
	MaxArgonTime      = 100
	MinArgonMemoryKiB = 64 << 10
	MaxArgonMemoryKiB = 1 << 20
	MaxArgonThreads   = 16
	// MaxArgonWorkKiB bounds time * memory: 16 GiB written, some 20 seconds.
	MaxArgonWorkKiB = 16 << 20
)

// A KDF stretches a passphrase into a key.
type KDF struct {
	Name       string `json:"name"`
	Iterations uint32 `json:"iterations,omitempty"` // of PBKDF2
	Time       uint32 `json:"time,omitempty"`       // of Argon2id, passes
	MemoryKiB  uint32 `json:"memory_kib,omitempty"` // of Argon2id
	Threads    uint8  `json:"threads,omitempty"`    // of Argon2id
}

// DefaultKDF is PBKDF2-HMAC-SHA256 with 600,000 iterations: approved by NIST, and
// of the same cost on every machine.
func DefaultKDF() KDF { return PBKDF2(MinIterations) }

// PBKDF2 is PBKDF2-HMAC-SHA256, with MinIterations to MaxIterations.
func PBKDF2(iterations uint32) KDF { return KDF{Name: KDFPBKDF2, Iterations: iterations} }

// Argon2id is Argon2id of RFC 9106, which also costs an attacker memory. It is not
// an approved primitive: a choice, never the default.
func Argon2id(time, memoryKiB uint32, threads uint8) KDF {
	return KDF{Name: KDFArgon2id, Time: time, MemoryKiB: memoryKiB, Threads: threads}
}

func (k KDF) validate() error {
	within := func(what string, n, low, high uint64) error {
		if n < low || n > high {
			return fmt.Errorf("%s: %d %s, must be %d to %d", k.Name, n, what, low, high)
		}
		return nil
	}
	switch k.Name {
	case KDFPBKDF2:
		if k != PBKDF2(k.Iterations) {
			return errors.New("pbkdf2 takes no parameters of argon2id")
		}
		return within("iterations", uint64(k.Iterations), MinIterations, MaxIterations)
	case KDFArgon2id:
		if k != Argon2id(k.Time, k.MemoryKiB, k.Threads) {
			return errors.New("argon2id takes no parameters of pbkdf2")
		}
		return errors.Join(
			within("passes", uint64(k.Time), MinArgonTime, MaxArgonTime),
			within("KiB of memory", uint64(k.MemoryKiB), MinArgonMemoryKiB, MaxArgonMemoryKiB),
			within("threads", uint64(k.Threads), 1, MaxArgonThreads),
			within("KiB of passes times memory", uint64(k.Time)*uint64(k.MemoryKiB), 0, MaxArgonWorkKiB),
		)
	default:
		return fmt.Errorf("unknown key derivation %q", k.Name)
	}
}

// cost is roughly the time it takes, in µs.
func (k KDF) cost() uint64 {
	return uint64(k.Iterations)/4 + uint64(k.Time)*uint64(k.MemoryKiB)
}

func (k KDF) stretch(passphrase, salt []byte) ([]byte, error) {
	if err := k.validate(); err != nil {
		return nil, err
	}
	if k.Name == KDFArgon2id {
		return argon2.IDKey(passphrase, salt, k.Time, k.MemoryKiB, k.Threads, KeySize), nil
	}
	return pbkdf2.Key(sha256.New, string(passphrase), salt, int(k.Iterations), KeySize)
}

// A Passphrase locks and opens slots of kind passphrase. It prints as
// "[redacted]".
type Passphrase struct {
	redacted
	text *[]byte
	// last is what the passphrase was stretched to last: who creates a repository
	// opens it next, and need not wait for the same key twice.
	last *atomic.Pointer[stretched]
}

// A stretched is the result of a key derivation.
type stretched struct {
	kdf  KDF
	salt [saltSize]byte
	key  []byte
}

// NewPassphrase takes 1 to 4096 bytes as they are: callers strip a line's end,
// and see to it that the same text is always the same bytes.
func NewPassphrase(text []byte) (*Passphrase, error) {
	if len(text) == 0 {
		return nil, errors.New("passphrase is empty")
	}
	if len(text) > maxPassphraseSize {
		return nil, fmt.Errorf("passphrase has %d bytes, more than %d", len(text), maxPassphraseSize)
	}
	text = slices.Clone(text)
	return &Passphrase{text: &text, last: new(atomic.Pointer[stretched])}, nil
}

func (*Passphrase) kind() Kind { return KindPassphrase }

func (p *Passphrase) lock(rand io.Reader, repoID [RepoIDSize]byte, s *Slot, secret Secret) error {
	return lockSymmetric(rand, repoID, s, secret, p.key)
}

func (p *Passphrase) unlock(repoID [RepoIDSize]byte, s *Slot) (Secret, error) {
	return unlockSymmetric(repoID, s, p.key)
}

func (p *Passphrase) key(s *Slot) ([]byte, error) {
	if l := p.last.Load(); l != nil && l.kdf == s.KDF && bytes.Equal(l.salt[:], s.salt) {
		return l.key, nil
	}
	key, err := s.KDF.stretch(*p.text, s.salt)
	if err == nil && len(s.salt) == saltSize {
		p.last.Store(&stretched{s.KDF, [saltSize]byte(s.salt), key})
	}
	return key, err
}

// lockSymmetric wraps secret with the key that key makes of the slot's salt.
func lockSymmetric(rand io.Reader, repoID [RepoIDSize]byte, s *Slot, secret Secret, key func(*Slot) ([]byte, error)) error {
	s.salt = make([]byte, saltSize)
	if _, err := io.ReadFull(rand, s.salt); err != nil {
		return fmt.Errorf("draw salt: %w", err)
	}
	nonce, err := NewNonce(rand)
	if err != nil {
		return err
	}
	x, check, err := slotKey(s, key)
	if err != nil {
		return err
	}
	s.nonce, s.check = nonce[:], check
	s.sealed = x.Seal(nil, nonce, secret.key()[:], s.binding(repoID))
	return nil
}

func unlockSymmetric(repoID [RepoIDSize]byte, s *Slot, key func(*Slot) ([]byte, error)) (Secret, error) {
	x, check, err := slotKey(s, key)
	if err != nil {
		return Secret{}, err
	}
	if subtle.ConstantTimeCompare(check, s.check) != 1 {
		return Secret{}, ErrWrongKey
	}
	b, err := x.Open(nil, Nonce(s.nonce), s.sealed, s.binding(repoID))
	if err != nil {
		return Secret{}, err
	}
	return secretOf([SecretSize]byte(b)), nil
}

// slotKey returns the cipher of a slot, and the commitment to its key.
func slotKey(s *Slot, key func(*Slot) ([]byte, error)) (*AEAD, []byte, error) {
	k, err := key(s)
	if err != nil {
		return nil, nil, err
	}
	okm, err := hkdf.Key(sha256.New, k, s.salt, "backup-handler v1 slot key", checkSize+KeySize)
	if err != nil {
		return nil, nil, err
	}
	return NewAEAD([KeySize]byte(okm[checkSize:])), okm[:checkSize], nil
}
