package restore

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// Cat writes the content of the file node to w, holes as zeros. Every chunk is
// compared with its SHA-256 before it is written; after an error w has received
// a correct beginning. One block is in memory at a time.
func Cat(ctx context.Context, r Repository, node *tree.Node, w io.Writer) error {
	if node.Type != tree.File {
		return fmt.Errorf("%q is no file but a %s", node.Name, node.Type)
	}
	c := cat{ctx: ctx, r: r, w: w}
	if node.SHA256 != nil && node.Extents == nil {
		c.whole = sha256.New()
	}
	end := int64(0) // of what was written
	err := eachChunk(ctx, r, node, func(_ int, off int64, chunk tree.Chunk) error {
		data, err := c.chunk(chunk)
		if err != nil {
			return err
		}
		return spans(node, off, int64(chunk.Size), func(at, from, to int64) error {
			if err := c.zeros(at - end); err != nil {
				return err
			}
			end = at + to - from
			return c.write(data[from:to])
		})
	})
	if err == nil {
		err = c.zeros(node.Size - end)
	}
	if err == nil && c.whole != nil && repo.Hash(c.whole.Sum(nil)) != *node.SHA256 {
		err = fmt.Errorf("%w: wrong SHA-256 of the whole file", repo.ErrCorrupt)
	}
	if err != nil {
		return fmt.Errorf("read %q: %w", node.Name, err)
	}
	return nil
}

type cat struct {
	ctx   context.Context
	r     Repository
	w     io.Writer
	whole hash.Hash // nil: not known

	block blockKey // whose plaintext is in plain
	plain []byte   // nil: none
	buf   []byte
	zero  []byte
}

// chunk returns a chunk's bytes, checked, until the next call.
func (c *cat) chunk(chunk tree.Chunk) ([]byte, error) {
	loc, ok := c.r.Locate(chunk.Hash)
	if !ok {
		return nil, fmt.Errorf("chunk %x: %w", chunk.Hash[:8], repo.ErrMissing)
	}
	if key := (blockKey{loc.Block.Pack, loc.Block.Offset}); c.plain == nil || key != c.block {
		plain, err := c.r.ReadBlock(c.ctx, &loc.Block, c.buf)
		if err != nil {
			c.plain = nil
			data, e := c.r.Load(c.ctx, chunk.Hash, chunk.Size, nil) // perhaps there is another copy
			if e != nil {
				return nil, err
			}
			return check(chunk, data)
		}
		c.block, c.plain, c.buf = key, plain, plain
	}
	if uint64(loc.Offset)+uint64(chunk.Size) > uint64(len(c.plain)) {
		return nil, fmt.Errorf("chunk %x: %w: beyond the end of its block", chunk.Hash[:8], repo.ErrCorrupt)
	}
	return check(chunk, c.plain[loc.Offset:loc.Offset+chunk.Size])
}

func check(chunk tree.Chunk, data []byte) ([]byte, error) {
	if len(data) != int(chunk.Size) || sha256.Sum256(data) != chunk.Hash {
		return nil, fmt.Errorf("chunk %x: %w: wrong SHA-256", chunk.Hash[:8], repo.ErrCorrupt)
	}
	return data, nil
}

func (c *cat) write(p []byte) error {
	if c.whole != nil {
		c.whole.Write(p)
	}
	n, err := c.w.Write(p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	return err
}

func (c *cat) zeros(n int64) error {
	if n < 0 {
		return errors.New("extents overlap")
	}
	if n > 0 && c.zero == nil {
		c.zero = make([]byte, 64<<10)
	}
	for n > 0 {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		k := min(n, int64(len(c.zero)))
		if err := c.write(c.zero[:k]); err != nil {
			return err
		}
		n -= k
	}
	return nil
}
