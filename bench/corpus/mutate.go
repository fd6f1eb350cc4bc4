package corpus

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
)

const (
	changedShare = 0.01 // of the small files

	// What happens to a changed file, in per cent.
	editPercent   = 40
	appendPercent = 20
	addPercent    = 15
	renamePercent = 15 // the rest is deleted

	headInsert    = "0123456789" // shifts every following byte of the dump
	patchedPages  = 400          // writes to the image, at scale 1
	maxAddedBytes = 64 << 10
)

// Changes counts what Mutate did.
type Changes struct {
	Edited   int `json:"edited"`
	Appended int `json:"appended"`
	Added    int `json:"added"`
	Renamed  int `json:"renamed"`
	Deleted  int `json:"deleted"`
}

// Mutate ages a fresh corpus by one day: 1 % of its small files are edited,
// appended to, added, renamed or deleted, and ten bytes are inserted at the head
// of one large file. Content is decided by the spec alone; modification times
// are those of the change. Applied twice, it changes the tree twice.
func Mutate(root string, spec Spec) (Changes, error) {
	if err := spec.check(); err != nil {
		return Changes{}, err
	}
	paths, err := regularFiles(filepath.Join(root, SmallDir))
	if err != nil {
		return Changes{}, fmt.Errorf("change corpus: %w", err)
	}
	w := spec.changeWriter(streamMutate)
	w.r.Shuffle(len(paths), func(i, j int) { paths[i], paths[j] = paths[j], paths[i] })

	var done Changes
	for i, path := range paths[:min(len(paths), max(10, int(float64(len(paths))*changedShare)))] {
		// Round robin over the shares, so that small corpora see every kind.
		if err := change(w, path, i*37%100, &done); err != nil {
			return done, fmt.Errorf("change corpus: %w", err)
		}
	}
	if err := insertHead(filepath.Join(root, filepath.FromSlash(dumpFile)), headInsert); err != nil {
		return done, fmt.Errorf("change corpus: %w", err)
	}
	return done, nil
}

// PatchPages overwrites scattered 4 KiB pages of the disk image in place, as
// databases and virtual machines do, and returns how often it did. Every page
// costs a tool a whole chunk, whatever its change detection: this is kept apart
// from Mutate, whose cost it would hide.
func PatchPages(root string, spec Spec) (pages int, err error) {
	if err := spec.check(); err != nil {
		return 0, err
	}
	pages = spec.scaled(patchedPages, 3)
	w := spec.changeWriter(streamPatch)
	if err := patchPages(filepath.Join(root, filepath.FromSlash(imageFile)), w, pages); err != nil {
		return 0, fmt.Errorf("patch corpus: %w", err)
	}
	return pages, nil
}

// changeWriter writes what changes bring, in a voice of their own.
func (s Spec) changeWriter(stream uint64) *textWriter {
	m := newModel(s)
	return &textWriter{m: m, r: s.rng(stream), v: m.voice(s, &planDir{path: "changes", index: 1 << 21})}
}

func regularFiles(root string) ([]string, error) {
	var paths []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			paths = append(paths, path)
		}
		return err
	})
	return paths, err
}

func change(w *textWriter, path string, percent int, done *Changes) error {
	switch {
	case percent < editPercent:
		done.Edited++
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(path, w.splice(content), 0o644)
	case percent < editPercent+appendPercent:
		done.Appended++
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return err
		}
		_, err = f.Write(w.lines())
		return errors.Join(err, f.Close())
	case percent < editPercent+appendPercent+addPercent:
		done.Added++
		w.buf = w.buf[:0]
		w.write(golang, 512+w.r.IntN(maxAddedBytes))
		return os.WriteFile(path+".new.go", w.buf, 0o644)
	case percent < editPercent+appendPercent+addPercent+renamePercent:
		done.Renamed++
		return os.Rename(path, path+".renamed")
	default:
		done.Deleted++
		return os.Remove(path)
	}
}

// lines is a handful of new lines, valid until the next call.
func (w *textWriter) lines() []byte {
	w.buf = w.buf[:0]
	for range 1 + w.r.IntN(8) {
		w.expand(goLines[w.r.IntN(len(goLines))])
	}
	return w.buf
}

// splice puts new lines somewhere into content, or at its end if it is tiny.
func (w *textWriter) splice(content []byte) []byte {
	at := w.r.IntN(len(content) + 1)
	inserted := w.lines()
	out := make([]byte, 0, len(content)+len(inserted))
	out = append(append(out, content[:at]...), inserted...)
	return append(out, content[at:]...)
}

// insertHead rewrites a file with prefix before its content, through a
// neighbour and a rename, as editors and log rotation do.
func insertHead(path, prefix string) error {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	beside := path + ".tmp"
	out, err := os.OpenFile(beside, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	buffered := bufio.NewWriterSize(out, 1<<20)
	if _, err := buffered.WriteString(prefix); err != nil {
		return err
	}
	if _, err := io.Copy(buffered, in); err != nil {
		return err
	}
	if err := buffered.Flush(); err != nil {
		return err
	}
	if err := out.Close(); err != nil {
		return err
	}
	in.Close() // Windows does not rename over an open file
	return os.Rename(beside, path)
}

// patchPages overwrites n pages of a file in place, as a running machine does
// with its disk.
func patchPages(path string, w *textWriter, n int) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	pages := info.Size() / pageBytes
	for range n {
		w.buf = w.buf[:0]
		w.write(randomLanguage(w.r), pageBytes)
		if _, err := f.WriteAt(w.buf, w.r.Int64N(pages)*pageBytes); err != nil {
			return err
		}
	}
	return f.Close()
}

func randomLanguage(r *rand.Rand) language { return codeLanguages[r.IntN(len(codeLanguages))] }
