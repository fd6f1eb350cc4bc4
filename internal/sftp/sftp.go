// Package sftp keeps objects in a directory of an SSH server: it implements
// [storage.Objects] by the SFTP subsystem alone. No command runs on the server,
// so an account that is locked into sftp and a chroot is enough.
//
// It knows nothing of repositories, configuration and retries: each request is
// made once, on a connection that lives. What was lost is connected anew by the
// next call.
//
// Invariants:
//   - An object is published by a request that refuses to replace (put.go), after
//     its bytes were flushed, where the server can flush.
//   - Nothing outside the directory of the store is touched, and in it nothing
//     but objects, their directories, and temporary files that durable.IsTemp
//     recognises.
//   - A host key that known_hosts does not hold ends the connection (hostkey.go);
//     there is no switch to accept any.
//   - No call waits for a server that has gone silent: a session that shows no
//     sign of life is closed, and all calls on it end (session.go).
//   - Passwords and passphrases are asked for at most once, are sent to the target
//     only, and appear in no error.
//
// Its files: target.go (URLs), options.go, sshconfig.go (~/.ssh/config, jump
// hosts), auth.go and agent_*.go (keys, agent, password), hostkey.go
// (known_hosts), dial.go (the way to the server), session.go (one connection),
// pool.go (several), spare.go (from one store to the next), put.go, get.go, list.go, errors.go. The package sftptest
// starts real servers, and a proxy that disturbs, for tests.
package sftp

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path"
	"sync"
	"sync/atomic"

	"github.com/pkg/sftp"

	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

// Store is the [storage.Objects] in a directory of an SSH server. It is a
// [storage.Spacer], too, where the server tells (statvfs@openssh.com).
type Store struct {
	target  Target
	root    string // as the server is told, clean; "." for the login directory
	pool    *pool
	buffers sync.Pool // *[]byte of largePacket bytes

	// How packets of largePacket bytes fare: a server that announces them and
	// hangs up when the first arrives gets small ones from then on.
	largeProven  atomic.Bool
	largeRefused atomic.Bool

	// dirSync is what is known of the flushing of directories (put.go).
	dirSync atomic.Int32

	swept    sync.Map      // directory → struct{}: looked through for stale files
	sweeping chan struct{} // holds a token while a directory is looked through

	leftMu sync.Mutex
	left   []string // temporary files of Puts whose connection was lost
}

var (
	_ storage.Objects = (*Store)(nil)
	_ storage.Spacer  = (*Store)(nil)
)

// Open connects to the server and opens the store in the directory of the target,
// which exists (else fs.ErrNotExist). What trying again cannot mend, such as an
// unknown host or a refused login, is a *storage.PermanentError with a hint.
func Open(ctx context.Context, target Target, options Options) (*Store, error) {
	s, err := open(ctx, target, options, false)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", target, err)
	}
	return s, nil
}

// Create makes the directory of the target and those that lead to it, for their
// owner only, and opens the store in it. A directory that exists is left as it is.
func Create(ctx context.Context, target Target, options Options) (*Store, error) {
	s, err := open(ctx, target, options, true)
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", target, err)
	}
	return s, nil
}

func open(ctx context.Context, target Target, options Options, create bool) (*Store, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	options = options.withDefaults()
	if target.User == "" {
		target.User = options.User
	}
	if target.Port == 0 {
		target.Port = options.Port
	}
	route, err := resolve(target, options)
	if err != nil {
		return nil, err
	}
	s := &Store{target: target, root: target.remotePath(), sweeping: make(chan struct{}, 1)}
	s.buffers.New = func() any { b := make([]byte, largePacket); return &b }
	d := newDialer(route, options)
	s.pool = newPool(options.Connections, d.connect, func(c *session) (*session, error) { return c.pair(options) })
	along := d.via(len(route))
	if options.Spare != nil {
		if c := options.Spare.take(along); c != nil {
			s.pool.sessions = append(s.pool.sessions, c)
		}
	}
	_, err = do(ctx, s, func(c *session) (struct{}, error) {
		if create {
			if err := s.makeRoot(c); err != nil {
				return struct{}{}, err
			}
		}
		return struct{}{}, s.checkRoot(c)
	}, nil)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) && options.Spare != nil {
			if c := s.pool.detach(); c != nil {
				options.Spare.put(along, c)
			}
		}
		s.Close()
		return nil, err
	}
	return s, nil
}

// checkRoot makes sure that the directory of the store is there.
func (s *Store) checkRoot(c *session) error {
	info, err := request(c, func(client *sftp.Client) (fs.FileInfo, error) { return client.Stat(s.root) })
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("directory %s does not exist on %s: %w", s.root, c.peer, fs.ErrNotExist)
	case errors.Is(err, fs.ErrPermission):
		return permanent("let that user enter it and the directories above it",
			"no permission to look at %s on %s: %w", s.root, c.peer, err)
	case err != nil:
		return fmt.Errorf("look at %s on %s: %w", s.root, c.peer, err)
	case !info.IsDir():
		return permanent("", "%s on %s is not a directory", s.root, c.peer)
	}
	return nil
}

// String returns the URL of the store.
func (s *Store) String() string { return s.target.String() }

// Close ends all connections. Calls in progress end with fs.ErrClosed.
func (s *Store) Close() error {
	s.pool.close()
	return nil
}

// Free implements storage.Spacer: what the server's file system has left for
// users without privileges. Quotas show only where the file system counts them in
// (XFS and ZFS do). A server that cannot tell is errors.ErrUnsupported.
func (s *Store) Free(ctx context.Context) (int64, error) {
	if err := s.check(ctx, nil); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", s, err)
	}
	free, err := do(ctx, s, func(c *session) (int64, error) {
		v, err := s.statVFS(c)
		if err != nil {
			return 0, err
		}
		return freeBytes(v), nil
	}, nil)
	if err != nil {
		return 0, fmt.Errorf("free space of %s: %w", s, err)
	}
	return free, nil
}

func (s *Store) statVFS(c *session) (*sftp.StatVFS, error) {
	if !c.has(extStatVFS) {
		return nil, fmt.Errorf("%s does not tell: %w", c.peer, errors.ErrUnsupported)
	}
	return request(c, func(client *sftp.Client) (*sftp.StatVFS, error) { return client.StatVFS(s.root) })
}

func freeBytes(v *sftp.StatVFS) int64 {
	if v.Frsize != 0 && v.Bavail > math.MaxInt64/v.Frsize {
		return math.MaxInt64
	}
	return int64(v.Bavail * v.Frsize)
}

// check holds what is the same at the beginning of all methods.
func (s *Store) check(ctx context.Context, nameErr error) error {
	if nameErr != nil {
		return nameErr
	}
	if s.pool.isClosed() {
		return fs.ErrClosed
	}
	return ctx.Err()
}

// packet is how many bytes to send or ask for in one request.
func (s *Store) packet(c *session) int64 {
	if s.largeRefused.Load() {
		return smallPacket
	}
	return int64(c.packet)
}

// path returns the file of an object, or the directory of a listing.
func (s *Store) path(name string) string { return path.Join(s.root, name) }

// do runs f on a live session, and returns when f or the context ends. SFTP has no
// request to cancel one, so an f that is left behind goes on, until the server has
// answered or the session is given up. A value it still returns goes to late, if
// that is not nil.
func do[T any](ctx context.Context, s *Store, f func(*session) (T, error), late func(T)) (T, error) {
	var zero T
	c, release, err := s.pool.acquire(ctx)
	if err != nil {
		return zero, err
	}
	type result struct {
		value T
		err   error
	}
	results := make(chan result) // unbuffered: a value is either taken or late
	go func() {
		v, err := f(c)
		release() // before the next call looks for a session that is free
		select {
		case results <- result{v, err}:
		case <-ctx.Done():
			if err == nil && late != nil {
				late(v)
			}
		}
	}()
	select {
	case r := <-results:
		return r.value, r.err
	case <-ctx.Done():
		return zero, ctx.Err()
	}
}
