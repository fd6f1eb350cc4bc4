package restore

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"

	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// tempName returns a name for something unfinished. Names that exist are never
// taken over (O_EXCL), so that guessing them gains nothing.
func tempName() string { return fmt.Sprintf("%s%016x", TempPrefix, rand.Uint64()) }

// group is a set of names of one inode. The first that can be restored holds the
// content; the others are linked to it. Groups belong to the walking goroutine:
// how a holder fared is seen when its window has ended.
type group struct {
	key      tree.LinkKey
	dir      *dir // where the holder is; held until the group ends
	node     *tree.Node
	state    groupState
	dev, ino uint64 // of the holder, once done
	seen     uint32 // names so far
	waiting  []waiter
}

type groupState uint8

const (
	planned groupState = iota
	done
	failed
)

type waiter struct {
	dir  *dir
	node *tree.Node
	old  *info
}

func (g *group) fail() {
	if g != nil {
		g.state = failed
	}
}

func (g *group) succeed(st *info) {
	if g != nil {
		g.state, g.dev, g.ino = done, st.dev, st.ino
	}
}

// join finds n's group and says whether n's content has to be restored: as the
// holder of the group, or, if the group is nil, on its own. If not, everything
// is done or planned.
func (s *session) join(d *dir, n *tree.Node, old *info) (g *group, content bool) {
	key, ok := n.Link()
	if !ok || s.o.DryRun {
		return nil, true
	}
	g = s.groups[key]
	if g == nil {
		g = &group{key: key, dir: d, node: n, seen: 1}
		s.groups[key] = g
		d.hold()
		return g, true
	}
	if !sameInode(g.node, n) {
		s.warn(place{d, n.Name}, n.Type, errors.New("restored as a file of its own: it changed between the backups of its names"))
		return nil, true
	}
	g.seen++
	switch g.state {
	case planned:
		d.hold()
		g.waiting = append(g.waiting, waiter{d, n, old})
		s.window.weight++ // so that they do not pile up
		return g, false
	case failed:
		s.hand(g, d, n)
		return g, true
	}
	if s.linkTo(g, d, n, old) {
		return nil, true
	}
	s.settle(g)
	return g, false
}

// hand makes n the holder.
func (s *session) hand(g *group, d *dir, n *tree.Node) {
	d.hold()
	s.leave(g.dir)
	g.dir, g.node, g.state = d, n, planned
}

func sameInode(a, b *tree.Node) bool {
	return a.Type == b.Type && a.Size == b.Size && a.Target == b.Target && a.Rdev == b.Rdev && a.Indirect == b.Indirect &&
		slices.Equal(a.Content, b.Content) && slices.Equal(a.Extents, b.Extents)
}

// linkTo makes n another name of g's holder; alone says that this cannot be, and
// that n is restored as a file of its own.
func (s *session) linkTo(g *group, d *dir, n *tree.Node, old *info) (alone bool) {
	at := place{d, n.Name}
	report := func(kind EventKind, err error) {
		if kind == Created || kind == Replaced {
			s.mu.Lock()
			s.res.Links++
			s.mu.Unlock()
		}
		s.event(kind, n.Type, at, err)
		s.done(n)
	}
	switch {
	case old != nil && old.dev == g.dev && old.ino == g.ino && g.ino != 0:
		report(Unchanged, nil)
		return false
	case old != nil && s.keeps(old, n):
		report(Kept, nil)
		return false
	case old != nil && old.typ == tree.Dir && !s.o.Delete:
		report(Failed, errIsDir)
		return false
	case d.frozen:
		report(Failed, errFrozen)
		return false
	}
	err := s.link(g, d, n, old)
	switch {
	case err == nil && old == nil:
		report(Created, nil)
	case err == nil:
		report(Replaced, nil)
	case cannotLink(err):
		s.warn(at, n.Type, fmt.Errorf("restored as a file of its own: link: %w", err))
		return true
	default:
		s.check(err)
		report(Failed, fmt.Errorf("link: %w", err))
	}
	return false
}

func (s *session) link(g *group, d *dir, n *tree.Node, old *info) error {
	from, err := s.dirs.acquire(g.dir)
	if err != nil {
		return err
	}
	defer s.dirs.release(g.dir)
	h, err := s.dirs.acquire(d)
	if err != nil {
		return err
	}
	defer s.dirs.release(d)
	name := n.Name
	if old != nil {
		name = tempName()
	}
	if err := h.link(from, g.node.Name, name); err != nil {
		return err
	}
	if st, err := h.lstat(name); err != nil || st.dev != g.dev || st.ino != g.ino {
		h.remove(name)
		return errors.Join(err, errReplaced)
	}
	if old != nil {
		return s.publish(h, name, d, n.Name, old)
	}
	return nil
}

// publish gives the finished entry temp its name. A directory in its place is
// removed (the caller checked that this is allowed). If it fails, temp is removed.
func (s *session) publish(h *handle, temp string, d *dir, name string, old *info) error {
	if old != nil && old.typ == tree.Dir && !d.noDelete && !s.removeEntry(h, name, place{d, name}.String()) {
		h.remove(temp)
		return errors.New("the directory in its place could not be removed completely")
	}
	err := h.rename(temp, name)
	if err == nil {
		return nil
	}
	if isDirErr(err) {
		err = fmt.Errorf("%w: %w", errIsDir, err)
	}
	err = s.explain(h, name, fmt.Errorf("give it its name: %w", err))
	if e := h.remove(temp); e != nil && !errors.Is(e, fs.ErrNotExist) {
		err = fmt.Errorf("%w (and remove the unfinished %s: %w)", err, temp, e)
	}
	return err
}

// settle ends a group all of whose names are restored.
func (s *session) settle(g *group) {
	if g != nil && g.state == done && len(g.waiting) == 0 && g.seen >= g.node.Links && s.groups[g.key] == g {
		s.endGroup(g)
	}
}

// endGroup sets the flags that forbid further links.
func (s *session) endGroup(g *group) {
	delete(s.groups, g.key)
	if g.state == done && g.node.Type == tree.File && g.node.InodeFlags != 0 && !s.stopped() {
		if err := s.flagHolder(g); err != nil {
			s.warn(place{g.dir, g.node.Name}, tree.File, fmt.Errorf("set inode flags: %w", err))
		}
	}
	s.leave(g.dir)
}

func (s *session) flagHolder(g *group) error {
	h, err := s.dirs.acquire(g.dir)
	if err != nil {
		return err
	}
	defer s.dirs.release(g.dir)
	f, err := h.open(g.node.Name, false)
	if err != nil {
		return err
	}
	defer f.close()
	if st, err := f.stat(); err != nil || st.dev != g.dev || st.ino != g.ino {
		return errors.Join(err, errReplaced)
	}
	s.setFlags(f.object(), g.node, place{g.dir, g.node.Name}, false)
	return nil
}

// endGroups ends the groups that have names outside of what was restored.
func (s *session) endGroups() {
	for _, g := range s.groups {
		for _, w := range g.waiting { // only if the run was stopped
			s.leave(w.dir)
		}
		g.waiting = nil
		s.endGroup(g)
	}
}

// linkWaiting links everything that waited for a holder among jobs, which have
// ended; where a holder failed, the next is planned.
func (s *session) linkWaiting(jobs []*job) {
	for _, j := range jobs {
		if j == nil || j.group == nil || j.group.node != j.node {
			continue
		}
		g := j.group
		if j.inode != nil {
			g.succeed(j.inode)
		} else {
			g.fail()
		}
		waiting := g.waiting
		g.waiting = nil
		for i, w := range waiting {
			switch {
			case s.stopped():
			case g.state == done:
				if s.linkTo(g, w.dir, w.node, w.old) {
					s.add(&job{dir: w.dir, node: w.node, old: w.old})
				}
			case g.state == planned: // the next holder is on its way
				g.waiting = append(g.waiting, waiting[i:]...)
			case w.old != nil && s.keeps(w.old, w.node):
				s.event(Kept, w.node.Type, place{w.dir, w.node.Name}, nil)
				s.done(w.node)
			case w.old != nil && w.old.typ == tree.Dir && !s.o.Delete:
				s.event(Failed, w.node.Type, place{w.dir, w.node.Name}, errIsDir)
				s.done(w.node)
			default:
				s.hand(g, w.dir, w.node)
				s.add(&job{dir: w.dir, node: w.node, group: g, old: w.old})
			}
			if g.state == planned && len(g.waiting) > 0 {
				break
			}
			s.leave(w.dir)
		}
		s.settle(g)
	}
}

// special restores symlinks, FIFOs and devices at once.
func (s *session) special(d *dir, n *tree.Node, old *info, g *group) {
	kind, err := s.makeSpecial(d, n, old, g)
	if err != nil {
		g.fail()
		s.check(err)
		kind = Failed
	}
	s.event(kind, n.Type, place{d, n.Name}, err)
}

// sameSpecial says whether old, of the same type as n, is what n is.
func (s *session) sameSpecial(d *dir, n *tree.Node, old *info) bool {
	if old.typ != n.Type {
		return false
	}
	if n.Type != tree.Symlink {
		return old.rdev == n.Rdev || n.Type == tree.FIFO
	}
	h, err := s.dirs.acquire(d)
	if err != nil {
		return false
	}
	defer s.dirs.release(d)
	target, err := h.readlink(n.Name)
	return err == nil && target == n.Target
}

func (s *session) makeSpecial(d *dir, n *tree.Node, old *info, g *group) (EventKind, error) {
	h, err := s.dirs.acquire(d)
	if err != nil {
		return 0, err
	}
	defer s.dirs.release(d)
	at := place{d, n.Name}
	if old != nil && s.sameSpecial(d, n, old) {
		o, done, err := h.objectAt(n.Name)
		if err != nil {
			return 0, err
		}
		defer done()
		st, err := o.stat()
		if err == nil && st.dev == old.dev && st.ino == old.ino && s.mayAdjust(o, n, &st) {
			kind := Unchanged
			if s.setMetadata(o, n, at, &st, false) {
				kind = Adjusted
			}
			g.succeed(&st)
			return kind, nil
		}
	}
	if d.frozen {
		return 0, errFrozen
	}
	name, kind := n.Name, Created
	if old != nil {
		name, kind = tempName(), Replaced
	}
	if n.Type == tree.Symlink {
		err = h.symlink(n.Target, name)
	} else {
		err = h.mknod(name, n)
	}
	if err != nil {
		if errors.Is(err, os.ErrPermission) && (n.Type == tree.CharDevice || n.Type == tree.BlockDevice) {
			err = fmt.Errorf("%w (devices take root)", err)
		}
		return 0, fmt.Errorf("create %s: %w", n.Type, err)
	}
	o, closeObject, err := h.objectAt(name)
	if err != nil {
		return 0, err
	}
	defer closeObject()
	st, err := o.stat()
	if err != nil || st.typ != n.Type || st.nlink > 1 { // not what was just made
		return 0, errors.Join(err, errReplaced)
	}
	s.setMetadata(o, n, at, &st, !d.inherits)
	if old != nil {
		if err := s.publish(h, name, d, n.Name, old); err != nil {
			return 0, err
		}
	}
	g.succeed(&st)
	return kind, nil
}

// mayAdjust says whether the metadata of an existing entry may be changed in
// place. One with further names may be linked from anywhere, put there to have
// its owner changed: it is used only if nothing needs to change.
func (s *session) mayAdjust(o object, n *tree.Node, st *info) bool {
	if st.nlink <= 1 {
		return true
	}
	want := s.wants(n, st, s.root)
	xattrs, err := o.xattrs()
	return err == nil && want.uid == st.uid && want.gid == st.gid && (n.Type == tree.Symlink || want.mode == st.mode) &&
		n.MTime == st.mtime && sameXattrs(n.Xattrs, xattrs)
}
