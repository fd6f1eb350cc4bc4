package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/dbdump/mysql/mysqltest"
	"github.com/SP1R4/BackupHandler/v3/internal/dbdump/postgres/postgrestest"
)

// dbDump is what db list --json tells.
type dbDump struct {
	Snapshot, Name, Kind, Error string
	Bytes                       int64
	Dump                        *struct {
		Server    string
		Databases []struct{ Name string }
		Position  *struct {
			File   string
			Offset int64
		}
	}
	Logs *struct {
		Files []struct{ Name string }
	}
}

// dumps lists what there is of databases.
func (w *world) dumps(config string) (list []dbDump) {
	w.t.Helper()
	r := w.want(ok, "db", "list", "--json", "--config", config)
	must(w.t, json.Unmarshal([]byte(r.out), &list))
	return list
}

// kinds counts them.
func kinds(list []dbDump) map[string]int {
	n := make(map[string]int)
	for _, d := range list {
		n[d.Kind]++
	}
	return n
}

// bankSchema is a bank whose balances sum up to nothing, whoever pays whom.
const bankSchema = "CREATE TABLE accounts (id INT PRIMARY KEY, balance BIGINT NOT NULL); CREATE TABLE transfers (id BIGINT PRIMARY KEY, payer INT, payee INT, amount BIGINT)"

const bankAccounts = 20

// A bank makes transfers until it is stopped.
type bank struct {
	stop context.CancelFunc
	done sync.WaitGroup
	mu   sync.Mutex
	n    int // transfers committed
	err  error
}

// open starts transfers; transfer commits the one with a number.
func openBank(t *testing.T, transfer func(id, payer, payee, amount int) error) *bank {
	ctx, cancel := context.WithCancel(context.Background())
	b := &bank{stop: cancel}
	b.done.Go(func() {
		r := rand.New(rand.NewPCG(1, 2))
		for id := 1; ctx.Err() == nil; id++ {
			payer := r.IntN(bankAccounts)
			err := transfer(id, payer, (payer+1+r.IntN(bankAccounts-1))%bankAccounts, 1+r.IntN(100))
			b.mu.Lock()
			if b.err = err; err == nil {
				b.n = id
			}
			b.mu.Unlock()
			if err != nil {
				return
			}
			time.Sleep(2 * time.Millisecond)
		}
	})
	t.Cleanup(b.close)
	return b
}

func (b *bank) close() { b.stop(); b.done.Wait() }

func (b *bank) committed(t *testing.T) int {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	must(t, b.err)
	return b.n
}

// TestMySQL: a database is dumped while it is written to, its logs are archived, and it
// comes back as of its dump and as of moments between.
func TestMySQL(t *testing.T) {
	t.Parallel()
	s := mysqltest.Start(t, mysqltest.Config{})
	w := newWorld(t)
	s.Exec("CREATE DATABASE bank", "CREATE USER 'backup'@'localhost' IDENTIFIED BY 'hush'", "GRANT ALL ON *.* TO 'backup'@'localhost'")
	s.Shell("bank", bankSchema)
	for i := range bankAccounts {
		s.Exec(fmt.Sprintf("INSERT INTO bank.accounts VALUES (%d, 0)", i))
	}
	w.write([]byte("a file"), "src", "file")
	section := func(more string) string {
		config := w.write(fmt.Appendf(nil, "[DEFAULT]\nsource_dir = %s\nmode = incremental\n[BACKUPS]\nbackup_dirs = %s, %s\n[ENCRYPTION]\nenabled = True\npassphrase = ${BACKUP_HANDLER_PASSPHRASE}\n"+
			"[DATABASE]\ndatabase = bank\nsocket = %s\nuser = backup\npassword = ${DB_PASSWORD}\n%s", w.path("src"), w.path("repo"), w.path("second"), s.Socket, more), "config.ini")
		must(t, os.Chmod(config, 0o600))
		return config
	}
	config := section("logs = True\n")
	w.env = append(w.env, "DB_PASSWORD=hush")

	// A dry run runs nothing; a wrong password stores nothing of the database, but the files.
	if r := w.want(ok, "backup", "--config", config, "--dry-run"); !strings.Contains(r.out, "a dump of bank") {
		t.Errorf("%v", r)
	}
	w.env[len(w.env)-1] = "DB_PASSWORD=wrong"
	r := w.want(partial, "backup", "--config", config)
	if !strings.Contains(r.out, "/db/mysql  FAILED, and not stored") || !strings.Contains(r.out, "Access denied") || strings.Contains(r.out+r.errout, "wrong") {
		t.Errorf("%v", r)
	}
	if n := len(w.dumps(config)); n != 0 || len(w.snapshotIDs(w.path("repo"))) != 1 {
		t.Errorf("%d dumps, snapshots %v", n, w.snapshotIDs(w.path("repo")))
	}
	w.env[len(w.env)-1] = "DB_PASSWORD=hush"

	db := s.Open("root", "", "bank")
	defer db.Close()
	b := openBank(t, func(id, payer, payee, amount int) error {
		tx, err := db.Begin()
		if err != nil {
			return err
		}
		defer tx.Rollback()
		for _, q := range []string{
			fmt.Sprintf("UPDATE accounts SET balance = balance - %d WHERE id = %d", amount, payer), fmt.Sprintf("UPDATE accounts SET balance = balance + %d WHERE id = %d", amount, payee),
			fmt.Sprintf("INSERT INTO transfers VALUES (%d, %d, %d, %d)", id, payer, payee, amount),
		} {
			if _, err := tx.Exec(q); err != nil {
				return err
			}
		}
		return tx.Commit()
	})
	waitFor(t, "transfers", func() bool { return b.committed(t) > 50 })
	w.want(ok, "backup", "--config", config)
	// Moments between full seconds, and how many transfers were committed before and after.
	type moment struct {
		at          time.Time
		least, most int
	}
	var moments []moment
	for len(moments) < 3 {
		at := time.Now().Add(time.Second).Truncate(time.Second)
		time.Sleep(time.Until(at.Add(-100 * time.Millisecond)))
		least := b.committed(t)
		if !time.Now().Before(at) { // a busy machine: the next one
			continue
		}
		time.Sleep(time.Until(at.Add(100 * time.Millisecond)))
		moments = append(moments, moment{at, least, b.committed(t)})
	}
	time.Sleep(time.Second)
	b.close()
	total := b.committed(t)
	s.Shell("bank", "DROP TABLE transfers")
	w.want(ok, "db", "binlog", "--config", config)
	if r := w.want(ok, "runs", "show", "latest", "--config", config); !strings.Contains(r.out, "command      binlog") {
		t.Errorf("an archive of a log passes for a backup: %v", r)
	}
	list := w.dumps(config)
	if n := kinds(list); n["mysql"] != 1 || n["mysql-log"] != 2 {
		t.Errorf("%+v", list)
	}
	if p := list[0].Dump; p == nil || p.Position == nil || p.Position.File == "" || len(p.Databases) != 1 {
		t.Errorf("%+v", list[0])
	}

	check := func(database string, least, most int) {
		t.Helper()
		got := s.Query("SELECT (SELECT SUM(balance) FROM " + database + ".accounts), COUNT(*) FROM " + database + ".transfers")
		var sum, n int
		if _, err := fmt.Sscanf(strings.Join(got, ""), "%d|%d", &sum, &n); err != nil || sum != 0 || n < least || n > most {
			t.Errorf("%s: balances and transfers %q, want 0 and %d to %d: %v", database, got, least, most, err)
		}
		if bad := s.Query("SELECT a.id FROM " + database + ".accounts a WHERE balance <> (SELECT COALESCE(SUM(amount), 0) FROM " + database + ".transfers WHERE payee = a.id) - (SELECT COALESCE(SUM(amount), 0) FROM " + database + ".transfers WHERE payer = a.id)"); len(bad) > 0 {
			t.Errorf("%s: the accounts %v are not what their transfers say", database, bad)
		}
	}
	w.want(ok, "db", "restore", "--into", "as_dumped", "--config", config)
	check("as_dumped", 50, total)
	w.want(failed, "db", "restore", "--into", "as_dumped", "--config", config).complaint(t, true, "as_dumped")
	w.want(ok, "db", "restore", "--into", "as_dumped", "--replace", "--config", config)
	check("as_dumped", 50, total)
	for i, m := range moments {
		name := fmt.Sprint("moment_", i)
		w.want(ok, "db", "restore", "--into", name, "--to-time", m.at.Format(time.RFC3339), "--config", config)
		check(name, m.least-50, m.most+50) // clocks of one machine, but not of one process
	}
	w.want(ok, "db", "restore", "--into", "before_drop", "--stop-before-statement", "drop table", "--config", config)
	check("before_drop", total, total)
	w.want(failed, "db", "restore", "--into", "too_late", "--to-time", time.Now().Add(time.Hour).Format(time.RFC3339), "--config", config).complaint(t, true, "restore is possible up to")
	w.want(failed, "db", "restore", "--into", "too_early", "--to-time", "2020-01-01 00:00:00", "--config", config).complaint(t, true, "there is no dump before")
	if got := s.Query("SELECT schema_name FROM information_schema.schemata WHERE schema_name LIKE '%too%' OR schema_name LIKE '%restoring%'"); len(got) > 0 {
		t.Errorf("left behind: %v", got)
	}

	// Again and again, until it is told to stop: each time is a run.
	archives := func() int {
		return strings.Count(w.want(ok, "runs", "--command", "binlog", "--config", config).out, "binlog")
	}
	before := archives()
	c, end := w.start("db", "binlog", "--every", "100ms", "--config", config)
	waitFor(t, "four more archives", func() bool { return archives() >= before+4 })
	must(t, c.Process.Signal(syscall.SIGTERM))
	if r := end(); r.code != interrupted {
		t.Errorf("%v", r)
	}
	if n := kinds(w.dumps(config)); n["mysql-log"] > 3 { // one more if the last run was ended early
		t.Errorf("what is superseded stays: %v", n)
	}
	w.want(ok, "db", "restore", "--into", "still_there", "--stop-before-statement", "drop table", "--config", config)
	check("still_there", total, total)

	// Programs of a configuration that others can change are not run.
	section("logs = True\nextra_args = --result-file=" + w.path("elsewhere") + "\n")
	must(t, os.Chmod(config, 0o666))
	w.want(failed, "backup", "--config", config).complaint(t, true, "extra_args are not used")
	w.want(failed, "db", "restore", "--into", "untrusted", "--config", config).complaint(t, true, "extra_args are not used")
	section("logs = True\n")

	// Its proof, also as part of a drill. The server is another user, whom nobody lets into
	// the test's own directory.
	if os.Geteuid() == 0 {
		if r := w.want(failed, "db", "verify", "--config", config); !strings.Contains(r.out, "cannot enter "+w.path("tmp")) || !strings.Contains(r.errout, "hint: choose another directory") {
			t.Errorf("%v", r)
		}
	}
	must(t, os.Chmod(w.path("tmp"), 0o711))
	if r := w.want(ok, "db", "verify", "--config", config); !strings.Contains(r.out, "ok: 2 tables") {
		t.Errorf("%v", r)
	}
	if r := w.want(ok, "drill", "--config", config, "--backup-dirs", w.path("second")); !strings.Contains(r.out, "ok: 2 tables") || !strings.Contains(r.out, "passed") {
		t.Errorf("%v", r)
	}
	w.verify(ok, w.path("second"), "--config", config)

	// As 2.5 wrote it.
	r = w.want(ok, "--operation-modes", "db", "--config", config, "--backup-dirs", w.path("third"))
	if !strings.Contains(r.out, "2 of 2 streams") || len(w.snapshotIDs(w.path("third"))) != 2 {
		t.Errorf("%v", r)
	}
}

// A postgresWorld is a directory of the account that PostgreSQL runs as, with the program in
// it, which the server starts itself.
type postgresWorld struct {
	t            *testing.T
	dir, program string
}

func newPostgresWorld(t *testing.T) *postgresWorld {
	t.Helper()
	w := &postgresWorld{t: t, dir: postgrestest.Dir(t)}
	postgrestest.Own(t, w.dir)
	program, err := os.ReadFile(binary)
	must(t, err)
	w.program = w.file("backup-handler", string(program), 0o755)
	return w
}

func (w *postgresWorld) path(name string) string { return filepath.Join(w.dir, name) }

// file makes a file of the account's.
func (w *postgresWorld) file(name, text string, mode os.FileMode) string {
	w.t.Helper()
	must(w.t, os.WriteFile(w.path(name), []byte(text), mode))
	postgrestest.Own(w.t, w.path(name))
	return w.path(name)
}

// run executes the program as the account, which has to end with a code.
func (w *postgresWorld) run(code int, args ...string) result {
	w.t.Helper()
	c := postgrestest.As(w.t, exec.Command(w.program, args...))
	c.Dir, c.Env = w.dir, append(c.Env, "HOME="+w.dir, "XDG_CACHE_HOME="+w.path("cache"), "PATH="+os.Getenv("PATH"))
	var out, errout strings.Builder
	c.Stdout, c.Stderr = &out, &errout
	err := c.Run()
	if c.ProcessState == nil {
		w.t.Fatal(err)
	}
	r := result{args: args, code: c.ProcessState.ExitCode(), out: out.String(), errout: errout.String()}
	if r.code != code {
		w.t.Fatalf("want exit code %d: %v", code, r)
	}
	return r
}

// TestPostgreSQL: dumps, base backups, and moments by the program as archive_command and
// restore_command of real servers.
func TestPostgreSQL(t *testing.T) {
	t.Parallel()
	w := newPostgresWorld(t)
	home, program, config := w.dir, w.program, w.path("config.ini")
	key := w.file("key", "0123456789abcdef0123456789abcdef", 0o600)
	archive := fmt.Sprintf("archive_command = '%s --config %s db wal-push main %%p %%f'", program, config)
	s := postgrestest.New(t, "archive_mode = on", "wal_level = replica", archive)
	w.file("config.ini", fmt.Sprintf("[BACKUPS]\nbackup_dirs = %s/repo\n[ENCRYPTION]\nenabled = True\nkey_file = %s\n[STATE]\ndir = %s/state\n"+
		"[DATABASE main]\ntype = postgresql\ndatabase = *\nsocket = %s\nport = %d\nuser = postgres\nbase = True\ngrants = True\n", home, key, home, s.Dir, s.Port), 0o600)
	run := func(code int, args ...string) result {
		t.Helper()
		return w.run(code, append([]string{"--config", config}, args...)...)
	}
	psql := func(server *postgrestest.Server, database, query string) string {
		t.Helper()
		out, err := server.Command(t.Context(), database, "psql", "-X", "-A", "-t", "-q", "-c", query).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", query, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	psql(s, "postgres", "CREATE DATABASE bank")
	psql(s, "bank", bankSchema+fmt.Sprintf("; INSERT INTO accounts SELECT g, 0 FROM generate_series(0, %d) g", bankAccounts-1))
	b := openBank(t, func(id, payer, payee, amount int) error {
		q := fmt.Sprintf("BEGIN; UPDATE accounts SET balance = balance - %d WHERE id = %d; UPDATE accounts SET balance = balance + %d WHERE id = %d; INSERT INTO transfers VALUES (%d, %d, %d, %d); COMMIT",
			amount, payer, amount, payee, id, payer, payee, amount)
		out, err := s.Command(context.Background(), "bank", "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", q).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	waitFor(t, "transfers", func() bool { return b.committed(t) > 10 })
	if r := run(ok, "backup"); !strings.Contains(r.out, "2 of 2 streams") {
		t.Errorf("%v", r)
	}
	waitFor(t, "more transfers", func() bool { return b.committed(t) > 60 })
	least := b.committed(t)
	moment := time.Now()
	most := b.committed(t) + 1 // one may be on its way
	time.Sleep(500 * time.Millisecond)
	b.close()
	total := b.committed(t)
	psql(s, "bank", "DROP TABLE transfers")
	last := psql(s, "postgres", "SELECT pg_walfile_name(pg_switch_wal())")
	waitFor(t, "the log to be archived", func() bool { return strings.Contains(run(ok, "db", "list", "--json").out, last) })
	// Each push makes a snapshot, and forgets what it supersedes.
	var list []dbDump
	must(t, json.Unmarshal([]byte(run(ok, "db", "list", "--json").out), &list))
	if n := kinds(list); n["postgresql"] != 1 || n["postgresql-base"] != 1 || n["postgresql-log"] != 2 {
		t.Errorf("%v: %+v", n, list)
	}

	// The same file again is well, another one of the name is not, and both are told by the
	// exit code.
	segment := filepath.Join(home, "segment")
	run(ok, "db", "wal-fetch", "main", last, segment)
	run(ok, "db", "wal-push", "main", segment, last)
	content, err := os.ReadFile(segment)
	must(t, err)
	content[len(content)-1] ^= 1
	other := filepath.Join(home, "other")
	must(t, os.WriteFile(other, content, 0o600))
	postgrestest.Own(t, other)
	run(partial, "db", "wal-push", "main", other, last).complaint(t, true, last)
	run(failed, "db", "wal-fetch", "main", "0000000100000000000000FF", filepath.Join(home, "none"))
	// Whatever else is wrong must not look like the end of the log, at which a recovery
	// opens the database.
	const stop = 200
	none := filepath.Join(home, "none")
	run(stop, "db", "wal-fetch", "other", last, none).complaint(t, true, "no archived log of the server other")
	run(stop, "db", "wal-fetch", "main", last, none, "--hosts", "x").complaint(t, true, "unknown flag")
	run(stop, "db", "wal-fetch", "main", last).complaint(t, true, "want NAME FILE PATH")
	run(stop, "db", "wal-fetch", "main", last, filepath.Join(home, "no", "such", "directory")).complaint(t, true, "no such file or directory")
	must(t, os.Rename(filepath.Join(home, "repo"), filepath.Join(home, "away")))
	run(stop, "db", "wal-fetch", "main", last, none).complaint(t, true, "")
	must(t, os.Rename(filepath.Join(home, "away"), filepath.Join(home, "repo")))
	must(t, os.Rename(config, config+".away"))
	run(stop, "db", "wal-fetch", "main", last, none).complaint(t, true, "config.ini")
	must(t, os.Rename(config+".away", config))

	// The dump, beside the database.
	run(ok, "db", "restore", "--database", "bank", "--into", "as_dumped")
	check := func(server *postgrestest.Server, database string, least, most int) {
		t.Helper()
		got := psql(server, database, "SELECT (SELECT SUM(balance) FROM accounts), COUNT(*) FROM transfers")
		var sum, n int
		if _, err := fmt.Sscanf(got, "%d|%d", &sum, &n); err != nil || sum != 0 || n < least || n > most {
			t.Errorf("balances and transfers %q, want 0 and %d to %d: %v", got, least, most, err)
		}
	}
	check(s, "as_dumped", 10, total)
	if r := run(ok, "db", "verify"); !strings.Contains(r.out, "  ok: ") {
		t.Errorf("%v", r)
	}
	if r := run(ok, "drill"); !strings.Contains(r.out, "  ok: ") {
		t.Errorf("%v", r)
	}

	// The whole server, as of a moment.
	dir := postgrestest.Dir(t)
	postgrestest.Own(t, dir)
	restored := filepath.Join(dir, "data")
	at := moment.Format(time.RFC3339Nano)
	if r := run(ok, "db", "recover", "--to-time", at, "--dry-run"); !strings.Contains(r.out, "the archived log reaches to") {
		t.Errorf("%v", r)
	}
	run(ok, "db", "recover", "--to", restored, "--to-time", at)
	again := postgrestest.At(t, dir)
	again.Start()
	waitFor(t, "the moment", func() bool {
		return psql(again, "postgres", "SELECT pg_is_in_recovery() AND pg_get_wal_replay_pause_state() = 'paused'") == "t"
	})
	check(again, "bank", least, most)
	run(failed, "db", "recover", "--to", restored, "--to-time", at).complaint(t, true, "empty")
	run(failed, "db", "recover", "--to", filepath.Join(dir, "late"), "--to-time", time.Now().Add(time.Hour).Format(time.RFC3339)).complaint(t, true, "")
	if _, err := os.Stat(filepath.Join(dir, "late")); !os.IsNotExist(err) {
		t.Errorf("something was left: %v", err)
	}
}
