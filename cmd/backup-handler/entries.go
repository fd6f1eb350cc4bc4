package main

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/job"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// Entries of snapshots, as ls, find and diff print them: one at a time, for there
// may be millions.

// A stream prints any number of facts: lines of text or, as JSON, the elements of
// one array, each on a line of its own. An array that does not end says that the
// command did not either.
type stream struct {
	w    *bufio.Writer
	json bool
	head string // of the JSON, before the array
	n    int64  // facts so far
}

func (a *app) stream(head string) *stream {
	return &stream{w: bufio.NewWriter(a.stdout), json: a.json, head: head}
}

// item prints one fact.
func (s *stream) item(v any, text func(io.Writer)) error {
	if !s.json {
		s.n++
		text(s.w)
		_, err := s.w.Write(nil) // the Writer keeps its error
		return err
	}
	if err := s.open(); err != nil {
		return err
	}
	s.n++
	b, err := compactJSON(v)
	if err != nil {
		return err
	}
	_, err = s.w.Write(b)
	return err
}

func (s *stream) open() error {
	sep := ",\n"
	if s.n == 0 {
		sep = s.head + "[\n"
	}
	_, err := s.w.WriteString(sep)
	return err
}

// end closes the array; tail follows it.
func (s *stream) end(tail string) error {
	if s.json {
		if s.n == 0 {
			s.w.WriteString(s.head + "[")
		}
		s.w.WriteString("\n]" + tail + "\n") // the Writer keeps its error for Flush
	}
	return s.w.Flush()
}

// compactJSON is one line without an end.
func compactJSON(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), err
}

// An entry is the JSON of a node.
type entry struct {
	Snapshot *repo.ID    `json:"snapshot,omitempty"`
	Path     tree.Path   `json:"path"`
	Type     string      `json:"type"`
	Mode     string      `json:"mode"` // octal
	UID      uint32      `json:"uid"`
	GID      uint32      `json:"gid"`
	User     tree.Path   `json:"user,omitempty"`
	Group    tree.Path   `json:"group,omitempty"`
	Size     int64       `json:"size"`
	MTime    string      `json:"mtime"`
	Links    uint32      `json:"links"`
	Target   tree.Path   `json:"target,omitempty"`
	Device   string      `json:"device,omitempty"` // major:minor
	Flags    uint32      `json:"inode_flags,omitempty"`
	Xattrs   []xattrJSON `json:"xattrs,omitempty"`
	SHA256   string      `json:"sha256,omitempty"`
	Sparse   bool        `json:"sparse,omitempty"`
	Unstable bool        `json:"unstable,omitempty"`
}

type xattrJSON struct {
	Name  tree.Path `json:"name"`
	Value []byte    `json:"value"` // base64
}

// newEntry describes a node of snap.
func newEntry(snap *tree.Snapshot, path string, n *tree.Node) entry {
	e := entry{
		Path: tree.Path(path), Type: n.Type.String(), Mode: fmt.Sprintf("%04o", n.Mode), UID: n.UID, GID: n.GID,
		User: tree.Path(snap.Users[n.UID]), Group: tree.Path(snap.Groups[n.GID]), Size: n.Size,
		// Not a time.Time: those of years beyond 9999 have no JSON.
		MTime: n.MTime.Time().Format(time.RFC3339Nano),
		Links: n.Links, Target: tree.Path(n.Target), Flags: n.InodeFlags, Sparse: n.Extents != nil, Unstable: n.Unstable,
	}
	if n.Type == tree.CharDevice || n.Type == tree.BlockDevice {
		e.Device = deviceText(n.Rdev)
	}
	for _, x := range n.Xattrs {
		e.Xattrs = append(e.Xattrs, xattrJSON{tree.Path(x.Name), []byte(x.Value)})
	}
	if h, ok := n.ContentHash(); ok {
		e.SHA256 = hex.EncodeToString(h[:])
	}
	return e
}

func deviceText(rdev uint64) string {
	return strconv.FormatUint(rdev>>32, 10) + ":" + strconv.FormatUint(rdev&0xffff_ffff, 10)
}

// longLine is a node as ls -l shows it, without the name.
func longLine(snap *tree.Snapshot, n *tree.Node) string {
	size := strconv.FormatInt(n.Size, 10)
	switch n.Type {
	case tree.CharDevice, tree.BlockDevice:
		size = deviceText(n.Rdev)
	case tree.Symlink:
		size = strconv.Itoa(len(n.Target))
	}
	return fmt.Sprintf("%s %-8s %-8s %12s %s", modeText(n), owner(snap.Users, n.UID), owner(snap.Groups, n.GID), size,
		n.MTime.Time().Local().Format(time.DateTime))
}

func owner(names map[uint32]string, id uint32) string {
	if name := names[id]; name != "" {
		return quote(name)
	}
	return strconv.FormatUint(uint64(id), 10)
}

// modeText is ten characters, such as drwxr-sr-x.
func modeText(n *tree.Node) string {
	b := []byte("?rwxrwxrwx")
	if n.Type >= tree.File && n.Type <= tree.BlockDevice {
		b[0] = "-dlpcb"[n.Type-tree.File]
	}
	for i := range 9 {
		if n.Mode&(1<<(8-i)) == 0 {
			b[1+i] = '-'
		}
	}
	special := func(bit uint32, at int, with, without byte) {
		if n.Mode&bit == 0 {
			return
		}
		if b[at] == 'x' {
			b[at] = with
		} else {
			b[at] = without
		}
	}
	special(tree.ModeSetuid, 3, 's', 'S')
	special(tree.ModeSetgid, 6, 's', 'S')
	special(tree.ModeSticky, 9, 't', 'T')
	return string(b)
}

// nameText is a name to print: directories end with a slash, links tell their
// target.
func nameText(name string, n *tree.Node, long bool) string {
	text := quote(name)
	switch {
	case n.Type == tree.Dir && name != "/":
		text += "/"
	case n.Type == tree.Symlink && long:
		text += " -> " + quote(n.Target)
	}
	return text
}

// A damageNote tells of directories that cannot be read, and that there were some.
type damageNote struct {
	a *app
	n int64
}

func (d *damageNote) note(snap *tree.Snapshot) func(string, *tree.Node, error) error {
	return func(path string, _ *tree.Node, err error) error {
		d.n++
		d.a.warn("%s:%s cannot be read completely: %v", snap.ID.Short(), quote(path), err)
		return nil
	}
}

// outcome is 1 after damage: what was printed is not all.
func (d *damageNote) outcome() error {
	if d.n == 0 {
		return nil
	}
	return &job.Failure{Code: job.ExitUsage, Err: job.ErrReported, Hint: "'backup-handler verify' tells what is lost and which snapshots still have it"}
}
