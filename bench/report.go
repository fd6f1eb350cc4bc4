package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/SP1R4/BackupHandler/v3/bench/corpus"
)

// results is all that a run learned; results.json is its encoding.
type results struct {
	Time    time.Time      `json:"time"`
	OS      string         `json:"os"`
	Machine string         `json:"machine"` // processor, as the kernel names it
	CPUs    int            `json:"cpus"`    // that the tools could use
	Load    string         `json:"load"`    // average at the start; others' work makes numbers noisy
	Scale   float64        `json:"scale"`
	Seed    uint64         `json:"seed"`
	Rounds  int            `json:"rounds"`
	Corpus  corpus.Stats   `json:"corpus"`
	Changes corpus.Changes `json:"changes"`
	Tools   []*toolResult  `json:"tools"`
	Rows    []row          `json:"rows"` // the table, filled by write
}

type toolResult struct {
	Name    string            `json:"name"`
	Label   string            `json:"label"`
	Version string            `json:"version"`
	Samples map[step][]sample `json:"samples"` // one per round
	// StoredBytes is the size of the repository after the step.
	StoredBytes map[step][]int64 `json:"stored_bytes"`
}

// A row of the table: one measure, its median for each tool that has it.
type row struct {
	Name    string             `json:"name"`
	Unit    string             `json:"unit"` // "s" or "MiB"
	Medians map[string]float64 `json:"medians"`
	Low     map[string]float64 `json:"low"`
	High    map[string]float64 `json:"high"`
	// Ratios are the subject's median divided by each other tool's.
	Ratios  map[string]float64 `json:"ratios"`
	Target  string             `json:"target,omitempty"`
	Verdict string             `json:"verdict,omitempty"` // "pass", "miss"
	chart   bool
}

// A target is an upper bound that the project promised: of our ratio to restic,
// or of our own value if absolute.
type target struct {
	row      string
	limit    float64
	absolute bool
}

const (
	wallPrefix  = "time: "
	cpuPrefix   = "CPU: "
	peakPrefix  = "memory: "
	sizeFirst   = "size: after the first backup"
	sizeChanged = "size: after 1 % change"
	peakOverall = "memory: peak of all steps"
)

var targets = [...]target{
	{row: wallPrefix + string(first), limit: 0.6},
	{row: wallPrefix + string(unchanged), limit: 0.35},
	{row: wallPrefix + string(restoreAll), limit: 0.8},
	{row: sizeFirst, limit: 1},
	{row: sizeChanged, limit: 1},
	{row: peakOverall, limit: 150, absolute: true},
}

const mebibyte = 1 << 20

func newResults(o options) *results {
	r := &results{
		Time: now(), OS: runtime.GOOS + "/" + runtime.GOARCH, Machine: processor(), Load: loadAverage(),
		CPUs: runtime.NumCPU(), Scale: o.spec.Scale, Seed: o.spec.Seed, Rounds: o.rounds,
	}
	if o.cpus > 0 {
		r.CPUs = min(r.CPUs, o.cpus)
	}
	for _, t := range o.tools {
		r.Tools = append(r.Tools, &toolResult{
			Name: t.name, Label: t.label, Samples: map[step][]sample{}, StoredBytes: map[step][]int64{},
		})
	}
	return r
}

// processor is the model that Linux reports, or empty.
func processor() string {
	content, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(content)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// loadAverage is that of the last one, five and fifteen minutes on Linux, or
// empty.
func loadAverage() string {
	content, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	fields := strings.Fields(string(content))
	return strings.Join(fields[:min(3, len(fields))], " ")
}

func (r *results) tool(name string) *toolResult {
	i := slices.IndexFunc(r.Tools, func(t *toolResult) bool { return t.Name == name })
	return r.Tools[i]
}

// lastSamples is the newest wall time of each tool, for the progress log.
func (r *results) lastSamples(s step) string {
	var b strings.Builder
	for _, t := range r.Tools {
		if n := len(t.Samples[s]); n > 0 {
			fmt.Fprintf(&b, "  %s %.2f s", t.Name, t.Samples[s][n-1].WallSeconds)
		}
	}
	return b.String()
}

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

// table turns samples into rows: medians, ratios to the first tool, verdicts.
func (r *results) table() []row {
	var rows []row
	add := func(name, unit string, chart bool, values func(*toolResult) []float64) {
		w := row{
			Name: name, Unit: unit, chart: chart,
			Medians: map[string]float64{}, Low: map[string]float64{}, High: map[string]float64{},
		}
		for _, t := range r.Tools {
			v := values(t)
			if m, ok := median(v); ok {
				w.Medians[t.Name], w.Low[t.Name], w.High[t.Name] = m, slices.Min(v), slices.Max(v)
			}
		}
		r.judge(&w)
		rows = append(rows, w)
	}
	perStep := func(s step, value func(sample) float64) func(*toolResult) []float64 {
		return func(t *toolResult) []float64 {
			var out []float64
			for _, x := range t.Samples[s] {
				out = append(out, value(x))
			}
			return out
		}
	}
	for _, s := range allSteps {
		add(wallPrefix+string(s), "s", true, perStep(s, func(x sample) float64 { return x.WallSeconds }))
	}
	size := func(s step) func(*toolResult) []float64 {
		return func(t *toolResult) []float64 {
			var out []float64
			for _, n := range t.StoredBytes[s] {
				out = append(out, float64(n)/mebibyte)
			}
			return out
		}
	}
	add(sizeFirst, "MiB", true, size(first))
	add(sizeChanged, "MiB", true, size(changed))
	add(peakOverall, "MiB", true, overallPeaks)
	for _, s := range allSteps {
		add(cpuPrefix+string(s), "s", false, perStep(s, func(x sample) float64 { return x.CPUSeconds }))
	}
	for _, s := range allSteps {
		add(peakPrefix+string(s), "MiB", false, perStep(s, func(x sample) float64 { return float64(x.PeakBytes) / mebibyte }))
	}
	return rows
}

// overallPeaks is each round's largest peak over all steps.
func overallPeaks(t *toolResult) []float64 {
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

// judge fills in the ratios of the first tool to the others and, if that is
// ours, the verdict on the promised bound.
func (r *results) judge(w *row) {
	subject := r.Tools[0].Name
	own, measured := w.Medians[subject]
	if !measured {
		return
	}
	w.Ratios = map[string]float64{}
	for _, t := range r.Tools[1:] {
		if other := w.Medians[t.Name]; other > 0 {
			w.Ratios[t.Name] = own / other
		}
	}
	i := slices.IndexFunc(targets[:], func(t target) bool { return t.row == w.Name })
	if i < 0 || subject != "ours" {
		return
	}
	t := targets[i]
	value, known := w.Ratios["restic"]
	w.Target = fmt.Sprintf("≤ %.2f × restic", t.limit)
	if t.absolute {
		value, known = own, own > 0
		w.Target = fmt.Sprintf("≤ %.0f %s", t.limit, w.Unit)
	}
	switch {
	case !known:
		w.Target = ""
	case value <= t.limit:
		w.Verdict = "pass"
	default:
		w.Verdict = "miss"
	}
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
	fmt.Fprintf(&b, "Change: %d files edited, %d appended to, %d added, %d renamed, %d deleted; 10 bytes inserted at the head of one large file, %d pages of another overwritten.\n\n",
		c.Edited, c.Appended, c.Added, c.Renamed, c.Deleted, c.PatchedPages)

	header := []string{"measure"}
	for _, t := range r.Tools {
		header = append(header, t.Label)
	}
	for _, t := range r.Tools[1:] {
		header = append(header, r.Tools[0].Name+" / "+t.Name)
	}
	line(&b, append(header, "target", "verdict"))
	fmt.Fprintf(&b, "|---|%s---|---|\n", strings.Repeat("---:|", len(header)-1))
	for _, w := range r.table() {
		cells := []string{w.Name}
		for _, t := range r.Tools {
			cells = append(cells, w.cell(t.Name))
		}
		for _, t := range r.Tools[1:] {
			if ratio, ok := w.Ratios[t.Name]; ok {
				cells = append(cells, fmt.Sprintf("%.2f", ratio))
			} else {
				cells = append(cells, "–")
			}
		}
		line(&b, append(cells, w.Target, w.Verdict))
	}
	b.WriteString("\n– : the tool has no such step. tar and cp know no increments: each of their runs is a complete new copy that replaces the one before.\n\n")
	for _, t := range r.Tools {
		fmt.Fprintf(&b, "* %s: %s\n", t.Label, t.Version)
	}
	return b.String()
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

// number has about three digits.
func number(x float64) string {
	switch {
	case x >= 100:
		return fmt.Sprintf("%.0f", x)
	case x >= 10:
		return fmt.Sprintf("%.1f", x)
	default:
		return fmt.Sprintf("%.2f", x)
	}
}

// write puts results.md, results.json and results.svg into dir, and the first
// of them on out as well.
func (r *results) write(dir string, out io.Writer) error {
	r.Rows = r.table()
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
