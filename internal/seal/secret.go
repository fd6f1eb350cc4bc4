package seal

import (
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
)

// SecretSize is the size of a master secret in bytes.
const SecretSize = 32

// A Secret is a repository's master secret: 32 random bytes from which all its
// keys derive. It prints as "[redacted]" in every way of printing, also from
// within other values. The zero Secret holds nothing and opens nothing.
type Secret struct {
	redacted

	// A function, because fmt calls no methods on what it finds in unexported
	// fields of other types, and with a verb like %s follows even a pointer. Of a
	// function it shows the address. Nor can functions be compared with ==.
	key func() *[SecretSize]byte
}

// NewSecret reads a secret from rand, which is crypto/rand.Reader outside of
// tests.
func NewSecret(rand io.Reader) (Secret, error) {
	var key [SecretSize]byte
	if _, err := io.ReadFull(rand, key[:]); err != nil {
		return Secret{}, fmt.Errorf("draw master secret: %w", err)
	}
	return secretOf(key), nil
}

func secretOf(key [SecretSize]byte) Secret {
	return Secret{key: func() *[SecretSize]byte { return &key }}
}

// IsZero reports whether s holds no secret.
func (s Secret) IsZero() bool { return s.key == nil }

// Equal reports in constant time whether s and t hold the same secret.
func (s Secret) Equal(t Secret) bool {
	if s.IsZero() || t.IsZero() {
		return s.IsZero() && t.IsZero()
	}
	return subtle.ConstantTimeCompare(s.key()[:], t.key()[:]) == 1
}

// redacted, when embedded, keeps a value out of messages, logs and JSON. Types that
// embed it are used through pointers and hold secrets behind one more pointer,
// which is where fmt stops following.
type redacted struct{}

const redaction = "[redacted]"

func (redacted) String() string               { return redaction }
func (redacted) GoString() string             { return redaction }
func (redacted) Format(f fmt.State, _ rune)   { io.WriteString(f, redaction) }
func (redacted) MarshalText() ([]byte, error) { return []byte(redaction), nil }
func (redacted) LogValue() slog.Value         { return slog.StringValue(redaction) }
