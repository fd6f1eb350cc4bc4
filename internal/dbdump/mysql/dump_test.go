package mysql

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/config"
	"github.com/SP1R4/BackupHandler/v3/internal/dbdump"
	"github.com/SP1R4/BackupHandler/v3/internal/dbdump/mysql/mysqltest"
)

// dump dumps into a new directory.
func dump(t *testing.T, s Server, o DumpOptions) (string, *dbdump.Manifest) {
	t.Helper()
	dir := t.TempDir()
	m, err := Dump(t.Context(), s, dirSink(dir), o)
	if err != nil {
		t.Fatalf("%v (%s)", err, dbdump.Hint(err))
	}
	return dir, m
}

// sums are the SHA-256s of the tables' data.
func sums(m *dbdump.Manifest, database string) map[string]string {
	all := map[string]string{}
	for _, db := range m.Databases {
		for _, f := range db.Files {
			if db.Name == database && f.Table != "" {
				all[f.Table] = f.SHA256
			}
		}
	}
	return all
}

// state is all that can be asked of a database: definitions and contents.
func state(s *mysqltest.Server, database string) string {
	var b strings.Builder
	add := func(q string) {
		for _, row := range s.Query(q) {
			b.WriteString(row + "\n")
		}
	}
	for _, row := range s.Query("SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = ? ORDER BY BINARY TABLE_NAME", database) {
		name := quote(database) + "." + quote(row)
		add("SHOW CREATE TABLE " + name)
		add("CHECKSUM TABLE " + name)
	}
	for _, table := range []string{"ROUTINES WHERE ROUTINE_SCHEMA", "TRIGGERS WHERE TRIGGER_SCHEMA", "EVENTS WHERE EVENT_SCHEMA"} {
		add("SELECT * FROM information_schema." + table + " = '" + database + "'")
	}
	return b.String()
}

// differs shows the first line in which two states differ; "" if none.
func differs(is, was string) string {
	a, b := strings.Split(is, "\n"), strings.Split(was, "\n")
	for i := range max(len(a), len(b)) {
		x, y := "", ""
		if i < len(a) {
			x = a[i]
		}
		if i < len(b) {
			y = b[i]
		}
		if x != y {
			return fmt.Sprintf("%q, was %q", x, y)
		}
	}
	return ""
}

func TestDumpAndRestore(t *testing.T) {
	t.Parallel()
	s := mysqltest.Start(t, mysqltest.Config{Args: []string{"--event-scheduler=ON"}})
	s.Exec("CREATE DATABASE shop CHARACTER SET latin1", "CREATE DATABASE `größe/x`", "CREATE DATABASE `dump.json`", "CREATE TABLE `größe/x`.t (x int)", "INSERT INTO `größe/x`.t VALUES (1)",
		"CREATE TABLE `dump.json`.t (x int)", "CREATE USER owner@'%'", "GRANT ALL ON *.* TO owner@'%'")
	s.Shell("shop", "ALTER DATABASE CHARACTER SET utf8mb4;"+awkward+
		"CREATE DEFINER=owner@'%' TRIGGER shop.qualified BEFORE UPDATE ON `shop` . orders FOR EACH ROW SET NEW.amount = NEW.amount + 1;"+
		"ALTER DATABASE CHARACTER SET latin1;")
	all := DumpOptions{Databases: []string{"shop"}}
	var warned warnings
	all.Warn = warned.add
	before := state(s, "shop")
	dir, m := dump(t, root(s), all)

	t.Run("manifest", func(t *testing.T) {
		read, err := dbdump.ReadManifest(os.DirFS(dir))
		if err != nil || read.Kind != "mysql" || !strings.HasPrefix(read.Server, "MariaDB 1") || read.Position == nil || read.Position.File != "binlog.000001" || read.Position.Offset < 1000 || read.Position.GTID == "" {
			t.Errorf("%+v, %v", read, err)
		}
		var bytes int64
		for name := range hashes(t, dir) {
			info, err := os.Stat(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if name != dbdump.ManifestName {
				bytes += info.Size()
			}
		}
		if m.Bytes() != bytes {
			t.Errorf("the manifest has %d bytes, the files %d", m.Bytes(), bytes)
		}
		tables := sums(m, "shop")
		want := s.Query("SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'shop' AND TABLE_TYPE <> 'VIEW'")
		if len(tables) != len(want) || len(want) != 18 {
			t.Errorf("%d tables in the manifest, %d on the server", len(tables), len(want))
		}
		for _, name := range want {
			if sum, ok := tables[name]; !ok || sum == "" && name != "numbers" {
				t.Errorf("%q: %q", name, sum)
			}
		}
		if !strings.Contains(warned.String(), "MyISAM") || !strings.Contains(warned.String(), "shop.old") {
			t.Errorf("warnings: %s", warned.String())
		}
	})

	t.Run("the same again", func(t *testing.T) {
		s.Exec("INSERT INTO shop.log (what) VALUES ('changed')", "CREATE TABLE shop.zz (x int)")
		defer s.Exec("DELETE FROM shop.log WHERE what = 'changed'", "ALTER TABLE shop.log AUTO_INCREMENT = 1", "DROP TABLE shop.zz")
		again, _ := dump(t, root(s), all)
		was, is := hashes(t, dir), hashes(t, again)
		for name := range is {
			if (was[name] == is[name]) == slices.Contains([]string{"dump.json", "shop/log.sql", "shop/zz.sql"}, name) {
				t.Errorf("%s: changed or not, it is the other way round", name)
			}
		}
		if len(is) != len(was)+1 {
			t.Errorf("%d files, %d before", len(is), len(was))
		}
	})

	t.Run("beside", func(t *testing.T) {
		before := state(s, "shop")
		var w warnings
		if err := Restore(t.Context(), root(s), os.DirFS(dir), RestoreOptions{Into: "copy", Warn: w.add}); err != nil {
			t.Fatalf("%v (%s)", err, dbdump.Hint(err))
		}
		if d := differs(state(s, "shop"), before); d != "" {
			t.Errorf("the original has changed: %s", d)
		}
		_, copied := dump(t, root(s), DumpOptions{Databases: []string{"copy"}})
		for table, sum := range sums(m, "shop") {
			if got := sums(copied, "copy")[table]; got != sum {
				t.Errorf("%q has other data after the restore", table)
			}
		}
		if len(sums(copied, "copy")) != len(sums(m, "shop")) {
			t.Errorf("%d tables of %d", len(sums(copied, "copy")), len(sums(m, "shop")))
		}
		if got := s.Query("SELECT * FROM copy.a_view ORDER BY id"); !slices.Equal(got, []string{"1|20", "2|40"}) {
			t.Errorf("the view has %q", got)
		}
		s.Exec("INSERT INTO copy.orders (customer, amount) VALUES (1, 5)", "UPDATE copy.orders SET amount = 7 WHERE amount = 5", "INSERT INTO copy.numbered (x) VALUES (9)", "CALL copy.note('called')")
		if got := s.Query("SELECT amount FROM copy.orders ORDER BY id DESC LIMIT 1"); got[0] != "8" {
			t.Errorf("the trigger that names its database: %q", got)
		}
		if got := s.Query("SELECT what FROM copy.log ORDER BY id"); !slices.Equal(got, []string{"order 3", "called"}) {
			t.Errorf("the log has %q", got)
		}
		if d := differs(state(s, "shop"), before); d != "" {
			t.Errorf("writing to the copy has changed the original: %s", d)
		}
		if got := s.Query("SELECT STATUS FROM information_schema.EVENTS WHERE EVENT_SCHEMA = 'copy'"); !slices.Equal(got, []string{"DISABLED"}) {
			t.Errorf("the event is %q", got)
		}
		if got := s.Query("SELECT DEFAULT_CHARACTER_SET_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = 'copy'"); got[0] != "latin1" {
			t.Errorf("character set %q", got)
		}
		if !strings.Contains(w.String(), "nightly") || strings.Contains(w.String(), "accounts") {
			t.Errorf("warnings: %s", w.String())
		}
		s.Exec("DROP USER owner@'%'")
		w = warnings{}
		if err := Restore(t.Context(), root(s), os.DirFS(dir), RestoreOptions{Into: "copy2", Warn: w.add}); err != nil || !strings.Contains(w.String(), "owner@%") {
			t.Errorf("%v; warnings: %s", err, w.String())
		}
		s.Exec("DROP DATABASE copy2")
	})

	t.Run("over", func(t *testing.T) {
		err := Restore(t.Context(), root(s), os.DirFS(dir), RestoreOptions{Into: "copy"})
		if !errors.Is(err, errExists) || !strings.Contains(dbdump.Hint(err), "--replace") {
			t.Errorf("%v (%s)", err, dbdump.Hint(err))
		}
		s.Exec("CREATE TABLE copy.extra (x int)", "DELETE FROM copy.orders")
		if err := Restore(t.Context(), root(s), os.DirFS(dir), RestoreOptions{Into: "copy", Replace: true}); err != nil {
			t.Fatal(err)
		}
		if got := s.Query("SELECT COUNT(*) FROM copy.orders"); got[0] != "2" {
			t.Errorf("%q orders", got)
		}
		if got := s.Query("SHOW DATABASES LIKE '%restoring%'"); len(got) != 0 {
			t.Errorf("left over: %q", got)
		}
		// One that cannot be loaded to its end leaves the old database as it was.
		broken := t.TempDir()
		if err := os.CopyFS(broken, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"shop/views/b_orders.sql", "shop/orders.sql"} {
			f, err := os.OpenFile(filepath.Join(broken, name), os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintln(f, "SELECT * FROM nowhere;")
			f.Close()
			before := state(s, "copy")
			for _, into := range []string{"copy", "fresh"} {
				err := Restore(t.Context(), root(s), os.DirFS(broken), RestoreOptions{Into: into, Replace: true})
				if err == nil || !strings.Contains(err.Error(), "orders") {
					t.Errorf("%s: %v", name, err)
				}
			}
			if d := differs(state(s, "copy"), before); d != "" {
				t.Errorf("%s: the database that was to be replaced has changed: %s", name, d)
			}
			if got := s.Query("SHOW DATABASES WHERE `Database` LIKE '%restoring%' OR `Database` = 'fresh'"); len(got) != 0 {
				t.Errorf("left over: %q", got)
			}
		}
		s.Exec("DROP DATABASE copy")
	})

	t.Run("some tables", func(t *testing.T) {
		if err := Restore(t.Context(), root(s), os.DirFS(dir), RestoreOptions{Into: "few", Tables: []string{"orders", "a/b"}}); err != nil {
			t.Fatal(err)
		}
		if got := s.Query("SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'few' ORDER BY 1"); !slices.Equal(got, []string{"a/b", "orders"}) {
			t.Errorf("%q", got)
		}
		s.Exec("DROP DATABASE few")
		if err := Restore(t.Context(), root(s), os.DirFS(dir), RestoreOptions{Into: "few", Tables: []string{"nothing"}}); err == nil || !strings.Contains(err.Error(), "nothing") {
			t.Error(err)
		}
	})

	t.Run("a file alone", func(t *testing.T) {
		s.Exec("CREATE DATABASE alone")
		defer s.Exec("DROP DATABASE alone")
		err := filepath.WalkDir(filepath.Join(dir, "shop"), func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() || strings.Contains(path, "/views/a_view") || strings.Contains(path, "triggers") || strings.Contains(path, "numbered") || strings.Contains(path, "b_orders") {
				return err
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if bytes.Contains(text, []byte("USE `")) || bytes.Contains(text, []byte("CREATE DATABASE")) {
				t.Errorf("%s leads into another database", path)
			}
			s.Shell("alone", string(text))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Query("SELECT name, HEX(bin), j FROM alone.customers WHERE id = 1"); !slices.Equal(got, s.Query("SELECT name, HEX(bin), j FROM shop.customers WHERE id = 1")) {
			t.Errorf("%q", got)
		}
	})

	t.Run("everything to a new server", func(t *testing.T) {
		s.Exec("CREATE USER reader@localhost IDENTIFIED BY 'pw'", "GRANT SELECT ON shop.* TO reader@localhost", "CREATE ROLE staff", "GRANT INSERT ON shop.orders TO staff", "GRANT staff TO reader@localhost",
			"CREATE USER owner@'%'")
		dir, m := dump(t, account(s, "everything", "SELECT, SHOW VIEW, TRIGGER, EVENT, EXECUTE ON *.*"), DumpOptions{Databases: []string{"*"}, Grants: true})
		if len(m.Databases) != 3 || m.Position == nil {
			t.Fatalf("%+v", m)
		}
		other := mysqltest.Start(t, mysqltest.Config{NoLog: true})
		other.Exec("SET PASSWORD FOR root@'127.0.0.1' = PASSWORD('mine')")
		passwords := other.Query("SELECT Password FROM mysql.user WHERE User = 'root' ORDER BY Host")
		if err := RestoreAll(t.Context(), root(other), os.DirFS(dir), RestoreOptions{}); err != nil {
			t.Fatalf("%v (%s)", err, dbdump.Hint(err))
		}
		for _, db := range []string{"größe/x", "dump.json", "shop"} {
			_, restored := dump(t, root(other), DumpOptions{Databases: []string{db}})
			if fmt.Sprint(sums(restored, db)) != fmt.Sprint(sums(m, db)) {
				t.Errorf("%s differs", db)
			}
		}
		db := other.Open("reader", "pw", "shop")
		defer db.Close()
		n := 0
		if err := db.QueryRow("SELECT COUNT(*) FROM orders").Scan(&n); err != nil || n != 2 {
			t.Errorf("%d, %v", n, err)
		}
		if got := other.Query("SHOW GRANTS FOR reader@localhost"); !slices.ContainsFunc(got, func(g string) bool { return strings.Contains(g, "GRANT `staff`") }) {
			t.Errorf("%q", got)
		}
		if got := other.Query("SELECT Password FROM mysql.user WHERE User = 'root' ORDER BY Host"); !slices.Equal(got, passwords) {
			t.Error("the restore has changed a password of the server")
		}
		if err := RestoreAll(t.Context(), root(other), os.DirFS(dir), RestoreOptions{}); !errors.Is(err, errExists) {
			t.Error(err)
		}
		s.Exec("DROP DATABASE `größe/x`", "DROP DATABASE `dump.json`")
	})

	t.Run("left out", func(t *testing.T) {
		dir, m := dump(t, root(s), DumpOptions{Databases: []string{"shop"}, Exclude: []string{"shop.o*", "*.big", "shop.?_view", "shop.b_orders"}, SkipRoutines: true, SkipTriggers: true, SkipEvents: true, LockTables: true})
		files := hashes(t, dir)
		for _, name := range []string{"orders.sql", "old.sql", "big.sql", "views/a_view.sql", "schema/routines.sql", "schema/triggers.sql", "schema/events.sql"} {
			if _, ok := files["shop/"+name]; ok {
				t.Errorf("%s is in the dump", name)
			}
		}
		if len(sums(m, "shop")) != 15 || len(files) != 15+4 {
			t.Errorf("%d tables, %d files", len(sums(m, "shop")), len(files))
		}
	})

	if d := differs(state(s, "shop"), before); d != "" {
		t.Errorf("the database has changed: %s", d)
	}
}

// Names that look like marks make a dump fail, and never lie.
func TestDumpForgedMarks(t *testing.T) {
	t.Parallel()
	s := mysqltest.Start(t, mysqltest.Config{})
	for i, forged := range []string{"a\n--\n-- Table structure for table `real`\n--\n b", "\n--\n-- Current Database: `other`\n--\n b", "\n--\n-- Dumping data for table `real`\n--\n b", "\n--\n-- Whatever\n--\n b"} {
		db := fmt.Sprintf("forged%d", i)
		s.Exec("CREATE DATABASE "+db, "CREATE TABLE "+db+".real (x int)", "CREATE TABLE "+db+"."+quote(forged)+" (x int)", "INSERT INTO "+db+"."+quote(forged)+" VALUES (1)", "CREATE TABLE "+db+".zz (x int)")
		_, err := Dump(t.Context(), root(s), dirSink(t.TempDir()), DumpOptions{Databases: []string{db}})
		if err == nil || !strings.Contains(err.Error(), "dump") {
			t.Errorf("%q: %v", forged, err)
		}
		if _, err := Dump(t.Context(), root(s), dirSink(t.TempDir()), DumpOptions{Databases: []string{db}, Exclude: []string{"*\n*"}}); err != nil {
			t.Errorf("excluded: %v", err)
		}
	}
}

func TestDumpRefusals(t *testing.T) {
	s := mysqltest.Start(t, mysqltest.Config{NoLog: true})
	s.Exec("CREATE DATABASE shop", "CREATE TABLE shop.t (x int)", "CREATE VIEW shop.v AS SELECT * FROM shop.t", "CREATE DATABASE other")
	full := account(s, "full", "SELECT, SHOW VIEW, TRIGGER, EVENT ON *.*")
	wrong := full
	wrong.Password = config.NewSecretString("not-the-passw0rd")
	gone := full
	gone.Port = 1
	for name, c := range map[string]struct {
		server     Server
		o          DumpOptions
		want, hint string
	}{
		"wrong password":   {wrong, DumpOptions{}, "Access denied for user 'full'", "check user and password"},
		"no server":        {gone, DumpOptions{}, "connection refused", "is the server running"},
		"unknown database": {full, DumpOptions{Databases: []string{"nosuch"}}, "nosuch", "it may see"},
		"no SELECT":        {account(s, "a", "SELECT ON other.*"), DumpOptions{}, "shop is not there, or a may not see it", "other"},
		"no SELECT here":   {account(s, "a2", "INSERT ON shop.*;SELECT ON mysql.*"), DumpOptions{}, "SELECT on `shop`.*", "GRANT SELECT ON `shop`.* TO `a2`@`%`"},
		"no SHOW VIEW":     {account(s, "b", "SELECT, TRIGGER, EVENT ON shop.*;SELECT ON mysql.*"), DumpOptions{}, "SHOW VIEW on `shop`.*", "GRANT SHOW VIEW"},
		"no TRIGGER":       {account(s, "c", "SELECT, SHOW VIEW, EVENT ON `sho_`.*;SELECT ON mysql.*"), DumpOptions{}, "TRIGGER on `shop`.*", "GRANT TRIGGER"},
		"no EVENT":         {account(s, "d", "SELECT, SHOW VIEW, TRIGGER ON `s%p`.*;SELECT ON mysql.proc"), DumpOptions{}, "EVENT on `shop`.*", "GRANT EVENT"},
		"no routines":      {account(s, "e", "SELECT, SHOW VIEW, TRIGGER, EVENT ON shop.*"), DumpOptions{}, "SELECT on `mysql`.`proc`", "GRANT SELECT"},
		"no LOCK TABLES":   {full, DumpOptions{LockTables: true}, "LOCK TABLES on `shop`.*", "GRANT LOCK TABLES"},
		"no RELOAD":        {account(s, "f", "SELECT, SHOW VIEW, TRIGGER, EVENT, LOCK TABLES ON *.*"), DumpOptions{RequirePosition: true, LockTables: true}, "RELOAD on *.*", "GRANT RELOAD"},
		"no binary log":    {root(s), DumpOptions{RequirePosition: true}, "no binary log", "log_bin"},
		"no programs":      {Server{Socket: s.Socket, User: "root", Programs: t.TempDir()}, DumpOptions{}, "mariadb-dump or mysqldump: program not found in", "directory"},
		"no data":          {full, DumpOptions{ExtraArgs: []string{"--no-data"}}, "shop.t is in the dump without its data", "extra_args"},
		"bad argument":     {full, DumpOptions{ExtraArgs: []string{"--no-such-thing"}}, "no-such-thing", "extra_args"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.o.Databases == nil {
				c.o.Databases = []string{"shop"}
			}
			dir := t.TempDir()
			_, err := Dump(t.Context(), c.server, dirSink(dir), c.o)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(dbdump.Hint(err), c.hint) {
				t.Errorf("%v (%s)", err, dbdump.Hint(err))
			}
			if err != nil && (strings.Contains(err.Error()+dbdump.Hint(err), password) || strings.Contains(err.Error(), "not-the-passw0rd")) {
				t.Error("the error holds the password")
			}
			if _, err := os.Stat(filepath.Join(dir, dbdump.ManifestName)); err == nil {
				t.Error("there is a manifest")
			}
		})
	}
	t.Run("enough", func(t *testing.T) {
		var w warnings
		dump(t, full, DumpOptions{Databases: []string{"shop"}, Warn: w.add})
		dump(t, account(s, "some", "SELECT ON shop.t;SELECT ON mysql.proc;TRIGGER, EVENT, SHOW VIEW ON shop.*"), DumpOptions{Databases: []string{"shop"}, Exclude: []string{"*.v"}, Warn: w.add})
		if !strings.Contains(w.String(), "some may read some tables") {
			t.Error(w.String())
		}
	})
	t.Run("no program", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		_, err := Dump(t.Context(), full, dirSink(t.TempDir()), DumpOptions{Databases: []string{"shop"}})
		if !errors.Is(err, dbdump.ErrNoProgram) || !strings.Contains(err.Error(), "mariadb-dump or mysqldump") || !strings.Contains(dbdump.Hint(err), "mariadb-client") {
			t.Errorf("%v (%s)", err, dbdump.Hint(err))
		}
	})
}

// A gate lets a dump run up to a file, calls a function, and lets it go on. The tables
// before are large enough that the program is not ahead of it.
type gate struct {
	dbdump.Sink
	at   string
	then func()
}

func (g *gate) Create(name string) (io.WriteCloser, error) {
	if name == g.at {
		g.then()
	}
	return g.Sink.Create(name)
}

// fill makes tables of some megabytes, more than pipes and buffers hold.
func fill(s *mysqltest.Server, database string, tables ...string) {
	s.Exec("CREATE DATABASE " + database)
	for _, table := range tables {
		s.Exec("USE "+database, "CREATE TABLE "+database+"."+table+" (id int PRIMARY KEY, x text)",
			"INSERT INTO "+database+"."+table+" SELECT seq, REPEAT(MD5(seq), 30) FROM seq_1_to_12000")
	}
}

func TestDumpTableDropped(t *testing.T) {
	t.Parallel()
	s := mysqltest.Start(t, mysqltest.Config{})
	fill(s, "shop", "a", "b", "c", "zz")
	var dropped atomic.Bool
	_, err := Dump(t.Context(), root(s), &gate{dirSink(t.TempDir()), "shop/a.sql", func() { s.Exec("DROP TABLE shop.zz"); dropped.Store(true) }}, DumpOptions{Databases: []string{"shop"}})
	if err == nil || !dropped.Load() || !strings.Contains(err.Error(), "zz") || !strings.Contains(dbdump.Hint(err), "dropped") {
		t.Errorf("%v (%s)", err, dbdump.Hint(err))
	}
}

func TestDumpServerKilled(t *testing.T) {
	t.Parallel()
	s := mysqltest.Start(t, mysqltest.Config{})
	fill(s, "shop", "a", "b", "c", "zz")
	dir := t.TempDir()
	_, err := Dump(t.Context(), root(s), &gate{dirSink(dir), "shop/a.sql", s.Kill}, DumpOptions{Databases: []string{"shop"}})
	if err == nil || !strings.Contains(dbdump.Hint(err), "the server has ended") {
		t.Errorf("%v (%s)", err, dbdump.Hint(err))
	}
	if _, err := os.Stat(filepath.Join(dir, dbdump.ManifestName)); err == nil {
		t.Error("there is a manifest")
	}
}

func TestDumpCancelled(t *testing.T) {
	t.Parallel()
	s := mysqltest.Start(t, mysqltest.Config{})
	fill(s, "shop", "a", "b")
	ctx, cancel := context.WithCancel(t.Context())
	_, err := Dump(ctx, root(s), &gate{dirSink(t.TempDir()), "shop/a.sql", cancel}, DumpOptions{Databases: []string{"shop"}})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	for end := time.Now().Add(20 * time.Second); len(s.Query("SELECT 1 FROM information_schema.PROCESSLIST WHERE INFO LIKE '%SQL_NO_CACHE%' AND ID <> CONNECTION_ID()")) > 0; {
		if time.Now().After(end) {
			t.Fatal("the dump program is still there")
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// watchCommandLines reads the command lines of all processes until it is stopped, and
// says how many of them were the server's programs.
func watchCommandLines(t *testing.T) (stop func() int) {
	if runtime.GOOS != "linux" {
		t.Skip("needs /proc")
	}
	done, ended := make(chan struct{}), make(chan int)
	go func() {
		seen := map[string]bool{}
		for {
			all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
			for _, path := range all {
				line, err := os.ReadFile(path)
				if err != nil {
					continue
				}
				if bytes.Contains(line, []byte(password)) || bytes.Contains(line, []byte("s3cret")) {
					t.Errorf("a command line holds the password: %q", bytes.ReplaceAll(line, []byte(password), []byte("***")))
				}
				if bytes.HasPrefix(line, []byte("/usr/bin/mariadb")) {
					seen[path] = true
				}
			}
			select {
			case <-done:
				ended <- len(seen)
				return
			case <-time.After(5 * time.Millisecond): // a program of the server takes longer to start
			}
		}
	}()
	return func() int { close(done); return <-ended }
}

func TestTLS(t *testing.T) {
	t.Parallel()
	s := mysqltest.Start(t, mysqltest.Config{TLS: true, Args: []string{"--require-secure-transport=ON"}})
	s.Exec("CREATE DATABASE shop", "CREATE TABLE shop.t (x int)")
	base := account(s, "full", "SELECT, SHOW VIEW, TRIGGER, EVENT ON *.*")
	for _, c := range []struct{ mode, ca, host, want, hint string }{
		{"", "", "127.0.0.1", "", ""},
		{"required", "", "127.0.0.1", "", ""},
		{"required", s.CAFile, "127.0.0.1", "", ""},
		{"verified", s.CAFile, "localhost", "", ""},
		{"verified", "", "localhost", "certificate signed by unknown authority", "authority"},
		{"verified", s.CAFile, "127.0.0.1", "certificate", "name"},
		{"off", "", "127.0.0.1", "Access denied", "password"},
		{"sometimes", "", "127.0.0.1", `unknown TLS mode "sometimes"`, ""},
	} {
		server := base
		server.TLS, server.CAFile, server.Host = c.mode, c.ca, c.host
		_, err := Dump(t.Context(), server, dirSink(t.TempDir()), DumpOptions{Databases: []string{"shop"}})
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(dbdump.Hint(err), c.hint)) {
			t.Errorf("%+v: %v (%s)", c, err, dbdump.Hint(err))
		}
	}
	plain := mysqltest.Start(t, mysqltest.Config{Args: []string{"--skip-ssl"}})
	plain.Exec("CREATE DATABASE shop")
	server := account(plain, "full", "SELECT, SHOW VIEW, TRIGGER, EVENT ON *.*")
	dump(t, server, DumpOptions{Databases: []string{"shop"}})
	server.TLS = "required"
	if _, err := Dump(t.Context(), server, dirSink(t.TempDir()), DumpOptions{Databases: []string{"shop"}}); err == nil || !strings.Contains(dbdump.Hint(err), "offers no TLS") {
		t.Errorf("%v (%s)", err, dbdump.Hint(err))
	}
}
