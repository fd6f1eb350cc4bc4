//go:build unix

package postgres

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/dbdump"
	"github.com/SP1R4/BackupHandler/v3/internal/dbdump/postgres/postgrestest"
)

// bankSQL are 200 accounts with 1000 each; the sum of all never changes.
const bankSQL = `CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL);
INSERT INTO account SELECT g, 1000 FROM generate_series(1, 200) g;
CREATE TABLE transfer (id bigserial PRIMARY KEY, a int REFERENCES account, b int REFERENCES account, amount int);`

const bankScript = `\set x random(1, 200)
\set y random(1, 200)
\set lo least(:x, :y)
\set hi greatest(:x, :y)
\set n random(-50, 50)
BEGIN;
UPDATE account SET balance = balance - :n WHERE id = :lo;
UPDATE account SET balance = balance + :n WHERE id = :hi;
INSERT INTO transfer (a, b, amount) VALUES (:lo, :hi, :n);
COMMIT;
`

// bankWrong counts what does not add up: the sum, and each account against its transfers.
const bankWrong = `SELECT count(*) FROM (
	SELECT 1 FROM (SELECT sum(balance) AS s FROM account) x WHERE s <> 200000
	UNION ALL
	SELECT 1 FROM account c WHERE balance <> 1000 + (SELECT coalesce(sum(CASE WHEN b = c.id THEN amount ELSE 0 END - CASE WHEN a = c.id THEN amount ELSE 0 END), 0) FROM transfer WHERE a = c.id OR b = c.id)) w`

// transfers starts clients that transfer money until stop is called.
func transfers(t *testing.T, s *postgrestest.Server, clients, perSecond int) (stop func()) {
	t.Helper()
	script := filepath.Join(t.TempDir(), "bank")
	if err := os.WriteFile(script, []byte(bankScript), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := s.Command(ctx, "bank", "pgbench", "-n", "-f", script, "-c", fmt.Sprint(clients), "-R", fmt.Sprint(perSecond), "-T", "600", "bank")
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	stop = func() { cancel(); c.Wait() }
	t.Cleanup(stop)
	for s.SQL("bank", "SELECT count(*) FROM transfer") == "0" {
		time.Sleep(10 * time.Millisecond)
	}
	return stop
}

// archived waits until everything that was written is archived.
func archived(t *testing.T, s *postgrestest.Server, store dirWAL) {
	t.Helper()
	name := s.SQL("postgres", "SELECT pg_walfile_name(pg_switch_wal())")
	for try := 0; ; try++ {
		if _, err := os.Stat(filepath.Join(string(store), name)); err == nil {
			return
		}
		if try == 3000 {
			t.Fatalf("segment %s is not archived:\n%s", name, s.Log())
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// From one base backup, made while money is transferred, and the log, the database is
// recovered to 20 random moments. At each of them the sums are right, and all transfers
// are there that were committed, and none later.
func TestMoments(t *testing.T) {
	t.Parallel()
	moments := 20
	if testing.Short() {
		moments = 4
	}
	store, push, fetch := archive(t)
	s := newServer(t, "archive_mode = on", "archive_command = '"+push+"'", "track_commit_timestamp = on", "max_wal_size = 64MB")
	s.SQL("postgres", "CREATE DATABASE bank")
	s.SQL("bank", bankSQL)
	s.SQL("postgres", "CREATE ROLE bk LOGIN REPLICATION PASSWORD 'pw'") // no more than that
	stop := transfers(t, s, 4, 400)
	dir := t.TempDir()
	b, err := BaseBackup(t.Context(), &Server{Host: "127.0.0.1", Port: s.Port, User: "bk", Password: "pw"}, dirSink{dir}, BaseOptions{Fast: true, Warn: func(l string) {
		if !strings.Contains(l, "waits until its log is archived") { // as on a machine that is busy
			t.Error(l)
		}
	}})
	if err != nil {
		t.Fatal(err, dbdump.Hint(err))
	}
	type moment struct {
		at   string // RFC 3339
		lsn  string
		seen int // transfers seen before it
	}
	all := make([]moment, moments)
	for i := range all {
		time.Sleep(time.Duration(20+rand.IntN(120)) * time.Millisecond)
		var m moment
		seen := s.SQL("bank", "SELECT count(*) FROM transfer")
		row := strings.Split(s.SQL("bank", `SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), pg_current_wal_insert_lsn()`), "|")
		m.at, m.lsn = row[0], row[1]
		fmt.Sscan(seen, &m.seen)
		all[i] = m
	}
	time.Sleep(50 * time.Millisecond)
	stop()
	archived(t, s, store)
	committed := make([]int, moments)
	for i, m := range all {
		fmt.Sscan(s.SQL("bank", "SELECT count(*) FROM transfer WHERE pg_xact_commit_timestamp(xmin) <= '"+m.at+"'"), &committed[i])
	}
	wrong := s.SQL("bank", bankWrong)
	s.Stop()
	if wrong != "0" {
		t.Fatalf("%s sums are wrong on the server itself", wrong)
	}

	reach, err := Reachable(t.Context(), &Server{}, b, store, 0)
	if err != nil || reach.Commit.IsZero() || reach.Commit.Format(time.RFC3339Nano) < all[moments-1].at {
		t.Fatalf("%+v, %v", reach, err)
	}
	to := postgrestest.Dir(t)
	postgrestest.Own(t, to)
	first, err := time.Parse(time.RFC3339Nano, all[0].at)
	if err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(to, "data")
	if _, _, err := RestoreBase(t.Context(), &Server{}, os.DirFS(dir), store, data, RecoverOptions{TargetTime: first, RestoreCommand: fetch}); err != nil {
		t.Fatal(err, dbdump.Hint(err))
	}
	if out, err := exec.Command(filepath.Join(postgrestest.Bin(t), "pg_verifybackup"), "-n", "-i", "postgresql.auto.conf", "-i", "recovery.signal", data).CombinedOutput(); err != nil {
		t.Errorf("pg_verifybackup: %v: %s", err, out)
	}
	again := postgrestest.At(t, to)
	for i, m := range all {
		// A server that has paused at a moment goes on to a later one when it is started again.
		o := RecoverOptions{RestoreCommand: fetch}
		if i%3 == 2 { // some by their position
			o.TargetLSN = m.lsn
		} else if o.TargetTime, err = time.Parse(time.RFC3339Nano, m.at); err != nil {
			t.Fatal(err)
		}
		if err := setRecovery(filepath.Join(data, "postgresql.auto.conf"), o.settings(b, reach)); err != nil {
			t.Fatal(err)
		}
		again.Start("archive_mode = off", "hot_standby = on")
		for again.SQL("postgres", "SELECT pg_get_wal_replay_pause_state()") != "paused" {
			time.Sleep(10 * time.Millisecond)
		}
		if n := again.SQL("bank", bankWrong); n != "0" {
			t.Errorf("moment %d, %s: %s sums are wrong", i, m.at, n)
		}
		var got int
		fmt.Sscan(again.SQL("bank", "SELECT count(*) FROM transfer"), &got)
		// Four clients may each have taken the time of a commit that was written after
		// the first one behind the moment; a position is a little later than the time.
		if got < m.seen || i%3 != 2 && (got > committed[i] || got < committed[i]-4) {
			t.Errorf("moment %d, %s: %d transfers, want %d, and %d at least", i, m.at, got, committed[i], m.seen)
		}
		if i < moments-1 {
			again.Stop()
		}
	}
	// A standby can be dumped as well.
	standby, _ := dump(t, admin(again), DumpOptions{Databases: []string{"bank"}})
	if b, err := os.ReadFile(standby + "/bank/public.account.sql"); err != nil || strings.Count(string(b), "\n") < 200 {
		t.Errorf("dump of a standby: %d bytes, %v", len(b), err)
	}
	again.SQL("postgres", "SELECT pg_promote()")
	again.SQL("bank", "INSERT INTO transfer (a, b, amount) VALUES (1, 1, 0)")
}

func TestBaseRefusals(t *testing.T) {
	server := sharedServer(t)
	fail := func(s *Server, words ...string) {
		t.Helper()
		dir := t.TempDir()
		_, err := BaseBackup(t.Context(), s, dirSink{dir}, BaseOptions{})
		wantError(t, err, words...)
		if _, err := os.Stat(dir + "/base.json"); err == nil {
			t.Error("there is a description")
		}
	}
	fail(admin(server), "does not archive its log")
	s := newServer(t, "archive_mode = on", "archive_command = 'true'")
	s.SQL("postgres", "CREATE ROLE nobody LOGIN PASSWORD 'pw'")
	fail(&Server{Host: "127.0.0.1", Port: s.Port, User: "nobody", Password: "pw"}, "pg_basebackup")
	fail(&Server{Host: "127.0.0.1", Port: s.Port, User: "nobody", Password: "no"}, "password authentication failed")
	space := filepath.Join(s.Dir, "space")
	if err := os.Mkdir(space, 0o700); err != nil {
		t.Fatal(err)
	}
	postgrestest.Own(t, space)
	s.SQL("postgres", "CREATE TABLESPACE fast LOCATION '"+space+"'")
	fail(admin(s), "tablespaces (fast)")
}

// Gaps, targets that are too early or too late, directories that are in use, files that are
// damaged: each is said before a server is started. And the check of a whole base backup.
func TestRecoverRefusals(t *testing.T) {
	t.Parallel()
	store, push, fetch := archive(t)
	s := newServer(t, "archive_mode = on", "archive_command = '"+push+"'", "max_wal_size = 64MB", "autovacuum = off") // nothing happens by itself
	s.SQL("postgres", "CREATE DATABASE bank")
	s.SQL("bank", bankSQL)
	outside := filepath.Join(s.Dir, "elsewhere.conf")
	if err := os.WriteFile(outside, []byte("local all all trust\nlocal replication all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.SQL("postgres", "ALTER SYSTEM SET hba_file = '"+outside+"'; ALTER SYSTEM SET restore_command = 'old'; ALTER SYSTEM SET recovery_target_name = 'old'")
	s.Stop()
	s.Start()
	dir := t.TempDir()
	var files int
	b, err := BaseBackup(t.Context(), admin(s), dirSink{dir}, BaseOptions{Fast: true, OnFile: func(string, int64) { files++ }})
	if err != nil {
		t.Fatal(err, dbdump.Hint(err))
	}
	if files != b.Files || b.Files < 900 || b.SegmentBytes != mib || b.Stop <= b.Start || b.Timeline != 1 || b.System == "" || b.Ended.Before(b.Begun) {
		t.Errorf("%+v", b)
	}
	if text, err := os.ReadFile(dir + "/config/pg_hba.conf"); err != nil || !strings.Contains(string(text), "scram") {
		t.Errorf("%q, %v", text, err)
	}
	// A second one has the same files, but for what has changed.
	second := t.TempDir()
	if _, err := BaseBackup(t.Context(), admin(s), dirSink{second}, BaseOptions{Fast: true, BytesPerSecond: 100 << 20}); err != nil {
		t.Fatal(err)
	}
	one, two := sums(t, dir), sums(t, second)
	differ := 0
	for name := range one {
		if one[name] != two[name] {
			differ++
		}
	}
	if differ > 10 {
		t.Errorf("%d of %d files differ, with nothing written", differ, len(one))
	}

	s.SQL("bank", "INSERT INTO transfer (a, b, amount) VALUES (1, 1, 5); SELECT pg_switch_wal(); SELECT pg_create_restore_point('before'); INSERT INTO transfer (a, b, amount) VALUES (1, 1, 5)")
	s.SQL("bank", "SELECT pg_switch_wal(); INSERT INTO transfer (a, b, amount) VALUES (1, 1, 5)")
	time.Sleep(time.Millisecond)
	middle := s.SQL("bank", `SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`)
	time.Sleep(time.Millisecond)
	s.SQL("bank", "SELECT pg_switch_wal(); INSERT INTO transfer (a, b, amount) VALUES (1, 1, 5)")
	archived(t, s, store)
	s.Stop()

	to := postgrestest.Dir(t)
	data := filepath.Join(to, "data")
	fail := func(o RecoverOptions, words ...string) {
		t.Helper()
		if o.RestoreCommand == "" {
			o.RestoreCommand = fetch
		}
		_, _, err := RestoreBase(t.Context(), &Server{}, os.DirFS(dir), store, data, o)
		wantError(t, err, words...)
		if left, err := os.ReadDir(to); err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	}
	at, err := time.Parse(time.RFC3339Nano, middle)
	if err != nil {
		t.Fatal(err)
	}
	fail(RecoverOptions{TargetTime: b.Ended.Add(-time.Hour)}, "is before the end of this base backup")
	fail(RecoverOptions{TargetTime: at.Add(time.Hour)}, "later than the archived log goes")
	fail(RecoverOptions{TargetLSN: "0/1"}, "is before the end of this base backup")
	fail(RecoverOptions{TargetLSN: "FFF/1"}, "later than the archived log goes")
	fail(RecoverOptions{TargetLSN: "0/1", Immediate: true}, "several targets")
	fail(RecoverOptions{Action: "dance"}, `"dance"`)
	fail(RecoverOptions{RestoreCommand: "cp x"}, "restore command")
	fail(RecoverOptions{Timeline: 9}, "timeline 9")
	fail(RecoverOptions{Owner: "no-such-account"}, "no-such-account")

	r, err := Reachable(t.Context(), &Server{}, b, store, 0)
	if err != nil || r.Commit.IsZero() {
		t.Fatal(r, err)
	}
	// The whole of it is recovered and read; then to a restore point.
	check := func(o RecoverOptions, want string) {
		t.Helper()
		scratch := postgrestest.Dir(t)
		o.RestoreCommand = fetch
		report, err := VerifyBase(t.Context(), os.DirFS(dir), store, o, VerifyOptions{Dir: scratch})
		if err != nil {
			t.Fatal(err, dbdump.Hint(err))
		}
		found := false
		for _, r := range report.Tables {
			found = found || r.Database == "bank" && r.Table == "public.transfer" && r.Bytes > 0
		}
		if !report.OK() || !found {
			t.Errorf("%+v", report)
		}
		if left, err := os.ReadDir(scratch); err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	}
	check(RecoverOptions{TargetName: "before"}, "1")
	// A target that is never reached is an error of the server, which is told.
	_, err = VerifyBase(t.Context(), os.DirFS(dir), store, RecoverOptions{TargetName: "never", RestoreCommand: fetch}, VerifyOptions{Dir: postgrestest.Dir(t)})
	if err == nil || !strings.Contains(err.Error(), "recovery ended before configured recovery target was reached") {
		t.Error(err)
	}

	// A segment that is missing: named, and what lies before it can be had.
	last, err := parseSegment(r.Last, mib)
	if err != nil {
		t.Fatal(err)
	}
	gone := segment{1, last.no - 1}.name(mib)
	if err := os.Remove(filepath.Join(string(store), gone)); err != nil {
		t.Fatal(err)
	}
	fail(RecoverOptions{}, "segment "+gone+" is missing")
	fail(RecoverOptions{TargetTime: r.Commit.Add(-time.Microsecond)}, "later than the archived log goes", "segment "+gone+" is missing")
	check(RecoverOptions{Immediate: true}, "0")

	// A directory that is in use, and a file that is damaged.
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(data, "mine"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err = RestoreBase(t.Context(), &Server{}, os.DirFS(dir), store, data, RecoverOptions{Immediate: true, RestoreCommand: fetch})
	wantError(t, err, data+" is not empty")
	if _, err := os.Stat(filepath.Join(data, "mine")); err != nil {
		t.Error("a file that was there is gone")
	}
	if err := os.Remove(filepath.Join(data, "mine")); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "data", "global", "1262")
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	content[100] ^= 1
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err = RestoreBase(t.Context(), &Server{}, os.DirFS(dir), store, data, RecoverOptions{Immediate: true, RestoreCommand: fetch})
	wantError(t, err, "global/1262", "not what PostgreSQL sent")
	if left, err := os.ReadDir(data); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if err := os.Remove(filepath.Join(dir, "base.json")); err != nil {
		t.Fatal(err)
	}
	_, _, err = RestoreBase(t.Context(), &Server{}, os.DirFS(dir), store, data, RecoverOptions{Immediate: true, RestoreCommand: fetch})
	wantError(t, err, "description of the base backup")
}
