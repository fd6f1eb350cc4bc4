package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/dbdump/mysql/mysqltest"
	"github.com/SP1R4/BackupHandler/v3/internal/dbdump/postgres/postgrestest"
)

// logsOf are the snapshots of a kind.
func logsOf(list []dbDump, kind string) (logs []dbDump) {
	for _, d := range list {
		if d.Kind == kind {
			logs = append(logs, d)
		}
	}
	return logs
}

// TestWriteOnlyWAL: a server whose host may only write archives its log, each file in a
// snapshot of its own; a host that can read brings them together and recovers the server;
// and of two different files of one name none is taken.
func TestWriteOnlyWAL(t *testing.T) {
	t.Parallel()
	w := newPostgresWorld(t)
	home, path, file, run := w.dir, w.path, w.file, w.run
	key := file("key", "0123456789abcdef0123456789abcdef", 0o600)
	run(ok, "init", "--backup-dirs", path("repo"), "--key-file", key)
	hostKey := file("host.key", "fedcba9876543210fedcba9876543210", 0o600)
	run(ok, "key", "add", "--write-only", "--backup-dirs", path("repo"), "--key-file", key, "--new-key-file", hostKey)
	archive := fmt.Sprintf("archive_command = '%s --config %s db wal-push main %%p %%f'", w.program, path("host.ini"))
	s := postgrestest.New(t, "archive_mode = on", "wal_level = replica", archive)
	config := func(name, key string) string {
		return file(name+".ini", fmt.Sprintf("[BACKUPS]\nbackup_dirs = %s/repo\n[ENCRYPTION]\nenabled = True\nkey_file = %s\n[STATE]\ndir = %s/%s\n"+
			"[DATABASE main]\ntype = postgresql\ndatabase = *\nsocket = %s\nport = %d\nuser = postgres\ndump = False\nbase = True\n", home, key, home, name, s.Dir, s.Port), 0o600)
	}
	admin, host, elsewhere := config("admin", key), config("host", hostKey), config("elsewhere", hostKey)
	list := func() (all []dbDump) {
		t.Helper()
		must(t, json.Unmarshal([]byte(run(ok, "--config", admin, "db", "list", "--json").out), &all))
		return all
	}
	s.SQL("postgres", "CREATE TABLE t (n INT)")
	run(ok, "--config", host, "backup")
	last := ""
	var moments []time.Time // each after so many rows
	for n := range 4 {
		s.SQL("postgres", fmt.Sprintf("INSERT INTO t VALUES (%d)", n))
		time.Sleep(20 * time.Millisecond)
		moments = append(moments, time.Now())
		time.Sleep(20 * time.Millisecond)
		last = s.SQL("postgres", "SELECT pg_walfile_name(pg_switch_wal())")
		last = strings.TrimSpace(last)
	}
	waitFor(t, "the log to be archived", func() bool { return strings.Contains(run(ok, "--config", admin, "db", "list", "--json").out, last) })
	before := logsOf(list(), "postgresql-log")
	if len(before) < 5 {
		t.Fatalf("%+v", before)
	}
	recovered := func(dir string, moment time.Time, rows string) {
		t.Helper()
		run(ok, "--config", admin, "db", "recover", "--to", filepath.Join(dir, "data"), "--to-time", moment.Format(time.RFC3339Nano))
		again := postgrestest.At(t, dir)
		again.Start()
		defer again.Stop()
		waitFor(t, "the moment", func() bool {
			got, err := again.Try("postgres", "SELECT pg_is_in_recovery() AND pg_get_wal_replay_pause_state() = 'paused'")
			return err == nil && strings.TrimSpace(got) == "t"
		})
		if got := strings.TrimSpace(again.SQL("postgres", "SELECT count(*) FROM t")); got != rows {
			t.Errorf("%s rows, want %s", got, rows)
		}
	}
	dir := func() string {
		d := postgrestest.Dir(t)
		postgrestest.Own(t, d)
		return d
	}
	recovered(dir(), moments[2], "3")

	// The host itself refuses another file of a name that it has stored.
	segment := path("segment")
	run(ok, "--config", admin, "db", "wal-fetch", "main", last, segment)
	run(ok, "--config", host, "db", "wal-push", "main", segment, last)
	content, err := os.ReadFile(segment)
	must(t, err)
	content[len(content)-1] ^= 1
	other := file("other", string(content), 0o600)
	run(partial, "--config", host, "db", "wal-push", "main", other, last).complaint(t, true, "another file of this name", last)
	run(ok, "--config", host, "db", "wal-push", "main", segment, last)

	// Rules keep the log, in one snapshot with all of it and the one before.
	if r := run(ok, "--config", admin, "forget", "--keep-last", "1"); !strings.Contains(r.out, "snapshots forgotten") {
		t.Errorf("%v", r)
	}
	after := logsOf(list(), "postgresql-log")
	if len(after) != 2 {
		t.Fatalf("%+v", after)
	}
	run(ok, "--config", admin, "prune", "--alone")
	run(ok, "--config", admin, "verify", "--read-data")
	recovered(dir(), moments[1], "2")

	// Who does not know what was stored: another machine of this name, or one whose state is
	// lost.
	s.SQL("postgres", "INSERT INTO t VALUES (4)")
	time.Sleep(20 * time.Millisecond)
	moment := time.Now()
	time.Sleep(20 * time.Millisecond)
	s.SQL("postgres", "INSERT INTO t VALUES (5)")
	end := strings.TrimSpace(s.SQL("postgres", "SELECT pg_walfile_name(pg_switch_wal())"))
	waitFor(t, "the log to be archived", func() bool { return strings.Contains(run(ok, "--config", admin, "db", "list", "--json").out, end) })
	run(ok, "--config", elsewhere, "db", "wal-push", "main", other, last)
	run(200, "--config", admin, "db", "wal-fetch", "main", last, path("none")).complaint(t, true, "two different files "+last)
	if r := run(ok, "--config", admin, "db", "list"); strings.Count(r.out, "CONFLICT: "+last) != 2 {
		t.Errorf("%v", r)
	}
	count := len(logsOf(list(), "postgresql-log"))
	if r := run(partial, "--config", admin, "forget", "--keep-last", "1"); !strings.Contains(r.out+r.errout, "two different files "+last) {
		t.Errorf("%v", r)
	}
	if n := len(logsOf(list(), "postgresql-log")); n != count {
		t.Errorf("%d snapshots of the log, then %d", count, n)
	}
	late := filepath.Join(dir(), "data")
	run(failed, "--config", admin, "db", "recover", "--to", late).complaint(t, true, "two different files "+last)
	run(failed, "--config", admin, "db", "recover", "--to", late, "--to-time", moment.Format(time.RFC3339Nano)).complaint(t, true, "two different files "+last)
	if _, err := os.Stat(late); !os.IsNotExist(err) {
		t.Errorf("something was left: %v", err)
	}
	recovered(dir(), moments[1], "2") // the way there does not lead over it

	// The newest snapshot is the one with the wrong file.
	logs := logsOf(list(), "postgresql-log")
	run(ok, "--config", admin, "forget", logs[len(logs)-1].Snapshot)
	recovered(dir(), moment, "5")
}

// TestWriteOnlyBinlogs: the same with binary logs, which the server purges between the runs.
// No snapshot has all of the way.
func TestWriteOnlyBinlogs(t *testing.T) {
	t.Parallel()
	s := mysqltest.Start(t, mysqltest.Config{})
	w := newWorld(t)
	s.Exec("CREATE DATABASE shop", "CREATE TABLE shop.t (n INT PRIMARY KEY) ENGINE=InnoDB", "CREATE USER 'backup'@'localhost' IDENTIFIED BY 'hush'", "GRANT ALL ON *.* TO 'backup'@'localhost'")
	key := w.write([]byte("0123456789abcdef0123456789abcdef"), "key")
	repo := w.path("repo")
	w.want(ok, "init", "--backup-dirs", repo, "--key-file", key)
	hostKey := w.write([]byte("fedcba9876543210fedcba9876543210"), "host.key")
	w.want(ok, "key", "add", "--write-only", "--backup-dirs", repo, "--key-file", key, "--new-key-file", hostKey)
	config := func(name, key string) string {
		c := w.write(fmt.Appendf(nil, "[BACKUPS]\nbackup_dirs = %s\n[ENCRYPTION]\nenabled = True\nkey_file = %s\n[DATABASE]\ndatabase = shop\nsocket = %s\nuser = backup\npassword = ${DB_PASSWORD}\nlogs = True\n", repo, key, s.Socket), name+".ini")
		must(t, os.Chmod(c, 0o600))
		return c
	}
	w.env = append(w.env, "DB_PASSWORD=hush")
	host, admin := config("host", hostKey), config("admin", key)
	w.want(ok, "backup", "--config", host)
	purge := func() {
		t.Helper()
		logs := s.Query("SHOW BINARY LOGS")
		newest, _, _ := strings.Cut(logs[len(logs)-1], "|")
		s.Exec("PURGE BINARY LOGS TO '" + newest + "'")
	}
	for n := range 4 {
		s.Exec(fmt.Sprintf("INSERT INTO shop.t VALUES (%d)", n))
		w.want(ok, "db", "binlog", "--config", host)
		if n%2 == 0 {
			purge()
		}
	}
	s.Shell("shop", "DROP TABLE t")
	w.want(ok, "db", "binlog", "--config", host)
	if n := kinds(w.dumps(admin)); n["mysql-log"] != 6 {
		t.Errorf("%v", n)
	}
	check := func(into string) {
		t.Helper()
		w.want(ok, "db", "restore", "--into", into, "--stop-before-statement", "drop table", "--config", admin)
		if got := s.Query("SELECT COUNT(*) FROM " + into + ".t"); len(got) != 1 || got[0] != "4" {
			t.Errorf("%s: %v rows", into, got)
		}
	}
	check("together")
	if r := w.want(ok, "forget", "--keep-last", "1", "--dry-run", "--config", admin); !strings.Contains(r.out, "would be brought together") || !strings.Contains(r.out, "5 snapshots would be forgotten") {
		t.Errorf("%v", r)
	}
	if n := kinds(w.dumps(admin)); n["mysql-log"] != 6 {
		t.Errorf("a dry run has changed something: %v", n)
	}
	w.want(ok, "forget", "--keep-last", "1", "--config", admin)
	if n := kinds(w.dumps(admin)); n["mysql-log"] != 2 || n["mysql"] != 1 {
		t.Errorf("%v", n)
	}
	w.want(ok, "prune", "--alone", "--config", admin)
	w.verify(ok, repo, "--config", admin, "--read-data")
	check("gathered")

	// A log that is missing between two is a gap, whoever has the rest.
	s.Shell("shop", "CREATE TABLE u (n INT PRIMARY KEY); FLUSH BINARY LOGS; INSERT INTO u VALUES (1); FLUSH BINARY LOGS")
	purge()
	s.Shell("shop", "DROP TABLE u")
	w.want(ok, "db", "binlog", "--config", host)
	time.Sleep(time.Second) // a time is a whole second: one after what is missing
	w.want(failed, "db", "restore", "--into", "gap", "--to-time", time.Now().Format(time.RFC3339), "--config", admin).complaint(t, true, "is missing")
	check("before_the_gap")
}
