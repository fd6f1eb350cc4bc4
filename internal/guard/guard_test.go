package guard

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

var limits = Limits{Scrambled: 0.02, Changed: 0.8, Deleted: 0.5, Renamed: 0.2, MinFiles: 10}

func never(repo.ID) bool { return false }

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// days makes a run a day, each compared with the one before.
func days(drifts ...*tree.Drift) []*tree.Snapshot {
	var all []*tree.Snapshot
	for i, d := range drifts {
		s := &tree.Snapshot{ID: repo.ID{0, byte(i >> 8), byte(i), 1}, Host: "h", Sources: []tree.Path{"/s"}, Mode: tree.Incremental, Time: start.AddDate(0, 0, i), Drift: d}
		if i > 0 {
			s.Parent = &all[i-1].ID
		}
		all = append(all, s)
	}
	return all
}

// quiet are n ordinary days, the first of which has no parent.
func quiet(n int, d tree.Drift) []*tree.Drift {
	d.Files = 1000
	list := make([]*tree.Drift, n)
	for i := range list[1:] {
		list[i+1] = &d
	}
	return list
}

// judge is the verdict on the last of some runs.
func judge(all []*tree.Snapshot) []string {
	return Judge(all[:len(all)-1], all[len(all)-1], limits, never)
}

func TestJudge(t *testing.T) {
	for name, c := range map[string]struct {
		usual tree.Drift
		last  tree.Drift
		want  string // the end of the only reason; "": none
	}{
		"nothing":             {tree.Drift{}, tree.Drift{}, ""},
		"scrambled, few":      {tree.Drift{}, tree.Drift{Scrambled: 19}, ""},
		"scrambled":           {tree.Drift{}, tree.Drift{Scrambled: 20}, "20 of 1000 files (2 %) were readable and are noise now: encrypted?"},
		"scrambled as usual":  {tree.Drift{Scrambled: 8}, tree.Drift{Scrambled: 24}, ""},
		"scrambled, unusual":  {tree.Drift{Scrambled: 8}, tree.Drift{Scrambled: 44}, "noise now: encrypted?"},
		"replaced, few":       {tree.Drift{}, tree.Drift{Replaced: 99}, ""},
		"replaced":            {tree.Drift{}, tree.Drift{Replaced: 100}, "encrypted under other names? (usual here: up to 0)"},
		"replaced as usual":   {tree.Drift{Replaced: 40}, tree.Drift{Replaced: 120}, ""},
		"changed, many":       {tree.Drift{}, tree.Drift{Rewritten: 799}, ""},
		"changed":             {tree.Drift{Rewritten: 30}, tree.Drift{Rewritten: 800}, "800 of 1000 files (80 %) hold other content (usual here: up to 30)"},
		"changed as usual":    {tree.Drift{Rewritten: 300}, tree.Drift{Rewritten: 900}, ""},
		"deleted":             {tree.Drift{}, tree.Drift{Deleted: 500}, "are gone (usual here: up to 0)"},
		"renamed":             {tree.Drift{}, tree.Drift{Renamed: 1000}, ""},
		"names became longer": {tree.Drift{}, tree.Drift{Renamed: 200, Extended: 200}, "got a longer name, as report.doc.locked (usual here: up to 0)"},
	} {
		last := c.last
		last.Files = 1000
		got := judge(days(append(quiet(40, c.usual), &last)...))
		if c.want == "" && got != nil || c.want != "" && (len(got) != 1 || !strings.HasSuffix(got[0], c.want)) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// A first run has nothing to compare with, a second one only the limits.
func TestJudgeBeginning(t *testing.T) {
	if got := judge(days(nil)); got != nil {
		t.Error(got)
	}
	if got := judge(days(nil, &tree.Drift{Files: 100, Rewritten: 100, Scrambled: 50})); len(got) != 2 {
		t.Error(got)
	}
	// Of few files a change of all is nothing unusual, their encryption is.
	if got := judge(days(nil, &tree.Drift{Files: 20, Rewritten: 20})); got != nil {
		t.Error(got)
	}
	if got := judge(days(nil, &tree.Drift{Files: 20, Rewritten: 20, Scrambled: 10})); len(got) != 1 {
		t.Error(got)
	}
	if got := judge(days(nil, &tree.Drift{})); got != nil { // the parent was empty
		t.Error(got)
	}
	off := Judge(nil, days(nil, &tree.Drift{Files: 100, Rewritten: 100, Scrambled: 100, Deleted: 100, Extended: 100, Replaced: 100})[1], Limits{MinFiles: 1}, never)
	if off != nil {
		t.Error("no limit asks for anything:", off)
	}
}

// The history of other sources and hosts is none.
func TestJudgeGroups(t *testing.T) {
	all := days(append(quiet(30, tree.Drift{Deleted: 300}), &tree.Drift{Files: 1000, Deleted: 600})...)
	if got := judge(all); got != nil {
		t.Fatal("deletions are usual here:", got)
	}
	for _, s := range all[:len(all)-1] {
		s.Sources = []tree.Path{"/other"}
	}
	if got := judge(all); len(got) != 1 {
		t.Error("they are usual elsewhere:", got)
	}
	for i, s := range all[:len(all)-1] {
		s.Sources = []tree.Path{"/s"}
		if s.Host = "other"; i%2 == 0 {
			s.Host = "h2"
		}
	}
	if got := judge(all); len(got) != 1 {
		t.Error("they are usual on other hosts:", got)
	}
}

// Files that are encrypted a few a day are found, once: the next run begins to count anew.
func TestJudgeSlow(t *testing.T) {
	list := quiet(40, tree.Drift{})
	var alarms []int
	for range 12 {
		list = append(list, &tree.Drift{Files: 1000, Scrambled: 5})
		all := days(list...)
		for _, a := range alarms {
			all[a].Tags = []string{Tag}
		}
		if got := judge(all); got != nil {
			alarms = append(alarms, len(all)-1)
			if !strings.HasPrefix(got[0], "since 2026-02-") {
				t.Error(got)
			}
		}
	}
	if !slices.Equal(alarms, []int{43, 47, 51}) {
		t.Errorf("alarms at the runs %v", alarms)
	}
	// What lies longer ago than the window is not added.
	all := days(append(append(quiet(20, tree.Drift{}), &tree.Drift{Files: 1000, Scrambled: 15}), append(quiet(20, tree.Drift{})[1:], &tree.Drift{Files: 1000, Scrambled: 15})...)...)
	if got := judge(all); got != nil {
		t.Error(got)
	}
}

// A slow attack is not made usual by its own first days.
func TestJudgeNotUsual(t *testing.T) {
	list := quiet(30, tree.Drift{})
	for range 10 {
		list = append(list, &tree.Drift{Files: 1000, Scrambled: 19})
	}
	if got := judge(days(list...)); got == nil {
		t.Error("a slow attack is usual")
	}
}

// Differential runs find the same again until there is a full one: that is told once.
func TestJudgeDifferential(t *testing.T) {
	all := days(append(quiet(10, tree.Drift{}), &tree.Drift{Files: 1000, Scrambled: 300}, &tree.Drift{Files: 1000, Scrambled: 302}, &tree.Drift{Files: 1000, Scrambled: 350})...)
	full := all[9]
	full.Mode = tree.Full
	for _, s := range all[10:] {
		s.Mode, s.Parent = tree.Differential, &full.ID
	}
	if got := judge(all[:11]); len(got) != 1 {
		t.Fatal(got)
	}
	all[10].Tags = []string{Tag}
	if got := judge(all[:12]); got != nil {
		t.Error("the same again:", got)
	}
	if got := judge(all); len(got) != 1 || !strings.HasPrefix(got[0], "50 of ") {
		t.Error("more of them:", got)
	}
	// Without the full one there is nothing to compare with.
	all[12].Parent, all[12].Drift = nil, nil
	if got := judge(all); got != nil {
		t.Error(got)
	}
}

// The parent was forgotten: what is known of this run is judged.
func TestJudgeParentGone(t *testing.T) {
	all := days(append(quiet(10, tree.Drift{}), &tree.Drift{Files: 1000, Scrambled: 19})...)
	gone := repo.ID{9}
	all[10].Parent = &gone
	if got := judge(all); got != nil {
		t.Error(got)
	}
	all[10].Drift.Scrambled = 20
	if got := judge(all); len(got) != 1 {
		t.Error(got)
	}
}

// What is suspicious counts as usual only where somebody has approved of it.
func TestJudgeApproved(t *testing.T) {
	all := days(append(quiet(8, tree.Drift{Deleted: 600}), &tree.Drift{Files: 1000, Deleted: 900})...)
	for _, s := range all[1 : len(all)-1] {
		s.Tags = []string{Tag}
	}
	if got := judge(all); len(got) != 1 {
		t.Error(got)
	}
	if got := Judge(all[:8], all[8], limits, func(repo.ID) bool { return true }); got != nil {
		t.Error(got)
	}
}
