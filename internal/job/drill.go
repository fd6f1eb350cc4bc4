package job

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/command"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/restore"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// Bounds of drills.
const (
	maxDrillListed = 100 // problems of each kind in a report; the counts go on
	// spareBytes is what stays free in the file system of the scratch directory.
	spareBytes = 64 << 20
)

// DrillOptions of one drill.
type DrillOptions struct {
	Snapshot *tree.Snapshot
	Named    bool // Snapshot was asked for by its ID or time
	// Sample is how many files are restored, chosen by Seed; 0: everything.
	Sample int
	Seed   uint64
	// Parent is where the scratch directory is made.
	Parent string
	// MaxDuration is how long restoring may take; 0: as long as it likes.
	MaxDuration time.Duration
	// Command, if set, judges what was restored: by a shell, in the scratch directory,
	// with nothing but Env and the variables of drillEnv in its environment.
	Command        string
	CommandTimeout time.Duration
	Env            []string
	// Redact removes secrets from what the command prints.
	Redact func(string) string
	Lists  Lists
	// Reports is where the scratch directory is noted.
	Reports Reports
	// Host and Program are who drills.
	Host, Program string

	Progress *restore.Progress
	// Stage is told what begins: restore, verify, command, clean.
	Stage func(string)
	// Untidy is told when there is a scratch directory, and when it is gone.
	Untidy func(bool)
	Now    func() time.Time
}

// A DrillReport is what a drill has found. It is signed as it is stored.
type DrillReport struct {
	Time         time.Time `json:"time"`
	Host         string    `json:"host"`
	Program      string    `json:"program"`
	Repository   string    `json:"repository"`
	RepositoryID repo.ID   `json:"repository_id"`
	Snapshot     repo.ID   `json:"snapshot"`
	SnapshotTime time.Time `json:"snapshot_time"`
	SnapshotHost string    `json:"snapshot_host"`
	// Sample is how many files were asked for; 0: everything. Seed chooses the same
	// ones again.
	Sample int    `json:"sample"`
	Seed   uint64 `json:"seed,string"`

	Passed   bool     `json:"passed"`
	ExitCode int      `json:"exit_code"`
	Reasons  []string `json:"reasons,omitempty"` // why it has not passed

	Files          int64   `json:"files"` // restored
	Bytes          int64   `json:"bytes"`
	RestoreSeconds float64 `json:"restore_seconds"`
	MaxSeconds     float64 `json:"max_seconds,omitempty"`
	LostCount      int64   `json:"lost_count"`
	// Lost could not be restored.
	Lost     []DrillProblem `json:"lost,omitempty"`
	Warnings int64          `json:"warnings"` // about metadata

	Verified          int64          `json:"verified_files"` // compared with the snapshot's records
	VerifiedBytes     int64          `json:"verified_bytes"`
	DifferenceCount   int64          `json:"difference_count"`
	Differences       []DrillProblem `json:"differences,omitempty"`
	MetadataIgnored   int64          `json:"metadata_ignored,omitempty"` // differences that this user or file system could not avoid
	Listed            int            `json:"listed_files"`               // in the list of the backup; 0: there is none
	Compared          int            `json:"compared_files"`             // with the list
	Command           *DrillCommand  `json:"command,omitempty"`
	ScratchLeft       string         `json:"scratch_left,omitempty"` // what could not be removed
	SecondsAltogether float64        `json:"seconds"`
}

// A DrillProblem is a file, and what is wrong with it.
type DrillProblem struct {
	Path    tree.Path `json:"path"`
	Problem string    `json:"problem"`
}

// A DrillCommand is what the check command did.
type DrillCommand struct {
	ExitCode int     `json:"exit_code"` // -1: it was ended, or did not start
	Seconds  float64 `json:"seconds"`
	TimedOut bool    `json:"timed_out,omitempty"`
	Output   string  `json:"output"` // the last of it
	Error    string  `json:"error,omitempty"`
}

// fail notes why a drill has not passed. Of several codes the first is its outcome: what
// comes later may follow from it.
func (r *DrillReport) fail(code int, format string, args ...any) {
	r.Reasons = append(r.Reasons, fmt.Sprintf(format, args...))
	if r.ExitCode == ExitOK {
		r.ExitCode = code
	}
}

// Drill restores a snapshot, or some of its files, into a scratch directory, judges what
// is there, and removes it again. The error is that of the context, or a *Failure where
// nothing could be done; all else is in the report.
func Drill(ctx context.Context, d *Destination, o DrillOptions) (*DrillReport, error) {
	start := o.Now()
	snap := o.Snapshot
	rep := &DrillReport{
		Time: start.UTC().Truncate(time.Millisecond), Host: o.Host, Program: o.Program, Repository: d.Place, RepositoryID: d.Repo.ID(),
		Snapshot: snap.ID, SnapshotTime: snap.Time, SnapshotHost: snap.Host, Sample: o.Sample, Seed: o.Seed, MaxSeconds: o.MaxDuration.Seconds(),
	}
	for _, s := range d.Unreadable {
		if !o.Named { // it may be the one that was meant
			rep.fail(ExitNotRestored, "snapshot %s cannot be read: %v", s.ID.Short(), s.Err)
		}
	}
	list, err := o.Lists.of(snap.ID)
	if err != nil {
		rep.fail(ExitNotVerified, "%v", err)
	}
	rep.Listed = len(list)
	chosen, err := choose(ctx, d.Repo, &o, list, rep)
	if err != nil {
		return nil, err
	}
	if err := roomFor(ctx, o.Parent, chosen.bytes); err != nil {
		return nil, err
	}
	scratch, err := o.Reports.newScratch(o.Parent)
	if err != nil {
		return nil, Fail(ExitUsage, err, "use --to, or [DRILL] dir, with a directory that exists")
	}
	o.Untidy(true)
	defer func() {
		o.Stage("clean")
		if e := scratch.Remove(); e != nil {
			rep.ScratchLeft = scratch.Path()
			rep.fail(ExitNotRestored, "the scratch directory stays: %v", e)
		}
		o.Untidy(false)
		rep.Passed = rep.ExitCode == ExitOK
		rep.SecondsAltogether = o.Now().Sub(start).Seconds()
	}()
	if err := o.restore(ctx, d, chosen, scratch.Path(), rep); err != nil {
		return rep, err
	}
	if err := o.verify(ctx, d, chosen, scratch.Path(), rep); err != nil {
		return rep, err
	}
	if err := compareList(ctx, list, chosen, scratch.Path(), rep); err != nil {
		return rep, err
	}
	if o.Command != "" && rep.LostCount+rep.DifferenceCount == 0 { // else it is known already
		o.Stage("command")
		rep.Command = o.command(ctx, scratch.Path(), rep)
	}
	return rep, ctx.Err()
}

// of is Read, and an empty list where there is none.
func (l Lists) of(id repo.ID) ([]ListEntry, error) {
	if l.Dir == "" {
		return nil, nil
	}
	list, err := l.Read(id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return list, err
}

// A choice is what a drill restores.
type choice struct {
	files map[string]bool // nil: everything
	dirs  map[string]bool // that lead to files
	bytes int64
	warn  map[string]bool // paths whose metadata could not be restored
}

// decide is restore.Options.Select.
func (c *choice) decide(path string, isDir bool) restore.Decision {
	switch {
	case c.files == nil, !isDir && c.files[path]:
		return restore.Include
	case isDir && c.dirs[path]:
		return restore.Descend
	}
	return restore.Exclude
}

func (c *choice) has(path string) bool { return c.files == nil || c.files[path] }

// choose picks files: half of the sample from the list, which is the only part that can
// be compared with it, the rest from all others, each with the same chance.
func choose(ctx context.Context, l tree.Loader, o *DrillOptions, list []ListEntry, rep *DrillReport) (*choice, error) {
	type file struct {
		path  string
		bytes int64
	}
	rng := rand.New(rand.NewPCG(o.Seed, o.Seed))
	inList := make(map[string]bool, len(list))
	for _, e := range list {
		inList[e.Path] = true
	}
	reservoir := func(size int) (add func(file), got *[]file) {
		got = new([]file)
		seen := 0
		return func(f file) {
			if seen++; len(*got) < size {
				*got = append(*got, f)
			} else if at := rng.IntN(seen); at < size {
				(*got)[at] = f
			}
		}, got
	}
	addListed, listed := reservoir(o.Sample)
	addOther, others := reservoir(o.Sample)
	c := &choice{warn: map[string]bool{}}
	err := tree.Walk(ctx, l, "/", o.Snapshot.RootNode(), tree.Visitor{
		Node: func(path string, n *tree.Node) error {
			switch {
			case n.Type != tree.File:
			case o.Sample <= 0:
				c.bytes += storedBytes(n)
			case inList[path]:
				addListed(file{path, storedBytes(n)})
			default:
				addOther(file{path, storedBytes(n)})
			}
			return nil
		},
		Damaged: func(path string, _ *tree.Node, err error) error {
			rep.fail(ExitNotRestored, "a part of the directory %s cannot be read: %v", path, err)
			return nil
		},
	})
	if err != nil || o.Sample <= 0 {
		return c, err
	}
	// A reservoir is in the order of the tree where it is not full.
	for _, files := range [][]file{*listed, *others} {
		rng.Shuffle(len(files), func(i, j int) { files[i], files[j] = files[j], files[i] })
	}
	n := min(len(*listed), max((o.Sample+1)/2, o.Sample-len(*others)))
	all := append((*listed)[:n:n], (*others)[:min(len(*others), o.Sample-n)]...)
	c.files, c.dirs = map[string]bool{}, map[string]bool{"/": true}
	for _, f := range all {
		c.files[f.path] = true
		c.bytes += f.bytes
		for dir := parentOf(f.path); dir != "/"; dir = parentOf(dir) {
			c.dirs[dir] = true
		}
	}
	return c, nil
}

// storedBytes is what a file takes on a disk: without holes, and its share of those that
// have several names.
func storedBytes(n *tree.Node) int64 {
	size := n.Size
	if n.Extents != nil {
		size = 0
		for _, e := range n.Extents {
			size += e.Length
		}
	}
	return size / int64(max(1, n.Links))
}

func parentOf(path string) string {
	if i := strings.LastIndexByte(path, '/'); i > 0 {
		return path[:i]
	}
	return "/"
}

// roomFor refuses what does not fit.
func roomFor(ctx context.Context, dir string, bytes int64) error {
	store, err := storage.OpenLocal(dir)
	if err != nil {
		return Fail(ExitUsage, fmt.Errorf("the place for the scratch directory: %w", err), "use --to, or [DRILL] dir, with a directory that exists")
	}
	defer store.Close()
	free, err := store.Free(ctx)
	if errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	if err != nil {
		return Fail(ExitUsage, fmt.Errorf("find the free space of %s: %w", dir, err), "")
	}
	if need := bytes + bytes/50 + spareBytes; free < need {
		return Fail(ExitNotRestored, fmt.Errorf("%s has room for %d MiB, and %d MiB are needed", dir, free>>20, (need+1<<20-1)>>20),
			"use --to, or [DRILL] dir, with a directory on a larger file system, or --sample with fewer files; nothing was restored")
	}
	return nil
}

func (o *DrillOptions) restore(ctx context.Context, d *Destination, c *choice, dir string, rep *DrillReport) error {
	o.Stage("restore")
	start := o.Now()
	ro := restore.Options{Select: c.decide, Progress: o.Progress, Report: func(e restore.Event) {
		if e.Kind == restore.Warning {
			c.warn[e.Path] = true
		}
	}}
	if c.files == nil {
		ro.Select = nil // so that totals are known
	}
	res, err := restore.Run(ctx, d.Repo, o.Snapshot, o.Snapshot.RootNode(), "/", dir, ro)
	took := o.Now().Sub(start)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	rep.RestoreSeconds = took.Seconds()
	rep.Files, rep.Bytes, rep.Warnings, rep.LostCount = res.Files, res.BytesWritten, res.WarningsCount, res.LostCount+res.FailedCount
	for _, p := range append(res.Lost, res.Failed...) {
		if len(rep.Lost) < maxDrillListed {
			rep.Lost = append(rep.Lost, DrillProblem{tree.Path(p.Path), p.Err.Error()})
		}
	}
	switch {
	case err != nil:
		rep.fail(ExitNotRestored, "the restore ended early: %v", err)
	case rep.LostCount > 0:
		rep.fail(ExitNotRestored, "%d files could not be restored, the first: %s", rep.LostCount, rep.Lost[0].Path)
	case res.Files+res.Dirs+res.Symlinks+res.Others+res.Links == 0:
		rep.fail(ExitNotRestored, "nothing was restored: the snapshot has no files")
	}
	if o.MaxDuration > 0 && took > o.MaxDuration {
		rep.fail(ExitNotVerified, "restoring took %s, longer than max_duration, %s", took.Round(time.Millisecond), o.MaxDuration)
	}
	return nil
}

// verify compares with the records of the snapshot, by reading everything again. Metadata
// that could not be restored here, which was said, is no difference.
func (o *DrillOptions) verify(ctx context.Context, d *Destination, c *choice, dir string, rep *DrillReport) error {
	o.Stage("verify")
	root := os.Geteuid() == 0
	lost := make(map[tree.Path]bool, len(rep.Lost))
	for _, p := range rep.Lost {
		lost[p.Path] = true
	}
	res, err := restore.Verify(ctx, d.Repo, o.Snapshot, o.Snapshot.RootNode(), "/", dir, restore.VerifyOptions{
		Select: c.decide, IgnoreOwner: !root,
		Report: func(x restore.Difference) {
			switch {
			case x.Kind == restore.Metadata && (!root || c.warn[x.Path]):
				rep.MetadataIgnored++
			case lost[tree.Path(x.Path)]: // known to be missing
			default:
				rep.differs(x.Path, x.Kind.String()+": "+x.Text)
			}
		},
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	rep.Verified, rep.VerifiedBytes = res.Files, res.Bytes
	if err != nil {
		rep.fail(ExitNotVerified, "the comparison with the snapshot ended early: %v", err)
	}
	if n := rep.DifferenceCount; n > 0 {
		rep.fail(ExitNotVerified, "%d entries differ from the snapshot, the first: %s", n, rep.Differences[0].Path)
	}
	return nil
}

func (r *DrillReport) differs(path, problem string) {
	if r.DifferenceCount++; len(r.Differences) < maxDrillListed {
		r.Differences = append(r.Differences, DrillProblem{tree.Path(path), problem})
	}
}

// compareList compares with what the backup noted of its sources: by nothing but reading
// the files.
func compareList(ctx context.Context, list []ListEntry, c *choice, dir string, rep *DrillReport) error {
	different, first := 0, ""
	differs := func(path, problem string) {
		if different++; different == 1 {
			first = path
		}
		rep.differs(path, problem)
	}
	lost := make(map[tree.Path]bool, len(rep.Lost))
	for _, p := range rep.Lost {
		lost[p.Path] = true
	}
	for _, e := range list {
		if !c.has(e.Path) || lost[tree.Path(e.Path)] {
			continue
		}
		sum, err := hashFile(ctx, filepath.Join(dir, filepath.FromSlash(e.Path)))
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			differs(e.Path, "list: "+err.Error())
		case sum != e.SHA256:
			differs(e.Path, "list: its SHA-256 is not the one that was noted when it was backed up")
		default:
			rep.Compared++
		}
	}
	if different > 0 {
		rep.fail(ExitNotVerified, "%d files differ from the list of the backup, the first: %s", different, first)
	}
	return nil
}

func hashFile(ctx context.Context, name string) (sum [sha256.Size]byte, err error) {
	f, err := os.OpenFile(name, os.O_RDONLY|listOpenFlags, 0)
	if err != nil {
		if p, ok := errors.AsType[*fs.PathError](err); ok {
			err = p.Err // the scratch directory's name tells nothing
		}
		return sum, err
	}
	defer f.Close()
	return hashOf(ctx, f)
}

// drillEnv is what the command learns.
func drillEnv(dir string, rep *DrillReport) []string {
	return []string{
		"BACKUP_HANDLER_DRILL_DIR=" + dir,
		"BACKUP_HANDLER_DRILL_REPOSITORY=" + rep.Repository,
		"BACKUP_HANDLER_DRILL_SNAPSHOT=" + rep.Snapshot.String(),
		"BACKUP_HANDLER_DRILL_TIME=" + rep.SnapshotTime.UTC().Format(time.RFC3339),
		"BACKUP_HANDLER_DRILL_HOST=" + rep.SnapshotHost,
		"BACKUP_HANDLER_DRILL_FILES=" + fmt.Sprint(rep.Files),
		"BACKUP_HANDLER_DRILL_BYTES=" + fmt.Sprint(rep.Bytes),
	}
}

// command runs the check command.
func (o *DrillOptions) command(ctx context.Context, dir string, rep *DrillReport) *DrillCommand {
	r := command.Run(ctx, command.Command{
		Line: o.Command, Dir: dir, Env: append(o.Env, drillEnv(dir, rep)...), Limit: o.CommandTimeout, Redact: o.Redact,
	})
	got := &DrillCommand{ExitCode: r.ExitCode, Seconds: r.Took.Seconds(), TimedOut: r.TimedOut, Output: r.Output}
	switch {
	case r.TimedOut:
		rep.fail(ExitNotVerified, "check_command was ended: it took longer than check_timeout, %s", o.CommandTimeout)
	case r.Err != nil:
		if r.ExitCode < 0 {
			got.Error = r.Err.Error()
		}
		rep.fail(ExitNotVerified, "check_command %v", r.Err)
	}
	return got
}
