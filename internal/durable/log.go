package durable

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// A Log is a file that only grows. Its methods may be called concurrently, and
// several processes may append to the same file: each record is one write to a
// file opened for appending. A crash, or a full disk, can leave the last record
// cut short: readers must cope with that.
type Log struct {
	mu   sync.Mutex
	file *os.File
}

// OpenLog opens the file name for appending. If it does not exist, it is created
// with permissions perm (before umask).
func OpenLog(name string, perm fs.FileMode) (*Log, error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE, perm)
	if err != nil {
		return nil, err
	}
	// Always, since whoever created the file may not have lived to do so.
	if err := SyncDir(filepath.Dir(name)); err != nil {
		f.Close()
		return nil, err
	}
	return &Log{file: f}, nil
}

// Append adds record, line end included, and flushes it.
func (l *Log) Append(record []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, err := l.file.Write(record); err != nil {
		return err
	}
	if err := l.file.Sync(); err != nil {
		return fmt.Errorf("flush %s: %w", l.file.Name(), err)
	}
	return nil
}

// Close closes the file.
func (l *Log) Close() error { return l.file.Close() }
