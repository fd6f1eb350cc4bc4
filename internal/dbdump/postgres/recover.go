package postgres

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/dbdump"
	"github.com/SP1R4/BackupHandler/v3/internal/lazyregexp"
)

// RecoverOptions say to which moment a server is recovered. With no target it is the end
// of the log.
type RecoverOptions struct {
	TargetTime time.Time // the last transaction committed at or before it
	TargetLSN  string
	TargetName string // of pg_create_restore_point
	Immediate  bool   // as soon as the base backup is consistent
	Exclusive  bool   // stop just before the target, not behind it
	// Timeline is which one is followed; 0: the latest that descends from the base's.
	Timeline uint32
	// Action is what the server does there: "pause" (the default: look at it, then
	// pg_wal_replay_resume() or another target), "promote" or "shutdown".
	Action string
	// RestoreCommand gets a file of the log, with %f and %p: what ends up in [Fetch].
	RestoreCommand string
	Port           int    // that the server will have; 0: as its configuration says
	Owner          string // account that the server runs as; "": "postgres" for root
	Parallel       int    // files at once; 0: four

	Progress func(bytes int64) // counts what is written, from any goroutine; nil: nobody
}

// A Reach is how far recovery from a base backup can go.
type Reach struct {
	Timeline uint32
	First    string // segment that recovery begins with
	Last     string // last one without a gap before it
	LSN      LSN    // end of Last: no position behind it can be reached
	// Commit is when the last transaction up to there was committed, by the server's
	// clock. Targets in time have to be before it. Zero: it is not known.
	Commit time.Time
}

// OpenBase reads what a base backup is.
func OpenBase(fsys fs.FS) (*Base, error) {
	text, err := fs.ReadFile(fsys, BaseName)
	b := new(Base)
	if err == nil {
		err = json.Unmarshal(text, b)
	}
	if err == nil && (b.Kind != "postgresql-base" || b.SegmentBytes < 1<<20 || b.SegmentBytes&(b.SegmentBytes-1) != 0) {
		err = errors.New("it is of another kind")
	}
	if err != nil {
		return nil, &dbdump.Error{Err: fmt.Errorf("read the description of the base backup: %w", err), Hint: "this is not a base backup, or not a complete one"}
	}
	return b, nil
}

// A GapError says that segments are missing that others come behind.
type GapError struct {
	First   string // the first that is missing
	Missing int    // how many are, up to the last that is there
	Reach   *Reach // up to the gap
	// Conflict, unless it is nil, says that First is not missing: it cannot be told which
	// of several it is.
	Conflict error
}

// Unwrap returns Conflict.
func (e *GapError) Unwrap() error { return e.Conflict }

func (e *GapError) Error() string {
	if e.Conflict != nil {
		return e.Conflict.Error()
	}
	if e.Missing == 1 {
		return fmt.Sprintf("the archived log has a gap: segment %s is missing", e.First)
	}
	return fmt.Sprintf("the archived log has a gap: %d segments are missing, the first is %s", e.Missing, e.First)
}

// hint says what can be done all the same.
func (e *GapError) hint() string {
	before := fmt.Sprintf("name a time or a position before it: the log goes to %s without a gap", e.Reach.LSN)
	if h := dbdump.Hint(e.Conflict); h != "" {
		return h + "; or " + before
	}
	return before
}

// Reachable finds how far recovery from a base backup can go with the log that there is.
// The error is a *[GapError], besides the reach, if segments are missing that others come
// behind. s is for finding programs.
func Reachable(ctx context.Context, s *Server, b *Base, wal WAL, timeline uint32) (*Reach, error) {
	names, err := wal.Names(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the archived log: %w", err)
	}
	there := map[string]bool{}
	for _, n := range names {
		there[n] = true
	}
	disputed := map[string]error{}
	if w, ok := wal.(Disputed); ok {
		if disputed, err = w.Conflicts(ctx); err != nil {
			return nil, fmt.Errorf("compare the archived log: %w", err)
		}
	}
	chain, err := follow(ctx, b, wal, there, timeline)
	if err != nil {
		return nil, err
	}
	size := uint64(b.SegmentBytes)
	// name is the segment of a number, of the newest timeline that has it.
	name := func(no uint64) string {
		line := chain[0].timeline
		for i, p := range chain[:len(chain)-1] {
			if uint64(p.end)/size <= no {
				line = chain[i+1].timeline
			}
		}
		return segment{line, no}.name(b.SegmentBytes)
	}
	first := uint64(b.Start) / size
	end := first
	for there[name(end)] && disputed[name(end)] == nil {
		end++
	}
	r := &Reach{Timeline: chain[len(chain)-1].timeline, LSN: LSN(end * size)}
	if r.LSN < b.Stop {
		if err := disputed[name(end)]; err != nil {
			return nil, err
		}
		return nil, &dbdump.Error{Err: fmt.Errorf("segment %s of the log is missing, without which this base backup cannot be restored", name(end)),
			Hint: "restore another base backup"}
	}
	r.First, r.Last = name(first), name(end-1)
	if r.Commit, err = lastCommit(ctx, s, b, wal, name, first, end); err != nil {
		return nil, err
	}
	highest := end // end of what there is
	for n := range there {
		if !segmentRE().MatchString(n) || strings.HasSuffix(n, ".partial") {
			continue
		}
		if s, err := parseSegment(n, b.SegmentBytes); err == nil && s.no >= end && n == name(s.no) {
			highest = max(highest, s.no+1)
		}
	}
	if highest == end {
		return r, nil
	}
	gap := &GapError{First: name(end), Reach: r, Conflict: disputed[name(end)]}
	for no := end; no < highest; no++ {
		if !there[name(no)] {
			gap.Missing++
		}
	}
	return r, gap
}

// follow finds the timelines from the base's to the one that is meant.
func follow(ctx context.Context, b *Base, wal WAL, there map[string]bool, timeline uint32) ([]past, error) {
	best := []past{{timeline: b.Timeline}}
	if timeline == b.Timeline {
		return best, nil
	}
	var lines []uint32
	for n := range there {
		if historyRE().MatchString(n) {
			line, err := strconv.ParseUint(n[:8], 16, 32)
			if err == nil && uint32(line) > b.Timeline && (timeline == 0 || timeline == uint32(line)) {
				lines = append(lines, uint32(line))
			}
		}
	}
	slices.Sort(lines)
	for _, line := range lines {
		r, err := wal.Open(ctx, fmt.Sprintf("%08X.history", line))
		if err != nil {
			return nil, err
		}
		all, err := parseHistory(r)
		r.Close()
		if err != nil {
			return nil, fmt.Errorf("history of timeline %d: %w", line, err)
		}
		for i, p := range all {
			if p.timeline == b.Timeline && p.end >= b.Stop {
				best = append(slices.Clone(all[i:]), past{timeline: line})
			}
		}
	}
	if timeline != 0 && best[len(best)-1].timeline != timeline {
		return nil, &dbdump.Error{Err: fmt.Errorf("timeline %d does not descend from this base backup, or its history is missing", timeline), Hint: "restore another base backup, or follow another timeline"}
	}
	return best, nil
}

// maxLook is how many segments, from the last one back, are searched for a commit.
const maxLook = 32

var commitRE = lazyregexp.New(`desc: COMMIT(?:_PREPARED)? (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?) UTC`)

// lastCommit is when the last transaction was committed in segments [first, end); zero if
// there is none in the last of them, or no pg_waldump that can read them. It makes sure
// that they are of the base backup's cluster.
func lastCommit(ctx context.Context, s *Server, b *Base, wal WAL, name func(uint64) string, first, end uint64) (time.Time, error) {
	p, err := s.find(ctx, "pg_waldump", versionOf(b.Server))
	if err != nil {
		return time.Time{}, nil
	}
	dir, err := os.MkdirTemp("", "backup-handler-wal-")
	if err != nil {
		return time.Time{}, err
	}
	defer os.RemoveAll(dir)
	for no := end; no > first && no+maxLook > end; no-- {
		file := filepath.Join(dir, name(no-1))
		if err := Fetch(ctx, wal, name(no-1), file); err != nil {
			return time.Time{}, err
		}
		system, err := systemOf(file)
		if err != nil {
			return time.Time{}, err
		}
		if system != b.System {
			return time.Time{}, &dbdump.Error{Err: fmt.Errorf("the archived log is of the cluster %s, the base backup of %s", system, b.System), Hint: "name the log of the same server"}
		}
		var out commits
		c := dbdump.Child{Path: p.path, Args: []string{"--rmgr=Transaction", file}, Env: []string{"TZ=UTC"}, Stdout: &out}
		err = c.Run(ctx)
		// It fails where the last record goes on in a segment that is not there.
		if _, ok := errors.AsType[*dbdump.ChildError](err); err != nil && !ok {
			return time.Time{}, err
		}
		if !out.last.IsZero() {
			return out.last, nil
		}
		if err := os.Remove(file); err != nil {
			return time.Time{}, err
		}
	}
	return time.Time{}, nil
}

// systemOf is the identifier of the cluster that a segment is of.
func systemOf(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	head := make([]byte, segmentHead)
	if _, err := io.ReadFull(f, head); err != nil {
		return "", fmt.Errorf("segment %s of the log: %w", filepath.Base(file), err)
	}
	return segmentSystem(head), nil
}

// maxCommit bounds the line of a commit, in bytes; its time is at the beginning.
const maxCommit = 64 << 10

// commits keeps the time of the last commit that pg_waldump prints.
type commits struct {
	line []byte
	last time.Time
}

func (c *commits) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		part, rest, whole := bytes.Cut(p, []byte{'\n'})
		c.line = append(c.line, part[:min(len(part), maxCommit-len(c.line))]...)
		if whole {
			if m := commitRE().FindSubmatch(c.line); m != nil {
				if t, err := time.Parse("2006-01-02 15:04:05.999999", string(m[1])); err == nil && t.After(c.last) {
					c.last = t
				}
			}
			c.line = c.line[:0]
		}
		p = rest
	}
	return n, nil
}

// check says whether the target can be reached.
func (o *RecoverOptions) check(b *Base, r *Reach) error {
	targets := 0
	for _, set := range []bool{!o.TargetTime.IsZero(), o.TargetLSN != "", o.TargetName != "", o.Immediate} {
		if set {
			targets++
		}
	}
	if targets > 1 {
		return &dbdump.Error{Err: errors.New("several targets are given"), Hint: "name a time, a position, a restore point, or none"}
	}
	if !slices.Contains([]string{"", "pause", "promote", "shutdown"}, o.Action) {
		return &dbdump.Error{Err: fmt.Errorf("a server cannot %q at the target", o.Action), Hint: "pause, promote or shutdown"}
	}
	if !strings.Contains(o.RestoreCommand, "%f") || !strings.Contains(o.RestoreCommand, "%p") {
		return &dbdump.Error{Err: errors.New("the restore command does not say which file it gets, and where to"), Hint: "it has to have %f and %p"}
	}
	const layout = "2006-01-02 15:04:05.999999 MST"
	if t := o.TargetTime; !t.IsZero() {
		if t.Before(b.Ended) {
			return &dbdump.Error{Err: fmt.Errorf("%s is before the end of this base backup, %s", t.Format(layout), b.Ended.In(t.Location()).Format(layout)),
				Hint: "restore an older base backup"}
		}
		if !r.Commit.IsZero() && !t.Before(r.Commit) {
			return &dbdump.Error{Err: fmt.Errorf("%s is later than the archived log goes: its last transaction was committed at %s", t.Format(layout), r.Commit.In(t.Location()).Format(layout)),
				Hint: "choose an earlier time, or no target, which is the end of the log"}
		}
	}
	if o.TargetLSN != "" {
		l, err := ParseLSN(o.TargetLSN)
		if err != nil {
			return err
		}
		if l < b.Stop {
			return &dbdump.Error{Err: fmt.Errorf("%s is before the end of this base backup, %s", l, b.Stop), Hint: "restore an older base backup"}
		}
		if l > r.LSN {
			return &dbdump.Error{Err: fmt.Errorf("%s is later than the archived log goes, which is to %s", l, r.LSN), Hint: "choose an earlier position, or no target, which is the end of the log"}
		}
	}
	return nil
}

// settings are what the server is told. Only the one target that is meant is among them:
// servers do not take others, not even empty ones.
func (o *RecoverOptions) settings(b *Base, r *Reach) string {
	var s strings.Builder
	s.WriteString("# Recovery, set by backup-handler\n")
	set := func(name, value string) { fmt.Fprintf(&s, "%s = %s\n", name, confQuote(value)) }
	set("restore_command", o.RestoreCommand)
	set("recovery_target_action", cmp.Or(o.Action, "pause"))
	switch {
	case !o.TargetTime.IsZero():
		set("recovery_target_time", o.TargetTime.UTC().Format("2006-01-02 15:04:05.999999")+"+00")
	case o.TargetLSN != "":
		set("recovery_target_lsn", o.TargetLSN)
	case o.TargetName != "":
		set("recovery_target_name", o.TargetName)
	case o.Immediate:
		set("recovery_target", "immediate")
	}
	if o.Exclusive {
		set("recovery_target_inclusive", "off")
	}
	line := "current"
	if r.Timeline != b.Timeline {
		line = strconv.FormatUint(uint64(r.Timeline), 10)
	}
	set("recovery_target_timeline", line)
	if o.Port != 0 {
		set("port", strconv.Itoa(o.Port))
	}
	return s.String()
}

// recoverySettings are lines that a recovery before may have left.
var recoverySettings = lazyregexp.New(`(?mi)^[ \t]*(?:recovery_target\w*|recovery_prefetch|restore_command|# Recovery, set by backup-handler)\b.*\n?`)

// setRecovery puts settings into a cluster's file of its own settings, for those of a
// recovery before.
func setRecovery(name, settings string) error {
	old, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	old = recoverySettings().ReplaceAll(old, nil)
	if len(old) > 0 && old[len(old)-1] != '\n' {
		old = append(old, '\n')
	}
	return os.WriteFile(name, append(old, settings...), 0o600)
}

// confQuote quotes a value for a configuration file.
func confQuote(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, "'", "''", "\n", `\n`).Replace(s) + "'"
}

// RestoreBase writes a data directory from a base backup, ready to be recovered to a target
// when a server is started on it. The directory is made, or is empty; it is removed, or
// emptied, again if this fails. The log is checked before: it has to have no gap on the way
// to the target, but for one that is a name, whose place is not known. Nothing is flushed to
// disk: the server does that when it begins to recover (SyncDataDirectory). s is for
// finding programs.
func RestoreBase(ctx context.Context, s *Server, fsys fs.FS, wal WAL, dir string, o RecoverOptions) (*Base, *Reach, error) {
	b, err := OpenBase(fsys)
	if err != nil {
		return nil, nil, err
	}
	reach, err := Reachable(ctx, s, b, wal, o.Timeline)
	gap, gaps := errors.AsType[*GapError](err)
	if err != nil && !gaps {
		return nil, nil, err
	}
	if err := o.check(b, reach); err != nil {
		if gaps { // that may be why
			err = &dbdump.Error{Err: fmt.Errorf("%w; %w", err, gap), Hint: dbdump.Hint(err)}
		}
		return nil, nil, err
	}
	if gaps && o.TargetTime.IsZero() && o.TargetLSN == "" && !o.Immediate {
		return nil, nil, &dbdump.Error{Err: gap, Hint: gap.hint()}
	}
	owner := o.Owner
	if owner == "" && root() {
		owner = "postgres" // no server runs as root
	}
	w := &dataWriter{fsys: fsys, dir: dir, base: b, options: &o}
	if w.uid, w.gid, err = ids(owner); err != nil {
		return nil, nil, err
	}
	settings := o.settings(b, reach)
	if gaps && gap.Conflict != nil && versionOf(b.Server) >= 15 {
		// Segments behind the target would be asked for before it is reached, and the answer
		// for one that is disputed ends the recovery.
		settings += "recovery_prefetch = 'off'\n"
	}
	if err := w.run(ctx, settings); err != nil {
		return nil, nil, err
	}
	return b, reach, nil
}

// A dataWriter writes a data directory.
type dataWriter struct {
	fsys     fs.FS
	dir      string
	base     *Base
	options  *RecoverOptions
	uid, gid int // -1: ours
}

func (w *dataWriter) run(ctx context.Context, settings string) (err error) {
	entries, err := os.ReadDir(w.dir)
	made := errors.Is(err, fs.ErrNotExist)
	if err != nil && !made {
		return err
	}
	if len(entries) > 0 {
		return &dbdump.Error{Err: fmt.Errorf("the directory %s is not empty", w.dir), Hint: "name one that is empty, or that does not exist; move the old data directory away first"}
	}
	text, err := fs.ReadFile(w.fsys, dataDir+manifestFile)
	if err != nil {
		return fmt.Errorf("read %s: %w", manifestFile, err)
	}
	m, err := parseManifest(text)
	if err != nil {
		return err
	}
	// Without this file no server starts: it is the last.
	const control = "global/pg_control"
	last := slices.IndexFunc(m.Files, func(f manifestEntry) bool { return f.Path == control })
	if last < 0 {
		return fmt.Errorf("the base backup has no %s", control)
	}
	ends := m.Files[last]
	if made {
		if err := os.Mkdir(w.dir, 0o700); err != nil {
			return err
		}
	}
	defer func() {
		if err == nil {
			return
		}
		w.clean(made)
		if errors.Is(err, syscall.ENOSPC) {
			err = &dbdump.Error{Err: err, Hint: fmt.Sprintf("the base backup needs %d MiB: choose a directory with more room; what was written is removed", (w.base.Bytes+1<<20-1)>>20)}
		}
	}()
	if err := w.own(w.dir, w.mode(true)); err != nil {
		return err
	}
	for _, d := range w.base.Directories { // parents come first
		if !fs.ValidPath(d) {
			return fmt.Errorf("the base backup has a directory %q", d)
		}
		path := filepath.Join(w.dir, filepath.FromSlash(d))
		if err := os.MkdirAll(path, 0o700); err != nil {
			return err
		}
		if err := w.own(path, w.mode(true)); err != nil {
			return err
		}
	}
	if err := w.files(ctx, slices.Delete(m.Files, last, last+1)); err != nil {
		return err
	}
	if err := w.write(manifestFile, bytes.NewReader(text), nil); err != nil {
		return err
	}
	if err := w.write("recovery.signal", strings.NewReader(""), nil); err != nil {
		return err
	}
	name := filepath.Join(w.dir, "postgresql.auto.conf")
	if err := setRecovery(name, settings); err != nil {
		return err
	}
	if err := w.own(name, w.mode(false)); err != nil {
		return err
	}
	return w.file(&ends)
}

// clean removes what was written. made: the directory, too.
func (w *dataWriter) clean(made bool) {
	if made {
		os.RemoveAll(w.dir)
		return
	}
	entries, _ := os.ReadDir(w.dir) // what cannot be listed stays
	for _, e := range entries {
		os.RemoveAll(filepath.Join(w.dir, e.Name()))
	}
}

func (w *dataWriter) mode(dir bool) fs.FileMode {
	mode := fs.FileMode(0o600)
	if w.base.GroupRead {
		mode |= 0o040
	}
	if dir {
		mode |= mode >> 2 & 0o110
	}
	return mode
}

func (w *dataWriter) own(path string, mode fs.FileMode) error {
	if w.uid >= 0 {
		if err := os.Lchown(path, w.uid, w.gid); err != nil {
			return err
		}
	}
	return os.Chmod(path, mode)
}

// files writes files, several at once.
func (w *dataWriter) files(ctx context.Context, files []manifestEntry) error {
	work, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan *manifestEntry)
	var wg sync.WaitGroup
	for range cmp.Or(w.options.Parallel, 4) {
		wg.Go(func() {
			for f := range next {
				if err := w.file(f); err != nil {
					cancel(err)
				}
			}
		})
	}
	for i := range files {
		if work.Err() != nil {
			break
		}
		next <- &files[i]
	}
	close(next)
	wg.Wait()
	return context.Cause(work)
}

// file writes one file, and compares it with its checksum.
func (w *dataWriter) file(f *manifestEntry) error {
	if !fs.ValidPath(f.Path) {
		return fmt.Errorf("the base backup has a file %q", f.Path)
	}
	r, err := w.fsys.Open(dataDir + f.Path)
	if err != nil {
		return err
	}
	defer r.Close()
	return w.write(f.Path, r, f)
}

func (w *dataWriter) write(name string, r io.Reader, want *manifestEntry) error {
	path := filepath.Join(w.dir, filepath.FromSlash(name))
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	sum := sha256.New()
	n, err := io.CopyBuffer(io.MultiWriter(f, sum), struct{ io.Reader }{r}, make([]byte, copyBytes))
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if want != nil && (n != want.Size || want.Algorithm == "SHA256" && hex.EncodeToString(sum.Sum(nil)) != want.Checksum) {
		return &dbdump.Error{Err: fmt.Errorf("the file %s of the base backup is not what PostgreSQL sent", name), Hint: "verify the repository, and restore another base backup"}
	}
	if w.options.Progress != nil {
		w.options.Progress(n)
	}
	return w.own(path, w.mode(false))
}
