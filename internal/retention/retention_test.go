package retention

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/guard"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

const day = 24 * time.Hour

var now = time.Date(2026, 11, 26, 5, 0, 0, 0, time.UTC)

// at makes a snapshot; its ID is its number.
func at(n int, t time.Time, tags ...string) *tree.Snapshot {
	return &tree.Snapshot{ID: repo.ID{byte(n >> 8), byte(n)}, Time: t, Host: "web1", Sources: []tree.Path{"/home"}, Tags: tags}
}

func broken(s *tree.Snapshot) *tree.Snapshot {
	s.Problems = []tree.Problem{{Path: "/home/x", Kind: "unreadable"}}
	s.Counts.Problems = 1
	return s
}

// every makes n snapshots, the newest at end and the others before it.
func every(step time.Duration, n int, end time.Time) (all []*tree.Snapshot) {
	for i := range n {
		all = append(all, at(i, end.Add(-time.Duration(i)*step)))
	}
	return all
}

func decide(t *testing.T, p Policy, all []*tree.Snapshot) Group {
	t.Helper()
	p.Location = time.UTC
	groups := Decide(p, all, Facts{}, now)
	if len(groups) != 1 || len(groups[0].Decisions) != len(all) {
		t.Fatalf("%d groups", len(groups))
	}
	for _, d := range groups[0].Decisions {
		if len(d.Reasons) == 0 {
			t.Errorf("no reason for %v", d.Snapshot.Time)
		}
	}
	return groups[0]
}

// kept lists the numbers of the snapshots that are kept, newest first.
func kept(g Group) (numbers []int) {
	for _, d := range g.Decisions {
		if d.Keep {
			numbers = append(numbers, int(d.Snapshot.ID[0])<<8|int(d.Snapshot.ID[1]))
		}
	}
	return numbers
}

func TestRules(t *testing.T) {
	daily := every(day, 400, now)
	hourly := every(time.Hour, 100, now)
	for _, tc := range []struct {
		name string
		p    Policy
		all  []*tree.Snapshot
		want []int
	}{
		{"the last", Policy{Last: 3}, daily, []int{0, 1, 2}},
		{"at least one", Policy{Last: 1}, daily[:1], []int{0}},
		{"min_keep", Policy{Last: 1, MinKeep: 4}, daily, []int{0, 1, 2, 3}},
		{"count", Policy{MaxCount: 2}, daily, []int{0, 1}},
		{"age", Policy{MaxAge: 3 * day}, daily, []int{0, 1, 2, 3}},
		{"age and count: the stricter", Policy{MaxAge: 3 * day, MaxCount: 2}, daily, []int{0, 1}},
		{"count and age: the stricter", Policy{MaxAge: 1 * day, MaxCount: 9}, daily, []int{0, 1}},
		{"another rule keeps what is too old", Policy{MaxAge: 1 * day, Monthly: 3}, daily, []int{0, 1, 26, 57}},
		{"hourly", Policy{Hourly: 3}, hourly, []int{0, 1, 2}},
		{"daily, the newest of each", Policy{Daily: 3}, hourly, []int{0, 6, 30}},
		{"weekly", Policy{Weekly: 3}, daily, []int{0, 4, 11}}, // a Thursday, then Sundays
		{"monthly", Policy{Monthly: 2}, daily, []int{0, 26}},
		{"yearly, and the oldest while there are fewer", Policy{Yearly: 5}, daily, []int{0, 330, 399}},
		{"yearly, enough", Policy{Yearly: 2}, daily, []int{0, 330}},
		{"forever", Policy{Last: Forever}, daily[:5], []int{0, 1, 2, 3, 4}},
		{"within", Policy{Within: Span{Days: 2, Hours: 1}}, daily, []int{0, 1, 2}},
		{"within a month of the calendar", Policy{Within: Span{Months: 1}}, daily[:60], append([]int{}, seq(32)...)},
		{"by tag", Policy{Last: 1, Tags: []string{"release"}}, []*tree.Snapshot{at(0, now), at(1, now.Add(-day), "release"), at(2, now.Add(-2*day), "other")}, []int{0, 1}},
		{"hold", Policy{Last: 1}, []*tree.Snapshot{at(0, now), at(1, now.Add(-day)), at(2, now.Add(-2*day), Hold)}, []int{0, 2}},
		{"the newest that is whole", Policy{Last: 1}, []*tree.Snapshot{broken(at(0, now)), broken(at(1, now.Add(-day))), at(2, now.Add(-2*day)), at(3, now.Add(-3*day))}, []int{0, 2}},
		{"none is whole: all", Policy{Last: 1}, []*tree.Snapshot{broken(at(0, now)), broken(at(1, now.Add(-day)))}, []int{0, 1}},
		{"of a period one that is whole", Policy{Daily: 2}, []*tree.Snapshot{at(0, now), broken(at(1, now.Add(-20*time.Hour))), at(2, now.Add(-22*time.Hour)), at(3, now.Add(-23*time.Hour))}, []int{0, 2}},
		{"no policy", Policy{}, daily[:3], []int{0, 1, 2}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := kept(decide(t, tc.p, tc.all)); !slices.Equal(got, tc.want) {
				t.Errorf("kept %v, want %v", got, tc.want)
			}
		})
	}
}

func seq(n int) (s []int) {
	for i := range n {
		s = append(s, i)
	}
	return s
}

// Nothing expires while no backup is made.
func TestAgeIsCountedFromTheNewest(t *testing.T) {
	all := every(day, 40, now.Add(-200*day))
	if got := kept(decide(t, Policy{MaxAge: 30 * day}, all)); !slices.Equal(got, seq(31)) {
		t.Errorf("kept %v", got)
	}
}

func TestVerified(t *testing.T) {
	all := every(day, 5, now)
	p := Policy{Last: 1, Location: time.UTC}
	g := Decide(p, all, Facts{Verified: func(id repo.ID) bool { return id == all[2].ID || id == all[4].ID }}, now)[0]
	if got := kept(g); !slices.Equal(got, []int{0, 2}) {
		t.Errorf("kept %v, want the newest and the newest that was verified", got)
	}
}

// What a wrong clock has written takes no other snapshot's place, and one that jumped
// makes nothing old.
func TestClocks(t *testing.T) {
	t.Run("future", func(t *testing.T) {
		all := append([]*tree.Snapshot{at(100, now.Add(400*day)), at(101, now.Add(day))}, every(day, 5, now)...)
		g := decide(t, Policy{Last: 2, MaxAge: day / 2, Daily: 1}, all)
		if got := kept(g); !slices.Equal(got, []int{100, 101, 0, 1}) || len(g.Notes) != 1 || !strings.Contains(g.Notes[0], "of the future") {
			t.Errorf("kept %v, %q", got, g.Notes)
		}
	})
	t.Run("a little ahead", func(t *testing.T) {
		all := every(day, 3, now.Add(futureSlack/2))
		if g := decide(t, Policy{Last: 1}, all); len(kept(g)) != 1 || len(g.Notes) != 0 {
			t.Errorf("kept %v, %q", kept(g), g.Notes)
		}
	})
	t.Run("jump", func(t *testing.T) {
		all := append([]*tree.Snapshot{at(100, now)}, every(day, 5, now.Add(-2000*day))...)
		g := decide(t, Policy{MaxAge: 30 * day}, all)
		if len(kept(g)) != 6 || len(g.Notes) != 1 || !strings.Contains(g.Notes[0], "2000 days") {
			t.Errorf("kept %v, %q", kept(g), g.Notes)
		}
		if got := kept(decide(t, Policy{Last: 2}, all)); !slices.Equal(got, []int{100, 0}) {
			t.Errorf("kept %v: numbers do not depend on clocks", got)
		}
	})
	t.Run("the hour that comes twice", func(t *testing.T) {
		berlin, err := time.LoadLocation("Europe/Berlin")
		if err != nil {
			t.Skip("no time zones here")
		}
		change := time.Date(2026, 10, 25, 0, 30, 0, 0, time.UTC) // 2:30, and an hour later 2:30
		all := []*tree.Snapshot{at(0, change.Add(time.Hour)), at(1, change)}
		if got := kept(Decide(Policy{Hourly: 2, Location: berlin}, all, Facts{}, now)[0]); !slices.Equal(got, []int{0, 1}) {
			t.Errorf("kept %v", got)
		}
	})
}

// Versions of other things do not count.
func TestGroups(t *testing.T) {
	all := every(day, 3, now)
	for i, s := range every(day, 3, now) {
		s.ID[2], s.Host = byte(i+1), "web2"
		all = append(all, s)
	}
	for i, s := range every(day, 3, now) {
		s.ID[3], s.Sources = byte(i+1), []tree.Path{"/home", "/srv"}
		all = append(all, s)
	}
	for i, s := range every(day, 3, now) {
		s.ID[4], s.Kind = byte(i+1), tree.KindStream
		all = append(all, s)
	}
	groups := Decide(Policy{Last: 1}, all, Facts{}, now)
	if len(groups) != 4 || groups[0].Host != "web1" || len(groups[0].Sources) != 1 || len(groups[1].Sources) != 2 ||
		groups[2].Kind != tree.KindStream || groups[3].Host != "web2" {
		t.Fatalf("%+v", groups)
	}
	for _, g := range groups {
		if len(kept(g)) != 1 {
			t.Errorf("%s %v: kept %v", g.Host, g.Sources, kept(g))
		}
	}
}

func TestWhole(t *testing.T) {
	s := at(0, now)
	s.Problems, s.Counts.Problems = []tree.Problem{{Kind: "metadata"}}, 1
	if !Whole(s) {
		t.Error("an attribute that could not be read makes a snapshot incomplete")
	}
	s.Counts.Problems = 2
	if Whole(s) {
		t.Error("problems that are not listed are taken for harmless ones")
	}
}

// A suspicious snapshot and all that is older stay until somebody approves of it; other
// sources go on.
func TestSuspicious(t *testing.T) {
	all := every(day, 6, now)
	all[2].Tags = []string{guard.Tag}
	other := at(100, now.Add(-9*day))
	other.Sources = []tree.Path{"/srv"}
	older := at(101, now.Add(-10*day))
	older.Sources = other.Sources
	facts := Facts{}
	groups := Decide(Policy{Last: 1, Location: time.UTC}, append(all, other, older), facts, now)
	if got := kept(groups[0]); !slices.Equal(got, []int{0, 2, 3, 4, 5}) {
		t.Errorf("kept %v", got)
	}
	if got := groups[0].Decisions[4].Reasons; !slices.Equal(got, []string{"held: snapshot " + all[2].ID.Short() + " is suspicious"}) {
		t.Errorf("%q", got)
	}
	if got := kept(groups[1]); !slices.Equal(got, []int{100}) {
		t.Errorf("of other sources, kept %v", got)
	}
	wanted := func(s *tree.Snapshot) bool { return s != all[0] }
	if got := kept(Remove(all, wanted, facts, false)[0]); !slices.Equal(got, []int{0, 2, 3, 4, 5}) {
		t.Errorf("named: kept %v", got)
	}
	if got := kept(Remove(all, wanted, facts, true)[0]); !slices.Equal(got, []int{0}) {
		t.Errorf("named, with force: kept %v", got)
	}
	facts.Approved = func(id repo.ID) bool { return id == all[2].ID }
	if got := kept(Decide(Policy{Last: 1, Location: time.UTC}, all, facts, now)[0]); !slices.Equal(got, []int{0}) {
		t.Errorf("approved: kept %v", got)
	}
	if got := kept(Remove(all, wanted, facts, false)[0]); !slices.Equal(got, []int{0}) {
		t.Errorf("approved and named: kept %v", got)
	}
}

// TestHistories checks on random histories and policies what must hold whatever they
// are.
func TestHistories(t *testing.T) {
	for seed := range uint64(3000) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var all []*tree.Snapshot
		when := now.Add(-time.Duration(rng.IntN(20)-2) * time.Hour)
		for i := range 1 + rng.IntN(60) {
			s := at(i, when)
			if rng.IntN(4) == 0 {
				broken(s)
			}
			if rng.IntN(10) == 0 {
				s.Tags = []string{Hold}
			}
			if rng.IntN(40) == 0 {
				s.Tags = append(s.Tags, guard.Tag)
			}
			all = append(all, s)
			when = when.Add(-time.Duration(rng.ExpFloat64() * float64([]time.Duration{time.Hour, day, 40 * day}[rng.IntN(3)])))
		}
		rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		some := func(n int) int { return max(0, rng.IntN(2*n)-n) }
		p := Policy{
			MaxAge: time.Duration(some(60)) * day, MaxCount: some(10), Last: some(5), Hourly: some(5), Daily: some(10), Weekly: some(5),
			Monthly: some(12), Yearly: some(4), Within: Span{Days: some(20)}, MinKeep: some(4), Location: time.UTC,
		}
		verifiedID := all[rng.IntN(len(all))].ID
		verified := func(id repo.ID) bool { return id == verifiedID }
		g := Decide(p, all, Facts{Verified: verified}, now)[0]
		suspicious := false
		for _, d := range g.Decisions {
			if suspicious = suspicious || guard.Flagged(d.Snapshot); suspicious && !d.Keep {
				t.Fatalf("seed %d: %v is forgotten, though a suspicious one is not older", seed, d.Snapshot.Time)
			}
		}

		var past []Decision
		for _, d := range g.Decisions {
			if !d.Snapshot.Time.After(now.Add(futureSlack)) {
				past = append(past, d)
			} else if !d.Keep {
				t.Fatalf("seed %d: one of the future is forgotten", seed)
			}
		}
		wholeKept, anyWhole := false, false
		for i, d := range past {
			anyWhole = anyWhole || Whole(d.Snapshot)
			wholeKept = wholeKept || d.Keep && Whole(d.Snapshot)
			if !d.Keep && (i < max(p.MinKeep, 1) || slices.Contains(d.Snapshot.Tags, Hold) || verified(d.Snapshot.ID)) {
				t.Fatalf("seed %d: %d of %d is forgotten, %+v", seed, i, len(past), p)
			}
		}
		if anyWhole && !wholeKept || !anyWhole && len(past) != len(slices.DeleteFunc(slices.Clone(past), func(d Decision) bool { return !d.Keep })) {
			t.Fatalf("seed %d: nothing that is whole is left", seed)
		}

		// One more rule never forgets more, unless it is the first.
		if !p.IsZero() {
			more := p
			more.Weekly, more.Tags = Forever, append(more.Tags, "x")
			for i, d := range Decide(more, all, Facts{Verified: verified}, now)[0].Decisions {
				if g.Decisions[i].Keep && !d.Keep {
					t.Fatalf("seed %d: another rule forgets %v", seed, d.Snapshot.Time)
				}
			}
		}
		// What was kept is kept again: a second run finds nothing to do.
		var left []*tree.Snapshot
		for _, d := range g.Decisions {
			if d.Keep {
				left = append(left, d.Snapshot)
			}
		}
		for _, d := range Decide(p, left, Facts{Verified: verified}, now)[0].Decisions {
			if !d.Keep {
				t.Fatalf("seed %d: a second run forgets %v too: %+v", seed, d.Snapshot.Time, p)
			}
		}
	}
}

func TestParseSpan(t *testing.T) {
	for text, want := range map[string]Span{
		"2y5m7d3h": {2, 5, 7, 3}, "14d": {Days: 14}, "1y": {Years: 1}, "6m12h": {Months: 6, Hours: 12}, " 3d ": {Days: 3}, "": {},
	} {
		if got, err := ParseSpan(text); err != nil || got != want {
			t.Errorf("ParseSpan(%q) = %+v, %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"14", "d", "-1d", "7d2y", "1w", "1.5d", "1d1d", "99999999d", "1 d"} {
		if got, err := ParseSpan(text); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", text)) {
			t.Errorf("ParseSpan(%q) = %+v, %v", text, got, err)
		}
	}
}
