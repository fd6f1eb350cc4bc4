package mysql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/dbdump"
	"github.com/SP1R4/BackupHandler/v3/internal/dbdump/mysql/mysqltest"
)

// archive archives into a directory that has the logs of before, as a snapshot would.
func archive(t *testing.T, s Server, dir string, o ArchiveOptions) (*Logs, error) {
	t.Helper()
	var have *Logs
	if l, err := ReadLogs(os.DirFS(dir)); err == nil {
		have = l
	} else if !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return Archive(t.Context(), s, have, overwriting{dirSink(dir)}, o)
}

// overwriting is a sink whose files may be there already.
type overwriting struct{ dirSink }

func (o overwriting) Create(name string) (io.WriteCloser, error) {
	os.Remove(filepath.Join(string(o.dirSink), name))
	return o.dirSink.Create(name)
}

const accounts, balance = 20, 1000

func makeBank(s *mysqltest.Server) {
	s.Exec("CREATE DATABASE bank", "USE bank", "CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL)",
		"CREATE TABLE transfers (id int AUTO_INCREMENT PRIMARY KEY, from_ int, to_ int, amount int, at bigint)",
		fmt.Sprintf("INSERT INTO accounts SELECT seq, %d FROM seq_1_to_%d", balance, accounts))
}

// checkBank says whether the balances of a copy add up, and are what its transfers have
// made of them.
func checkBank(t *testing.T, s *mysqltest.Server, database, when string) {
	t.Helper()
	sum := s.Query("SELECT SUM(balance), COUNT(*) FROM " + database + ".accounts")[0]
	if sum != fmt.Sprintf("%d|%d", accounts*balance, accounts) {
		t.Errorf("%s: sum and number of accounts: %s", when, sum)
	}
	wrong := s.Query(fmt.Sprintf("SELECT id FROM %[1]s.accounts a WHERE balance <> %[2]d + (SELECT COALESCE(SUM(amount), 0) FROM %[1]s.transfers WHERE to_ = a.id) - (SELECT COALESCE(SUM(amount), 0) FROM %[1]s.transfers WHERE from_ = a.id)", database, balance))
	if len(wrong) > 0 {
		t.Errorf("%s: the balances of %q are not those of the transfers", when, wrong)
	}
}

// transfer moves money, at a time by which the log notes it.
func transfer(ctx context.Context, conn *sql.Conn, random *rand.Rand, at int64) error {
	from, to, amount := 1+random.IntN(accounts), 1+random.IntN(accounts), 1+random.IntN(50)
	_, err := conn.ExecContext(ctx, fmt.Sprintf(`SET TIMESTAMP=%d; START TRANSACTION; UPDATE accounts SET balance = balance - %d WHERE id = %d;
		UPDATE accounts SET balance = balance + %d WHERE id = %d; INSERT INTO transfers (from_, to_, amount, at) VALUES (%d, %d, %d, %d); COMMIT`, at, amount, from, amount, to, from, to, amount, at))
	if err != nil {
		conn.ExecContext(ctx, "ROLLBACK")
	}
	return err
}

func connect(t *testing.T, s *mysqltest.Server, database string) *sql.Conn {
	t.Helper()
	db := s.Open("root", "", database)
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); db.Close() })
	return conn
}

// A dump while clients write shows one moment, and 20 random moments after it can be
// reached.
func TestBank(t *testing.T) {
	t.Parallel()
	s := mysqltest.Start(t, mysqltest.Config{Args: []string{"--max-binlog-size=64K"}})
	makeBank(s)
	s.Exec("CREATE DATABASE other", "CREATE TABLE other.t (x int)")
	server := account(s, "full", "ALL ON *.*")
	// What is done here is noted in the log as if it had been done over hours, some time
	// ago: the moments to come back to need not be waited for.
	past := time.Now().Unix() - 20_000
	var stop atomic.Bool
	var writers sync.WaitGroup
	for i := range 4 {
		conn, random := connect(t, s, "bank"), rand.New(rand.NewPCG(1, uint64(i)))
		writers.Go(func() {
			for !stop.Load() {
				if err := transfer(t.Context(), conn, random, past); err != nil && !strings.Contains(err.Error(), "Deadlock") {
					t.Error(err)
					return
				}
			}
		})
	}
	commandLines := watchCommandLines(t)
	for len(s.Query("SELECT 1 FROM bank.transfers LIMIT 100")) < 100 {
		time.Sleep(10 * time.Millisecond)
	}
	dir, m := dump(t, server, DumpOptions{Databases: []string{"bank"}})
	for m.Position.Offset < 1000 { // the time of what is before tells that of the dump
		dir, m = dump(t, server, DumpOptions{Databases: []string{"bank"}})
	}
	n := s.Query("SELECT COUNT(*) FROM bank.transfers")[0]
	for s.Query("SELECT COUNT(*) FROM bank.transfers")[0] == n {
		time.Sleep(10 * time.Millisecond)
	}
	stop.Store(true)
	writers.Wait()
	logs := t.TempDir()
	conn, random := connect(t, s, "bank"), rand.New(rand.NewPCG(2, 2))
	at := past + 100
	var times []int64
	type moment struct {
		at        dbdump.Position
		transfers string
	}
	var moments []moment
	for i := range 400 {
		if at += int64(random.IntN(4)); i == 200 {
			// In the middle, as the next run would.
			if _, err := archive(t, server, logs, ArchiveOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		times = append(times, at)
		if err := transfer(t.Context(), conn, random, at); err != nil {
			t.Fatal(err)
		}
		if random.IntN(10) == 0 {
			if _, err := conn.ExecContext(t.Context(), "INSERT INTO other.t VALUES (1)"); err != nil {
				t.Fatal(err)
			}
		}
		if random.IntN(40) == 0 {
			var position dbdump.Position
			file, offset, _ := strings.Cut(s.Query("SHOW MASTER STATUS")[0], "|")
			fmt.Sscan(strings.ReplaceAll(offset, "|", " "), &position.Offset)
			position.File = file
			moments = append(moments, moment{position, s.Query("SELECT COUNT(*) FROM bank.transfers")[0]})
		}
	}
	l, err := archive(t, server, logs, ArchiveOptions{Flush: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(l.Files) < 4 {
		t.Errorf("only %d logs", len(l.Files))
	}
	// Not before: what a restore does is in the log, too, at times of today.
	if err := Restore(t.Context(), server, os.DirFS(dir), RestoreOptions{Into: "copy"}); err != nil {
		t.Fatal(err)
	}
	checkBank(t, s, "copy", "dump")
	if s.Query("SELECT COUNT(*) FROM copy.transfers")[0] == s.Query("SELECT COUNT(*) FROM bank.transfers")[0] {
		t.Error("nothing was written after the dump")
	}
	s.Exec("DROP DATABASE copy")
	before, others := state(s, "bank"), s.Query("SELECT COUNT(*) FROM other.t")[0]
	check := func(o ReplayOptions, want, when string) {
		result, err := RestoreTo(t.Context(), server, os.DirFS(dir), os.DirFS(logs), RestoreOptions{Into: "moment"}, o)
		if err != nil {
			t.Errorf("%s: %v (%s)", when, err, dbdump.Hint(err))
			return
		}
		checkBank(t, s, "moment", when)
		if got := s.Query("SELECT COUNT(*) FROM moment.transfers")[0]; got != want {
			t.Errorf("%s: %s transfers, not %s (%+v)", when, got, want, result)
		}
		s.Exec("DROP DATABASE moment")
	}
	for range 14 {
		to := times[0] + random.Int64N(times[len(times)-1]-times[0]+10)
		want := s.Query("SELECT COUNT(*) FROM bank.transfers WHERE at < ?", to)[0]
		check(ReplayOptions{ToTime: time.Unix(to, random.Int64N(1e9)).In(time.FixedZone("somewhere", 3600*5))}, want, time.Unix(to, 0).String())
	}
	random.Shuffle(len(moments), func(i, j int) { moments[i], moments[j] = moments[j], moments[i] })
	if len(moments) < 5 {
		t.Fatalf("only %d moments", len(moments))
	}
	for _, m := range moments[:5] {
		check(ReplayOptions{ToPosition: &m.at}, m.transfers, fmt.Sprint(m.at))
	}
	check(ReplayOptions{}, s.Query("SELECT COUNT(*) FROM bank.transfers")[0], "the end")
	if n := commandLines(); n < 10 {
		t.Errorf("only %d programs seen", n)
	}
	if d := differs(state(s, "bank"), before); d != "" {
		t.Errorf("the original has changed: %s", d)
	}
	if got := s.Query("SELECT COUNT(*) FROM other.t")[0]; got != others {
		t.Error("another database has changed")
	}

	for name, c := range map[string]struct {
		o          ReplayOptions
		want, hint string
	}{
		"a time to come":         {ReplayOptions{ToTime: time.Now().Add(time.Hour)}, "they end before", "archive"},
		"a position to come":     {ReplayOptions{ToPosition: &dbdump.Position{File: "binlog.000999", Offset: 4}}, "do not have position binlog.000999:4", ""},
		"within a transaction":   {ReplayOptions{ToPosition: &dbdump.Position{File: moments[0].at.File, Offset: moments[0].at.Offset - 5}}, "within a transaction", ""},
		"an unknown statement":   {ReplayOptions{StopBefore: "drop table nothing"}, `no statement like "drop table nothing"`, "backquotes"},
		"time and statement":     {ReplayOptions{ToTime: time.Now(), StopBefore: "x"}, "give one", ""},
		"a time before the dump": {ReplayOptions{ToTime: time.Unix(past-100, 0)}, "the dump is of after", "earlier dump"},
		"a position before it":   {ReplayOptions{ToPosition: &dbdump.Position{File: m.Position.File, Offset: m.Position.Offset - 100}}, "before that of the dump", "earlier dump"},
		"over the original":      {ReplayOptions{}, "the database exists", "--into"},
	} {
		restore := RestoreOptions{Into: "moment"}
		if name == "over the original" {
			restore.Into = ""
		}
		_, err := RestoreTo(t.Context(), server, os.DirFS(dir), os.DirFS(logs), restore, c.o)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(dbdump.Hint(err), c.hint) {
			t.Errorf("%s: %v (%s)", name, err, dbdump.Hint(err))
		}
		if got := s.Query("SHOW DATABASES LIKE 'moment%'"); len(got) > 0 {
			t.Errorf("%s: left over: %q", name, got)
		}
	}
	t.Run("gap", func(t *testing.T) {
		purged := l.Files[len(l.Files)-1].Name
		for range 2 {
			s.Exec("FLUSH BINARY LOGS", fmt.Sprintf("SET TIMESTAMP=%d", at+100), "UPDATE bank.accounts SET balance = balance")
		}
		s.Exec("FLUSH BINARY LOGS")
		all := s.Query("SHOW BINARY LOGS")
		newest, _, _ := strings.Cut(all[len(all)-1], "|")
		for range 50 { // the server purges what nobody reads any more
			s.Exec("PURGE BINARY LOGS TO '" + newest + "'")
			if len(s.Query("SHOW BINARY LOGS")) == 1 {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		var w warnings
		l, err := archive(t, server, logs, ArchiveOptions{Warn: w.add})
		if err != nil {
			t.Fatal(err)
		}
		if !l.Files[len(l.Files)-1].Gap || !strings.Contains(w.String(), "purged") || !strings.Contains(w.String(), purged) {
			t.Errorf("%+v; warnings: %s", l.Files[len(l.Files)-1], w.String())
		}
		_, err = RestoreTo(t.Context(), server, os.DirFS(dir), os.DirFS(logs), RestoreOptions{Into: "moment"}, ReplayOptions{})
		if err == nil || !strings.Contains(err.Error(), "is missing") || !strings.Contains(err.Error(), "up to 20") {
			t.Errorf("%v (%s)", err, dbdump.Hint(err))
		}
		to := times[len(times)/2]
		check(ReplayOptions{ToTime: time.Unix(to, 0)}, s.Query("SELECT COUNT(*) FROM bank.transfers WHERE at < ?", to)[0], "before the gap")

		s.Exec("RESET MASTER")
		w = warnings{}
		if l, err = archive(t, server, logs, ArchiveOptions{Warn: w.add}); err != nil || !l.Files[len(l.Files)-1].Gap || !strings.Contains(w.String(), "anew") {
			t.Errorf("%v; warnings: %s", err, w.String())
		}
	})
}

// What an archive has is what the server had, and nothing twice.
func TestArchive(t *testing.T) {
	t.Parallel()
	s := mysqltest.Start(t, mysqltest.Config{})
	s.Exec("CREATE DATABASE shop", "CREATE TABLE shop.t (x int, b longblob)", "INSERT INTO shop.t VALUES (1, REPEAT('x', 3000000))")
	server := account(s, "logs", "REPLICATION SLAVE, BINLOG MONITOR, RELOAD ON *.*")
	dir := t.TempDir()
	first, err := archive(t, server, dir, ArchiveOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(first.Files) != 1 || first.Files[0].Closed || first.Files[0].ServerID != 1 || first.Files[0].Bytes < 3_000_000 {
		t.Fatalf("%+v", first)
	}
	s.Exec("INSERT INTO shop.t VALUES (2, NULL)", "FLUSH BINARY LOGS", "INSERT INTO shop.t VALUES (3, NULL)")
	if _, err := archive(t, server, dir, ArchiveOptions{Flush: true}); err != nil {
		t.Fatal(err)
	}
	before := hashes(t, dir)
	l, err := archive(t, server, dir, ArchiveOptions{})
	if err != nil || len(l.Files) != 3 || !l.Files[0].Closed || !l.Files[1].Closed || l.Files[2].Closed {
		t.Fatalf("%+v, %v", l, err)
	}
	for i, f := range l.Files {
		if f.Gap != (i == 0) || hashes(t, dir)[f.File] != f.SHA256 || i < 2 && before[f.File] != f.SHA256 {
			t.Errorf("%+v", f)
		}
		// But for the flag that says that the server still writes to it, the bytes are its.
		own, err := os.ReadFile(filepath.Join(s.Dir, "data", f.Name))
		if err != nil {
			t.Fatal(err)
		}
		ours, err := os.ReadFile(filepath.Join(dir, f.File))
		if err != nil {
			t.Fatal(err)
		}
		own[21], ours[21] = 0, 0
		if !f.Closed { // it notes checkpoints in it, whenever it likes
			own = own[:min(len(own), len(ours))]
		}
		if !slices.Equal(own, ours) {
			t.Errorf("%s is not the server's", f.File)
		}
	}

	t.Run("refusals", func(t *testing.T) {
		for name, c := range map[string]struct {
			server     Server
			o          ArchiveOptions
			want, hint string
		}{
			"no right":    {account(s, "n1", "SELECT ON *.*"), ArchiveOptions{}, "REPLICATION SLAVE on *.*", "GRANT"},
			"no list":     {account(s, "n2", "REPLICATION SLAVE ON *.*"), ArchiveOptions{}, "BINLOG MONITOR on *.*", "GRANT BINLOG MONITOR"},
			"no flush":    {account(s, "n3", "REPLICATION SLAVE, BINLOG MONITOR ON *.*"), ArchiveOptions{Flush: true}, "RELOAD on *.*", "GRANT RELOAD"},
			"no temp dir": {server, ArchiveOptions{TempDir: filepath.Join(dir, "none")}, "no such file", ""},
		} {
			_, err := Archive(t.Context(), c.server, nil, dirSink(t.TempDir()), c.o)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(dbdump.Hint(err), c.hint) {
				t.Errorf("%s: %v (%s)", name, err, dbdump.Hint(err))
			}
		}
		other := mysqltest.Start(t, mysqltest.Config{NoLog: true})
		if _, err := Archive(t.Context(), root(other), nil, dirSink(t.TempDir()), ArchiveOptions{}); err == nil || !strings.Contains(err.Error(), "writes no binary log") {
			t.Error(err)
		}
	})

	t.Run("goes on", func(t *testing.T) {
		// The second log fails; what there is of the first is described and kept.
		dir := t.TempDir()
		full := errors.New("full")
		n := 0
		l, err := Archive(t.Context(), server, nil, sinkFunc(func(name string) (io.WriteCloser, error) {
			if n++; n == 2 {
				return nil, full
			}
			return dirSink(dir).Create(name)
		}), ArchiveOptions{})
		if !errors.Is(err, full) || len(l.Files) != 1 {
			t.Fatalf("%+v, %v", l, err)
		}
		l, err = archive(t, server, dir, ArchiveOptions{})
		if err != nil || len(l.Files) != 3 || l.Files[1].Gap {
			t.Errorf("%+v, %v", l, err)
		}
	})
}

// A log that does not arrive as a whole is no log that is damaged on the server: it is there
// for the next run.
func TestArchiveShort(t *testing.T) {
	t.Parallel()
	s := mysqltest.Start(t, mysqltest.Config{})
	makeBank(s)
	s.Exec("FLUSH BINARY LOGS")
	real, err := exec.LookPath("mariadb-binlog")
	if err != nil {
		t.Fatal(err)
	}
	server := root(s)
	server.Programs = t.TempDir()
	script := "#!/bin/sh\n" + real + ` "$@" || exit; for a; do case $a in --result-file=*) truncate -s -40 "${a#*=}"binlog.000001;; esac; done` + "\n"
	if err := os.WriteFile(filepath.Join(server.Programs, "mariadb-binlog"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if l, err := archive(t, server, dir, ArchiveOptions{Warn: func(format string, args ...any) { t.Errorf(format, args...) }}); err == nil || !strings.Contains(err.Error(), "bytes on the server, and ") {
		t.Errorf("%+v, %v", l, err)
	}
	if l, err := archive(t, root(s), dir, ArchiveOptions{}); err != nil || len(l.Files) != 2 || l.Files[1].Gap {
		t.Errorf("%+v, %v", l, err)
	}
}

type sinkFunc func(name string) (io.WriteCloser, error)

func (f sinkFunc) Create(name string) (io.WriteCloser, error) { return f(name) }

// Statements that would be executed elsewhere, or left out, are refused; what is about no
// database is left out; and the moment before a mistake is found by its text.
func TestReplayStatements(t *testing.T) {
	t.Parallel()
	s := mysqltest.Start(t, mysqltest.Config{})
	s.Exec("CREATE DATABASE shop", "CREATE DATABASE other", "CREATE TABLE other.t (x int)")
	s.Shell("shop", "CREATE TABLE orders (id int PRIMARY KEY, x text); CREATE TABLE temp (x int); INSERT INTO orders VALUES (1, 'a')")
	dir, _ := dump(t, root(s), DumpOptions{Databases: []string{"shop"}})
	s.Shell("shop", "INSERT INTO orders VALUES (2, 'b'); CREATE USER somebody; GRANT SELECT ON shop.* TO somebody; CREATE TABLE later (x int) COMMENT 'not of other.t, shop.orders'; INSERT INTO later VALUES (1);"+
		"CREATE VIEW v AS SELECT id FROM orders; ALTER TABLE orders ADD y int DEFAULT 5; BEGIN; INSERT INTO orders (id) VALUES (3); INSERT INTO other.t VALUES (1); COMMIT; "+
		"CREATE TRIGGER tr AFTER INSERT ON later FOR EACH ROW INSERT INTO temp VALUES (NEW.x); INSERT INTO later VALUES (2); ALTER DATABASE CHARACTER SET latin1;")
	s.Exec("DROP USER somebody")
	s.Shell("shop", "DROP  TABLE `orders`; INSERT INTO later VALUES (9)")
	s.Shell("other", "ALTER TABLE t ADD y int; DROP TABLE IF EXISTS nothing; CREATE DATABASE third; DROP DATABASE third")
	logs := t.TempDir()
	if _, err := archive(t, root(s), logs, ArchiveOptions{}); err != nil {
		t.Fatal(err)
	}
	before, others := state(s, "shop"), state(s, "other")
	result, err := RestoreTo(t.Context(), root(s), os.DirFS(dir), os.DirFS(logs), RestoreOptions{Into: "copy"}, ReplayOptions{StopBefore: "drop table orders"})
	if err != nil {
		t.Fatalf("%v (%s)", err, dbdump.Hint(err))
	}
	if got := s.Query("SELECT id, y FROM copy.orders"); !slices.Equal(got, []string{"1|5", "2|5", "3|5"}) {
		t.Errorf("orders: %q", got)
	}
	if got := s.Query("SELECT COUNT(*) FROM copy.later, copy.v"); got[0] != "6" {
		t.Errorf("%q", got)
	}
	if got := s.Query("SELECT x FROM copy.temp"); !slices.Equal(got, []string{"2"}) {
		t.Errorf("what a trigger did: %q", got)
	}
	if got := s.Query("SELECT User FROM mysql.user WHERE User = 'somebody'"); len(got) > 0 {
		t.Error("an account was made")
	}
	if result.Transactions < 10 || result.Last.IsZero() {
		t.Errorf("%+v", result)
	}
	if d := differs(state(s, "shop"), before) + differs(state(s, "other"), others); d != "" {
		t.Errorf("the originals have changed: %s", d)
	}
	// In the place of the original, whose events go on.
	s.Exec("CREATE DATABASE spare", "CREATE TABLE spare.x (x int)")
	s.Shell("spare", "CREATE EVENT once ON SCHEDULE EVERY 1 YEAR STARTS '2037-01-01' DO SELECT 1; CREATE SEQUENCE n; CREATE TABLE y (n bigint DEFAULT nextval(n)); INSERT INTO y VALUES (DEFAULT)")
	spare, _ := dump(t, root(s), DumpOptions{Databases: []string{"spare"}})
	s.Shell("spare", "CREATE VIEW v AS SELECT x FROM x; CREATE FUNCTION f() RETURNS int DETERMINISTIC NO SQL RETURN 7; CREATE TRIGGER tr BEFORE INSERT ON x FOR EACH ROW SET NEW.x = f(); INSERT INTO x VALUES (1); INSERT INTO y VALUES (DEFAULT)")
	s.Shell("spare", "DELETE FROM x")
	after := t.TempDir()
	if _, err := archive(t, root(s), after, ArchiveOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := RestoreTo(t.Context(), root(s), os.DirFS(spare), os.DirFS(after), RestoreOptions{}, ReplayOptions{StopBefore: "delete from x"}); !errors.Is(err, errExists) {
		t.Error(err)
	}
	if _, err := RestoreTo(t.Context(), root(s), os.DirFS(spare), os.DirFS(after), RestoreOptions{Replace: true}, ReplayOptions{StopBefore: "delete from nothing"}); err == nil {
		t.Error("a statement was found that is not there")
	}
	if got := s.Query("SELECT COUNT(*) FROM spare.x"); got[0] != "0" {
		t.Errorf("a refusal has changed the database: %q", got)
	}
	if _, err := RestoreTo(t.Context(), root(s), os.DirFS(spare), os.DirFS(after), RestoreOptions{Replace: true}, ReplayOptions{StopBefore: "delete from x"}); err != nil {
		t.Errorf("%v (%s)", err, dbdump.Hint(err))
	}
	s.Exec("INSERT INTO spare.x VALUES (2)", "INSERT INTO spare.y VALUES (DEFAULT)")
	if got := s.Query("SELECT x FROM spare.v"); !slices.Equal(got, []string{"7", "7"}) {
		t.Errorf("%q", got)
	}
	if got := s.Query("SELECT COUNT(*) FROM spare.y"); got[0] != "3" {
		t.Errorf("%q", got)
	}
	if got := s.Query("SELECT STATUS FROM information_schema.EVENTS WHERE EVENT_SCHEMA = 'spare'"); !slices.Equal(got, []string{"ENABLED"}) {
		t.Errorf("%q", got)
	}
	if got := s.Query("SHOW DATABASES LIKE '%\\_\\_%'"); len(got) > 0 {
		t.Errorf("left over: %q", got)
	}
	s.Exec("DROP DATABASE spare")
	s.Exec("DROP DATABASE copy")
	// To its end, too.
	if _, err := RestoreTo(t.Context(), root(s), os.DirFS(dir), os.DirFS(logs), RestoreOptions{Into: "copy"}, ReplayOptions{}); err != nil {
		t.Errorf("%v (%s)", err, dbdump.Hint(err))
	}
	s.Exec("DROP VIEW shop.v") // without its table, and left out of the copy
	if got := s.Query("SHOW TABLES IN copy"); !slices.Equal(got, s.Query("SHOW TABLES IN shop")) {
		t.Errorf("%q", got)
	}
	s.Exec("DROP DATABASE copy")
	for statement, want := range map[string]string{
		"USE other; DROP TABLE shop.later":                                                        "would be left out",
		"USE shop; CREATE TABLE shop.x (x int)":                                                   "not in copy",
		"USE shop; CREATE TABLE other.x (x int)":                                                  "names another database",
		"USE shop; CREATE TABLE `xx` LIKE other.t":                                                "names another database",
		"USE shop; ALTER DATABASE shop COMMENT 'x'":                                               "about the database itself",
		"USE shop; SET SESSION binlog_format = STATEMENT; UPDATE shop.temp SET x = 1":             "not in copy",
		"USE shop; SET SESSION binlog_format = STATEMENT; INSERT INTO temp SELECT x FROM other.t": "names another database",
		`USE shop; SET SESSION sql_mode = 'ANSI_QUOTES'; CREATE TABLE "shop"."z" (x int)`:         "not in copy",
	} {
		s.Exec("RESET MASTER")
		dir, _ := dump(t, root(s), DumpOptions{Databases: []string{"shop"}})
		s.Exec(strings.Split(statement, "; ")...)
		logs := t.TempDir()
		if _, err := archive(t, root(s), logs, ArchiveOptions{}); err != nil {
			t.Fatal(err)
		}
		_, err := RestoreTo(t.Context(), root(s), os.DirFS(dir), os.DirFS(logs), RestoreOptions{Into: "copy"}, ReplayOptions{})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(dbdump.Hint(err), "--to-position binlog.000001:") {
			t.Errorf("%s: %v (%s)", statement, err, dbdump.Hint(err))
		}
	}
	if got := s.Query("SHOW DATABASES LIKE 'copy%'"); len(got) > 0 {
		t.Errorf("left over: %q", got)
	}
}

// A log that was damaged is not replayed.
func TestReplayDamaged(t *testing.T) {
	t.Parallel()
	s := mysqltest.Start(t, mysqltest.Config{})
	makeBank(s)
	dir, _ := dump(t, root(s), DumpOptions{Databases: []string{"bank"}})
	conn, random := connect(t, s, "bank"), rand.New(rand.NewPCG(3, 3))
	for range 20 {
		if err := transfer(t.Context(), conn, random, 0); err != nil {
			t.Fatal(err)
		}
	}
	logs := t.TempDir()
	l, err := archive(t, root(s), logs, ArchiveOptions{})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(logs, l.Files[0].File)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	flipped := slices.Clone(whole)
	flipped[len(flipped)-200] ^= 1
	for name, data := range map[string][]byte{"bit": flipped, "short": whole[:len(whole)-10], "short by an event": whole[:len(whole)-31], "empty": nil} {
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := RestoreTo(t.Context(), root(s), os.DirFS(dir), os.DirFS(logs), RestoreOptions{Into: "copy"}, ReplayOptions{}); err == nil || !strings.Contains(err.Error(), "binlog.000001") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := s.Query("SHOW DATABASES LIKE 'copy%'"); len(got) > 0 {
		t.Errorf("left over: %q", got)
	}
}

// The log of a server that was killed as it wrote ends within an event. All that is before
// is archived, and replayed; what is damaged elsewhere is not taken for that.
func TestLogsOfACrash(t *testing.T) {
	t.Parallel()
	s := mysqltest.Start(t, mysqltest.Config{Args: []string{"--innodb-flush-log-at-trx-commit=2"}}) // a crash loses nothing
	makeBank(s)
	dir, _ := dump(t, root(s), DumpOptions{Databases: []string{"bank"}})
	random := rand.New(rand.NewPCG(3, 5))
	work := func() {
		conn := connect(t, s, "bank")
		defer conn.Close()
		for range 20 {
			if err := transfer(t.Context(), conn, random, 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	logs := t.TempDir()
	// Within the header, behind it, within the body, and before its last byte.
	for i, cut := range []int{5, eventHeaderBytes, eventHeaderBytes + 4, 30} {
		work()
		if _, err := archive(t, root(s), logs, ArchiveOptions{}); err != nil {
			t.Fatal(err)
		}
		work()
		s.Kill()
		path := filepath.Join(s.Dir, "data", fmt.Sprintf("binlog.%06d", i+1))
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		// The last event, of 31 bytes, once more.
		if err := os.WriteFile(path, append(whole, whole[len(whole)-31:len(whole)-31+cut]...), 0o600); err != nil {
			t.Fatal(err)
		}
		s.Restart()
		var said []string
		warn := func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) }
		l, err := archive(t, root(s), logs, ArchiveOptions{Warn: warn})
		if err != nil {
			t.Fatal(err)
		}
		if f := l.Files[i]; len(l.Files) != i+2 || !f.Closed || f.Bytes != int64(len(whole)) || l.Files[i+1].Gap ||
			len(said) != 1 || !strings.Contains(said[0], fmt.Sprintf("ends within an event, of which it has %d bytes", cut)) {
			t.Errorf("cut at %d: %+v, %q", cut, l.Files, said)
		}
	}
	work()
	l, err := archive(t, root(s), logs, ArchiveOptions{Warn: func(format string, args ...any) { t.Errorf(format, args...) }})
	if err != nil || len(l.Files) != 5 {
		t.Fatal(l, err)
	}
	if _, err := RestoreTo(t.Context(), root(s), os.DirFS(dir), os.DirFS(logs), RestoreOptions{Into: "copy"}, ReplayOptions{}); err != nil {
		t.Fatal(err)
	}
	checkBank(t, s, "copy", "after four crashes")
	for _, table := range []string{"accounts", "transfers"} {
		if was, is := s.Query("CHECKSUM TABLE bank." + table)[0], s.Query("CHECKSUM TABLE copy." + table)[0]; strings.TrimPrefix(was, "bank.") != strings.TrimPrefix(is, "copy.") {
			t.Errorf("%s, and was %s", is, was)
		}
	}

	// Damage elsewhere is a gap: what is before it and the logs behind are archived all the same.
	lastEvent := func(b []byte) []byte { return b[len(b)-rotateBytes:] }
	for i, c := range []struct {
		name   string
		damage func(b []byte) []byte
		whole  func(b []byte) int // bytes of it; -1: some
	}{
		{"a bit", func(b []byte) []byte { b[len(b)/2] ^= 0x10; return b }, func([]byte) int { return -1 }},
		{"zeros", func(b []byte) []byte { return append(b, make([]byte, 4096)...) }, func(b []byte) int { return len(b) }},
		{"a short event", func(b []byte) []byte { lastEvent(b)[9] = 3; return b }, func(b []byte) int { return len(b) - rotateBytes }},
		{"no beginning", func(b []byte) []byte { return b[:50] }, func([]byte) int { return 0 }},
		{"nothing", func(b []byte) []byte { return b[:2] }, func([]byte) int { return 0 }},
	} {
		s.Exec("FLUSH BINARY LOGS")
		work()
		s.Exec("FLUSH BINARY LOGS")
		name := fmt.Sprintf("binlog.%06d", 6+2*i)
		path := filepath.Join(s.Dir, "data", name)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, c.damage(slices.Clone(b)), 0o600); err != nil {
			t.Fatal(err)
		}
		warned := 0
		warn := func(format string, args ...any) {
			warned++
			if said := fmt.Sprintf(format, args...); !strings.Contains(said, name+" is damaged, and is archived up to offset ") {
				t.Errorf("%s: %s", c.name, said)
			}
		}
		if l, err = archive(t, root(s), logs, ArchiveOptions{Warn: warn}); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		whole, last := int64(c.whole(b)), l.Files[len(l.Files)-1]
		at := slices.IndexFunc(l.Files, func(f LogFile) bool { return f.Name == name })
		if warned != 1 || last.Closed || !last.Gap || (at < 0) != (whole == 0) {
			t.Fatalf("%s: %d warnings, %+v", c.name, warned, l.Files)
		}
		if at < 0 {
			continue
		}
		f := l.Files[at]
		ours, err := os.ReadFile(filepath.Join(logs, f.File))
		if err != nil {
			t.Fatal(err)
		}
		b[21], ours[21] = 0, 0 // that the server writes to it
		if f.Gap || !f.Closed || whole > 0 && f.Bytes != whole || f.Bytes != int64(len(ours)) || !slices.Equal(ours, b[:f.Bytes]) || len(l.Files) != at+2 {
			t.Errorf("%s: %+v", c.name, l.Files[at-1:])
		}
	}
	if _, err := archive(t, root(s), logs, ArchiveOptions{Warn: func(format string, args ...any) { t.Errorf(format, args...) }}); err != nil {
		t.Error(err)
	}
	if _, err := RestoreTo(t.Context(), root(s), os.DirFS(dir), os.DirFS(logs), RestoreOptions{Into: "more"}, ReplayOptions{}); err == nil || !strings.Contains(err.Error(), "before binlog.000007 is missing, or a part of it") {
		t.Errorf("replayed over a gap: %v", err)
	}
}

// A run that fails right behind a damaged log leaves the gap to the next one.
func TestGapOutlivesFailure(t *testing.T) {
	t.Parallel()
	s := mysqltest.Start(t, mysqltest.Config{})
	makeBank(s)
	s.Exec("FLUSH BINARY LOGS")
	path := filepath.Join(s.Dir, "data", "binlog.000001")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-rotateBytes-40] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	dir, full, n := t.TempDir(), errors.New("full"), 0
	l, err := Archive(t.Context(), root(s), nil, sinkFunc(func(name string) (io.WriteCloser, error) {
		if n++; n == 2 {
			return nil, full
		}
		return dirSink(dir).Create(name)
	}), ArchiveOptions{})
	if !errors.Is(err, full) || len(l.Files) != 1 || !l.Files[0].Damaged {
		t.Fatalf("%+v, %v", l, err)
	}
	if l, err = archive(t, root(s), dir, ArchiveOptions{}); err != nil || len(l.Files) != 2 || !l.Files[1].Gap || l.Files[1].Damaged {
		t.Errorf("%+v, %v", l, err)
	}
}

// rotateBytes is the length of the event that leads to the next log, of "binlog.000042".
const rotateBytes = eventHeaderBytes + 8 + 13 + 4
