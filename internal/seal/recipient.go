package seal

import (
	"bytes"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Recipients and identities are HPKE key pairs of the KEM MLKEM768-X25519
// (X-Wing), written as one word of text:
//
//	recipient  "bhpk1" base32(public key[1216] checksum[4]), in lower case: 1957 characters
//	identity   "BHSK1" base32(seed[32] checksum[4]), in upper case: 63 characters
//
// Base32 is that of RFC 4648 without padding; the checksum is the first 4 bytes
// of SHA-256(prefix, payload). Case and unused bits must be as written.
const (
	recipientPrefix = "bhpk1"
	identityPrefix  = "BHSK1"
	kemName         = "MLKEM768-X25519"

	recipientSize    = 1216 // bytes
	identitySize     = 32   // bytes
	encSize          = 1120 // bytes of an encapsulated key
	textChecksumSize = 4    // bytes
)

// A Recipient is a public key: it locks slots of kind recipient, and opens none.
type Recipient struct {
	key hpke.PublicKey
}

// ParseRecipient reads the text form; space around it is ignored.
func ParseRecipient(text string) (*Recipient, error) {
	b, err := decodeText(recipientPrefix, recipientSize, text)
	if err != nil {
		return nil, fmt.Errorf("parse recipient: %w", err)
	}
	key, err := hpke.MLKEM768X25519().NewPublicKey(b)
	if err != nil {
		return nil, fmt.Errorf("parse recipient: %w", err)
	}
	return &Recipient{key}, nil
}

// String returns the text form.
func (r *Recipient) String() string { return encodeText(recipientPrefix, r.key.Bytes()) }

func (*Recipient) kind() Kind { return KindRecipient }

func (r *Recipient) lock(_ io.Reader, repoID [RepoIDSize]byte, s *Slot, secret Secret) error {
	enc, sender, err := hpke.NewSender(r.key, hpke.HKDFSHA256(), hpke.AES256GCM(), s.binding(repoID))
	if err != nil {
		return err
	}
	s.enc = enc
	s.sealed, err = sender.Seal(nil, secret.key()[:])
	return err
}

// An Identity is a private key: it opens slots of kind recipient. It prints as
// "[redacted]"; [Identity.Text] returns it.
//
// A recipient's slot does not prove who made it. Whoever holds the store and knows
// the public key can replace a whole repository by one under a secret of their
// own. A host that remembers [Keys.Fingerprint] notices.
type Identity struct {
	redacted
	key hpke.PrivateKey
}

// GenerateIdentity makes an identity of 32 bytes from rand, which is
// crypto/rand.Reader outside of tests.
func GenerateIdentity(rand io.Reader) (*Identity, error) {
	seed := make([]byte, identitySize)
	if _, err := io.ReadFull(rand, seed); err != nil {
		return nil, fmt.Errorf("generate identity: %w", err)
	}
	return newIdentity(seed)
}

// ParseIdentity reads the text form; space around it is ignored. Its errors do not
// quote the text.
func ParseIdentity(text string) (*Identity, error) {
	seed, err := decodeText(identityPrefix, identitySize, text)
	if err != nil {
		return nil, fmt.Errorf("parse identity: %w", err)
	}
	return newIdentity(seed)
}

func newIdentity(seed []byte) (*Identity, error) {
	key, err := hpke.MLKEM768X25519().NewPrivateKey(seed)
	if err != nil {
		return nil, fmt.Errorf("make identity: %w", err)
	}
	return &Identity{key: key}, nil
}

// Text returns the text form, which is secret.
func (i *Identity) Text() string {
	seed, err := i.key.Bytes()
	if err != nil {
		panic("seal: " + err.Error()) // a key made from its bytes has them
	}
	return encodeText(identityPrefix, seed)
}

// Recipient returns the public key.
func (i *Identity) Recipient() *Recipient { return &Recipient{i.key.PublicKey()} }

func (*Identity) kind() Kind { return KindRecipient }

func (i *Identity) unlock(repoID [RepoIDSize]byte, s *Slot) (Secret, error) {
	r, err := hpke.NewRecipient(s.enc, i.key, hpke.HKDFSHA256(), hpke.AES256GCM(), s.binding(repoID))
	if err != nil {
		return Secret{}, ErrWrongKey // the encapsulated key is not one
	}
	b, err := r.Open(nil, s.sealed)
	if err != nil {
		// Another's slot, an altered one: HPKE cannot tell.
		return Secret{}, ErrWrongKey
	}
	return secretOf([SecretSize]byte(b)), nil
}

func textChecksum(prefix string, payload []byte) []byte {
	sum := sha256.Sum256(append([]byte(prefix), payload...))
	return sum[:textChecksumSize]
}

func encodeText(prefix string, payload []byte) string {
	text := base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(
		append(bytes.Clone(payload), textChecksum(prefix, payload)...))
	if prefix == recipientPrefix {
		text = strings.ToLower(text)
	}
	return prefix + text
}

func decodeText(prefix string, size int, text string) ([]byte, error) {
	text = strings.TrimSpace(text)
	body, ok := strings.CutPrefix(text, prefix)
	if !ok {
		return nil, fmt.Errorf("does not begin with %s", prefix)
	}
	enc := base32.StdEncoding.WithPadding(base32.NoPadding)
	if want := enc.EncodedLen(size + textChecksumSize); len(body) != want {
		return nil, fmt.Errorf("has %d characters after %s, must have %d", len(body), prefix, want)
	}
	b, err := enc.DecodeString(strings.ToUpper(body))
	if err != nil || len(b) != size+textChecksumSize { // the decoder skips line ends
		return nil, errors.New("has a character that does not belong")
	}
	payload := b[:size:size]
	if encodeText(prefix, payload) != text {
		return nil, errors.New("checksum is wrong: a character was mistyped or lost")
	}
	return payload, nil
}
