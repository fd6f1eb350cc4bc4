package journal

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/durable"
)

// Bounds of the record of runs.
const (
	// maxRunsFileBytes is where runs.jsonl is written anew with the newest half of
	// its runs: some 8,000 runs of 2 KiB, most of a year of one each hour.
	maxRunsFileBytes = 16 << 20
	// maxRunText bounds one text, and maxRunList each list of a record, so that a
	// run with a million failed files is still one line that can be read.
	maxRunText = 2 << 10
	maxRunList = 50
)

const (
	runsName     = "runs.jsonl"
	runsLockName = "runs.lock"
)

// A Status is how a run stands.
type Status string

const (
	Running     Status = "running"
	Success     Status = "success"     // everything was done
	Warning     Status = "warning"     // everything was done, and there is something to look at
	Failed      Status = "failure"     // something was not done: a destination, a file, a check
	Refused     Status = "refused"     // nothing was done: the configuration, a pre-flight check or a hook forbade it
	Interrupted Status = "interrupted" // by a signal or a time limit
	Crashed     Status = "crashed"     // it ended without saying so: killed, or the machine went down
)

// Good says whether whatever should be done was.
func (s Status) Good() bool { return s == Success || s == Warning }

// Over says whether the run has ended.
func (s Status) Over() bool { return s != Running }

// A Run is the record of one execution of a command that changes or proves
// something. It holds no secret: whoever fills it in sees to that.
type Run struct {
	ID      string    `json:"run_id"`
	Command string    `json:"command"` // backup, binlog, verify, drill, forget, prune, copy, repair, restore
	Trigger string    `json:"trigger"` // what started it: cli, schedule, timer, telegram
	Status  Status    `json:"status"`
	Exit    int       `json:"exit_code"`
	Start   time.Time `json:"start"`
	End     time.Time `json:"end,omitzero"`

	Host    string `json:"host"`
	User    string `json:"user"`
	PID     int    `json:"pid"`
	Version string `json:"version"`
	Config  string `json:"config,omitempty"` // path; "" for none
	Mode    string `json:"mode,omitempty"`   // full, incremental, differential
	DryRun  bool   `json:"dry_run,omitempty"`
	// AdHoc: a backup that leaves out sources of its configuration, which names others.
	AdHoc bool `json:"ad_hoc,omitempty"`

	Snapshot     string           `json:"snapshot,omitempty"` // ID of the one made, checked or restored
	Sources      []SourceRun      `json:"sources,omitempty"`
	Destinations []DestinationRun `json:"destinations,omitempty"`
	Stages       []Stage          `json:"stages,omitempty"` // in the order in which they ended
	Counts       Counts           `json:"counts,omitzero"`

	// Error is why the run did not do what it should, in one line; "" if it did.
	Error string `json:"error,omitempty"`
	// Hint says what to do about it.
	Hint     string   `json:"hint,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
	// Cut is how many lines the lists above have lost to their bounds.
	Cut int `json:"cut,omitempty"`

	// Told is what became of each notification.
	Told []Told `json:"told,omitempty"`

	// Lock is the name of the lock that the run holds, in the directory of locks: by
	// it a run that is going on is told from one that crashed.
	Lock string `json:"lock,omitempty"`
}

// A SourceRun is what became of one source.
type SourceRun struct {
	Path string `json:"path"`
	Kind string `json:"kind,omitempty"` // of its snapshot; "": files
	// Snapshot is that of a stream, which is its own.
	Snapshot string `json:"snapshot,omitempty"`
	Error    string `json:"error,omitempty"` // in one line
	// Problems is the number of entries beneath it that could not be stored.
	Problems int64 `json:"problems,omitempty"`
	// Pending: the run has not finished with it; if it is over, nothing of it was stored.
	Pending bool `json:"pending,omitempty"`
}

// A DestinationRun is what became of one destination.
type DestinationRun struct {
	Location string `json:"location"` // without secrets
	Error    string `json:"error,omitempty"`
	Copied   int    `json:"copied,omitempty"` // snapshots copied to it
	// FreeBytes is the room that is left; absent: not known.
	FreeBytes *int64 `json:"free_bytes,omitempty"`
	// Pending: the run has not finished with it; if it is over, it ended before that.
	Pending bool `json:"pending,omitempty"`
}

// A Stage is one step of a run: preflight, pre_backup, backup, retention, verify,
// post_backup and the like.
type Stage struct {
	Name    string    `json:"name"`
	Start   time.Time `json:"start,omitzero"`
	Seconds float64   `json:"seconds"`
	Error   string    `json:"error,omitempty"`
}

// Counts of a run; sizes in bytes.
type Counts struct {
	Files     int64 `json:"files"`
	New       int64 `json:"new"`
	Changed   int64 `json:"changed"`
	Bytes     int64 `json:"bytes"`        // of the files
	Read      int64 `json:"bytes_read"`   // of them
	Stored    int64 `json:"bytes_stored"` // that the repository grew by
	Problems  int64 `json:"problems"`     // entries that could not be stored, checked or restored
	Forgotten int64 `json:"snapshots_forgotten,omitempty"`
}

// A Told is what became of one notification.
type Told struct {
	Channel string `json:"channel"`
	Error   string `json:"error,omitempty"`
}

// AdHocBackup is the series of backups that are none of their configuration.
const AdHocBackup = "ad-hoc backup"

// Series names the runs that a run is one of: those of the same command. How one stands says
// nothing about another: a backup of something else, ad hoc, does not make up for one of the
// configuration's sources.
func (r *Run) Series() string {
	if r.AdHoc {
		return AdHocBackup
	}
	return r.Command
}

// Took is how long the run took, or has taken so far.
func (r *Run) Took(now time.Time) time.Duration {
	if !r.End.IsZero() {
		now = r.End
	}
	return max(now.Sub(r.Start), 0)
}

// Bounded is the record as it is written: a copy, with long lists and texts cut.
func (r *Run) Bounded() *Run {
	b := *r
	b.Sources = cutList(r.Sources, &b.Cut)
	b.Destinations = cutList(r.Destinations, &b.Cut)
	b.Stages = cutList(r.Stages, &b.Cut)
	b.Warnings = cutList(r.Warnings, &b.Cut)
	b.Told = cutList(r.Told, &b.Cut)
	b.Error, b.Hint = cutText(b.Error), cutText(b.Hint)
	for i := range b.Sources {
		b.Sources[i].Error = cutText(b.Sources[i].Error)
	}
	for i := range b.Destinations {
		b.Destinations[i].Error = cutText(b.Destinations[i].Error)
	}
	for i := range b.Stages {
		b.Stages[i].Error = cutText(b.Stages[i].Error)
	}
	for i := range b.Warnings {
		b.Warnings[i] = cutText(b.Warnings[i])
	}
	for i := range b.Told {
		b.Told[i].Error = cutText(b.Told[i].Error)
	}
	return &b
}

// cutList copies the first of a list.
func cutList[T any](list []T, cut *int) []T {
	if len(list) > maxRunList {
		*cut += len(list) - maxRunList
		list = list[:maxRunList]
	}
	return slices.Clone(list)
}

// cutText is text in one line, without what would make a terminal or a log do
// something else than show it.
func cutText(text string) string {
	if len(text) > maxRunText {
		text = strings.ToValidUTF8(text[:maxRunText], "") + "…"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, text)
}

// Runs is the record of the runs on this machine: Logs/runs.jsonl in the state
// directory, one JSON object a line. Each run writes a line when it starts and one
// when it ends; the last line of an ID counts. Several processes may use it.
type Runs struct {
	stateDir string
}

// OpenRuns opens the record in a state directory; nothing need be there.
func OpenRuns(stateDir string) *Runs { return &Runs{stateDir} }

// LockPath is the file of a lock that a run may hold, by its name.
func (r *Runs) LockPath(name string) string { return filepath.Join(r.stateDir, "locks", name) }

// MakeLocks makes the directory of locks.
func (r *Runs) MakeLocks() error { return durable.MkdirAll(filepath.Join(r.stateDir, "locks"), 0o700) }

func (r *Runs) file() string { return filepath.Join(logsDir(r.stateDir), runsName) }

// Put records how a run stands. It returns when the record is on the disk.
func (r *Runs) Put(run *Run) error {
	line, err := json.Marshal(run.Bounded())
	if err != nil {
		return fmt.Errorf("record the run: %w", err)
	}
	if err := r.append(line); err != nil {
		return fmt.Errorf("record the run: %w", err)
	}
	return nil
}

func (r *Runs) append(line []byte) error {
	dir, err := makeLogsDir(r.stateDir)
	if err != nil {
		return err
	}
	lock, err := waitLock(filepath.Join(dir, runsLockName))
	if err != nil {
		return err
	}
	defer lock.Unlock()
	data, err := os.ReadFile(r.file())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(data)+len(line)+1 > maxRunsFileBytes {
		return durable.WriteFile(r.file(), append(newestHalf(data), append(line, '\n')...), 0o600)
	}
	// What a crash left of a line is ended, so that it spoils none but itself.
	if len(data) > 0 && data[len(data)-1] != '\n' {
		line = append([]byte{'\n'}, line...)
	}
	log, err := durable.OpenLog(r.file(), 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	return log.Append(append(line, '\n'))
}

// newestHalf keeps the newest runs of a file, one line each, oldest first.
func newestHalf(data []byte) []byte {
	runs, lines := parseRuns(data)
	kept, size := len(runs), 0
	for kept > 0 && size+len(lines[kept-1])+1 <= maxRunsFileBytes/2 {
		kept--
		size += len(lines[kept]) + 1
	}
	half := make([]byte, 0, size)
	for _, l := range lines[kept:] {
		half = append(append(half, l...), '\n')
	}
	return half
}

// parseRuns reads the last line of each run, in the order of their starts. Lines
// that cannot be read, such as one that a crash cut short, are left out.
func parseRuns(data []byte) (runs []Run, lines [][]byte) {
	type found struct {
		run   Run
		line  []byte
		first int // line
	}
	at := make(map[string]*found)
	all := bytes.Split(data, []byte{'\n'})
	for i, line := range slices.Backward(all) {
		line = bytes.TrimSpace(line)
		if f := at[lineID(line)]; f != nil { // an older line of it need not be read
			f.first = i
			continue
		}
		var run Run
		if json.Unmarshal(line, &run) != nil || run.ID == "" {
			continue
		}
		if f := at[run.ID]; f != nil {
			f.first = i
			continue
		}
		at[run.ID] = &found{run, line, i}
	}
	order := slices.SortedFunc(maps.Values(at), func(a, b *found) int { return cmp.Compare(a.first, b.first) })
	for _, f := range order {
		runs, lines = append(runs, f.run), append(lines, f.line)
	}
	return runs, lines
}

// lineID is the ID that a line begins with, as Put writes it; "" if it does not.
func lineID(line []byte) string {
	rest, ok := bytes.CutPrefix(line, []byte(`{"run_id":"`))
	id, _, end := bytes.Cut(rest, []byte{'"'})
	if !ok || !end || bytes.ContainsRune(id, '\\') {
		return ""
	}
	return string(id)
}

// read returns the runs as they are recorded, the newest first.
func (r *Runs) read() ([]Run, error) {
	data, err := os.ReadFile(r.file())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the record of runs: %w", err)
	}
	runs, _ := parseRuns(data)
	slices.Reverse(runs)
	return runs, nil
}

// List returns the runs, the newest first. One that said that it started, and
// holds its lock no longer, is Crashed.
func (r *Runs) List() ([]Run, error) {
	runs, err := r.read()
	if err != nil {
		return nil, err
	}
	held := make(map[string]bool) // locks that a newer run has
	for i := range runs {
		run := &runs[i]
		if run.Status == Running && (held[run.Lock] || !r.held(run.Lock)) {
			run.crash()
		}
		held[run.Lock] = run.Lock != ""
	}
	return runs, nil
}

// crash makes of a record of a run that began what there is to say of one that never
// ended.
func (run *Run) crash() {
	run.Status, run.Exit = Crashed, -1
	run.Error = "the run ended without a word: it was killed, or the machine went down"
}

// Crashes returns the runs, the newest first, and the IDs of those that began and never
// ended, and that nobody has recorded as [Crashed] yet. mine is the name of a lock that
// the caller has. Unlike what List says, a run that ends just now is never among them.
func (r *Runs) Crashes(mine string) (runs []Run, crashed map[string]bool, err error) {
	runs, err = r.read()
	if err != nil {
		return nil, nil, err
	}
	locks := make(map[string]*durable.Lock) // of runs that began; nil: another has it
	defer func() {
		for _, l := range locks {
			if l != nil {
				l.Unlock()
			}
		}
	}()
	for i := range runs {
		name := runs[i].Lock
		if runs[i].Status != Running || name == "" || name == mine || name != filepath.Base(name) {
			continue
		}
		if _, tried := locks[name]; !tried {
			locks[name], _ = durable.TryLock(r.LockPath(name))
		}
	}
	// A run holds its lock until its record says how it ended: of those whose locks are
	// ours now, the record is final.
	if runs, err = r.read(); err != nil {
		return nil, nil, err
	}
	crashed = make(map[string]bool)
	for i := range runs {
		if run := &runs[i]; run.Status == Running && run.Lock != "" && (run.Lock == mine || locks[run.Lock] != nil) {
			run.crash()
			crashed[run.ID] = true
		}
	}
	return runs, crashed, nil
}

// held says whether somebody has a lock.
func (r *Runs) held(name string) bool {
	if name == "" || name != filepath.Base(name) {
		return false
	}
	if _, err := os.Stat(r.LockPath(name)); err != nil {
		return false
	}
	lock, err := durable.TryLock(r.LockPath(name))
	if err == nil {
		lock.Unlock()
	}
	return errors.Is(err, durable.ErrLocked)
}

// ErrNoRun says that no run has an ID, and ErrAmbiguousRun that several have.
var (
	ErrNoRun        = errors.New("no such run")
	ErrAmbiguousRun = errors.New("several runs begin with this")
)

// FindRun returns the run whose ID is, or alone begins or ends with, id; "latest" is
// the first of the list.
func FindRun(runs []Run, id string) (*Run, error) {
	if id == "latest" && len(runs) > 0 {
		return &runs[0], nil
	}
	var found *Run
	for i := range runs {
		switch run := &runs[i]; {
		case run.ID == id:
			return run, nil
		case id != "" && (strings.HasPrefix(run.ID, id) || strings.HasSuffix(run.ID, id)):
			if found != nil {
				return nil, fmt.Errorf("%s: %w", id, ErrAmbiguousRun)
			}
			found = run
		}
	}
	if found == nil {
		return nil, fmt.Errorf("%s: %w", id, ErrNoRun)
	}
	return found, nil
}
