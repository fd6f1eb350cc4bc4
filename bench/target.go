package main

import (
	"fmt"
	"slices"
)

// A target is an upper bound that the project promised for the median of a row:
// of our ratio to a peer's, or of our own value where there is no peer.
type target struct {
	row   string
	peer  string // a tool's name; empty: limit has the row's unit
	limit float64
	below bool // the limit itself is a miss
}

// targets hold on the whole corpus; medians of fewer rounds are a hint.
const (
	targetScale  = 1
	targetRounds = 5
)

var targets = [...]target{
	{row: wallPrefix + string(first), peer: "tar", limit: 1.15},
	{row: wallPrefix + string(first), peer: "restic", limit: 0.5},
	{row: wallPrefix + string(unchanged), peer: "restic", limit: 0.2},
	{row: wallPrefix + string(unchanged), peer: "find", limit: 5},
	{row: wallPrefix + string(changed), peer: "restic", limit: 0.45},
	{row: wallPrefix + string(verify), peer: "restic", limit: 0.6},
	{row: wallPrefix + string(restoreAll), peer: "restic", limit: 0.6},
	{row: wallPrefix + string(restoreAll), peer: "cp", limit: 1.3},
	{row: wallPrefix + string(restoreFile), limit: 0.3, below: true}, // seconds
	{row: sizePrefix + string(first), peer: "tar", limit: 1.005},
	{row: sizePrefix + string(first), peer: "restic", limit: 1, below: true},
	{row: sizePrefix + string(first), peer: "borg", limit: 1, below: true},
	{row: sizePrefix + string(changed), peer: "restic", limit: 1, below: true},
	{row: sizePrefix + string(changed), peer: "borg", limit: 1, below: true},
	{row: sizePrefix + string(smallAlone), peer: "restic", limit: 0.85},
	{row: growthPrefix + string(changed), limit: 12}, // MiB
	{row: peakOverall, limit: 100},                   // MiB
}

// A verdict says whether a target was kept. Value is nil, and Verdict empty,
// where the run did not measure it.
type verdict struct {
	Row     string   `json:"row"`
	Bound   string   `json:"bound"`
	Value   *float64 `json:"value"`             // what is compared with the bound
	Unit    string   `json:"unit,omitempty"`    // of value; none for ratios
	Verdict string   `json:"verdict,omitempty"` // "pass", "miss"
}

// judge compares the rows with the targets. There are none where the first tool
// is not ours: the promises are not about it.
func (r *results) judge(rows []row) []verdict {
	subject := r.Tools[0].Name
	if subject != "ours" {
		return nil
	}
	var out []verdict
	for _, t := range targets {
		w := rows[slices.IndexFunc(rows, func(w row) bool { return w.Name == t.row })]
		v := verdict{Row: t.row, Bound: t.bound(w.Unit), Unit: w.Unit}
		value, known := w.Medians[subject]
		if t.peer != "" {
			v.Unit = ""
			value, known = w.Ratios[t.peer]
		}
		if known {
			v.Value, v.Verdict = &value, "miss"
			if value < t.limit || value == t.limit && !t.below {
				v.Verdict = "pass"
			}
		}
		out = append(out, v)
	}
	return out
}

func (t target) bound(unit string) string {
	sign := "≤"
	if t.below {
		sign = "<"
	}
	if t.peer == "" {
		return fmt.Sprintf("%s %g %s", sign, t.limit, unit)
	}
	return fmt.Sprintf("%s %g × %s", sign, t.limit, t.peer)
}

// value is for people; ratios have enough digits to tell a miss from the bound.
func (v verdict) value() string {
	switch {
	case v.Value == nil:
		return "–"
	case v.Unit == "":
		return fmt.Sprintf("%.3f", *v.Value)
	default:
		return number(*v.Value) + " " + v.Unit
	}
}
