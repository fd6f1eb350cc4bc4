package backup

import (
	"errors"
	"io/fs"
	"maps"
	"slices"
	"sync/atomic"

	"github.com/SP1R4/BackupHandler/v3/internal/limit"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// A dir is a directory of the snapshot whose entries are not all known yet.
type dir struct {
	path   string
	node   *tree.Node // receives the content
	parent *dir
	number int // in parent's record
	record record
	// partial says that not all entries could be listed.
	partial bool
	// open counts the entries that somebody is working on, and the walk itself.
	open int32
}

// newDir begins a directory, whose entry in parent's record is n; old is the
// previous state of it. parent is nil for the root.
func (s *run) newDir(parent *dir, path string, n *tree.Node, old prevEntry) *dir {
	d := &dir{path: path, node: n, parent: parent, open: 1}
	d.record.init(s, d, old.Node)
	if parent != nil {
		atomic.AddInt32(&parent.open, 1)
		d.number = parent.record.begin(old)
	}
	return d
}

// settle puts an entry of d into its record; without a node it is not in the
// snapshot.
func (s *run) settle(d *dir, number int, n *tree.Node) { s.fail(d.record.finish(number, n)) }

// release ends one of d's open works. The last one ends the record, and so
// finishes the directory's entry in the one above.
func (s *run) release(d *dir) {
	for atomic.AddInt32(&d.open, -1) == 0 {
		s.fail(d.record.end())
		if d.parent == nil {
			return
		}
		s.settle(d.parent, d.number, d.node)
		d = d.parent
	}
}

// fileIn hands a file of d on. was is a file that is gone and may have become it.
func (s *run) fileIn(d *dir, e Entry, n *tree.Node, old prevEntry, was *tree.Node) {
	atomic.AddInt32(&d.open, 1)
	s.file(&fileJob{entry: e, d: d, i: d.record.begin(old), prev: old.Node, was: was, node: n})
}

// walkPlanned walks a directory above the sources.
func (s *run) walkPlanned(d *dir, p *planned, prev *tree.Node) error {
	if p.entry != nil { // "/" is the source
		return s.walkRoot(d, p.entry, prev)
	}
	defer s.release(d)
	before := s.previous(prev)
	s.p.Dirs.Add(1)
	s.dirs.Add(1)
	for _, name := range slices.Sorted(maps.Keys(p.children)) {
		if err := s.ctx.Err(); err != nil {
			return err
		}
		child := p.children[name]
		old := before.next(name)
		path := tree.Join(d.path, name)
		if child.entry == nil {
			n := child.node
			if n == nil {
				n = &tree.Node{Type: tree.Dir, Mode: 0o755, Links: 1}
			}
			n.Name = name
			if err := s.walkPlanned(s.newDir(d, path, n, old), child, old.Node); err != nil {
				return err
			}
			continue
		}
		n := child.entry.Node()
		n.Name = name
		if n.Type == tree.File {
			s.fileIn(d, rootEntry{child.entry}, n, old, nil)
			continue
		}
		if err := child.entry.Complete(n); err != nil {
			s.problem(path, Metadata, err)
		}
		if err := s.walkRoot(s.newDir(d, path, n, old), child.entry, old.Node); err != nil {
			return err
		}
	}
	return nil
}

// rootEntry is the entry of a source: Run closes it.
type rootEntry struct{ Entry }

func (rootEntry) Close() {}

func (e rootEntry) Late() Late { return lateOf(e.Entry) }

// walkRoot walks a source. Unlike a directory within, one that cannot be read
// ends the run.
func (s *run) walkRoot(d *dir, e Entry, prev *tree.Node) error {
	defer s.release(d)
	opened, err := e.Dir(s.ctx)
	if err != nil {
		return &SourceError{d.path, err}
	}
	defer opened.Close()
	empty := true
	return s.walkEntries(d, prev, func() ([]Entry, error) {
		entries, err := opened.Next(s.ctx)
		switch {
		case err != nil:
			closeAll(entries)
			return nil, &SourceError{d.path, err}
		case len(entries) == 0 && empty && !s.o.AllowEmpty:
			return nil, &SourceError{d.path, ErrEmptySource}
		}
		empty = false
		return entries, nil
	})
}

// An ahead is a directory that is opened, and whose first entries are listed, while
// the walk is still in the one before it: what takes time there is the file system,
// and here the comparison with the previous snapshot. At most one directory for each
// level of the tree is ahead of the walk.
type ahead struct {
	done    chan struct{} // closed once the rest is there
	opened  Dir
	err     error // of opening
	entries []Entry
	next    error // of listing the entries
}

// look begins to open a directory. Somebody has to take or drop it, before its entry
// is closed.
func (s *run) look(e Entry) *ahead {
	a := &ahead{done: make(chan struct{})}
	go func() {
		defer close(a.done)
		if a.opened, a.err = e.Dir(s.ctx); a.err == nil {
			a.entries, a.next = a.opened.Next(s.ctx)
		}
	}()
	return a
}

// take returns the directory, and what lists its entries.
func (a *ahead) take(s *run) (Dir, func() ([]Entry, error), error) {
	<-a.done
	first := true
	return a.opened, func() ([]Entry, error) {
		if first {
			first = false
			return a.entries, a.next
		}
		return a.opened.Next(s.ctx)
	}, a.err
}

// drop closes a directory that the walk does not reach.
func (a *ahead) drop() {
	<-a.done
	closeAll(a.entries)
	if a.err == nil {
		a.opened.Close()
	}
}

// walkDir walks a directory within a source. Its error ends the run.
func (s *run) walkDir(d *dir, a *ahead, prev *tree.Node) error {
	defer s.release(d)
	opened, next, err := a.take(s)
	if err != nil {
		if s.ctx.Err() != nil {
			return s.ctx.Err()
		}
		s.problem(d.path, kindOf(err), err)
		s.dirs.Add(1)
		return nil
	}
	defer opened.Close()
	return s.walkEntries(d, prev, func() ([]Entry, error) {
		entries, err := next()
		if err != nil {
			d.partial = true
		}
		if err != nil && s.ctx.Err() == nil {
			s.problem(d.path, kindOf(err), err)
		}
		return entries, nil
	})
}

func closeAll(entries []Entry) {
	for _, e := range entries {
		e.Close()
	}
}

// walkEntries goes through the entries of d that next returns, until it returns
// none.
func (s *run) walkEntries(d *dir, prev *tree.Node, next func() ([]Entry, error)) error {
	before := s.previous(prev)
	if s.drift != nil {
		before.watch = &watch{d: s.drift}
	}
	s.dirs.Add(1)
	s.p.Dirs.Add(1)
	for {
		entries, err := next()
		if err != nil {
			return err
		}
		if len(entries) == 0 {
			if !d.partial {
				before.end()
			}
			return s.ctx.Err()
		}
		if err := s.walkBatch(d, entries, &before); err != nil {
			return err
		}
	}
}

// walkBatch goes through some entries of d, and closes them.
func (s *run) walkBatch(d *dir, entries []Entry, before *prevDir) error {
	nodes := make([]*tree.Node, len(entries))
	for i, e := range entries {
		nodes[i] = e.Node()
	}
	var a *ahead // the next directory
	at := 0      // where it is
	defer func() {
		if a != nil {
			a.drop()
		}
		closeAll(entries)
	}()
	look := func(from int) {
		for at = from; at < len(entries); at++ {
			if nodes[at].Type == tree.Dir {
				a = s.look(entries[at])
				return
			}
		}
	}
	look(0)
	for i, e := range entries {
		if err := limit.Pace(s.ctx); err != nil {
			return err
		}
		if a == nil || at != i {
			entries[i] = closed{}
			if err := s.walkEntry(d, e, nodes[i], before); err != nil {
				return err
			}
			continue
		}
		this := a
		a = nil
		look(i + 1)
		entries[i] = closed{}
		if err := s.walkSub(d, e, nodes[i], this, before); err != nil {
			return err
		}
	}
	return nil
}

// closed stands for an entry that has been handed on.
type closed struct{ Entry }

func (closed) Close() {}

// walkSub walks a directory in d.
func (s *run) walkSub(d *dir, e Entry, n *tree.Node, a *ahead, before *prevDir) error {
	defer e.Close()
	<-a.done // an entry is used by one goroutine at a time
	old := before.next(n.Name)
	s.drift.replaced(n, old)
	path := tree.Join(d.path, n.Name)
	s.complete(path, e, n, old.Node)
	return s.walkDir(s.newDir(d, path, n, old), a, old.Node)
}

// walkEntry deals with an entry that is no directory.
func (s *run) walkEntry(d *dir, e Entry, n *tree.Node, before *prevDir) error {
	old := before.next(n.Name)
	s.drift.replaced(n, old)
	switch n.Type {
	case tree.File:
		var was *tree.Node
		if old.Node == nil {
			was = before.was(n.Name)
		}
		s.fileIn(d, e, n, old, was)
		return nil
	default:
		defer e.Close()
		path := tree.Join(d.path, n.Name)
		s.complete(path, e, n, old.Node)
		if n.Type == tree.Symlink && n.Target == "" {
			return nil // unreadable: complete has said so
		}
		s.settle(d, d.record.begin(old), n)
		if n.Type == tree.Symlink {
			s.symlinks.Add(1)
		} else {
			s.others.Add(1)
		}
		return nil
	}
}

// complete fills in what takes more than a stat, from the previous snapshot where
// the change time says that it is the same.
func (s *run) complete(path string, e Entry, n, old *tree.Node) {
	if sameInode(n, old) {
		n.Target, n.Xattrs, n.InodeFlags = old.Target, old.Xattrs, old.InodeFlags
		return
	}
	if err := e.Complete(n); err != nil {
		kind := kindOf(err)
		if n.Type != tree.Symlink || n.Target != "" {
			kind = Metadata
		}
		s.problem(path, kind, err)
	}
}

// sameInode says whether nothing about an inode has changed since the previous
// snapshot, as far as the file system tells: every change of content, attributes,
// owner or flags sets the change time, which no user can set.
func sameInode(n, old *tree.Node) bool {
	return old != nil && n.Type == old.Type && n.Inode == old.Inode && n.CTime == old.CTime && n.MTime == old.MTime &&
		n.Size == old.Size && n.CTime != tree.Time{}
}

func kindOf(err error) string {
	if errors.Is(err, fs.ErrNotExist) {
		return Vanished
	}
	return Unreadable
}
