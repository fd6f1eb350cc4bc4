package job

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

func TestListForm(t *testing.T) {
	entries := []ListEntry{
		{"/z", sha256.Sum256([]byte("z"))}, {"/a b *c", sha256.Sum256(nil)}, {"/line\nend", sha256.Sum256([]byte("1"))},
		{`/back\slash`, sha256.Sum256([]byte("2"))}, {"/return\r", sha256.Sum256([]byte("3"))}, {"/\xff\xfe", sha256.Sum256([]byte("4"))},
	}
	data := formatList(slices.Clone(entries))
	got, err := parseList(data)
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(entries, func(a, b ListEntry) int { return strings.Compare(a.Path, b.Path) })
	if !slices.Equal(got, entries) {
		t.Errorf("got %q", got)
	}
	for _, bad := range []string{"x", "zz *a\n", strings.Repeat("0", 64) + "a\n", strings.Repeat("0", 62) + " *a\n", strings.Repeat("0", 64) + " *\n", strings.Repeat("0", 64) + " -a\n"} {
		if _, err := parseList([]byte(bad)); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func FuzzParseList(f *testing.F) {
	f.Add(formatList([]ListEntry{{"/a\nb", sha256.Sum256(nil)}, {"/c", sha256.Sum256(nil)}}))
	f.Add([]byte(`\` + strings.Repeat("0", 64) + ` *a\\b\r`))
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, err := parseList(data)
		if err != nil {
			return
		}
		again, err := parseList(formatList(slices.Clone(entries)))
		if err != nil || len(again) != len(entries) {
			t.Fatalf("%d entries, then %d, %v", len(entries), len(again), err)
		}
	})
}

// TestSampler: every file has the same chance, and one that was unstable none.
func TestSampler(t *testing.T) {
	const files, size, rounds = 20, 5, 4000
	count := make([]int, files)
	for range rounds {
		s := newSampler(size)
		for i := range files {
			s.add(fmt.Sprint(i), &tree.Node{Size: int64(i)})
		}
		s.add("unstable", &tree.Node{Unstable: true, Size: -1})
		if len(s.picks) != size {
			t.Fatalf("%d picks", len(s.picks))
		}
		for _, p := range s.picks {
			count[p.size]++
		}
	}
	for i, n := range count { // 1000 expected; the standard deviation is 27
		if n < 800 || n > 1200 {
			t.Errorf("file %d was chosen %d times of %d", i, n, rounds)
		}
	}
}

// TestLists: what a backup notes is what sha256sum reads in the source; what has changed
// meanwhile, or is no file any more, is left out.
func TestLists(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("compares with sha256sum")
	}
	src := t.TempDir()
	at := func(name string) string { return filepath.Join(src, name) }
	s := newSampler(100)
	for _, name := range []string{"plain", "with space", "back\\slash", "line\nend", "changed", "grown", "gone", "link", "fifo"} {
		write(t, at(name), "content of "+name)
		info, err := os.Lstat(at(name))
		if err != nil {
			t.Fatal(err)
		}
		m := info.ModTime()
		s.add(at(name), &tree.Node{Size: info.Size(), MTime: tree.Time{Sec: m.Unix(), Nsec: uint32(m.Nanosecond())}})
	}
	write(t, at("changed"), "CONTENT of changed")
	if err := os.Chtimes(at("changed"), time.Time{}, time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	write(t, at("grown"), "content of grown, and more")
	for _, name := range []string{"gone", "link", "fifo"} {
		if err := os.Remove(at(name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(at("plain"), at("link")); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfifo", at("fifo")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	l := Lists{Dir: filepath.Join(t.TempDir(), "lists")}
	id := repo.NewID()
	if err := l.write(t.Context(), id, s); err != nil {
		t.Fatal(err)
	}
	got, err := l.Read(id)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{at("back\\slash"), at("line\nend"), at("plain"), at("with space")}
	if len(got) != len(want) {
		t.Errorf("%d entries", len(got))
	}
	for i, e := range got {
		if e.Path != want[i] {
			t.Errorf("entry %d is %q, want %q", i, e.Path, want[i])
		}
	}
	if out, err := exec.Command("sha256sum", "--check", "--strict", l.file(id)).CombinedOutput(); err != nil {
		t.Errorf("sha256sum: %v: %s", err, out)
	}
	if info, err := os.Stat(l.file(id)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if _, err := l.Read(repo.NewID()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no list: %v", err)
	}
}

func TestKeepNewest(t *testing.T) {
	dir := t.TempDir()
	for i := range 10 {
		name := write(t, filepath.Join(dir, fmt.Sprintf("%d.x", i)), "")
		when := time.Unix(int64(1000*i), 0)
		if err := os.Chtimes(name, when, when); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(dir, "other"), "")
	if err := keepNewest(dir, ".x", 3); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range left {
		names = append(names, e.Name())
	}
	if want := []string{"7.x", "8.x", "9.x", "other"}; !slices.Equal(names, want) {
		t.Errorf("left: %q, want %q", names, want)
	}
}

// signer signs as a repository with this key does.
func signer(key string) func([]byte) [32]byte {
	return func(b []byte) [32]byte { return sha256.Sum256(append([]byte(key), b...)) }
}

// TestReports: each change of a report but that of space is found.
func TestReports(t *testing.T) {
	r := Reports{Dir: filepath.Join(t.TempDir(), "drills")}
	mine, other := repo.NewID(), repo.NewID()
	if name, err := r.Last(mine); name != "" || err != nil {
		t.Errorf("%q, %v", name, err)
	}
	rep := &DrillReport{Time: time.Date(2026, 11, 26, 4, 30, 0, 0, time.UTC), RepositoryID: mine, Snapshot: repo.NewID(), Seed: 1<<64 - 1, Passed: true,
		Differences: []DrillProblem{{tree.Path("/\xff<&>\n"), "text"}}}
	var names []string
	rep.Snapshot = id("ffff")
	for _, change := range []func(){func() {}, func() {}, func() {
		rep.Time, rep.Snapshot = rep.Time.Add(10*time.Millisecond), id("0000")
	}, func() { rep.RepositoryID = other }} {
		change()
		name, sum, err := r.Write(rep, signer("key"))
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(name)
		if err != nil || sha256.Sum256(data) != sum {
			t.Errorf("%v, or another SHA-256", err)
		}
		names = append(names, name)
	}
	if len(slices.Compact(slices.Sorted(slices.Values(names)))) != 4 {
		t.Errorf("a report took the place of another: %q", names)
	}
	last, err := r.Last(mine)
	if err != nil || last != names[2] {
		t.Errorf("the last is %s, %v", last, err)
	}
	s, err := ReadReport(last)
	if err != nil || s.Report.Differences[0] != rep.Differences[0] || s.Report.Seed != rep.Seed {
		t.Fatalf("%+v, %v", s, err)
	}
	if err := s.Check(signer("key")); err != nil {
		t.Error(err)
	}
	if err := s.Check(signer("another key")); !errors.Is(err, ErrReport) {
		t.Errorf("another key: %v", err)
	}
	data, err := os.ReadFile(last)
	if err != nil {
		t.Fatal(err)
	}
	check := func(data []byte) error {
		var s SignedReport
		if err := s.parse(data); err != nil {
			return err
		}
		return s.Check(signer("key"))
	}
	if err := check(bytes.ReplaceAll(data, []byte(`,"`), []byte(",\n  \""))); err != nil {
		t.Errorf("spaces: %v", err)
	}
	for _, change := range [][2]string{{`"passed":true`, `"passed":false`}, {`"files":0`, `"files":1`}, {`{"report":{`, `{"report":{"x":1,`}, {`"hmac_sha256":"`, `"hmac_sha256":"0`}} {
		changed := bytes.Replace(data, []byte(change[0]), []byte(change[1]), 1)
		if err := check(changed); err == nil || bytes.Equal(changed, data) {
			t.Errorf("%s: no error", change[1])
		}
	}
}

func FuzzParseReport(f *testing.F) {
	f.Add([]byte(`{"report":{"passed":true},"hmac_sha256":"` + strings.Repeat("00", 32) + `"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var s SignedReport
		if s.parse(data) == nil && s.Check(signer("key")) == nil {
			t.Fatal("signed by chance")
		}
	})
}

// TestChoose: a sample has the size that was asked for, half of it from the list where
// there are as many, and the same seed chooses the same.
func TestChoose(t *testing.T) {
	b := newBench(t)
	for _, name := range []string{"other", "sub"} {
		if err := os.RemoveAll(filepath.Join(b.src, name)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 30 {
		write(t, filepath.Join(b.src, fmt.Sprint(i%3), fmt.Sprint(i)), "x")
	}
	a := access(t, off, AccessOptions{})
	o := b.options("repo")
	o.ListFiles, o.Lists = 1000, Lists{Dir: b.place("lists")}
	res, err := Backup(t.Context(), a, o)
	if err != nil {
		t.Fatal(err)
	}
	all, err := o.Lists.Read(res.Snapshot.ID)
	if err != nil || len(all) != 30 {
		t.Fatalf("a list of %d files, %v", len(all), err)
	}
	d := b.loaded(a, "repo")
	for _, tt := range []struct{ listed, sample, want, fromList int }{
		{0, 10, 10, 0}, {4, 10, 10, 4}, {20, 10, 10, 5}, {20, 9, 9, 5}, {30, 10, 10, 10}, {30, 100, 30, 30}, {28, 10, 10, 8}, {3, 1, 1, 1},
	} {
		list := all[:tt.listed]
		pick := func(seed uint64) []string {
			c, err := choose(t.Context(), d.Repo, &DrillOptions{Snapshot: res.Snapshot, Sample: tt.sample, Seed: seed}, list, &DrillReport{})
			if err != nil {
				t.Fatal(err)
			}
			names := slices.Sorted(maps.Keys(c.files))
			if c.bytes != int64(len(names)) {
				t.Errorf("%+v: %d bytes", tt, c.bytes)
			}
			return names
		}
		got := pick(1)
		fromList := 0
		for _, e := range list {
			if slices.Contains(got, e.Path) {
				fromList++
			}
		}
		if len(got) != tt.want || fromList != tt.fromList {
			t.Errorf("%+v: %d files, %d from the list", tt, len(got), fromList)
		}
		if !slices.Equal(got, pick(1)) {
			t.Errorf("%+v: the same seed chooses other files", tt)
		}
	}
}
