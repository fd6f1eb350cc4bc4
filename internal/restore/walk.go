package restore

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// walk restores the entries of d, whose record is content. Pages that cannot be
// read are reported, and the others restored.
func (s *session) walk(d *dir, content []tree.Chunk) {
	s.o.Progress.current.Store(d)
	complete := true
	last := ""
	for _, c := range content {
		if s.stopped() {
			return
		}
		page, err := s.r.Load(s.ctx, c.Hash, c.Size, nil)
		if err == nil {
			var next string
			next, err = tree.DecodePage(page, last, func(n *tree.Node) error {
				last = n.Name
				s.entry(d, n)
				return s.ctx.Err()
			})
			if err == nil {
				last = next
				s.readOK()
				continue
			}
		}
		if s.stopped() {
			return
		}
		complete = false
		s.event(Lost, tree.Dir, d.place(), fmt.Errorf("part of its list of entries: %w", err))
		s.readFailed(err)
	}
	if complete && s.o.Delete && d.selected && d.made && d.err == nil && !d.absent {
		s.removeExtras(d)
	} else {
		s.warnBeside(d)
	}
	d.remaining, d.extras, d.folded, d.beside = nil, nil, nil, nil
}

// entry restores one entry of d, or plans it.
func (s *session) entry(d *dir, n *tree.Node) {
	at := place{d, n.Name}
	if !tree.ValidName(n.Name) {
		s.event(Lost, n.Type, at, fmt.Errorf("%w: invalid name", tree.ErrCorrupt))
		return
	}
	decision := s.decide(at, n.Type == tree.Dir)
	if decision == Descend && n.Type != tree.Dir {
		decision = Exclude
	}
	if decision == Include {
		if s.ensure(d) != nil {
			return
		}
	}
	// The names of d are passed in order, whatever is decided.
	var old *info
	if d.made && d.err == nil && !d.created && !d.absent {
		h, err := s.dirs.acquire(d)
		if err != nil {
			s.event(Failed, n.Type, at, err)
			return
		}
		if d.meets(h, n.Name) && decision == Include && n.Type != tree.Dir {
			st, err := h.lstat(n.Name)
			if err == nil {
				old = &st
			} else if !errors.Is(err, fs.ErrNotExist) {
				s.event(Failed, n.Type, at, err)
				s.dirs.release(d)
				return
			}
		}
		if decision == Include && n.Type == tree.File {
			d.noteBeside(n.Name)
		}
		s.dirs.release(d)
	}
	switch {
	case decision == Exclude:
	case n.Type == tree.Dir:
		c := &dir{s: s, parent: d, name: n.Name, node: n, selected: decision == Include}
		c.pending.Store(1)
		d.hold()
		if decision != Include || s.ensure(c) == nil {
			s.walk(c, n.Content)
		}
		s.leave(c)
	default:
		s.count(n)
		s.leafEntry(d, n, old)
		s.advance()
	}
}

func (s *session) count(n *tree.Node) {
	if n.Type == tree.File && !s.totalsKnown {
		s.o.Progress.FilesTotal.Add(1)
		s.o.Progress.BytesTotal.Add(n.Size)
	}
}

// leafEntry restores anything but a directory; old is what has its name now.
func (s *session) leafEntry(d *dir, n *tree.Node, old *info) {
	at := place{d, n.Name}
	g, content := s.join(d, n, old)
	if !content {
		return
	}
	switch {
	case old != nil && s.keeps(old, n):
		g.fail()
		s.event(Kept, n.Type, at, nil)
		s.done(n)
	case old != nil && old.typ == tree.Dir && !s.o.Delete:
		g.fail()
		s.event(Failed, n.Type, at, errIsDir)
		s.done(n)
	case s.o.DryRun:
		s.event(s.foresee(d, n, old), n.Type, at, nil)
		s.done(n)
	case n.Type == tree.File:
		s.add(&job{dir: d, node: n, group: g, old: old})
	default:
		s.special(d, n, old, g)
	}
	s.settle(g)
}

var errIsDir = errors.New("a directory is in its place (it is removed only where deleting is allowed)")

// foresee says what would happen to an entry, without reading content.
func (s *session) foresee(d *dir, n *tree.Node, old *info) EventKind {
	switch {
	case old == nil:
		return Created
	case old.typ != n.Type:
		return Replaced
	case n.Type == tree.File && (old.size != n.Size || old.mtime != n.MTime):
		return Replaced
	case n.Type != tree.File && !s.sameSpecial(d, n, old):
		return Replaced
	}
	if want := s.wants(n, old, s.root); old.mode != want.mode && n.Type != tree.Symlink || old.uid != want.uid || old.gid != want.gid || old.mtime != n.MTime {
		return Adjusted
	}
	return Unchanged
}

// readFailed counts errors that are no damage: after too many in a row the
// repository is gone, and so are all other files.
func (s *session) readFailed(err error) {
	if errors.Is(err, repo.ErrCorrupt) || errors.Is(err, repo.ErrMissing) || errors.Is(err, tree.ErrCorrupt) {
		return
	}
	s.mu.Lock()
	s.readErrors++
	n := s.readErrors
	s.mu.Unlock()
	if n >= maxReadErrors {
		s.stop(fmt.Errorf("read the repository: %w", err))
	}
}

func (s *session) readOK() {
	s.mu.Lock()
	s.readErrors = 0
	s.mu.Unlock()
}
