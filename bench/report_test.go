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

func rowNamed(t *testing.T, rows []row, name string) row {
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
	w := rowNamed(t, rows, wallPrefix+string(first))
	if w.Medians["ours"] != 7 || w.Low["ours"] != 5 || w.High["ours"] != 900 {
		t.Errorf("first backup is %v, want the median 7 of 5 to 900", w)
	}
	if math.Abs(w.Ratios["restic"]-0.7) > 1e-9 {
		t.Errorf("ratio is %v, want 0.7", w.Ratios["restic"])
	}
	if _, ok := w.Ratios["cp"]; ok {
		t.Error("a tool without samples has a ratio")
	}
	if w := rowNamed(t, rows, sizePrefix+string(first)); w.Ratios["restic"] != 1.25 {
		t.Errorf("size is %v, want 1.25 of restic's", w)
	}
	if w := rowNamed(t, rows, peakOverall); w.Medians["ours"] != 120 {
		t.Errorf("peak is %v, want the 120 MiB of verify", w)
	}
	if w := rowNamed(t, rows, wallPrefix+string(unchanged)); len(w.Medians) != 0 || len(w.Ratios) != 0 {
		t.Errorf("a step that did not run has the row %v", w)
	}
}

// Growth is against the step before, and only of tools that keep what they had.
func TestGrowth(t *testing.T) {
	r := twoTools(t, 7, 8)
	for _, name := range []string{"ours", "cp"} {
		of := r.tool(name)
		of.StoredBytes[unchanged] = []int64{10 << 20, 20 << 20}
		of.StoredBytes[changed] = []int64{13 << 20, 21 << 20}
	}
	w := rowNamed(t, r.table(), growthPrefix+string(changed))
	if w.Medians["ours"] != 2 || w.Low["ours"] != 1 || w.High["ours"] != 3 {
		t.Errorf("growth is %v, want 2 MiB of 1 to 3", w)
	}
	if _, ok := w.Medians["cp"]; ok {
		t.Error("cp, which replaces its copies, has a growth")
	}
}

// verdictOn is that on the first tool's first backup, of which the other took
// ten seconds.
func verdictOn(t *testing.T, seconds float64, want target) verdict {
	t.Helper()
	r := twoTools(t, seconds)
	verdicts := r.judge(r.table())
	if len(verdicts) != len(targets) {
		t.Fatalf("%d verdicts on %d targets", len(verdicts), len(targets))
	}
	for i, target := range targets {
		if target == want {
			return verdicts[i]
		}
	}
	t.Fatalf("%v is no target", want)
	return verdict{}
}

func TestVerdictAtTheBound(t *testing.T) {
	resticHalf := target{row: wallPrefix + string(first), peer: "restic", limit: 0.5}
	for _, tc := range []struct {
		seconds float64
		want    string
	}{{4.99, "pass"}, {5, "pass"}, {5.01, "miss"}} {
		if v := verdictOn(t, tc.seconds, resticHalf); v.Verdict != tc.want {
			t.Errorf("%v s of 10 s: %+v, want %q", tc.seconds, v, tc.want)
		}
	}
	r := twoTools(t, 1)
	for seconds, want := range map[float64]string{0.29: "pass", 0.3: "miss"} { // below, not at
		r.tool("ours").Samples[restoreFile] = []sample{{WallSeconds: seconds}}
		for _, v := range r.judge(r.table()) {
			if v.Row == wallPrefix+string(restoreFile) && v.Verdict != want {
				t.Errorf("%v s: %+v, want %q", seconds, v, want)
			}
		}
	}
}

// What was not measured is neither kept nor missed, and is not left out.
func TestVerdictWithoutPeer(t *testing.T) {
	v := verdictOn(t, 1, target{row: wallPrefix + string(first), peer: "tar", limit: 1.15})
	if v.Verdict != "" || v.Value != nil {
		t.Errorf("a peer that did not run gave %+v", v)
	}
	r := twoTools(t, 1)
	r.Tools = r.Tools[1:]
	if got := r.judge(r.table()); got != nil {
		t.Errorf("targets of ours are applied to restic: %+v", got)
	}
}

func TestTargetsAreSound(t *testing.T) {
	rows := twoTools(t, 1).table()
	for _, target := range targets {
		rowNamed(t, rows, target.row)
		if target.peer != "" {
			if _, err := toolsNamed(target.peer); err != nil {
				t.Errorf("%s: %v", target.row, err)
			}
		}
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
			columns = 0
			continue
		}
		if n := strings.Count(line, "|"); columns == 0 {
			columns = n
		} else if n != columns {
			t.Errorf("%d column borders, want %d: %s", n, columns, line)
		}
	}
	for _, want := range []string{
		"\n| time: first backup | ≤ 0.5 × restic | 0.750 | **miss** |\n",
		"\n| time: first backup | ≤ 1.15 × tar | – | not measured |\n",
		"\n| memory: peak of all steps | ≤ 100 MiB | 120 MiB | **miss** |\n",
		"\n| time: first backup | 7.50 s (7.00–8.00) | 10.0 s | – |\n",
		"\n| time: first backup | 0.75 | – |\n",
		"\n| size: first backup | 1.250 | – |\n",
	} {
		if !strings.Contains(string(md), want) {
			t.Errorf("the report lacks the line %s in\n%s", want, md)
		}
	}

	encoded, err := os.ReadFile(filepath.Join(dir, "results.json"))
	if err != nil {
		t.Fatal(err)
	}
	var back results
	if err := json.Unmarshal(encoded, &back); err != nil {
		t.Fatal(err)
	}
	if got := back.tool("ours").Samples[first]; len(got) != 2 || got[1].WallSeconds != 8 || len(back.Rows) == 0 || len(back.Targets) != len(targets) {
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
	const want = 1 + 2 + 1 + 2 + 2 // page; first: two tools; verify: ours; size: two; peak: two
	if bars != want {
		t.Errorf("%d rectangles, want %d", bars, want)
	}
}
