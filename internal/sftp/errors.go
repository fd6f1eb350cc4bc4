package sftp

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path"

	"github.com/pkg/sftp"

	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

// permanent returns an error that trying again cannot mend.
func permanent(hint, format string, args ...any) error {
	return &storage.PermanentError{Err: fmt.Errorf(format, args...), Hint: hint}
}

// denied is permanent for what has to do with who asks.
func denied(hint, format string, args ...any) error {
	return &storage.PermanentError{Err: fmt.Errorf(format, args...), Hint: hint, Kind: storage.ErrDenied}
}

// isStatus reports whether err is an answer of the SFTP server: the session is
// well, the request was refused.
func isStatus(err error) bool {
	if _, ok := errors.AsType[*net.OpError](err); ok {
		return false // a firewall's refusal to send is a lack of permission, too
	}
	_, ok := errors.AsType[*sftp.StatusError](err)
	return ok || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)
}

// isFailure reports whether err is SSH_FX_FAILURE, which says nothing more: a full
// disk, a used-up quota, a name that is taken, a read-only mount, a dying disk.
func isFailure(err error) bool {
	status, ok := errors.AsType[*sftp.StatusError](err)
	return ok && status.FxCode() == sftp.ErrSSHFxFailure
}

// lstat looks at a path in the store. A path that leads through a file is missing:
// OpenSSH says so, other servers report a mere failure.
func (s *Store) lstat(c *session, p string) (fs.FileInfo, error) {
	info, err := request(c, func(client *sftp.Client) (fs.FileInfo, error) { return client.Lstat(p) })
	if err == nil || !isFailure(err) || p == s.root {
		return info, err
	}
	above, aboveErr := s.lstat(c, path.Dir(p))
	if errors.Is(aboveErr, fs.ErrNotExist) || aboveErr == nil && !above.IsDir() && above.Mode()&fs.ModeSymlink == 0 {
		return nil, fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	return nil, err
}

// statVFSReadOnly is the flag of a read-only mount (SSH2_FXE_STATVFS_ST_RDONLY,
// OpenSSH's PROTOCOL, section 4.4).
const statVFSReadOnly = 1

// writeError finds out what is behind the failure of a change at path p for which
// need bytes were to be stored, and adds the error that callers branch on.
func (s *Store) writeError(c *session, p string, need int64, err error) error {
	switch {
	case err == nil || !isStatus(err):
		return err
	case errors.Is(err, fs.ErrPermission):
		return permanent("on the server, make the store belong to that user, who must be able to write to it",
			"%w: no permission to change %s on %s: %w", storage.ErrReadOnly, p, c.peer, err)
	case !isFailure(err):
		return fmt.Errorf("change %s on %s: %w", p, c.peer, err)
	}
	err = fmt.Errorf("change %s on %s: %w", p, c.peer, err)
	v, vfsErr := s.statVFS(c)
	switch {
	case vfsErr != nil:
		return err
	case v.Flag&statVFSReadOnly != 0:
		return permanent("", "%w: %w", storage.ErrReadOnly, err)
	case freeBytes(v) <= need, v.Files > 0 && v.Favail == 0:
		return fmt.Errorf("%w: %w", storage.ErrFull, err)
	}
	return err
}
