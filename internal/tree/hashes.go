package tree

import (
	"context"
	"errors"
	"iter"
)

// Hashes yields the hash of every chunk that a tree needs: pages of directories,
// lists of chunks, contents; a parent's pages before what they name. Some come
// more than once. It ends with an error where a page cannot be read.
func Hashes(ctx context.Context, l Loader, root *Node) iter.Seq2[Hash, error] {
	return func(yield func(Hash, error) bool) {
		err := hashes(ctx, l, root, func(h Hash) bool { return yield(h, nil) })
		if err != nil && !errors.Is(err, errStop) {
			yield(Hash{}, err)
		}
	}
}

func hashes(ctx context.Context, l Loader, n *Node, yield func(Hash) bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	for i := range n.Content {
		if !yield(n.Content[i].Hash) {
			return errStop
		}
	}
	if n.Indirect {
		err := EachChunk(ctx, l, n, func(c Chunk) error {
			if !yield(c.Hash) {
				return errStop
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if n.Type != Dir {
		return nil
	}
	return ReadDir(ctx, l, n.Content, func(e *Node) error { return hashes(ctx, l, e, yield) })
}

// Mark calls use for the hash of every chunk that a tree needs. Where use says that it
// is not the first time, what a page or list names has been marked, too, and it is not
// read. Use for all trees that share what was marked, until one of them ends with an
// error: an error leaves things unmarked.
func Mark(ctx context.Context, l Loader, root *Node, use func(Hash) (first bool, err error)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if root.Type != Dir && !root.Indirect {
		for i := range root.Content {
			if _, err := use(root.Content[i].Hash); err != nil {
				return err
			}
		}
		return nil
	}
	for i := range root.Content {
		c := &root.Content[i]
		first, err := use(c.Hash)
		if err != nil {
			return err
		}
		if !first {
			continue
		}
		page, err := l.Load(ctx, c.Hash, c.Size, nil)
		if err != nil {
			return err
		}
		if root.Indirect {
			chunks, err := DecodeChunks(nil, page)
			if err != nil {
				return err
			}
			for i := range chunks {
				if _, err := use(chunks[i].Hash); err != nil {
					return err
				}
			}
			continue
		}
		_, err = DecodePage(page, "", func(n *Node) error { return Mark(ctx, l, n, use) })
		if err != nil {
			return err
		}
	}
	return nil
}
