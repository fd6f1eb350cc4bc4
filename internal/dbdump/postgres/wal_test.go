//go:build unix

package postgres

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/dbdump"
	"github.com/SP1R4/BackupHandler/v3/internal/dbdump/postgres/postgrestest"
)

// A dirWAL keeps the log in a directory.
type dirWAL string

func (d dirWAL) Names(context.Context) (names []string, err error) {
	entries, err := os.ReadDir(string(d))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

func (d dirWAL) Open(_ context.Context, name string) (io.ReadCloser, error) {
	return os.Open(filepath.Join(string(d), name))
}

func (d dirWAL) Put(_ context.Context, name string, size int64, r io.Reader) error {
	f, err := os.CreateTemp(filepath.Dir(string(d)), "put-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	n, err := io.Copy(f, r)
	if err == nil && n != size {
		err = io.ErrUnexpectedEOF
	}
	return errors.Join(err, f.Close(), os.Chmod(f.Name(), 0o644), os.Link(f.Name(), filepath.Join(string(d), name)))
}

// walCommand is what this test program does as archive_command and restore_command.
func walCommand(what string, args []string) int {
	store := dirWAL(os.Getenv("WAL_DIR"))
	var err error
	if what == "push" {
		err = Push(context.Background(), args[0], args[1], store)
	} else {
		err = Fetch(context.Background(), store, args[0], args[1])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return FetchExit(err)
}

// archive makes a directory for the log, and the commands that use it.
func archive(t *testing.T) (store dirWAL, push, fetch string) {
	t.Helper()
	dir := postgrestest.Dir(t)
	store = dirWAL(filepath.Join(dir, "wal"))
	if err := os.Mkdir(string(store), 0o755); err != nil {
		t.Fatal(err)
	}
	postgrestest.Own(t, dir)
	postgrestest.Own(t, string(store))
	// The server's account cannot enter where go test has put the program.
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "wal-command")
	if err := os.WriteFile(program, b, 0o755); err != nil {
		t.Fatal(err)
	}
	return store, fmt.Sprintf("WAL_COMMAND=push WAL_DIR=%s %s %%p %%f", store, program), fmt.Sprintf("WAL_COMMAND=fetch WAL_DIR=%s %s %%f %%p", store, program)
}

const mib = 1 << 20

// testSegment is a segment of 1 MiB as far as its header goes.
func testSegment(timeline uint32, no uint64, fill byte) []byte {
	b := bytes.Repeat([]byte{fill}, mib)
	binary.NativeEndian.PutUint32(b[4:], timeline)
	binary.NativeEndian.PutUint64(b[8:], no*mib)
	binary.NativeEndian.PutUint64(b[24:], 42)
	binary.NativeEndian.PutUint32(b[32:], mib)
	return b
}

func TestPush(t *testing.T) {
	dir := t.TempDir()
	store := dirWAL(filepath.Join(dir, "wal"))
	if err := os.Mkdir(string(store), 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "file")
	push := func(name string, content []byte) error {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return Push(t.Context(), file, name, store)
	}
	const name = "000000020000000100000003" // 0x1003 segments of 1 MiB
	whole := testSegment(2, 0x1003, 'a')
	for _, c := range []struct {
		name    string
		content []byte
		wrong   string
	}{
		{name, whole[:mib-1], "not a whole segment"},
		{name, whole[:10], "no segment"},
		{name, testSegment(2, 0x1004, 'a'), "belongs to 000000020000000100000004"}, // reused by the server
		{name, testSegment(3, 0x1003, 'a'), "belongs to 000000030000000100000003"},
		{name, whole, ""},
		{name, whole, ""}, // again
		{name, testSegment(2, 0x1003, 'b'), "another file of this name"},
		{name, append(whole[:mib:mib], whole...), "not a whole segment"},
		{"000000030000000100000003", testSegment(2, 0x1003, 'c'), ""}, // the first of a timeline begins as its parent
		{name + ".partial", testSegment(2, 0x1003, 'p'), ""},
		{"00000003.history", []byte("2\t1/300000\tno recovery target specified\n"), ""},
		{"00000003.history", []byte("2\t1/300001\tno recovery target specified\n"), "another file of this name"},
		{name + ".00000028.backup", []byte("START WAL LOCATION"), ""},
		{"00000004.history", make([]byte, maxOther+1), "too many"},
		{"../x", whole, "not the name"},
		{"000000020000000100001003", whole, "no segment"},
		{"", whole, "not the name"},
	} {
		err := push(c.name, c.content)
		switch {
		case c.wrong == "" && err != nil:
			t.Errorf("%q: %v", c.name, err)
		case c.wrong != "" && (err == nil || !strings.Contains(err.Error(), c.wrong)):
			t.Errorf("%q: error is %v, want %q", c.name, err, c.wrong)
		}
	}
	if names, err := store.Names(t.Context()); err != nil || len(names) != 5 {
		t.Errorf("%q, %v", names, err)
	}
	if err := Push(t.Context(), filepath.Join(dir, "none"), name, store); err == nil {
		t.Error("a file that does not exist is archived")
	}

	// What is there, and what is not.
	to := filepath.Join(dir, "to")
	if err := Fetch(t.Context(), store, name, to); err != nil || FetchExit(err) != 0 {
		t.Error(err)
	}
	if b, err := os.ReadFile(to); err != nil || !bytes.Equal(b, whole) {
		t.Error("another content", err)
	}
	err := Fetch(t.Context(), store, "000000020000000100000009", to)
	if !errors.Is(err, fs.ErrNotExist) || FetchExit(err) != 1 {
		t.Errorf("%v, %d", err, FetchExit(err))
	}
	// A store that fails, or a target that is not there, is not the end of the log.
	for _, c := range []struct {
		store WAL
		to    string
	}{{broken{store}, to}, {store, filepath.Join(dir, "none", "to")}} {
		if err := Fetch(t.Context(), c.store, name, c.to); err == nil || FetchExit(err) <= 125 {
			t.Errorf("%v, %d", err, FetchExit(err))
		}
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".fetch-*")); err != nil || len(left) > 0 {
		t.Errorf("left: %q, %v", left, err)
	}
}

// A broken WAL ends in the middle of a file.
type broken struct{ WAL }

func (b broken) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	r, err := b.WAL.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(io.LimitReader(r, 1000), failing{}), r}, nil
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("the repository is away") }

// Gaps, timelines, and what is before a base backup.
func TestReachable(t *testing.T) {
	dir := t.TempDir()
	nothing := &Server{Bin: dir} // no pg_waldump: commits are not known
	seg := func(line uint32, no uint64) string { return segment{line, no}.name(mib) }
	for _, c := range []struct {
		name     string
		files    []string
		history  map[string]string
		timeline uint32
		last     string
		line     uint32
		wrong    string
	}{
		{name: "plain", files: []string{seg(1, 2), seg(1, 3), seg(1, 4)}, last: seg(1, 4), line: 1},
		{name: "older ones do not count", files: []string{seg(1, 0), seg(1, 3), seg(1, 4)}, wrong: "segment 000000010000000000000002 of the log is missing"},
		{name: "too short", files: []string{seg(1, 2)}, wrong: "segment 000000010000000000000003 of the log is missing"},
		{name: "gap", files: []string{seg(1, 2), seg(1, 3), seg(1, 5), seg(1, 7)}, last: seg(1, 3), line: 1, wrong: "2 segments are missing, the first is 000000010000000000000004"},
		{name: "partial is not whole", files: []string{seg(1, 2), seg(1, 3), seg(1, 4) + ".partial"}, last: seg(1, 3), line: 1},
		{name: "timeline", files: []string{seg(1, 2), seg(1, 3), seg(1, 4), seg(2, 4), seg(2, 5)}, history: map[string]string{"00000002.history": "1\t0/450000\tx\n"}, last: seg(2, 5), line: 2},
		{name: "timeline of the base", files: []string{seg(1, 2), seg(1, 3), seg(1, 4), seg(2, 4), seg(2, 5)}, history: map[string]string{"00000002.history": "1\t0/450000\tx\n"}, timeline: 1, last: seg(1, 4), line: 1},
		{name: "timeline from before the base", files: []string{seg(1, 2), seg(1, 3), seg(2, 2)}, history: map[string]string{"00000002.history": "1\t0/250000\tx\n"}, last: seg(1, 3), line: 1},
		{name: "grandchild", files: []string{seg(1, 2), seg(1, 3), seg(2, 3), seg(2, 4), seg(3, 4), seg(3, 5)},
			history: map[string]string{"00000002.history": "1\t0/380000\tx\n", "00000003.history": "1\t0/380000\tx\n\n2\t0/450000\tx\n"}, last: seg(3, 5), line: 3},
		{name: "gap at the branch", files: []string{seg(1, 2), seg(1, 3), seg(2, 5)}, history: map[string]string{"00000002.history": "1\t0/450000\tx\n"}, last: seg(1, 3), line: 2, wrong: "000000020000000000000004"},
		{name: "no such timeline", files: []string{seg(1, 2), seg(1, 3)}, timeline: 7, wrong: "timeline 7"},
	} {
		t.Run(c.name, func(t *testing.T) {
			store := dirWAL(t.TempDir())
			for _, n := range c.files {
				c.history = merge(c.history, n, "")
			}
			for n, text := range c.history {
				if err := os.WriteFile(filepath.Join(string(store), n), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			b := &Base{Server: "PostgreSQL 15.1", Timeline: 1, Start: 2*mib + 40, Stop: 3*mib + 100, SegmentBytes: mib}
			r, err := Reachable(t.Context(), nothing, b, store, c.timeline)
			if c.wrong == "" && err != nil || c.wrong != "" && (err == nil || !strings.Contains(err.Error(), c.wrong)) {
				t.Errorf("error is %v, want %q", err, c.wrong)
			}
			if c.last != "" && (r == nil || r.Last != c.last || r.Timeline != c.line || r.First != seg(1, 2)) {
				t.Errorf("%+v, want %s", r, c.last)
			}
		})
	}
}

func merge(m map[string]string, name, text string) map[string]string {
	if m == nil {
		m = map[string]string{}
	}
	m[name] = text
	return m
}

func TestSegmentNames(t *testing.T) {
	for _, c := range []struct {
		size int64
		s    segment
		name string
	}{
		{16 << 20, segment{1, 0}, "000000010000000000000000"},
		{16 << 20, segment{1, 255}, "0000000100000000000000FF"},
		{16 << 20, segment{1, 256}, "000000010000000100000000"},
		{1 << 20, segment{0x1A, 4096}, "0000001A0000000100000000"},
		{1 << 30, segment{2, 4}, "000000020000000100000000"},
		{1 << 30, segment{2, 3}, "000000020000000000000003"},
	} {
		got, err := parseSegment(c.name, c.size)
		if c.s.name(c.size) != c.name || err != nil || got != c.s {
			t.Errorf("%+v: %s, %+v, %v", c, c.s.name(c.size), got, err)
		}
	}
	for _, bad := range []string{"", "1", "1/", "/1", "x/1", "1/123456789", "1/2/3"} {
		if _, err := ParseLSN(bad); err == nil || dbdump.Hint(err) == "" {
			t.Errorf("position %q: %v", bad, err)
		}
	}
	if l, err := ParseLSN("1A/3000028"); err != nil || l.String() != "1A/3000028" || l != 0x1A03000028 {
		t.Errorf("%v, %v", l, err)
	}
}
