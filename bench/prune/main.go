// Command prune measures what it costs to give space back: a repository with many
// snapshots of a source that changes a little each day, of which a few are kept. The
// same is done with restic, in the same run.
//
//	go build -o bin/backup-handler ./cmd/backup-handler
//	go run ./bench/prune                     # 50 snapshots of 480 MB; some ten minutes, 3 GB of disk
//	go run ./bench/prune -scale 0.02 -snapshots 10
//
// Our prune has two phases, a grace period apart. Both are measured: the first one as it
// is, the second with --alone, since nobody can wait a day; it has the same to do.
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/SP1R4/BackupHandler/v3/bench/corpus"
	"github.com/SP1R4/BackupHandler/v3/bench/usage"
)

type options struct {
	bin, work       string
	scale           float64
	snapshots, keep int
}

func main() {
	var o options
	flag.StringVar(&o.bin, "bin", "bin/backup-handler", "the program to measure")
	flag.StringVar(&o.work, "work", filepath.Join(os.TempDir(), "backup-handler-prune"), "where the source and the repositories are; removed afterwards")
	flag.Float64Var(&o.scale, "scale", 0.2, "size of the source, as of the benchmark's corpus")
	flag.IntVar(&o.snapshots, "snapshots", 50, "snapshots that are made, one a day")
	flag.IntVar(&o.keep, "keep", 7, "snapshots that are kept")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, &o); err != nil {
		fmt.Fprintln(os.Stderr, "prune:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o *options) (err error) {
	if o.keep < 1 || o.snapshots <= o.keep {
		return fmt.Errorf("of %d snapshots %d cannot be kept", o.snapshots, o.keep)
	}
	if o.bin, err = filepath.Abs(o.bin); err != nil {
		return err
	}
	if err := os.MkdirAll(o.work, 0o755); err != nil {
		return err
	}
	defer os.RemoveAll(o.work)
	source, ours, theirs := filepath.Join(o.work, "source"), filepath.Join(o.work, "ours"), filepath.Join(o.work, "restic")
	key := filepath.Join(o.work, "key")
	if err := os.WriteFile(key, []byte("0123456789abcdef0123456789abcdef"), 0o600); err != nil {
		return err
	}
	env := append(os.Environ(),
		"BACKUP_HANDLER_DATA_DIR="+filepath.Join(o.work, "data"), "XDG_CACHE_HOME="+filepath.Join(o.work, "cache"),
		"XDG_CONFIG_HOME="+filepath.Join(o.work, "config"), "RESTIC_PASSWORD=prune", "RESTIC_REPOSITORY="+theirs)
	we := func(args ...string) []string {
		return append([]string{o.bin, "--key-file", key, "--backup-dirs", ours, "--no-progress"}, args...)
	}
	they := func(args ...string) []string { return append([]string{"restic", "--quiet"}, args...) }
	if _, err := corpus.Generate(ctx, source, corpus.Spec{Seed: 1, Scale: o.scale}); err != nil {
		return err
	}
	if _, err := measure(ctx, they("init"), env); err != nil {
		return err
	}
	for i := range o.snapshots {
		if i > 0 {
			if _, err := corpus.Mutate(source, corpus.Spec{Seed: uint64(100 + i), Scale: o.scale}); err != nil {
				return err
			}
			if _, err := corpus.PatchPages(source, corpus.Spec{Seed: uint64(100 + i), Scale: o.scale / 10}); err != nil {
				return err
			}
		}
		for _, argv := range [][]string{we("backup", "--encrypt", "--source-dir", source), they("backup", source)} {
			if _, err := measure(ctx, argv, env); err != nil {
				return err
			}
		}
		fmt.Fprintf(os.Stderr, "\rsnapshot %d of %d", i+1, o.snapshots)
	}
	fmt.Fprintln(os.Stderr)
	keep := "--keep-last=" + strconv.Itoa(o.keep)
	fmt.Printf("%d snapshots, %d kept; before: ours %s, restic %s\n\n", o.snapshots, o.keep, mib(size(ours)), mib(size(theirs)))
	fmt.Println("| step | wall | processor | peak | repository after |\n|---|---|---|---|---|")
	for _, step := range []struct {
		name string
		argv []string
		repo string
	}{
		{"ours: forget", we("forget", keep), ours},
		{"ours: prune, first phase", we("prune"), ours},
		{"ours: prune, second phase (--alone)", we("prune", "--alone"), ours},
		{"ours: prune, nothing to do", we("prune"), ours},
		{"restic: forget", they("forget", keep), theirs},
		{"restic: prune", they("prune"), theirs},
		{"ours: verify all data", we("verify", "--read-data"), ours},
		{"restic: verify all data", they("check", "--read-data"), theirs},
	} {
		s, err := measure(ctx, step.argv, env)
		if err != nil {
			return err
		}
		fmt.Printf("| %s | %.2f s | %.2f s | %d MiB | %s |\n", step.name, s.wall.Seconds(), s.cpu.Seconds(), s.peak>>20, mib(size(step.repo)))
	}
	return nil
}

// A sample is what one run of one command cost.
type sample struct {
	wall, cpu time.Duration
	peak      int64 // bytes of resident memory; 0: not known here
}

func measure(ctx context.Context, argv, env []string) (sample, error) {
	c := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var out bytes.Buffer
	c.Env, c.Stdout, c.Stderr = env, &out, &out
	usage.Shrink()
	start := time.Now()
	if err := c.Run(); err != nil {
		return sample{}, fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, out.String())
	}
	return sample{time.Since(start), c.ProcessState.UserTime() + c.ProcessState.SystemTime(), usage.Peak(c.ProcessState)}, nil
}

// size is the sum of the files below a directory; what is not there has none.
func size(dir string) (n int64) {
	filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			if info, err := e.Info(); err == nil {
				n += info.Size()
			}
		}
		return nil
	})
	return n
}

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
