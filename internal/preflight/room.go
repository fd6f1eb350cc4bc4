package preflight

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
)

// Room is what is left on a file system for this user.
type Room struct {
	Bytes  int64
	Inodes int64 // -1: it does not run out of them
}

const (
	// packBytes is the size of most objects that a backup makes.
	packBytes = 32 << 20
	// minInodes are for what a backup makes beside packs: index, snapshot,
	// directories.
	minInodes = 64
	// ownBytes is what logs, records and the cache of the index may grow by in a run.
	ownBytes = 16 << 20
	// fullHint is what to do about a destination that is full.
	fullHint = "free some space; 'backup-handler forget --prune' and 'prune' remove what the rules no longer keep"
)

// A Forecast is what earlier runs say about the next one.
type Forecast struct {
	// Runs is how many are known; 0: there is no forecast.
	Runs int
	// Usual is what the median of them has stored, in bytes, and Most what the largest has.
	Usual, Most int64
}

// NewForecast looks at the bytes that earlier runs have stored.
func NewForecast(stored []int64) Forecast {
	if len(stored) == 0 {
		return Forecast{}
	}
	s := slices.Sorted(slices.Values(stored))
	return Forecast{len(s), s[len(s)/2], s[len(s)-1]}
}

// RoomAt returns what is left where a path is, or would be made.
func (m *Machine) RoomAt(path string) (Room, error) {
	dir, err := existing(path)
	if err != nil {
		return Room{}, err
	}
	return room(dir)
}

// Space judges the room at a destination. It refuses what is below minFree, and where
// not even a usual run has room; where one as large as twice the largest has none,
// it warns.
func Space(subject string, r Room, minFree int64, f Forecast) Result {
	res := Result{Check: CheckSpace, State: OK, Subject: subject, Hint: fullHint}
	switch {
	case r.Bytes == 0:
		res.State, res.Text = Refused, "it is full"
	case r.Bytes < minFree:
		res.State, res.Text = Refused, fmt.Sprintf("only %s free, less than min_free, %s", size(r.Bytes), size(minFree))
	case r.Inodes >= 0 && r.Inodes < minInodes+f.Usual/packBytes:
		res.State, res.Text = Refused, fmt.Sprintf("only %d more files can be made (inodes)", r.Inodes)
		res.Hint = "the file system is out of inodes: remove files there, or make it with more of them"
	case r.Bytes < f.Usual:
		res.State, res.Text = Refused, fmt.Sprintf("only %s free, and a usual run stores %s", size(r.Bytes), size(f.Usual))
	case f.Runs > 0 && r.Bytes/2 < f.Most:
		res.State, res.Text = Warning, fmt.Sprintf("only %s free, and a run has stored %s not long ago", size(r.Bytes), size(f.Most))
	case f.Runs == 0:
		res.State, res.Hint = Skipped, ""
		res.Text = fmt.Sprintf("%s free; how much a run needs is not known before the second one", size(r.Bytes))
		if minFree > 0 {
			res.State, res.Text = OK, fmt.Sprintf("%s free, min_free is %s", size(r.Bytes), size(minFree))
		}
	default:
		res.Hint = ""
		res.Text = fmt.Sprintf("%s free, a usual run stores %s", size(r.Bytes), size(f.Usual))
	}
	return res
}

// OwnSpace checks the file system of a directory of the program's own: without room
// there, a backup can be made, but not be told of. No directory is no result.
func (m *Machine) OwnSpace(ctx context.Context, dir string) []Result {
	if dir == "" {
		return nil
	}
	return m.within(ctx, CheckSpace, dir, func() []Result {
		r := Result{Check: CheckSpace, State: OK, Subject: dir}
		left, err := m.RoomAt(dir)
		switch {
		case err != nil:
			r.State, r.Text = Skipped, fmt.Sprintf("how much room there is is not known: %v", plain(err))
		case left.Bytes < ownBytes:
			r.State, r.Text = Warning, fmt.Sprintf("only %s free for logs, records and cache", size(left.Bytes))
			r.Hint = "free some space, or set [STATE] dir and [CACHE] dir"
		case left.Inodes >= 0 && left.Inodes < minInodes:
			r.State, r.Text = Warning, fmt.Sprintf("only %d more files can be made (inodes)", left.Inodes)
			r.Hint = "remove files there, or set [STATE] dir and [CACHE] dir"
		default:
			r.Text = size(left.Bytes) + " free"
		}
		return []Result{r}
	})
}

// size is a number of bytes for people.
func size(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/1024, 0
	for f >= 1024 && i < len(units)-1 {
		f /= 1024
		i++
	}
	return fmt.Sprintf("%.1f %ciB", f, units[i])
}

// existing is the longest part of a path that exists, without symlinks.
func existing(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	for at := abs; ; at = filepath.Dir(at) {
		resolved, err := filepath.EvalSymlinks(at)
		if err == nil || at == filepath.Dir(at) {
			return resolved, err
		}
	}
}
