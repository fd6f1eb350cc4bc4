// Command scale measures how the cost of a file and of a byte depends on how many
// there are, and how much memory that takes: sources from ten thousand to a
// million files, as trees and each in one directory, and large files from one
// gigabyte up.
//
// main.go: flags and the order of work. source.go: the sources. measure.go: what
// a command costs. report.go: the table. plot.go: the pictures. See README.md.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Shapes of sources.
const (
	treeShape = "tree"  // 16 files in each directory
	flatShape = "flat"  // one directory
	byteShape = "bytes" // large files, half of them noise
	textShape = "text"  // large files of text alone
)

const gigabyte = 1_000_000_000

// isLarge says that a shape is measured by the byte.
func isLarge(shape string) bool { return shape == byteShape || shape == textShape }

// A point is what one step cost for one source.
type point struct {
	Shape string `json:"shape"`
	Size  int64  `json:"size"` // files; of byteShape and textShape bytes
	Step  string `json:"step"`
	sample
}

type options struct {
	bin, work, out     string
	files, bytes, text []int64
	shapes             []string
	restic, keep       bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	resultsFile := filepath.Join(o.out, "results.json")
	points, err := readPoints(resultsFile)
	if err != nil {
		return err
	}
	measured := func(p point) error {
		fmt.Fprintf(os.Stderr, "%s of %d: %s: %.2f s, %.2f s of processors, %d MiB\n", p.Shape, p.Size, p.Step, p.WallSeconds, p.CPUSeconds, p.PeakBytes>>20)
		points = slices.DeleteFunc(points, func(q point) bool { return q.Shape == p.Shape && q.Size == p.Size && q.Step == p.Step })
		points = append(points, p)
		return writePoints(resultsFile, points)
	}
	for _, shape := range o.shapes {
		for _, n := range o.files {
			if err := o.measureSource(ctx, shape, n, measured); err != nil {
				return err
			}
		}
	}
	for _, n := range o.bytes {
		if err := o.measureSource(ctx, byteShape, n*gigabyte, measured); err != nil {
			return err
		}
	}
	for _, n := range o.text {
		if err := o.measureSource(ctx, textShape, n*gigabyte, measured); err != nil {
			return err
		}
	}
	for name, content := range map[string]string{
		"results.md": table(points),
		"files.svg":  plotFiles(points),
		"bytes.svg":  plotBytes(points),
	} {
		if err := os.WriteFile(filepath.Join(o.out, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	_, err = os.Stdout.WriteString(table(points))
	return err
}

func parse(args []string) (options, error) {
	var o options
	f := flag.NewFlagSet("scale", flag.ContinueOnError)
	f.StringVar(&o.bin, "bin", "bin/backup-handler", "the program to measure")
	f.StringVar(&o.work, "work", cmp.Or(os.Getenv("BENCH_DIR"), filepath.Join(os.TempDir(), "backup-handler-scale")), "directory for sources and repositories")
	f.StringVar(&o.out, "out", "bench/out/scale", "directory for results; steps that are not measured now keep theirs")
	files := f.String("files", "10000,100000,1000000", "numbers of files; empty: none")
	bytes := f.String("bytes", "1,5,20", "gigabytes of large files; empty: none")
	text := f.String("text", "", "gigabytes of large files of text, for more than the disk holds, on a file system that compresses; empty: none")
	shapes := f.String("shapes", treeShape+","+flatShape, "shapes of the sources of files")
	f.BoolVar(&o.restic, "restic", true, "measure restic, too, for trees of files")
	f.BoolVar(&o.keep, "keep", false, "keep the sources for another run")
	err := f.Parse(args)
	if err == nil && f.NArg() > 0 {
		err = fmt.Errorf("argument %q is too much", f.Arg(0))
	}
	if err == nil {
		o.files, err = numbers(*files)
	}
	if err == nil {
		o.bytes, err = numbers(*bytes)
	}
	if err == nil {
		o.text, err = numbers(*text)
	}
	if err == nil {
		o.bin, err = filepath.Abs(o.bin)
	}
	if err == nil {
		o.work, err = filepath.Abs(o.work)
	}
	o.shapes = strings.Split(*shapes, ",")
	for _, s := range o.shapes {
		if err == nil && s != treeShape && s != flatShape {
			err = fmt.Errorf("no shape is named %q", s)
		}
	}
	return o, err
}

func numbers(list string) (out []int64, err error) {
	for s := range strings.SplitSeq(list, ",") {
		if s == "" {
			continue
		}
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("%q is no number above 0", s)
		}
		out = append(out, n)
	}
	return out, nil
}

func readPoints(name string) (points []point, err error) {
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, &points); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return points, nil
}

func writePoints(name string, points []point) error {
	data, err := json.MarshalIndent(points, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(name, append(data, '\n'), 0o644)
}

// Steps, in this order.
const (
	stepFind            = "find"
	stepFirst           = "first backup"
	stepUnchanged       = "unchanged run"
	stepVerify          = "verify"
	stepVerifyData      = "verify all data"
	stepRestore         = "restore"
	stepResticFirst     = "restic: first backup"
	stepResticUnchanged = "restic: unchanged run"
)

var steps = [...]string{stepFind, stepFirst, stepUnchanged, stepVerify, stepVerifyData, stepRestore, stepResticFirst, stepResticUnchanged}

// rounds is how often the short steps are measured; the fastest counts.
const rounds = 3

// measureSource writes a source, measures all steps and removes what it wrote.
func (o *options) measureSource(ctx context.Context, shape string, size int64, measured func(point) error) (err error) {
	source := filepath.Join(o.work, fmt.Sprintf("%s-%d", shape, size))
	scratch := filepath.Join(o.work, "scratch")
	defer func() {
		gone := os.RemoveAll(scratch)
		if !o.keep {
			gone = errors.Join(gone, os.RemoveAll(source))
		}
		err = errors.Join(err, gone)
	}()
	if err := os.RemoveAll(scratch); err != nil {
		return err
	}
	if _, statErr := os.Stat(source); statErr != nil {
		fmt.Fprintf(os.Stderr, "writing %s\n", source)
		if isLarge(shape) {
			err = writeLarge(ctx, source, size, shape == byteShape)
		} else {
			err = writeTree(ctx, source, int(size), shape == flatShape)
		}
		if err != nil {
			return errors.Join(err, os.RemoveAll(source)) // not all of it: not kept
		}
	}
	key := filepath.Join(scratch, "key")
	if err := os.MkdirAll(scratch, 0o755); err != nil {
		return err
	}
	// A key file: deriving a key from a passphrase takes a tenth of a second,
	// whatever the source.
	if err := os.WriteFile(key, []byte("0123456789abcdef0123456789abcdef"), 0o600); err != nil {
		return err
	}
	repo, restored := filepath.Join(scratch, "repo"), filepath.Join(scratch, "restored")
	env := append(os.Environ(),
		"BACKUP_HANDLER_DATA_DIR="+filepath.Join(scratch, "data"),
		"XDG_CACHE_HOME="+filepath.Join(scratch, "cache"),
		"XDG_CONFIG_HOME="+filepath.Join(scratch, "config"),
		"RESTIC_PASSWORD=scale",
		"RESTIC_REPOSITORY="+filepath.Join(scratch, "restic"),
	)
	ours := func(args ...string) []string {
		return append([]string{o.bin, "--key-file", key, "--backup-dirs", repo, "--no-progress"}, args...)
	}
	backup := ours("backup", "--encrypt", "--source-dir", source)
	restic := []string{"restic", "--quiet", "backup", source}
	step := func(name string, rounds int, argv []string) error {
		best := point{Shape: shape, Size: size, Step: name}
		for i := range rounds {
			s, err := measure(ctx, argv, env)
			if err != nil {
				return err
			}
			if i == 0 || s.WallSeconds < best.WallSeconds {
				s.PeakBytes = max(s.PeakBytes, best.PeakBytes)
				best.sample = s
			}
			best.PeakBytes = max(s.PeakBytes, best.PeakBytes)
		}
		return measured(best)
	}
	all := []struct {
		name   string
		rounds int
		argv   []string
	}{
		{stepFind, rounds, []string{"find", source, "-printf", `%s %T@ %C@ %i\n`}},
		{stepFirst, 1, backup},
		{stepUnchanged, rounds, backup},
		{stepVerify, 1, ours("verify")},
		{stepVerifyData, 1, ours("verify", "--read-data")},
		{stepRestore, 1, ours("restore", "latest", "--to", restored)},
	}
	for _, s := range all {
		if s.name == stepFind && isLarge(shape) {
			continue
		}
		if s.name == stepRestore && shape == textShape && !o.keep {
			// The disk may not hold the source, the repository and what is restored.
			if err := os.RemoveAll(source); err != nil {
				return err
			}
		}
		if err := step(s.name, s.rounds, s.argv); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(restored); err != nil {
		return err
	}
	if !o.restic || shape != treeShape {
		return nil
	}
	if _, err := measure(ctx, []string{"restic", "--quiet", "init"}, env); err != nil {
		return err
	}
	if err := step(stepResticFirst, 1, restic); err != nil {
		return err
	}
	return step(stepResticUnchanged, 1, restic)
}
