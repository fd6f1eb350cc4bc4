package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/dbdump/mysql/mysqltest"
	"github.com/SP1R4/BackupHandler/v3/internal/dbdump/postgres/postgrestest"
)

// TestDatabaseFigures measures, and judges nothing: what a backup and a restore of a
// database take, against what is done by hand, and what is stored again after a change.
//
//	BENCH_MB=2048 go test -v -timeout 2h -run DatabaseFigures ./e2e
//
// Each is done three times in turn; the median counts.
func TestDatabaseFigures(t *testing.T) {
	mb, err := strconv.Atoi(os.Getenv("BENCH_MB"))
	if err != nil {
		t.Skip("a measurement: BENCH_MB=2048 is the size of the dump")
	}
	t.Run("MariaDB", func(t *testing.T) { mysqlFigures(t, mb) })
	t.Run("PostgreSQL", func(t *testing.T) { postgresFigures(t, mb) })
}

const figureRounds = 3

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}

func byHand(t *testing.T, format string, args ...any) time.Duration {
	t.Helper()
	start := time.Now()
	out, err := exec.Command("/bin/bash", "-o", "pipefail", "-c", fmt.Sprintf(format, args...)).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return time.Since(start)
}

// figures measures one server.
type figures struct {
	w            *world
	config       string
	dump, load   string        // by hand: into a file, and out of it
	empty        func()        // makes the database anew that load fills
	restore      []string      // flags of db restore
	drop         func()        // what restore has made
	change       func(how int) // 1 % of the rows: those of a change
	peak         int64         // bytes
	stored, size int64
}

// ours runs the program, and notes its peak of memory.
func (f *figures) ours(args ...string) (time.Duration, result) {
	f.w.t.Helper()
	c, out, errout := f.w.command(f.w.t.Context(), args...)
	peak := f.w.peak(c)
	start := time.Now()
	if err := c.Run(); err != nil {
		f.w.t.Fatalf("%v: %s%s", err, out, errout)
	}
	took := time.Since(start)
	f.peak = max(f.peak, peak())
	return took, result{args: args, out: out.String(), errout: errout.String()}
}

// backup makes one in a repository, and returns what it has stored.
func (f *figures) backup(dest string) (time.Duration, int64) {
	f.w.t.Helper()
	took, r := f.ours("backup", "--json", "--config", f.config, "--backup-dirs", dest)
	var rep struct {
		Streams []struct {
			Bytes  int64 `json:"bytes"`
			Stored int64 `json:"bytes_stored"`
		} `json:"streams"`
	}
	must(f.w.t, json.Unmarshal([]byte(r.out), &rep))
	if len(rep.Streams) != 1 || rep.Streams[0].Bytes == 0 {
		f.w.t.Fatalf("%s", r.out)
	}
	f.size = rep.Streams[0].Bytes
	return took, rep.Streams[0].Stored
}

func (f *figures) run(t *testing.T) {
	t.Helper()
	var ours, hand, restored, loaded []time.Duration
	for i := range figureRounds {
		dest := f.w.path(fmt.Sprint("repo", i))
		hand = append(hand, byHand(t, "%s", f.dump))
		took, stored := f.backup(dest)
		ours = append(ours, took)
		f.stored = stored
		f.empty()
		loaded = append(loaded, byHand(t, "%s", f.load))
		args := append([]string{"db", "restore", "--config", f.config, "--backup-dirs", dest}, f.restore...)
		took, _ = f.ours(args...)
		restored = append(restored, took)
		f.drop()
		if i < figureRounds-1 {
			must(t, os.RemoveAll(dest))
		}
	}
	last := f.w.path(fmt.Sprint("repo", figureRounds-1))
	again, unchanged := f.backup(last)
	var changes []string
	for how, name := range []string{"next to each other", "next to each other, and shorter than before", "every hundredth"} {
		f.change(how)
		_, stored := f.backup(last)
		changes = append(changes, fmt.Sprintf("%.1f %% (%s)", 100*float64(stored)/float64(f.stored), name))
	}
	seconds := time.Duration.Seconds
	t.Logf("dump %d MB, %d MB stored; peak memory %d MiB", f.size/1e6, f.stored/1e6, f.peak>>20)
	t.Logf("backup  %.2f of by hand (%.1f s, %.1f s); again, unchanged %.1f s, %.2f %% stored again", seconds(median(ours))/seconds(median(hand)), seconds(median(ours)), seconds(median(hand)), seconds(again), 100*float64(unchanged)/float64(f.stored))
	t.Logf("restore %.2f of by hand (%.1f s, %.1f s)", seconds(median(restored))/seconds(median(loaded)), seconds(median(restored)), seconds(median(loaded)))
	t.Logf("1 %% of the rows changed: stored again %s", strings.Join(changes, ", "))
}

// rowChange is what is changed in one of n rows of a hundred.
func rowChange(how, n int, short string) string {
	return []string{
		fmt.Sprintf("sku = reverse(sku) WHERE id BETWEEN %d AND %d", n/2, n/2+n/100),
		fmt.Sprintf("note = %s WHERE id BETWEEN %d AND %d", short, n/4, n/4+n/100),
		"sku = reverse(sku) WHERE id % 100 = 0",
	}[how]
}

func mysqlFigures(t *testing.T, mb int) {
	s := mysqltest.Start(t, mysqltest.Config{NoLog: true, Args: []string{"--innodb-buffer-pool-size=1G", "--innodb-log-file-size=512M", "--innodb-flush-log-at-trx-commit=2"}})
	s.Exec("CREATE DATABASE bench", "USE bench",
		"CREATE TABLE lines_ (id int PRIMARY KEY, customer int, sku char(12), amount decimal(10,2), note varchar(200), at datetime)",
		"CREATE TABLE customers (id int PRIMARY KEY, name varchar(80), mail varchar(80), about text)",
		"CREATE TABLE files (id int PRIMARY KEY, data blob)")
	for i := range max(1, mb/10) { // some 10 MB each
		s.Exec("USE bench",
			fmt.Sprintf("INSERT INTO lines_ SELECT seq, seq * 7919 %% 100000, LEFT(MD5(seq), 12), seq / 7, CONCAT('order ', seq, ' of ', MD5(seq * 3), ' for ', seq %% 97), '2024-01-01' + INTERVAL seq SECOND FROM seq_%d_to_%d", i*44000+1, i*44000+44000),
			fmt.Sprintf("INSERT INTO customers SELECT seq, CONCAT('customer ', seq), CONCAT(MD5(seq), '@example.org'), REPEAT(CONCAT('likes number ', seq, '. '), 20) FROM seq_%d_to_%d", i*5000+1, i*5000+5000),
			fmt.Sprintf("INSERT INTO files SELECT seq, UNHEX(REPEAT(SHA2(seq, 512), 10)) FROM seq_%d_to_%d", i*1800+1, i*1800+1800))
	}
	w := newWorld(t)
	f := &figures{w: w, config: w.write(fmt.Appendf(nil, "[ENCRYPTION]\nenabled = True\npassphrase = ${BACKUP_HANDLER_PASSPHRASE}\n[DATABASE]\ndatabase = bench\nsocket = %s\nuser = root\n", s.Socket), "config.ini")}
	must(t, os.Chmod(f.config, 0o600))
	f.dump = fmt.Sprintf("mariadb-dump --no-defaults -uroot --socket=%s --single-transaction --hex-blob bench | zstd -q -T2 -f -o %s", s.Socket, w.path("hand.zst"))
	f.load = fmt.Sprintf("zstd -q -d -c %s | mariadb --no-defaults -uroot --socket=%s loaded", w.path("hand.zst"), s.Socket)
	f.empty = func() { s.Exec("DROP DATABASE IF EXISTS loaded", "CREATE DATABASE loaded") }
	f.restore = []string{"--into", "restored"}
	f.drop = func() { s.Exec("DROP DATABASE restored", "DROP DATABASE loaded") }
	n := max(1, mb/10) * 44000
	f.change = func(how int) {
		s.Exec("UPDATE bench.lines_ SET " + rowChange(how, n, "CONCAT('changed ', id)"))
	}
	f.run(t)
}

func postgresFigures(t *testing.T, mb int) {
	s := postgrestest.New(t, "max_wal_size = 4GB", "shared_buffers = 512MB", "synchronous_commit = off")
	s.SQL("postgres", "CREATE DATABASE bench")
	s.SQL("bench", "CREATE TABLE lines_ (id int PRIMARY KEY, customer int, sku char(12), amount numeric(10,2), note varchar(200), at timestamp); "+
		"CREATE TABLE customers (id int PRIMARY KEY, name varchar(80), mail varchar(80), about text); CREATE TABLE files (id int PRIMARY KEY, data bytea)")
	parts := max(1, mb/10)
	s.SQL("bench", fmt.Sprintf("INSERT INTO lines_ SELECT g, g::bigint * 7919 %% 100000, left(md5(g::text), 12), (g / 7)::numeric, 'order ' || g || ' of ' || md5((g * 3::bigint)::text) || ' for ' || g %% 97, timestamp '2024-01-01' + g * interval '1 second' FROM generate_series(1, %d) g", parts*44000))
	s.SQL("bench", fmt.Sprintf("INSERT INTO customers SELECT g, 'customer ' || g, md5(g::text) || '@example.org', repeat('likes number ' || g || '. ', 20) FROM generate_series(1, %d) g", parts*5000))
	s.SQL("bench", fmt.Sprintf("INSERT INTO files SELECT g, decode(repeat(encode(sha512(g::text::bytea), 'hex'), 10), 'hex') FROM generate_series(1, %d) g", parts*1800))
	w := newWorld(t)
	f := &figures{w: w, config: w.write(fmt.Appendf(nil, "[ENCRYPTION]\nenabled = True\npassphrase = ${BACKUP_HANDLER_PASSPHRASE}\n[DATABASE]\ntype = postgresql\ndatabase = bench\nsocket = %s\nport = %d\nuser = postgres\n", s.Dir, s.Port), "config.ini")}
	must(t, os.Chmod(f.config, 0o600))
	bin := postgrestest.Bin(t)
	f.dump = fmt.Sprintf("%s/pg_dump -h %s -p %d -U postgres bench | zstd -q -T2 -f -o %s", bin, s.Dir, s.Port, w.path("hand.zst"))
	f.load = fmt.Sprintf("zstd -q -d -c %s | %s/psql -X -q -v ON_ERROR_STOP=1 -h %s -p %d -U postgres loaded >/dev/null", w.path("hand.zst"), bin, s.Dir, s.Port)
	f.empty = func() { s.SQL("postgres", "CREATE DATABASE loaded") }
	f.restore = []string{"--into", "restored"}
	f.drop = func() { s.SQL("postgres", "DROP DATABASE restored"); s.SQL("postgres", "DROP DATABASE loaded") }
	n := parts * 44000
	f.change = func(how int) {
		s.SQL("bench", "UPDATE lines_ SET "+rowChange(how, n, "'changed ' || id"))
	}
	f.run(t)
}
