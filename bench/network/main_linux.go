// Command network measures what a long line costs: the program and restic, to real
// SSH and S3 servers on this machine, through a line that delays and does nothing
// else. README.md says how to read it.
//
// main_linux.go: rounds. tool_linux.go: what is run. server_linux.go: the servers.
// line_linux.go: the delay. report_linux.go: tables and verdicts.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/SP1R4/BackupHandler/v3/bench/corpus"
	"github.com/SP1R4/BackupHandler/v3/bench/machine"
)

// A step is what a tool is asked to do, in this order.
type step string

const (
	first      step = "first backup"
	unchanged  step = "unchanged run"
	restoreAll step = "restore"
)

var steps = [...]step{first, unchanged, restoreAll}

// A bench is one run of the measurement.
type bench struct {
	bin, work, source string
	before            string       // "": none
	tree              corpus.Stats // of source
	rounds            int
	rtts              []time.Duration // the first is the one to compare with
	tools             []tool
	steps             []step // that are measured
	rate              int64  // MiB/s of the limited runs; 0: none
	servers           []server
	results           []result
	limited           []limitedResult
	runs              int
}

// A result is one step of one tool.
type result struct {
	server, tool string
	rtt          time.Duration
	step         step
	took, cpu    time.Duration
	others       time.Duration // processor time of the server and the line
	peakBytes    int64
	connections  int64
}

func main() {
	log.SetFlags(0)
	var b bench
	flag.StringVar(&b.bin, "bin", "bin/backup-handler", "program to measure")
	flag.StringVar(&b.before, "before", "", "another version of the program, to compare with")
	flag.StringVar(&b.source, "source", "", "tree to back up (default: the corpus of the benchmark, made in the work directory)")
	flag.StringVar(&b.work, "work", "", "directory for repositories and restored trees (default: a temporary one)")
	flag.IntVar(&b.rounds, "rounds", 3, "interleaved rounds; medians are shown")
	scale := flag.Float64("scale", 1, "size of the corpus, if it is made")
	rtts := flag.String("rtt", "0,50ms", "round trips to add; the first is what the others are compared with")
	only := flag.String("servers", "sftp,s3", "servers to measure")
	what := flag.String("steps", "backup,unchanged,restore", "what is measured of each round")
	names := flag.String("tools", "ours,restic", "tools to measure")
	flag.Int64Var(&b.rate, "rate", 10, "MiB/s of the runs with a limit; 0: no such runs")
	gateway := flag.String("versitygw", "build/tools/versitygw", "the S3 server (scripts/tools versitygw installs it)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := b.choose(*what)
	if err == nil {
		err = b.run(ctx, *scale, *rtts, strings.Split(*only, ","), strings.Split(*names, ","), *gateway)
	}
	if err != nil {
		stop()
		log.Fatal("network: ", err)
	}
}

// choose says which steps are measured, by the flag's words.
func (b *bench) choose(words string) error {
	named := map[string]step{"backup": first, "unchanged": unchanged, "restore": restoreAll}
	for word := range strings.SplitSeq(words, ",") {
		st, ok := named[word]
		if !ok {
			return fmt.Errorf("-steps: %q is none of backup, unchanged, restore", word)
		}
		b.steps = append(b.steps, st)
	}
	slices.SortFunc(b.steps, func(x, y step) int { return slices.Index(steps[:], x) - slices.Index(steps[:], y) })
	return nil
}

func (b *bench) run(ctx context.Context, scale float64, rtts string, only, names []string, gateway string) (err error) {
	if b.bin, err = filepath.Abs(b.bin); err != nil {
		return err
	}
	if b.work, err = os.MkdirTemp(b.work, "network-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.work)
	if b.work, err = filepath.Abs(b.work); err != nil {
		return err
	}
	for text := range strings.SplitSeq(rtts, ",") {
		rtt, err := time.ParseDuration(text)
		if err != nil {
			return err
		}
		b.rtts = append(b.rtts, rtt)
	}
	if b.before != "" {
		if b.before, err = filepath.Abs(b.before); err != nil {
			return err
		}
	}
	for _, t := range tools(b.bin, b.before) {
		if slices.Contains(names, t.name) || t.name == "before" {
			b.tools = append(b.tools, t)
		}
	}
	if b.source == "" {
		b.source = filepath.Join(b.work, "source")
		if _, err := corpus.Generate(ctx, b.source, corpus.Spec{Seed: 1, Scale: scale}); err != nil {
			return err
		}
	}
	if b.source, err = filepath.Abs(b.source); err != nil {
		return err
	}
	if b.tree, err = corpus.Measure(b.source); err != nil {
		return err
	}
	for _, name := range only {
		s, err := startServer(ctx, name, filepath.Join(b.work, name), gateway)
		if err != nil {
			return err
		}
		defer s.stop()
		b.servers = append(b.servers, s)
	}
	for _, s := range b.servers {
		if err := b.allRounds(ctx, s); err != nil {
			return err
		}
		if b.rate > 0 {
			if err := b.limits(ctx, s); err != nil {
				return err
			}
		}
	}
	b.report(os.Stdout)
	return nil
}

// A subject is one tool at one distance, with what it has made so far.
type subject struct {
	tool  tool
	rtt   time.Duration
	place place
}

// allRounds measures one server. Where first backups are measured, each round makes
// repositories of its own; all other steps are done again with those of the first.
func (b *bench) allRounds(ctx context.Context, s server) (err error) {
	defer s.clear()
	dir, err := os.MkdirTemp(b.work, "round-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var all []subject
	for round := range b.rounds {
		if round == 0 || b.steps[0] == first {
			if all, err = b.subjects(ctx, s, dir); err != nil {
				return err
			}
		}
		if err := b.round(ctx, s, round, all); err != nil {
			return err
		}
		if b.steps[0] == first {
			s.clear()
			clearDir(dir)
		}
	}
	return nil
}

// subjects are all tools at all distances, each with a repository, which holds a first
// backup unless that is to be measured.
func (b *bench) subjects(ctx context.Context, s server, dir string) ([]subject, error) {
	var all []subject
	for _, t := range b.tools {
		for _, rtt := range b.rtts {
			p, err := b.place(dir, s, t)
			if err != nil {
				return nil, err
			}
			all = append(all, subject{t, rtt, p})
		}
	}
	for i, x := range all {
		if err := b.prepare(ctx, s, &all[i]); err != nil {
			return nil, fmt.Errorf("%s %s: %w", s.name(), x.tool.name, err)
		}
	}
	return all, nil
}

// round has each tool do each step at each distance, in turns. Besides restored
// trees nothing is removed before its end: see "Deleted files" in bench/README.md.
func (b *bench) round(ctx context.Context, s server, round int, all []subject) error {
	for _, st := range b.steps {
		for i := range all {
			x := &all[(i+round)%len(all)]
			u, err := b.measure(ctx, s, x, st)
			if err != nil {
				return err
			}
			log.Printf("%s round %d: %-8s %-14s rtt %-6v %6.2f s (%.2f s of processors, %.2f of server and line, %.0f MiB, %d connections)", s.name(), round+1,
				x.tool.name, st, x.rtt, u.took.Seconds(), u.cpu.Seconds(), u.others.Seconds(), float64(u.peakBytes)/(1<<20), u.connections)
			b.results = append(b.results, u)
		}
	}
	return nil
}

// place makes room for a tool that has never run on this machine.
func (b *bench) place(dir string, s server, t tool) (place, error) {
	b.runs++
	name := fmt.Sprintf("%s-%d", t.name, b.runs)
	p := place{server: s, source: b.source, name: name, state: filepath.Join(dir, name, "state"), restored: filepath.Join(dir, name, "restored")}
	return p, os.MkdirAll(p.state, 0o700)
}

// prepare creates a tool's repository; its time does not count.
func (b *bench) prepare(ctx context.Context, s server, x *subject) error {
	l, err := newLine(s.address(), 0)
	if err != nil {
		return err
	}
	defer l.close()
	x.place.line = l.address()
	if x.tool.prepare != nil {
		if _, err := execute(ctx, x.tool.prepare(x.place), x.tool.env(x.place)); err != nil {
			return err
		}
	}
	if b.steps[0] == first {
		return nil
	}
	if err := x.tool.setUp(x.place); err != nil {
		return err
	}
	_, err = execute(ctx, x.tool.step(x.place, first), x.tool.env(x.place))
	return err
}

// measure has a tool do one step over a line.
func (b *bench) measure(ctx context.Context, s server, x *subject, st step) (result, error) {
	l, err := newLine(s.address(), x.rtt)
	if err != nil {
		return result{}, err
	}
	defer l.close()
	x.place.line = l.address()
	p := x.place
	if st == restoreAll {
		// A disaster: the machine is new, and knows nothing of the repository.
		if p.state, err = os.MkdirTemp(filepath.Dir(p.state), "new-"); err != nil {
			return result{}, err
		}
	}
	if err := x.tool.setUp(p); err != nil {
		return result{}, err
	}
	machine.Flush()
	machine.FetchMemory(fetched * (b.tree.SmallBytes + b.tree.LargeBytes))
	others := s.cpu() + ownCPU()
	u, err := execute(ctx, x.tool.step(p, st), x.tool.env(p))
	if err != nil {
		return result{}, err
	}
	u.others = s.cpu() + ownCPU() - others
	if st == restoreAll {
		if err := b.check(filepath.Join(p.restored, p.source)); err != nil {
			return result{}, fmt.Errorf("%s over %s: %w", x.tool.name, s.name(), err)
		}
		// Where -work is in memory, the next one uses this memory again: to get more of it
		// from a virtual machine's host costs the kernel as much as the rest of a restore.
		if err := os.RemoveAll(p.restored); err != nil {
			return result{}, err
		}
	}
	u.server, u.tool, u.rtt, u.step, u.connections = s.name(), x.tool.name, x.rtt, st, l.accepted.Load()
	return u, nil
}

// fetched is how much memory is fetched before a step, in sizes of the source: a
// repository, or a restored tree, and what is free between.
const fetched = 4

// ownCPU is what this process has used, which is the line's.
func ownCPU() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// check compares the number and length of files: that their content is right is
// the tools' promise, and what bench compares.
func (b *bench) check(restored string) error {
	got, err := corpus.Measure(restored)
	if err == nil && got != b.tree {
		err = fmt.Errorf("restored %+v of %+v", got, b.tree)
	}
	return err
}
