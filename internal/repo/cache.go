package repo

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A cacheDir keeps segments of one repository's index in files, so that opening
// a repository reads only index objects that are new, and memory does not grow
// with it. It is disposable: any fault makes the repository be read instead.
//
// Processes share it without a lock. Segment files have random names and never
// change; manifest.json, replaced by rename, says which of them count. Each says
// itself which index objects it was made from. When two processes replace the
// manifest at the same time, the later wins, and the files of the other are removed
// after orphanAge. Nothing is synced: pages that a power cut loses fail their
// checksum.
type cacheDir struct {
	dir string
}

const (
	cacheVersion  = 2
	cacheManifest = "manifest.json"
	segmentSuffix = ".seg"
	orphanAge     = time.Hour
	// flushEntries is how many chunks are indexed in memory before they go to a
	// file: 256 Ki entries are some 12 MiB.
	flushEntries = 256 << 10
)

type manifest struct {
	Version  int      `json:"version"`
	Segments []string `json:"segments"` // names of files
}

// openCache returns the cache of a repository below base, or nil where it cannot
// be made: everything works without.
func openCache(base string, id ID) *cacheDir {
	if base == "" {
		return nil
	}
	dir := filepath.Join(base, id.String())
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil
	}
	return &cacheDir{dir}
}

func (c *cacheDir) read() manifest {
	var m manifest
	b, err := os.ReadFile(filepath.Join(c.dir, cacheManifest))
	if err != nil || json.Unmarshal(b, &m) != nil || m.Version != cacheVersion {
		return manifest{Version: cacheVersion}
	}
	return m
}

// open maps the segments that consist of index objects that still exist.
func (c *cacheDir) open(repoID ID, exists func(object ID) bool) []*segment {
	var segs []*segment
	for _, name := range c.read().Segments {
		if name != filepath.Base(name) {
			continue
		}
		s, err := c.mapSegment(repoID, name)
		if err != nil {
			continue
		}
		if slices.ContainsFunc(s.covers, func(id ID) bool { return !exists(id) }) {
			s.close()
			continue
		}
		segs = append(segs, s)
	}
	return segs
}

func (c *cacheDir) mapSegment(repoID ID, name string) (*segment, error) {
	data, unmap, err := mapFile(filepath.Join(c.dir, name))
	if err != nil {
		return nil, err
	}
	s, err := openSegment(data, repoID)
	if err != nil {
		unmap()
		return nil, err
	}
	s.close, s.file = unmap, name
	return s, nil
}

// create makes a file of the segment that write writes, and maps it. It counts once
// it is published.
func (c *cacheDir) create(repoID ID, write func(w io.Writer) error) (*segment, error) {
	f, err := os.CreateTemp(c.dir, "*"+segmentSuffix)
	if err != nil {
		return nil, err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	err = write(w)
	if err == nil {
		err = w.Flush()
	}
	if err2 := f.Close(); err == nil {
		err = err2
	}
	var s *segment
	if err == nil {
		s, err = c.mapSegment(repoID, filepath.Base(f.Name()))
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return s, err
}

// publish makes the files of segs, and no others, count.
func (c *cacheDir) publish(segs []*segment) error {
	m := manifest{Version: cacheVersion}
	for _, s := range segs {
		if s.file != "" {
			m.Segments = append(m.Segments, s.file)
		}
	}
	if err := c.write(m); err != nil {
		return err
	}
	c.clean(m)
	return nil
}

// remove deletes the file of a segment that was never published.
func (c *cacheDir) remove(s *segment) {
	s.close()
	os.Remove(filepath.Join(c.dir, s.file))
}

func (c *cacheDir) write(m manifest) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(c.dir, "manifest-*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err2 := f.Close(); err == nil {
		err = err2
	}
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(c.dir, cacheManifest))
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// clean removes files that no manifest names and no process is about to name.
func (c *cacheDir) clean(m manifest) {
	used := map[string]bool{cacheManifest: true}
	for _, name := range m.Segments {
		used[name] = true
	}
	entries, _ := os.ReadDir(c.dir)
	for _, e := range entries {
		ours := strings.HasSuffix(e.Name(), segmentSuffix) || strings.HasPrefix(e.Name(), "manifest-")
		info, err := e.Info()
		if ours && !used[e.Name()] && err == nil && time.Since(info.ModTime()) > orphanAge {
			os.Remove(filepath.Join(c.dir, e.Name()))
		}
	}
}

// forget makes no file count.
func (c *cacheDir) forget() { os.Remove(filepath.Join(c.dir, cacheManifest)) }

// discard forgets everything after a fault in a segment, and removes its file lest
// another process's manifest names it again.
func (c *cacheDir) discard(bad *segment) {
	c.forget()
	if bad.file != "" {
		os.Remove(filepath.Join(c.dir, bad.file))
	}
}
