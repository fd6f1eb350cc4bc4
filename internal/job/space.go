package job

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// Space says where a repository's space goes. Sizes are stored bytes, after
// deduplication and compression: of each chunk its part of its block.
type Space struct {
	Groups []GroupSpace `json:"groups"` // in the order of hosts, kinds and sources
	// Shared is what snapshots of several groups need; each has it in its Total.
	Shared int64 `json:"shared_bytes"`
	// Other is what no snapshot needs, until a prune, and padding and tables of packs.
	Other int64 `json:"other_bytes"`
	// Lost is how often a chunk is needed that is in no pack.
	Lost int64 `json:"lost_chunks,omitempty"`
}

// GroupSpace is that of the snapshots of one host, kind and set of sources.
type GroupSpace struct {
	Host    string      `json:"host"`
	Kind    tree.Kind   `json:"kind,omitempty"`
	Sources []tree.Path `json:"sources"`
	// Unique is what no snapshot of another group needs: what forgetting the whole
	// group would free.
	Unique int64 `json:"unique_bytes"`
	// Total is all that its snapshots need.
	Total     int64           `json:"total_bytes"`
	Snapshots []SnapshotSpace `json:"snapshots"` // oldest first
}

// SnapshotSpace is that of one snapshot.
type SnapshotSpace struct {
	ID   repo.ID   `json:"id"`
	Time time.Time `json:"time"`
	// Unique is what no other snapshot needs: what forgetting this one alone would
	// free.
	Unique int64 `json:"unique_bytes"`
	// Added is what it needs and no older snapshot does.
	Added int64 `json:"added_bytes"`
	// First: there is none before it in its group, so that Added is no growth.
	First bool `json:"first,omitempty"`
}

// Space reads the directories of all snapshots, each page of them at most three times,
// and once more where there are several groups. It takes 4 bytes of memory for each chunk
// of the index. The index must be loaded.
func (d *Destination) Space(ctx context.Context) (*Space, error) {
	all := slices.Clone(d.Snapshots)
	slices.SortStableFunc(all, func(a, b *tree.Snapshot) int { return a.Time.Compare(b.Time) })
	s, group := grouped(all)
	owners := d.Repo.NewOwners(group)
	for k, snap := range all {
		err := tree.Mark(ctx, d.Repo, snap.RootNode(), func(h repo.Hash) (bool, error) { return owners.Use(k, h) })
		if err != nil {
			return nil, fmt.Errorf("snapshot %s: what it needs cannot be found out: %w", snap.ID.Short(), err)
		}
	}
	sums, err := owners.Sums()
	if err != nil {
		return nil, err
	}
	s.Shared, s.Lost = round(sums.Shared), sums.Lost
	needed := sums.Shared
	for k, snap := range all {
		g := &s.Groups[group[k]]
		g.Snapshots = append(g.Snapshots, SnapshotSpace{snap.ID, snap.Time, round(sums.Unique[k]), round(sums.Added[k]), len(g.Snapshots) == 0})
	}
	for i := range s.Groups {
		s.Groups[i].Unique = round(sums.Group[i])
		s.Groups[i].Total = s.Groups[i].Unique
		needed += sums.Group[i]
	}
	s.Other = max(0, d.Index.Bytes-round(needed))
	if sums.Shared == 0 {
		return s, nil
	}
	for i := range s.Groups {
		u := d.Repo.NewUsage()
		for k, snap := range all {
			if group[k] != i {
				continue
			}
			if err := tree.Mark(ctx, d.Repo, snap.RootNode(), u.Use); err != nil {
				return nil, fmt.Errorf("snapshot %s: %w", snap.ID.Short(), err)
			}
		}
		s.Groups[i].Total = round(u.Bytes)
	}
	return s, nil
}

func round(x float64) int64 { return int64(math.Round(x)) }

// grouped makes the groups of some snapshots, and says in which each is.
func grouped(all []*tree.Snapshot) (*Space, []int) {
	s := &Space{Groups: []GroupSpace{}}
	var groups []tree.Group // of s.Groups
	for _, snap := range all {
		if i, ok := slices.BinarySearchFunc(groups, snap.Group(), tree.Group.Compare); !ok {
			groups = slices.Insert(groups, i, snap.Group())
			s.Groups = slices.Insert(s.Groups, i, GroupSpace{Host: snap.Host, Kind: snap.Kind, Sources: snap.Sources})
		}
	}
	group := make([]int, len(all))
	for k, snap := range all {
		group[k], _ = slices.BinarySearchFunc(groups, snap.Group(), tree.Group.Compare)
	}
	return s, group
}

// Growth is how fast a repository grows, by what runs have added that is still needed.
type Growth struct {
	Days int `json:"days"` // that were looked at, the last of them with a snapshot
	// PerDay are the bytes added on each of them, in local time; without what the
	// first snapshot of a group has added.
	PerDay []int64 `json:"per_day"`
	// Rate is the median of the slopes between any two days of the sum of PerDay, in
	// bytes a day (Theil and Sen): one import of photos does not change it. nil: there
	// is not enough history.
	Rate *int64 `json:"bytes_per_day"`
	// Free and FullIn say how much room is left, and how many days it lasts at that
	// rate. nil: nobody knows, or it does not grow.
	Free   *int64   `json:"free_bytes"`
	FullIn *float64 `json:"full_in_days"`
}

const (
	// minGrowthDays is how many days it takes to tell a rate.
	minGrowthDays = 7
	// maxGrowthDays bounds the days that are compared with each other.
	maxGrowthDays = 1000
)

// Growth looks at the last days before the newest snapshot, at most maxGrowthDays. free is
// the room that is left; nil: not known.
func (s *Space) Growth(days int, free *int64) *Growth {
	var all []Added
	for _, x := range s.Groups {
		for _, snap := range x.Snapshots {
			a := Added{snap.Time, snap.Added}
			if snap.First {
				a.Bytes = 0
			}
			all = append(all, a)
		}
	}
	return GrowthOf(all, days, free)
}

// RecordedGrowth is Growth by what the runs of these snapshots have recorded that they
// stored: nothing has to be read for it.
func (d *Destination) RecordedGrowth(days int, free *int64) *Growth {
	all := slices.Clone(d.Snapshots)
	slices.SortStableFunc(all, func(a, b *tree.Snapshot) int { return a.Time.Compare(b.Time) })
	_, group := grouped(all)
	seen := make(map[int]bool)
	added := make([]Added, len(all))
	for i, snap := range all {
		added[i].Time = snap.Time
		if seen[group[i]] {
			added[i].Bytes = snap.Counts.BytesStored
		}
		seen[group[i]] = true
	}
	return GrowthOf(added, days, free)
}

// Added is what was stored at a time; 0 bytes for what is no growth, as a first snapshot.
type Added struct {
	Time  time.Time
	Bytes int64
}

// GrowthOf looks at the last days before the newest of all, at most maxGrowthDays. free is
// the room that is left; nil: not known.
func GrowthOf(all []Added, days int, free *int64) *Growth {
	g := &Growth{PerDay: []int64{}, Free: free}
	day := func(t time.Time) int {
		y, m, d := t.Local().Date()
		return int(time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Unix() / 86400)
	}
	first, last := math.MaxInt, math.MinInt
	for _, x := range all {
		first, last = min(first, day(x.Time)), max(last, day(x.Time))
	}
	if last < first {
		return g
	}
	g.Days = min(days, maxGrowthDays, last-first+1)
	begin := last - g.Days + 1
	g.PerDay = make([]int64, g.Days)
	for _, x := range all {
		if at := day(x.Time) - begin; at >= 0 {
			g.PerDay[at] += x.Bytes
		}
	}
	if g.Days < minGrowthDays {
		return g
	}
	rate := slope(g.PerDay)
	g.Rate = &rate
	if rate > 0 && free != nil {
		left := float64(*free) / float64(rate)
		g.FullIn = &left
	}
	return g
}

// slope is the median of the slopes of the sums of some amounts.
func slope(amounts []int64) int64 {
	sums := make([]int64, len(amounts))
	for i, a := range amounts {
		sums[i] = a + sums[max(i-1, 0)]
	}
	var all []float64
	for j := range sums {
		for i := range j {
			all = append(all, float64(sums[j]-sums[i])/float64(j-i))
		}
	}
	slices.Sort(all)
	n := len(all)
	return round((all[(n-1)/2] + all[n/2]) / 2)
}
