package seal

import (
	"crypto/rand"
	"fmt"
)

// The format of a sealed object, the same for indexes, snapshots and lists of
// condemned packs:
//
//	offset  size  field
//	0       4     magic "BHOB"
//	4       1     format version, 1
//	5       1     kind, given by the caller
//	6       2     reserved, zero
//	8       24    nonce, random
//	32      n+16  body, sealed; additional data: bytes 0 to 7, then the caller's
const (
	objectMagic      = "BHOB"
	objectVersion    = 1
	objectHeaderSize = 8

	// ObjectOverhead is by how many bytes a sealed object is longer than its
	// body.
	ObjectOverhead = objectHeaderSize + NonceSize + Overhead
)

// NewerVersionError says that something was written by a newer program, in a
// format this one does not know.
type NewerVersionError struct {
	What    string // "sealed object", "key slot"
	Version int
}

func (e *NewerVersionError) Error() string {
	return fmt.Sprintf("%s has the newer format version %d: a newer backup-handler is needed", e.What, e.Version)
}

// SealObject appends a sealed object with the given kind and body to dst and
// returns the result. Aad is authenticated but not stored; the object opens only
// with the same, such as its own name. The nonce comes from crypto/rand, which
// cannot fail. Body is compressed, or not, by the caller, and must not overlap
// dst's free space.
func (x *AEAD) SealObject(dst []byte, kind byte, aad, body []byte) []byte {
	var nonce Nonce
	rand.Read(nonce[:])
	return x.sealObject(dst, nonce, kind, aad, body)
}

func (x *AEAD) sealObject(dst []byte, nonce Nonce, kind byte, aad, body []byte) []byte {
	header := [objectHeaderSize]byte{4: objectVersion, 5: kind}
	copy(header[:], objectMagic)
	dst = append(dst, header[:]...)
	dst = append(dst, nonce[:]...)
	return x.Seal(dst, nonce, body, objectAAD(header, aad))
}

// OpenObject appends the body of a sealed object to dst and returns the result.
// An object of another kind, with other additional data, or damaged anywhere is
// [ErrCorrupt], wrapped; one of a newer version is a [*NewerVersionError]. Dst's
// free space must not overlap object.
func (x *AEAD) OpenObject(dst []byte, kind byte, aad, object []byte) ([]byte, error) {
	if len(object) < ObjectOverhead {
		return nil, fmt.Errorf("%w: %d bytes are too few for an object", ErrCorrupt, len(object))
	}
	header := [objectHeaderSize]byte(object)
	if string(header[:4]) != objectMagic {
		return nil, fmt.Errorf("%w: not an object of backup-handler", ErrCorrupt)
	}
	if header[4] > objectVersion {
		return nil, &NewerVersionError{"sealed object", int(header[4])}
	}
	if header != [objectHeaderSize]byte{'B', 'H', 'O', 'B', objectVersion, kind} {
		return nil, fmt.Errorf("%w: object header %x is not of kind %d", ErrCorrupt, header, kind)
	}
	nonce := Nonce(object[objectHeaderSize:])
	return x.Open(dst, nonce, object[objectHeaderSize+NonceSize:], objectAAD(header, aad))
}

// objectAAD is unambiguous because a header has a fixed size.
func objectAAD(header [objectHeaderSize]byte, aad []byte) []byte {
	return append(header[:], aad...)
}
