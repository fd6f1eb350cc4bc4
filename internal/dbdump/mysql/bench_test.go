package mysql

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/dbdump/mysql/mysqltest"
)

// The benchmarks compare with the shell's way, side by side in one run, and report how
// many times as long ours takes:
//
//	BACKUP_HANDLER_BENCH_MIB=2048 go test -run '^$' -bench . -benchtime 3x ./internal/dbdump/mysql
//
// What is compressed is so by the same program on both sides.

// benchServer is a server with a database of some size, made once.
func benchServer(b *testing.B) *mysqltest.Server {
	mib := 64
	if n, err := strconv.Atoi(os.Getenv("BACKUP_HANDLER_BENCH_MIB")); err == nil {
		mib = n
	}
	if _, err := exec.LookPath("zstd"); err != nil {
		b.Skip("needs zstd")
	}
	s := mysqltest.Start(b, mysqltest.Config{NoLog: true, Args: []string{"--innodb-buffer-pool-size=1G", "--innodb-log-file-size=256M"}})
	s.Exec("CREATE DATABASE bench", "USE bench",
		"CREATE TABLE lines_ (id int PRIMARY KEY, customer int, sku char(12), amount decimal(10,2), note varchar(200), at datetime, KEY (customer))",
		"CREATE TABLE customers (id int PRIMARY KEY, name varchar(80), mail varchar(80), about text)",
		"CREATE TABLE files (id int PRIMARY KEY, data blob)")
	// One statement makes some 10 MiB; half of it in one table, a quarter in the others each.
	for i := range max(1, mib/10) {
		s.Exec("USE bench",
			fmt.Sprintf("INSERT INTO lines_ SELECT seq, seq * 7919 %% 100000, LEFT(MD5(seq), 12), seq / 7, CONCAT('order ', seq, ' of ', MD5(seq * 3), ' for ', seq %% 97), '2024-01-01' + INTERVAL seq SECOND FROM seq_%d_to_%d", i*44000+1, i*44000+44000),
			fmt.Sprintf("INSERT INTO customers SELECT seq, CONCAT('customer ', seq), CONCAT(MD5(seq), '@example.org'), REPEAT(CONCAT('likes number ', seq, '. '), 20) FROM seq_%d_to_%d", i*5000+1, i*5000+5000),
			fmt.Sprintf("INSERT INTO files SELECT seq, UNHEX(REPEAT(SHA2(seq, 512), 10)) FROM seq_%d_to_%d", i*1800+1, i*1800+1800))
	}
	return s
}

func shellLine(b *testing.B, line string, args ...any) time.Duration {
	start := time.Now()
	if out, err := exec.Command("/bin/sh", "-c", fmt.Sprintf(line, args...)).CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	return time.Since(start)
}

// A zstdSink compresses all files as one stream, as the shell does.
type zstdSink struct {
	in  io.WriteCloser
	cmd *exec.Cmd
}

func newZstdSink(b *testing.B) *zstdSink {
	z := &zstdSink{cmd: exec.Command("zstd", "-q", "-T2", "-c")}
	var err error
	if z.in, err = z.cmd.StdinPipe(); err != nil {
		b.Fatal(err)
	}
	if err := z.cmd.Start(); err != nil {
		b.Fatal(err)
	}
	return z
}

func (z *zstdSink) Create(string) (io.WriteCloser, error) { return notClosed{z.in}, nil }
func (z *zstdSink) close() error                          { z.in.Close(); return z.cmd.Wait() }

func BenchmarkDump(b *testing.B) {
	s := benchServer(b)
	var ours, theirs time.Duration
	var bytes int64
	for b.Loop() {
		theirs += shellLine(b, "mariadb-dump --no-defaults -uroot --socket=%s --single-transaction --hex-blob --default-character-set=utf8mb4 --routines --events --databases bench | zstd -q -T2 -c >/dev/null", s.Socket)
		start := time.Now()
		z := newZstdSink(b)
		m, err := Dump(context.Background(), root(s), z, DumpOptions{Databases: []string{"bench"}})
		if err != nil {
			b.Fatal(err)
		}
		if err := z.close(); err != nil {
			b.Fatal(err)
		}
		ours += time.Since(start)
		bytes = m.Bytes()
	}
	b.ReportMetric(ours.Seconds()/theirs.Seconds(), "x-shell")
	b.ReportMetric(float64(bytes)/1e6, "MB")
	b.ReportMetric(float64(bytes)*float64(b.N)/1e6/ours.Seconds(), "MB/s")
}

// A zstdFS has its files compressed.
type zstdFS string

func (z zstdFS) Open(name string) (fs.File, error) {
	path := filepath.Join(string(z), filepath.FromSlash(name))
	if !strings.HasSuffix(name, ".sql") {
		return os.Open(path)
	}
	cmd := exec.Command("zstd", "-q", "-dc", path+".zst")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &zstdFile{out, cmd}, cmd.Start()
}

type zstdFile struct {
	io.ReadCloser
	cmd *exec.Cmd
}

func (z *zstdFile) Stat() (fs.FileInfo, error) { return nil, fs.ErrInvalid }
func (z *zstdFile) Close() error               { z.ReadCloser.Close(); z.cmd.Wait(); return nil }

func BenchmarkRestore(b *testing.B) {
	s := benchServer(b)
	dir := b.TempDir()
	m, err := Dump(context.Background(), root(s), dirSink(dir), DumpOptions{Databases: []string{"bench"}})
	if err != nil {
		b.Fatal(err)
	}
	shellLine(b, "find '%s' -name '*.sql' -exec zstd -q -T2 --rm {} +", dir)
	plain := filepath.Join(b.TempDir(), "all.zst")
	shellLine(b, "mariadb-dump --no-defaults -uroot --socket=%s --single-transaction --hex-blob --default-character-set=utf8mb4 bench | zstd -q -T2 -c >'%s'", s.Socket, plain)
	s.Exec("DROP DATABASE bench")
	var ours, one, theirs time.Duration
	for b.Loop() {
		s.Exec("CREATE DATABASE theirs")
		theirs += shellLine(b, "zstd -dc '%s' | mariadb --no-defaults -uroot --socket=%s --default-character-set=utf8mb4 theirs", plain, s.Socket)
		s.Exec("DROP DATABASE theirs")
		for parallel, took := range map[int]*time.Duration{1: &one, 2: &ours} {
			start := time.Now()
			if err := Restore(context.Background(), root(s), zstdFS(dir), RestoreOptions{Into: "ours", Parallel: parallel}); err != nil {
				b.Fatal(err)
			}
			*took += time.Since(start)
			s.Exec("DROP DATABASE ours")
		}
	}
	b.ReportMetric(ours.Seconds()/theirs.Seconds(), "x-shell")
	b.ReportMetric(one.Seconds()/theirs.Seconds(), "x-shell-1-client")
	b.ReportMetric(float64(m.Bytes())*float64(b.N)/1e6/ours.Seconds(), "MB/s")
}
