package restore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// A Scratch is a new directory for what is restored only to be looked at. Only its
// owner can enter it.
type Scratch struct {
	path, name string
	parent     *handle
	made       [2]uint64 // device and inode
}

// scratchPrefix begins the names of scratch directories.
const scratchPrefix = "backup-handler-drill-"

// NewScratch makes one in the directory parent, under a name that nobody can guess.
func NewScratch(parent string) (*Scratch, error) {
	parent, err := filepath.Abs(parent)
	if err != nil {
		return nil, err
	}
	h, err := openTarget(&sys{}, parent)
	if err != nil {
		return nil, fmt.Errorf("open the place for the scratch directory: %w", err)
	}
	path, err := os.MkdirTemp(parent, scratchPrefix)
	if err != nil {
		h.close()
		return nil, fmt.Errorf("make the scratch directory: %w", err)
	}
	s := &Scratch{path: path, name: filepath.Base(path), parent: h}
	st, err := h.lstat(s.name)
	if err != nil {
		h.close()
		return nil, errors.Join(fmt.Errorf("look at the scratch directory: %w", err), os.Remove(path))
	}
	s.made = [2]uint64{st.dev, st.ino}
	return s, nil
}

// AdoptScratch takes over one that a killed process has left, by what Path and Inode
// returned. The error is fs.ErrNotExist if it is gone.
func AdoptScratch(path string, inode uint64) (*Scratch, error) {
	s := &Scratch{path: path, name: filepath.Base(path)}
	if !filepath.IsAbs(path) || !strings.HasPrefix(s.name, scratchPrefix) {
		return nil, fmt.Errorf("%s: no scratch directory has this name", path)
	}
	var err error
	if s.parent, err = openTarget(&sys{}, filepath.Dir(path)); err != nil {
		return nil, err
	}
	st, err := s.parent.lstat(s.name)
	if err == nil && (st.typ != tree.Dir || st.ino != inode) {
		err = fmt.Errorf("%s: something else has taken its place", path)
	}
	if err != nil {
		s.parent.close()
		return nil, err
	}
	s.made = [2]uint64{st.dev, st.ino} // devices may have other numbers than before
	return s, nil
}

// Path returns the directory.
func (s *Scratch) Path() string { return s.path }

// Inode returns the directory's number on its file system; 0 where there is none.
func (s *Scratch) Inode() uint64 { return s.made[1] }

// Remove removes the directory and all below it, whatever modes and flags it has.
// Nothing else is touched: no symlink is followed, nothing that is mounted in it is
// entered, and a directory that has taken its place stays. The error says what stays.
func (s *Scratch) Remove() error {
	defer s.parent.close()
	st, err := s.parent.lstat(s.name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case st.typ != tree.Dir || [2]uint64{st.dev, st.ino} != s.made:
		return fmt.Errorf("%s: something else has taken its place", s.path)
	}
	r := scrubber{}
	r.entry(s.parent, s.name, s.path)
	if r.failed > 1 {
		return fmt.Errorf("%w (and %d more)", r.first, r.failed-1)
	}
	return r.first
}

// A scrubber removes trees, and keeps the first error.
type scrubber struct {
	first  error
	failed int
}

func (r *scrubber) fail(path string, err error) {
	if r.failed++; r.first == nil {
		r.first = fmt.Errorf("remove %s: %w", path, err)
	}
}

func (r *scrubber) entry(h *handle, name, path string) {
	st, err := h.lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		r.fail(path, err)
		return
	}
	if st.typ == tree.Dir {
		r.dir(h, name, path)
		return
	}
	err = h.remove(name)
	if err != nil && st.typ == tree.File {
		thaw(h, name)
		err = h.remove(name)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.fail(path, err)
	}
}

func (r *scrubber) dir(h *handle, name, path string) {
	mounted, err := h.mounted(name)
	if err == nil && mounted {
		err = errors.New("a file system is mounted on it")
	}
	if err != nil {
		r.fail(path, err)
		return
	}
	if o, done, err := h.objectAt(name); err == nil { // before it is opened: it may have no bits
		o.chmod(0o700)
		done()
	}
	sub, err := h.openDir(name)
	if err != nil {
		r.fail(path, err)
		return
	}
	defer sub.close()
	if o := sub.object(); !o.none() {
		if flags, err := o.flags(); err == nil && flags&frozenFlags != 0 {
			o.setFlags(flags &^ frozenFlags)
			o.chmod(0o700)
		}
	}
	names, err := sub.names()
	if err != nil {
		r.fail(path, err)
		return
	}
	before := r.failed
	for _, n := range names {
		r.entry(sub, n, filepath.Join(path, n))
	}
	if err := h.rmdir(name); err != nil && r.failed == before { // else what is in it has been told
		r.fail(path, err)
	}
}

// thaw lets a file be removed: an immutable one cannot be.
func thaw(h *handle, name string) {
	f, err := h.open(name, false)
	if err != nil {
		return
	}
	defer f.close()
	if flags, err := f.object().flags(); err == nil && flags&frozenFlags != 0 {
		f.object().setFlags(flags &^ frozenFlags)
	}
}
