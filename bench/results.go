package main

import (
	"fmt"
	"os"
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
	// PatchedPages is how many writes of a page follow the changes.
	PatchedPages int           `json:"patched_pages"`
	Tools        []*toolResult `json:"tools"`
	Rows         []row         `json:"rows"`    // the table, filled by write
	Targets      []verdict     `json:"targets"` // filled by write
}

type toolResult struct {
	Name    string `json:"name"`
	Label   string `json:"label"`
	Version string `json:"version"`
	// Replaces says that every backup replaces the one before.
	Replaces bool `json:"replaces"`
	// Looks says that the tool stores nothing.
	Looks   bool              `json:"looks"`
	Samples map[step][]sample `json:"samples"` // one per round
	// StoredBytes is the size of the repository after the step.
	StoredBytes map[step][]int64 `json:"stored_bytes"`
}

func newResults(o options) *results {
	r := &results{
		Time: time.Now().UTC().Truncate(time.Second), OS: runtime.GOOS + "/" + runtime.GOARCH, Machine: processor(), Load: loadAverage(),
		CPUs: runtime.NumCPU(), Scale: o.spec.Scale, Seed: o.spec.Seed, Rounds: o.rounds,
	}
	if o.cpus > 0 {
		r.CPUs = min(r.CPUs, o.cpus)
	}
	for _, t := range o.tools {
		r.Tools = append(r.Tools, &toolResult{
			Name: t.name, Label: t.label, Replaces: t.replaces, Looks: t.looks, Samples: map[step][]sample{}, StoredBytes: map[step][]int64{},
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
