package job

import (
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/backup"
	"github.com/SP1R4/BackupHandler/v3/internal/config"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/seal"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

func TestSplitSpec(t *testing.T) {
	for _, tt := range [][3]string{
		{"latest", "latest", ""},
		{"latest:", "latest", ""},
		{"latest:/etc", "latest", "/etc"},
		{"latest:/a:b", "latest", "/a:b"},
		{"latest:/a:latest:b", "latest", "/a:latest:b"},
		{"abcd", "abcd", ""},
		{"abcd:/etc/hosts", "abcd", "/etc/hosts"},
		{"0123456789abcdef0123456789abcdef:x", "0123456789abcdef0123456789abcdef", "x"},
		{"20260102_150405:/p", "20260102_150405", "/p"},
		{"2026-01-02", "2026-01-02", ""},
		{"2026-01-02:/p", "2026-01-02", "/p"},
		{"2026-01-02T15:04", "2026-01-02T15:04", ""},
		{"2026-01-02T15:04:05", "2026-01-02T15:04:05", ""},
		{"2026-01-02 15:04:05", "2026-01-02 15:04:05", ""},
		{"2026-01-02T15:04:05Z", "2026-01-02T15:04:05Z", ""},
		{"2026-01-02T15:04:05+02:00", "2026-01-02T15:04:05+02:00", ""},
		{"2026-01-02T15:04:/p", "2026-01-02T15:04", "/p"},
		{"2026-01-02 15:04:05:/p:q", "2026-01-02 15:04:05", "/p:q"},
		{"2026-01-02T15:04:05.123456Z:/p", "2026-01-02T15:04:05.123456Z", "/p"},
		{"2026-01-02T15:04:05+02:00:/p", "2026-01-02T15:04:05+02:00", "/p"},
		{"nonsense:/p", "nonsense:/p", ""},
		{":/p", ":/p", ""},
		{"", "", ""},
	} {
		if s, p := SplitSpec(tt[0]); s != tt[1] || p != tt[2] {
			t.Errorf("%q: %q and %q, want %q and %q", tt[0], s, p, tt[1], tt[2])
		}
	}
}

func id(text string) repo.ID {
	id, err := repo.ParseID(text + strings.Repeat("0", 32-len(text)))
	if err != nil {
		panic(err)
	}
	return id
}

func at(text string) time.Time {
	t, err := time.ParseInLocation("2006-01-02 15:04:05.999999", text, time.Local)
	if err != nil {
		panic(err)
	}
	return t
}

func TestResolve(t *testing.T) {
	all := []*tree.Snapshot{
		{ID: id("abcd1"), Time: at("2026-01-02 15:04:05.5")},
		{ID: id("abcd2"), Time: at("2026-01-02 15:04:30")},
		{ID: id("2026"), Time: at("2026-01-02 23:59:59.999999")},
		{ID: id("ffff"), Time: at("2026-01-04 00:00:00")},
	}
	for _, tt := range []struct {
		name string
		want int // -1: ErrNoSnapshot, -2: ErrAmbiguous
	}{
		{"latest", 3},
		{"abcd1", 0},
		{"abcd10000000", 0},
		{all[1].ID.String(), 1},
		{"abcd", -2},
		{"abc", -1}, // too short for a prefix
		{"abcd3", -1},
		{"ABCD1", -1},
		{"2026", 2},
		{"", -1},
		{"yesterday", -1},
		{"20260102_150405", 0},
		{"20260102_150404", -1},
		{"2026-01-02T15:04:05", 0},
		{"2026-01-02 15:04:05", 0},
		{"2026-01-02 15:04:04", -1},
		{"2026-01-02T15:04", 1},
		{"2026-01-02 15:04", 1},
		{"2026-01-02 15:03", -1},
		{"2026-01-02", 2},
		{"2026-01-03", 2},
		{"2026-01-01", -1},
		{"2030-12-31", 3},
		{all[0].Time.UTC().Format(time.RFC3339Nano), 0},
		{all[0].Time.Add(-time.Microsecond).UTC().Format(time.RFC3339Nano), -1},
		{all[1].Time.In(time.FixedZone("", 7200)).Format(time.RFC3339), 1},
		{"2026-02-30", -1},
	} {
		got, err := Resolve(all, tt.name)
		switch {
		case tt.want >= 0 && (err != nil || got != all[tt.want]):
			t.Errorf("%q: %v, %v, want snapshot %d", tt.name, got, err, tt.want)
		case tt.want == -1 && !errors.Is(err, ErrNoSnapshot), tt.want == -2 && !errors.Is(err, ErrAmbiguous):
			t.Errorf("%q: %v, %v", tt.name, got, err)
		}
	}
	for _, name := range []string{"latest", "abcd", "2026-01-02"} {
		if _, err := Resolve(nil, name); !errors.Is(err, ErrNoSnapshot) {
			t.Errorf("%q of none: %v", name, err)
		}
	}
}

func TestCleanSources(t *testing.T) {
	cwd, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	p := func(s string) string { a, _ := filepath.Abs(s); return a } // with a drive on Windows
	for _, tt := range []struct {
		given, want []string
		notes       int
	}{
		{nil, nil, 0},
		{[]string{""}, nil, 0},
		{[]string{"/a", ""}, nil, 0},
		{[]string{"."}, []string{cwd}, 0},
		{[]string{"sub"}, []string{filepath.Join(cwd, "sub")}, 0},
		{[]string{"/b", "/a"}, []string{p("/a"), p("/b")}, 0},
		{[]string{"/a", "/a/", "/a/../a"}, []string{p("/a")}, 0},
		{[]string{"/a/b", "/a"}, []string{p("/a")}, 1},
		{[]string{"/a/b", "/a", "/a-b", "/a/c/d"}, []string{p("/a"), p("/a-b")}, 2},
		{[]string{"/ab", "/a"}, []string{p("/a"), p("/ab")}, 0},
	} {
		notes := 0
		got, err := cleanSources(tt.given, func(string, ...any) { notes++ })
		if !slices.Equal(got, tt.want) || (err != nil) != (tt.want == nil) || notes != tt.notes {
			t.Errorf("%q: %q, %d notes, %v, want %q", tt.given, got, notes, err, tt.want)
		}
	}
	if got, err := cleanSources([]string{"/a", "/", "/b"}, func(string, ...any) {}); filepath.Separator == '/' && !slices.Equal(got, []string{"/"}) {
		t.Errorf("with /: %q, %v", got, err)
	}
}

func TestParent(t *testing.T) {
	snap := func(host string, mode tree.Mode, sources ...tree.Path) *tree.Snapshot {
		return &tree.Snapshot{Host: host, Mode: mode, Sources: sources}
	}
	full, inc := snap("h", tree.Full, "/a", "/b"), snap("h", tree.Incremental, "/a", "/b")
	differential := snap("h", tree.Differential, "/a", "/b")
	other, shares, foreign := snap("else", tree.Full, "/a", "/b"), snap("h", tree.Full, "/b", "/c"), snap("h", tree.Full, "/c")
	for name, tt := range map[string]struct {
		all  []*tree.Snapshot
		mode tree.Mode
		want *tree.Snapshot
	}{
		"none":                        {nil, tree.Incremental, nil},
		"the newest":                  {[]*tree.Snapshot{full, inc}, tree.Incremental, inc},
		"the newest, of a full run":   {[]*tree.Snapshot{inc, full}, tree.Full, full},
		"differential: the last full": {[]*tree.Snapshot{full, inc, differential}, tree.Differential, full},
		"differential without full":   {[]*tree.Snapshot{inc, differential}, tree.Differential, nil},
		"incremental after that":      {[]*tree.Snapshot{full, inc, differential}, tree.Incremental, differential},
		"another host":                {[]*tree.Snapshot{other}, tree.Incremental, nil},
		"another host is newer":       {[]*tree.Snapshot{full, other}, tree.Incremental, full},
		"other sources":               {[]*tree.Snapshot{foreign}, tree.Incremental, nil},
		"one source in common":        {[]*tree.Snapshot{foreign, shares}, tree.Incremental, shares},
		"the same before the common":  {[]*tree.Snapshot{full, shares}, tree.Incremental, full},
		"the same after the common":   {[]*tree.Snapshot{shares, inc}, tree.Incremental, inc},
	} {
		if got := parent(tt.all, snap("h", tt.mode, "/a", "/b")); got != tt.want {
			t.Errorf("%s: %+v, want %+v", name, got, tt.want)
		}
	}
}

func TestMissing(t *testing.T) {
	snap := func(name, host, when string) *tree.Snapshot {
		return &tree.Snapshot{ID: id(name), Host: host, Time: at("2026-01-" + when + " 00:00:00")}
	}
	s1, s2, s3, foreign := snap("01", "h", "01"), snap("02", "h", "02"), snap("03", "h", "03"), snap("04", "else", "04")
	open := func(snaps ...*tree.Snapshot) *Destination {
		return &Destination{Repo: new(repo.Repository), Snapshots: snaps}
	}
	failed := open(s1, s2, s3)
	failed.Err = errors.New("failed")
	for name, tt := range map[string]struct {
		dst    *Destination
		others []*Destination
		want   []*tree.Snapshot
	}{
		"nothing":                 {open(s1), []*Destination{open(s1)}, nil},
		"away":                    {open(s1), []*Destination{open(s1, s2, s3)}, []*tree.Snapshot{s2, s3}},
		"a new destination":       {open(), []*Destination{open(s1, s2)}, []*tree.Snapshot{s1, s2}},
		"forgotten on purpose":    {open(s2), []*Destination{open(s1, s2, s3)}, []*tree.Snapshot{s3}},
		"forgotten all but last":  {open(s3), []*Destination{open(s1, s2, s3)}, nil},
		"of another host":         {open(s1), []*Destination{open(s1, foreign)}, nil},
		"another host is newer":   {open(s1, foreign), []*Destination{open(s1, s2)}, []*tree.Snapshot{s2}},
		"each once":               {open(s1), []*Destination{open(s2), open(s2, s3)}, []*tree.Snapshot{s2, s3}},
		"not from what failed":    {open(s1), []*Destination{failed}, nil},
		"not from what is closed": {open(s1), []*Destination{{Snapshots: []*tree.Snapshot{s2}}}, nil},
	} {
		var got []*tree.Snapshot
		for _, m := range missing(tt.dst, append(tt.others, tt.dst), s1.Group()) {
			got = append(got, m.snap)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}

func TestFailed(t *testing.T) {
	meta, lost := tree.Problem{Kind: backup.Metadata}, tree.Problem{Kind: backup.Unreadable}
	snap := func(n int64, p ...tree.Problem) *tree.Snapshot {
		return &tree.Snapshot{Problems: p, Counts: tree.Counts{Problems: n}}
	}
	for name, tt := range map[string]struct {
		res  BackupResult
		want bool
	}{
		"no snapshot":          {BackupResult{}, true},
		"well":                 {BackupResult{Snapshot: snap(0)}, false},
		"metadata":             {BackupResult{Snapshot: snap(2, meta, meta)}, false},
		"a file":               {BackupResult{Snapshot: snap(2, meta, lost)}, true},
		"more than are listed": {BackupResult{Snapshot: snap(2, meta)}, true},
		"a destination":        {BackupResult{Snapshot: snap(0), Destinations: []*Destination{{}, {Err: fs.ErrInvalid}}}, true},
	} {
		if got := tt.res.Failed(); got != tt.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func noEnv(string) (string, bool) { return "", false }

// access makes an Access of a configuration.
func access(t *testing.T, text string, o AccessOptions) *Access {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.ini")
	write(t, path, text)
	cfg, _, err := config.Load(path, noEnv)
	if err != nil {
		t.Fatal(err)
	}
	if o.Env == nil {
		o.Env = noEnv
	}
	o.NoCache = true
	a, err := NewAccess(cfg, o)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func keyFile(t *testing.T, fill string) string {
	t.Helper()
	return write(t, filepath.Join(t.TempDir(), "key"), strings.Repeat(fill, 32))
}

func identity(t *testing.T) *seal.Identity {
	t.Helper()
	i, err := seal.GenerateIdentity(strings.NewReader(strings.Repeat("seed of an identity, for a test. ", 40)))
	if err != nil {
		t.Fatal(err)
	}
	return i
}

const on, off, unset = "[ENCRYPTION]\nenabled = True\n", "[ENCRYPTION]\nenabled = False\n", "[ENCRYPTION]\n"

func TestNewAccess(t *testing.T) {
	i := identity(t)
	key := AccessOptions{KeyFile: keyFile(t, "k")}
	passphrase := AccessOptions{PassphraseFile: write(t, filepath.Join(t.TempDir(), "p"), "a passphrase\n")}
	env := AccessOptions{Env: func(name string) (string, bool) { return "a passphrase", name == PassphraseEnv }}
	recipient := AccessOptions{Recipients: []string{i.Recipient().String()}}
	ident := AccessOptions{IdentityFile: write(t, filepath.Join(t.TempDir(), "i"), "# mine\n"+i.Text()+"\n")}
	for name, tt := range map[string]struct {
		text               string
		o                  AccessOptions
		none, new, encrypt bool
	}{
		"nothing":                {unset, AccessOptions{}, true, false, false},
		"off":                    {off, AccessOptions{}, true, false, false},
		"on":                     {on, AccessOptions{}, false, true, true},
		"--encrypt":              {unset, AccessOptions{Encrypt: true}, false, true, true},
		"--encrypt, off":         {off, AccessOptions{Encrypt: true}, false, true, true},
		"key file":               {unset, key, false, true, false},
		"key file, off":          {off, key, true, false, false},
		"key file, on":           {on, key, false, true, true},
		"passphrase":             {unset, passphrase, false, true, false},
		"passphrase, off":        {off, passphrase, true, false, false},
		"environment":            {unset, env, false, true, false},
		"configured passphrase":  {unset + "passphrase = a passphrase\n", AccessOptions{}, false, true, false},
		"recipient":              {unset, recipient, false, true, true},
		"recipient, off":         {off, recipient, false, true, true},
		"configured recipient":   {unset + "recipients = " + recipient.Recipients[0] + "\n", AccessOptions{}, false, true, false},
		"identity":               {unset, ident, false, true, false},
		"identity, off":          {off, ident, true, false, false},
		"keyring":                {unset, AccessOptions{Keyring: true}, false, true, false},
		"keyring, off":           {off, AccessOptions{Keyring: true}, true, false, false},
		"configured keyring":     {unset + "keyring = yes\n", AccessOptions{}, false, true, false},
		"keyring, other keys":    {unset + "keyring = yes\n", AccessOptions{OnlyGiven: true}, true, false, false},
		"configured key, not on": {unset + "key_file = " + key.KeyFile + "\n", AccessOptions{}, false, true, false},
	} {
		var loaded []string
		tt.o.OnKey = func(source string) { loaded = append(loaded, source) }
		a := access(t, tt.text, tt.o)
		if got := slices.Contains(a.Credentials, seal.Credential(seal.None{})); got != tt.none || a.EncryptNew != tt.new || a.Encrypt != tt.encrypt {
			t.Errorf("%s: opens without key %t, new ones encrypted %t, insists %t", name, got, a.EncryptNew, a.Encrypt)
		}
		keys := slices.DeleteFunc(slices.Clone(a.Credentials), func(c seal.Credential) bool { return c == seal.Credential(seal.None{}) })
		if len(loaded) != len(keys) || strings.Contains(strings.Join(loaded, " "), "a passphrase") {
			t.Errorf("%s: %d keys, and loaded were %q", name, len(keys), loaded)
		}
	}
	cfg := config.Defaults(noEnv)
	for name, o := range map[string]AccessOptions{
		"no key file":           {KeyFile: filepath.Join(t.TempDir(), "none")},
		"a directory as key":    {KeyFile: t.TempDir()},
		"a short key":           {KeyFile: write(t, filepath.Join(t.TempDir(), "k"), "short")},
		"a long key":            {KeyFile: write(t, filepath.Join(t.TempDir(), "k"), strings.Repeat("x", maxKeyFile+1))},
		"empty passphrase file": {PassphraseFile: write(t, filepath.Join(t.TempDir(), "p"), "\n")},
		"no recipient":          {Recipients: []string{"nobody"}},
		"no identity":           {IdentityFile: key.KeyFile},
	} {
		o.Env = noEnv
		if _, err := NewAccess(cfg, o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// content reads all files below a directory.
func content(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		all[path] = string(b)
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return all
}

// A bench is a source and a clock.
type bench struct {
	t     *testing.T
	src   string
	root  string
	clock time.Time
	notes []string
}

func newBench(t *testing.T) *bench {
	root := t.TempDir()
	b := &bench{t: t, root: root, src: filepath.Join(root, "src"), clock: at("2026-03-01 12:00:00")}
	write(t, filepath.Join(b.src, "sub", "file"), strings.Repeat("some text ", 10_000))
	write(t, filepath.Join(b.src, "other"), "other")
	return b
}

func (b *bench) place(name string) string { return filepath.Join(b.root, name) }

func (b *bench) options(dests ...string) BackupOptions {
	o := BackupOptions{
		Sources: []string{b.src}, Mode: tree.Incremental, Readers: 2, Sealers: 1, Host: "h", User: "u",
		Note: func(s string) { b.notes = append(b.notes, s) },
		Now:  func() time.Time { b.clock = b.clock.Add(time.Second); return b.clock },
	}
	for _, d := range dests {
		o.Destinations = append(o.Destinations, b.place(d))
	}
	return o
}

func (b *bench) run(a *Access, dests ...string) *BackupResult {
	b.t.Helper()
	res, err := Backup(b.t.Context(), a, b.options(dests...))
	if err != nil {
		b.t.Fatal(err)
	}
	return res
}

func (b *bench) well(a *Access, dests ...string) repo.ID {
	b.t.Helper()
	res := b.run(a, dests...)
	for _, d := range res.Destinations {
		if d.Err != nil {
			b.t.Fatal(d.Err)
		}
	}
	return res.Snapshot.ID
}

// wantSnapshots checks which snapshots a destination has, and that they can be read
// to the last byte.
func (b *bench) wantSnapshots(a *Access, dest string, want ...repo.ID) {
	b.t.Helper()
	d, err := a.OpenDestination(b.t.Context(), b.place(dest))
	if err != nil {
		b.t.Fatal(err)
	}
	defer d.Close()
	if err := d.Load(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	var got []repo.ID
	for _, s := range d.Snapshots {
		got = append(got, s.ID)
		for h, err := range tree.Hashes(b.t.Context(), d.Repo, s.RootNode()) {
			at, ok := d.Repo.Locate(h)
			if err != nil || !ok {
				b.t.Errorf("%s: snapshot %s: %v, there: %t", dest, s.ID.Short(), err, ok)
				break
			}
			if _, err := d.Repo.Load(b.t.Context(), h, at.Size, nil); err != nil {
				b.t.Errorf("%s: snapshot %s: %v", dest, s.ID.Short(), err)
			}
		}
	}
	if !slices.Equal(got, want) {
		b.t.Errorf("%s has %v, want %v", dest, got, want)
	}
}

func (b *bench) fingerprint(dest string) string {
	b.t.Helper()
	text, err := os.ReadFile(filepath.Join(b.place(dest), "config"))
	if err != nil {
		b.t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	var c struct{ Fingerprint string }
	if err := json.Unmarshal([]byte(line), &c); err != nil || c.Fingerprint == "" {
		b.t.Fatalf("config: %q, %v", line, err)
	}
	return c.Fingerprint
}

func TestBackupTwo(t *testing.T) {
	for name, a := range map[string]*Access{
		"plain":     access(t, unset, AccessOptions{}),
		"encrypted": access(t, unset, AccessOptions{KeyFile: keyFile(t, "k")}),
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			s1 := b.well(a, "a", "b")
			b.wantSnapshots(a, "a", s1)
			b.wantSnapshots(a, "b", s1)
			if b.fingerprint("a") != b.fingerprint("b") {
				t.Error("two new repositories do not share their secret")
			}
			write(t, filepath.Join(b.src, "new"), "new")
			s2 := b.well(a, "b", "a")
			s3 := b.well(a, "b", "a", "c")
			for _, d := range []string{"a", "b", "c"} {
				b.wantSnapshots(a, d, s1, s2, s3)
			}
		})
	}
}

// Destinations that are away catch up, but do not get back what was forgotten.
func TestBackupCatchUp(t *testing.T) {
	a, b := access(t, unset, AccessOptions{}), newBench(t)
	s1 := b.well(a, "a", "b", "c")
	if err := os.Rename(b.place("b"), b.place("away")); err != nil {
		t.Fatal(err)
	}
	write(t, b.place("b"), "a file")
	res := b.run(a, "b", "a", "c")
	if res.Destinations[0].Err == nil || res.Destinations[1].Err != nil || !res.Failed() {
		t.Errorf("a file as destination: %v", res.Destinations[0].Err)
	}
	s2 := res.Snapshot.ID
	if got := content(t, b.place("b")); len(got) != 1 || got[b.place("b")] != "a file" {
		t.Error("the file was touched")
	}
	if err := os.Remove(b.place("b")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(b.place("away"), b.place("b")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(b.place("a"), "snapshots", s1.String())); err != nil {
		t.Fatal(err)
	}
	// A dry run copies nothing either.
	before := content(t, b.root)
	o := b.options("b", "a", "new")
	o.DryRun = true
	if _, err := Backup(t.Context(), a, o); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(content(t, b.root), before) {
		t.Error("a dry run has written something")
	}
	s3 := b.well(a, "b", "a", "c")
	b.wantSnapshots(a, "b", s1, s2, s3)
	b.wantSnapshots(a, "a", s2, s3)
	b.wantSnapshots(a, "c", s1, s2, s3)
}

// A snapshot that is damaged in one destination keeps the others from nothing else.
func TestBackupCopiesBesideDamage(t *testing.T) {
	for _, order := range [][]string{{"a", "b"}, {"b", "a"}} {
		a, b := access(t, unset, AccessOptions{}), newBench(t)
		b.well(a, "a")
		packs := content(t, filepath.Join(b.place("a"), "packs"))
		for _, f := range []string{"other", "sub/file"} {
			write(t, filepath.Join(b.src, f), "written anew: "+f)
		}
		s2 := b.well(a, "a")
		for pack := range packs {
			if err := os.Remove(pack); err != nil {
				t.Fatal(err)
			}
		}
		res := b.run(a, order...)
		s3 := res.Snapshot.ID
		for _, d := range res.Destinations {
			if isB := filepath.Base(d.Location) == "b"; (d.Err != nil) != isB {
				t.Errorf("%s: %v", d.Location, d.Err)
			}
		}
		if !res.Failed() {
			t.Error("nobody is told")
		}
		b.wantSnapshots(a, "b", s2, s3)
		b.well(a, order...)
	}
}

func TestBackupSubDir(t *testing.T) {
	a, b := access(t, unset, AccessOptions{}), newBench(t)
	old := write(t, filepath.Join(b.place("mirror"), "Documents", "letter"), "an old mirror")
	s1 := b.well(a, "mirror")
	s2 := b.well(a, "mirror")
	b.wantSnapshots(a, "mirror", s1, s2)
	b.wantSnapshots(a, filepath.Join("mirror", SubDir), s1, s2)
	if got, err := os.ReadFile(old); err != nil || string(got) != "an old mirror" {
		t.Errorf("the mirror: %q, %v", got, err)
	}
	names, err := os.ReadDir(b.place("mirror"))
	if err != nil || len(names) != 2 {
		t.Errorf("%v, %v", names, err)
	}
}

// A destination within the source is not backed up into itself.
func TestBackupDestinationInSource(t *testing.T) {
	a, b := access(t, unset, AccessOptions{}), newBench(t)
	res := b.run(a, filepath.Join("src", "repository"))
	if res.Failed() || res.Snapshot.Counts.Files != 2 {
		t.Errorf("%d files, %v", res.Snapshot.Counts.Files, res.Notes)
	}
}

func TestBackupNeverSharesSecrets(t *testing.T) {
	key, b := keyFile(t, "k"), newBench(t)
	encrypted := access(t, unset, AccessOptions{KeyFile: key})
	b.well(encrypted, "sealed")
	plain := access(t, off, AccessOptions{KeyFile: key}) // opens both, creates without keys
	s := b.well(plain, "sealed", "open")
	if b.fingerprint("sealed") == b.fingerprint("open") {
		t.Fatal("the secret of an encrypted repository lies open in another one")
	}
	d, err := plain.OpenDestination(t.Context(), b.place("open"))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.Load(t.Context()); err != nil || d.Snapshots[len(d.Snapshots)-1].ID != s {
		t.Errorf("%v", err)
	}
	// And the other way: none that lies open becomes the secret of an encrypted one.
	r, err := plain.Open(t.Context(), b.place("open"))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := encrypted.Create(t.Context(), b.place("new"), r); err != nil {
		t.Fatal(err)
	}
	if b.fingerprint("new") == b.fingerprint("open") {
		t.Error("an encrypted repository has a secret that is open to all")
	}
}

func TestBackupRefuses(t *testing.T) {
	i := identity(t)
	key := AccessOptions{KeyFile: keyFile(t, "k")}
	for name, tt := range map[string]struct {
		first, then *Access // first makes a repository, if set
		want        error
	}{
		"wrong key":                   {access(t, unset, key), access(t, unset, AccessOptions{KeyFile: keyFile(t, "x")}), seal.ErrWrongKey},
		"no key":                      {access(t, unset, key), access(t, unset, AccessOptions{}), seal.ErrWrongKey},
		"a key for an open one":       {access(t, unset, AccessOptions{}), access(t, unset, key), seal.ErrWrongKey},
		"encryption of an open one":   {access(t, unset, AccessOptions{}), access(t, on, AccessOptions{}), seal.ErrWrongKey},
		"on without key":              {nil, access(t, on, AccessOptions{}), ErrNoKey},
		"recipient only":              {nil, access(t, unset, AccessOptions{Recipients: []string{i.Recipient().String()}}), ErrNoKey},
		"configured recipient only":   {nil, access(t, unset+"recipients = "+i.Recipient().String()+"\n", AccessOptions{}), ErrNoKey},
		"identity only":               {nil, access(t, unset, AccessOptions{IdentityFile: write(t, filepath.Join(t.TempDir(), "i"), i.Text())}), ErrNoKey},
		"a recipient for an open one": {access(t, unset, AccessOptions{}), access(t, unset+"recipients = "+i.Recipient().String()+"\n", AccessOptions{}), seal.ErrWrongKey},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			if tt.first != nil {
				b.well(tt.first, "d")
			}
			before := content(t, b.root)
			res, err := Backup(t.Context(), tt.then, b.options("d"))
			f, ok := errors.AsType[*Failure](err)
			if !ok || f.Code != ExitRefused || !errors.Is(err, tt.want) || f.Hint == "" || !res.Failed() {
				t.Errorf("%v", err)
			}
			if after := content(t, b.root); !maps.Equal(after, before) {
				t.Errorf("something was written: %d files, before %d", len(after), len(before))
			}
		})
	}
}

func TestBackupSources(t *testing.T) {
	a, b := access(t, unset, AccessOptions{}), newBench(t)
	for name, tt := range map[string]struct {
		source string
		code   int
	}{
		"missing": {b.place("none"), ExitRefused},
		"empty":   {filepath.Dir(write(t, b.place("empty/x"), "")), ExitRefused},
		"unnamed": {"", ExitUsage},
	} {
		if name == "empty" {
			if err := os.Remove(b.place("empty/x")); err != nil {
				t.Fatal(err)
			}
		}
		o := b.options("d")
		o.Sources = append(o.Sources, tt.source)
		_, err := Backup(t.Context(), a, o)
		if f, ok := errors.AsType[*Failure](err); !ok || f.Code != tt.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	o := b.options("d")
	o.Sources, o.AllowEmpty = []string{b.place("empty")}, true
	if res, err := Backup(t.Context(), a, o); err != nil || res.Failed() {
		t.Errorf("an empty source that may be: %v", err)
	}
	b.wantSnapshots(a, "d", func() repo.ID {
		d, err := a.OpenDestination(t.Context(), b.place("d"))
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		if err := d.LoadSnapshots(t.Context()); err != nil || len(d.Snapshots) != 1 {
			t.Fatalf("%d snapshots, %v", len(d.Snapshots), err)
		}
		return d.Snapshots[0].ID
	}())
}
