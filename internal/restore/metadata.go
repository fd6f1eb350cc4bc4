package restore

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

var (
	errFrozen   = errors.New("the directory is immutable or append-only (chattr -i -a allows it)")
	errLocked   = errors.New("is immutable or append-only (chattr -i -a allows it)")
	errReplaced = errors.New("was replaced during the restore")
)

const frozenFlags = tree.FlagImmutable | tree.FlagAppend

// knownFlags are the inode flags that snapshots record; others are left as they are.
const knownFlags = tree.FlagSecureDelete | tree.FlagUndelete | tree.FlagCompress | tree.FlagSync | tree.FlagImmutable |
	tree.FlagAppend | tree.FlagNoDump | tree.FlagNoAtime | tree.FlagJournalData | tree.FlagNoTail | tree.FlagDirSync |
	tree.FlagTopDir | tree.FlagNoCOW | tree.FlagProjInherit

// isACL says whether an attribute is another view of the mode, and set after it.
func isACL(name string) bool { return strings.HasPrefix(name, "system.posix_acl_") }

// removable says whether an attribute that the snapshot does not have is removed. Others are the system's own
// (SELinux labels, hashes of IMA), which every file gets.
func removable(name string) bool {
	return strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "trusted.") && !strings.HasPrefix(name, "trusted.overlay.") ||
		name == "security.capability" || isACL(name)
}

// wanted is what an entry gets on this host.
type wanted struct {
	uid, gid uint32
	mode     uint32
	owned    bool // uid and gid are those of the snapshot
}

// wants says what n gets if it belongs to cur's owner now, and can be given away
// or not.
func (s *session) wants(n *tree.Node, cur *info, give bool) wanted {
	w := wanted{mode: n.Mode & tree.ModeMask, owned: true}
	w.uid, w.gid = s.owners.of(n)
	if give {
		return w
	}
	// A program that was to run as its owner must not run as whoever restored it.
	if n.Type != tree.Dir && w.uid != cur.uid {
		w.mode &^= tree.ModeSetuid
	}
	if n.Type != tree.Dir && w.gid != cur.gid {
		w.mode &^= tree.ModeSetgid
	}
	w.owned = w.uid == cur.uid && w.gid == cur.gid
	w.uid, w.gid = cur.uid, cur.gid
	return w
}

// setMetadata gives o the metadata of n, but for inode flags, and says whether
// anything had to be changed. cur is o as it is. fresh objects were created just
// now, and have no attributes. What cannot be set becomes a warning.
//
// The order matters: chown clears setuid bits and capabilities; attributes of the user
// need a writable file; an ACL is set after the mode that is its mask; the time
// is last.
func (s *session) setMetadata(o object, n *tree.Node, at place, cur *info, fresh bool) (changed bool) {
	fail := func(what string, err error) {
		s.warn(at, n.Type, fmt.Errorf("set %s: %w", what, err))
	}
	want := s.wants(n, cur, s.root)
	if !want.owned {
		s.mu.Lock()
		s.res.OwnersKept++
		s.mu.Unlock()
	}
	var xattrs []tree.Xattr
	if !fresh {
		var err error
		if xattrs, err = o.xattrs(); err != nil {
			fail("attributes", err)
		}
		differs := want.uid != cur.uid || want.gid != cur.gid || n.Type != tree.Symlink && want.mode != cur.mode || n.MTime != cur.mtime ||
			!sameXattrs(n.Xattrs, xattrs)
		if !differs {
			return false
		}
		if flags, err := o.flags(); err == nil && flags&frozenFlags != 0 {
			fail("metadata", errLocked)
			return false
		}
	}
	mode := cur.mode
	if want.uid != cur.uid || want.gid != cur.gid {
		changed = true
		if err := o.chown(want.uid, want.gid); err != nil {
			fail("owner", err)
			want = s.wants(n, cur, false)
		} else {
			mode = ^uint32(0) // setuid bits may be gone
			if !fresh {
				if xattrs, err = o.xattrs(); err != nil {
					fail("attributes", err)
				}
			}
		}
	}
	if !s.root && !fresh && mode&0o200 == 0 && n.Type != tree.Symlink && !sameXattrs(n.Xattrs, xattrs) {
		if err := o.chmod(cur.mode | 0o200); err == nil {
			mode = ^uint32(0)
		}
	}
	changed = s.setXattrs(o, n.Xattrs, xattrs, false, fail) || changed
	if n.Type != tree.Symlink && (mode != want.mode || fresh) {
		changed = true
		if err := o.chmod(want.mode); err != nil {
			fail("mode", err)
		}
	}
	if s.setXattrs(o, n.Xattrs, xattrs, true, fail) {
		changed = true
		// Setting an ACL may clear the setgid bit.
		if want.mode&tree.ModeSetgid != 0 {
			if err := o.chmod(want.mode); err != nil {
				fail("mode", err)
			}
		}
	}
	if err := o.chtime(n.MTime); err != nil {
		fail("time", err)
	}
	return changed || fresh || cur.mtime != n.MTime
}

// setXattrs makes have into want, as far as ACLs or other attributes go.
func (s *session) setXattrs(o object, want, have []tree.Xattr, acls bool, fail func(string, error)) (changed bool) {
	for _, x := range have {
		if _, ok := findXattr(want, x.Name); !ok && isACL(x.Name) == acls && removable(x.Name) {
			changed = true
			if err := o.removeXattr(x.Name); err != nil {
				fail("attributes: remove "+x.Name, err)
			}
		}
	}
	for _, x := range want {
		if isACL(x.Name) != acls {
			continue
		}
		if value, ok := findXattr(have, x.Name); ok && value == x.Value {
			continue
		}
		changed = true
		if err := o.setXattr(x.Name, x.Value); err != nil {
			fail("attribute "+x.Name, err)
		}
	}
	return changed
}

func findXattr(list []tree.Xattr, name string) (string, bool) {
	for i := range list {
		if list[i].Name == name {
			return list[i].Value, true
		}
	}
	return "", false
}

// sameXattrs says whether nothing is to be set or removed.
func sameXattrs(want, have []tree.Xattr) bool {
	for _, x := range want {
		if value, ok := findXattr(have, x.Name); !ok || value != x.Value {
			return false
		}
	}
	for _, x := range have {
		if _, ok := findXattr(want, x.Name); !ok && removable(x.Name) {
			return false
		}
	}
	return true
}

// setFlags sets the inode flags: last of all, because immutable files can be
// neither renamed nor linked.
func (s *session) setFlags(o object, n *tree.Node, at place, fresh bool) (changed bool) {
	if o.none() || fresh && n.InodeFlags == 0 {
		return false
	}
	have, err := o.flags()
	want := have&^knownFlags | n.InodeFlags&knownFlags
	if err == nil && want != have {
		changed, err = true, o.setFlags(want)
	}
	if err != nil && (n.InodeFlags != 0 || changed) {
		s.warn(at, n.Type, fmt.Errorf("set inode flags %#x: %w", n.InodeFlags, err))
	}
	return changed
}

// freshInfo is what a file created just now in d is like.
func (s *session) freshInfo(d *dir, o object) (*info, error) {
	if !d.inherits {
		return &s.fresh, nil
	}
	st, err := o.stat()
	return &st, err
}

// explain adds to err, which an operation on name gave, the reason that
// users do not think of.
func (s *session) explain(h *handle, name string, err error) error {
	if !errors.Is(err, os.ErrPermission) {
		s.check(err)
		return err
	}
	f, openErr := h.open(name, false)
	if openErr == nil {
		defer f.close()
		if flags, e := f.object().flags(); e == nil && flags&frozenFlags != 0 {
			return fmt.Errorf("%w: the existing file %w", err, errLocked)
		}
	}
	if flags, e := h.object().flags(); e == nil && flags&frozenFlags != 0 {
		return fmt.Errorf("%w: %w", err, errFrozen)
	}
	return err
}

// check ends the run if err means that nothing more can be written.
func (s *session) check(err error) {
	switch {
	case err == nil:
	case errors.Is(err, errCut):
		s.stop(err)
	case fatal(err):
		s.stop(fmt.Errorf("write to the target: %w", err))
	}
}
