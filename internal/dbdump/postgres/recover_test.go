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
	const moments = 20
	store, push, fetch := archive(t)
	s := postgrestest.New(t, "archive_mode = on", "archive_command = '"+push+"'", "track_commit_timestamp = on", "max_wal_size = 64MB")
	s.SQL("postgres", "CREATE DATABASE bank")
	s.SQL("bank", bankSQL)
	s.SQL("postgres", "CREATE ROLE bk LOGIN REPLICATION PASSWORD 'pw'") // no more than that
	stop := transfers(t, s, 4, 400)
	dir := t.TempDir()
	b, err := BaseBackup(t.Context(), &Server{Host: "127.0.0.1", Port: s.Port, User: "bk", Password: "pw"}, dirSink{dir}, BaseOptions{Fast: true, Warn: func(l string) { t.Error(l) }})
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
	again.SQL("postgres", "SELECT pg_promote()")
	again.SQL("bank", "INSERT INTO transfer (a, b, amount) VALUES (1, 1, 0)")
}
