package restore

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// removeExtras removes what is in d but not in its record, which was read to its
// end.
func (s *session) removeExtras(d *dir) {
	extras := append(d.extras, d.remaining...)
	if len(extras) == 0 {
		return
	}
	if d.noDelete {
		s.warn(d.place(), tree.Dir, errors.New("entries that are not in the snapshot stay: it is on another file system"))
		return
	}
	h, err := s.dirs.acquire(d)
	if err != nil {
		s.event(Failed, tree.Dir, d.place(), err)
		return
	}
	defer s.dirs.release(d)
	for _, name := range extras {
		if s.stopped() {
			return
		}
		if !d.folded[strings.ToLower(name)] {
			s.removeEntry(h, name, place{d, name}.String())
		}
	}
}

// removeEntry removes name and all below it, but for excluded entries and mount points, and says whether
// it is gone. It keeps one descriptor open for each level.
func (s *session) removeEntry(h *handle, name, path string) (gone bool) {
	if s.stopped() {
		return false
	}
	at := place{nil, path}
	st, err := h.lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	if err != nil {
		s.event(Failed, 0, at, fmt.Errorf("delete: %w", err))
		return false
	}
	if s.decide(at, st.typ == tree.Dir) != Include {
		return false
	}
	if st.typ != tree.Dir {
		if !s.o.DryRun {
			err = h.remove(name)
		}
	} else {
		empty, e := s.removeContents(h, name, path, &st)
		if e == nil && !empty {
			return false
		}
		if err = e; err == nil && !s.o.DryRun {
			err = h.rmdir(name)
		}
	}
	if err != nil {
		s.event(Failed, st.typ, at, fmt.Errorf("delete: %w", s.explain(h, name, err)))
		return false
	}
	s.event(Deleted, st.typ, at, nil)
	return true
}

func (s *session) removeContents(h *handle, name, path string, st *info) (empty bool, err error) {
	mounted, err := h.mounted(name)
	if err != nil {
		return false, err
	}
	if mounted {
		s.warn(place{nil, path}, tree.Dir, errors.New("not deleted: a file system is mounted on it"))
		return false, nil
	}
	sub, err := h.openDir(name)
	if isDenied(err) && !s.root && !s.o.DryRun {
		if o, done, e := h.objectAt(name); e == nil {
			e = o.chmod(st.mode | 0o700)
			done()
			if e == nil {
				sub, err = h.openDir(name)
			}
		}
	}
	if err != nil {
		return false, err
	}
	defer sub.close()
	if !s.root && !s.o.DryRun && st.mode&0o300 != 0o300 {
		if err := sub.object().chmod(st.mode | 0o700); err != nil {
			return false, err
		}
	}
	names, err := sub.names()
	if err != nil {
		return false, err
	}
	empty = true
	for _, n := range names {
		empty = s.removeEntry(sub, n, tree.Join(path, n)) && empty
	}
	return empty, nil
}
