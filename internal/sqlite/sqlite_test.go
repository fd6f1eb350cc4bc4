package sqlite

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// childEnv makes this binary the other program: what is to be done, then the database.
const childEnv = "SQLITE_TEST_CHILD"

func TestMain(m *testing.M) {
	// As in the program, where nothing opens a database before New.
	if _, err := New(context.Background(), Options{}); err != nil {
		panic(err)
	}
	if what := os.Getenv(childEnv); what != "" {
		if err := child(what, os.Args[1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

const (
	accounts = 2000
	balance  = 100
)

// child writes transfers until it is told to stop, or does what is said and waits to be.
func child(what, path string) error {
	mode, do, _ := strings.Cut(what, " ")
	db, err := sql.Open("sqlite", uri(path, "_pragma=busy_timeout(60000)&_pragma=synchronous(OFF)&_pragma=journal_mode("+mode+")"))
	if err != nil {
		return err
	}
	db.SetMaxOpenConns(1)
	stop := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(stop)
	}()
	if do != "transfer" {
		if _, err := db.Exec(do); err != nil {
			return err
		}
		fmt.Println("ready")
		<-stop // and dies as it is
		return nil
	}
	for i := 0; ; i++ {
		select {
		case <-stop:
			return nil
		default:
		}
		tx, err := db.Begin()
		if err != nil {
			return err
		}
		// Ten transfers between accounts on pages far apart.
		for k := range 10 {
			from, to := (i*7+k*211)%accounts, (i*13+k*503+accounts/2)%accounts
			tx.Exec("UPDATE account SET balance = balance - 1 WHERE id = ?", from)
			tx.Exec("UPDATE account SET balance = balance + 1 WHERE id = ?", to)
		}
		tx.Exec("INSERT INTO log (text) VALUES (hex(randomblob(300)))") // it grows
		if err := tx.Commit(); err != nil {
			return err
		}
		if i == 20 {
			fmt.Println("ready")
		}
	}
}

// start starts a child, which ends with the test, or when stop is called.
func start(t *testing.T, what, path string) (stop func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0], path)
	cmd.Env = append(os.Environ(), childEnv+"="+what)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	stop = func() {
		if ended {
			return
		}
		ended = true
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the other program: %v: %s", err, complaints.String())
		}
	}
	t.Cleanup(stop)
	if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
		stop()
		t.Fatalf("the other program is not ready: %v", err)
	}
	go io.Copy(io.Discard, out)
	return stop
}

// open opens a database to write.
func open(t *testing.T, path, query string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", uri(path, strings.TrimPrefix(query+"&_pragma=synchronous(OFF)", "&")))
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { db.Close() })
	return db
}

func run(t *testing.T, db *sql.DB, statements ...string) {
	t.Helper()
	for _, s := range statements {
		if _, err := db.Exec(s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

// bank makes a database of accounts.
func bank(t *testing.T, path string, pragmas ...string) {
	t.Helper()
	db := open(t, path, "")
	run(t, db, pragmas...)
	run(t, db, "CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER, filler TEXT)",
		"CREATE TABLE log (id INTEGER PRIMARY KEY, text TEXT)",
		"CREATE INDEX byText ON log (text)",
		fmt.Sprintf("WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i+1 FROM n WHERE i+1 < %d) INSERT INTO account SELECT i, %d, hex(randomblob(100)) FROM n", accounts, balance))
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// check opens what was copied, under another name, and looks whether it is whole.
func check(t *testing.T, content []byte) *sql.DB {
	t.Helper()
	path := filepath.Join(t.TempDir(), "restored.db")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	db := open(t, path, "")
	if got := ask(t, db, "PRAGMA integrity_check"); got != "ok" {
		t.Fatalf("integrity_check: %s", got)
	}
	return db
}

func ask(t *testing.T, db *sql.DB, query string) string {
	t.Helper()
	var got string
	if err := db.QueryRow(query).Scan(&got); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return got
}

func checkBank(t *testing.T, content []byte) *sql.DB {
	t.Helper()
	db := check(t, content)
	if got := ask(t, db, "SELECT sum(balance) || ' ' || count(*) FROM account"); got != fmt.Sprint(accounts*balance, accounts) {
		t.Fatalf("sum and count of the accounts: %s", got)
	}
	return db
}

// copier returns one whose temporary directory has to be empty in the end.
func copier(t *testing.T, o Options) *Copier {
	t.Helper()
	o.Dir = t.TempDir()
	if o.Wait == 0 {
		o.Wait = 10 * time.Second
	}
	c, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if left, _ := os.ReadDir(o.Dir); len(left) > 0 {
			t.Errorf("left in the temporary directory: %v", left)
		}
	})
	return c
}

// copyOf copies a database; nil: it is to be read as it is.
func copyOf(t *testing.T, c *Copier, path string) ([]byte, error) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	made, err := c.Copy(At(path, f))
	if made == nil || err != nil {
		return nil, err
	}
	defer made.Close()
	content, err := io.ReadAll(io.NewSectionReader(made, 0, made.Size()))
	if err != nil {
		t.Fatal(err)
	}
	if info, err := made.Stat(); err != nil || info.Size() != int64(len(content)) || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("the copy is %v, %v", info, err)
	}
	return content, nil
}

func mustCopy(t *testing.T, c *Copier, path string) []byte {
	t.Helper()
	content, err := copyOf(t, c, path)
	if err != nil {
		t.Fatal(err)
	}
	if content == nil {
		t.Fatal("not copied, to be read as it is")
	}
	return content
}

// folder is what lies in a directory, by name.
func folder(t *testing.T, dir string) map[string]string {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, e := range all {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		got[e.Name()] = string(b)
	}
	return got
}

// TestUnderWrites: whatever another process does, and whoever opens and closes the file
// in this one, each copy is of one moment. Read as files, some copies are torn (see
// TestRawIsTorn); with POSIX locks, which a close drops, the first ones are as well.
func TestUnderWrites(t *testing.T) {
	for _, mode := range []string{"delete", "wal", "truncate", "persist"} {
		t.Run(mode, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "bank.db")
			bank(t, path)
			start(t, mode+" transfer", path)
			c := copier(t, Options{})
			stop, done := make(chan struct{}), make(chan struct{})
			go func() { // as anybody else in this process may
				defer close(done)
				for {
					select {
					case <-stop:
						return
					case <-time.After(100 * time.Microsecond):
						if f, err := os.Open(path); err == nil {
							f.Close()
						}
					}
				}
			}()
			defer func() { close(stop); <-done }()
			copies := 20
			if mode == "truncate" || mode == "persist" {
				copies = 5
			}
			var last []byte
			for n := 0; n < copies; {
				content := mustCopy(t, c, path)
				if bytes.Equal(content, last) {
					continue // nothing was written in between
				}
				last = content
				checkBank(t, content).Close()
				n++
			}
		})
	}
}

// TestRawIsTorn shows, on demand, that TestUnderWrites can fail.
func TestRawIsTorn(t *testing.T) {
	if os.Getenv("BACKUP_HANDLER_SQLITE_TORN") == "" {
		t.Skip("an experiment: set BACKUP_HANDLER_SQLITE_TORN=1")
	}
	for _, mode := range []string{"delete", "wal"} {
		path := filepath.Join(t.TempDir(), "bank.db")
		bank(t, path)
		stop := start(t, mode+" transfer", path)
		torn := 0
		for range 50 {
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			name := filepath.Join(t.TempDir(), "raw.db")
			os.WriteFile(name, content, 0o600)
			db := open(t, name, "")
			var ok, sum string
			db.QueryRow("PRAGMA integrity_check").Scan(&ok)
			db.QueryRow("SELECT sum(balance) FROM account").Scan(&sum)
			db.Close()
			if ok != "ok" || sum != fmt.Sprint(accounts*balance) {
				torn++
			}
		}
		t.Logf("%s: %d of 50 raw copies are torn", mode, torn)
		stop()
	}
}

// TestSame: a copy of what nobody writes equals the file, whatever its layout.
func TestSame(t *testing.T) {
	for _, size := range []int{512, 1024, 2048, 4096, 8192, 16384, 32768, 65536} {
		for _, vacuum := range []string{"none", "full", "incremental"} {
			if vacuum != "none" && size != 1024 && size != 4096 {
				continue
			}
			t.Run(fmt.Sprint(size, vacuum), func(t *testing.T) {
				dir := t.TempDir()
				path := filepath.Join(dir, "a b?c#d%20\xff'é.db")
				bank(t, path, fmt.Sprintf("PRAGMA page_size=%d", size), "PRAGMA auto_vacuum="+vacuum)
				db := open(t, path, "")
				run(t, db, "INSERT INTO log (text) SELECT hex(randomblob(500)) FROM account", "DELETE FROM log WHERE id % 3 = 0", "PRAGMA user_version=77")
				db.Close()
				before := folder(t, dir)
				got := mustCopy(t, copier(t, Options{}), path)
				if string(got) != before[filepath.Base(path)] {
					t.Errorf("the copy of %d bytes is not the file of %d", len(got), len(before[filepath.Base(path)]))
				}
				checkBank(t, got)
				if after := folder(t, dir); fmt.Sprint(after) != fmt.Sprint(before) {
					t.Error("the directory is not as before")
				}
			})
		}
	}
}

// TestWAL: what is committed is in the copy, wherever it is; and nothing is changed.
func TestWAL(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "bank.db")
	bank(t, path)
	c := copier(t, Options{})
	db := open(t, path, "_pragma=journal_mode(wal)&_pragma=wal_autocheckpoint(0)")
	run(t, db, "INSERT INTO log (text) VALUES ('in the WAL only')")
	before := folder(t, dir)
	delete(before, "bank.db-shm") // readers say there what they read
	first := mustCopy(t, c, path)
	if got := ask(t, checkBank(t, first), "SELECT text FROM log"); got != "in the WAL only" {
		t.Errorf("the log says %q", got)
	}
	if again := mustCopy(t, c, path); !bytes.Equal(again, first) {
		t.Error("two copies of the same state differ")
	}
	after := folder(t, dir)
	delete(after, "bank.db-shm")
	if fmt.Sprint(after) != fmt.Sprint(before) {
		t.Error("the database or its WAL is not as before")
	}

	// The program has written everything into the database and keeps the WAL.
	run(t, db, "PRAGMA wal_checkpoint(RESTART)")
	if got := ask(t, checkBank(t, mustCopy(t, c, path)), "SELECT count(*) FROM log"); got != "1" {
		t.Errorf("%s lines in the log", got)
	}
	run(t, db, "PRAGMA wal_checkpoint(TRUNCATE)")
	if content, err := copyOf(t, c, path); err != nil || content != nil {
		t.Errorf("an empty WAL: copied %d bytes, %v", len(content), err)
	}
	// The program ends, and so does the WAL: SQLite would make one to look.
	db.Close()
	before = folder(t, dir)
	if content, err := copyOf(t, c, path); err != nil || content != nil {
		t.Errorf("no WAL: copied %d bytes, %v", len(content), err)
	}
	if after := folder(t, dir); len(before) != 1 || len(after) != 1 {
		t.Errorf("%d files, %d before", len(after), len(before))
	}
}

// crashed makes a database as it is after a crash: what a child has left of it.
func crashed(t *testing.T, mode, do string, leave ...string) string {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "bank.db")
	bank(t, path)
	stop := start(t, mode+" "+do, path)
	other := filepath.Join(t.TempDir(), "crashed.db")
	for _, suffix := range append(leave, "") {
		b, err := os.ReadFile(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(other+suffix, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	return other
}

// TestCrashed: of a database whose program has crashed, the copy is what SQLite recovers;
// the files are left to the program.
func TestCrashed(t *testing.T) {
	const cache = "PRAGMA cache_size=10; PRAGMA wal_autocheckpoint=0;" // so that it spills
	const half = cache + "BEGIN; UPDATE account SET balance = balance - 1;"
	const whole = half + "UPDATE account SET balance = balance + 1; INSERT INTO log (text) VALUES ('committed'); COMMIT;"
	for name, x := range map[string]struct {
		mode, do string
		leave    []string
		log      string
	}{
		"journal":     {"delete", half, []string{Journal}, "0"},
		"WAL":         {"wal", whole + half, []string{WAL}, "1"},
		"WAL and SHM": {"wal", whole + half, []string{WAL, SHM}, "1"},
		"both":        {"wal", whole, []string{WAL, SHM}, "1"},
	} {
		t.Run(name, func(t *testing.T) {
			path := crashed(t, x.mode, x.do, x.leave...)
			before := folder(t, filepath.Dir(path))
			db := checkBank(t, mustCopy(t, copier(t, Options{}), path))
			if got := ask(t, db, "SELECT count(*) FROM log"); got != x.log {
				t.Errorf("%s lines in the log, want %s", got, x.log)
			}
			after := folder(t, filepath.Dir(path))
			delete(before, "crashed.db-shm") // SQLite's index of the WAL, which it makes anew
			delete(after, "crashed.db-shm")
			if fmt.Sprint(after) != fmt.Sprint(before) {
				t.Error("the files are not as before")
			}
		})
	}
}

// TestAlone: programs that share their database with nobody. In rollback mode nothing
// can be known of it; a WAL says what is committed.
func TestAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bank.db")
	bank(t, path)
	stop := start(t, "delete BEGIN EXCLUSIVE; UPDATE account SET balance = 0", path)
	begin := time.Now()
	_, err := copyOf(t, copier(t, Options{Wait: 300 * time.Millisecond}), path)
	if err == nil || !strings.Contains(err.Error(), "another program has kept it locked for 300ms") {
		t.Errorf("error %v", err)
	}
	if took := time.Since(begin); took < 300*time.Millisecond {
		t.Errorf("waited %v only", took)
	}
	stop()
	mustCopy(t, copier(t, Options{}), path)

	start(t, "wal PRAGMA locking_mode=EXCLUSIVE; PRAGMA wal_autocheckpoint=0; BEGIN; UPDATE account SET balance = balance; INSERT INTO log (text) VALUES ('committed'); COMMIT; BEGIN; UPDATE account SET balance = 0", path)
	db := checkBank(t, mustCopy(t, copier(t, Options{Wait: 300 * time.Millisecond}), path))
	if got := ask(t, db, "SELECT text FROM log"); got != "committed" {
		t.Errorf("the log says %q", got)
	}
}

// TestGivesUp: a wait ends with the run.
func TestGivesUp(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bank.db")
	bank(t, path)
	start(t, "delete BEGIN EXCLUSIVE", path)
	ctx, cancel := context.WithCancel(t.Context())
	c, err := New(ctx, Options{Wait: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := copyOf(t, c, path); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestNoDatabase(t *testing.T) {
	whole := filepath.Join(t.TempDir(), "bank.db")
	bank(t, whole)
	good, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(b []byte) []byte{
		"page size":  func(b []byte) []byte { b[16], b[17] = 3, 3; return b },
		"fractions":  func(b []byte) []byte { b[21], b[22] = 0, 0; return b },
		"text":       func(b []byte) []byte { return append(b[:len(magic)], strings.Repeat("and so it began", 100)...) },
		"first page": func(b []byte) []byte { return b[:300] },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "bad.db")
			if err := os.WriteFile(path, spoil(bytes.Clone(good)), 0o600); err != nil {
				t.Fatal(err)
			}
			content, err := copyOf(t, copier(t, Options{}), path)
			if err == nil || !strings.Contains(err.Error(), "it is damaged, or no database") {
				t.Errorf("copied %d bytes, %v", len(content), err)
			}
		})
	}
	for _, head := range []string{"", magic, strings.Repeat("x", 200)} {
		if IsDatabase([]byte(head)) {
			t.Errorf("%q is a database", head)
		}
	}
	if !IsDatabase(good) {
		t.Error("a database is none")
	}
}

func TestNoRoom(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bank.db")
	bank(t, path)
	c := copier(t, Options{Room: func(string) (int64, error) { return 100 << 10, nil }})
	_, err := copyOf(t, c, path)
	if err == nil || !strings.Contains(err.Error(), "there is no room for its copy: it takes 1 MiB in "+c.o.Dir+", which has 0 MiB; set TMPDIR") {
		t.Errorf("error %v", err)
	}
}

func TestReplaced(t *testing.T) {
	dir := t.TempDir()
	path, other := filepath.Join(dir, "bank.db"), filepath.Join(dir, "other.db")
	bank(t, path)
	bank(t, other)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := At(path, f)
	if err := os.Rename(other, path); err != nil {
		t.Fatal(err)
	}
	if _, err := copier(t, Options{}).Copy(s); !errors.Is(err, errReplaced) {
		t.Errorf("error %v", err)
	}
}

func TestWants(t *testing.T) {
	for _, x := range []struct {
		patterns []string
		find     bool
		path     string
		want     bool
	}{
		{nil, false, "/srv/a.db", false},
		{nil, true, "/srv/a.db", true},
		{[]string{"/srv/a.db"}, false, "/srv/a.db", true},
		{[]string{"/srv/*.db", "/home/*/.config/x"}, false, "/home/u/.config/x", true},
		{[]string{"/srv/*.db"}, false, "/srv/x/a.db", false},
		{[]string{"/srv/[ab].db"}, false, "/srv/b.db", true},
	} {
		c, err := New(t.Context(), Options{Paths: x.patterns, Find: x.find})
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Wants(x.path); got != x.want {
			t.Errorf("%v: wants %s: %v", x.patterns, x.path, got)
		}
	}
	for _, bad := range []string{"", "a.db", "/srv/[a.db"} {
		if _, err := New(t.Context(), Options{Paths: []string{bad}}); err == nil {
			t.Errorf("pattern %q is accepted", bad)
		}
	}
}
