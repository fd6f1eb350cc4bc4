package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/dbdump/mysql/mysqltest"
	"github.com/SP1R4/BackupHandler/v3/internal/dbdump/postgres/postgrestest"
)

// What goes wrong with databases, as whoever runs the program sees it: docs/databases.md and
// docs/postgresql.md have it as a table.

// A failing is a world with databases: two destinations, a file, and a configuration.
type failing struct {
	*world
	config string
	secret string // that nothing may print
	common string // of each section
}

func newFailing(t *testing.T, common, secret string) *failing {
	f := &failing{world: newWorld(t), secret: secret, common: common}
	f.write([]byte("a file"), "src", "file")
	must(t, os.Chmod(f.write([]byte("0123456789abcdef0123456789abcdef"), "key"), 0o600)) // a passphrase would take its time
	f.env = []string{"DB_PASSWORD=" + secret, "WRONG_PASSWORD=no" + secret}
	return f
}

// in is the same world in a part of its test.
func (f *failing) in(t *testing.T) *failing {
	w, part := *f.world, *f
	w.t, part.world = t, &w
	return &part
}

// A section of the configuration, and what is to be said of it; "": nothing, it is well.
type section struct{ name, lines, want, hint string }

// configure writes the configuration.
func (f *failing) configure(sections ...section) {
	f.t.Helper()
	text := fmt.Sprintf("[DEFAULT]\nsource_dir = %s\nmode = incremental\n[BACKUPS]\nbackup_dirs = %s, %s\n[ENCRYPTION]\nenabled = True\nkey_file = %s\n",
		f.path("src"), f.path("repo"), f.path("second"), f.path("key"))
	for _, s := range sections {
		text += fmt.Sprintf("[DATABASE %s]\n%s\n%s\n", s.name, f.common, s.lines)
	}
	f.config = f.write([]byte(text+"[STREAM last]\ncommand = echo last\n"), "config.ini")
	must(f.t, os.Chmod(f.config, 0o600)) // or its programs are not run
}

// backup makes one of all sections. Those that fail say why in one line, and what to do in
// one more; of them there is no snapshot, of all else there is one in each destination.
// It returns the hints.
func (f *failing) backup(sections ...section) map[string]string {
	f.t.Helper()
	f.configure(sections...)
	code := ok
	for _, s := range sections {
		if s.want != "" {
			code = partial
		}
	}
	before := f.snapshotIDs(f.path("repo"))
	rep, r := f.streams(code, "--config", f.config)
	if rep.Snapshot == nil {
		f.t.Fatalf("no snapshot of the files: %v", r)
	}
	made, hints := []string{*rep.Snapshot}, map[string]string{}
	for _, s := range rep.Streams {
		if s.Snapshot != nil {
			made = append(made, *s.Snapshot)
		}
		i := 0
		for i < len(sections) && !strings.HasSuffix(s.Source, "/"+sections[i].name) {
			i++
		}
		want := section{}
		if i < len(sections) {
			want = sections[i]
		}
		if (s.Error == "") != (want.want == "") || (s.Snapshot == nil) != (s.Error != "") || !strings.Contains(s.Error, want.want) || !strings.Contains(s.Hint, want.hint) {
			f.t.Errorf("%s: %q\nhint: %q\nwant %q, %q", s.Source, s.Error, s.Hint, want.want, want.hint)
		}
		f.oneLine(s.Error)
		f.oneLine(s.Hint)
		hints[want.name] = s.Hint
	}
	f.silent(r)
	slices.Sort(made)
	for _, dest := range []string{"repo", "second"} {
		now := slices.DeleteFunc(f.snapshotIDs(f.path(dest)), func(id string) bool { return slices.Contains(before, id) })
		if slices.Sort(now); !slices.Equal(now, made) {
			f.t.Errorf("new snapshots in %s: %v, want %v", dest, now, made)
		}
	}
	return hints
}

// oneLine checks the text of an error: no exit codes of programs, no list of errors.
func (f *failing) oneLine(text string) {
	f.t.Helper()
	if strings.Contains(text, "exit status") || strings.Contains(text, "$PATH") || len(text) > 600 {
		f.t.Errorf("this is no clear line: %q", text)
	}
}

// silent checks that nothing tells the secret.
func (f *failing) silent(r result) {
	f.t.Helper()
	for _, text := range []string{r.out, r.errout, f.logs()} {
		if strings.Contains(text, f.secret) {
			f.t.Errorf("a secret: %v", r)
		}
	}
}

// fails runs a command of databases that fails with a complaint and a hint.
func (f *failing) fails(want, hint string, args ...string) result {
	f.t.Helper()
	r := f.want(failed, append([]string{"db"}, append(args, "--config", f.config)...)...)
	r.complaint(f.t, true, want)
	if _, said, _ := strings.Cut(r.errout, "hint: "); !strings.Contains(said, hint) {
		f.t.Errorf("no hint %q: %v", hint, r)
	}
	for line := range strings.Lines(r.errout) {
		f.oneLine(line)
	}
	f.silent(r)
	return r
}

// programs makes a directory with all programs of the servers, one of which is a script
// that has the path of the real one in $real.
func (f *failing) programs(name, script string) string {
	f.t.Helper()
	dir, err := os.MkdirTemp(f.dir, "programs-")
	must(f.t, err)
	must(f.t, os.Chmod(dir, 0o755))
	real, err := filepath.Glob(filepath.Join(postgrestest.Bin(f.t), "p*"))
	must(f.t, err)
	for _, p := range []string{"mariadb", "mariadb-dump", "mariadb-binlog"} {
		path, err := exec.LookPath(p)
		must(f.t, err)
		real = append(real, path)
	}
	for _, path := range real {
		to := filepath.Join(dir, filepath.Base(path))
		if filepath.Base(path) != name {
			must(f.t, os.Symlink(path, to))
			continue
		}
		must(f.t, os.WriteFile(to, []byte("#!/bin/bash\nset -o pipefail\nreal='"+path+"'\n"+script+"\n"), 0o755))
	}
	return dir
}

// midway is a filter that does something when so much has passed that a large table is on
// its way, whose rest the pipes around it do not hold.
func midway(do string) string {
	return "{ head -c 3000000; if IFS= read -r -N 1 next; then printf %s \"$next\"; " + do + "; fi; cat; }"
}

// TestMySQLFailures: whatever happens to a server, or is wrong about it.
func TestMySQLFailures(t *testing.T) {
	t.Parallel()
	s := mysqltest.Start(t, mysqltest.Config{})
	f := newFailing(t, "socket = "+s.Socket, "hush of the admin")
	s.Exec("CREATE DATABASE shop", "CREATE DATABASE big", "CREATE USER admin@localhost IDENTIFIED BY '"+f.secret+"'", "GRANT ALL ON *.* TO admin@localhost",
		"CREATE USER less@localhost", "CREATE USER none@localhost", "GRANT SELECT ON shop.* TO less@localhost")
	s.Shell("shop", "CREATE TABLE orders (id INT PRIMARY KEY); INSERT INTO orders VALUES (1), (2); CREATE VIEW v AS SELECT * FROM orders;"+
		"CREATE TRIGGER t BEFORE INSERT ON orders FOR EACH ROW SET @x = 1; CREATE PROCEDURE p() SELECT 1")
	s.Shell("big", "CREATE TABLE a (id INT PRIMARY KEY, x LONGTEXT); INSERT INTO a SELECT seq, REPEAT(MD5(seq), 300) FROM seq_1_to_2000; CREATE TABLE z (id INT)")
	databases := func() string { return strings.Join(s.Query("SHOW DATABASES"), " ") }
	all := databases()
	admin := "user = admin\npassword = ${DB_PASSWORD}\n"
	shop := section{name: "shop", lines: admin + "database = shop\nlogs = True"}
	big := section{name: "big", lines: admin + "database = big"}
	f.backup(shop, big)

	kill := "kill -9 $(cat " + s.Dir + "/pid)"
	drop := "env -u MYSQL_PWD mariadb --no-defaults -uroot --socket=" + s.Socket + " -e 'DROP TABLE big.z' >&2"
	tables := func(filter string) string {
		return `case "$*" in *--single-transaction*) "$real" "$@" | ` + filter + `;; *) exec "$real" "$@";; esac`
	}
	lacking := []section{
		{"none", "user = none\ndatabase = shop", "the database shop is not there, or none may not see it", "GRANT SELECT ON `shop`.* TO `none`@`localhost`;"},
		{"rights", "user = less\ndatabase = shop", "less@localhost lacks SHOW VIEW on `shop`.*, which a dump of views needs; TRIGGER on", "GRANT SHOW VIEW, TRIGGER, EVENT ON `shop`.* TO `less`@`localhost`; GRANT SELECT ON `mysql`.`proc` TO"},
		{"logs", "user = less\ndatabase = shop\ndump = False\nlogs = True", "less@localhost lacks BINLOG MONITOR on *.*", "GRANT BINLOG MONITOR, REPLICATION SLAVE, RELOAD ON *.* TO `less`@`localhost`;"},
	}
	f.backup(append(lacking,
		section{"password", "user = admin\npassword = ${WRONG_PASSWORD}\ndatabase = shop", "Access denied for user 'admin'@'localhost'", "check user and password"},
		section{"program", admin + "database = shop\nprograms = " + f.mkdir("empty"), "mariadb-dump or mysqldump: program not found in " + f.path("empty"), "mariadb-client"},
		section{"dropped", admin + "database = big\nprograms = " + f.programs("mariadb-dump", tables(midway(drop))), "z", "dropped or renamed during the dump"},
		shop)...)
	s.Exec("CREATE TABLE big.z (id INT)")

	// What is to be done is said as statements, which do it: of two that are needed one after
	// the other, the second is said once the first was executed.
	hints := f.backup(lacking...)
	obey := func(sections ...section) {
		for _, l := range sections {
			_, statements, _ := strings.Cut(hints[l.name], "GRANT ")
			for statement := range strings.SplitSeq("GRANT "+strings.TrimSuffix(statements, ";"), "; ") {
				s.Exec(statement)
			}
		}
	}
	obey(lacking...)
	lacking[0].want, lacking[0].hint = "none@localhost lacks SHOW VIEW", "GRANT SHOW VIEW"
	lacking[1].want, lacking[1].hint, lacking[2].want, lacking[2].hint = "", "", "", ""
	hints = f.backup(lacking...)
	obey(lacking[0])
	lacking[0].want, lacking[0].hint = "", ""
	f.backup(lacking[0], shop)

	// The server goes away in the middle, and whoever comes next finds none.
	r := f.away(section{name: "gone", lines: admin + "database = big\nprograms = " + f.programs("mariadb-dump", tables(midway(kill)))}, shop)
	for _, want := range []string{
		"warning: /db/gone: not stored: mariadb-dump: Error 2013: Lost connection to server during query", "hint: the server has ended, or has closed the connection: look into its log",
		"warning: /db/shop: not stored: log in to " + s.Socket + " as admin: ", "connection refused\nhint: is the server running",
	} {
		if !strings.Contains(r.errout, want) {
			t.Errorf("want %q: %v", want, r)
		}
	}
	f.fails("connection refused", "is the server running", "restore", "--name", "shop", "--into", "x")
	s.Restart()

	f.configure(shop, big)
	// The client may be sending or waiting when the server ends: errors 2006 and 2013.
	r = f.fails("load big.a: mariadb: ERROR 20", "; the database x__restoring_", "restore", "--name", "big", "--into", "x", "--db-programs",
		f.programs("mariadb", `case "$*" in *--database=*) `+midway(kill)+` | "$real" "$@";; *) exec "$real" "$@";; esac`))
	s.Restart()
	if !strings.Contains(r.errout, "hint: the server has ended, or has closed the connection: look into its log") {
		t.Errorf("the hint does not say where to look: %v", r)
	}
	if now := databases(); now == all || !strings.Contains(now, "x__restoring_") {
		t.Errorf("databases %v, and one that is not whole was told of", now)
	}
	_, do, _ := strings.Cut(r.errout, "is not whole: ")
	s.Exec(strings.TrimSpace(do))
	f.env = append(f.env, "BACKUP_HANDLER_DB_PASSWORD=")
	f.fails("make the database x__restoring_", "use an account that may", "restore", "--name", "shop", "--into", "x", "--db-user", "less")
	f.env[len(f.env)-1] = "BACKUP_HANDLER_DB_PASSWORD=no" + f.secret
	f.fails("Access denied for user 'admin'@'localhost'", "check user and password", "restore", "--name", "shop", "--into", "x")
	f.env = f.env[:len(f.env)-1]

	// Without the programs: which package has them.
	f.env = append(f.env, "PATH="+f.path("empty"))
	f.backup(section{"shop", admin + "database = shop", "mariadb-dump or mysqldump: program not found on the PATH", "Debian: apt-get install mariadb-client"})
	f.fails("mariadb or mysql: program not found on the PATH", "Debian: apt-get install mariadb-client", "restore", "--name", "shop", "--into", "x")
	f.env = f.env[:len(f.env)-1]

	// A dump of a newer server replaces nothing.
	f.backup(section{name: "newer", lines: admin + "database = shop\nprograms = " + f.programs("mariadb-dump", `"$real" "$@" | sed 's/DEFAULT CHARSET=utf8mb4/& COLLATE=utf8mb4_9999_ai_ci/'`)}, shop)
	f.fails("load shop.orders: mariadb: ERROR 1273 (HY000) at line 19: Unknown collation", "the dump is of a newer server", "restore", "--name", "newer", "--replace")
	if got := s.Query("SELECT COUNT(*) FROM shop.v"); got[0] != "2" {
		t.Errorf("%v rows are left", got)
	}

	// Logs that were purged before they were archived.
	s.Exec("INSERT INTO shop.orders VALUES (3)", "FLUSH BINARY LOGS", "INSERT INTO shop.orders VALUES (4)", "FLUSH BINARY LOGS")
	logs := s.Query("SHOW BINARY LOGS")
	last, _, _ := strings.Cut(logs[len(logs)-1], "|")
	waitFor(t, "the logs to be purged", func() bool { // it keeps those that a recovery may need
		s.Exec("PURGE BINARY LOGS TO '" + last + "'")
		return len(s.Query("SHOW BINARY LOGS")) == 1
	})
	s.Exec("INSERT INTO shop.orders VALUES (5)")
	r = f.want(ok, "db", "binlog", "--config", f.config)
	if !strings.Contains(r.errout, "the server has purged ") || !strings.Contains(r.errout, "can be restored; archive more often") || strings.Count(r.errout, "warning: ") != 1 {
		t.Errorf("%v", r)
	}
	if r := f.want(ok, "db", "list", "--config", f.config); !strings.Contains(r.out, "1 GAP") {
		t.Errorf("%v", r)
	}
	f.fails("the binary log before "+last+" is missing, or a part of it; from this dump, a restore is possible up to ", "choose a dump of after the gap, an earlier time", "restore", "--name", "shop", "--into", "x", "--stop-before-statement", "values (5)")

	if now := databases(); now != all {
		t.Errorf("databases %v, and there were %v", now, all)
	}
	t.Run("disk full", func(t *testing.T) { mysqlDiskFull(t, f.in(t), s) })

	// Nothing is lost.
	for _, dest := range []string{"repo", "second"} {
		f.want(ok, "db", "restore", "--name", "shop", "--into", "from_"+dest, "--config", f.config, "--backup-dirs", f.path(dest))
		if got := s.Query("SELECT COUNT(*) FROM from_" + dest + ".v"); got[0] != "2" {
			t.Errorf("restored %v rows", got)
		}
		f.verify(ok, f.path(dest), "--config", f.config, "--read-data")
	}
}

// away makes a backup of whose databases none is there, without a word of what goes well.
func (f *failing) away(sections ...section) result {
	f.t.Helper()
	f.configure(sections...)
	before := len(f.snapshotIDs(f.path("repo")))
	r := f.want(partial, "backup", "--quiet", "--config", f.config)
	if n := len(f.snapshotIDs(f.path("repo"))); n != before+2 || n != len(f.snapshotIDs(f.path("second"))) {
		f.t.Errorf("%d snapshots, and there were %d: want the files and the stream more", n, before)
	}
	for line := range strings.Lines(r.errout) {
		f.oneLine(line)
	}
	f.silent(r)
	return r
}

// small makes a file system for a server's data, with so much room beside it.
func (f *failing) small(t *testing.T, size string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "bh-small-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	mount(t, dir, "-t", "tmpfs", "-o", "mode=777,size="+size, "tmpfs")
	return dir
}

func mysqlDiskFull(t *testing.T, f *failing, logging *mysqltest.Server) {
	dir := f.small(t, "55m")
	s := mysqltest.Start(t, mysqltest.Config{DataDir: dir, NoLog: true})
	t.Cleanup(s.Kill) // before the file system goes
	before := s.Query("SHOW DATABASES")
	f.fails("load big.a: mariadb: ERROR 1114", "the disk of the server is full", "restore", "--name", "big", "--db-socket", s.Socket, "--db-user", "root")
	if now := s.Query("SHOW DATABASES"); !slices.Equal(now, before) {
		t.Errorf("databases %v, and there were %v", now, before)
	}
	scratch := f.small(t, "60m")
	r := f.want(failed, "db", "verify", "--name", "big", "--scratch", scratch, "--config", f.config)
	if !strings.Contains(r.out, "FAILED: make the data of a scratch server: mariadb-install-db: InnoDB: ") || !strings.Contains(r.errout, "hint: there is no room for the scratch server in "+scratch) {
		t.Errorf("%v", r)
	}
	logging.Exec("INSERT INTO shop.orders SELECT seq FROM shop.seq_1001_to_100000")
	mount(t, f.path("tmp"), "-t", "tmpfs", "-o", "size=100k", "tmpfs")
	r = f.want(partial, "db", "binlog", "--config", f.config)
	if !strings.Contains(r.out, "/log/shop  FAILED, and not stored: archive the binary log binlog.") || !strings.Contains(r.out, "hint: is the directory for temporary files ($TMPDIR) full?") {
		t.Errorf("%v", r)
	}
}

// TestPostgreSQLFailures: the same, and what is wrong with base backups and their log.
func TestPostgreSQLFailures(t *testing.T) {
	t.Parallel()
	home := postgrestest.Dir(t)
	postgrestest.Own(t, home)
	s := postgrestest.New(t, "archive_mode = on", "archive_command = 'cp %p "+home+"/%f'")
	socket := "socket = " + s.Dir + "\n"
	f := newFailing(t, fmt.Sprintf("type = postgresql\nport = %d", s.Port), "hush of the reader")
	for _, q := range []string{
		"CREATE DATABASE shop", "CREATE DATABASE big", "CREATE ROLE less LOGIN", "CREATE ROLE reader LOGIN PASSWORD '" + f.secret + "'; GRANT pg_read_all_data TO reader",
	} {
		s.SQL("postgres", q)
	}
	s.SQL("shop", "CREATE TABLE orders (id INT PRIMARY KEY); INSERT INTO orders VALUES (1), (2); CREATE TABLE secrets (id INT); ALTER TABLE secrets ENABLE ROW LEVEL SECURITY")
	s.SQL("big", "CREATE TABLE a AS SELECT g, repeat(md5(g::text), 30) AS x FROM generate_series(1, 15000) g; CREATE TABLE z (id INT)")
	databases := func() string { return s.SQL("postgres", "SELECT datname FROM pg_database ORDER BY 1") }
	all := databases()
	admin := socket + "user = postgres\n"
	shop := section{name: "shop", lines: admin + "database = shop"}
	big := section{name: "big", lines: admin + "database = big"}
	f.backup(shop, big)

	lacking := []section{
		{"rights", socket + "user = less\ndatabase = shop", `dump database "shop": pg_dump: query failed: ERROR:  permission denied for table orders`, `GRANT pg_read_all_data TO "less";`},
		{"rows", socket + "user = reader\ndatabase = shop", `row-level security policy for table "secrets"`, `ALTER ROLE "reader" BYPASSRLS;`},
		{"base", socket + "user = reader\ndump = False\nbase = True\ndatabase = shop", "must be superuser or replication role", `ALTER ROLE "reader" REPLICATION;`},
	}
	connect := fmt.Sprintf("psql -X -q -h %s -p %d -U postgres ", s.Dir, s.Port)
	hints := f.backup(append(lacking,
		section{"password", "host = 127.0.0.1\nuser = reader\npassword = ${WRONG_PASSWORD}\ndatabase = shop", `connection to server at "127.0.0.1", port ` + fmt.Sprint(s.Port) + ` failed: FATAL:  password authentication failed for user "reader"`, "check user and password"},
		section{"nopassword", "host = 127.0.0.1\nuser = reader\ndatabase = shop", "no password supplied", "the server wants a password: set it"},
		section{"program", admin + "database = shop\nprograms = " + f.mkdir("empty"), "pg_dump: program not found in " + f.path("empty"), "apt-get install postgresql-client"},
		section{"old", admin + "database = shop\nprograms = " + f.programs("pg_dump", `case "$*" in *--version*) echo "pg_dump (PostgreSQL) 12.3";; *) exec "$real" "$@";; esac`),
			"pg_dump is of version 12, the server of version ", "apt-get install postgresql-client-"},
		section{"dropped", admin + "database = big\nprograms = " + f.programs("pg_dump", `case "$*" in *--version*) ;; *) `+connect+`-d big -c 'DROP TABLE z';; esac; exec "$real" "$@"`),
			`relation "public.z" does not exist`, "it was dropped just as the dump began: dump again"},
		shop)...)
	s.SQL("big", "CREATE TABLE z (id INT)")
	for i, l := range lacking {
		for _, verb := range []string{"GRANT ", "ALTER ROLE "} {
			if _, statement, found := strings.Cut(hints[l.name], verb); found {
				statement, _, _ = strings.Cut(statement, ";")
				s.SQL("postgres", verb+statement)
			}
		}
		lacking[i].want, lacking[i].hint = "", ""
	}
	s.SQL("postgres", "ALTER ROLE less BYPASSRLS") // which is said when the rest is there
	f.backup(lacking...)
	t.Run("log", func(t *testing.T) { postgresGap(t, f.in(t), s, home) })

	// The server crashes in the middle, and recovers.
	crash := `kill -9 $(cat /proc/$(head -n 1 '` + s.Data() + `/postmaster.pid')/task/*/children)`
	gone := section{"gone", admin + "database = big\nprograms = " + f.programs("pg_dump", `case "$*" in *--version*) exec "$real" "$@";; *) "$real" "$@" | `+midway(crash)+`;; esac`),
		`pg_dump: Dumping the contents of table "a" failed: PQgetCopyData() failed.`, "the server has gone away: see its log"}
	f.backup(gone)
	f.configure(shop, big)
	waitFor(t, "the server to recover", func() bool { _, err := s.Try("postgres", "SELECT 1"); return err == nil })
	f.fails(`restore database "big": load big/public.a.sql: psql: `, "the server has gone away: see its log", "restore", "--name", "big", "--into", "x", "--db-programs",
		f.programs("psql", `case "$*" in *--single-transaction*) `+midway(crash)+` | "$real" "$@";; *) exec "$real" "$@";; esac`))
	if now := databases(); now != all {
		t.Errorf("databases %q, and there were %q", now, all)
	}

	f.fails("psql: program not found in "+f.path("empty"), "apt-get install postgresql-client", "restore", "--name", "shop", "--into", "x", "--db-programs", f.path("empty"))
	f.fails(`role "nobody-here" does not exist`, "set the user (--db-user)", "restore", "--name", "shop", "--into", "x", "--db-user", "nobody-here")
	f.fails("permission denied to create database", `ALTER ROLE "less" CREATEDB;`, "restore", "--name", "shop", "--into", "x", "--db-user", "less")
	f.env = append(f.env, "BACKUP_HANDLER_DB_PASSWORD=no"+f.secret)
	f.fails("password authentication failed", "check user and password", "restore", "--name", "shop", "--into", "x", "--db-user", "reader", "--db-host", "127.0.0.1", "--db-port", fmt.Sprint(s.Port))
	f.env = f.env[:len(f.env)-1]

	// A dump of a newer server replaces nothing, and cannot be checked here.
	f.backup(section{name: "newer", lines: admin + "database = shop\nprograms = " + f.programs("psql", `"$real" "$@" | sed -u 's/PostgreSQL [0-9]*\./PostgreSQL 99./'`)})
	f.fails("the dump is of PostgreSQL 99.", "restore to a server of the same version, or a later one", "restore", "--name", "newer", "--replace")
	r := f.want(failed, "db", "verify", "--name", "newer", "--config", f.config)
	if !strings.Contains(r.out, "FAILED: a server of PostgreSQL 99, of which the dump is: program not found") || !strings.Contains(r.errout, "apt-get install postgresql-99") {
		t.Errorf("%v", r)
	}

	if now := databases(); now != all {
		t.Errorf("databases %q, and there were %q", now, all)
	}

	// Nothing is lost.
	f.configure(shop)
	for _, dest := range []string{"repo", "second"} {
		f.want(ok, "db", "restore", "--name", "shop", "--into", "from_"+dest, "--config", f.config, "--backup-dirs", f.path(dest))
		if got := s.SQL("from_"+dest, "SELECT count(*) FROM orders"); got != "2" {
			t.Errorf("restored %v rows", got)
		}
		f.verify(ok, f.path(dest), "--config", f.config, "--read-data")
	}
	t.Run("disk full", func(t *testing.T) { postgresDiskFull(t, f.in(t), s) })
}

// postgresGap: recoveries from a log that is not all there.
func postgresGap(t *testing.T, f *failing, s *postgrestest.Server, home string) {
	to := f.path("recovered")
	recover := func(want, hint string) {
		t.Helper()
		f.fails(want, hint, "recover", "--name", "base", "--to", to)
		if _, err := os.Stat(to); !os.IsNotExist(err) {
			t.Errorf("something is left: %v", err)
		}
	}
	recover("no archived log of the server base", "db list")
	label, err := filepath.Glob(filepath.Join(home, "*.backup"))
	must(t, err)
	first := strings.SplitN(filepath.Base(label[len(label)-1]), ".", 2)[0]
	for range 3 {
		s.SQL("shop", "INSERT INTO secrets VALUES (1)")
		name := s.SQL("shop", "SELECT pg_walfile_name(pg_switch_wal())")
		waitFor(t, name, func() bool { _, err := os.Stat(filepath.Join(home, name)); return err == nil })
	}
	segments, err := filepath.Glob(filepath.Join(home, strings.Repeat("[0-9A-F]", 24)))
	must(t, err)
	segments = slices.DeleteFunc(segments, func(path string) bool { return filepath.Base(path) < first })
	last := len(segments) - 1
	push := func(path string) {
		t.Helper()
		f.want(ok, "db", "wal-push", "base", path, filepath.Base(path), "--config", f.config)
	}
	push(segments[last])
	recover("segment "+first+" of the log is missing, without which this base backup cannot be restored", "restore another base backup")
	missing := filepath.Base(segments[last-1])
	for _, path := range segments[:last-1] {
		push(path)
	}
	recover("the archived log has a gap: segment "+missing+" is missing", "name a time or a position before it: the log goes to ")
	r := f.want(ok, "db", "recover", "--name", "base", "--dry-run", "--config", f.config)
	if !strings.Contains(r.errout, "warning: the archived log has a gap: segment "+missing+" is missing") {
		t.Errorf("%v", r)
	}
	f.want(partial, "db", "wal-push", "base", f.config, missing, "--config", f.config).complaint(t, false, "archive "+missing+": it has ", "is not a whole segment")
	push(segments[last-1])
	f.want(ok, "db", "recover", "--name", "base", "--to", to, "--config", f.config)
}

// postgresDiskFull: a server without room restores nothing, and goes on.
func postgresDiskFull(t *testing.T, f *failing, s *postgrestest.Server) {
	needRoot(t, "it mounts a file system")
	base := filepath.Join(s.Data(), "base")
	s.Stop()
	size := strings.Fields(tool(t, "", "du", "-sk", base))[0]
	real := base + ".real"
	must(t, os.Rename(base, real))
	must(t, os.Mkdir(base, 0o700))
	postgrestest.Own(t, base)
	var kib int
	fmt.Sscan(size, &kib)
	mount(t, base, "-t", "tmpfs", "-o", fmt.Sprintf("size=%dk", kib+16<<10), "tmpfs") // a database alone has some 7 MB
	t.Cleanup(s.Stop)
	tool(t, "", "cp", "-a", real+"/.", base)
	s.Start()
	before := s.SQL("postgres", "SELECT datname FROM pg_database")
	f.fails(`restore database "big": load big/public.a.sql: psql: ERROR:  could not extend file "base/`, "the server's disk is full", "restore", "--name", "big", "--into", "x", "--db-socket", s.Dir, "--db-port", fmt.Sprint(s.Port), "--db-user", "postgres")
	if now := s.SQL("postgres", "SELECT datname FROM pg_database"); now != before {
		t.Errorf("databases %q, and there were %q", now, before)
	}
	s.Stop()
	to := f.small(t, "20m")
	f.fails("write "+to+"/", "choose a directory with more room", "recover", "--name", "base", "--to", to)
	if left, err := os.ReadDir(to); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	scratch := f.small(t, "60m")
	r := f.want(failed, "db", "verify", "--name", "big", "--scratch", scratch, "--config", f.config)
	if !strings.Contains(r.out, "No space left on device") || !strings.Contains(r.errout, "hint: there is no room for the scratch server") {
		t.Errorf("%v", r)
	}
}
