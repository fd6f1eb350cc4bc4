package seal

import (
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
)

// Write-only hosts: docs/format.md §14.

// RoleWrite is the role of a slot that opens to the keys of a write-only host.
const RoleWrite = "write"

const (
	sessionMagic = "BHSESS1\n"
	// SessionSize is the size of a session object in bytes.
	SessionSize = len(sessionMagic) + encSize + SecretSize + Overhead

	grantBody = 4*KeySize + FingerprintSize + recipientSize
	grantSize = NonceSize + grantBody + Overhead
)

// A Session holds the keys under which one run of a write-only host seals.
type Session struct {
	redacted
	// Data seals the blocks of the run, Meta its snapshot.
	Data, Meta *AEAD
}

func newSession(secret []byte) *Session {
	derive := func(purpose string) *AEAD {
		b, err := hkdf.Key(sha256.New, secret, nil, "backup-handler v1 session "+purpose, KeySize)
		if err != nil {
			panic("seal: " + err.Error()) // fails for lengths beyond 8160 only
		}
		return NewAEAD([KeySize]byte(b))
	}
	return &Session{Data: derive("data"), Meta: derive("meta")}
}

func sessionInfo(repoID, id [RepoIDSize]byte) []byte {
	return append(append([]byte("backup-handler v1 session"), repoID[:]...), id[:]...)
}

// NewSession draws a session, and returns it with the object that [Keys.OpenSession]
// opens.
func (k *Keys) NewSession(repoID, id [RepoIDSize]byte) (*Session, []byte, error) {
	var secret [SecretSize]byte
	rand.Read(secret[:])
	enc, sender, err := hpke.NewSender(k.writers.key, hpke.HKDFSHA256(), hpke.AES256GCM(), sessionInfo(repoID, id))
	if err != nil {
		return nil, nil, fmt.Errorf("new session: %w", err)
	}
	sealed, err := sender.Seal(nil, secret[:])
	if err != nil {
		return nil, nil, fmt.Errorf("new session: %w", err)
	}
	object := append(append([]byte(sessionMagic), enc...), sealed...)
	return newSession(secret[:]), object, nil
}

// OpenSession opens a session object. One that is damaged, of another repository or
// under another name is [ErrCorrupt], wrapped. It takes the keys of the whole
// repository.
func (k *Keys) OpenSession(repoID, id [RepoIDSize]byte, object []byte) (*Session, error) {
	if k.WriteOnly() {
		return nil, errors.New("open session: a write-only key does not open one")
	}
	if len(object) != SessionSize || string(object[:len(sessionMagic)]) != sessionMagic {
		return nil, fmt.Errorf("%w: not a session", ErrCorrupt)
	}
	enc := object[len(sessionMagic):][:encSize]
	r, err := hpke.NewRecipient(enc, k.sessions.key, hpke.HKDFSHA256(), hpke.AES256GCM(), sessionInfo(repoID, id))
	if err != nil {
		return nil, fmt.Errorf("%w: session", ErrCorrupt)
	}
	secret, err := r.Open(nil, object[len(sessionMagic)+encSize:])
	if err != nil {
		return nil, fmt.Errorf("%w: session", ErrCorrupt)
	}
	return newSession(secret), nil
}

// WrapWriteOnly makes a slot that opens to the keys of a write-only host. It is
// otherwise as [Wrap].
func WrapWriteOnly(rand io.Reader, repoID [RepoIDSize]byte, k *Keys, by Locker, opts WrapOptions) (Slot, error) {
	if k.WriteOnly() {
		return Slot{}, errors.New("wrap write-only keys: a write-only key does not make others")
	}
	if by.kind() == KindNone {
		return Slot{}, errors.New("wrap write-only keys: they need a key")
	}
	secret, err := NewSecret(rand)
	if err != nil {
		return Slot{}, err
	}
	nonce, err := NewNonce(rand)
	if err != nil {
		return Slot{}, err
	}
	opts.role = RoleWrite
	s, err := Wrap(rand, repoID, secret, by, opts)
	if err != nil {
		return Slot{}, err
	}
	body := make([]byte, 0, grantBody)
	for _, key := range []*[KeySize]byte{k.idKey, k.chunker, k.index, k.config} {
		body = append(body, key[:]...)
	}
	body = append(body, k.fingerprint[:]...)
	body = append(body, k.writers.key.Bytes()...)
	s.grant = grantKey(secret).Seal(nonce[:], nonce, body, s.binding(repoID))
	return s, nil
}

func grantKey(secret Secret) *AEAD {
	b, err := hkdf.Key(sha256.New, secret.key()[:], nil, "backup-handler v1 grant", KeySize)
	if err != nil {
		panic("seal: " + err.Error()) // fails for lengths beyond 8160 only
	}
	return NewAEAD([KeySize]byte(b))
}

// Keys returns the keys that the secret of an opened slot stands for: all of the
// repository, or those of a write-only host. The error is [ErrCorrupt], wrapped.
func (s *Slot) Keys(repoID [RepoIDSize]byte, secret Secret) (*Keys, error) {
	if s.Role != RoleWrite {
		return NewKeys(secret), nil
	}
	if len(s.grant) != grantSize {
		return nil, fmt.Errorf("%w: write-only keys", ErrCorrupt)
	}
	b, err := grantKey(secret).Open(nil, Nonce(s.grant), s.grant[NonceSize:], s.binding(repoID))
	if err != nil {
		return nil, fmt.Errorf("%w: write-only keys", err)
	}
	next := func() *[KeySize]byte {
		k := [KeySize]byte(b)
		b = b[KeySize:]
		return &k
	}
	id, chunker, index, config := next(), next(), next(), next()
	k := newKeys(id, chunker, index, config, [FingerprintSize]byte(b))
	key, err := hpke.MLKEM768X25519().NewPublicKey(b[FingerprintSize:])
	if err != nil {
		return nil, fmt.Errorf("%w: write-only keys", ErrCorrupt)
	}
	k.writers = &Recipient{key}
	return k, nil
}
