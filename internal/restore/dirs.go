package restore

import (
	"container/list"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// dir is a directory of the target while entries below it are being restored.
// It is finished (its metadata set) when nothing is pending in it any more.
type dir struct {
	s      *session
	parent *dir       // nil: the target
	name   string     // of the target: the path in the snapshot
	node   *tree.Node // nil: nothing is set at the end

	// pending counts the walk in the directory, its subdirectories, unfinished
	// files, and unfinished groups of hard links.
	pending atomic.Int32

	// Set once by the walking goroutine before anything is put in.
	made      bool
	err       error // why it cannot be used; reported already
	created   bool
	absent    bool  // in a dry run: does not exist
	before    *info // as it was; nil: created
	reopened  bool  // was made writable for the time being
	frozen    bool  // immutable or append-only: nothing can be restored in it
	inherits  bool  // gives attributes to what is created in it
	noDelete  bool  // a mount point is here or above
	selected  bool  // included, not only descended into
	dev, ino  uint64
	remaining []string        // names in it, ascending, that the walk has not passed
	extras    []string        // names in it that the walk passed: not in the record
	beside    []string        // names in it that may be of a database that is restored: see beside.go
	folded    map[string]bool // lower-case forms of its names; true: belongs to the record (Delete only)

	// Guarded by dirCache.mu.
	h    *handle
	refs int
	idle *list.Element
}

func (d *dir) path() string {
	if d.parent == nil {
		return d.name
	}
	var names []string
	top := d
	for ; top.parent != nil; top = top.parent {
		names = append(names, top.name)
	}
	var b strings.Builder
	b.WriteString(strings.TrimSuffix(top.name, "/"))
	for i := len(names) - 1; i >= 0; i-- {
		b.WriteByte('/')
		b.WriteString(names[i])
	}
	return b.String()
}

// place of the directory itself.
func (d *dir) place() place {
	if d.parent == nil {
		return place{nil, d.name}
	}
	return place{d.parent, d.name}
}

// dirCache keeps handles of directories open: those in use and maxIdleDirs more.
// Others are opened again, name by name from the next open ancestor.
type dirCache struct {
	max  int // of idle
	mu   sync.Mutex
	idle list.List // of *dir; least recently used first
}

// acquire returns d's handle, which stays open until release.
func (c *dirCache) acquire(d *dir) (*handle, error) {
	c.mu.Lock()
	if d.h != nil {
		c.use(d)
		c.mu.Unlock()
		return d.h, nil
	}
	c.mu.Unlock()
	parent, err := c.acquire(d.parent)
	if err != nil {
		return nil, err
	}
	h, err := parent.openDir(d.name)
	c.release(d.parent)
	if err != nil {
		return nil, err
	}
	if st, err := h.stat(); err != nil || st.dev != d.dev || st.ino != d.ino {
		h.close()
		return nil, errors.Join(err, fmt.Errorf("directory %q was replaced during the restore", d.name))
	}
	return c.put(d, h), nil
}

// put makes h the handle of d, in use, unless another goroutine was first.
func (c *dirCache) put(d *dir, h *handle) *handle {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d.h != nil {
		h.close()
	} else {
		d.h = h
	}
	c.use(d)
	return d.h
}

func (c *dirCache) use(d *dir) {
	if d.refs++; d.idle != nil {
		c.idle.Remove(d.idle)
		d.idle = nil
	}
}

func (c *dirCache) release(d *dir) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d.refs--; d.refs > 0 || d.parent == nil {
		return
	}
	d.idle = c.idle.PushBack(d)
	if c.idle.Len() > c.max {
		c.forget(c.idle.Front().Value.(*dir))
	}
}

// drop closes d's handle, which nobody uses.
func (c *dirCache) drop(d *dir) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d.idle != nil {
		c.forget(d)
	}
}

func (c *dirCache) forget(d *dir) {
	c.idle.Remove(d.idle)
	d.h.close()
	d.h, d.idle = nil, nil
}

func (c *dirCache) closeAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.idle.Len() > 0 {
		c.forget(c.idle.Front().Value.(*dir))
	}
}

// enter makes a directory that exists in the target, open in h, ready.
func (s *session) enter(d *dir, h *handle) error {
	st, err := h.stat()
	if err != nil {
		return err
	}
	d.dev, d.ino = st.dev, st.ino
	if !d.created {
		d.before = &st
		flags, _ := h.object().flags() // unknown: the operations will tell
		d.frozen = flags&(tree.FlagImmutable|tree.FlagAppend) != 0
		d.inherits = h.inherits(st.mode)
		if d.remaining, err = h.names(); err != nil {
			return err
		}
		d.remaining = s.removeStale(d, h, d.remaining)
		if s.o.Delete {
			d.folded = make(map[string]bool, len(d.remaining))
			for _, name := range d.remaining {
				d.folded[strings.ToLower(name)] = false
			}
		}
	} else if d.parent.inherits || s.root && st.uid != 0 { // root squashed, or fixed owners
		d.inherits = h.inherits(st.mode) || s.root && st.uid != 0
	}
	s.dirs.mu.Lock()
	d.h = h
	if d.parent != nil {
		d.idle = s.dirs.idle.PushBack(d)
	}
	s.dirs.mu.Unlock()
	return nil
}

// isTemp recognises the names of unfinished files.
func isTemp(name string) bool {
	digits, ok := strings.CutPrefix(name, TempPrefix)
	return ok && len(digits) == 16 && strings.Trim(digits, "0123456789abcdef") == ""
}

// removeStale removes unfinished files of killed restores, and returns the other names.
func (s *session) removeStale(d *dir, h *handle, names []string) []string {
	kept := names[:0]
	for _, name := range names {
		if !isTemp(name) || s.o.DryRun {
			kept = append(kept, name)
			continue
		}
		if st, err := h.lstat(name); err == nil && st.typ == tree.Dir {
			kept = append(kept, name) // not one of ours
			continue
		}
		if err := h.remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.warn(place{d, name}, tree.File, fmt.Errorf("remove an unfinished file of an earlier restore: %w", err))
			kept = append(kept, name)
		}
	}
	return kept
}

// ensure makes d and all directories above it exist and usable. It is called by
// the walking goroutine only. A failure is reported once, for the directory it
// concerns.
func (s *session) ensure(d *dir) error {
	if d.made {
		return d.err
	}
	d.made = true
	if d.err = s.ensure(d.parent); d.err != nil {
		return d.err
	}
	kind, err := s.makeDir(d)
	if err != nil {
		d.err = err
		s.event(Failed, tree.Dir, d.place(), fmt.Errorf("%w; nothing below it is restored", err))
	} else if kind == Created || kind == Replaced {
		s.event(kind, tree.Dir, d.place(), nil)
	}
	return d.err
}

var errExists = errors.New("exists and is no directory")

func (s *session) makeDir(d *dir) (EventKind, error) {
	p := d.parent
	d.noDelete = p.noDelete
	if p.absent {
		d.absent = true
		return Created, nil
	}
	ph, err := s.dirs.acquire(p)
	if err != nil {
		return 0, err
	}
	defer s.dirs.release(p)
	kind := Created
	if !p.created {
		st, err := ph.lstat(d.name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return 0, err
		case st.typ == tree.Dir:
			return Unchanged, s.enterExisting(d, ph, &st)
		case s.keeps(&st, d.node):
			return 0, errExists
		default:
			kind = Replaced
			if s.o.DryRun {
				break
			}
			if err := ph.remove(d.name); err != nil {
				return 0, s.explain(ph, d.name, fmt.Errorf("remove what is in its place: %w", err))
			}
		}
	}
	if s.o.DryRun {
		d.absent = true
		return kind, nil
	}
	if p.frozen {
		return 0, errFrozen
	}
	if err := ph.mkdir(d.name); err != nil {
		s.check(err)
		return 0, fmt.Errorf("create directory: %w", err)
	}
	d.created = true
	h, err := ph.openDir(d.name)
	if err != nil {
		return 0, err
	}
	if err := s.enter(d, h); err != nil {
		h.close()
		return 0, err
	}
	return kind, nil
}

func (s *session) enterExisting(d *dir, ph *handle, st *info) error {
	if s.o.Delete && !d.noDelete {
		mounted, err := ph.mounted(d.name)
		if err != nil {
			return err
		}
		d.noDelete = mounted
	}
	const rwx = 0o700
	if !s.root && !s.o.DryRun && st.mode&rwx != rwx {
		// Reading, listing and creating need all three; undone at the end.
		o, done, err := ph.objectAt(d.name)
		if err != nil {
			return err
		}
		if err := o.chmod(st.mode | rwx); err == nil {
			d.reopened = true
		}
		done()
	}
	h, err := ph.openDir(d.name)
	if err != nil {
		return err
	}
	if err := s.enter(d, h); err != nil {
		h.close()
		return err
	}
	d.before.mode = st.mode
	return nil
}

// meets says whether name, the next of the record, is in the directory.
func (d *dir) meets(h *handle, name string) bool {
	for len(d.remaining) > 0 && d.remaining[0] < name {
		d.extras = append(d.extras, d.remaining[0])
		d.remaining = d.remaining[1:]
	}
	if len(d.remaining) > 0 && d.remaining[0] == name {
		d.remaining = d.remaining[1:]
		return true
	}
	// Where names that differ in case are the same, the entry is there under
	// another name, which must not be taken for an extra.
	lower := strings.ToLower(name)
	if _, ok := d.folded[lower]; ok {
		if _, err := h.lstat(name); err == nil {
			d.folded[lower] = true
			return true
		}
	}
	return false
}

// hold keeps d from being finished until leave.
func (d *dir) hold() { d.pending.Add(1) }

// leave ends a hold; the last one finishes the directory, and so on upwards.
func (s *session) leave(d *dir) {
	for d != nil && d.pending.Add(-1) == 0 {
		s.finishDir(d)
		d = d.parent
	}
}

// finishDir sets the metadata of a directory that nothing more will be put in.
func (s *session) finishDir(d *dir) {
	if s.o.DryRun || !d.made || d.err != nil {
		return
	}
	kept := d.before != nil && d.node != nil && s.keeps(d.before, d.node) || d.node == nil || d.before != nil && !d.selected
	kept = kept || s.stopped() // asked once: it may be stopped at any moment
	if kept && !d.reopened {
		s.dirs.drop(d)
		return
	}
	h, err := s.dirs.acquire(d)
	if err != nil {
		s.warn(d.place(), tree.Dir, fmt.Errorf("set metadata: %w", err))
		return
	}
	o := h.object()
	switch {
	case kept:
		if err := o.chmod(d.before.mode); err != nil {
			s.warn(d.place(), tree.Dir, fmt.Errorf("set mode back: %w", err))
		}
	default:
		st, err := h.stat()
		if err != nil {
			s.warn(d.place(), tree.Dir, fmt.Errorf("set metadata: %w", err))
			break
		}
		changed := s.setMetadata(o, d.node, d.place(), &st, d.created && !d.parent.inherits)
		changed = s.setFlags(o, d.node, d.place(), d.created && !d.parent.inherits) || changed
		if d.before != nil {
			// Its time changed whenever something was put in: compare with before.
			kind := Unchanged
			if want := s.wants(d.node, d.before, s.root); changed &&
				(d.before.mode != want.mode || d.before.mtime != d.node.MTime || d.before.uid != want.uid || d.before.gid != want.gid) {
				kind = Adjusted
			}
			s.event(kind, tree.Dir, d.place(), nil)
		}
	}
	s.dirs.release(d)
	s.dirs.drop(d)
}
