package config

import (
	"fmt"
	"log/slog"
)

// redacted stands wherever a secret would have been printed.
const redacted = "***"

// A SecretString is a secret that does not print: fmt, encoding/json,
// encoding/xml and log/slog all show "***". Only Reveal gives it away, so that
// a search for Reveal finds every place where a secret leaves the program.
//
// It guards against accidents. It does not wipe memory: Go strings are copied
// by the garbage collector's leave.
type SecretString struct{ text string }

// NewSecretString wraps a secret that came from elsewhere: a prompt, a key
// ring.
func NewSecretString(text string) SecretString { return SecretString{text} }

// Reveal returns the secret itself.
func (s SecretString) Reveal() string { return s.text }

// IsEmpty tells whether there is no secret.
func (s SecretString) IsEmpty() bool { return s.text == "" }

// String returns "***".
func (s SecretString) String() string { return redacted }

// Format prints "***" for every verb, those that bypass String (%#v, %x) too.
func (s SecretString) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// MarshalText gives "***" to encoders of text formats.
func (s SecretString) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalJSON gives "***".
func (s SecretString) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// LogValue gives "***" to log/slog.
func (s SecretString) LogValue() slog.Value { return slog.StringValue(redacted) }

// Secrets returns the secrets that are set and can be read, so that they can be taken out
// of what other programs print.
func (c *Config) Secrets() []SecretString {
	var all []SecretString
	for _, k := range c.allKeys() {
		if !k.Secret {
			continue
		}
		if s, err := c.Value(k.Section, k.Name).Secret(); err == nil && !s.IsEmpty() {
			all = append(all, s)
		}
	}
	return all
}
