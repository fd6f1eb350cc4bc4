package daemon

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/durable"
	"github.com/SP1R4/BackupHandler/v3/internal/schedule"
)

// ErrRunning says that a daemon for the configuration runs already.
var ErrRunning = errors.New("a daemon for this configuration runs already")

const (
	// lockPoll and lockWait bound the wait for somebody who is just writing the state.
	lockPoll = 10 * time.Millisecond
	lockWait = 10 * time.Second
	// askedTime bounds the wait for somebody who only looks whether there is a daemon, as
	// monitoring does each minute.
	askedTime = 500 * time.Millisecond
	// busyPoll is how often a job looks whether the one before it has ended.
	busyPoll = time.Second
	// maxStateBytes bounds the file: five entries are 1 KiB.
	maxStateBytes = 1 << 20
)

// State is what the daemon of one configuration must not forget: which times were
// started last. It is the file schedule-ID.json in the state directory, where ID is made
// of the configuration's path, so that daemons of several configurations can share the
// directory. It is written whole, and is on the disk before anything relies on it.
type State struct {
	dir    string // state directory
	config string
	id     string
}

// OpenState names the state; nothing need be there. config is the absolute path of the
// configuration, "" for none.
func OpenState(stateDir, config string) *State {
	sum := sha256.Sum256([]byte(config))
	return &State{stateDir, config, fmt.Sprintf("%x", sum[:4])}
}

type stateFile struct {
	Config string                  `json:"config"`
	Jobs   map[schedule.Kind]entry `json:"jobs"`
}

// An entry is what is known of one kind.
type entry struct {
	// Last is the newest time by the schedule, without jitter, that a job has claimed;
	// or from which on times count: the first start, or a change of the schedule.
	Last time.Time `json:"last"`
	// Owed says that one run is to be made up for whatever is due: it was interrupted by
	// the daemon's end, or missed before the schedule changed.
	Owed bool `json:"owed,omitempty"`
	// Schedule and Zone are those by which Last is followed by the next.
	Schedule string `json:"schedule"`
	Zone     string `json:"zone"`
}

func (s *State) file() string            { return filepath.Join(s.dir, "schedule-"+s.id+".json") }
func (s *State) lock(name string) string { return filepath.Join(s.dir, "locks", name+"-"+s.id) }

// lockDaemon makes this the only daemon, until release or the end of the process.
func (s *State) lockDaemon() (release func(), err error) {
	if err := durable.MkdirAll(filepath.Join(s.dir, "locks"), 0o700); err != nil {
		return nil, fmt.Errorf("state of the schedule: %w", err)
	}
	// Whoever asks whether there is a daemon has the lock for a moment.
	l, err := waitLock(context.Background(), s.lock("daemon"), lockPoll, askedTime)
	if errors.Is(err, durable.ErrLocked) {
		return nil, ErrRunning
	}
	if err != nil {
		return nil, fmt.Errorf("state of the schedule: %w", err)
	}
	return func() { l.Unlock() }, nil
}

// Running says whether there is a daemon.
func (s *State) Running() bool {
	if _, err := os.Stat(s.lock("daemon")); err != nil {
		return false
	}
	l, err := durable.TryLock(s.lock("daemon"))
	if err == nil {
		l.Unlock()
	}
	return errors.Is(err, durable.ErrLocked)
}

// read returns the state; without a file, or with one that cannot be understood, an empty
// one: then nothing was missed.
func (s *State) read() (stateFile, error) {
	f := stateFile{Config: s.config, Jobs: make(map[schedule.Kind]entry)}
	data, err := os.ReadFile(s.file())
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return f, fmt.Errorf("state of the schedule: %w", err)
	}
	var found stateFile
	if len(data) <= maxStateBytes && json.Unmarshal(data, &found) == nil && found.Jobs != nil {
		f.Jobs = found.Jobs
		if s.config == "" { // a job does not know
			f.Config = found.Config
		}
	}
	return f, nil
}

// update changes the state. The error of change is returned as it is, and nothing is
// written.
func (s *State) update(change func(*stateFile) error) error {
	lock, err := waitLock(context.Background(), s.lock("schedule"), lockPoll, lockWait)
	if err != nil {
		return fmt.Errorf("state of the schedule: %w", err)
	}
	defer lock.Unlock()
	f, err := s.read()
	if err != nil {
		return err
	}
	before, err := json.Marshal(f)
	if err != nil {
		return err
	}
	if err := change(&f); err != nil {
		return err
	}
	after, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	if same, _ := json.Marshal(f); string(same) == string(before) {
		return nil
	}
	if err := durable.WriteFile(s.file(), append(after, '\n'), 0o600); err != nil {
		return fmt.Errorf("state of the schedule: %w", err)
	}
	return nil
}

// waitLock waits for a lock, at most for so long; 0: without end.
func waitLock(ctx context.Context, name string, poll, limit time.Duration) (*durable.Lock, error) {
	for start := time.Now(); ; {
		lock, err := durable.TryLock(name)
		if !errors.Is(err, durable.ErrLocked) || limit > 0 && time.Since(start) > limit {
			return lock, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(poll):
		}
	}
}

// adopt lets a plan begin, and returns its entries. Kinds that are new, or whose schedule
// has changed, count from now on; what was missed by the old schedule is owed.
func (s *State) adopt(plan schedule.Plan, delay time.Duration, now time.Time) (map[schedule.Kind]entry, error) {
	entries := make(map[schedule.Kind]entry)
	err := s.update(func(f *stateFile) error {
		for kind, sched := range plan.Jobs {
			e, known := f.Jobs[kind]
			if !known {
				e.Last = now
			} else if e.Schedule != sched.String() || e.Zone != sched.Zone() {
				e.Owed = e.Owed || e.missed(now.Add(-delay))
				e.Last = now
			}
			e.Schedule, e.Zone = sched.String(), sched.Zone()
			entries[kind] = e
		}
		f.Config, f.Jobs = s.config, entries
		return nil
	})
	return entries, err
}

// missed says whether something was due after Last, up to now.
func (e entry) missed(now time.Time) bool {
	zone := time.Local
	if e.Zone != "Local" {
		var err error
		if zone, err = schedule.Zone(e.Zone); err != nil {
			return false
		}
	}
	s, err := schedule.Parse(e.Schedule, zone)
	if err != nil {
		return false
	}
	next := s.Next(e.Last)
	return !next.IsZero() && !next.After(now)
}

// put stores one entry.
func (s *State) put(kind schedule.Kind, e entry) error {
	return s.update(func(f *stateFile) error {
		f.Jobs[kind] = e
		return nil
	})
}

// settle records that a job has ended, whether or not it could record that it began.
func (s *State) settle(j Job, owed bool) error {
	return s.update(func(f *stateFile) error {
		e, ok := f.Jobs[j.Kind]
		if !ok {
			return nil // not in the plan any more
		}
		if e.Last.Before(j.Due) {
			e.Last, e.Owed = j.Due, false
		}
		e.Owed = e.Owed || owed
		f.Jobs[j.Kind] = e
		return nil
	})
}

// ClaimEnv is the environment variable that tells a job's process which time it is to
// claim.
const ClaimEnv = "BACKUP_HANDLER_DUE"

// noTime stands in ClaimEnv where a job was asked for.
const noTime = "-"

// Env is ClaimEnv's value for a job.
func (s *State) Env(j Job) string {
	due := noTime
	if !j.Due.IsZero() {
		due = j.Due.UTC().Format(time.RFC3339Nano)
	}
	return string(j.Kind) + " " + due + " " + s.id + " " + s.dir
}

// ErrTaken says that the time has been claimed before: there is nothing to do.
var ErrTaken = errors.New("this time of the schedule was run already")

// Claim is what the process of a job does first, with the value of ClaimEnv: it waits
// until the job before it has ended, which may have outlived the daemon that started it, and
// records that its time is started. Until release, or its end, no other job begins. A job
// that was asked for only waits.
//
// If the daemon is killed before the claim, the next daemon finds the time unclaimed, and
// of the two processes the second finds it taken. ErrTaken and ctx's error mean that the
// job must not run. Any other error means that the claim could not be written: a job had
// better run than not, then.
func Claim(ctx context.Context, env string) (release func(), err error) {
	words := strings.SplitN(env, " ", 4)
	if len(words) != 4 {
		return nil, fmt.Errorf("$%s is not understood", ClaimEnv)
	}
	var due time.Time
	if words[1] != noTime {
		if due, err = time.Parse(time.RFC3339Nano, words[1]); err != nil {
			return nil, fmt.Errorf("$%s: %w", ClaimEnv, err)
		}
	}
	kind, s := schedule.Kind(words[0]), &State{dir: words[3], id: words[2]}
	lock, err := waitLock(ctx, s.lock("job"), busyPoll, 0)
	if err != nil {
		return nil, err
	}
	if due.IsZero() {
		return func() { lock.Unlock() }, nil
	}
	err = s.update(func(f *stateFile) error {
		e := f.Jobs[kind]
		if !e.Last.Before(due) && !(e.Owed && e.Last.Equal(due)) {
			return ErrTaken
		}
		e.Last, e.Owed = due, false
		f.Jobs[kind] = e
		return nil
	})
	if errors.Is(err, ErrTaken) {
		lock.Unlock()
		return nil, err
	}
	return func() { lock.Unlock() }, err
}

// An Upcoming is the next run of one kind.
type Upcoming struct {
	Kind schedule.Kind `json:"kind"`
	// Due is when it starts, with jitter; in the past, it is overdue. Zero: never.
	Due time.Time `json:"due,omitzero"`
	// Owed says that one more is made up for at once when a daemon runs.
	Owed bool `json:"owed,omitempty"`
}

// Upcoming tells the next run of each kind of a plan, in the order of kinds. For a kind
// that no daemon has seen yet, or by another schedule, it is the next from now on.
func (s *State) Upcoming(plan schedule.Plan, host string, now time.Time) ([]Upcoming, error) {
	now = now.Round(0) // the clock on the wall
	f, err := s.read()
	if err != nil {
		return nil, err
	}
	delay := plan.Delay(host)
	var all []Upcoming
	for _, kind := range schedule.Kinds() {
		sched, ok := plan.Jobs[kind]
		if !ok {
			continue
		}
		after := now.Add(-delay)
		e, known := f.Jobs[kind]
		if known && e.Schedule == sched.String() && e.Zone == sched.Zone() && !e.Last.After(now.Add(maxBack)) {
			after = e.Last
		}
		u := Upcoming{Kind: kind, Due: sched.Next(after), Owed: e.Owed}
		if !u.Due.IsZero() {
			u.Due = u.Due.Add(delay)
		}
		all = append(all, u)
	}
	return all, nil
}
