package seal

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
)

// Keys are the keys of one repository, or of several that share a master secret.
// Each is HKDF-SHA256(secret, no salt, info, 32 bytes), with the info
//
//	"backup-handler v1 chunk id"     names chunks, see [Keys.ChunkID]
//	"backup-handler v1 chunker"      places split points, see [Keys.Chunker]
//	"backup-handler v1 data"         seals blocks: [Keys.Data]
//	"backup-handler v1 index"        seals indexes, packs' tables and lists: [Keys.Index]
//	"backup-handler v1 meta"         seals snapshots: [Keys.Meta]
//	"backup-handler v1 config"       authenticates the config object
//	"backup-handler v1 report"       signs reports: [Keys.ReportMAC]
//	"backup-handler v1 fingerprint"  16 bytes, public: [Keys.Fingerprint]
//	"backup-handler v1 write-only"   seed of the key pair for sessions: [Keys.OpenSession]
//
// Those of a write-only host (see [Slot.Grant]) lack Data and Meta, which are nil,
// the key of reports, and the private half of that pair.
//
// Keys may be used by any number of goroutines, and print as "[redacted]".
type Keys struct {
	redacted

	// Data seals blocks.
	Data *AEAD
	// Index seals index objects and the tables at the ends of packs.
	Index *AEAD
	// Meta seals snapshots and lists of condemned packs.
	Meta *AEAD

	id          *[2][sha256.BlockSize]byte // HMAC's inner and outer first blocks
	idKey       *[KeySize]byte
	index       *[KeySize]byte
	sessions    *Identity  // nil: write-only
	writers     *Recipient // its public half
	chunker     *[KeySize]byte
	config      *[KeySize]byte
	report      *[KeySize]byte
	fingerprint [FingerprintSize]byte
}

const (
	// ChunkIDSize is the size of a chunk's ID in bytes. Collisions are chance
	// only, as the key is secret: 2^-49 with 2^40 chunks.
	ChunkIDSize = 16
	// FingerprintSize is the size of a fingerprint in bytes.
	FingerprintSize = 16
)

// NewKeys derives the keys of a secret. It panics if the secret is the zero one.
func NewKeys(secret Secret) *Keys {
	if secret.IsZero() {
		panic("seal: keys of a zero secret")
	}
	derive := func(purpose string) *[KeySize]byte {
		b, err := hkdf.Key(sha256.New, secret.key()[:], nil, "backup-handler v1 "+purpose, KeySize)
		if err != nil {
			panic("seal: " + err.Error()) // fails for lengths beyond 8160 only
		}
		return (*[KeySize]byte)(b)
	}
	sessions, err := newIdentity(derive("write-only")[:])
	if err != nil {
		panic("seal: " + err.Error()) // every seed of the right size is one
	}
	k := newKeys(derive("chunk id"), derive("chunker"), derive("index"), derive("config"), [FingerprintSize]byte(derive("fingerprint")[:]))
	k.Data, k.Meta = NewAEAD(*derive("data")), NewAEAD(*derive("meta"))
	k.report = derive("report")
	k.sessions, k.writers = sessions, sessions.Recipient()
	return k
}

// newKeys makes those keys that every host has.
func newKeys(id, chunker, index, config *[KeySize]byte, fingerprint [FingerprintSize]byte) *Keys {
	k := &Keys{
		Index: NewAEAD(*index), id: new([2][sha256.BlockSize]byte), idKey: id, index: index,
		chunker: chunker, config: config, fingerprint: fingerprint,
	}
	for i, b := range id {
		k.id[0][i], k.id[1][i] = b, b
	}
	for i := range sha256.BlockSize {
		k.id[0][i] ^= 0x36 // ipad, opad of RFC 2104
		k.id[1][i] ^= 0x5c
	}
	return k
}

// WriteOnly reports whether these are the keys of a write-only host.
func (k *Keys) WriteOnly() bool { return k.sessions == nil }

// ChunkID names a chunk by the SHA-256 of its content: the first 16 bytes of
// HMAC-SHA256(key, hash). Without the key an ID says nothing about the content,
// not even whether a guess of it is right. It does not allocate.
func (k *Keys) ChunkID(hash [sha256.Size]byte) [ChunkIDSize]byte {
	// HMAC spelled out: both hashes take 96 bytes from the stack.
	var buf [sha256.BlockSize + sha256.Size]byte
	copy(buf[:], k.id[0][:])
	copy(buf[sha256.BlockSize:], hash[:])
	inner := sha256.Sum256(buf[:])
	copy(buf[:], k.id[1][:])
	copy(buf[sha256.BlockSize:], inner[:])
	mac := sha256.Sum256(buf[:])
	return [ChunkIDSize]byte(mac[:])
}

// Chunker returns the key for content-defined splitting.
func (k *Keys) Chunker() [KeySize]byte { return *k.chunker }

// ConfigMAC returns HMAC-SHA256 of the config object's bytes.
func (k *Keys) ConfigMAC(config []byte) [sha256.Size]byte {
	h := hmac.New(sha256.New, k.config[:])
	h.Write(config)
	return [sha256.Size]byte(h.Sum(nil))
}

// VerifyConfig reports in constant time whether mac is the config object's. A
// caller that gets false must not use the object.
func (k *Keys) VerifyConfig(config, mac []byte) bool {
	want := k.ConfigMAC(config)
	return hmac.Equal(want[:], mac)
}

// ReportMAC returns HMAC-SHA256 of a report about the repository, which is kept
// outside of it: whoever can make one could open the repository.
func (k *Keys) ReportMAC(report []byte) [sha256.Size]byte {
	h := hmac.New(sha256.New, k.report[:])
	h.Write(report)
	return [sha256.Size]byte(h.Sum(nil))
}

// Fingerprint tells whether two repositories share their master secret, and so
// whether blocks can move between them unopened. It is public and reveals nothing
// of the secret. A host that remembers it notices when a store presents another
// repository under the same name.
func (k *Keys) Fingerprint() [FingerprintSize]byte { return k.fingerprint }
