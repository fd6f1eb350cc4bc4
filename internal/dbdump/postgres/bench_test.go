//go:build unix

package postgres

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/dbdump/postgres/postgrestest"
)

// BenchmarkDatabase compares dump and restore with what administrators do by hand, in one
// run, as ratios of wall times: pg_dump | zstd -T2, and zstd -d | psql. The database has
// $BENCH_MB MiB as a dump (64 if it is not set), in four tables:
//
//	BENCH_MB=1000 go test -run '^$' -bench Database -benchtime 3x ./internal/dbdump/postgres
func BenchmarkDatabase(b *testing.B) {
	if _, err := exec.LookPath("zstd"); err != nil {
		b.Skip("zstd is not installed")
	}
	mb := 64
	if v := os.Getenv("BENCH_MB"); v != "" {
		var err error
		if mb, err = strconv.Atoi(v); err != nil {
			b.Fatal(err)
		}
	}
	server := postgrestest.New(b, "shared_buffers = 256MB", "max_wal_size = 4GB", "autovacuum = off")
	server.SQL("postgres", "CREATE DATABASE bench")
	for i := range 4 {
		// A row has some 190 bytes.
		server.SQL("bench", fmt.Sprintf(`CREATE TABLE t%d AS SELECT g AS id, md5(g::text) AS hash, (g * 7919::bigint) %% 100000 AS customer, now() - g * interval '1 second' AS at,
	'order number ' || g || ' of somebody who likes ' || repeat(md5((g %% 1000)::text), 3) AS note FROM generate_series(1, %d) g;
ALTER TABLE t%d ADD PRIMARY KEY (id); CREATE INDEX ON t%d (customer)`, i, mb<<20/4/190, i, i))
	}
	server.SQL("bench", "VACUUM ANALYZE")
	s := admin(server)
	dir := b.TempDir()
	file := filepath.Join(dir, "dump.zst")
	shell := func(script string) {
		b.Helper()
		c := server.Command(b.Context(), "bench", "psql")
		c.Path, c.Args = "/bin/bash", []string{"bash", "-o", "pipefail", "-c", script}
		c.Env = append(c.Env, "FILE="+file, "BIN="+postgrestest.Bin(b))
		if out, err := c.CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
	}
	dumped := filepath.Join(dir, "dump")
	steps := []struct {
		name string
		run  func()
	}{
		{"pg_dump|zstd", func() { shell(`$BIN/pg_dump | zstd -q -T2 -f -o $FILE`) }},
		{"dump/nowhere", func() {
			if _, err := Dump(b.Context(), s, discard{}, DumpOptions{Databases: []string{"bench"}}); err != nil {
				b.Fatal(err)
			}
		}},
		{"dump/files", func() {
			if err := os.RemoveAll(dumped); err != nil {
				b.Fatal(err)
			}
			if _, err := Dump(b.Context(), s, dirSink{dumped}, DumpOptions{Databases: []string{"bench"}}); err != nil {
				b.Fatal(err)
			}
		}},
		{"zstd|psql", func() {
			shell(`$BIN/createdb copy && zstd -q -d <$FILE | $BIN/psql -qX -v ON_ERROR_STOP=1 -d copy >/dev/null`)
		}},
		{"restore/1", func() { restoreBench(b, s, dumped, 1) }},
		{"restore/2", func() { restoreBench(b, s, dumped, 2) }},
	}
	took := map[string]time.Duration{}
	b.ResetTimer()
	for range b.N {
		for _, step := range steps {
			start := time.Now()
			step.run()
			took[step.name] += time.Since(start)
			b.StopTimer()
			server.SQL("postgres", "DROP DATABASE IF EXISTS copy; CHECKPOINT")
			b.StartTimer()
		}
	}
	for _, step := range steps {
		b.ReportMetric(took[step.name].Seconds()/float64(b.N), step.name+"-s")
	}
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(usage.Maxrss)/1024, "max-rss-MiB") // on Linux; of the test program alone
	b.ReportMetric(took["dump/nowhere"].Seconds()/took["pg_dump|zstd"].Seconds(), "dump/nowhere-ratio")
	b.ReportMetric(took["dump/files"].Seconds()/took["pg_dump|zstd"].Seconds(), "dump/files-ratio")
	b.ReportMetric(took["restore/1"].Seconds()/took["zstd|psql"].Seconds(), "restore/1-ratio")
	b.ReportMetric(took["restore/2"].Seconds()/took["zstd|psql"].Seconds(), "restore/2-ratio")
}

func restoreBench(b *testing.B, s *Server, dir string, parallel int) {
	b.Helper()
	if err := Restore(b.Context(), s, os.DirFS(dir), RestoreOptions{Into: "copy", Parallel: parallel}); err != nil {
		b.Fatal(err)
	}
}
