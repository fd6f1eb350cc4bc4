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
