package restore

import (
	"os/user"
	"strconv"
	"sync"

	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// owners maps the numbers of a snapshot to those of this host: by name where the
// name exists here, else unchanged (as tar and rsync do).
type owners struct {
	mu            sync.Mutex
	users, groups idMap
}

type idMap struct {
	names  map[uint32]string // nil: numbers stay
	lookup func(name string) (uint32, bool)
	known  map[uint32]uint32
}

func newOwners(snap *tree.Snapshot, o *Options) *owners {
	w := &owners{
		users:  idMap{snap.Users, o.lookupUser, map[uint32]uint32{}},
		groups: idMap{snap.Groups, o.lookupGroup, map[uint32]uint32{}},
	}
	if o.NumericOwner {
		w.users.names, w.groups.names = nil, nil
	}
	if w.users.lookup == nil {
		w.users.lookup = func(name string) (uint32, bool) {
			u, err := user.Lookup(name)
			if err != nil {
				return 0, false
			}
			return number(u.Uid)
		}
	}
	if w.groups.lookup == nil {
		w.groups.lookup = func(name string) (uint32, bool) {
			g, err := user.LookupGroup(name)
			if err != nil {
				return 0, false
			}
			return number(g.Gid)
		}
	}
	return w
}

func number(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil // Windows has no numbers
}

func (m *idMap) get(id uint32) uint32 {
	if here, ok := m.known[id]; ok {
		return here
	}
	here := id
	if name, ok := m.names[id]; ok {
		if found, ok := m.lookup(name); ok {
			here = found
		}
	}
	m.known[id] = here
	return here
}

// of returns the owner and group that n gets on this host.
func (w *owners) of(n *tree.Node) (uid, gid uint32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.users.get(n.UID), w.groups.get(n.GID)
}
