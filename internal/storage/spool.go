package storage

import (
	"fmt"
	"io"
	"os"
)

// spoolMemory is the size from which a spooled object is kept in a file: most
// objects but packs are smaller.
const spoolMemory = 1 << 20

// A spool keeps an object until it has been sent: in memory, or in a file without
// a name where the system allows that, so that nothing stays behind. The zero
// value is empty.
type spool struct {
	dir  string // of the file; "": the system's
	buf  []byte
	file *os.File
	size int64
}

// Write appends p.
func (s *spool) Write(p []byte) (int, error) {
	if s.file == nil && len(s.buf)+len(p) <= spoolMemory {
		s.buf = append(s.buf, p...)
		s.size = int64(len(s.buf))
		return len(p), nil
	}
	if s.file == nil {
		if err := s.spill(); err != nil {
			return 0, err
		}
	}
	n, err := s.file.Write(p)
	s.size += int64(n)
	if err != nil {
		return n, s.failed(err)
	}
	return n, nil
}

// spill moves what is in memory to a file.
func (s *spool) spill() error {
	f, err := os.CreateTemp(s.dir, "backup-handler-spool-*")
	if err != nil {
		return s.failed(err)
	}
	os.Remove(f.Name()) // Windows does not remove what is open: close does
	if _, err := f.Write(s.buf); err != nil {
		f.Close()
		os.Remove(f.Name())
		return s.failed(err)
	}
	s.file, s.buf = f, nil
	return nil
}

// ReadAt implements io.ReaderAt; also for several readers at once.
func (s *spool) ReadAt(p []byte, off int64) (int, error) {
	if s.file != nil {
		n, err := s.file.ReadAt(p, off)
		if err != nil && err != io.EOF {
			err = s.failed(err)
		}
		return n, err
	}
	if off >= int64(len(s.buf)) {
		return 0, io.EOF
	}
	n := copy(p, s.buf[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// failed names the directory: a full one is not the store that is full.
func (s *spool) failed(err error) error {
	dir := s.dir
	if dir == "" {
		dir = os.TempDir()
	}
	return &PermanentError{
		Err:  fmt.Errorf("keep data on its way to the store in %s: %w", dir, err),
		Hint: "make room there, or set TMPDIR to a directory with some hundred megabytes to spare",
	}
}

func (s *spool) close() {
	s.buf = nil
	if s.file != nil {
		s.file.Close()
		os.Remove(s.file.Name())
		s.file = nil
	}
}
