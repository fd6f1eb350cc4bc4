package storage

import (
	"context"
	"io"
)

// Objects is what a server offers that keeps whole objects: what an
// implementation for another machine has to provide. NewRemote makes a Backend of
// it, with retries, time limits and rate limits, so that an implementation does
// each thing once, and returns errors as they come.
//
// Names, and the errors for objects that are missing or there already, are those
// of a Backend. All methods may be called concurrently, and end soon when the
// context does. An error that trying again cannot mend is a *PermanentError, or
// one of the errors of this package that callers branch on.
type Objects interface {
	// Put stores an object of size bytes, whole and durable on return, unless
	// one of that name exists: then fs.ErrExist, and that one is untouched. It
	// may read content in any order, and more than once. What a Put that was
	// interrupted leaves is not an object.
	Put(ctx context.Context, name string, content io.ReaderAt, size int64) error

	// Get is that of a Backend.
	Get(ctx context.Context, name string, off, length int64) (io.ReadCloser, error)

	// List is that of a Backend.
	List(ctx context.Context, dir string, fn func(Info) error) error

	// Delete is that of a Backend.
	Delete(ctx context.Context, name string) error

	// String names the store for messages, without secrets.
	String() string

	// Close ends all connections.
	Close() error
}

// A PermanentError is one that trying again cannot mend: a wrong password, an
// unknown host, a bucket that does not exist.
type PermanentError struct {
	Err  error
	Hint string // what its reader can do about it, a line; "" if that is obvious
}

func (e *PermanentError) Error() string { return e.Err.Error() }
func (e *PermanentError) Unwrap() error { return e.Err }
