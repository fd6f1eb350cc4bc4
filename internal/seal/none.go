package seal

import (
	"crypto/sha256"
	"crypto/subtle"
	"io"
	"slices"
)

// None locks and opens slots of kind none, which hold the master secret in clear:
// encryption is disabled, and the format stays the same. The check finds damage,
// not tampering.
type None struct{}

func (None) kind() Kind { return KindNone }

func (None) lock(_ io.Reader, repoID [RepoIDSize]byte, s *Slot, secret Secret) error {
	s.sealed = slices.Clone(secret.key()[:])
	s.check = noneCheck(repoID, s)
	return nil
}

func (None) unlock(repoID [RepoIDSize]byte, s *Slot) (Secret, error) {
	if subtle.ConstantTimeCompare(noneCheck(repoID, s), s.check) != 1 {
		return Secret{}, ErrCorrupt
	}
	return secretOf([SecretSize]byte(s.sealed)), nil
}

func noneCheck(repoID [RepoIDSize]byte, s *Slot) []byte {
	sum := sha256.Sum256(append(s.binding(repoID), s.sealed...))
	return sum[:]
}
