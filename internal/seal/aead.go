package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
)

const (
	// KeySize is the size of a key in bytes.
	KeySize = 32
	// NonceSize is the size of a nonce in bytes.
	NonceSize = 24
	// Overhead is by how many bytes a sealed message is longer than its
	// plaintext: the authentication tag.
	Overhead = 16

	prefixSize   = 12 // first part of the nonce, from which the AES-GCM key derives
	gcmNonceSize = NonceSize - prefixSize

	// cacheSlots is how many derived AES-GCM keys an AEAD remembers, some 1 KiB
	// each: as many as packs are plausibly read and written at a time.
	cacheSlots = 64
)

// ErrCorrupt says that sealed bytes are not what was sealed with this key and
// additional data. It does not say why: damage, tampering and a wrong key look
// the same.
var ErrCorrupt = errors.New("sealed data is damaged or was not sealed with this key")

// A Nonce makes one message under one key unique. Two messages must never share
// one. It is not secret.
type Nonce [NonceSize]byte

// NewNonce reads a nonce from rand, which is crypto/rand.Reader outside of tests.
func NewNonce(rand io.Reader) (Nonce, error) {
	var n Nonce
	if _, err := io.ReadFull(rand, n[:]); err != nil {
		return Nonce{}, fmt.Errorf("draw nonce: %w", err)
	}
	return n, nil
}

// AEAD is XAES-256-GCM (https://c2sp.org/XAES-256-GCM): AES-256-GCM under a key
// that derives, by the counter KDF of NIST SP 800-108r1 with CMAC-AES256, from the
// first 12 bytes of a 24-byte nonce; the other 12 are the nonce of AES-GCM. Random
// nonces are safe for 2^80 messages. A message is shorter than 64 GiB. Like
// AES-GCM it does not commit to its key.
//
// The derived key depends on the first 12 bytes only and is remembered, so that
// messages whose nonces share them (a pack's blocks: 20 random bytes and a counter)
// cost what AES-GCM costs, and allocate nothing.
//
// An AEAD may be used by any number of goroutines.
type AEAD struct {
	redacted
	block cipher.Block
	k1    *[aes.BlockSize]byte // CMAC subkey

	// derived is indexed by the prefix's first byte. Losing an entry to a
	// collision or a race costs one derivation, under a microsecond.
	derived [cacheSlots]atomic.Pointer[derivedKey]

	// nonces saves an allocation per message: the argument of an interface's
	// method lives on the heap.
	nonces sync.Pool
}

type derivedKey struct {
	prefix [prefixSize]byte
	gcm    cipher.AEAD
}

// NewAEAD makes an AEAD of a key, which must be uniformly random.
func NewAEAD(key [KeySize]byte) *AEAD {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic("seal: " + err.Error()) // the key has the size of an AES-256 key
	}
	x := &AEAD{block: block, k1: new([aes.BlockSize]byte)}
	// CMAC's subkey K1 is the encrypted zero block times x in GF(2^128).
	block.Encrypt(x.k1[:], x.k1[:])
	var msb byte
	for i := len(x.k1) - 1; i >= 0; i-- {
		x.k1[i], msb = x.k1[i]<<1|msb, x.k1[i]>>7
	}
	x.k1[len(x.k1)-1] ^= byte(subtle.ConstantTimeSelect(int(msb), 0b10000111, 0))
	return x
}

// Seal appends plaintext, encrypted and authenticated together with aad, to dst,
// and returns the result. Plaintext and dst's free space overlap exactly
// (plaintext[:0]) or not at all.
func (x *AEAD) Seal(dst []byte, nonce Nonce, plaintext, aad []byte) []byte {
	n := x.gcmNonce(nonce)
	defer x.nonces.Put(n)
	return x.derive([prefixSize]byte(nonce[:])).Seal(dst, n[:], plaintext, aad)
}

// Open appends the plaintext of sealed to dst and returns the result, or returns
// [ErrCorrupt] and no data. Sealed and dst's free space overlap exactly
// (sealed[:0]) or not at all.
func (x *AEAD) Open(dst []byte, nonce Nonce, sealed, aad []byte) ([]byte, error) {
	n := x.gcmNonce(nonce)
	defer x.nonces.Put(n)
	out, err := x.derive([prefixSize]byte(nonce[:])).Open(dst, n[:], sealed, aad)
	if err != nil {
		return nil, ErrCorrupt
	}
	return out, nil
}

// gcmNonce returns the part of the nonce that AES-GCM takes, to be put back.
func (x *AEAD) gcmNonce(nonce Nonce) *[gcmNonceSize]byte {
	n, ok := x.nonces.Get().(*[gcmNonceSize]byte)
	if !ok {
		n = new([gcmNonceSize]byte)
	}
	copy(n[:], nonce[prefixSize:])
	return n
}

// derive returns AES-GCM for a nonce's prefix.
func (x *AEAD) derive(prefix [prefixSize]byte) cipher.AEAD {
	slot := &x.derived[prefix[0]%cacheSlots]
	if d := slot.Load(); d != nil && d.prefix == prefix {
		return d.gcm
	}
	var key [KeySize]byte
	for i := range byte(2) {
		m := key[aes.BlockSize*int(i):][:aes.BlockSize]
		m[1], m[2] = i+1, 'X' // counter, label, zero, context
		copy(m[4:], prefix[:])
		subtle.XORBytes(m, m, x.k1[:])
		x.block.Encrypt(m, m)
	}
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic("seal: " + err.Error())
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		// Only with GODEBUG=fips140=only, which forbids nonces of one's own
		// making; fips140=on does not.
		panic("seal: " + err.Error())
	}
	slot.Store(&derivedKey{prefix, gcm})
	return gcm
}
