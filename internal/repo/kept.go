package repo

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// A keptDir keeps sealed snapshots and blocks of metadata of one repository on
// another machine, so that listing and comparing fetch little. What is in it is as
// in the repository, encrypted and authenticated; a file that does not open is
// fetched again. It is disposable, and bounded: what was not read for longest goes
// first.
//
// Processes share it without a lock: files never change, and appear by rename.
// Nothing is synced. A nil *keptDir keeps nothing.
type keptDir struct {
	dir   string
	bytes int64        // the bound
	added atomic.Int64 // bytes since the last trim
}

const (
	// trimTo is the part of the bound that a trim leaves, in percent, so that
	// the next one is not due at once.
	trimTo = 90
	// touchAfter is how coarse the order of use is.
	touchAfter = time.Hour
	keptSuffix = ".kept"
)

// openKept returns the directory below base, or nil where there is none to be had.
func openKept(base string, id ID, bytes int64) *keptDir {
	if base == "" || bytes <= 0 {
		return nil
	}
	dir := filepath.Join(base, id.String(), "kept")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil
	}
	return &keptDir{dir: dir, bytes: bytes}
}

func keptBlock(pack ID, offset uint32) string {
	return pack.String() + "-" + strconv.FormatUint(uint64(offset), 16)
}

func keptSnapshot(id ID) string { return "snapshot-" + id.String() }

// get returns what is kept under a name, or nil.
func (k *keptDir) get(name string) []byte {
	if k == nil {
		return nil
	}
	path := k.path(name)
	data, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	if info, err := os.Stat(path); err == nil && time.Since(info.ModTime()) > touchAfter {
		now := time.Now()
		os.Chtimes(path, now, now)
	}
	return data
}

// put keeps data, if it can.
func (k *keptDir) put(name string, data []byte) {
	if k == nil || int64(len(data)) > k.bytes {
		return
	}
	if f := k.create(name); f != nil {
		f.Write(data)
		f.keep()
	}
}

// count notes that so many bytes are kept more, and keeps the bound.
func (k *keptDir) count(n int64) {
	if k.added.Add(n) > k.bytes*(100-trimTo)/100 {
		k.added.Store(0)
		k.trim()
	}
}

// A keptFile is on its way into a keptDir. Writing to it never fails: what cannot be
// written is not kept. A nil *keptFile is written to no file.
type keptFile struct {
	dir  *keptDir
	name string
	f    *os.File // nil: kept or dropped
	n    int64
	err  error
}

func (k *keptDir) path(name string) string { return filepath.Join(k.dir, name+keptSuffix) }

// create begins a file; nil if that cannot be.
func (k *keptDir) create(name string) *keptFile {
	f, err := os.CreateTemp(k.dir, "*.tmp")
	if err != nil {
		return nil
	}
	return &keptFile{dir: k, name: name, f: f}
}

var errTooMuch = errors.New("more than is kept")

// Write implements io.Writer.
func (f *keptFile) Write(p []byte) (int, error) {
	if f == nil || f.err != nil {
		return len(p), nil
	}
	if f.n += int64(len(p)); f.n > f.dir.bytes {
		f.err = errTooMuch
		return len(p), nil
	}
	_, f.err = f.f.Write(p)
	return len(p), nil
}

// keep gives the file its name, and says whether it has it.
func (f *keptFile) keep() bool {
	if f == nil || f.f == nil {
		return false
	}
	err := f.err
	if cerr := f.f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.f.Name(), f.dir.path(f.name))
	}
	if err != nil {
		os.Remove(f.f.Name())
	}
	f.f = nil
	if err != nil {
		return false
	}
	f.dir.count(f.n)
	return true
}

// drop removes the file unless it was kept.
func (f *keptFile) drop() {
	if f != nil && f.f != nil {
		f.f.Close()
		os.Remove(f.f.Name())
		f.f = nil
	}
}

// drop forgets what is kept under a name.
func (k *keptDir) drop(name string) {
	if k != nil {
		os.Remove(k.path(name))
	}
}

// close keeps the bound.
func (k *keptDir) close() {
	if k != nil && k.added.Load() > 0 {
		k.trim()
	}
}

// trim removes what was not used for longest, and what crashes left.
func (k *keptDir) trim() {
	entries, err := os.ReadDir(k.dir)
	if err != nil {
		return
	}
	type file struct {
		name string
		size int64
		used time.Time
	}
	var files []file
	var sum int64
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			continue
		}
		if !strings.HasSuffix(e.Name(), keptSuffix) {
			if time.Since(info.ModTime()) > orphanAge {
				os.Remove(filepath.Join(k.dir, e.Name()))
			}
			continue
		}
		files = append(files, file{e.Name(), info.Size(), info.ModTime()})
		sum += info.Size()
	}
	if sum <= k.bytes {
		return
	}
	slices.SortFunc(files, func(a, b file) int { return a.used.Compare(b.used) })
	for _, f := range files {
		if sum <= k.bytes*trimTo/100 {
			return
		}
		if os.Remove(filepath.Join(k.dir, f.name)) == nil {
			sum -= f.size
		}
	}
}
