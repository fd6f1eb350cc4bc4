package restore

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// capture makes nodes of a directory, for tests. It knows of no change during
// reading, and leaves out sockets.
type capture struct {
	t testing.TB
	m *memory
}

// source captures a directory as the node of path "/src".
func (c *capture) source(dir string) *tree.Node {
	c.t.Helper()
	h, err := openTarget(&sys{}, dir)
	c.must(err)
	defer h.close()
	st, err := h.stat()
	c.must(err)
	n := c.node(h.object(), "src", &st)
	c.fill(h, n)
	return n
}

func (c *capture) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *capture) node(o object, name string, st *info) *tree.Node {
	n := &tree.Node{
		Name: name, Type: st.typ, Mode: st.mode, UID: st.uid, GID: st.gid, MTime: st.mtime,
		Inode: st.ino, Links: 1, Rdev: st.rdev,
	}
	if n.Type != tree.Dir && st.nlink > 1 {
		n.Links, n.Device = uint32(st.nlink), st.dev
	}
	if n.Type == tree.Symlink {
		n.Mode = 0o777
	}
	var err error
	n.Xattrs, err = o.xattrs()
	c.must(err)
	flags, err := o.flags()
	c.must(err)
	n.InodeFlags = flags & knownFlags
	return n
}

func (c *capture) fill(h *handle, n *tree.Node) {
	names, err := h.names()
	c.must(err)
	var entries []*tree.Node
	for _, name := range names {
		o, done, err := h.objectAt(name)
		c.must(err)
		st, err := o.stat()
		c.must(err)
		if st.typ == 0 {
			done()
			continue
		}
		e := c.node(o, name, &st)
		done()
		switch e.Type {
		case tree.Dir:
			sub, err := h.openDir(name)
			c.must(err)
			flags, err := sub.object().flags()
			c.must(err)
			e.InodeFlags = flags & knownFlags
			c.fill(sub, e)
			sub.close()
		case tree.Symlink:
			e.Target, err = h.readlink(name)
			c.must(err)
		case tree.File:
			f, err := h.open(name, false)
			c.must(err)
			flags, err := f.object().flags()
			c.must(err)
			e.InodeFlags = flags & knownFlags
			c.content(f, e, st.size)
			f.close()
		}
		entries = append(entries, e)
	}
	c.m.dir(c.t, n, entries...)
}

func (c *capture) content(f *file, n *tree.Node, size int64) {
	n.Size = size
	extents := []tree.Extent{}
	for off := int64(0); off < size; {
		data, err := unix.Seek(f.fd, off, unix.SEEK_DATA)
		if err == unix.ENXIO {
			break
		}
		c.must(err)
		hole, err := unix.Seek(f.fd, data, unix.SEEK_HOLE)
		c.must(err)
		extents = append(extents, tree.Extent{Offset: data, Length: hole - data})
		off = hole
	}
	if len(extents) != 1 || extents[0] != (tree.Extent{Offset: 0, Length: size}) {
		if size > 0 {
			n.Extents = extents
		}
	}
	var content []byte
	for _, e := range extents {
		b := make([]byte, e.Length)
		_, err := f.readAt(b, e.Offset)
		c.must(err)
		content = append(content, b...)
	}
	c.m.file(n, content)
	n.Size = size
}

// listing describes a tree, an entry a line, for comparisons: independent of inode
// numbers, but showing which names share one.
func listing(t testing.TB, dir string) []string {
	t.Helper()
	m := newMemory()
	c := &capture{t, m}
	root := c.source(dir)
	var out []string
	first := map[tree.LinkKey]string{}
	err := tree.Walk(t.Context(), m, "", root, tree.Visitor{Node: func(path string, n *tree.Node) error {
		k := *n
		key, linked := n.Link()
		link := ""
		if linked {
			if first[key] == "" {
				first[key] = path
			}
			link = first[key]
		}
		k.Inode, k.Device, k.CTime = 0, 0, tree.Time{}
		content := fmt.Sprintf("%x", k.Content)
		if k.Type == tree.Dir {
			content = "" // depends on inode numbers
		}
		if path == "" {
			k.Name = ""
		}
		k.Content = nil
		out = append(out, fmt.Sprintf("%q %+v %s =%q", path, k, content, link))
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// same fails the test unless both trees are equal in everything.
func same(t testing.TB, want, got []string) {
	t.Helper()
	if slices.Equal(want, got) {
		return
	}
	shown := 0
	for _, l := range want {
		if !slices.Contains(got, l) && shown < 8 {
			t.Errorf("missing:    %s", l)
			shown++
		}
	}
	for _, l := range got {
		if !slices.Contains(want, l) && shown < 16 {
			t.Errorf("unexpected: %s", l)
			shown++
		}
	}
	t.Fatal("trees differ")
}

// temps returns the unfinished files in a directory tree.
func temps(t testing.TB, dir string) (out []string) {
	for _, l := range listing(t, dir) {
		if strings.Contains(l, TempPrefix) {
			out = append(out, l)
		}
	}
	return out
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("takes root: owners, devices, attributes")
	}
}
