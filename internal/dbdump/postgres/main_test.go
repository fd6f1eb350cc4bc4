//go:build unix

package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/dbdump"
	"github.com/SP1R4/BackupHandler/v3/internal/dbdump/postgres/postgrestest"
)

// shared are an empty cluster, and the server of most tests, with the database "awkward".
// Each is made when the first test asks for it.
var shared struct {
	sync.Mutex
	empty, server *postgrestest.Server
}

// newServer starts a server of the test's own.
func newServer(t testing.TB, settings ...string) *postgrestest.Server {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	return startServer(t, settings...)
}

func startServer(t testing.TB, settings ...string) *postgrestest.Server {
	t.Helper()
	if shared.empty == nil {
		shared.empty = postgrestest.Init(long)
	}
	return postgrestest.Copy(t, shared.empty, settings...)
}

// longTB is a testing.TB that lives until all tests are over.
type longTB struct {
	testing.TB
	cleanup []func()
}

func (l *longTB) Cleanup(f func()) { l.cleanup = append(l.cleanup, f) }
func (l *longTB) Helper()          {}
func (l *longTB) Fatal(a ...any)   { panic(fmt.Sprint(a...)) }
func (l *longTB) Fatalf(f string, a ...any) {
	panic(fmt.Sprintf(f, a...))
}
func (l *longTB) Error(a ...any) { fmt.Fprintln(os.Stderr, a...) }

var long = new(longTB)

func TestMain(m *testing.M) {
	if f := os.Getenv("WAL_COMMAND"); f != "" {
		os.Exit(walCommand(f, os.Args[1:]))
	}
	code := m.Run()
	for i := len(long.cleanup) - 1; i >= 0; i-- {
		long.cleanup[i]()
	}
	os.Exit(code)
}

func sharedServer(t *testing.T) *postgrestest.Server {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.server == nil {
		s := startServer(long)
		sql, err := os.ReadFile("testdata/awkward.sql")
		if err != nil {
			t.Fatal(err)
		}
		s.SQL("postgres", "CREATE DATABASE awkward")
		s.SQL("awkward", string(sql))
		shared.server = s
	}
	return shared.server
}

// admin reaches a server as its superuser, by its socket.
func admin(s *postgrestest.Server) *Server {
	return &Server{Host: s.Dir, Port: s.Port, User: "postgres"}
}

// A dirSink stores a dump in a directory.
type dirSink struct{ dir string }

func (d dirSink) Create(name string) (io.WriteCloser, error) {
	if !fs.ValidPath(name) {
		return nil, fmt.Errorf("name %q", name)
	}
	path := filepath.Join(d.dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
}

// dump makes a dump into a new directory.
func dump(t testing.TB, s *Server, o DumpOptions) (string, *dbdump.Manifest) {
	t.Helper()
	dir := t.TempDir()
	if o.Warn == nil {
		o.Warn = func(line string) { t.Errorf("warning: %s", line) }
	}
	m, err := Dump(context.Background(), s, dirSink{dir}, o)
	if err != nil {
		t.Fatal(err, dbdump.Hint(err))
	}
	return dir, m
}

// sums are the SHA-256s of all files below a directory.
func sums(t testing.TB, dir string) map[string]string {
	t.Helper()
	m := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		sum := sha256.Sum256(b)
		m[strings.TrimPrefix(path, dir+"/")] = hex.EncodeToString(sum[:])
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// wantError wants one line with the words, and a hint.
func wantError(t testing.TB, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", words)
	}
	text := err.Error()
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("error is %q, want %q in it", text, w)
		}
	}
	if strings.ContainsAny(text+dbdump.Hint(err), "\n\r") || strings.Contains(text, postgrestest.Password) || len(text) > 700 {
		t.Errorf("error is not one short line without secrets: %q", text)
	}
	if dbdump.Hint(err) == "" {
		t.Errorf("error %q has no hint", text)
	}
}
