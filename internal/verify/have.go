package verify

import (
	"context"
	"crypto/sha256"
	"slices"

	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// maxSuspectBytes bounds what StillHave reads for one path. A snapshot that it
// would take more to be sure of is not named.
const maxSuspectBytes = 1 << 30

// A Source is what StillHave reads. *repo.Repository is one.
type Source interface {
	tree.Loader
	// Locate says where a chunk is; false: in no pack that is there.
	Locate(hash repo.Hash) (repo.Location, bool)
}

// StillHave returns which other snapshots have a whole file or directory at a path
// that is lost in the snapshot except: newest first, at most MaxAlsoIn. It may be an
// older or newer version.
//
// All chunks of such a file are in packs that are there. Those that it shares with the
// lost version are read, too, since one of them may be what is damaged. Of a
// directory, the list of entries is read, not what is below it. Where ctx ends, so
// does the search.
func StillHave(ctx context.Context, r Source, snaps []*tree.Snapshot, path string, except repo.ID) []repo.ID {
	snaps = slices.Clone(snaps)
	newestFirst(snaps)
	suspects := make(map[tree.Hash]struct{})
	if i := slices.IndexFunc(snaps, func(s *tree.Snapshot) bool { return s.ID == except }); i >= 0 {
		lost, err := tree.Lookup(ctx, r, snaps[i].RootNode(), path)
		if err == nil {
			// An error ends it early: what is behind a list that is lost itself is
			// not suspected.
			tree.EachChunk(ctx, r, lost, func(c tree.Chunk) error {
				suspects[c.Hash] = struct{}{}
				return ctx.Err()
			})
		}
	}
	var buf []byte
	verdicts := make(map[tree.Hash]error) // of suspects that were read
	budget := int64(maxSuspectBytes)
	f := finder{ctx: ctx, loader: r, left: len(snaps), chunk: func(c tree.Chunk) error {
		if err := located(r, c); err != nil {
			return err
		}
		if _, ok := suspects[c.Hash]; !ok {
			return nil
		}
		err, ok := verdicts[c.Hash]
		if !ok {
			if budget -= int64(c.Size); budget < 0 {
				return errStopped
			}
			var data []byte
			if data, err = r.Load(ctx, c.Hash, c.Size, buf); err == nil {
				buf = data
			}
			verdicts[c.Hash] = err
		}
		return err
	}}
	return f.have(snaps, path, except)
}

// A finder looks for snapshots in which something is whole.
type finder struct {
	ctx    context.Context
	loader tree.Loader
	chunk  func(tree.Chunk) error // why a chunk of a file cannot be read
	left   int                    // how many more paths may be looked up
}

// have returns the first of snaps, other than except, that have path.
func (f *finder) have(snaps []*tree.Snapshot, path string, except repo.ID) []repo.ID {
	var ids []repo.ID
	known := make(map[tree.Hash]bool) // by content: most versions are the same
	for _, s := range snaps {
		if len(ids) == MaxAlsoIn || f.left <= 0 || f.ctx.Err() != nil {
			break
		}
		if s.ID == except {
			continue
		}
		f.left--
		n, err := tree.Lookup(f.ctx, f.loader, s.RootNode(), path)
		if err != nil {
			continue
		}
		key := tree.Hash(sha256.Sum256(tree.AppendChunks([]byte{byte(n.Type)}, n.Content)))
		whole, ok := known[key]
		if !ok {
			whole = f.whole(n)
			known[key] = whole
		}
		if whole {
			ids = append(ids, s.ID)
		}
	}
	return ids
}

func (f *finder) whole(n *tree.Node) bool {
	switch n.Type {
	case tree.File:
		return checkFile(f.ctx, f.loader, n, f.chunk) == nil
	case tree.Dir:
		return tree.ReadDir(f.ctx, f.loader, n.Content, func(*tree.Node) error { return nil }) == nil
	}
	return true
}
