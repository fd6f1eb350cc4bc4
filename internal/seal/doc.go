// Package seal keeps secrets: it holds the master secret of a repository and the
// keys that derive from it, wraps that secret for passphrases, key files and
// public keys, seals data, and names chunks so that names reveal nothing. It is
// the only package that imports ciphers.
//
// It must not know of packs, storage or configuration: it turns bytes into bytes,
// and reads no file, environment or terminal.
//
// Everything is built from AES-256-GCM, SHA-256, HMAC, HKDF, PBKDF2 and ML-KEM-768
// with X25519, so that a repository works with the Go Cryptographic Module in FIPS
// 140-3 mode (GODEBUG=fips140=on); only Argon2id, on request, is not approved.
//
// Invariants: no error, log line or printed value holds a secret; whatever fails
// to authenticate yields no data; every parameter a stored object can choose is
// bounded before it costs anything. Secrets stay in memory until collected: Go
// offers no way to wipe them that holds.
//
// Files: secret.go the master secret and redaction; keys.go the keys derived from
// it; aead.go XAES-256-GCM; object.go sealed objects; slot.go key slots, with one
// file for each kind: passphrase.go, keyfile.go, recipient.go, none.go; paper.go key
// files that people type.
package seal
