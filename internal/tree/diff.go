package tree

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
)

// ChangeKind says how two trees differ at a path.
type ChangeKind string

// The kinds of changes.
const (
	Added       ChangeKind = "added"       // New only
	Removed     ChangeKind = "removed"     // Old only
	Modified    ChangeKind = "modified"    // the same kind of node holds something else
	Metadata    ChangeKind = "metadata"    // it holds the same
	TypeChanged ChangeKind = "typechanged" // a directory became a file, say
)

// What of a node differs: the elements of Change.What.
const (
	WhatContent = "content" // a file's bytes
	WhatSize    = "size"
	WhatTarget  = "target" // of a symlink
	WhatDevice  = "device" // numbers of a device node
	WhatMode    = "mode"
	WhatOwner   = "owner" // by number
	WhatMTime   = "mtime"
	WhatXattrs  = "xattrs"
	WhatFlags   = "flags"
)

// A Change is one difference between two trees.
type Change struct {
	Path     string
	Kind     ChangeKind
	Old, New *Node    // nil where there is none
	What     []string // of Modified and Metadata: What…, in the order of the constants
}

// A Tree is a node and where what is below it is read from.
type Tree struct {
	Loader Loader
	Root   *Node
}

// Diff calls fn for each difference between two trees, parents before children,
// names ascending; path is that of their roots. Where fn returns fs.SkipDir for a
// directory, what is below it is not compared or listed; fs.SkipAll ends Diff
// without error.
//
// Both are read in step, a page of each directory on the current path at a time;
// directories and pages with the same hashes are not read at all. A page that
// cannot be read ends it with an error.
//
// Change times, inodes, and which names are hard links of each other are not
// compared. Content is compared by chunks, and by the files' SHA-256 where both are
// recorded: for trees of repositories that split files in different ways (that are
// no siblings), files of several chunks without SHA-256 count as modified; so do
// files whose holes are elsewhere now.
func Diff(ctx context.Context, path string, before, after Tree, fn func(Change) error) error {
	d := differ{ctx, before.Loader, after.Loader, fn}
	err := d.pair(path, before.Root, after.Root)
	if errors.Is(err, fs.SkipAll) {
		return nil
	}
	return err
}

type differ struct {
	ctx        context.Context
	old, newer Loader
	fn         func(Change) error
}

// pair compares two nodes of the same name, and what is below them.
func (d *differ) pair(path string, a, b *Node) error {
	if a.Type != b.Type {
		err := d.fn(Change{Path: path, Kind: TypeChanged, Old: a, New: b})
		if err == fs.SkipDir && (a.Type == Dir || b.Type == Dir) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := d.below(d.old, path, a, Removed); err != nil {
			return err
		}
		return d.below(d.newer, path, b, Added)
	}
	if kind, what := compare(a, b); len(what) > 0 {
		err := d.fn(Change{Path: path, Kind: kind, Old: a, New: b, What: what})
		if err == fs.SkipDir && a.Type == Dir {
			return nil
		}
		if err != nil {
			return err
		}
	}
	if a.Type != Dir || slices.Equal(a.Content, b.Content) {
		return nil
	}
	return d.dirs(path, a, b)
}

// dirs compares the entries of two directories.
func (d *differ) dirs(path string, a, b *Node) error {
	olds := cursor{ctx: d.ctx, l: d.old, path: path, content: a.Content}
	news := cursor{ctx: d.ctx, l: d.newer, path: path, content: b.Content}
	for {
		for olds.skips(&news) {
		}
		x, err := olds.peek()
		if err != nil {
			return err
		}
		y, err := news.peek()
		if err != nil {
			return err
		}
		switch {
		case x == nil && y == nil:
			return nil
		case y == nil || x != nil && x.Name < y.Name:
			olds.next()
			err = d.alone(d.old, Join(path, x.Name), x, Removed)
		case x == nil || y.Name < x.Name:
			news.next()
			err = d.alone(d.newer, Join(path, y.Name), y, Added)
		default:
			olds.next()
			news.next()
			err = d.pair(Join(path, x.Name), x, y)
		}
		if err != nil {
			return err
		}
	}
}

// alone reports a node that only one side has, and all below it.
func (d *differ) alone(l Loader, path string, n *Node, kind ChangeKind) error {
	c := Change{Path: path, Kind: kind}
	if kind == Added {
		c.New = n
	} else {
		c.Old = n
	}
	if err := d.fn(c); err != nil {
		if err == fs.SkipDir && n.Type == Dir {
			return nil
		}
		return err
	}
	return d.below(l, path, n, kind)
}

func (d *differ) below(l Loader, path string, n *Node, kind ChangeKind) error {
	if n.Type != Dir {
		return nil
	}
	c := cursor{ctx: d.ctx, l: l, path: path, content: n.Content}
	for {
		e, err := c.peek()
		if e == nil || err != nil {
			return err
		}
		c.next()
		if err := d.alone(l, Join(path, e.Name), e, kind); err != nil {
			return err
		}
	}
}

// compare says what of two nodes of the same type differs, but for what is in
// directories.
func compare(a, b *Node) (kind ChangeKind, what []string) {
	kind = Metadata
	differs := func(cond bool, name string, k ChangeKind) {
		if cond {
			what = append(what, name)
			if k == Modified {
				kind = Modified
			}
		}
	}
	differs(a.Type == File && !sameContent(a, b), WhatContent, Modified)
	differs(a.Size != b.Size, WhatSize, Modified)
	differs(a.Target != b.Target, WhatTarget, Modified)
	differs(a.Rdev != b.Rdev, WhatDevice, Modified)
	differs(a.Mode != b.Mode && a.Type != Symlink, WhatMode, Metadata) // no system uses a symlink's
	differs(a.UID != b.UID || a.GID != b.GID, WhatOwner, Metadata)
	differs(a.MTime != b.MTime, WhatMTime, Metadata)
	differs(!slices.Equal(a.Xattrs, b.Xattrs), WhatXattrs, Metadata)
	differs(a.InodeFlags != b.InodeFlags, WhatFlags, Metadata)
	return kind, what
}

// sameContent says whether two files hold the same bytes, as far as their nodes
// tell.
func sameContent(a, b *Node) bool {
	if a.Size != b.Size {
		return false
	}
	if !slices.Equal(a.Extents, b.Extents) || (a.Extents == nil) != (b.Extents == nil) {
		// The same bytes may have been written with other holes: what is in the
		// chunks does not tell.
		return false
	}
	if a.Indirect == b.Indirect && slices.Equal(a.Content, b.Content) {
		return true
	}
	x, ok := a.ContentHash()
	y, ok2 := b.ContentHash()
	return ok && ok2 && x == y
}

// A cursor goes through the entries of a directory, a page at a time.
type cursor struct {
	ctx     context.Context
	l       Loader
	path    string
	content []Chunk // pages not yet read
	page    []*Node // entries not yet passed
	last    string  // name of the last entry read, "" behind a page that was skipped
}

// peek returns the next entry; nil behind the last.
func (c *cursor) peek() (*Node, error) {
	for len(c.page) == 0 {
		if len(c.content) == 0 {
			return nil, nil
		}
		var page []*Node
		err := ReadDir(c.ctx, c.l, c.content[:1], func(n *Node) error {
			if n.Name <= c.last {
				return fmt.Errorf("%w: %q after %q", ErrCorrupt, n.Name, c.last)
			}
			c.last = n.Name
			page = append(page, n)
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("read directory %q: %w", c.path, err)
		}
		c.content, c.page = c.content[1:], page
	}
	return c.page[0], nil
}

func (c *cursor) next() { c.page = c.page[1:] }

// skips passes the next page on both sides, if it is the same.
func (c *cursor) skips(o *cursor) bool {
	if len(c.page) > 0 || len(o.page) > 0 || len(c.content) == 0 || len(o.content) == 0 || c.content[0] != o.content[0] {
		return false
	}
	c.content, o.content = c.content[1:], o.content[1:]
	c.last, o.last = "", ""
	return true
}
