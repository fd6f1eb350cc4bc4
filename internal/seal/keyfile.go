package seal

import (
	"fmt"
	"io"
)

// A KeyFile locks and opens slots of kind keyfile. It prints as "[redacted]".
type KeyFile struct {
	redacted
	raw *[KeySize]byte
}

// NewKeyFile takes a key file's content: exactly 32 bytes, uniformly random.
func NewKeyFile(content []byte) (*KeyFile, error) {
	if len(content) != KeySize {
		return nil, fmt.Errorf("key file has %d bytes, must be exactly %d", len(content), KeySize)
	}
	raw := [KeySize]byte(content)
	return &KeyFile{raw: &raw}, nil
}

func (*KeyFile) kind() Kind { return KindKeyFile }

func (k *KeyFile) lock(rand io.Reader, repoID [RepoIDSize]byte, s *Slot, secret Secret) error {
	return lockSymmetric(rand, repoID, s, secret, k.key)
}

func (k *KeyFile) unlock(repoID [RepoIDSize]byte, s *Slot) (Secret, error) {
	return unlockSymmetric(repoID, s, k.key)
}

func (k *KeyFile) key(*Slot) ([]byte, error) { return k.raw[:], nil }
