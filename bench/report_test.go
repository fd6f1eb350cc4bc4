package main

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/bench/corpus"
)

func TestMedian(t *testing.T) {
	for _, tc := range []struct {
		in   []float64
		want float64
		ok   bool
	}{
		{nil, 0, false},
		{[]float64{3}, 3, true},
		{[]float64{9, 1}, 5, true},
		{[]float64{9, 1, 2}, 2, true},
		{[]float64{4, 1, 3, 100}, 3.5, true},
		{[]float64{5, 5, 1, 9, 7}, 5, true},
	} {
		before := len(tc.in)
		got, ok := median(tc.in)
		if got != tc.want || ok != tc.ok {
			t.Errorf("median(%v) = %v, %v, want %v, %v", tc.in, got, ok, tc.want, tc.ok)
		}
		if before == 2 && tc.in[0] != 9 {
			t.Error("median sorted its argument in place")
		}
	}
}

// twoTools are results in which we take the given seconds for a first backup
// and hold 100 MiB, and restic takes ten seconds.
func twoTools(t *testing.T, seconds ...float64) *results {
	t.Helper()
	chosen, err := toolsNamed("ours,restic,cp")
	if err != nil {
		t.Fatal(err)
	}
	r := newResults(options{rounds: len(seconds), tools: chosen, spec: corpus.Spec{Seed: 1, Scale: 1}})
	for _, s := range seconds {
		us, them := r.tool("ours"), r.tool("restic")
		us.Samples[first] = append(us.Samples[first], sample{WallSeconds: s, PeakBytes: 100 << 20})
		us.Samples[verify] = append(us.Samples[verify], sample{WallSeconds: 1, PeakBytes: 120 << 20})
		us.StoredBytes[first] = append(us.StoredBytes[first], 5<<20)
		them.Samples[first] = append(them.Samples[first], sample{WallSeconds: 10, PeakBytes: 300 << 20})
		them.StoredBytes[first] = append(them.StoredBytes[first], 4<<20)
	}
	return r
}

func find(t *testing.T, rows []row, name string) row {
	t.Helper()
	for _, w := range rows {
		if w.Name == name {
			return w
		}
	}
	t.Fatalf("no row is named %q", name)
	return row{}
}

func TestTable(t *testing.T) {
	rows := twoTools(t, 7, 5, 900).table()
	w := find(t, rows, wallPrefix+string(first))
	if w.Medians["ours"] != 7 || w.Low["ours"] != 5 || w.High["ours"] != 900 {
		t.Errorf("first backup is %v, want the median 7 of 5 to 900", w)
	}
	if math.Abs(w.Ratios["restic"]-0.7) > 1e-9 {
		t.Errorf("ratio is %v, want 0.7", w.Ratios["restic"])
	}
	if _, ok := w.Ratios["cp"]; ok {
		t.Error("a tool without samples has a ratio")
	}
	if w.Verdict != "miss" {
		t.Errorf("0.7 of restic is a %q, want a miss of 0.6", w.Verdict)
	}
	if w := find(t, rows, sizeFirst); w.Ratios["restic"] != 1.25 || w.Verdict != "miss" {
		t.Errorf("size is %v, want a miss at 1.25", w)
	}
	if w := find(t, rows, peakOverall); w.Medians["ours"] != 120 || w.Verdict != "pass" {
		t.Errorf("peak is %v, want 120 MiB of verify, a pass", w)
	}
	if w := find(t, rows, wallPrefix+string(unchanged)); w.Verdict != "" || w.Target != "" {
		t.Errorf("a step that did not run has the verdict %q", w.Verdict)
	}
}

func TestVerdictAtTheBound(t *testing.T) {
	for _, tc := range []struct {
		seconds float64
		want    string
	}{{5.99, "pass"}, {6, "pass"}, {6.01, "miss"}} {
		w := find(t, twoTools(t, tc.seconds).table(), wallPrefix+string(first))
		if w.Verdict != tc.want {
			t.Errorf("%v s of 10 s: %q, want %q", tc.seconds, w.Verdict, tc.want)
		}
	}
}

func TestEveryTargetHasItsRow(t *testing.T) {
	rows := twoTools(t, 1).table()
	for _, target := range targets {
		find(t, rows, target.row)
	}
}

func TestWrite(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "out")
	var printed strings.Builder
	if err := twoTools(t, 7, 8).write(dir, &printed); err != nil {
		t.Fatal(err)
	}
	md, err := os.ReadFile(filepath.Join(dir, "results.md"))
	if err != nil {
		t.Fatal(err)
	}
	if string(md) != printed.String() {
		t.Error("what is printed is not what is written")
	}
	columns := 0
	for line := range strings.Lines(string(md)) {
		if !strings.HasPrefix(line, "|") {
			continue
		}
		if n := strings.Count(line, "|"); columns == 0 {
			columns = n
		} else if n != columns {
			t.Errorf("%d column borders, want %d: %s", n, columns, line)
		}
	}
	if want := "| time: first backup | 7.50 s (7.00–8.00) | 10.0 s | – | 0.75 | – | ≤ 0.60 × restic | miss |"; !strings.Contains(string(md), want) {
		t.Errorf("the table lacks the line\n%s\nin\n%s", want, md)
	}

	encoded, err := os.ReadFile(filepath.Join(dir, "results.json"))
	if err != nil {
		t.Fatal(err)
	}
	var back results
	if err := json.Unmarshal(encoded, &back); err != nil {
		t.Fatal(err)
	}
	if got := back.tool("ours").Samples[first]; len(got) != 2 || got[1].WallSeconds != 8 || len(back.Rows) == 0 {
		t.Errorf("results.json lost samples: %+v", got)
	}

	svg, err := os.Open(filepath.Join(dir, "results.svg"))
	if err != nil {
		t.Fatal(err)
	}
	defer svg.Close()
	bars := 0
	for d := xml.NewDecoder(svg); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("results.svg: %v", err)
		}
		if start, ok := token.(xml.StartElement); ok && start.Name.Local == "rect" {
			bars++
		}
	}
	// Background; first: two tools; verify: ours; size: two; peak: two.
	if bars != 1+2+1+2+2 {
		t.Errorf("%d rectangles, want 8", bars)
	}
}
