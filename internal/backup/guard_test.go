package backup

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/guard"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// A machine is a source that lives: directories of files, by their paths.
type machine struct {
	rnd  *rand.Rand
	dirs map[string]map[string]*fake
	born int
}

func newMachine(seed uint64) *machine {
	m := &machine{rnd: rand.New(rand.NewPCG(seed, 77)), dirs: map[string]map[string]*fake{}}
	for i := range 10 {
		m.fill(fmt.Sprintf("letters-%d", i), 30, m.text, "%03d.txt", "%03d.md")
		m.fill(fmt.Sprintf("office-%d", i), 20, m.zip, "report-%03d.docx", "sheet-%03d.xlsx")
	}
	for i := range 4 {
		m.fill(fmt.Sprintf("photos-%d", i), 40, m.photo, "IMG_%04d.JPG")
		m.fill(fmt.Sprintf("tables-%d", i), 25, m.text, "%03d.csv")
	}
	for i := range 8 {
		m.fill(fmt.Sprintf("usr-lib-%d", i), 40, m.program, "lib%03d.so.1", "tool%03d")
		m.fill(fmt.Sprintf("usr-doc-%d", i), 15, m.text, "README%02d")
	}
	m.fill("checkout", 150, m.text, "src%03d.go")
	m.fill("checkout-objects", 150, m.zlib, "%038x")
	m.fill("vault", 40, m.noise, "%016x")
	m.fill("cache", 150, m.cached, "%032x")
	m.fill("secrets", 25, m.noise, "%03d.gpg")
	m.fill("logs", 6, m.text, "%02d.log")
	m.fill("databases", 4, m.database, "%02d.sqlite")
	return m
}

func (m *machine) fill(dir string, n int, content func() []byte, names ...string) {
	if m.dirs[dir] == nil {
		m.dirs[dir] = map[string]*fake{}
	}
	for i := range n {
		m.born++
		m.put(dir, fmt.Sprintf(names[i%len(names)], m.born), content())
	}
}

func (m *machine) put(dir, name string, data []byte) { m.dirs[dir][name] = file(name, data) }

// edit writes a file as an editor does: in place or, half of the time, beside it.
func (m *machine) edit(dir, name string, data []byte) {
	f := m.dirs[dir][name]
	n := file(name, data)
	if m.rnd.IntN(2) == 0 {
		n.node.Inode = f.node.Inode
	}
	n.node.MTime.Sec, n.node.CTime.Sec = f.node.MTime.Sec+86400, f.node.CTime.Sec+86400
	m.dirs[dir][name] = n
}

func (m *machine) rename(dir, old, dir2, name string) {
	f := m.dirs[dir][old]
	delete(m.dirs[dir], old)
	n := file(name, f.data)
	n.node.Inode = f.node.Inode
	m.dirs[dir2][name] = n
}

func (m *machine) size() int { return 600 + int(min(6000, 1500*m.rnd.ExpFloat64())) }

func (m *machine) bytes(n int) []byte { return bytesOf(m.rnd.IntN(1<<60)+1, n) }

func (m *machine) text() []byte  { return words(m.rnd.IntN(1<<30), m.size()) }
func (m *machine) noise() []byte { return m.bytes(m.size()) }
func (m *machine) photo() []byte { return append([]byte("\xff\xd8\xff\xe1"), m.bytes(2*m.size())...) }
func (m *machine) zip() []byte   { return append([]byte("PK\x03\x04\x14\x00"), m.bytes(m.size())...) }
func (m *machine) zlib() []byte  { return append([]byte("x\x01"), m.bytes(m.size())...) }
func (m *machine) gzip() []byte  { return append([]byte("\x1f\x8b\x08\x00"), m.bytes(m.size())...) }
func (m *machine) database() []byte {
	return append([]byte("SQLite format 3\x00"), words(m.rnd.IntN(1<<30), 40_000)...)
}
func (m *machine) program() []byte {
	return slices.Concat([]byte("\x7fELF\x02\x01"), words(m.rnd.IntN(1<<30), m.size()), m.bytes(300))
}

// cached is what browsers keep: mostly compressed without a header, as brotli is.
func (m *machine) cached() []byte {
	switch m.rnd.IntN(4) {
	case 0:
		return m.photo()
	case 1:
		return m.text()
	}
	return m.noise()
}

// A place is where a file is.
type place struct{ dir, name string }

// some are n random files of the directories whose name begins so.
func (m *machine) some(n int, prefix string) []place {
	var all []place
	for _, dir := range slices.Sorted(maps.Keys(m.dirs)) {
		if strings.HasPrefix(dir, prefix) {
			for _, name := range slices.Sorted(maps.Keys(m.dirs[dir])) {
				all = append(all, place{dir, name})
			}
		}
	}
	m.rnd.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all[:min(n, len(all))]
}

func (m *machine) files() (n int) {
	for _, d := range m.dirs {
		n += len(d)
	}
	return n
}

// live passes a day, and says what was special about it.
func (m *machine) live(day int) string {
	r := m.rnd
	edit := func(n int, prefix string, content func() []byte) {
		for _, p := range m.some(n, prefix) {
			m.edit(p.dir, p.name, content())
		}
	}
	edit(r.IntN(25), "letters", m.text)
	edit(r.IntN(10), "office", m.zip)
	edit(2, "databases", m.database)
	edit(6, "logs", m.text)
	edit(r.IntN(8), "vault", m.noise)
	m.fill("vault", r.IntN(2), m.noise, "%016x")
	m.fill(fmt.Sprintf("letters-%d", r.IntN(10)), r.IntN(8), m.text, "%03d.txt")
	for _, p := range m.some(20+r.IntN(20), "cache") {
		delete(m.dirs[p.dir], p.name)
	}
	m.fill("cache", 20+r.IntN(20), m.cached, "%032x")
	for _, p := range m.some(r.IntN(4), "letters") {
		delete(m.dirs[p.dir], p.name)
	}
	for i := range 3 { // log rotation: 00.log, 00.log.1, 00.log.2.gz
		name := fmt.Sprintf("%02d.log", i)
		for age := 4; age >= 2; age-- {
			if m.dirs["logs"][fmt.Sprintf("%s.%d.gz", name, age)] != nil {
				m.rename("logs", fmt.Sprintf("%s.%d.gz", name, age), "logs", fmt.Sprintf("%s.%d.gz", name, age+1))
			}
		}
		delete(m.dirs["logs"], name+".1")
		m.put("logs", name+".2.gz", m.gzip())
		m.put("logs", name+".1", m.text())
	}
	switch day % 30 {
	case 2, 9, 16, 23:
		edit(20+r.IntN(100), "checkout", m.text)
		m.fill("checkout-objects", 20, m.zlib, "%038x")
		return "checkout of another branch"
	case 4:
		m.fill(fmt.Sprintf("photos-%d", 10+day), 150, m.photo, "DSC_%05d.JPG")
		return "import of photos"
	case 6:
		for _, p := range m.some(40, "tables") {
			if strings.HasSuffix(p.name, ".csv") {
				delete(m.dirs[p.dir], p.name)
				m.put(p.dir, p.name+".gz", m.gzip())
			}
		}
		m.fill("tables-0", 40, m.text, "%03d.csv")
		return "tables are compressed"
	case 11:
		from := fmt.Sprintf("letters-%d", r.IntN(10))
		to := fmt.Sprintf("letters-of-%d", day)
		m.dirs[to] = map[string]*fake{}
		for name := range m.dirs[from] {
			m.rename(from, name, to, name)
		}
		return "a directory gets another name"
	case 13:
		for _, p := range m.some(1<<20, "usr") {
			switch r.IntN(10) {
			case 0:
				delete(m.dirs[p.dir], p.name)
				m.put(p.dir, "new-"+p.name, m.program())
			case 1, 2, 3, 4, 5, 6, 7:
				m.edit(p.dir, p.name, m.program())
			}
		}
		return "a large upgrade"
	case 18:
		for _, d := range m.dirs {
			for _, f := range d {
				f.node.CTime.Sec++
			}
		}
		return "chown -R"
	case 21:
		edit(1<<20, "usr-doc", m.text)
		edit(1<<20, "cache", m.cached)
		return "documentation and cache are made anew"
	case 25:
		for _, p := range m.some(60, fmt.Sprintf("letters-%d", r.IntN(10))) {
			delete(m.dirs[p.dir], p.name)
		}
		return "a directory is deleted"
	case 27:
		for _, p := range m.some(4, "letters") {
			delete(m.dirs[p.dir], p.name)
			m.put(p.dir, p.name+".gpg", m.noise())
		}
		return "some letters are encrypted by their owner"
	case 29:
		edit(1<<20, "secrets", m.noise)
		return "secrets are encrypted anew"
	}
	return ""
}

// An attack encrypts a file; the names are as the kinds of ransomware leave them.
type attack struct {
	name string
	do   func(m *machine, p place)
	// within is over how many days the files are encrypted.
	within int
}

func attacks() []attack {
	inPlace := func(m *machine, p place) { m.edit(p.dir, p.name, m.bytes(len(m.dirs[p.dir][p.name].data))) }
	return []attack{
		{"in place", inPlace, 1},
		{"name.locked", func(m *machine, p place) {
			n := len(m.dirs[p.dir][p.name].data)
			delete(m.dirs[p.dir], p.name)
			m.put(p.dir, p.name+".locked", m.bytes(n))
		}, 1},
		{"random names", func(m *machine, p place) {
			n := len(m.dirs[p.dir][p.name].data)
			delete(m.dirs[p.dir], p.name)
			m.born++
			m.put(p.dir, fmt.Sprintf("%08x%08x", m.rnd.Uint32(), m.born), m.bytes(n))
		}, 1},
		{"the first 4 KiB", func(m *machine, p place) {
			data := slices.Clone(m.dirs[p.dir][p.name].data)
			copy(data, m.bytes(min(4096, len(data))))
			m.edit(p.dir, p.name, data)
		}, 1},
		{"in place, over 10 days", inPlace, 10},
	}
}

func (m *machine) clone() *machine {
	c := &machine{rnd: rand.New(rand.NewPCG(uint64(m.born), 3)), dirs: map[string]map[string]*fake{}, born: m.born}
	for dir, all := range m.dirs {
		c.dirs[dir] = map[string]*fake{}
		for name, f := range all {
			c.dirs[dir][name] = &fake{node: f.node, data: f.data}
		}
	}
	return c
}

// A diary is the history of a machine's backups.
type diary struct {
	x     *fixture
	r     *repo.Repository
	l     guard.Limits
	all   []*tree.Snapshot
	start time.Time
	// weekly: a full backup on Sundays, differential ones on the other days.
	weekly bool
}

// run backs the machine up, and judges the run. It is remembered if keep says so.
func (d *diary) run(m *machine, day int, keep bool) *tree.Snapshot {
	d.x.t.Helper()
	top := folder("src")
	for _, name := range slices.Sorted(maps.Keys(m.dirs)) {
		if len(m.dirs[name]) > 0 {
			top.kids = append(top.kids, folder(name, slices.Collect(maps.Values(m.dirs[name]))...))
		}
	}
	s := &source{t: d.x.t, held: map[any]string{}}
	top.attach(s)
	snap := tree.Snapshot{Host: "host", Sources: []tree.Path{"/src"}, Time: d.start.AddDate(0, 0, day), Mode: tree.Incremental}
	o := Options{
		Roots:   []Root{{Path: "/src", Ancestors: []*tree.Node{{Type: tree.Dir, Mode: 0o755, Links: 1}}, Entry: top.entry()}},
		Readers: 2, Now: func() time.Time { return snap.Time }, Write: repo.WriterOptions{Compression: repo.Fastest},
	}
	if d.weekly {
		if snap.Mode = tree.Differential; day%7 == 0 {
			snap.Mode, o.ReadAll = tree.Full, true
		}
	}
	for _, s := range slices.Backward(d.all) {
		if snap.Mode != tree.Differential || s.Mode == tree.Full {
			o.Parent = s
			break
		}
	}
	o.Judge = func(s *tree.Snapshot) {
		if s.Suspicions = guard.Judge(d.all, s, d.l, func(repo.ID) bool { return false }); s.Suspicions != nil {
			s.Tags = []string{guard.Tag}
		}
	}
	got, err := Run(d.x.t.Context(), d.r, snap, o)
	must(d.x.t, err)
	if keep {
		d.all = append(d.all, got)
	}
	return got
}

// shares are how much of a machine is encrypted, in per cent. The first is near the
// limit: it is measured, and not asked for.
var shares = []int{3, 10, 50, 100}

// TestGuardHistory lives through months of ordinary days on some machines, and attacks
// them on others. It prints what docs/guard.md says. More of them, for an hour:
// BACKUP_HANDLER_GUARD=20.
func TestGuardHistory(t *testing.T) {
	machines, days, every := 2, 75, 25
	if n, err := strconv.Atoi(os.Getenv("BACKUP_HANDLER_GUARD")); err == nil {
		machines, days, every = n, 365, 30
	}
	if testing.Short() {
		machines, days = 1, 30
	}
	limits := guard.Limits{Scrambled: 0.02, Changed: 0.8, Deleted: 0.5, Renamed: 0.2, MinFiles: 10} // the defaults
	type tally struct{ tried, found int }
	var ordinary, special tally
	found := map[string]*tally{}
	for i := range machines {
		d := &diary{x: newFixture(t), l: limits, start: time.Date(2026, 1, 4, 3, 0, 0, 0, time.UTC), weekly: i%2 == 1}
		d.r = d.x.open(d.x.store)
		m := newMachine(uint64(i) + 1)
		for day := range days {
			what := ""
			if day > 0 {
				what = m.live(day)
			}
			s := d.run(m, day, true)
			n := &ordinary
			if what != "" {
				n = &special
			}
			n.tried++
			if s.Suspicions != nil {
				n.found++
				t.Logf("false alarm: machine %d, day %d (%s): %s", i, day, cmp.Or(what, "ordinary"), strings.Join(s.Suspicions, "; "))
			}
			if day%every != 1 { // the first is that of the second run ever
				continue
			}
			for _, a := range attacks() {
				for _, percent := range shares {
					key := fmt.Sprintf("%s %d", a.name, percent)
					if found[key] == nil {
						found[key] = new(tally)
					}
					found[key].tried++
					victim, before := m.clone(), d.all
					files := victim.some(victim.files()*percent/100, "")
					alarm := false
					for k := range a.within {
						if k > 0 {
							victim.live(day + 1 + k)
						}
						for _, p := range files[len(files)*k/a.within : len(files)*(k+1)/a.within] {
							if victim.dirs[p.dir][p.name] != nil {
								a.do(victim, p)
							}
						}
						if alarm = d.run(victim, day+1+k, true).Suspicions != nil; alarm {
							break
						}
					}
					d.all = before
					if alarm {
						found[key].found++
					} else if percent > shares[0] {
						t.Logf("missed: machine %d, day %d, %s", i, day, key)
					}
				}
			}
		}
	}
	t.Logf("false alarms: %d of %d ordinary days, %d of %d special ones", ordinary.found, ordinary.tried, special.found, special.tried)
	tried, all := 0, 0
	for _, a := range attacks() {
		line := fmt.Sprintf("%-24s", a.name)
		for _, percent := range shares {
			n := found[fmt.Sprintf("%s %d", a.name, percent)]
			line += fmt.Sprintf("  %3d %%: %d of %d", percent, n.found, n.tried)
			if percent == shares[0] {
				continue
			}
			tried, all = tried+n.tried, all+n.found
			if percent >= 50 && n.found < n.tried {
				t.Errorf("%s, %d %%: found %d of %d", a.name, percent, n.found, n.tried)
			}
		}
		t.Log(line)
	}
	if 100*all < 98*tried {
		t.Errorf("%d of %d attacks were found", all, tried)
	}
	if n := ordinary.tried + special.tried; 200*(ordinary.found+special.found) > n {
		t.Errorf("%d false alarms in %d runs", ordinary.found+special.found, n)
	}
}
