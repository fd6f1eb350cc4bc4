// Package filestest makes trees that hold every kind of file, for tests of what
// reads and restores file systems.
//
// Trees are deterministic: the same names, contents, times and attributes on
// each run, whatever the machine, but for what the notes of Generate list.
//
// filestest.go: Generate and Mutate. generate_linux.go: what only Linux has;
// generate_other.go: the notes of other platforms.
package filestest

import (
	"fmt"
	"hash/fnv"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// epoch is the time about which modification times are set.
var epoch = time.Date(2021, 3, 4, 5, 6, 7, 0, time.UTC)

// maxPathBytes is PATH_MAX of Linux. What lies deeper is given its times where
// it is made.
const maxPathBytes = 4096

// Generate fills the empty directory dir with files of every kind that the
// platform, the file system and the user's rights allow. The notes say what
// could not be made, and why. What would hinder removing the tree (immutable
// files, unreadable directories) is undone when the test ends.
//
// Its directories: plain, sparse (one file of more than 4 GiB, nearly all
// hole), dirs, links, hardlinks, special, names, modes, owners, times, xattrs,
// flags.
func Generate(t testing.TB, dir string) (notes []string) {
	t.Helper()
	g := &generator{t: t, dir: dir}
	g.plain()
	g.dirs()
	g.links()
	g.names()
	g.platform()
	g.times()
	g.finish()
	return g.notes
}

type generator struct {
	t     testing.TB
	dir   string
	notes []string
}

func (g *generator) path(rel string) string { return filepath.Join(g.dir, filepath.FromSlash(rel)) }

// made fails the test on an error; could notes it.
func (g *generator) made(err error) {
	g.t.Helper()
	if err != nil {
		g.t.Fatalf("generate: %v", err)
	}
}

func (g *generator) could(what string, err error) bool {
	if err != nil {
		g.notes = append(g.notes, fmt.Sprintf("%s: %v", what, err))
	}
	return err == nil
}

func (g *generator) mkdir(rel string) { g.t.Helper(); g.made(os.MkdirAll(g.path(rel), 0o755)) }

func (g *generator) write(rel string, data []byte) {
	g.t.Helper()
	g.made(os.MkdirAll(filepath.Dir(g.path(rel)), 0o755))
	g.made(os.WriteFile(g.path(rel), data, 0o644))
}

// Bytes returns n bytes that depend on name only and do not compress.
func Bytes(name string, n int) []byte {
	h := fnv.New64a()
	h.Write([]byte(name))
	rng := rand.NewChaCha8([32]byte(fmt.Appendf(nil, "filestest%023x", h.Sum64())))
	b := make([]byte, n)
	rng.Read(b)
	return b
}

func (g *generator) plain() {
	for _, n := range []int{0, 1, 2, 511, 512, 513, 4095, 4096, 4097, 65535, 65536, 1 << 20, 1<<20 + 1, 5_000_001} {
		g.write(fmt.Sprintf("plain/%07d", n), Bytes(fmt.Sprint(n), n))
	}
	g.write("plain/zeros", make([]byte, 300_000))
	g.write("plain/text", []byte(strings.Repeat("the quick brown fox jumps over the lazy dog\n", 5000)))
	g.write("plain/same-1", Bytes("same", 100_000))
	g.write("plain/same-2", Bytes("same", 100_000))
	for i := range 200 {
		g.write(fmt.Sprintf("plain/many/%d/%03d", i%7, i), Bytes(fmt.Sprint("many", i), i*13))
	}
}

func (g *generator) dirs() {
	g.mkdir("dirs/empty")
	g.mkdir("dirs/nested/empty/dirs")
	rel := "dirs/levels"
	for i := range 40 {
		rel += fmt.Sprintf("/%d", i)
	}
	g.write(rel+"/bottom", []byte("bottom"))
}

func (g *generator) links() {
	g.write("links/target", []byte("target"))
	g.write("links/dir/inside", []byte("inside"))
	for name, to := range map[string]string{
		"relative": "target",
		"dangling": "no/such/file",
		"absolute": filepath.Join(string(filepath.Separator), "etc", "hostname"),
		"to-dir":   "dir",
		"up":       "..",
		"dot":      ".",
		"loop":     "loop",
		"loop-a":   "loop-b",
		"loop-b":   "loop-a",
		"through":  "to-dir/inside",
	} {
		if !g.could("symlink "+name, os.Symlink(to, g.path("links/"+name))) {
			return // the platform or the user may not make any
		}
	}
}

// names are such that some platforms or file systems refuse some.
func (g *generator) names() {
	g.mkdir("names")
	for _, name := range []string{
		"[x]*.txt", "x.txt", "?", "*", "~", "$HOME", "`id`", "'quote\"", "semi;colon", "a&b", "back\\slash",
		"-leading-dash", "--help", ".hidden", "..more", "...", " leading space", "trailing space ",
		"trailing dot.", "new\nline", "tab\there", "carriage\rreturn", "\x01control\x7f", "\x1b[31mred",
		"100%s%d%n", "colon:name", "con", "NUL.txt", "UPPER", "upper",
		"latin1-\xe4\xf6\xfc", "\xff\xfe", "cut-\xe2\x82", "overlong-\xc0\xaf", "surrogate-\xed\xa0\x80",
		"nfc-\u00e9", "nfd-e\u0301", "\u65e5\u672c\u8a9e", "\u202eright-to-left", "\U0001f600", "\ufeffbom",
		strings.Repeat("n", 255), strings.Repeat("\u00e9", 127),
	} {
		f, err := os.OpenFile(g.path("names/")+string(filepath.Separator)+name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if err == nil {
			_, err = f.WriteString(name)
			if cerr := f.Close(); err == nil {
				err = cerr
			}
		}
		g.could(fmt.Sprintf("name %q", name), err)
	}
	g.could(`directory "[d]*"`, os.Mkdir(g.path("names/")+string(filepath.Separator)+"[d]*", 0o755))
	g.could("directory of bytes", os.Mkdir(g.path("names/")+string(filepath.Separator)+"dir\xff\n", 0o755))
}

// times makes files whose times are at the ends of what file systems keep, and
// then gives everything a time that is not now, the deepest entries first.
func (g *generator) times() {
	for name := range extremeTimes {
		g.write("times/"+name, []byte(name))
	}
	var all []string
	g.made(filepath.WalkDir(g.dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return fs.SkipDir // deeper than a path can say
		}
		if len(p) < maxPathBytes {
			all = append(all, p)
		}
		return nil
	}))
	slices.Reverse(all)
	for i, p := range all {
		at := epoch.Add(time.Duration(i)*time.Hour + time.Duration(i)*1_234_567)
		g.made(setTime(p, at))
	}
	for name, at := range extremeTimes {
		p := g.path("times/" + name)
		g.made(setTime(p, at))
		if fi, err := os.Stat(p); err != nil || !fi.ModTime().Equal(at) {
			g.notes = append(g.notes, fmt.Sprintf("time %s: the file system made %v of it", at.Format(time.RFC3339Nano), fi.ModTime().UTC()))
		}
	}
	g.made(setTime(g.path("times"), epoch))
}

var extremeTimes = map[string]time.Time{
	"1901":        time.Date(1901, 12, 14, 0, 0, 0, 1, time.UTC),
	"before-zero": time.Date(1969, 12, 31, 23, 59, 59, 999_999_999, time.UTC),
	"zero":        time.Unix(0, 0),
	"2038":        time.Date(2038, 1, 19, 3, 14, 8, 0, time.UTC),
	"2150":        time.Date(2150, 6, 7, 8, 9, 10, 123_456_789, time.UTC),
	"nanoseconds": time.Date(2020, 2, 29, 12, 0, 0, 1, time.UTC),
}

// Mutate changes about one file in a hundred of the tree at dir, and at least
// one in each of its ways: rewritten, grown, shortened, touched, another mode,
// removed, renamed, replaced by a directory; and adds one. The choice depends
// on the names and on seed. It leaves alone what is under a directory named
// flags or sparse, and returns what it did, sorted: "rewrite plain/text".
func Mutate(t testing.TB, dir string, seed uint64) (changes []string) {
	t.Helper()
	var files []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return fs.SkipDir // deeper than a path can say, or not readable
		}
		if d.IsDir() && (d.Name() == "flags" || d.Name() == "sparse") {
			return fs.SkipDir
		}
		if d.Type().IsRegular() && len(p) < maxPathBytes {
			files = append(files, p)
		}
		return nil
	})
	if err != nil {
		t.Fatalf("mutate: %v", err)
	}
	order := map[string]uint64{}
	for _, p := range files {
		h := fnv.New64a()
		fmt.Fprintf(h, "%d %s", seed, p[len(dir):])
		x := h.Sum64() // FNV's high bits say little about the last bytes
		x = (x ^ x>>31) * 0x9e3779b97f4a7c15
		order[p] = x ^ x>>32
	}
	slices.SortFunc(files, func(a, b string) int {
		switch {
		case order[a] < order[b]:
			return -1
		case order[a] > order[b]:
			return 1
		}
		return strings.Compare(a, b)
	})
	ways := []struct {
		name string
		do   func(p string) error
	}{
		{"rewrite", func(p string) error { return rewrite(p, seed, 0) }},
		{"grow", func(p string) error { return rewrite(p, seed, 1000) }},
		{"shorten", func(p string) error {
			fi, err := os.Stat(p)
			if err != nil {
				return err
			}
			return os.Truncate(p, fi.Size()/2)
		}},
		{"touch", func(p string) error { return nil }},
		{"chmod", func(p string) error { return os.Chmod(p, 0o600) }},
		{"remove", os.Remove},
		{"rename", func(p string) error {
			return os.Rename(p, p[:len(p)-len(filepath.Base(p))]+"renamed-"+fmt.Sprint(order[p]))
		}},
		{"replace", func(p string) error {
			if err := os.Remove(p); err != nil {
				return err
			}
			if err := os.Mkdir(p, 0o755); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(p, "inside"), Bytes(p[len(dir):], 100), 0o644)
		}},
	}
	want := min(len(files), max(len(files)/100, len(ways)))
	for i, p := range files[:want] {
		w := ways[i%len(ways)]
		if err := w.do(p); err != nil {
			t.Fatalf("mutate: %s %q: %v", w.name, p, err)
		}
		if w.name != "remove" && w.name != "rename" && w.name != "replace" {
			if err := setTime(p, epoch.Add(time.Duration(seed%1_000_000+1)*time.Second)); err != nil {
				t.Fatalf("mutate: %v", err)
			}
		}
		changes = append(changes, w.name+" "+filepath.ToSlash(p[len(dir)+1:]))
	}
	added := filepath.Join(dir, fmt.Sprintf("added-%d", seed))
	if err := os.WriteFile(added, Bytes(added[len(dir):], 12_345), 0o644); err != nil {
		t.Fatalf("mutate: %v", err)
	}
	changes = append(changes, "add "+filepath.Base(added))
	slices.Sort(changes)
	return changes
}

// rewrite overwrites a few bytes in the middle of a file, in place, and appends
// more.
func rewrite(p string, seed uint64, more int) error {
	f, err := os.OpenFile(p, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if n := min(fi.Size(), 100); n > 0 {
		if _, err := f.WriteAt(Bytes(fmt.Sprint("rewrite", seed), int(n)), (fi.Size()-n)/2); err != nil {
			return err
		}
	}
	_, err = f.WriteAt(Bytes(fmt.Sprint("grow", seed), more), fi.Size())
	return err
}
