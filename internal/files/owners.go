package files

import (
	"os/user"
	"strconv"
	"sync"
)

// maxOwners bounds the users, and the groups, whose names are looked up: each
// costs a pass over /etc/passwd, and the names go into every snapshot. The
// owners seen first win; all others are recorded by number only.
const maxOwners = 10_000

// Owners collects the numbers of users and groups and looks their names up.
// It may be used concurrently. Without cgo, names come from /etc/passwd and
// /etc/group only: those of a directory service may be missing.
type Owners struct {
	mu            sync.Mutex
	users, groups map[uint32]string
	lastUser      uint32
	lastGroup     uint32
}

// add notes that an entry belongs to uid and gid.
func (o *Owners) add(uid, gid uint32) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.users == nil {
		o.users, o.groups = map[uint32]string{}, map[uint32]string{}
	} else if uid == o.lastUser && gid == o.lastGroup {
		return // nearly always
	}
	o.lastUser, o.lastGroup = uid, gid
	if _, ok := o.users[uid]; !ok && len(o.users) < maxOwners {
		name := ""
		if u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10)); err == nil {
			name = u.Username
		}
		o.users[uid] = name
	}
	if _, ok := o.groups[gid]; !ok && len(o.groups) < maxOwners {
		name := ""
		if g, err := user.LookupGroupId(strconv.FormatUint(uint64(gid), 10)); err == nil {
			name = g.Name
		}
		o.groups[gid] = name
	}
}

// Users returns the names of the users seen; one without a name is missing.
func (o *Owners) Users() map[uint32]string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return named(o.users)
}

// Groups returns the names of the groups seen; one without a name is missing.
func (o *Owners) Groups() map[uint32]string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return named(o.groups)
}

func named(all map[uint32]string) map[uint32]string {
	m := make(map[uint32]string, len(all))
	for id, name := range all {
		if name != "" {
			m[id] = name
		}
	}
	return m
}
