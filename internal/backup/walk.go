package backup

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"sync/atomic"

	"github.com/SP1R4/BackupHandler/v3/internal/limit"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// A dir is a directory of the snapshot whose entries are not all known yet.
type dir struct {
	path   string
	node   *tree.Node   // receives the content
	nodes  []*tree.Node // entries, ascending; nil: not in the snapshot
	parent *dir
	// open counts the entries that somebody is working on, and the walk itself.
	open int32
}

// release ends one of d's open works. The last one writes the record.
func (s *run) release(d *dir) {
	for d != nil && atomic.AddInt32(&d.open, -1) == 0 {
		s.fail(s.writeRecord(d))
		d = d.parent
	}
}

// writeRecord stores a finished directory.
func (s *run) writeRecord(d *dir) error {
	if s.w == nil || s.ctx.Err() != nil {
		return nil
	}
	pw := s.pages.Get().(*tree.PageWriter)
	defer s.pages.Put(pw)
	pw.Reset()
	d.node.Content = nil
	pw.Page = func(page []byte) error {
		hash, err := s.w.AddMetadata(page)
		if err == nil && s.damaged.Load() {
			err = s.checkPage(hash, page)
		}
		d.node.Content = append(d.node.Content, tree.Chunk{Hash: hash, Size: uint32(len(page))})
		return err
	}
	for _, n := range d.nodes {
		if n == nil {
			continue
		}
		err := pw.Add(n)
		if errors.Is(err, tree.ErrInvalid) { // what no file system of ours gives: too many attributes
			s.problem(tree.Join(d.path, n.Name), Unreadable, err)
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", d.path, err)
		}
	}
	d.nodes = nil
	return pw.Flush()
}

// checkPage reads a page back where the previous snapshot is known to be damaged: one
// that counts as stored may be, too. A second AddMetadata then stores it anew,
// for the repository no longer trusts what it could not read.
func (s *run) checkPage(hash tree.Hash, page []byte) error {
	_, err := s.r.Load(s.ctx, hash, uint32(len(page)), nil)
	if errors.Is(err, repo.ErrCorrupt) {
		_, err = s.w.AddMetadata(page)
		return err
	}
	return s.ctx.Err() // not there yet: on its way
}

// walkPlanned walks a directory above the sources.
func (s *run) walkPlanned(d *dir, p *planned, prev *tree.Node) error {
	if p.entry != nil { // "/" is the source
		return s.walkRoot(d, p.entry, prev)
	}
	defer s.release(d)
	before, err := s.previous(prev)
	if err != nil {
		s.fail(err)
		return err
	}
	s.p.Dirs.Add(1)
	s.dirs.Add(1)
	names := slices.Sorted(maps.Keys(p.children))
	d.nodes = make([]*tree.Node, len(names))
	for i, name := range names {
		child := p.children[name]
		old := before.next(name)
		path := tree.Join(d.path, name)
		if child.entry == nil {
			n := child.node
			if n == nil {
				n = &tree.Node{Type: tree.Dir, Mode: 0o755, Links: 1}
			}
			n.Name = name
			d.nodes[i] = n
			if err := s.walkPlanned(s.child(d, path, n), child, old); err != nil {
				return err
			}
			continue
		}
		n := child.entry.Node()
		n.Name = name
		d.nodes[i] = n
		if n.Type == tree.File {
			atomic.AddInt32(&d.open, 1)
			s.file(&fileJob{entry: rootEntry{child.entry}, d: d, i: i, prev: old, node: n})
			continue
		}
		if err := child.entry.Complete(n); err != nil {
			s.problem(path, Metadata, err)
		}
		if err := s.walkRoot(s.child(d, path, n), child.entry, old); err != nil {
			return err
		}
	}
	return nil
}

// rootEntry is the entry of a source: Run closes it.
type rootEntry struct{ Entry }

func (rootEntry) Close() {}

// child opens a directory below d.
func (s *run) child(d *dir, path string, n *tree.Node) *dir {
	atomic.AddInt32(&d.open, 1)
	return &dir{path: path, node: n, parent: d, open: 1}
}

// walkRoot walks a source. Unlike a directory within, one that cannot be read
// ends the run.
func (s *run) walkRoot(d *dir, e Entry, prev *tree.Node) error {
	opened, err := e.Dir(s.ctx)
	if err != nil {
		return &SourceError{d.path, err}
	}
	entries, err := opened.Entries(s.ctx)
	if err != nil {
		for _, e := range entries {
			e.Close()
		}
		opened.Close()
		return &SourceError{d.path, err}
	}
	if len(entries) == 0 && !s.o.AllowEmpty {
		opened.Close()
		return &SourceError{d.path, ErrEmptySource}
	}
	return s.walkEntries(d, opened, entries, prev)
}

// walkDir walks a directory within a source. Its error ends the run.
func (s *run) walkDir(d *dir, e Entry, prev *tree.Node) error {
	opened, err := e.Dir(s.ctx)
	if err != nil {
		defer s.release(d)
		if s.ctx.Err() != nil {
			return s.ctx.Err()
		}
		s.problem(d.path, kindOf(err), err)
		s.dirs.Add(1)
		return nil
	}
	entries, err := opened.Entries(s.ctx)
	if err != nil && s.ctx.Err() == nil {
		s.problem(d.path, kindOf(err), err)
	}
	return s.walkEntries(d, opened, entries, prev)
}

// walkEntries goes through the entries of d, and releases it.
func (s *run) walkEntries(d *dir, opened Dir, entries []Entry, prev *tree.Node) error {
	defer s.release(d)
	defer opened.Close()
	done := 0
	defer func() {
		for _, e := range entries[done:] {
			e.Close()
		}
	}()
	before, err := s.previous(prev)
	if err != nil {
		return err
	}
	s.dirs.Add(1)
	s.p.Dirs.Add(1)
	d.nodes = make([]*tree.Node, len(entries))
	for i, e := range entries {
		if err := limit.Pace(s.ctx); err != nil {
			return err
		}
		done = i + 1
		if err := s.walkEntry(d, i, e, &before); err != nil {
			return err
		}
	}
	return nil
}

func (s *run) walkEntry(d *dir, i int, e Entry, before *prevDir) error {
	n := e.Node()
	old := before.next(n.Name)
	switch n.Type {
	case tree.File:
		atomic.AddInt32(&d.open, 1)
		s.file(&fileJob{entry: e, d: d, i: i, prev: old, node: n})
		return nil
	case tree.Dir:
		defer e.Close()
		d.nodes[i] = n
		path := tree.Join(d.path, n.Name)
		s.complete(path, e, n, old)
		return s.walkDir(s.child(d, path, n), e, old)
	default:
		defer e.Close()
		path := tree.Join(d.path, n.Name)
		s.complete(path, e, n, old)
		if n.Type == tree.Symlink && n.Target == "" {
			return nil // unreadable: complete has said so
		}
		d.nodes[i] = n
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

// A prevDir goes through a directory of the previous snapshot in lockstep.
type prevDir struct{ nodes []*tree.Node }

// previous reads a directory's previous record. A record that is damaged or
// missing is as good as none: everything in it is read again.
func (s *run) previous(prev *tree.Node) (prevDir, error) {
	var p prevDir
	if prev == nil || prev.Type != tree.Dir {
		return p, nil
	}
	err := tree.ReadDir(s.ctx, s.r, prev.Content, func(n *tree.Node) error {
		p.nodes = append(p.nodes, n)
		return nil
	})
	if err != nil && s.ctx.Err() != nil {
		return p, s.ctx.Err()
	}
	if err != nil {
		s.damaged.Store(true)
	}
	return p, nil
}

// next returns the previous node of that name; names ascend from call to call.
func (p *prevDir) next(name string) *tree.Node {
	for len(p.nodes) > 0 && p.nodes[0].Name < name {
		p.nodes = p.nodes[1:]
	}
	if len(p.nodes) > 0 && p.nodes[0].Name == name {
		return p.nodes[0]
	}
	return nil
}

func kindOf(err error) string {
	if errors.Is(err, fs.ErrNotExist) {
		return Vanished
	}
	return Unreadable
}
