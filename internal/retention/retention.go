// Package retention decides which snapshots are kept, and says why. It is a pure
// function of a policy, the snapshots and the time; it removes nothing.
//
// What is decided is decided within a group: the snapshots of one host, kind
// and set of sources are versions of each other, others are not.
package retention

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/guard"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// Hold is the tag of snapshots that are kept whatever the policy says.
const Hold = "hold"

// A Policy says what is kept. A snapshot is kept if any of its rules keeps it, and
// forgotten otherwise; the zero Policy keeps everything. Periods are those of the
// calendar in Location.
type Policy struct {
	// MaxAge and MaxCount together are one rule: what is neither older than MaxAge
	// nor beyond the newest MaxCount is kept; 0 is no bound.
	MaxAge   time.Duration
	MaxCount int

	Last                                   int // the newest ones
	Hourly, Daily, Weekly, Monthly, Yearly int // the newest of each of so many periods that have any; see Forever
	Within                                 Span
	Tags                                   []string // those that bear one of them

	// MinKeep is how many of the newest are kept in any case, at least 1.
	MinKeep int

	Location *time.Location // nil: time.Local
}

// Forever, as a number of periods, is all of them.
const Forever = -1

// A Span is a length of time of the calendar, back from a moment.
type Span struct{ Years, Months, Days, Hours int }

func (s Span) isZero() bool { return s == Span{} }

func (s Span) before(t time.Time) time.Time {
	return t.AddDate(-s.Years, -s.Months, -s.Days).Add(-time.Duration(s.Hours) * time.Hour)
}

// ParseSpan reads a span as restic writes it: "2y5m7d3h", any part of it.
func ParseSpan(text string) (Span, error) {
	var s Span
	rest := strings.TrimSpace(text)
	for _, unit := range []struct {
		name string
		to   *int
	}{{"y", &s.Years}, {"m", &s.Months}, {"d", &s.Days}, {"h", &s.Hours}} {
		number, after, found := strings.Cut(rest, unit.name)
		if !found {
			continue
		}
		n := 0
		for _, c := range number {
			if c < '0' || c > '9' || n > maxSpan {
				return Span{}, spanError(text)
			}
			n = 10*n + int(c-'0')
		}
		if number == "" || n > maxSpan {
			return Span{}, spanError(text)
		}
		*unit.to, rest = n, after
	}
	if rest != "" {
		return Span{}, spanError(text)
	}
	return s, nil
}

// maxSpan bounds each part of a Span.
const maxSpan = 1_000_000

func spanError(text string) error {
	return fmt.Errorf("%q is not a length of time like 1y6m14d12h (years, months, days, hours)", text)
}

// IsZero says whether the policy has no rule, so that everything is kept.
func (p *Policy) IsZero() bool {
	return p.MaxAge == 0 && p.MaxCount == 0 && p.Last == 0 && p.Hourly == 0 && p.Daily == 0 && p.Weekly == 0 && p.Monthly == 0 &&
		p.Yearly == 0 && p.Within.isZero() && len(p.Tags) == 0
}

// A Group is the snapshots of one host, kind and set of sources.
type Group struct {
	Host    string
	Kind    tree.Kind
	Sources []tree.Path
	// Decisions are about its snapshots, newest first.
	Decisions []Decision
	// Notes are what somebody should know: clocks that jumped, nothing that is whole.
	Notes []string
}

// A Decision is about one snapshot.
type Decision struct {
	Snapshot *tree.Snapshot
	Keep     bool
	Reasons  []string // why it is kept; for one that is forgotten, why no rule keeps it
}

const (
	// futureSlack is how far ahead of the clock a snapshot may be, before it counts
	// as one of the future: clocks of several hosts differ.
	futureSlack = 10 * time.Minute
	// jump is how long after the one before it the newest snapshot may be, before
	// its clock is doubted and nothing is forgotten for its age.
	jump = 366 * 24 * time.Hour
)

// Whole says whether a snapshot has the content of everything that it names: what was
// unreadable, vanished or changed all the time is not in it as it was.
func Whole(s *tree.Snapshot) bool {
	if s.Counts.Problems > int64(len(s.Problems)) {
		return false // not all are listed
	}
	return !slices.ContainsFunc(s.Problems, func(p tree.Problem) bool { return p.Kind != "metadata" })
}

// Facts are what is known of snapshots beside what is in them; nil: nothing.
type Facts struct {
	// Verified says whether every byte that a snapshot needs is known to have been
	// read.
	Verified func(repo.ID) bool
	// Approved says whether somebody has approved of a suspicious snapshot.
	Approved func(repo.ID) bool
}

func (f *Facts) fill() {
	none := func(repo.ID) bool { return false }
	if f.Verified == nil {
		f.Verified = none
	}
	if f.Approved == nil {
		f.Approved = none
	}
}

// Decide applies a policy. The groups are in the order of hosts, kinds and sources.
func Decide(p Policy, snapshots []*tree.Snapshot, facts Facts, now time.Time) []Group {
	facts.fill()
	if p.Location == nil {
		p.Location = time.Local
	}
	byKey := map[tree.Group]*Group{}
	for _, s := range snapshots {
		key := s.Group()
		g := byKey[key]
		if g == nil {
			g = &Group{Host: s.Host, Kind: s.Kind, Sources: s.Sources}
			byKey[key] = g
		}
		g.Decisions = append(g.Decisions, Decision{Snapshot: s})
	}
	groups := make([]Group, 0, len(byKey))
	for _, g := range byKey {
		slices.SortFunc(g.Decisions, func(a, b Decision) int {
			return cmp.Or(b.Snapshot.Time.Compare(a.Snapshot.Time), slices.Compare(a.Snapshot.ID[:], b.Snapshot.ID[:]))
		})
		g.decide(&p, &facts, now)
		groups = append(groups, *g)
	}
	slices.SortFunc(groups, func(a, b Group) int {
		return a.Decisions[0].Snapshot.Group().Compare(b.Decisions[0].Snapshot.Group())
	})
	return groups
}

func (g *Group) decide(p *Policy, facts *Facts, now time.Time) {
	keep := func(d *Decision, reason string) {
		d.Keep = true
		d.Reasons = append(d.Reasons, reason)
	}
	if p.IsZero() {
		for i := range g.Decisions {
			keep(&g.Decisions[i], "no policy")
		}
		return
	}

	// What is of the future cannot be placed, and takes no other's place.
	past := g.Decisions
	for len(past) > 0 && past[0].Snapshot.Time.After(now.Add(futureSlack)) {
		keep(&past[0], "of the future")
		past = past[1:]
	}
	if n := len(g.Decisions) - len(past); n > 0 {
		g.Notes = append(g.Notes, fmt.Sprintf("%d of the snapshots are of the future, the newest of %s: they are kept, and do not count; is a clock wrong?",
			n, g.Decisions[0].Snapshot.Time.In(p.Location).Format("2006-01-02 15:04")))
	}

	for i := range past {
		d := &past[i]
		for _, tag := range d.Snapshot.Tags {
			if tag == Hold || slices.Contains(p.Tags, tag) {
				keep(d, "tag "+tag)
			}
		}
	}
	for i, why := range g.held(facts) {
		keep(&g.Decisions[i], why)
	}
	g.keepNewest(past, p, facts.Verified, keep)
	g.keepRecent(past, p, keep)
	for _, r := range p.periods() {
		keepPeriods(past, r, p.Location, keep)
	}
	for i := range past {
		if d := &past[i]; !d.Keep {
			d.Reasons = []string{"no rule keeps it"}
		}
	}
}

// held says of which decisions nothing goes, and why: a suspicious snapshot, and all that
// is older, for that may be what has to be restored. Otherwise the rules would, run by
// run, replace the last good snapshots by bad ones.
func (g *Group) held(facts *Facts) map[int]string {
	held := make(map[int]string)
	var by *tree.Snapshot
	for i := range g.Decisions {
		s := g.Decisions[i].Snapshot
		if by != nil {
			held[i] = "held: snapshot " + by.ID.Short() + " is suspicious"
		}
		if guard.Flagged(s) && !facts.Approved(s.ID) {
			by = s
			held[i] = guard.Tag
		}
	}
	return held
}

// Remove decides about snapshots that somebody wants removed. It keeps those that are
// held or suspicious, the newest that was verified, and in any case the newest that is whole of those
// that would be left without one; force gives up all but the last. The groups are those
// that have a wanted snapshot.
func Remove(snapshots []*tree.Snapshot, wanted func(*tree.Snapshot) bool, facts Facts, force bool) []Group {
	facts.fill()
	groups := Decide(Policy{}, snapshots, facts, time.Time{})
	for i := range groups {
		groups[i].remove(wanted, &facts, force)
	}
	return slices.DeleteFunc(groups, func(g Group) bool {
		return !slices.ContainsFunc(g.Decisions, func(d Decision) bool { return wanted(d.Snapshot) })
	})
}

func (g *Group) remove(wanted func(*tree.Snapshot) bool, facts *Facts, force bool) {
	ds := g.Decisions
	newest := slices.IndexFunc(ds, func(d Decision) bool { return facts.Verified(d.Snapshot.ID) })
	held := g.held(facts)
	for i := range ds {
		d := &ds[i]
		d.Keep, d.Reasons = true, []string{"not named"}
		switch {
		case !wanted(d.Snapshot):
		case slices.Contains(d.Snapshot.Tags, Hold) && !force:
			d.Reasons = []string{"tag " + Hold}
		case held[i] != "" && !force:
			d.Reasons = []string{held[i]}
		case i == newest && !force:
			d.Reasons = []string{"newest that was verified"}
		default:
			d.Keep, d.Reasons = false, []string{"named"}
		}
	}
	whole := func(d Decision) bool { return Whole(d.Snapshot) }
	last := slices.IndexFunc(ds, whole)
	why := "newest that is whole"
	if last < 0 {
		last, why = 0, "newest, and none is whole"
	}
	left := slices.ContainsFunc(ds, func(d Decision) bool { return d.Keep && (whole(d) || why != "newest that is whole") })
	if len(ds) > 0 && !left {
		ds[last].Keep, ds[last].Reasons = true, []string{why}
	}
}

// keepNewest keeps what must never go: the newest ones, the newest that is whole, and
// the newest that was verified.
func (g *Group) keepNewest(past []Decision, p *Policy, verified func(repo.ID) bool, keep func(*Decision, string)) {
	for i := range min(max(p.MinKeep, 1), len(past)) {
		keep(&past[i], "one of the newest")
	}
	whole := slices.IndexFunc(past, func(d Decision) bool { return Whole(d.Snapshot) })
	switch {
	case whole >= 0:
		keep(&past[whole], "newest that is whole")
	case len(past) > 0:
		// None has everything; what one lacks another may have.
		for i := range past {
			keep(&past[i], "none is whole")
		}
		g.Notes = append(g.Notes, "no snapshot is whole: files could not be read in each run, so that all are kept")
	}
	if i := slices.IndexFunc(past, func(d Decision) bool { return verified(d.Snapshot.ID) }); i >= 0 {
		keep(&past[i], "newest that was verified")
	}
}

// keepRecent applies the rules of number and age. Ages are counted from the newest
// snapshot, not from now: while no backup is made, nothing expires.
func (g *Group) keepRecent(past []Decision, p *Policy, keep func(*Decision, string)) {
	if len(past) == 0 {
		return
	}
	newest := past[0].Snapshot.Time
	aged := p.MaxAge > 0 || !p.Within.isZero()
	if aged && len(past) > 1 && newest.Sub(past[1].Snapshot.Time) > jump {
		g.Notes = append(g.Notes, fmt.Sprintf("the newest snapshot is %d days younger than the one before: if no clock was wrong, the next run forgets what is too old; this one does not",
			int(newest.Sub(past[1].Snapshot.Time).Hours()/24)))
		for i := range past {
			keep(&past[i], "clock in doubt")
		}
		return
	}
	since := newest.Add(-p.MaxAge)
	within := p.Within.before(newest.In(p.Location))
	for i := range past {
		d := &past[i]
		if (p.MaxAge > 0 || p.MaxCount > 0) && (p.MaxAge == 0 || !d.Snapshot.Time.Before(since)) && (p.MaxCount == 0 || i < p.MaxCount) {
			keep(d, "recent")
		}
		if i < p.Last || p.Last == Forever {
			keep(d, "last")
		}
		if !p.Within.isZero() && !d.Snapshot.Time.Before(within) {
			keep(d, "within")
		}
	}
}

// A rule keeps the newest snapshot of each of some periods.
type rule struct {
	name  string
	count int // of periods; Forever
	of    func(time.Time) string
}

func (p *Policy) periods() []rule {
	layout := func(l string) func(time.Time) string { return func(t time.Time) string { return t.Format(l) } }
	return []rule{
		{"hourly", p.Hourly, layout("2006-01-02 15 -0700")}, // the hour that summer time repeats is two
		{"daily", p.Daily, layout("2006-01-02")},
		{"weekly", p.Weekly, func(t time.Time) string {
			year, week := t.ISOWeek()
			return fmt.Sprintf("%d week %d", year, week)
		}},
		{"monthly", p.Monthly, layout("2006-01")},
		{"yearly", p.Yearly, layout("2006")},
	}
}

// keepPeriods keeps the newest snapshot of each of the newest periods that have any;
// one that is whole rather than one that is not. While there are fewer periods than
// asked for, the oldest snapshot is kept, too: it is what reaches back furthest.
func keepPeriods(past []Decision, r rule, where *time.Location, keep func(*Decision, string)) {
	if r.count == 0 {
		return
	}
	periods := 0
	for i := 0; i < len(past) && (r.count == Forever || periods < r.count); periods++ {
		period := r.of(past[i].Snapshot.Time.In(where))
		pick, end := i, i
		for end < len(past) && r.of(past[end].Snapshot.Time.In(where)) == period {
			if !Whole(past[pick].Snapshot) && Whole(past[end].Snapshot) {
				pick = end
			}
			end++
		}
		keep(&past[pick], r.name+" "+period)
		i = end
		if i == len(past) && (r.count == Forever || periods+1 < r.count) && pick != len(past)-1 {
			keep(&past[len(past)-1], "oldest, "+r.name)
		}
	}
}
