//go:build unix

package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/dbdump"
	"github.com/SP1R4/BackupHandler/v3/internal/dbdump/postgres/postgrestest"
)

// A dump of everything awkward is restored, and dumped again: all files are the same to the
// byte, definitions too.
func TestRoundTrip(t *testing.T) {
	server := sharedServer(t)
	s := admin(server)
	server.SQL("postgres", `ALTER DATABASE awkward SET search_path = "S 1", public; ALTER DATABASE awkward SET work_mem = '5MB'; ALTER DATABASE awkward SET custom.x = 'it''s \';
COMMENT ON DATABASE awkward IS 'it''s'; ALTER ROLE "Röle; Type: TABLE DATA; Schema: x" IN DATABASE awkward SET search_path = "S 1", public; ALTER ROLE "Röle; Type: TABLE DATA; Schema: x" IN DATABASE awkward SET custom.y = 'it''s \';
ALTER ROLE postgres IN DATABASE awkward SET work_mem = '6MB'; GRANT CREATE ON DATABASE awkward TO "Röle; Type: TABLE DATA; Schema: x" WITH GRANT OPTION; REVOKE TEMP ON DATABASE awkward FROM PUBLIC; ALTER DATABASE awkward CONNECTION LIMIT 30`)
	dir, m := dump(t, s, DumpOptions{Databases: []string{"awkward"}})
	// Unchanged tables are unchanged files.
	again, _ := dump(t, s, DumpOptions{Databases: []string{"awkward"}})
	same(t, "second dump", dir, again, "dump.json")
	if m.Server != "PostgreSQL 15.18" && !strings.HasPrefix(m.Server, "PostgreSQL ") || m.Position == nil || m.Position.LSN == "" || m.Position.Timeline != 1 || m.End.Before(m.Start) {
		t.Errorf("%+v, %+v", m, m.Position)
	}

	p := &progress{}
	err := Restore(t.Context(), s, os.DirFS(dir), RestoreOptions{Into: "Copy \"x", Progress: p, Warn: func(l string) { t.Error(l) }})
	if err != nil {
		t.Fatal(err, dbdump.Hint(err))
	}
	if len(p.begun) == 0 || len(p.begun) != len(p.done) || p.bytes != m.Bytes()-size(t, dir+"/awkward/database.json") {
		t.Errorf("progress: %d tables begun, %d done, %d bytes of %d", len(p.begun), len(p.done), p.bytes, m.Bytes())
	}
	restored, _ := dump(t, s, DumpOptions{Databases: []string{"Copy \"x"}})
	if err := os.Rename(restored+"/Copy %22x", restored+"/awkward"); err != nil {
		t.Fatal(err)
	}
	same(t, "dump of the restored database", dir, restored, "dump.json", "awkward/database.json")
	properties := func(name string) string {
		return server.SQL("postgres", `SELECT pg_get_userbyid(datdba), encoding, datcollate, datctype, datconnlimit, (SELECT array_agg(a ORDER BY a::text) FROM unnest(datacl) a), shobj_description(oid, 'pg_database'),
	(SELECT array_agg(setrole::regrole || setconfig::text ORDER BY setrole::text) FROM pg_db_role_setting WHERE setdatabase = d.oid) FROM pg_database d WHERE datname = `+literal(name))
	}
	if a, b := properties("awkward"), properties(`Copy "x`); a != b {
		t.Errorf("properties of the database: %s\nwas %s", b, a)
	}
	if _, err := os.Stat("/tmp/this-must-not-be"); err == nil {
		t.Error("a command within a definition was run")
	}
	server.SQL("postgres", `DROP DATABASE "Copy ""x"`)
	if left := databases(server); slices.ContainsFunc(left, func(n string) bool { return strings.HasPrefix(n, restoringPrefix) }) {
		t.Errorf("left: %q", left)
	}
	if unchanged := sums(t, dir); len(unchanged) < 33 {
		t.Errorf("only %d files", len(unchanged))
	}
}

func databases(s *postgrestest.Server) []string {
	return strings.Split(s.SQL("template1", "SELECT datname FROM pg_database ORDER BY 1"), "\n")
}

// same compares the files of two directories.
func same(t *testing.T, what, a, b string, but ...string) {
	t.Helper()
	one, two := sums(t, a), sums(t, b)
	for _, name := range but {
		delete(one, name)
		delete(two, name)
	}
	for name, sum := range one {
		if two[name] != sum {
			t.Errorf("%s: %q differs (%q)", what, name, two[name])
		}
		delete(two, name)
	}
	for name := range two {
		t.Errorf("%s: %q is too much", what, name)
	}
}

func size(t *testing.T, name string) int64 {
	t.Helper()
	i, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	return i.Size()
}

// progress takes down what it is told.
type progress struct {
	begun, done []string
	bytes       int64
}

func (p *progress) Table(name string, done bool) {
	if done {
		p.done = append(p.done, name)
	} else {
		p.begun = append(p.begun, name)
	}
}

func (p *progress) Add(n int64) { p.bytes += n }

// The cutter is right for any sizes of what it reads at once.
func TestCutPieces(t *testing.T) {
	server := sharedServer(t)
	out, err := server.Command(t.Context(), "awkward", "pg_dump").Output()
	if err != nil {
		t.Fatal(err)
	}
	cut := func(r io.Reader) (string, error) {
		dir := t.TempDir()
		c := &cutter{to: dirSink{dir}, dir: "d", display: func(a, b string) (string, string) { return a, b }}
		_, err := c.ReadFrom(r)
		if err == nil {
			err = c.finish()
		}
		return dir, err
	}
	whole, err := cut(strings.NewReader(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{1, 7, 4096} {
		dir, err := cut(&pieces{out, n})
		if err != nil {
			t.Fatal(n, err)
		}
		same(t, fmt.Sprintf("pieces of %d bytes", n), whole, dir)
	}
	// Where it ends too early, it is not complete.
	for _, n := range []int{0, 100, len(out) / 3, len(out) / 2, len(out) - 200} {
		if _, err := cut(strings.NewReader(string(out[:n]))); err == nil || !strings.Contains(err.Error(), "not complete") {
			t.Errorf("the first %d bytes of %d: %v", n, len(out), err)
		}
	}
	// What is no output of pg_dump is refused.
	for _, text := range []string{
		"\\! touch /tmp/this-must-not-be\n",
		"\\restrict k\n\\unrestrict k\n\\! id\n",
		"\\restrict k\n\\connect other\n",
		"--\nnot a comment\n--\n",
		"COPY x FROM stdin;\n\\.\n",
		"COPY a.b FROM stdin;\n\\.\nCOPY a.b FROM stdin;\n\\.\n",
	} {
		if _, err := cut(strings.NewReader(text)); err == nil || strings.Contains(err.Error(), "not complete") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// pieces are read n bytes at a time.
type pieces struct {
	b []byte
	n int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.b) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.b[:min(p.n, len(p.b))])
	p.b = p.b[n:]
	return n, nil
}

func TestLexer(t *testing.T) {
	for sql, want := range map[string]byte{
		"SELECT 1;\n":                      0,
		"SELECT 'a":                        '\'',
		"SELECT 'a''":                      '\'',
		"SELECT 'a\\'":                     0,
		"SELECT E'a\\'":                    'E',
		"SELECT E'a\\\\'":                  0,
		"SELECT E'a''\\'":                  'E',
		"SELECT e'\\":                      'E',
		"SELECT nameE'\\'":                 0,
		"SELECT U&'\\'":                    0,
		`"a`:                               '"',
		`"a""`:                             '"',
		`"a""b"`:                           0,
		`"'"`:                              0,
		"-- it's":                          '-',
		"-- it's\n":                        0,
		"a - -b":                           0,
		"/* a /* b */":                     '/',
		"/* a /* b */ ' */":                0,
		"$$ '":                             '$',
		"$$ $a$ $$":                        0,
		"$a$ $$ $b$":                       '$',
		"$a$ $$ $a$":                       0,
		"$1 + $2":                          0,
		"a$b$ '":                           '\'',
		"$_X$ $_ $_X $_X$":                 0,
		"'$$' \"$$\" -- $$\n E'\\'$$' ;\n": 0,
	} {
		l := &lexer{}
		l.feed([]byte(sql))
		if l.state != want {
			t.Errorf("%q: state %q, want %q", sql, l.state, want)
		}
	}
}

// FuzzCut: whatever a program prints, it is cut or refused.
func FuzzCut(f *testing.F) {
	f.Add([]byte("--\n-- PostgreSQL database dump\n--\n\n\\restrict x\n\nSET a = b;\n\n--\n-- Name: x; Type: TABLE; Schema: y; Owner: -\n--\n\nCREATE TABLE y.x ();\n\n--\n-- Data for Name: x; Type: TABLE DATA; Schema: y; Owner: -\n--\n\nCOPY y.x  FROM stdin;\n\n\\.\n\n\n--\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict x\n\n"))
	f.Add([]byte("COPY \"a\"\"b\".c (\"\n\") FROM stdin;\n\\.\n--\n-- PostgreSQL database dump complete\n--\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := &cutter{to: discard{}, dir: "d", display: func(a, b string) (string, string) { return a, b }}
		n, err := c.ReadFrom(&pieces{b, 3})
		if err == nil && n != int64(len(b)) {
			t.Errorf("read %d of %d bytes", n, len(b))
		}
		if err == nil {
			err = c.finish()
		}
		if err == nil && !strings.Contains(string(b), "database dump complete") {
			t.Error("it is complete without its end")
		}
	})
}

// While money is transferred, each dump has the sum right.
func TestDumpWhileWriting(t *testing.T) {
	server := sharedServer(t)
	server.SQL("postgres", "CREATE DATABASE bank")
	server.SQL("bank", bankSQL)
	stop := transfers(t, server, 4, 400)
	s := admin(server)
	for i := range 3 {
		dir, _ := dump(t, s, DumpOptions{Databases: []string{"bank"}})
		name := fmt.Sprintf("bank%d", i)
		if err := Restore(t.Context(), s, os.DirFS(dir), RestoreOptions{Into: name}); err != nil {
			t.Fatal(err, dbdump.Hint(err))
		}
		if n := server.SQL(name, bankWrong); n != "0" {
			t.Errorf("dump %d: %s sums are wrong", i, n)
		}
		if server.SQL(name, "SELECT count(*) FROM transfer") == "0" {
			t.Error("no transfers in the dump")
		}
		server.SQL("postgres", "DROP DATABASE "+name)
	}
	stop()
	server.SQL("postgres", "DROP DATABASE bank WITH (FORCE)")
}

// No program gets the password in its arguments, which everybody can see: of a dump and a
// restore by TCP, each notes its own.
func TestPasswordIsNotSeen(t *testing.T) {
	server, bin, programs := sharedServer(t), postgrestest.Bin(t), t.TempDir()
	notes := filepath.Join(programs, "notes")
	names := []string{"pg_dump", "pg_dumpall", "psql"}
	for _, name := range names {
		tool(t, programs, name, fmt.Sprintf("printf '%%s\\n' \"$0 $*\" >>%s\nexec %s \"$@\"\n", notes, filepath.Join(bin, name)))
	}
	s := &Server{Host: "127.0.0.1", Port: server.Port, User: "postgres", Password: postgrestest.Password, Bin: programs}
	dir, m := dump(t, s, DumpOptions{Databases: []string{"awkward"}, Globals: true})
	if strings.Contains(fmt.Sprint(m), postgrestest.Password) {
		t.Error("the password is in the manifest")
	}
	if err := Restore(t.Context(), s, os.DirFS(dir), RestoreOptions{Into: "seen"}); err != nil {
		t.Fatal(err)
	}
	server.SQL("postgres", "DROP DATABASE seen")
	seen, err := os.ReadFile(notes)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if !strings.Contains(string(seen), filepath.Join(programs, name)+" --") {
			t.Errorf("%s was never started", name)
		}
	}
	if strings.Contains(string(seen), postgrestest.Password) {
		t.Errorf("the password is an argument: %q", seen)
	}
}

// tool writes a shell script under the name of a program.
func tool(t *testing.T, dir, name, script string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
}

// Each failure is one line that says what is wrong, with a hint, and leaves no manifest.
func TestDumpFailures(t *testing.T) {
	server := sharedServer(t)
	bin := postgrestest.Bin(t)
	server.SQL("postgres", "CREATE DATABASE trouble; CREATE ROLE reader LOGIN PASSWORD 'reader pw'")
	server.SQL("trouble", `CREATE TABLE open (a int); CREATE TABLE "se""cret" (a int); GRANT SELECT ON open TO reader; CREATE TABLE rls (who text); ALTER TABLE rls ENABLE ROW LEVEL SECURITY; GRANT SELECT ON rls TO reader`)
	t.Cleanup(func() { server.SQL("postgres", "DROP DATABASE trouble WITH (FORCE); DROP ROLE reader") })
	tcp := Server{Host: "127.0.0.1", Port: server.Port, User: "postgres", Password: postgrestest.Password}
	fail := func(s Server, o DumpOptions, words ...string) {
		t.Helper()
		dir := t.TempDir()
		_, err := Dump(t.Context(), &s, dirSink{dir}, o)
		wantError(t, err, words...)
		if _, err := os.Stat(dir + "/dump.json"); err == nil {
			t.Error("there is a manifest")
		}
	}
	trouble := DumpOptions{Databases: []string{"trouble"}}

	wrong := tcp
	wrong.Password = "wrong"
	fail(wrong, trouble, "password authentication failed", `"postgres"`)
	wrong.Password = ""
	fail(wrong, trouble, "no password supplied")
	wrong = tcp
	wrong.Port = 1
	fail(wrong, trouble, "Connection refused", "port 1 ")
	fail(Server{Host: t.TempDir(), User: "postgres"}, trouble, "No such file or directory", ".s.PGSQL.5432")
	fail(Server{Host: "no-such-host.invalid", User: "postgres"}, trouble, "could not translate host name")
	wrong = tcp
	wrong.SSLMode, wrong.SSLRootCert = "verify-full", "/dev/null"
	if _, err := Dump(t.Context(), &wrong, dirSink{t.TempDir()}, trouble); err == nil {
		t.Error("a server without TLS is trusted")
	}
	fail(tcp, DumpOptions{Databases: []string{"none"}}, `no database "none"`)
	fail(tcp, DumpOptions{}, "no database is named")
	for _, arg := range []string{"--inserts", "-Fc", "--file=x", "--form=c", "-jx", "other", "--data-only", "-W"} {
		fail(tcp, DumpOptions{Databases: []string{"trouble"}, ExtraArgs: []string{arg}}, strings.SplitN(arg, "=", 2)[0])
	}

	// A table that may not be read, and rows that may not.
	reader := tcp
	reader.User, reader.Password = "reader", "reader pw"
	fail(reader, trouble, "permission denied", `se"cret`)
	server.SQL("trouble", `DROP TABLE "se""cret"`)
	fail(reader, trouble, "row-level security", "rls")
	var warned []string
	_, err := Dump(t.Context(), &reader, dirSink{t.TempDir()}, DumpOptions{Databases: []string{"trouble"}, Globals: true, ExcludeTables: []string{"rl?", "none.*"}, Warn: func(l string) { warned = append(warned, l) }})
	if err != nil {
		t.Error(err)
	}
	if len(warned) != 2 || !strings.Contains(warned[0], "without their passwords") || !strings.Contains(warned[1], `no table "none.*"`) {
		t.Errorf("%q", warned)
	}

	// Programs that are missing, too old, or that fail.
	programs := t.TempDir()
	broken := tcp
	broken.Bin = programs
	fail(broken, trouble, "pg_dump: program not found in "+programs)
	if _, err := Dump(t.Context(), &broken, dirSink{t.TempDir()}, trouble); !strings.Contains(dbdump.Hint(err), "postgresql-client") {
		t.Errorf("the package is not named: %q", dbdump.Hint(err))
	}
	if err := os.Symlink(filepath.Join(bin, "psql"), filepath.Join(programs, "psql")); err != nil {
		t.Fatal(err)
	}
	tool(t, programs, "pg_dump", "echo 'pg_dump (PostgreSQL) 12.3'")
	fail(broken, trouble, "pg_dump is of version 12", "must not be older")
	version := exec.Command(filepath.Join(bin, "pg_dump"), "--version")
	out, err := version.Output()
	if err != nil {
		t.Fatal(err)
	}
	says := "[ \"$1\" = --version ] && { echo '" + strings.TrimSpace(string(out)) + "'; exit; }\n"
	real := filepath.Join(bin, "pg_dump")
	tool(t, programs, "pg_dump", says+real+` "$@" | head -c 600; exit 0`)
	if _, err := Dump(t.Context(), &broken, dirSink{t.TempDir()}, trouble); err == nil || !strings.Contains(err.Error(), "not complete") {
		t.Errorf("an output that is cut short: %v", err)
	}
	tool(t, programs, "pg_dump", says+real+` "$@"; echo "pg_dump: error: something at the very end" >&2; exit 1`)
	if _, err := Dump(t.Context(), &broken, dirSink{t.TempDir()}, trouble); err == nil || !strings.Contains(err.Error(), "something at the very end") {
		t.Errorf("an exit code at the end: %v", err)
	}
	tool(t, programs, "pg_dump", says+real+` "$@" --exclude-table-data=open`)
	if _, err := Dump(t.Context(), &broken, dirSink{t.TempDir()}, DumpOptions{Databases: []string{"trouble"}, ExcludeTables: []string{"nothing"}}); err == nil || !strings.Contains(err.Error(), "left out 1 of its tables: public.open") {
		t.Errorf("a table that pg_dump has left out: %v", err)
	}

	server.SQL("trouble", "CREATE TABLE going (a int)")
	tool(t, programs, "pg_dump", says+fmt.Sprintf("%s/psql -q -h %s -U postgres -d trouble -c 'DROP TABLE going'\n", bin, server.Dir)+real+` "$@"`)
	fail(broken, trouble, "going", "does not exist")

	// A sink that fails ends pg_dump.
	_, err = Dump(t.Context(), &tcp, fullSink{}, DumpOptions{Databases: []string{"awkward"}})
	if err == nil || !strings.Contains(err.Error(), "the sink is full") {
		t.Error(err)
	}
	// So does the caller.
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("that is enough"))
	if _, err = Dump(ctx, &tcp, dirSink{t.TempDir()}, trouble); err == nil || !strings.Contains(err.Error(), "that is enough") {
		t.Error(err)
	}
}

// fullSink takes 100 kB of a file.
type fullSink struct{}

func (fullSink) Create(string) (io.WriteCloser, error) { return &fullFile{left: 100_000}, nil }

type fullFile struct{ left int }

func (f *fullFile) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, errors.New("the sink is full")
	}
	return len(p), nil
}

func (f *fullFile) Close() error { return nil }

// A gate is a sink that stops at a file until it is opened.
type gate struct {
	dirSink
	at      string
	reached chan struct{}
	open    chan struct{}
}

func (g *gate) Create(name string) (io.WriteCloser, error) {
	if strings.HasSuffix(name, g.at) {
		close(g.reached)
		<-g.open
	}
	return g.dirSink.Create(name)
}

// A table that is dropped while it is dumped stays until the dump has it.
func TestDropWhileDumping(t *testing.T) {
	server := sharedServer(t)
	server.SQL("postgres", "CREATE DATABASE dropping")
	server.SQL("dropping", "CREATE TABLE a AS SELECT repeat('x', 1000) AS t FROM generate_series(1, 20000); CREATE TABLE b AS SELECT 1 AS b")
	g := &gate{dirSink{t.TempDir()}, "public.a.sql", make(chan struct{}), make(chan struct{})}
	dumped, dropped := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := Dump(context.Background(), admin(server), g, DumpOptions{Databases: []string{"dropping"}})
		dumped <- err
	}()
	<-g.reached
	go func() {
		_, err := server.Try("dropping", "DROP TABLE b")
		dropped <- err
	}()
	for server.SQL("postgres", "SELECT count(*) FROM pg_stat_activity WHERE datname = 'dropping' AND wait_event_type = 'Lock'") == "0" {
		time.Sleep(10 * time.Millisecond)
	}
	close(g.open)
	if err := <-dumped; err != nil {
		t.Error(err)
	}
	if err := <-dropped; err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(g.dir + "/dropping/public.b.sql"); err != nil || !strings.Contains(string(b), "\n1\n\\.\n") {
		t.Errorf("%q, %v", b, err)
	}
	server.SQL("postgres", "DROP DATABASE dropping WITH (FORCE)")
}

// A server that is stopped in the middle of a dump.
func TestServerGoesAway(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	server.SQL("postgres", "CREATE TABLE a AS SELECT repeat('x', 1000) AS t FROM generate_series(1, 20000)")
	g := &gate{dirSink{t.TempDir()}, "public.a.sql", make(chan struct{}), make(chan struct{})}
	dumped := make(chan error, 1)
	go func() {
		_, err := Dump(context.Background(), admin(server), g, DumpOptions{Databases: []string{"postgres"}})
		dumped <- err
	}()
	<-g.reached
	server.Stop()
	close(g.open)
	wantError(t, <-dumped, `database "postgres"`, "pg_dump", "a")
	if _, err := os.Stat(g.dir + "/dump.json"); err == nil {
		t.Error("there is a manifest")
	}
}
