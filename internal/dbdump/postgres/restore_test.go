//go:build unix

package postgres

import (
	"context"
	"errors"
	"io/fs"
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

// All databases and roles go to a new server, and the check finds all of it, and what is not.
func TestRestoreAllAndVerify(t *testing.T) {
	server := sharedServer(t)
	server.SQL("postgres", `CREATE DATABASE "second 'one'" ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'; CREATE ROLE "o'wner" LOGIN PASSWORD 'x'; ALTER DATABASE "second 'one'" OWNER TO "o'wner"`)
	server.SQL("second 'one'", `CREATE TABLE "nür" (v text); INSERT INTO "nür" VALUES ('left out'); CREATE TABLE "größe" (v text); INSERT INTO "größe" VALUES ('ä'), (E'\n')`)
	dir, m := dump(t, admin(server), DumpOptions{Databases: []string{"*"}, Globals: true, Parallel: 2, ExcludeTables: []string{"public.nür"}, Warn: func(string) {}})
	if _, err := os.Stat(dir + "/second 'one'/public.nür.sql"); err == nil {
		t.Error("a table that was to be left out is there")
	}
	server.SQL("postgres", `DROP DATABASE "second 'one'"; DROP ROLE "o'wner"`)
	var names []string
	for _, d := range m.Databases {
		names = append(names, d.Name)
	}
	if !slices.Equal(names, []string{"awkward", "postgres", "second 'one'"}) {
		t.Fatalf("%q", names)
	}
	if b, err := os.ReadFile(dir + "/second 'one'/public.größe.sql"); err != nil || !strings.Contains(string(b), "\n\xe4\n") {
		t.Errorf("a table with names in LATIN1: %q, %v", b, err)
	}

	fresh := newServer(t)
	var warned []string
	if err := RestoreAll(t.Context(), admin(fresh), os.DirFS(dir), RestoreOptions{Warn: func(l string) { warned = append(warned, l) }}); err != nil {
		t.Fatal(err, dbdump.Hint(err))
	}
	if len(warned) > 0 {
		t.Errorf("%q", warned)
	}
	if n := fresh.SQL("second 'one'", `SELECT count(*) FROM "nür"`); n != "0" {
		t.Errorf("%s rows in a table that was left out", n)
	}
	again, _ := dump(t, admin(fresh), DumpOptions{Databases: []string{"*"}, Globals: true, ExcludeTables: []string{"public.nür"}, Warn: func(string) {}})
	same(t, "dump of the new server", dir, again, "dump.json")
	// A second time nothing is overwritten.
	wantError(t, RestoreAll(t.Context(), admin(fresh), os.DirFS(dir), RestoreOptions{}), "there is a database")
	fresh.SQL("postgres", `DROP DATABASE awkward; CREATE TABLE mine ()`)
	wantError(t, RestoreAll(t.Context(), admin(fresh), os.DirFS(dir), RestoreOptions{}), `there is a database "postgres"`)

	scratch := postgrestest.Dir(t)
	p := &progress{}
	r, err := Verify(t.Context(), os.DirFS(dir), VerifyOptions{Dir: scratch, Progress: p})
	if err != nil {
		t.Fatal(err, dbdump.Hint(err))
	}
	if !r.OK() || len(r.Tables) < 30 || len(p.done) < 29 {
		t.Errorf("%+v", r)
	}
	// Another row makes a difference, in this table alone.
	name := dir + "/second 'one'/public.größe.sql"
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(strings.Replace(string(b), "\n\xe4\n", "\n\xe5\n", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err = Verify(t.Context(), os.DirFS(dir), VerifyOptions{Dir: scratch, Database: "second 'one'"})
	if err != nil {
		t.Fatal(err)
	}
	if r.OK() || len(r.Tables) != 1 || r.Tables[0].Table != "public.größe" || r.Tables[0].OK() {
		t.Errorf("%+v", r)
	}
	_, err = Verify(t.Context(), os.DirFS(dir), VerifyOptions{Dir: scratch, Database: "none"})
	wantError(t, err, "nothing was checked")
	if left, err := os.ReadDir(scratch); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if out, _ := exec.Command("ps", "-eo", "args").Output(); strings.Contains(string(out), scratch) {
		t.Error("a scratch server runs on")
	}
}

func TestRestoreRefusals(t *testing.T) {
	server := sharedServer(t)
	s := admin(server)
	server.SQL("postgres", "CREATE DATABASE shop; CREATE ROLE seller")
	server.SQL("shop", `CREATE TABLE item (id int PRIMARY KEY, name text); INSERT INTO item VALUES (1, 'one'), (2, 'two'); ALTER TABLE item OWNER TO seller;
CREATE TABLE sold (item int REFERENCES item); INSERT INTO sold VALUES (1); CREATE INDEX ON sold (item)`)
	dir, _ := dump(t, s, DumpOptions{Databases: []string{"shop"}})
	server.SQL("shop", "INSERT INTO item VALUES (3, 'three')")
	before := databases(server)
	clean := func(what string) {
		t.Helper()
		if after := databases(server); !slices.Equal(before, after) {
			t.Errorf("%s: databases are %q, were %q", what, after, before)
		}
		if n := server.SQL("shop", "SELECT count(*) FROM item"); n != "3" {
			t.Errorf("%s: the database that was there has %s rows", what, n)
		}
	}
	ctx := t.Context()
	wantError(t, Restore(ctx, s, os.DirFS(dir), RestoreOptions{}), `there is a database "shop"`)
	clean("exists")
	wantError(t, Restore(ctx, s, os.DirFS(dir), RestoreOptions{Database: "none"}), `no database "none"`)
	wantError(t, Restore(ctx, s, os.DirFS(t.TempDir()), RestoreOptions{}), "description of the dump")
	wantError(t, Restore(ctx, s, os.DirFS(dir), RestoreOptions{Into: strings.Repeat("x", 64)}), "cannot be the name")
	wantError(t, Restore(ctx, s, os.DirFS(dir), RestoreOptions{Into: "x", Tables: []string{"public.none"}}), `no table "public.none"`)

	// Data that cannot be loaded, with and without a database to be replaced.
	file := dir + "/shop/public.item.sql"
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	bad := strings.Replace(string(good), "\n2\t", "\nx\t", 1)
	if err := os.WriteFile(file, []byte(bad), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, o := range []RestoreOptions{{Into: "x"}, {Replace: true}} {
		if err := Restore(ctx, s, os.DirFS(dir), o); err == nil || !strings.Contains(err.Error(), "invalid input syntax") || !strings.Contains(err.Error(), "public.item.sql") {
			t.Error(err)
		}
		clean("bad data")
	}
	// A file that is cut short: not even the rows before that are taken for the table.
	if err := os.WriteFile(file, good[:len(good)-6], 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Restore(ctx, s, os.DirFS(dir), RestoreOptions{Into: "x"}); err == nil || !strings.Contains(err.Error(), "bytes, not") {
		t.Error(err)
	}
	clean("cut short")
	// A command in a file that somebody has changed.
	bad = strings.Replace(string(good), "COPY", "\\! touch /tmp/this-must-not-be\nCOPY", 1)
	m, err := dbdump.ReadManifest(os.DirFS(dir))
	if err != nil {
		t.Fatal(err)
	}
	for i := range m.Databases[0].Files {
		if f := &m.Databases[0].Files[i]; f.Table == "public.item" {
			f.Bytes = int64(len(bad))
		}
	}
	changed := t.TempDir()
	if err := os.CopyFS(changed, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(changed + "/dump.json"); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(m.Write(dirSink{changed}), os.WriteFile(changed+"/shop/public.item.sql", []byte(bad), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := Restore(ctx, s, os.DirFS(changed), RestoreOptions{Into: "x"}); err == nil || !strings.Contains(err.Error(), "restricted") {
		t.Error(err)
	}
	if _, err := os.Stat("/tmp/this-must-not-be"); err == nil {
		t.Error("a command within a file was run")
	}
	clean("command")
	if err := os.WriteFile(file, good, 0o600); err != nil {
		t.Fatal(err)
	}

	// The caller ends it while it loads.
	stopped, cancel := context.WithCancelCause(ctx)
	err = Restore(stopped, s, stopFS{os.DirFS(dir), func() { cancel(errors.New("that is enough")) }}, RestoreOptions{Into: "x"})
	if err == nil || !strings.Contains(err.Error(), "that is enough") {
		t.Error(err)
	}
	clean("stopped")

	// In place of one that is in use.
	hold := server.Command(ctx, "shop", "psql", "-c", "SELECT pg_sleep(600)")
	if err := hold.Start(); err != nil {
		t.Fatal(err)
	}
	defer hold.Wait()
	for server.SQL("postgres", "SELECT count(*) FROM pg_stat_activity WHERE datname = 'shop'") == "0" {
		time.Sleep(10 * time.Millisecond)
	}
	if err := Restore(ctx, s, os.DirFS(dir), RestoreOptions{Replace: true, Warn: func(l string) { t.Error(l) }}); err != nil {
		t.Fatal(err)
	}
	if n := server.SQL("shop", "SELECT count(*), (SELECT tableowner FROM pg_tables WHERE tablename = 'item') FROM item"); n != "2|seller" {
		t.Errorf("%s after replacing", n)
	}
	if after := databases(server); !slices.Equal(before, after) {
		t.Errorf("databases are %q", after)
	}

	// One table, without what it refers to.
	if err := Restore(ctx, s, os.DirFS(dir), RestoreOptions{Into: "some", Tables: []string{"public.sold"}}); err != nil {
		t.Fatal(err)
	}
	if n := server.SQL("some", "SELECT (SELECT count(*) FROM sold), (SELECT count(*) FROM item), (SELECT count(*) FROM pg_indexes WHERE tablename = 'sold'), (SELECT count(*) FROM pg_constraint WHERE contype = 'f')"); n != "1|0|1|0" {
		t.Errorf("%s", n)
	}
	server.SQL("postgres", "DROP DATABASE \"some\"; DROP DATABASE shop; DROP ROLE seller")

	// Roles that are missing.
	wantError(t, Restore(ctx, s, os.DirFS(dir), RestoreOptions{}), "seller")
	var warned []string
	if err := Restore(ctx, s, os.DirFS(dir), RestoreOptions{CreateRoles: true, Warn: func(l string) { warned = append(warned, l) }}); err != nil {
		t.Fatal(err)
	}
	if len(warned) != 1 || !strings.Contains(warned[0], `"seller" was missing`) {
		t.Errorf("%q", warned)
	}
	server.SQL("postgres", "DROP DATABASE shop; DROP ROLE seller")
}

// stopFS stops its user when the data of a table is opened.
type stopFS struct {
	fs.FS
	stop func()
}

func (s stopFS) Open(name string) (fs.File, error) {
	if strings.HasSuffix(name, "public.item.sql") {
		s.stop()
	}
	return s.FS.Open(name)
}

// The disk of the server fills up while a dump is restored.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make a small file system")
	}
	t.Parallel()
	server := sharedServer(t)
	server.SQL("postgres", "CREATE DATABASE large")
	server.SQL("large", "CREATE TABLE a AS SELECT repeat('x', 1000) AS t FROM generate_series(1, 30000)")
	dir, _ := dump(t, admin(server), DumpOptions{Databases: []string{"large"}})
	server.SQL("postgres", "DROP DATABASE large")

	small := newServer(t, "wal_level = minimal", "max_wal_senders = 0", "max_wal_size = 8MB", "min_wal_size = 2MB")
	space := filepath.Join(small.Dir, "space")
	if err := os.Mkdir(space, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", space).CombinedOutput(); err != nil {
		t.Skipf("no tmpfs: %s", out)
	}
	t.Cleanup(func() { small.Stop(); exec.Command("umount", "-l", space).Run() })
	postgrestest.Own(t, space)
	small.SQL("postgres", "CREATE TABLESPACE tiny LOCATION '"+space+"'")
	before := databases(small)
	// The table is to be there.
	file := dir + "/large/schema-pre.sql"
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(string(b), "SET default_tablespace = '';", "SET default_tablespace=tiny;", 1)), 0o600); err != nil || !strings.Contains(string(b), "SET default_tablespace = '';") {
		t.Fatal(err)
	}
	wantError(t, Restore(t.Context(), admin(small), os.DirFS(dir), RestoreOptions{}), "No space left on device", "public.a.sql")
	if after := databases(small); !slices.Equal(before, after) {
		t.Errorf("databases are %q", after)
	}
}

// What the command for psql was is never in a message: these are long.
func TestExplain(t *testing.T) {
	for _, c := range []struct{ stderr, want, hint string }{
		{"psql:<stdin>:3: ERROR:  permission denied for table x\n", "psql: ERROR:  permission denied for table x", "GRANT"},
		{"pg_dump: error: query failed: ERROR:  permission denied for table x\npg_dump: detail: Query was: LOCK TABLE public.x IN ACCESS SHARE MODE\n", "psql: query failed: ERROR:  permission denied for table x", "GRANT"},
		{"something else\n", "psql: something else", ""},
		{"", "psql: exit status 1", ""},
	} {
		err := explain(&dbdump.ChildError{Name: "psql", Err: errors.New("exit status 1"), Stderr: c.stderr, Last: strings.TrimSpace(c.stderr)})
		if err.Error() != c.want || !strings.Contains(dbdump.Hint(err), c.hint) {
			t.Errorf("%q: %q (%q)", c.stderr, err, dbdump.Hint(err))
		}
	}
}

// What docs/postgresql.md says about a restore without this program.
func TestRestoreByHand(t *testing.T) {
	server := sharedServer(t)
	dir, _ := dump(t, admin(server), DumpOptions{Databases: []string{"awkward"}})
	manual, err := os.ReadFile("../../../docs/postgresql.md")
	if err != nil {
		t.Fatal(err)
	}
	_, steps, ok := strings.Cut(string(manual), "**Without this program**, from the files alone:\n\n")
	steps, _, end := strings.Cut(steps, "\n\n")
	if !ok || !end {
		t.Fatal("the manual does not say it any more")
	}
	steps = strings.NewReplacer("cd shop;", "cd awkward;", "shop", "byhand").Replace(steps)
	c := server.Command(t.Context(), "postgres", "psql")
	c.Path, c.Args, c.Dir = "/bin/sh", []string{"sh", "-e", "-c", steps}, dir
	c.Env = append(slices.DeleteFunc(c.Env, func(v string) bool { return strings.HasPrefix(v, "PGDATABASE=") }), "PATH="+postgrestest.Bin(t)+":"+os.Getenv("PATH"))
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s\n%s", err, steps, out)
	}
	restored, _ := dump(t, admin(server), DumpOptions{Databases: []string{"byhand"}})
	if err := os.Rename(restored+"/byhand", restored+"/awkward"); err != nil {
		t.Fatal(err)
	}
	same(t, "restored by hand", dir, restored, "dump.json", "awkward/database.json")
	server.SQL("postgres", "DROP DATABASE byhand")
}

// Settings of roles in a database that cannot be set are left out, with a warning, and the
// database is whole.
func TestRestoreRoleSettings(t *testing.T) {
	server := sharedServer(t)
	server.SQL("postgres", `CREATE DATABASE set; CREATE ROLE gone; CREATE ROLE stays; CREATE ROLE plain LOGIN CREATEDB;
ALTER ROLE gone IN DATABASE set SET work_mem = '5MB'; ALTER ROLE stays IN DATABASE set SET work_mem = '6MB'; ALTER ROLE stays IN DATABASE set SET log_statement = 'all'`)
	server.SQL("set", `CREATE TABLE public.t AS SELECT 1 AS n`)
	dir, _ := dump(t, admin(server), DumpOptions{Databases: []string{"set"}})
	server.SQL("postgres", `ALTER ROLE gone IN DATABASE set RESET ALL; DROP ROLE gone`)
	settings := func(name string) string {
		return server.SQL("postgres", `SELECT array_agg(setrole::regrole || setconfig::text ORDER BY setrole::text) FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase WHERE datname = `+literal(name))
	}
	var warned []string
	o := RestoreOptions{Into: "again", Warn: func(l string) { warned = append(warned, l) }}
	if err := Restore(t.Context(), admin(server), os.DirFS(dir), o); err != nil {
		t.Fatal(err, dbdump.Hint(err))
	}
	if len(warned) != 1 || !strings.Contains(warned[0], `"gone"`) {
		t.Errorf("%q", warned)
	}
	if got, want := settings("again"), `{"stays{work_mem=6MB,log_statement=all}"}`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	// Who may make a database, and not set this.
	warned = nil
	server.SQL("postgres", `ALTER DATABASE set OWNER TO plain`)
	server.SQL("set", `ALTER TABLE public.t OWNER TO plain; ALTER SCHEMA public OWNER TO plain`)
	dir, _ = dump(t, admin(server), DumpOptions{Databases: []string{"set"}})
	s := *admin(server)
	s.User = "plain"
	o.Into = "third"
	if err := Restore(t.Context(), &s, os.DirFS(dir), o); err != nil {
		t.Fatal(err, dbdump.Hint(err))
	}
	if len(warned) != 2 || !strings.Contains(warned[0], "work_mem") || !strings.Contains(warned[1], "log_statement") {
		t.Errorf("%q", warned)
	}
	if got := server.SQL("third", "SELECT n FROM t"); got != "1" {
		t.Errorf("%q", got)
	}
	server.SQL("postgres", `DROP DATABASE again; DROP DATABASE third; DROP DATABASE set`)
	server.SQL("postgres", `DROP ROLE stays; DROP ROLE plain`)
}
