package repo

import (
	"cmp"
	"encoding/binary"
	"errors"
	"math"
)

// Owners say which snapshots need what: of every entry of the index whether none, one,
// several of one group, or several of different groups do; 4 bytes each. The segments
// are those that there were when it was made. Of a chunk that is stored more than once,
// one copy has an owner.
//
// Who needs a page of a directory needs all that is below it. So that has to be gone
// through again only where Use says that something has changed, which happens to a page
// three times at most, however many snapshots there are.
type Owners struct {
	r     *Repository
	segs  []*segment
	owner [][]uint32 // of each segment's entries
	group []int      // of each snapshot
	added []float64
	lost  int64
}

// OwnerSums are stored bytes: of each chunk its part of its block.
type OwnerSums struct {
	// Unique is what only this snapshot needs: what forgetting it alone would free.
	Unique []float64
	// Added is what this snapshot needs, and none before it in the order of Use.
	Added []float64
	// Group is what only snapshots of this group need, one or more of them.
	Group []float64
	// Shared is what snapshots of several groups need.
	Shared float64
	// Lost is how often a chunk was needed that is in no pack that is there.
	Lost int64
}

// The owners of an entry are numbers: of a snapshot, of a group behind the snapshots, or
// one of these.
const (
	ownerNone   = 0
	ownerShared = math.MaxUint32
)

// NewOwners begins with nothing needed. group has the number of each snapshot's group,
// from 0 on. The index must be loaded.
func (r *Repository) NewOwners(group []int) *Owners {
	o := &Owners{r: r, segs: *r.index.segs.Load(), group: group, added: make([]float64, len(group))}
	for _, s := range o.segs {
		o.owner = append(o.owner, make([]uint32, s.entries.n))
	}
	return o
}

// join is the owner of what had one, and is needed by a snapshot, too.
func (o *Owners) join(have uint32, snapshot int) uint32 {
	n := uint32(len(o.group))
	mine, ours := uint32(snapshot)+1, n+uint32(o.group[snapshot])+1
	switch {
	case have == ownerNone:
		return mine
	case have == mine, have == ours, have == ownerShared:
		return have
	case have <= n && o.group[have-1] == o.group[snapshot]:
		return ours
	}
	return ownerShared
}

// Use says that a snapshot needs a chunk. changed is false where all that the chunk
// names is known to be needed by it, too. A snapshot follows all that are older: one
// goroutine at a time.
func (o *Owners) Use(snapshot int, hash Hash) (changed bool, err error) {
	id := o.r.ChunkID(hash)
	for i, s := range o.segs {
		err := s.eachOf(&id, func(n, pack int, e []byte) error {
			if !s.there.get(pack) {
				return nil
			}
			have := o.owner[i][n]
			next := o.join(have, snapshot)
			o.owner[i][n], changed = next, next != have
			if have != ownerNone {
				return errFound
			}
			var loc Location
			if err := s.locate(e, &loc); err != nil {
				return err
			}
			o.added[snapshot] += share(&loc)
			return errFound
		})
		if errors.Is(err, errFound) {
			return changed, nil
		}
		if err != nil {
			return false, err
		}
	}
	o.lost++
	return true, nil
}

// share is what a chunk takes of what its block takes in the pack.
func share(loc *Location) float64 {
	return float64(loc.Block.Stored) * float64(loc.Size) / float64(loc.Block.Raw)
}

// Sums returns who owns how much.
func (o *Owners) Sums() (*OwnerSums, error) {
	groups := 0
	for _, g := range o.group {
		groups = max(groups, g+1)
	}
	n := len(o.group)
	t := &OwnerSums{Unique: make([]float64, n), Added: o.added, Group: make([]float64, groups), Lost: o.lost}
	for i, s := range o.segs {
		var loc Location
		at := -1
		var fault error
		err := s.eachRecord(s.entries, func(e []byte) {
			at++
			owner := o.owner[i][at]
			if owner == ownerNone || fault != nil {
				return
			}
			if int(binary.LittleEndian.Uint32(e[16:])) >= s.packs.n {
				fault = errBadSegment
				return
			}
			if fault = s.locate(e, &loc); fault != nil {
				return
			}
			switch size := share(&loc); {
			case owner == ownerShared:
				t.Shared += size
			case int(owner) > n:
				t.Group[int(owner)-n-1] += size
			default:
				t.Unique[owner-1] += size
				t.Group[o.group[owner-1]] += size
			}
		})
		if err := cmp.Or(fault, err); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// A Usage adds up what some snapshots need: a bit for each entry of the index.
type Usage struct {
	r     *Repository
	u     *usage
	Bytes float64 // stored bytes: of each chunk its part of its block
}

// NewUsage begins with nothing needed. The index must be loaded.
func (r *Repository) NewUsage() *Usage { return &Usage{r: r, u: r.index.newUsage()} }

// Use says that a chunk is needed; first is false if that was said before. One goroutine
// at a time.
func (u *Usage) Use(hash Hash) (first bool, err error) {
	id := u.r.ChunkID(hash)
	if first, err = u.u.use(&id); !first || err != nil {
		return first, err
	}
	var loc Location
	if u.r.index.find(&id, false, &loc) {
		u.Bytes += share(&loc)
	}
	return true, nil
}
