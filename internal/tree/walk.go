package tree

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

// A Loader returns the plaintext of chunks. *repo.Repository is one.
type Loader interface {
	// Load returns the chunk's bytes, checked against hash and size. buf is
	// reused if it is large enough. Safe for concurrent use.
	Load(ctx context.Context, hash Hash, size uint32, buf []byte) ([]byte, error)
}

// ReadDir calls fn for each entry of the directory with the given content, in
// ascending order of names.
func ReadDir(ctx context.Context, l Loader, content []Chunk, fn func(*Node) error) error {
	last := ""
	for _, c := range content {
		if err := ctx.Err(); err != nil {
			return err // what is cached loads without asking
		}
		page, err := l.Load(ctx, c.Hash, c.Size, nil)
		if err != nil {
			return err
		}
		if last, err = DecodePage(page, last, fn); err != nil {
			return err
		}
	}
	return nil
}

// EachChunk calls fn for each chunk of a file's content, in order, holding one
// piece of an indirect list at a time.
func EachChunk(ctx context.Context, l Loader, n *Node, fn func(Chunk) error) error {
	if !n.Indirect {
		for _, c := range n.Content {
			if err := fn(c); err != nil {
				return err
			}
		}
		return nil
	}
	var list []byte
	var chunks []Chunk
	for _, c := range n.Content {
		err := ctx.Err()
		if err != nil {
			return err
		}
		if list, err = l.Load(ctx, c.Hash, c.Size, list); err != nil {
			return err
		}
		if chunks, err = DecodeChunks(chunks[:0], list); err != nil {
			return err
		}
		for _, c := range chunks {
			if err := fn(c); err != nil {
				return err
			}
		}
	}
	return nil
}

// Lookup returns the node at a slash-separated path below root; "" and "/" are
// root itself. The error is fs.ErrNotExist where there is none.
func Lookup(ctx context.Context, l Loader, root *Node, path string) (*Node, error) {
	n := root
	for _, name := range strings.Split(path, "/") {
		if name == "" || name == "." {
			continue
		}
		if n.Type != Dir {
			return nil, fmt.Errorf("%q: %w", path, fs.ErrNotExist)
		}
		var found *Node
		err := ReadDir(ctx, l, n.Content, func(e *Node) error {
			if e.Name < name {
				return nil
			}
			if e.Name == name {
				found = e
			}
			return errStop
		})
		if err != nil && err != errStop {
			return nil, err
		}
		if found == nil {
			return nil, fmt.Errorf("%q: %w", path, fs.ErrNotExist)
		}
		n = found
	}
	return n, nil
}

var errStop = errors.New("stop")

// Visitor is what Walk calls.
type Visitor struct {
	// Node receives each node with its path ("/" for the root, then "/etc",
	// "/etc/hosts": parents before children, names ascending). For a directory
	// it may return fs.SkipDir; fs.SkipAll ends the walk without error.
	Node func(path string, n *Node) error
	// DirDone, if set, follows the last entry of a directory, unless it was
	// skipped.
	DirDone func(path string, n *Node) error
	// Damaged, if set, receives a directory once for each page of its record
	// that could not be read, or not to its end; the walk goes on with the next
	// page unless it returns an error. Without Damaged, that error ends the walk.
	Damaged func(path string, n *Node, err error) error
}

// Walk visits the tree below root, whose path is given.
func Walk(ctx context.Context, l Loader, path string, root *Node, v Visitor) error {
	err := walk(ctx, l, path, root, &v)
	if errors.Is(err, fs.SkipAll) {
		return nil
	}
	return err
}

func walk(ctx context.Context, l Loader, path string, n *Node, v *Visitor) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := v.Node(path, n); err != nil {
		if err == fs.SkipDir && n.Type == Dir {
			return nil
		}
		return err
	}
	if n.Type != Dir {
		return nil
	}
	last := ""
	for i := range n.Content {
		var visit error // errors of the visitor, not of reading this record
		err := ReadDir(ctx, l, n.Content[i:i+1], func(e *Node) error {
			if e.Name <= last {
				return fmt.Errorf("%w: %q after %q", ErrCorrupt, e.Name, last)
			}
			last = e.Name
			visit = walk(ctx, l, Join(path, e.Name), e, v)
			return visit
		})
		if visit != nil {
			return visit
		}
		if err != nil {
			if v.Damaged == nil || ctx.Err() != nil {
				return fmt.Errorf("read directory %q: %w", path, err)
			}
			if err := v.Damaged(path, n, err); err != nil {
				return err
			}
		}
	}
	if v.DirDone != nil {
		return v.DirDone(path, n)
	}
	return nil
}

// Join appends a name to an absolute path.
func Join(dir, name string) string {
	if strings.HasSuffix(dir, "/") {
		return dir + name
	}
	return dir + "/" + name
}
