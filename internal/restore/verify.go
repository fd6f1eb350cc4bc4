package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"

	"github.com/SP1R4/BackupHandler/v3/internal/limit"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// DifferenceKind says how an entry of a directory differs from the snapshot.
type DifferenceKind uint8

const (
	Missing    DifferenceKind = iota // not in the directory
	Extra                            // not in the snapshot
	OtherType                        // a directory instead of a file, say
	Content                          // other bytes, link target or device number
	Metadata                         // owner, mode, time, attributes, flags, links
	Unreadable                       // the directory's side cannot be read
	NoRecord                         // the snapshot's side cannot be read
)

func (k DifferenceKind) String() string {
	names := [...]string{"missing", "extra", "type", "content", "metadata", "unreadable", "no record"}
	if int(k) < len(names) {
		return names[k]
	}
	return "unknown"
}

// A Difference between a snapshot and a directory.
type Difference struct {
	Path string // in the snapshot
	Kind DifferenceKind
	Text string
}

// VerifyOptions of Verify. The zero value compares everything.
type VerifyOptions struct {
	Select       func(path string, isDir bool) Decision // as in Options; extras are asked for, too
	Workers      int                                    // as in Options
	NumericOwner bool                                   // as in Options
	IgnoreOwner  bool                                   // of what was restored by somebody else than root
	IgnoreExtra  bool
	Progress     *Progress
	Report       func(Difference) // one call at a time, from several goroutines

	lookupUser, lookupGroup func(name string) (uint32, bool)
}

// VerifyResult counts what was compared. Whoever calls Verify should take nothing
// compared as a failure.
type VerifyResult struct {
	Files, Dirs, Others int64
	Bytes               int64        // read from the directory
	Differences         []Difference // at most MaxListed
	DifferenceCount     int64
}

// Verify compares dir, into which node (at path in snap) was restored, with the
// snapshot. It reads every byte of the files in dir and compares SHA-256s with
// those in the records, without using anything else that a restore uses or
// leaves behind. It follows no symlinks. One descriptor is open for each level.
// The error says why it ended early.
func Verify(ctx context.Context, r Repository, snap *tree.Snapshot, node *tree.Node, path, dir string, o VerifyOptions) (VerifyResult, error) {
	v := &verifier{ctx: ctx, r: r, o: o, links: map[tree.LinkKey][2]uint64{}}
	v.s.owners = newOwners(snap, &Options{NumericOwner: o.NumericOwner, lookupUser: o.lookupUser, lookupGroup: o.lookupGroup})
	if v.o.Progress == nil {
		v.o.Progress = new(Progress)
	}
	h, err := openTarget(&sys{}, dir)
	if err != nil {
		return VerifyResult{}, err
	}
	defer h.close()
	work := make(chan func(buf *[]byte))
	v.work = work
	var wg sync.WaitGroup
	for range workers(o.Workers) {
		wg.Go(func() {
			var buf []byte
			for fn := range work {
				fn(&buf)
			}
		})
	}
	if node.Type == tree.Dir {
		v.dir(h, node, path, path != "/")
	} else {
		v.entry(h, node, path)
	}
	close(work)
	wg.Wait()
	return v.res, ctx.Err()
}

type verifier struct {
	ctx   context.Context
	r     Repository
	o     VerifyOptions
	s     session // owners only
	work  chan<- func(buf *[]byte)
	links map[tree.LinkKey][2]uint64 // device and inode of each group's first name

	mu  sync.Mutex
	res VerifyResult
}

func (v *verifier) differs(path string, kind DifferenceKind, format string, args ...any) {
	d := Difference{path, kind, fmt.Sprintf(format, args...)}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.res.DifferenceCount++; len(v.res.Differences) < MaxListed {
		v.res.Differences = append(v.res.Differences, d)
	}
	if v.o.Report != nil {
		v.o.Report(d)
	}
}

func (v *verifier) decide(path string, isDir bool) Decision {
	if v.o.Select == nil {
		return Include
	}
	return v.o.Select(path, isDir)
}

// dir compares a directory and all below it.
func (v *verifier) dir(h *handle, n *tree.Node, path string, metadata bool) {
	decision := v.decide(path, true)
	if decision == Exclude {
		return
	}
	if decision == Include {
		v.mu.Lock()
		v.res.Dirs++
		v.mu.Unlock()
		if metadata {
			v.metadata(h.object(), n, path)
		}
	}
	names, err := h.names()
	if err != nil {
		v.differs(path, Unreadable, "%v", err)
		return
	}
	extra := func(name string) {
		if decision != Include || v.o.IgnoreExtra {
			return
		}
		st, err := h.lstat(name)
		if p := tree.Join(path, name); err == nil && v.decide(p, st.typ == tree.Dir) == Include {
			v.differs(p, Extra, "not in the snapshot")
		}
	}
	complete, last := true, ""
	for _, c := range n.Content {
		page, err := v.r.Load(v.ctx, c.Hash, c.Size, nil)
		if err == nil {
			_, err = tree.DecodePage(page, last, func(e *tree.Node) error {
				last = e.Name
				for len(names) > 0 && names[0] < e.Name {
					if complete {
						extra(names[0])
					}
					names = names[1:]
				}
				if len(names) > 0 && names[0] == e.Name {
					names = names[1:]
				}
				v.entry(h, e, tree.Join(path, e.Name))
				return v.ctx.Err()
			})
		}
		if v.ctx.Err() != nil {
			return
		}
		if err != nil {
			complete = false
			v.differs(path, NoRecord, "part of its list of entries: %v", err)
		}
	}
	for _, name := range names {
		if complete {
			extra(name)
		}
	}
}

func (v *verifier) entry(h *handle, n *tree.Node, path string) {
	decision := v.decide(path, n.Type == tree.Dir)
	if decision == Exclude || decision == Descend && n.Type != tree.Dir {
		return
	}
	if !tree.ValidName(n.Name) {
		v.differs(path, NoRecord, "invalid name")
		return
	}
	st, err := h.lstat(n.Name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if decision == Include {
			v.differs(path, Missing, "is a %s in the snapshot", n.Type)
		}
		return
	case err != nil:
		v.differs(path, Unreadable, "%v", err)
		return
	case st.typ != n.Type:
		v.differs(path, OtherType, "%s instead of %s", st.typ, n.Type)
		return
	}
	if key, ok := n.Link(); ok {
		inode := [2]uint64{st.dev, st.ino}
		if first, seen := v.links[key]; !seen {
			v.links[key] = inode
		} else if first != inode {
			v.differs(path, Metadata, "not linked with the other names of the same file")
		}
	}
	switch n.Type {
	case tree.Dir:
		sub, err := h.openDir(n.Name)
		if err != nil {
			v.differs(path, Unreadable, "%v", err)
			return
		}
		v.dir(sub, n, path, true)
		sub.close()
	case tree.File:
		v.file(h, n, path)
	default:
		v.special(h, n, path, &st)
	}
}

func (v *verifier) special(h *handle, n *tree.Node, path string, st *info) {
	v.mu.Lock()
	v.res.Others++
	v.mu.Unlock()
	if n.Type == tree.Symlink {
		target, err := h.readlink(n.Name)
		if err != nil {
			v.differs(path, Unreadable, "%v", err)
		} else if target != n.Target {
			v.differs(path, Content, "points to %q instead of %q", target, n.Target)
		}
	} else if n.Type != tree.FIFO && st.rdev != n.Rdev {
		v.differs(path, Content, "device %d:%d instead of %d:%d", st.rdev>>32, uint32(st.rdev), n.Rdev>>32, uint32(n.Rdev))
	}
	o, done, err := h.objectAt(n.Name)
	if err != nil {
		v.differs(path, Unreadable, "%v", err)
		return
	}
	defer done()
	v.metadata(o, n, path)
}

func (v *verifier) file(h *handle, n *tree.Node, path string) {
	f, err := h.open(n.Name, false)
	if err != nil {
		v.differs(path, Unreadable, "%v", err)
		return
	}
	v.work <- func(buf *[]byte) {
		defer f.close()
		v.metadata(f.object(), n, path)
		v.content(f, n, path, buf)
		v.o.Progress.FilesDone.Add(1)
		v.o.Progress.BytesDone.Add(n.Size)
	}
}

func (v *verifier) content(f *file, n *tree.Node, path string, buf *[]byte) {
	st, err := f.stat()
	if err != nil {
		v.differs(path, Unreadable, "%v", err)
		return
	}
	var read int64
	defer func() {
		v.mu.Lock()
		v.res.Files++
		v.res.Bytes += read
		v.mu.Unlock()
	}()
	if st.size != n.Size {
		v.differs(path, Content, "%d bytes instead of %d", st.size, n.Size)
		return
	}
	var where int64
	err = eachChunk(v.ctx, v.r, n, func(_ int, off int64, c tree.Chunk) error {
		if err := limit.Pace(v.ctx); err != nil {
			return err
		}
		read += int64(c.Size)
		if where = off; v.s.hasChunk(f, n, off, c, buf) {
			return nil
		}
		return errDiffers
	})
	switch {
	case v.ctx.Err() != nil:
	case err == errDiffers:
		v.differs(path, Content, "other bytes from %d of its content on, or unreadable there", where)
	case err != nil:
		v.differs(path, NoRecord, "%v", err)
	case n.Extents != nil && !holesAreZero(f, n, buf):
		v.differs(path, Content, "other bytes in the holes")
	}
}

func (v *verifier) metadata(o object, n *tree.Node, path string) {
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	st, err := o.stat()
	if err != nil {
		v.differs(path, Unreadable, "%v", err)
		return
	}
	uid, gid := v.s.owners.of(n)
	if !v.o.IgnoreOwner && (st.uid != uid || st.gid != gid) {
		add("owner %d:%d instead of %d:%d", st.uid, st.gid, uid, gid)
	}
	if n.Type != tree.Symlink && st.mode != n.Mode {
		add("mode %04o instead of %04o", st.mode, n.Mode)
	}
	if st.mtime != n.MTime {
		add("time %d.%09d instead of %d.%09d", st.mtime.Sec, st.mtime.Nsec, n.MTime.Sec, n.MTime.Nsec)
	}
	if have, err := o.xattrs(); err != nil {
		add("attributes: %v", err)
	} else if !sameXattrs(n.Xattrs, have) {
		for _, x := range n.Xattrs {
			if value, ok := findXattr(have, x.Name); !ok {
				add("no attribute %s", x.Name)
			} else if value != x.Value {
				add("attribute %s", x.Name)
			}
		}
		for _, x := range have {
			if _, ok := findXattr(n.Xattrs, x.Name); !ok && removable(x.Name) {
				add("extra attribute %s", x.Name)
			}
		}
	}
	if !o.none() {
		if flags, err := o.flags(); err != nil {
			add("inode flags: %v", err)
		} else if flags&knownFlags != n.InodeFlags&knownFlags {
			add("inode flags %#x instead of %#x", flags&knownFlags, n.InodeFlags&knownFlags)
		}
	}
	if len(out) > 0 {
		v.differs(path, Metadata, "%s", strings.Join(out, ", "))
	}
}
