package repo

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// A cacheDir keeps segments of one repository's index in files, so that opening
// a repository reads only index objects that are new, and memory does not grow
// with it. It is disposable: any fault makes the repository be read instead.
//
// Processes share it without a lock. Segment files have random names and never
// change; manifest.json, replaced by rename, says which of them count and which
// index objects each was made from. When two processes replace it at the same
// time, the later wins, and the files of the other are removed after orphanAge.
// Nothing is synced: pages that a power cut loses fail their checksum.
type cacheDir struct {
	dir string
}

const (
	cacheVersion  = 1
	cacheManifest = "manifest.json"
	segmentSuffix = ".seg"
	orphanAge     = time.Hour
	// flushEntries is how many chunks are indexed in memory before they go to a
	// file: 256 Ki entries are some 10 MiB.
	flushEntries = 256 << 10
)

type manifest struct {
	Version  int             `json:"version"`
	Segments []manifestEntry `json:"segments"`
}

type manifestEntry struct {
	File   string `json:"file"`
	Covers []ID   `json:"covers"`
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
func (c *cacheDir) open(repoID ID, listed map[ID]bool) []*segment {
	var segs []*segment
next:
	for _, e := range c.read().Segments {
		for _, id := range e.Covers {
			if !listed[id] {
				continue next
			}
		}
		if e.File != filepath.Base(e.File) {
			continue
		}
		data, unmap, err := mapFile(filepath.Join(c.dir, e.File))
		if err != nil {
			continue
		}
		s, err := openSegment(data, repoID)
		if err != nil {
			unmap()
			continue
		}
		s.covers, s.close, s.file = e.Covers, unmap, e.File
		segs = append(segs, s)
	}
	return segs
}

// store writes merged into a file, and a manifest of it and the files of keep.
// It returns the mapped file's segment.
func (c *cacheDir) store(repoID ID, merge, keep []*segment) (*segment, error) {
	f, err := os.CreateTemp(c.dir, "*"+segmentSuffix)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	if err := mergeSegments(w, repoID, merge); err != nil {
		os.Remove(f.Name())
		return nil, err
	}
	if err := w.Flush(); err != nil {
		os.Remove(f.Name())
		return nil, err
	}
	data, unmap, err := mapFile(f.Name())
	if err != nil {
		os.Remove(f.Name())
		return nil, err
	}
	s, err := openSegment(data, repoID)
	if err != nil {
		unmap()
		os.Remove(f.Name())
		return nil, err
	}
	s.close, s.file = unmap, filepath.Base(f.Name())
	for _, old := range merge {
		s.covers = append(s.covers, old.covers...)
		s.infos = append(s.infos, old.infos...)
	}
	m := manifest{Version: cacheVersion, Segments: []manifestEntry{{s.file, s.covers}}}
	for _, k := range keep {
		if k.file != "" {
			m.Segments = append(m.Segments, manifestEntry{k.file, k.covers})
		}
	}
	if err := c.write(m); err != nil {
		unmap()
		os.Remove(f.Name())
		return nil, err
	}
	c.clean(m)
	return s, nil
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
	for _, e := range m.Segments {
		used[e.File] = true
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

// discard forgets everything after a fault in a segment, and removes its file lest
// another process's manifest names it again.
func (c *cacheDir) discard(bad *segment) {
	os.Remove(filepath.Join(c.dir, cacheManifest))
	if bad.file != "" {
		os.Remove(filepath.Join(c.dir, bad.file))
	}
}
