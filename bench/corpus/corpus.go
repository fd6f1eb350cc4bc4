// Package corpus writes the tree of files that the benchmark backs up, ages it
// by one day's worth of changes, and patches its disk image.
//
// The tree is made, not collected: no network, no licence, and the same bytes
// from the same [Spec] on every machine. It has to behave like real data where
// backup tools feel it: many small files with a log-normal size distribution,
// text that compresses like source code (3.5 to 4.5 times with zstd -3), few
// exact duplicates, some near copies, and large files of which half the bytes
// do not compress at all.
//
// The package knows nothing of backup tools. Invariants: the content of each
// file depends on the seed and on the file's place in the plan only, never on
// the order or the number of the goroutines that write; every name and every
// size is decided before the first byte is written.
//
// Files: corpus.go (what the tree looks like, writing it), text.go (source
// code and prose), large.go (logs, tables, dumps, images), mutate.go (a day of
// changes, and patched pages).
package corpus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
)

// Shape of the corpus at scale 1, as the project's benchmark defines it.
const (
	smallFiles       = 20_000
	smallDirs        = 2_000
	largeBytes       = 2_000_000_000 // half of it incompressible
	filesPerDirSlack = 1.0           // sigma of the log-normal number of files per directory

	// A log-normal with this median and sigma has a mean of
	// 9,700 * exp(1.3*1.3/2) = 22.6 kB, so 20,000 files are about 450 MB.
	// Sigma 1.3 is what source trees show: half of the files below 10 kB,
	// a few per cent above 100 kB.
	sizeMedianBytes = 9_700
	sizeSigma       = 1.3
	maxSmallBytes   = 1 << 20

	exactCopyShare = 0.02  // vendored twice, left behind
	nearCopyShare  = 0.05  // copied, then edited
	emptyShare     = 0.005 // __init__.py, .gitkeep
	symlinkShare   = 0.005

	maxDepth = 7 // of a directory below its project
)

// Version changes whenever equal specs no longer give the trees they gave
// before, so that a stored corpus of an older version is not taken for one.
const Version = 1

// MaxScale bounds Spec.Scale; beyond it the corpus would not fit the disks
// that the benchmark is meant for.
const MaxScale = 20

// Directories below the root of the corpus.
const (
	SmallDir = "small"
	LargeDir = "large"
)

// epoch is the newest modification time in the corpus. It is fixed, so that
// files are always older than the run that backs them up.
var epoch = time.Date(2025, time.June, 1, 12, 0, 0, 0, time.UTC)

// Spec says which corpus. Equal specs give equal trees.
type Spec struct {
	// Seed selects the content.
	Seed uint64
	// Scale multiplies the number of small files and the size of the large
	// ones: 1 is 20,000 files and 2 GB, 0.05 is enough for a smoke test.
	Scale float64
}

// Stats counts what a tree holds, in files and bytes.
type Stats struct {
	SmallFiles int   `json:"small_files"`
	SmallBytes int64 `json:"small_bytes"`
	Dirs       int   `json:"dirs"`
	Symlinks   int   `json:"symlinks"`
	LargeFiles int   `json:"large_files"`
	LargeBytes int64 `json:"large_bytes"`
}

// Independent streams of random numbers: the second word of a PCG's state. A
// file's own stream is its index plus streamFiles.
const (
	streamModel = iota + 1
	streamPlan
	streamMutate
	streamPatch
	streamLarge = 1 << 20
	streamDirs  = 1 << 30
	streamFiles = 1 << 40
)

func (s Spec) rng(stream uint64) *rand.Rand { return rand.New(rand.NewPCG(s.Seed, stream)) }

func (s Spec) check() error {
	if !(s.Scale > 0 && s.Scale <= MaxScale) {
		return fmt.Errorf("corpus scale %v is not above 0 and at most %d", s.Scale, MaxScale)
	}
	return nil
}

// scaled is n at the spec's scale, never less than least.
func (s Spec) scaled(n, least int) int {
	return max(least, int(math.Round(float64(n)*s.Scale)))
}

// A planDir is a directory of small files; its vocabulary follows from index.
type planDir struct {
	path  string // slash separated, relative to SmallDir
	index uint64
	lang  language
	depth int
	files []*planFile
}

type copyKind int

const (
	original copyKind = iota
	exactCopy
	nearCopy
)

type planFile struct {
	name  string
	index uint64
	size  int
	lang  language
	home  *planDir  // whose vocabulary it speaks
	from  *planFile // for copies: whose content
	kind  copyKind
	link  string // not empty: a symlink to this sibling
}

// plan decides names, sizes and relations of all small files.
func (s Spec) plan() []*planDir {
	r := s.rng(streamPlan)
	dirs := s.planDirs(r)

	// Files fall on directories by weight, so some hold one and some fifty.
	cumulative := make([]float64, len(dirs))
	total := 0.0
	for i := range dirs {
		total += math.Exp(r.NormFloat64() * filesPerDirSlack)
		cumulative[i] = total
	}
	var all []*planFile
	for i := range s.scaled(smallFiles, 10) {
		dir := dirs[pick(cumulative, r.Float64()*total)]
		f := &planFile{index: uint64(i), home: dir, lang: dir.lang}
		if r.IntN(8) == 0 { // every directory has a few notes and settings
			f.lang = [...]language{markdown, jsonText, plain}[r.IntN(3)]
		}
		f.name = fileName(r, f.lang, i)
		f.size = int(sizeMedianBytes * math.Exp(r.NormFloat64()*sizeSigma))
		f.size = min(max(f.size, 32), maxSmallBytes)
		switch x := r.Float64(); {
		case x < emptyShare:
			f.size = 0
		case x < emptyShare+symlinkShare && len(dir.files) > 0:
			f.link = dir.files[r.IntN(len(dir.files))].name
		case x < 0.1 || len(all) < 10:
		case x < 0.1+exactCopyShare+nearCopyShare:
			f.from = all[r.IntN(len(all))]
			if f.from.from != nil || f.from.link != "" || f.from.size == 0 {
				f.from = nil
				break
			}
			f.kind = nearCopy
			if x < 0.1+exactCopyShare {
				f.kind = exactCopy
			}
			f.home, f.lang, f.size = f.from.home, f.from.lang, f.from.size
			f.name = fileName(r, f.lang, i)
		}
		dir.files = append(dir.files, f)
		all = append(all, f)
	}
	return dirs
}

func (s Spec) planDirs(r *rand.Rand) []*planDir {
	n := s.scaled(smallDirs, 3)
	projects := max(1, n/50)
	dirs := make([]*planDir, 0, n)
	taken := map[string]bool{}
	for i := range n {
		d := &planDir{index: uint64(i)}
		if i < projects {
			d.path = stems[r.IntN(len(stems))]
			d.lang = randomLanguage(r)
		} else {
			parent := dirs[r.IntN(len(dirs))]
			for parent.depth >= maxDepth {
				parent = dirs[r.IntN(len(dirs))]
			}
			d.path = parent.path + "/" + stems[r.IntN(len(stems))]
			d.lang, d.depth = parent.lang, parent.depth+1
		}
		if taken[d.path] {
			d.path += "-" + strconv.Itoa(i)
		}
		taken[d.path] = true
		dirs = append(dirs, d)
	}
	return dirs
}

// pick is the first index whose cumulative weight is above x.
func pick(cumulative []float64, x float64) int {
	lo, hi := 0, len(cumulative)-1
	for lo < hi {
		if mid := (lo + hi) / 2; cumulative[mid] > x {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return lo
}

// fileName is unique in the corpus, because it holds the file's number.
func fileName(r *rand.Rand, lang language, index int) string {
	return stems[r.IntN(len(stems))] + "_" + strconv.Itoa(index) + lang.extension()
}

// Generate writes the corpus to root, which must not exist or be empty, and
// returns what it wrote. It uses all processors. After an error the tree is
// incomplete and the caller removes it.
func Generate(ctx context.Context, root string, spec Spec) (Stats, error) {
	if err := spec.check(); err != nil {
		return Stats{}, err
	}
	if err := refuseFull(root); err != nil {
		return Stats{}, err
	}
	if err := os.MkdirAll(filepath.Join(root, LargeDir), 0o755); err != nil {
		return Stats{}, fmt.Errorf("create corpus: %w", err)
	}
	dirs := spec.plan()
	m := newModel(spec)

	// Parents are created in order, before the workers start, so that a
	// directory's mode and existence depend on nothing else.
	for _, d := range dirs {
		if err := os.MkdirAll(filepath.Join(root, SmallDir, filepath.FromSlash(d.path)), 0o755); err != nil {
			return Stats{}, fmt.Errorf("create corpus: %w", err)
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, l := range spec.largeFiles() {
		g.Go(func() error { return spec.writeLarge(ctx, root, m, l) })
	}
	for _, d := range dirs {
		g.Go(func() error { return spec.writeDir(ctx, root, m, d) })
	}
	if err := g.Wait(); err != nil {
		return Stats{}, err
	}
	return Measure(root)
}

func refuseFull(root string) error {
	entries, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("create corpus: %w", err)
	}
	if len(entries) > 0 {
		return fmt.Errorf("create corpus: %s is not empty", root)
	}
	return nil
}

func (s Spec) writeDir(ctx context.Context, root string, m *model, d *planDir) error {
	v := m.voice(s, d)
	var buf []byte
	for _, f := range d.files {
		if err := ctx.Err(); err != nil {
			return err
		}
		path := filepath.Join(root, SmallDir, filepath.FromSlash(d.path), f.name)
		if f.link != "" {
			if err := os.Symlink(f.link, path); err != nil {
				return fmt.Errorf("write corpus: %w", err)
			}
			continue
		}
		buf = s.content(buf[:0], m, v, f)
		if err := writeFile(path, buf, s.modTime(f.index)); err != nil {
			return err
		}
	}
	return nil
}

// content appends the bytes of f to buf. v is the voice of the directory that
// f lies in, which a copy does not speak.
func (s Spec) content(buf []byte, m *model, v *voice, f *planFile) []byte {
	source := f
	if f.from != nil {
		source, v = f.from, m.voice(s, f.home)
	}
	w := &textWriter{buf: buf, r: s.rng(streamFiles + source.index), m: m, v: v}
	w.write(source.lang, source.size)
	if f.kind == nearCopy {
		return w.edit(s.rng(streamFiles+f.index), source.lang)
	}
	return w.buf
}

// modTime spreads the files over the three years before epoch.
func (s Spec) modTime(index uint64) time.Time {
	r := s.rng(streamFiles - 1 - index)
	return epoch.Add(-time.Duration(r.Int64N(int64(3 * 365 * 24 * time.Hour))))
}

func writeFile(path string, content []byte, modTime time.Time) error {
	if err := os.WriteFile(path, content, 0o644); err != nil {
		return fmt.Errorf("write corpus: %w", err)
	}
	if err := os.Chtimes(path, modTime, modTime); err != nil {
		return fmt.Errorf("write corpus: %w", err)
	}
	return nil
}

// Measure counts the files and bytes of a corpus.
func Measure(root string) (Stats, error) {
	var st Stats
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			st.Dirs++
			return nil
		}
		if d.Type()&fs.ModeSymlink != 0 {
			st.Symlinks++
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if filepath.Base(filepath.Dir(path)) == LargeDir && filepath.Dir(filepath.Dir(path)) == filepath.Clean(root) {
			st.LargeFiles++
			st.LargeBytes += info.Size()
		} else {
			st.SmallFiles++
			st.SmallBytes += info.Size()
		}
		return nil
	})
	if err != nil {
		return Stats{}, fmt.Errorf("measure corpus: %w", err)
	}
	return st, nil
}

// endLine makes content end in a line end, as text files do.
func endLine(content []byte) []byte {
	if n := len(content); n > 0 && !bytes.HasSuffix(content, []byte{'\n'}) {
		content[n-1] = '\n'
	}
	return content
}
