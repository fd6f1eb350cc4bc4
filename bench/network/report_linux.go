package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// What the project promises at a round trip of 50 ms.
const (
	promisedRTT   = 50 * time.Millisecond
	mostFirst     = 1.5  // of the time without it
	mostRestore   = 1.7  // likewise
	mostOfRestic  = 0.6  // of restic's time over the same line
	mostOffLimits = 0.05 // of the time that a limit says
)

func median(all []float64) float64 {
	if len(all) == 0 {
		return math.NaN()
	}
	all = slices.Sorted(slices.Values(all))
	if n := len(all); n%2 == 0 {
		return (all[n/2-1] + all[n/2]) / 2
	}
	return all[len(all)/2]
}

// seconds is what a step took in each round.
func (b *bench) seconds(server, tool string, rtt time.Duration, st step) (all []float64) {
	for _, r := range b.results {
		if r.server == server && r.tool == tool && r.rtt == rtt && r.step == st {
			all = append(all, r.took.Seconds())
		}
	}
	return all
}

// processors is the processor time of a step, of the tool and of the others, in seconds.
func (b *bench) processors(server, tool string, rtt time.Duration, st step) (cpu, others float64) {
	var own, rest []float64
	for _, r := range b.results {
		if r.server == server && r.tool == tool && r.rtt == rtt && r.step == st {
			own, rest = append(own, r.cpu.Seconds()), append(rest, r.others.Seconds())
		}
	}
	return median(own), median(rest)
}

func (b *bench) peak(server, tool string) (most int64) {
	for _, r := range b.results {
		if r.server == server && r.tool == tool {
			most = max(most, r.peakBytes)
		}
	}
	return most
}

func cell(all []float64) string {
	if len(all) == 0 {
		return "–"
	}
	return fmt.Sprintf("%.2f (%.2f–%.2f)", median(all), slices.Min(all), slices.Max(all))
}

func ratio(a, b float64, most float64) string {
	switch x := a / b; {
	case math.IsNaN(x):
		return "–"
	case most == 0:
		return fmt.Sprintf("%.2f", x)
	case x <= most:
		return fmt.Sprintf("%.2f ≤ %.1f", x, most)
	default:
		return fmt.Sprintf("**%.2f** > %.1f", x, most)
	}
}

func (b *bench) report(w io.Writer) {
	fmt.Fprintf(w, "%d processors, %d rounds, %d files, %.0f MB. Seconds: median (lowest–highest). rtt: round trip added.\n\n",
		runtime.NumCPU(), b.rounds, b.tree.SmallFiles+b.tree.LargeFiles, float64(b.tree.SmallBytes+b.tree.LargeBytes)/1e6)
	fmt.Fprint(w, "| server | step | rtt | ours | of ours at the first rtt | restic | of restic's |\n|---|---|---|---|---|---|---|\n")
	for _, s := range b.servers {
		for _, st := range b.steps {
			base := median(b.seconds(s.name(), "ours", b.rtts[0], st))
			for i, rtt := range b.rtts {
				own, other := b.seconds(s.name(), "ours", rtt, st), b.seconds(s.name(), "restic", rtt, st)
				most, mostPeer := 0.0, 0.0
				if rtt == promisedRTT {
					mostPeer = mostOfRestic
					most = map[step]float64{first: mostFirst, restoreAll: mostRestore}[st]
				}
				slower := "1"
				if i > 0 {
					slower = ratio(median(own), base, most)
				}
				fmt.Fprintf(w, "| %s | %s | %v | %s | %s | %s | %s |\n", s.name(), st, rtt, cell(own), slower, cell(other), ratio(median(own), median(other), mostPeer))
			}
		}
	}
	fmt.Fprint(w, "\nProcessor seconds of the tool + of server and line, medians.\n\n| server | step | rtt |")
	for _, t := range b.tools {
		fmt.Fprintf(w, " %s | of ours |", t.name)
	}
	fmt.Fprint(w, "\n|---|---|---|"+strings.Repeat("---|---|", len(b.tools))+"\n")
	for _, s := range b.servers {
		for _, st := range b.steps {
			for _, rtt := range b.rtts {
				fmt.Fprintf(w, "| %s | %s | %v |", s.name(), st, rtt)
				own := median(b.seconds(s.name(), "ours", rtt, st))
				for _, t := range b.tools {
					cpu, others := b.processors(s.name(), t.name, rtt, st)
					fmt.Fprintf(w, " %.2f + %.2f | %.2f |", cpu, others, own/median(b.seconds(s.name(), t.name, rtt, st)))
				}
				fmt.Fprintln(w)
			}
		}
	}
	fmt.Fprint(w, "\n| server | peak of ours, MiB | of restic |\n|---|---|---|\n")
	for _, s := range b.servers {
		fmt.Fprintf(w, "| %s | %.0f | %.0f |\n", s.name(), float64(b.peak(s.name(), "ours"))/(1<<20), float64(b.peak(s.name(), "restic"))/(1<<20))
	}
	if len(b.limited) > 0 {
		fmt.Fprint(w, "\n| server | run | rtt | MiB | seconds | of the time that the limit says |\n|---|---|---|---|---|---|\n")
	}
	for _, l := range b.limited {
		off := l.took.Seconds()/l.expected - 1
		verdict := "within 5 %"
		if math.Abs(off) > mostOffLimits {
			verdict = "**not** within 5 %"
		}
		fmt.Fprintf(w, "| %s | %s | %v | %.1f | %.2f | %+.1f %%, %s |\n", l.server, l.what, l.rtt, l.mib, l.took.Seconds(), off*100, verdict)
	}
}

// A limitedResult is a run with a rate.
type limitedResult struct {
	server, what  string
	rtt           time.Duration
	mib, expected float64 // seconds
	took          time.Duration
}

// limits measures a first backup and a restore with a limit, at the largest
// distance. What they move is the length of the repository.
func (b *bench) limits(ctx context.Context, s server) error {
	t := ours(b.bin)
	dir, err := os.MkdirTemp(b.work, "limits-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	defer s.clear()
	p, err := b.place(dir, s, t)
	if err != nil {
		return err
	}
	rtt := slices.Max(b.rtts)
	rate := strconv.FormatInt(b.rate, 10) + "M"
	for _, run := range []struct {
		st   step
		flag string
	}{{first, "--limit-upload"}, {restoreAll, "--limit-download"}} {
		l, err := newLine(s.address(), rtt)
		if err != nil {
			return err
		}
		p.line = l.address()
		p.state = filepath.Join(dir, string(run.st))
		if err := os.MkdirAll(p.state, 0o700); err != nil {
			return err
		}
		if err := t.setUp(p); err != nil {
			return err
		}
		u, err := execute(ctx, append(t.step(p, run.st), run.flag, rate), t.env(p))
		l.close()
		if err != nil {
			return err
		}
		mib := float64(s.stored(p.name)) / (1 << 20)
		r := limitedResult{s.name(), run.flag + " " + rate, rtt, mib, mib / float64(b.rate), u.took}
		log.Printf("%s %s: %.1f MiB in %.2f s", r.server, r.what, r.mib, r.took.Seconds())
		b.limited = append(b.limited, r)
	}
	return nil
}
