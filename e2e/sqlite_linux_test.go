package e2e

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A shell is SQLite's own, with a database open.
type shell struct {
	t     *testing.T
	in    io.WriteCloser
	lines *bufio.Scanner
}

func newShell(t *testing.T, path string) *shell {
	t.Helper()
	c := exec.Command("sqlite3", "-batch", path)
	in, err := c.StdinPipe()
	must(t, err)
	out, err := c.StdoutPipe()
	must(t, err)
	c.Stderr = c.Stdout
	must(t, c.Start())
	s := &shell{t, in, bufio.NewScanner(out)}
	t.Cleanup(func() {
		in.Close()
		c.Wait()
	})
	return s
}

// do runs statements and returns what they print.
func (s *shell) do(sql string) string {
	s.t.Helper()
	fmt.Fprintf(s.in, "%s\n.print done\n", sql)
	var out []string
	for s.lines.Scan() {
		if s.lines.Text() == "done" {
			return strings.Join(out, "\n")
		}
		out = append(out, s.lines.Text())
	}
	s.t.Fatalf("sqlite3 has ended: %q", out)
	return ""
}

const (
	sqliteBank = `CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER, filler TEXT);
CREATE TABLE log (text TEXT);
WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i+1 FROM n WHERE i < 999) INSERT INTO account SELECT i, 100, hex(randomblob(200)) FROM n;`
	transfer = `BEGIN; UPDATE account SET balance = balance - 1 WHERE id % 100 = abs(random()) % 100;
UPDATE account SET balance = balance + 10 WHERE id % 100 = 7; UPDATE account SET balance = balance - 10 WHERE id % 100 = 93;
UPDATE account SET balance = balance + (100000 - (SELECT sum(balance) FROM account)) WHERE id = 500;
INSERT INTO log VALUES (hex(randomblob(500))); COMMIT;`
)

// wholeBank checks a restored database, with SQLite's own program.
func wholeBank(t *testing.T, path string) {
	t.Helper()
	if got := tool(t, "", "sqlite3", path, "PRAGMA integrity_check; SELECT sum(balance), count(*) FROM account"); strings.TrimSpace(got) != "ok\n100000|1000" {
		t.Fatalf("%s: %s", path, got)
	}
}

func sqliteConfig(w *world, src, dest, more string) string {
	return w.write(fmt.Appendf(nil, "[META]\nschema_version = 6\n[DEFAULT]\nsource_dir = %s\nmode = incremental\n[BACKUPS]\nbackup_dirs = %s\n[ENCRYPTION]\nenabled = True\npassphrase = ${BACKUP_HANDLER_PASSPHRASE}\n[SQLITE]\n%s\n", src, dest, more), "home", "config.ini")
}

// TestSQLite: databases that others write to all the time are whole in each snapshot,
// without what lies beside them.
func TestSQLite(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	src, dest := w.mkdir("src"), w.path("repo")
	modes := []string{"delete", "wal"}
	stop := make(chan struct{})
	ended := make(chan struct{})
	for _, mode := range modes {
		s := newShell(t, w.path("src", mode+".db"))
		s.do(".timeout 60000\nPRAGMA journal_mode=" + mode + "; PRAGMA synchronous=OFF;\n" + sqliteBank)
		go func() {
			defer func() { ended <- struct{}{} }()
			for {
				select {
				case <-stop:
					return
				default:
					if out := s.do(transfer); out != "" {
						t.Errorf("%s: %s", mode, out)
						return
					}
				}
			}
		}()
	}
	defer func() {
		close(stop)
		for range modes {
			<-ended
		}
	}()
	w.write([]byte("of no database"), "src", "x-journal")
	config := sqliteConfig(w, src, dest, "find = True")
	for range 20 {
		w.backup(ok, "--config", config)
	}
	for _, id := range w.snapshotIDs(dest) {
		got := w.restore(ok, dest, id, src)
		for _, mode := range modes {
			wholeBank(t, filepath.Join(got, mode+".db"))
		}
		removeAll(t, got)
		if left, _ := filepath.Glob(w.path("tmp", "*")); len(left) > 0 {
			t.Fatalf("left in the temporary directory: %q", left)
		}
	}
	got := w.restore(ok, dest, "latest", src)
	left, _ := filepath.Glob(filepath.Join(got, "*"))
	if len(left) != 3 {
		t.Errorf("restored: %q", left)
	}
	w.verify(ok, dest, "--read-data")
}

// TestSQLiteWAL: what is committed is restored, also what only the WAL has; only a
// commit makes a database be read again.
func TestSQLiteWAL(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	src, dest := w.mkdir("src"), w.path("repo")
	db := w.path("src", "bank.db")
	s := newShell(t, db)
	s.do("PRAGMA journal_mode=wal; PRAGMA wal_autocheckpoint=0;\n" + sqliteBank + "\n" + transfer)
	must(t, os.Symlink("bank.db", w.path("src", "link.db")))
	must(t, exec.Command("sqlite3", w.path("src", "quiet.db"), sqliteBank).Run())
	must(t, os.Link(w.path("src", "quiet.db"), w.path("src", "same.db")))
	must(t, os.Chmod(src, 0o555))
	config := sqliteConfig(w, src, dest, "paths = "+src+"/*.db")
	w.want(ok, "preflight", "--config", config)

	before := map[string]string{}
	all, _ := filepath.Glob(w.path("src", "*"))
	for _, f := range all {
		b, _ := os.ReadFile(f)
		before[f] = string(b)
	}
	first := w.backup(ok, "--config", config).Details.Counts
	if first.Files != 3 || first.Skipped != 2 || first.Problems != 0 { // bank.db-wal and -shm
		t.Errorf("%+v", first)
	}
	again := w.backup(ok, "--config", config).Details.Counts
	if again.Unmodified != 3 || again.Read != 0 || again.Bytes != first.Bytes {
		t.Errorf("unchanged: %+v", again)
	}
	after, _ := filepath.Glob(w.path("src", "*"))
	if len(after) != len(all) {
		t.Errorf("%q, before %q", after, all)
	}
	for f, b := range before {
		if now, _ := os.ReadFile(f); string(now) != b && !strings.HasSuffix(f, "-shm") {
			t.Errorf("%s is not as before", f)
		}
	}

	s.do("INSERT INTO log VALUES ('the last one');")
	last := w.backup(ok, "--config", config).Details.Counts
	if last.Unmodified != 2 || last.Changed != 1 || last.Read == 0 {
		t.Errorf("a commit: %+v", last)
	}
	full := w.backup(ok, "--config", config, "--backup-mode", "full").Details.Counts
	if full.Problems != 0 || full.Read == 0 {
		t.Errorf("full: %+v", full)
	}
	if dry := w.backup(ok, "--config", config, "--dry-run").Details.Counts; dry.Unmodified != 3 || dry.New != 0 {
		t.Errorf("dry run: %+v", dry)
	}

	got := w.restore(ok, dest, "latest", src)
	must(t, os.Chmod(got, 0o755))
	// Where a WAL lies that is not in the snapshot, the restore says so, or removes it.
	spoiler := filepath.Join(got, "bank.db-wal")
	must(t, os.WriteFile(spoiler, []byte("of another state"), 0o600))
	r := w.run("restore", "latest:"+src, "--backup-dirs", dest, "--to", got)
	if r.code != ok || !strings.Contains(r.errout, "bank.db-wal") || !strings.Contains(r.errout, "remove it before a program opens") {
		t.Errorf("restored beside a WAL: %v", r)
	}
	w.want(ok, "restore", "latest:"+src, "--backup-dirs", dest, "--to", got, "--delete")
	if _, err := os.Lstat(spoiler); !os.IsNotExist(err) {
		t.Errorf("the WAL of another state is still there: %v", err)
	}
	must(t, os.Chmod(got, 0o755))
	wholeBank(t, filepath.Join(got, "bank.db"))
	wholeBank(t, filepath.Join(got, "same.db"))
	if text := tool(t, "", "sqlite3", filepath.Join(got, "link.db"), "SELECT text FROM log ORDER BY rowid DESC LIMIT 1"); text != "the last one\n" {
		t.Errorf("the log ends with %q", text)
	}
	if to, err := os.Readlink(filepath.Join(got, "link.db")); to != "bank.db" {
		t.Errorf("the symlink is %q, %v", to, err)
	}
	a, err := os.Stat(filepath.Join(got, "quiet.db"))
	must(t, err)
	if b, err := os.Stat(filepath.Join(got, "same.db")); err != nil || !os.SameFile(a, b) {
		t.Errorf("the hard link is none: %v", err)
	}
	w.drill(ok, "--config", config)
}

// TestSQLiteAsItIs: where there is no consistent copy, what lies there is stored, with
// all that it takes to recover it, and the run fails.
func TestSQLiteAsItIs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	src, dest := w.mkdir("src"), w.path("repo")
	s := newShell(t, w.path("src", "bank.db"))
	s.do(sqliteBank + "\nPRAGMA cache_size=5; BEGIN EXCLUSIVE; UPDATE account SET balance = 0;")
	w.write([]byte("SQLite format 3\x00"+strings.Repeat("but only so far", 100)), "src", "broken.db")
	config := sqliteConfig(w, src, dest, "find = True\nwait = 200ms")
	rep := w.backup(partial, "--config", config)
	if n := rep.Details.Counts; n.Files != 3 || n.Problems != 2 { // with bank.db-journal
		t.Errorf("%+v", n)
	}
	for i, want := range []string{"another program has kept it locked for 200ms", "it is damaged, or no database"} {
		if p := rep.Details.Problems[i]; p.Kind != "unstable" || !strings.Contains(p.Text, "no consistent copy") || !strings.Contains(p.Text, want) {
			t.Errorf("problem %+v, want %q", p, want)
		}
	}
	got := w.restore(ok, dest, "latest", src)
	wholeBank(t, filepath.Join(got, "bank.db")) // by its journal

	s.do("COMMIT;")
	must(t, os.Remove(w.path("src", "broken.db")))
	rep = w.backup(ok, "--config", config)
	if n := rep.Details.Counts; n.Files != 1 || n.Changed != 1 {
		t.Errorf("once it is free: %+v", n)
	}

	// No room for a copy.
	needRoot(t, "it mounts a file system")
	mount(t, w.path("tmp"), "-t", "tmpfs", "-o", "size=64k", "tmpfs")
	s.do("INSERT INTO log VALUES ('more');")
	rep = w.backup(partial, "--config", config)
	if p := rep.Details.Problems; len(p) != 1 || !strings.Contains(p[0].Text, "there is no room for its copy: it takes 1 MiB in "+w.path("tmp")) {
		t.Errorf("%+v", p)
	}
}

// TestSQLiteBadConfig: what is wrong is said before anything is read.
func TestSQLiteBadConfig(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	src, dest := w.tree(1, "src"), w.path("repo")
	w.want(failed, "backup", "--config", sqliteConfig(w, src, dest, "paths = /srv/[a.db")).complaint(t, true, "/srv/[a.db", "no pattern")
	r := w.want(ok, "backup", "--config", sqliteConfig(w, src, dest, "paths = "+src+"/none.db, "+src+"/d0/f000"))
	for _, want := range []string{"there is no such SQLite database", "is no SQLite database that can be read"} {
		if !strings.Contains(r.errout, want) {
			t.Errorf("want %q: %v", want, r)
		}
	}
}

// TestSQLiteOtherNames: of a database with several names, only that which its program uses
// has the WAL beside it. Under the others it is no consistent copy, and that is told, until
// the program has closed it.
func TestSQLiteOtherNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	src, dest := w.mkdir("src"), w.path("repo")
	s := newShell(t, w.path("src", "bank.db"))
	s.do("PRAGMA journal_mode=wal; PRAGMA wal_autocheckpoint=0;\n" + sqliteBank)
	w.mkdir("src", "kept")
	others := []string{w.path("src", "again.db"), w.path("src", "kept", "old.db")}
	for _, name := range others {
		must(t, os.Link(w.path("src", "bank.db"), name))
	}
	config := sqliteConfig(w, src, dest, "find = True")
	for range 2 { // it does not stop being one because nothing changes
		p := w.backup(partial, "--config", config).Details.Problems
		// The second of the others is a link to the first, which is read once.
		if len(p) != 1 || p[0].Path != others[0] || p[0].Kind != "unstable" || !strings.Contains(p[0].Text, "no consistent copy") || !strings.Contains(p[0].Text, "it is open under another name") {
			t.Errorf("%+v", p)
		}
		wholeBank(t, filepath.Join(w.restore(ok, dest, "latest", src), "bank.db"))
	}

	fmt.Fprintln(s.in, ".quit") // which ends with a checkpoint
	waitFor(t, "the WAL to go", func() bool { _, err := os.Stat(w.path("src", "bank.db-wal")); return os.IsNotExist(err) })
	w.backup(ok, "--config", config)
	got := w.restore(ok, dest, "latest", src)
	for _, name := range []string{"bank.db", "again.db", "kept/old.db"} {
		wholeBank(t, filepath.Join(got, name))
	}
}
