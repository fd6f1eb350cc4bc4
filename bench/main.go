// Bench measures backup-handler beside other backup tools, in one run, on one
// made-up corpus, and prints the ratios. See README.md for what is measured and
// why, and how to read it.
//
// It knows the tools only by their command lines (tool.go) and believes none:
// every restored tree is compared with the source. Invariants: a measurement
// never includes the harness's own work, no command runs beside another, and a
// command that fails, or restores something wrong, ends the run.
//
// Files: main.go (flags), rounds.go (who does what, in which order), tool.go (the
// table of tools), measure.go (running one command), compare.go (trees),
// results.go (what a run learned), report.go (medians, ratios, tables),
// target.go (what the project promises), chart.go (SVG), corpus/ (the data),
// usage/ (peaks of memory), machine/ (its state before a command; what differs between
// systems).
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/SP1R4/BackupHandler/v3/bench/corpus"
)

const maxRounds = 100

type options struct {
	rounds int
	cpus   int
	spec   corpus.Spec
	tools  []tool
	bin    string
	work   string
	out    string
}

func main() {
	log.SetFlags(log.Ltime)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := mainErr(ctx, os.Args[1:]); err != nil {
		stop()
		log.Fatal(err)
	}
}

func mainErr(ctx context.Context, args []string) error {
	o := options{}
	flags := flag.NewFlagSet("bench", flag.ExitOnError)
	flags.IntVar(&o.rounds, "rounds", 5, "interleaved rounds; the report shows medians")
	flags.Float64Var(&o.spec.Scale, "scale", 1, "size of the corpus: 1 is 20,000 files (450 MB) and 2 GB of large ones")
	flags.Uint64Var(&o.spec.Seed, "seed", 1, "seed of the corpus")
	flags.IntVar(&o.cpus, "cpus", 2, "processors the tools may use (taskset); 0: all")
	names := flags.String("tools", "ours,restic,borg,tar,cp,find", "tools to compare; ratios are those of the first to the others")
	flags.StringVar(&o.bin, "bin", "bin/backup-handler", "the program to measure")
	flags.StringVar(&o.work, "work", "", "directory for corpus and repositories, about seven times the corpus (default $BENCH_DIR or the system's temporary directory)")
	flags.StringVar(&o.out, "out", "bench/out", "directory for results.md, results.json and results.svg")
	generate := flags.String("generate", "", "only write the corpus to this directory")
	mutate := flags.String("mutate", "", "only apply a day of changes to the corpus in this directory")
	patch := flags.String("patch", "", "only overwrite pages of the disk image of the corpus in this directory")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if *generate != "" || *mutate != "" || *patch != "" {
		return onlyCorpus(ctx, o.spec, *generate, *mutate, *patch)
	}
	if o.rounds < 1 || o.rounds > maxRounds {
		return fmt.Errorf("rounds %d is not from 1 to %d", o.rounds, maxRounds)
	}
	var err error
	if o.tools, err = toolsNamed(*names); err != nil {
		return err
	}
	if o.work == "" {
		if o.work = os.Getenv("BENCH_DIR"); o.work == "" {
			o.work = filepath.Join(os.TempDir(), "backup-handler-bench")
		}
	}
	for _, path := range []*string{&o.work, &o.out, &o.bin} {
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
	}
	res, err := bench(ctx, o)
	if err != nil {
		return err
	}
	return res.write(o.out, os.Stdout)
}

// onlyCorpus does to the given directories, where they are not empty, what a
// benchmark does to its corpus.
func onlyCorpus(ctx context.Context, spec corpus.Spec, generate, mutate, patch string) error {
	if generate != "" {
		st, err := corpus.Generate(ctx, generate, spec)
		if err != nil {
			return err
		}
		log.Printf("wrote %+v", st)
	}
	if mutate != "" {
		done, err := corpus.Mutate(mutate, spec)
		if err != nil {
			return err
		}
		log.Printf("changed %+v", done)
	}
	if patch != "" {
		pages, err := corpus.PatchPages(patch, spec)
		if err != nil {
			return err
		}
		log.Printf("wrote %d pages", pages)
	}
	return nil
}
