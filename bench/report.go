package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A row of the tables: one measure, its median for each tool that has it.
type row struct {
	Name    string             `json:"name"`
	Unit    string             `json:"unit"` // "s" or "MiB"
	Medians map[string]float64 `json:"medians"`
	Low     map[string]float64 `json:"low"`
	High    map[string]float64 `json:"high"`
	// Ratios are the subject's median divided by each other tool's.
	Ratios map[string]float64 `json:"ratios"`
	part   part
}

// A part of the report is where a row stands.
type part int

const (
	detail  part = iota // in the last table only
	front               // in the first tables
	charted             // in the first tables and in the chart
)

// Beginnings of the names of rows; a step follows.
const (
	wallPrefix   = "time: "
	cpuPrefix    = "CPU: "
	peakPrefix   = "memory: "
	sizePrefix   = "size: "
	growthPrefix = "growth: " // of the repository, by the step
	peakOverall  = "memory: peak of all steps"
)

const mebibyte = 1 << 20

// median of values, the mean of the two middle ones if their number is even.
// ok is false if there are none.
func median(values []float64) (m float64, ok bool) {
	if len(values) == 0 {
		return 0, false
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle], true
	}
	return (sorted[middle-1] + sorted[middle]) / 2, true
}

// table turns samples into rows: medians, and ratios of the first tool's to the
// others'.
func (r *results) table() []row {
	var rows []row
	add := func(name, unit string, at part, values func(*toolResult) []float64) {
		w := row{
			Name: name, Unit: unit, part: at,
			Medians: map[string]float64{}, Low: map[string]float64{}, High: map[string]float64{}, Ratios: map[string]float64{},
		}
		for _, t := range r.Tools {
			v := values(t)
			if m, ok := median(v); ok {
				w.Medians[t.Name], w.Low[t.Name], w.High[t.Name] = m, slices.Min(v), slices.Max(v)
			}
		}
		if own, ok := w.Medians[r.Tools[0].Name]; ok {
			for _, t := range r.Tools[1:] {
				if other := w.Medians[t.Name]; other > 0 {
					w.Ratios[t.Name] = own / other
				}
			}
		}
		rows = append(rows, w)
	}
	for _, s := range allSteps {
		at := charted
		if s == patched || s == smallAlone {
			at = front // told by their growth and size
		}
		add(wallPrefix+string(s), "s", at, perSample(s, func(x sample) float64 { return x.WallSeconds }))
	}
	add(sizePrefix+string(first), "MiB", charted, sizes(first))
	add(sizePrefix+string(changed), "MiB", front, sizes(changed))
	add(sizePrefix+string(smallAlone), "MiB", charted, sizes(smallAlone))
	add(growthPrefix+string(unchanged), "MiB", front, growth(first, unchanged))
	add(growthPrefix+string(changed), "MiB", charted, growth(unchanged, changed))
	add(growthPrefix+string(patched), "MiB", charted, growth(changed, patched))
	add(peakOverall, "MiB", charted, overallPeaks)
	for _, s := range allSteps {
		add(cpuPrefix+string(s), "s", detail, perSample(s, func(x sample) float64 { return x.CPUSeconds }))
	}
	for _, s := range allSteps {
		add(peakPrefix+string(s), "MiB", detail, perSample(s, func(x sample) float64 { return float64(x.PeakBytes) / mebibyte }))
	}
	return rows
}

// perSample takes one value from each round of a step.
func perSample(s step, value func(sample) float64) func(*toolResult) []float64 {
	return func(t *toolResult) []float64 {
		var out []float64
		for _, x := range t.Samples[s] {
			out = append(out, value(x))
		}
		return out
	}
}

// sizes are the repository's after a step.
func sizes(s step) func(*toolResult) []float64 {
	return func(t *toolResult) []float64 {
		var out []float64
		for _, n := range t.StoredBytes[s] {
			out = append(out, float64(n)/mebibyte)
		}
		return out
	}
}

// growth is what a step added to the repository. A tool that replaces its backup
// has none.
func growth(before, s step) func(*toolResult) []float64 {
	return func(t *toolResult) []float64 {
		if t.Replaces {
			return nil
		}
		var out []float64
		for round, n := range t.StoredBytes[s] {
			out = append(out, float64(n-t.StoredBytes[before][round])/mebibyte)
		}
		return out
	}
}

// overallPeaks is each round's largest peak over all steps.
func overallPeaks(t *toolResult) []float64 {
	if t.Looks { // its memory is no backup's
		return nil
	}
	var out []float64
	for _, samples := range t.Samples {
		for round, x := range samples {
			if round == len(out) {
				out = append(out, 0)
			}
			out[round] = max(out[round], float64(x.PeakBytes)/mebibyte)
		}
	}
	return out
}

// markdown is the report for people.
func (r *results) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Benchmark of %s\n\n", r.Time.Format(time.RFC3339))
	fmt.Fprintf(&b, "%s, %s, %d processors for the tools, load average at the start %s. Medians of %d interleaved rounds, warm cache; lowest and highest in brackets.\n\n",
		r.OS, r.Machine, r.CPUs, r.Load, r.Rounds)
	fmt.Fprintf(&b, "Corpus (seed %d, scale %g): %d small files of %.0f MB in %d directories, %d large files of %.0f MB. ",
		r.Seed, r.Scale, r.Corpus.SmallFiles, float64(r.Corpus.SmallBytes)/1e6, r.Corpus.Dirs, r.Corpus.LargeFiles, float64(r.Corpus.LargeBytes)/1e6)
	c := r.Changes
	fmt.Fprintf(&b, "Change: %d files edited, %d appended to, %d added, %d renamed, %d deleted; 10 bytes inserted at the head of one large file. Then %d scattered 4 KiB pages of another are overwritten.\n\n",
		c.Edited, c.Appended, c.Added, c.Renamed, c.Deleted, r.PatchedPages)
	for _, t := range r.Tools {
		fmt.Fprintf(&b, "* %s: %s\n", t.Label, t.Version)
	}

	rows := r.table()
	if verdicts := r.judge(rows); len(verdicts) > 0 {
		r.writeTargets(&b, verdicts)
	}
	inFront := func(w row) bool { return w.part != detail }
	b.WriteString("\n## Medians\n\n")
	r.writeValues(&b, rows, inFront)
	b.WriteString("\n– : the tool has no such step. tar and cp know no increments: each of their runs is a complete new copy that replaces the one before. find only looks at the source.\n")
	if len(r.Tools) > 1 {
		fmt.Fprintf(&b, "\n## Ratios: %s divided by each other tool\n\n", r.Tools[0].Label)
		r.writeRatios(&b, rows)
	}
	b.WriteString("\n## Processor time and memory of each step\n\n")
	r.writeValues(&b, rows, func(w row) bool { return !inFront(w) })
	return b.String()
}

func (r *results) writeTargets(b *strings.Builder, verdicts []verdict) {
	b.WriteString("\n## Targets\n\n")
	if r.Scale != targetScale || r.Rounds < targetRounds {
		fmt.Fprintf(b, "Verdicts count from %d rounds at scale %d; these are of %d at scale %g.\n\n", targetRounds, targetScale, r.Rounds, r.Scale)
	}
	line(b, []string{"measure", "target", "value", "verdict"})
	b.WriteString("|---|---|---:|---|\n")
	for _, v := range verdicts {
		said := v.Verdict
		switch said {
		case "":
			said = "not measured"
		case "miss":
			said = "**miss**"
		}
		line(b, []string{v.Row, v.Bound, v.value(), said})
	}
}

func (r *results) writeValues(b *strings.Builder, rows []row, wanted func(row) bool) {
	header := []string{"measure"}
	for _, t := range r.Tools {
		header = append(header, t.Label)
	}
	line(b, header)
	fmt.Fprintf(b, "|---|%s\n", strings.Repeat("---:|", len(r.Tools)))
	for _, w := range rows {
		if !wanted(w) {
			continue
		}
		cells := []string{w.Name}
		for _, t := range r.Tools {
			cells = append(cells, w.cell(t.Name))
		}
		line(b, cells)
	}
}

func (r *results) writeRatios(b *strings.Builder, rows []row) {
	header := []string{"measure"}
	for _, t := range r.Tools[1:] {
		header = append(header, "/ "+t.Label)
	}
	line(b, header)
	fmt.Fprintf(b, "|---|%s\n", strings.Repeat("---:|", len(r.Tools)-1))
	for _, w := range rows {
		cells := []string{w.Name}
		for _, t := range r.Tools[1:] {
			cells = append(cells, w.ratio(t.Name))
		}
		line(b, cells)
	}
}

func line(b *strings.Builder, cells []string) { fmt.Fprintf(b, "| %s |\n", strings.Join(cells, " | ")) }

func (w row) cell(tool string) string {
	m, ok := w.Medians[tool]
	if !ok {
		return "–"
	}
	text := number(m) + " " + w.Unit
	if low, high := number(w.Low[tool]), number(w.High[tool]); low != high {
		text += " (" + low + "–" + high + ")"
	}
	return text
}

// ratio has three digits behind the point for sizes, which do not vary much.
func (w row) ratio(tool string) string {
	x, ok := w.Ratios[tool]
	switch {
	case !ok:
		return "–"
	case strings.HasPrefix(w.Name, sizePrefix):
		return fmt.Sprintf("%.3f", x)
	default:
		return fmt.Sprintf("%.2f", x)
	}
}

// number has about three digits.
func number(x float64) string {
	switch {
	case x >= 100:
		return fmt.Sprintf("%.0f", x)
	case x >= 10:
		return fmt.Sprintf("%.1f", x)
	case x >= 0.1 || x == 0:
		return fmt.Sprintf("%.2f", x)
	default:
		return fmt.Sprintf("%.3f", x)
	}
}

// write puts results.md, results.json and results.svg into dir, and the first
// of them on out as well.
func (r *results) write(dir string, out io.Writer) error {
	r.Rows = r.table()
	r.Targets = r.judge(r.Rows)
	encoded, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	text := r.markdown()
	for name, content := range map[string]string{
		"results.json": string(encoded) + "\n",
		"results.md":   text,
		"results.svg":  r.chart(),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return fmt.Errorf("write results: %w", err)
		}
	}
	_, err = io.WriteString(out, text)
	return err
}
