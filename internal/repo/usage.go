package repo

import (
	"cmp"
	"encoding/binary"
	"errors"
	"runtime/debug"
	"sync/atomic"
)

// A usage says which chunks of the index snapshots need: a bit for each entry of the
// segments that it was made for. These are read, not changed, by whatever happens to
// the index later.
type usage struct {
	x    *index
	segs []*segment
	used [][]atomic.Uint64 // of each segment
	lost atomic.Int64      // chunks that are needed and in no pack that is there
}

func (x *index) newUsage() *usage {
	u := &usage{x: x, segs: *x.segs.Load()}
	for _, s := range u.segs {
		u.used = append(u.used, make([]atomic.Uint64, (s.entries.n+63)/64))
	}
	return u
}

// use marks a chunk as needed, and says whether it is the first time. A damaged cache
// is errBadSegment. Safe for concurrent use.
func (u *usage) use(id *ID) (first bool, err error) {
	found := false
	for i, s := range u.segs {
		err := s.eachOf(id, func(n, pack int, _ []byte) error {
			if !s.there.get(pack) {
				return nil
			}
			bit := uint64(1) << (n % 64)
			if old := u.used[i][n/64].Or(bit); !found {
				first = old&bit == 0
			}
			found = true
			return nil
		})
		if err != nil {
			return false, err
		}
	}
	if !found {
		u.lost.Add(1)
	}
	return first || !found, nil
}

// needs says whether a chunk is marked.
func (u *usage) needs(id *ID) (needed bool, err error) {
	for i, s := range u.segs {
		err := s.eachOf(id, func(n, _ int, _ []byte) error {
			needed = needed || u.used[i][n/64].Load()>>(n%64)&1 != 0
			return nil
		})
		if needed || err != nil {
			return needed, err
		}
	}
	return false, nil
}

// each calls fn for every entry in a pack that is there.
func (u *usage) each(fn func(id ID, loc *Location, needed bool) error) error {
	for i, s := range u.segs {
		var loc Location
		n := -1
		var fault error
		err := s.eachRecord(s.entries, func(e []byte) {
			if n++; fault != nil {
				return
			}
			pack := int(binary.LittleEndian.Uint32(e[16:]))
			if pack >= s.packs.n {
				fault = errBadSegment
				return
			}
			if !s.there.get(pack) {
				return
			}
			if fault = s.locate(e, &loc); fault == nil {
				fault = fn(ID(e[:16]), &loc, u.used[i][n/64].Load()>>(n%64)&1 != 0)
			}
		})
		if err := cmp.Or(fault, err); err != nil {
			return err
		}
	}
	return nil
}

// eachOf calls fn for the entries of a chunk, with their number and that of the pack.
func (s *segment) eachOf(id *ID, fn func(n, pack int, e []byte) error) (err error) {
	defer guard(s, debug.SetPanicOnFault(true), &err)
	n, err := s.search(id)
	if err != nil {
		return err
	}
	for ; n < s.entries.n; n++ {
		e, err := s.record(s.entries, n)
		if err != nil {
			return err
		}
		if ID(e[:16]) != *id {
			return nil
		}
		pack := int(binary.LittleEndian.Uint32(e[16:]))
		if pack >= s.packs.n {
			return errBadSegment
		}
		if err := fn(n, pack, e); err != nil {
			return err
		}
	}
	return nil
}

// standing returns where a chunk is in a pack that stays: one that is there, and not
// condemned, in a block that was not found damaged. It relies on nothing.
func (x *index) standing(id *ID) (loc Location, ok bool, err error) {
	return x.anywhere(id, func(s *segment) bitmap { return s.fresh })
}

// sound returns where a chunk is in a pack that is there, in a block that was not
// found damaged.
func (x *index) sound(id *ID) (loc Location, ok bool, err error) {
	return x.anywhere(id, func(s *segment) bitmap { return s.there })
}

var errFound = errors.New("found")

func (x *index) anywhere(id *ID, usable func(*segment) bitmap) (loc Location, ok bool, err error) {
	var bad map[place]struct{}
	if p := x.bad.Load(); p != nil {
		bad = *p
	}
	for _, s := range *x.segs.Load() {
		packs := usable(s)
		err := s.eachOf(id, func(_, pack int, e []byte) error {
			if !packs.get(pack) {
				return nil
			}
			if err := s.locate(e, &loc); err != nil {
				return err
			}
			if _, damaged := bad[place{loc.Block.Pack, loc.Block.Offset}]; damaged {
				return nil
			}
			return errFound
		})
		if err == errFound {
			return loc, true, nil
		}
		if err != nil {
			return loc, false, err
		}
	}
	return loc, false, nil
}

// isCondemned says whether a pack was on a list when the index was loaded.
func (x *index) isCondemned(id ID) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	_, ok := x.condemned[id]
	return ok
}

// condemn makes packs count as absent for writers. Look-ups must not go on meanwhile.
func (x *index) condemn(ids map[ID]struct{}) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, s := range *x.segs.Load() {
		err := s.eachPack(nil, func(i int, id ID, _ int64) {
			if _, ok := ids[id]; ok {
				s.fresh.unset(i)
			}
		})
		if err != nil {
			return err
		}
	}
	for id := range ids {
		x.condemned[id] = struct{}{}
	}
	return nil
}
