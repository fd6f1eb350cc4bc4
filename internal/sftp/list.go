package sftp

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"

	"github.com/pkg/sftp"

	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

// listWindow is how many directories are read at a time. Each takes four round
// trips, and a repository has 256 for packs: 64 at a time make 0.8 s at 50 ms.
const listWindow = 64

// List implements storage.Objects. A directory that vanishes meanwhile has nothing
// in it; the one of the store itself must be there. Files and directories whose
// names are no object names are not seen, nor are FIFOs, sockets and devices. A
// symbolic link is an error: to pass over it could make a caller take what lies
// behind it for deleted.
func (s *Store) List(ctx context.Context, dir string, fn func(storage.Info) error) error {
	var nameErr error
	if dir != "" {
		nameErr = storage.CheckName(dir)
	}
	if err := s.check(ctx, nameErr); err != nil {
		return fmt.Errorf("list %q: %w", dir, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	type listing struct {
		dir     string
		entries []fs.FileInfo
		err     error
	}
	pending := []string{dir}
	running := 0
	listings := make(chan listing, listWindow) // nobody blocks who is left behind
	for len(pending) > 0 || running > 0 {
		for running < listWindow && len(pending) > 0 {
			d := pending[len(pending)-1]
			pending = pending[:len(pending)-1]
			running++
			go func() {
				entries, err := do(ctx, s, func(c *session) ([]fs.FileInfo, error) {
					return s.readDir(c, d, d == dir)
				}, nil)
				listings <- listing{d, entries, err}
			}()
		}
		var l listing
		select {
		case l = <-listings:
			running--
		case <-ctx.Done():
			return fmt.Errorf("list %q: %w", dir, ctx.Err())
		}
		if l.err != nil {
			return fmt.Errorf("list %q: %w", l.dir, l.err)
		}
		for _, e := range l.entries {
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("list %q: %w", dir, err)
			}
			name := path.Join(l.dir, e.Name())
			if storage.CheckName(name) != nil {
				continue // not ours
			}
			switch mode := e.Mode(); {
			case mode.IsDir():
				pending = append(pending, name)
			case mode.IsRegular():
				if err := fn(storage.Info{Name: name, Size: e.Size()}); err != nil {
					return err
				}
			case mode&fs.ModeSymlink != 0:
				return fmt.Errorf("list %s: is a symbolic link, which a store may not contain", name)
			}
		}
	}
	return nil
}

// readDir returns the entries of a directory, none if it is not one.
func (s *Store) readDir(c *session, dir string, first bool) ([]fs.FileInfo, error) {
	p := s.path(dir)
	entries, err := request(c, func(client *sftp.Client) ([]fs.FileInfo, error) { return client.ReadDir(p) })
	switch {
	case err == nil || !isStatus(err):
		return entries, err
	case errors.Is(err, fs.ErrPermission):
		return nil, permanent("on the server, make the store belong to that user", "no permission to list %s on %s: %w", p, c.peer, err)
	case isFailure(err):
		info, statErr := s.lstat(c, p)
		if statErr != nil {
			err = statErr
		} else if !info.IsDir() {
			return nil, nil
		}
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list %s on %s: %w", p, c.peer, err)
	}
	if first {
		// Nothing in the store is one thing, no store another (an unmounted disk).
		return nil, s.checkRoot(c)
	}
	return nil, nil
}

// Delete implements storage.Objects.
func (s *Store) Delete(ctx context.Context, name string) error {
	if err := s.check(ctx, storage.CheckName(name)); err != nil {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	_, err := do(ctx, s, func(c *session) (struct{}, error) { return struct{}{}, s.delete(ctx, c, s.path(name)) }, nil)
	if err != nil {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	return nil
}

func (s *Store) delete(ctx context.Context, c *session, p string) error {
	// Remove would remove an empty directory, too.
	info, err := s.lstat(c, p)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return err
	case err != nil:
		return s.writeError(c, p, 0, err)
	case info.IsDir():
		return fmt.Errorf("%s is a directory: %w", p, fs.ErrNotExist)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	err = tell(c, func(client *sftp.Client) error { return client.Remove(p) })
	if errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err != nil {
		return s.writeError(c, p, 0, err)
	}
	return s.syncDir(c, path.Dir(p), nil)
}
