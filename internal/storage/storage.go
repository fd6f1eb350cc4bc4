// Package storage keeps named, immutable objects: the bytes of a repository.
//
// It knows nothing of what the objects mean, of keys or of configuration. Every
// implementation lives in a file of its own beside the interface it implements
// (local.go, memory.go); [Open] chooses one by the scheme of a URL. The
// conformance suite that each of them passes is in the package storagetest.
package storage

import (
	"context"
	"errors"
	"io"
)

// Errors that callers branch on. A missing object is [io/fs.ErrNotExist], one
// that is there already is [io/fs.ErrExist]; both arrive wrapped.
var (
	// ErrReadOnly says that the store refuses writes (a read-only mount, a
	// missing permission).
	ErrReadOnly = errors.New("storage is read-only")
	// ErrFull says that the store has no room left (ENOSPC, quota).
	ErrFull = errors.New("storage is full")
)

// Info describes one object of a listing.
type Info struct {
	Name string
	Size int64
}

// A Backend stores objects under slash-separated names such as
// "packs/3f/3f0c…". Names consist of [a-z0-9._/-], no element is empty, "." or
// "..", none starts with a dot, and no name is the directory of another.
//
// Objects are written once and never changed. All methods may be called
// concurrently, by several processes and hosts too. A method that returns an
// error may or may not have had its effect (a network can fail after the server
// has acted); callers must be correct in both cases. A cancelled context ends
// a call soon, with the context's error.
type Backend interface {
	// Create starts a new object. Nothing is visible under name before the
	// writer's Commit, and what a crash leaves of an uncommitted object is not
	// an object: List never shows it, and a later Create of any name may clean
	// it up once it is clearly abandoned.
	Create(ctx context.Context, name string) (Writer, error)

	// Get reads length bytes from offset off. A negative length reads to the
	// end; a negative off counts from the end (off -52, length -1: the last 52
	// bytes; an object shorter than that is read from its start). Reading
	// beyond the end yields the bytes there are: the caller checks how many.
	// A missing object is fs.ErrNotExist, from Get itself or the first Read.
	Get(ctx context.Context, name string, off, length int64) (io.ReadCloser, error)

	// List calls fn for each object whose name begins with the directory dir
	// ("packs" lists "packs/3f/…", "" lists everything), in no order. A
	// missing directory is an empty listing. An error of fn ends the listing
	// and is returned.
	List(ctx context.Context, dir string, fn func(Info) error) error

	// Delete removes an object. A missing one is fs.ErrNotExist. The removal
	// is durable on return.
	Delete(ctx context.Context, name string) error

	// String names the store for messages, without secrets.
	String() string

	// Close releases resources. Uncommitted writers become invalid.
	Close() error
}

// A Writer receives the bytes of one object. It is used by one goroutine.
type Writer interface {
	io.Writer
	// Commit makes the object visible and durable, whole, under its name,
	// unless an object of that name exists: then fs.ErrExist, and the existing
	// object is untouched. After Commit, with or without error, the writer is
	// finished.
	Commit() error
	// Abort discards what was written. After Commit it does nothing, so that
	// it may be deferred.
	Abort()
}

// A Spacer is a Backend that knows how much room is left.
type Spacer interface {
	// Free is the number of bytes that this user may still write.
	Free(ctx context.Context) (int64, error)
}
