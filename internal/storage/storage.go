// Package storage keeps named, immutable objects: the bytes of a repository.
//
// It knows nothing of what the objects mean, of keys or of configuration. Every
// implementation lives in a file of its own beside the interface it implements
// (local.go, memory.go); [Open] (open.go) chooses one by the scheme of a URL, and
// [Limit] (limit.go) keeps any of them to a rate. The
// conformance suite that each of them passes is in the package storagetest, and
// so is the wrapper that makes operations fail.
package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
)

// Errors that callers branch on. A missing object is [io/fs.ErrNotExist], one
// that is there already is [io/fs.ErrExist], a name that CheckName refuses is
// [io/fs.ErrInvalid], a backend that has been closed is [io/fs.ErrClosed]; all
// arrive wrapped.
var (
	// ErrReadOnly says that the store refuses writes (a read-only mount, a
	// missing permission).
	ErrReadOnly = errors.New("storage is read-only")
	// ErrFull says that the store has no room left (ENOSPC, quota).
	ErrFull = errors.New("storage is full")
	// ErrDenied says that the store does not know who asks, or does not let them do
	// it; also that what they prove it by cannot be read.
	ErrDenied = errors.New("access denied")
	// ErrClock says that the store refuses requests because this machine's clock is
	// wrong, or its own.
	ErrClock = errors.New("clocks are too far apart")
	// ErrUnsupported says that Open knows no storage for the scheme of a URL.
	ErrUnsupported = errors.New("unsupported kind of storage")
)

// Bounds of a name, in bytes: those of S3 for the whole, and those of nearly
// every file system for an element.
const (
	MaxName    = 1024
	MaxElement = 255
)

// Info describes one object of a listing.
type Info struct {
	Name string
	Size int64
}

// A Backend stores objects under slash-separated names such as
// "packs/3f/3f0c…", which [CheckName] accepts: they consist of [a-z0-9._/-], and
// no element is empty or starts or ends with a dot. No name may be the directory
// of another; what happens if one is, is not specified.
//
// Objects are written once and never changed. All methods may be called
// concurrently, by several processes and hosts too. A method that returns an
// error may or may not have had its effect (a network can fail after the server
// has acted); callers must be correct in both cases. A cancelled context ends
// a call soon, with the context's error.
type Backend interface {
	// Create starts a new object; the context holds for its Writer, too. Whether
	// the name is free is not found out before Commit. Nothing is visible under name before the
	// writer's Commit, and what a crash leaves of an uncommitted object is not
	// an object: List never shows it, and a later Create of any name may clean
	// it up once it is clearly abandoned.
	Create(ctx context.Context, name string) (Writer, error)

	// Get reads length bytes from offset off. A negative length reads to the
	// end; a negative off counts from the end (off -52, length -1: the last 52
	// bytes; an object shorter than that is read from its start). Reading
	// beyond the end yields the bytes there are: the caller checks how many.
	// A missing object is fs.ErrNotExist, from Get itself or the first Read.
	// The context holds for the reads, too.
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

// CheckName reports whether name may be that of an object. The error is
// fs.ErrInvalid.
//
// The alphabet is what every file system and object store keeps apart, whatever
// it does to case, Unicode or spaces. A leading dot is left to the backends, for
// files of their own; a trailing one is lost on Windows.
func CheckName(name string) error {
	if len(name) > MaxName {
		return fmt.Errorf("object name of %d bytes, more than %d: %w", len(name), MaxName, fs.ErrInvalid)
	}
	for element := range strings.SplitSeq(name, "/") {
		if !validElement(element) {
			return fmt.Errorf("object name %q: %w", name, fs.ErrInvalid)
		}
	}
	return nil
}

func validElement(s string) bool {
	if s == "" || len(s) > MaxElement || s[0] == '.' || s[len(s)-1] == '.' {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}

// checkDir is CheckName for the argument of List.
func checkDir(dir string) error {
	if dir == "" {
		return nil
	}
	return CheckName(dir)
}

// byteRange turns the off and length of Get into the range [start, end) of an
// object of size bytes.
func byteRange(size, off, length int64) (start, end int64) {
	if off < 0 {
		start = max(0, size+off)
	} else {
		start = min(off, size)
	}
	if length < 0 || length > size-start {
		return start, size
	}
	return start, start + length
}
