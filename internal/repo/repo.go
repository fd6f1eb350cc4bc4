package repo

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
)

// ID names an object of a repository: 16 random bytes, or the keyed identifier
// of a chunk. Its text is 32 lower-case hexadecimal digits.
type ID [16]byte

// Hash is the SHA-256 of a chunk's plaintext.
type Hash [sha256.Size]byte

// Errors that callers branch on.
var (
	// ErrCorrupt says that an object is not what was written: damaged,
	// truncated, swapped, or of another repository.
	ErrCorrupt = errors.New("damaged")
	// ErrMissing says that a chunk is in no pack that is there.
	ErrMissing = errors.New("missing from the repository")
	// ErrRaced says that packs which a run relied on were condemned meanwhile:
	// nothing was committed, and a new run stores what is missing.
	ErrRaced = errors.New("the repository was pruned during the run")
	// ErrReplacing says that a damaged snapshot was removed, and the good one
	// perhaps not stored in its place.
	ErrReplacing = errors.New("its damaged object is removed, the good one not stored")
)

func (id ID) String() string { return hex.EncodeToString(id[:]) }

// Short is the form for people: enough digits to be unique in practice, and
// accepted as a prefix.
func (id ID) Short() string { return id.String()[:8] }

// MarshalText implements [encoding.TextMarshaler].
func (id ID) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, id[:]), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (id *ID) UnmarshalText(text []byte) error {
	parsed, err := ParseID(string(text))
	if err == nil {
		*id = parsed
	}
	return err
}

// ParseID parses the 32 hexadecimal digits of an ID.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 2*len(id) {
		return ID{}, fmt.Errorf("%q is not an ID: want %d hexadecimal digits", s, 2*len(id))
	}
	for i := range id {
		hi, lo := hexValue[s[2*i]], hexValue[s[2*i+1]]
		if hi|lo > 15 {
			return ID{}, fmt.Errorf("%q is not an ID: want lower-case hexadecimal digits", s)
		}
		id[i] = hi<<4 | lo
	}
	return id, nil
}

// hexValue has the value of each lower-case hexadecimal digit, and 255 for all else.
var hexValue = func() (v [256]byte) {
	for c := range v {
		v[c] = 255
	}
	for i, c := range []byte("0123456789abcdef") {
		v[c] = byte(i)
	}
	return v
}()

// Kind separates what is read often (metadata) from what is read for a restore
// (data): each has packs of its own. The numbers are part of the format.
type Kind uint8

const (
	Data     Kind = 1 // file content
	Metadata Kind = 2 // directory records and lists of chunks
)

// Block is where some chunks are stored together: compressed and sealed as one.
// Blocks are compared by Pack and Offset.
type Block struct {
	Pack       ID
	Offset     uint32 // of the sealed bytes in the pack
	Stored     uint32 // sealed length in bytes
	Raw        uint32 // plaintext length in bytes
	Nonce      [24]byte
	Compressed bool
	Session    bool // sealed by a run of a write-only host
}

// Location is where a chunk is stored.
type Location struct {
	Block  Block
	Offset uint32 // of the chunk in the block's plaintext
	Size   uint32 // of the chunk in bytes
}
