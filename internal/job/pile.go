package job

import (
	"bytes"
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
	"strings"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/backup"
	"github.com/SP1R4/BackupHandler/v3/internal/dbdump"
	"github.com/SP1R4/BackupHandler/v3/internal/dbdump/mysql"
	"github.com/SP1R4/BackupHandler/v3/internal/dbdump/postgres"
	"github.com/SP1R4/BackupHandler/v3/internal/durable"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/retention"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// Archived logs, written: how they pile up, and what is left out and forgotten
// (docs/logs.md).

// logMargin is how much older than the oldest snapshot that needs it a part of a log has
// to be before it is left out: clocks of servers differ.
const logMargin = 24 * time.Hour

// watchOldest finds out, before the stream is made, when the oldest snapshot was made that
// needs the log; zero: all of the log is kept.
func watchOldest(s *Stream, kind tree.Kind, name string) *time.Time {
	oldest := new(time.Time)
	s.Look = func(_ *Destination, o *Outlook) { *oldest = o.Oldest(kind, name) }
	return oldest
}

// unneeded says whether a file of a log, archived at some time, is needed by no base backup
// or dump from oldest on. Histories of timelines are, always.
func unneeded(file string, archived, oldest time.Time) bool {
	return !oldest.IsZero() && archived.Before(oldest.Add(-logMargin)) && !strings.HasSuffix(file, ".history")
}

// needing is the kind of the snapshots that need a log of a kind.
func needing(log tree.Kind) tree.Kind {
	if log == tree.KindMySQLLog {
		return tree.KindMySQL
	}
	return tree.KindPostgreSQLBase
}

// keepLog takes over the archived log of a PostgreSQL server, but for what no base backup
// needs any more.
func keepLog(ctx context.Context, to *backup.Sink, before fs.FS, oldest time.Time, tell func(string)) error {
	entries, err := fs.ReadDir(before, ".")
	if err != nil {
		return err
	}
	old := func(e fs.DirEntry) (bool, error) {
		info, err := e.Info()
		return err == nil && unneeded(e.Name(), info.ModTime(), oldest), err
	}
	any := false
	for _, e := range entries {
		is, err := old(e)
		if err != nil {
			return err
		}
		any = any || is
	}
	if !any {
		if ok, err := to.Keep("."); ok || err != nil {
			return err
		}
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if is, err := old(e); is || err != nil {
			if err != nil {
				return err
			}
			continue
		}
		if ok, err := to.Keep(e.Name()); err != nil {
			return err
		} else if !ok {
			tell("the file " + e.Name() + " of the archived log is damaged in the repository: moments that need it cannot be reached")
		}
	}
	return nil
}

// logWriter adds a file to a log. It is a [postgres.WAL] of the snapshot before.
type logWriter struct {
	before fs.FS // nil: nothing can be read
	to     *backup.Sink
	// check, unless it is nil, refuses a name that is known to be of another file.
	check func(name string) error
}

func (l *logWriter) Names(context.Context) ([]string, error) {
	if l.before == nil {
		return nil, nil
	}
	return logNames(l.before)
}

func (l *logWriter) Open(_ context.Context, name string) (io.ReadCloser, error) {
	if l.check != nil {
		if err := l.check(name); err != nil {
			return nil, err
		}
	}
	if l.before == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return l.before.Open(name)
}

func (l *logWriter) Put(ctx context.Context, name string, _ int64, r io.Reader) error {
	if f, err := l.Open(ctx, name); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			f.Close()
			err = fs.ErrExist
		}
		return err
	}
	w, err := l.to.Create(name)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	return errors.Join(err, w.Close())
}

// PushLog is the stream that adds a file, as segment, to the archived log of the
// PostgreSQL server with a name. The snapshot has all that the one before had, but for what
// no base backup of the server needs any more. Where what was there before cannot be read,
// another file under a name that this machine has stored is refused all the same.
func PushLog(name, file, segment string, warn func(string)) Stream {
	var notes *pushed // nil: what was there before can be read
	s := pileLog(name, segment, warn, func(ctx context.Context, to *logWriter) error {
		if notes != nil {
			to.check = func(string) error { return notes.check(file) }
		}
		return postgres.Push(ctx, file, segment, to)
	})
	look := s.Look
	s.Look = func(d *Destination, o *Outlook) {
		look(d, o)
		if notes = nil; d.Repo.WriteOnly() && o.Known.Dir != "" {
			notes = &pushed{name: o.Known.pushed(d.Repo.ID(), name), segment: segment}
		}
	}
	s.Stored = func(*Destination) {
		if notes == nil {
			return
		}
		if err := notes.add(); err != nil { // the file is stored: the server must not keep it for this
			warn("it is not noted what was stored, and another file of this name would not be noticed: " + err.Error())
		}
	}
	return s
}

// pileLog is PushLog for whatever add puts to the log.
func pileLog(name, what string, warn func(string), add func(context.Context, *logWriter) error) Stream {
	s := Stream{Name: name + "'s log", Kind: tree.KindPostgreSQLLog, Source: DatabaseSource(tree.KindPostgreSQLLog, name), What: what, Piles: true}
	oldest := watchOldest(&s, tree.KindPostgreSQLBase, name)
	s.Produce = func(ctx context.Context, to *backup.Sink, before fs.FS) error {
		if before != nil {
			if err := keepLog(ctx, to, before, *oldest, warn); err != nil {
				return err
			}
		}
		return add(ctx, &logWriter{before: before, to: to})
	}
	return s
}

// pushed is what this machine has stored of the log of one server with a write-only key: a
// line for each file, its name and its SHA-256, the newest last. A line that a crash has
// cut short counts for nothing: its file was not reported as stored, and comes again.
type pushed struct {
	name    string // of the file with the lines
	segment string
	sum     string // of the one being stored, in hexadecimal
}

// maxPushedBytes is where the older half of the lines goes: 58,000 files of 90 bytes stay.
const maxPushedBytes = 10 << 20

func (k Known) pushed(id repo.ID, name string) string {
	return filepath.Join(k.Dir, "pushed", id.String(), dbdump.FileName(name))
}

// check refuses a file if another one was stored under the name of its segment.
func (p *pushed) check(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return err
	}
	p.sum = hex.EncodeToString(sum.Sum(nil))
	lines, err := os.ReadFile(p.name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for line := range bytes.Lines(lines) {
		name, old, _ := strings.Cut(strings.TrimSuffix(string(line), "\n"), " ")
		if name == p.segment && len(old) == len(p.sum) && old != p.sum {
			return &dbdump.Error{Err: errors.New("this machine has archived another file of this name already"),
				Hint: "do two servers archive to the same place, or was this one restored without a new timeline? Give it a place of its own. If not: " + p.name + " has what was archived; docs/logs.md says more"}
		}
	}
	return nil
}

// add notes that the file was stored.
func (p *pushed) add() error {
	if err := durable.MkdirAll(filepath.Dir(p.name), 0o700); err != nil {
		return err
	}
	line := p.segment + " " + p.sum + "\n"
	old, err := os.ReadFile(p.name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(old) > maxPushedBytes {
		half := old[len(old)/2:]
		return durable.WriteFile(p.name, append(half[bytes.IndexByte(half, '\n')+1:], line...), 0o600)
	}
	if len(old) > 0 && old[len(old)-1] != '\n' { // a crash has cut it short
		line = "\n" + line
	}
	l, err := durable.OpenLog(p.name, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(l.Append([]byte(line)), l.Close())
}

// ForgetLogs forgets snapshots of an archived log each of whose files a later one, last, has,
// or no base backup or dump needs in any destination: each push makes one. PostgreSQL's
// files have to be the same; a binary log of MySQL may have grown. The newest stays, and the
// one before it, and what is held. Where a snapshot cannot be read, all stay.
func ForgetLogs(ctx context.Context, d *Destination, last *tree.Snapshot, look *Outlook) error {
	going, err := superseded(ctx, d, last, look)
	return errors.Join(forgetAll(ctx, d, going), err)
}

func forgetAll(ctx context.Context, d *Destination, going []*tree.Snapshot) error {
	for _, s := range going {
		if err := d.Repo.Forget(ctx, s.ID); err != nil {
			return err
		}
		d.Snapshots = slices.DeleteFunc(d.Snapshots, func(o *tree.Snapshot) bool { return o.ID == s.ID })
	}
	return nil
}

// superseded are the snapshots that ForgetLogs forgets; with an error, those that were found
// before it.
func superseded(ctx context.Context, d *Destination, last *tree.Snapshot, look *Outlook) (going []*tree.Snapshot, err error) {
	chain := d.chain(last.Group())
	if len(chain) < 3 || chain[0].ID != last.ID || len(d.Unreadable) > 0 {
		return nil, nil
	}
	has, err := readPart(ctx, d, last)
	if err != nil {
		return nil, err
	}
	l := &Log{d: d, kind: last.Kind}
	oldest := look.Oldest(needing(last.Kind), DatabaseName(last))
	for _, s := range chain[2:] {
		if held(s) {
			continue
		}
		old, err := readPart(ctx, d, s)
		if err != nil {
			return going, err
		}
		all := true
		for name, n := range old.files {
			if !all {
				break
			}
			if unneeded(name, n.MTime.Time(), oldest) || last.Kind == tree.KindMySQLLog && name == mysql.LogsName {
				continue
			}
			kept := has.files[name]
			if all = kept != nil && (kept.Size == n.Size || last.Kind == tree.KindMySQLLog); all {
				if all, err = l.begins(ctx, kept, n); err != nil {
					return going, err
				}
			}
		}
		if all {
			going = append(going, s)
		}
	}
	return going, nil
}

// held says whether nothing but its name forgets a snapshot. Other tags may be those of the
// section, which all snapshots of the log have.
func held(s *tree.Snapshot) bool { return slices.Contains(s.Tags, retention.Hold) }

// chain are the snapshots of a group, the newest first.
func (d *Destination) chain(group tree.Group) (chain []*tree.Snapshot) {
	for _, s := range slices.Backward(d.Snapshots) {
		if s.Group() == group {
			chain = append(chain, s)
		}
	}
	return chain
}

// GatherLog brings the snapshots of a log together that ForgetLogs leaves, as those of a
// write-only host, each of which has what was new: where there are more than two it makes
// one that has all their files, but for what no base backup or dump needs, and then forgets
// those that it supersedes. It returns the new one; nil: there was nothing to do. If two of
// them have different files of one name, nothing is done, and the error is a *LogConflict
// with a hint. d has to be loaded.
func GatherLog(ctx context.Context, d *Destination, group tree.Group, look *Outlook, base tree.Snapshot, o repo.WriterOptions) (*tree.Snapshot, error) {
	plan, err := planGathering(ctx, d, group, look)
	if plan == nil || err != nil {
		return nil, err
	}
	if err := forgetAll(ctx, d, plan.superseded); err != nil {
		return nil, err
	}
	last := plan.last
	if plan.together == nil {
		return nil, nil
	}
	name, l := DatabaseName(last), plan.log
	oldest := look.Oldest(needing(last.Kind), name)
	produce := func(ctx context.Context, to *backup.Sink) error { return l.gather(ctx, to, oldest) }
	if last.Kind == tree.KindMySQLLog {
		logs, err := OpenBinlogs(ctx, d, last.Host, name, func(string) {})
		if err != nil {
			return nil, err
		}
		produce = func(ctx context.Context, to *backup.Sink) error { return logs.gather(ctx, to, oldest) }
	}
	// It comes right behind those that it has the files of, and before any to come.
	base.Time, base.Host, base.Kind, base.Sources, base.Mode = last.Time.Add(time.Microsecond), last.Host, last.Kind, last.Sources, tree.Full
	snap, err := backup.Stream(ctx, d.Repo, base, backup.Options{Parent: last, Write: o, Owners: ownNames, Now: time.Now}, produce)
	if err != nil {
		if source, ok := errors.AsType[*backup.SourceError](err); ok {
			err = source.Err
		}
		return nil, err
	}
	d.Snapshots = append(d.Snapshots, snap)
	slices.SortStableFunc(d.Snapshots, func(a, b *tree.Snapshot) int { return a.Time.Compare(b.Time) })
	return snap, ForgetLogs(ctx, d, snap, look)
}

// A gathering is what GatherLog does.
type gathering struct {
	log  *Log
	last *tree.Snapshot
	// superseded are forgotten because of last; together are the others, the newest first,
	// if they are brought together.
	superseded, together []*tree.Snapshot
}

// planGathering says what GatherLog does; nil: nothing can be done.
func planGathering(ctx context.Context, d *Destination, group tree.Group, look *Outlook) (*gathering, error) {
	chain := d.chain(group)
	if len(chain) == 0 || len(d.Unreadable) > 0 {
		return nil, nil
	}
	p := &gathering{last: chain[0]}
	var err error
	if p.log, err = OpenLog(ctx, d, p.last.Kind, p.last.Host, DatabaseName(p.last)); err != nil {
		return nil, err
	}
	conflicts, err := p.log.Conflicts(ctx)
	if err != nil {
		return nil, err
	}
	for _, err := range conflicts {
		return nil, err
	}
	if p.superseded, err = superseded(ctx, d, p.last, look); err != nil {
		return nil, err
	}
	left := slices.DeleteFunc(chain, func(s *tree.Snapshot) bool { return slices.Contains(p.superseded, s) || held(s) })
	if len(left) > 2 {
		p.together = left
	}
	return p, nil
}

// gather takes over the files of all snapshots.
func (l *Log) gather(ctx context.Context, to *backup.Sink, oldest time.Time) error {
	names, err := l.Names(ctx)
	if err != nil {
		return err
	}
	for _, name := range names {
		p, err := l.find(ctx, name)
		if err != nil {
			return err
		}
		if !unneeded(name, p.files[name].MTime.Time(), oldest) {
			if err := l.take(to, name, p); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *Log) take(to *backup.Sink, name string, p *logPart) error {
	if ok, err := to.Take(name, p.files[name]); err != nil {
		return err
	} else if !ok {
		return fmt.Errorf("%s in snapshot %s is damaged: %w", name, p.snap.ID.Short(), repo.ErrCorrupt)
	}
	return nil
}

// gather takes over the logs of all snapshots, with one description.
func (b *Binlogs) gather(ctx context.Context, to *backup.Sink, oldest time.Time) error {
	logs := *b.Logs
	logs.Files = nil
	for _, f := range b.Logs.Files {
		p, err := b.log.find(ctx, f.File)
		if err != nil {
			return err
		}
		if unneeded(f.File, p.files[f.File].MTime.Time(), oldest) && f.Last.Before(oldest.Add(-logMargin)) {
			continue
		}
		if err := b.log.take(to, f.File, p); err != nil {
			return err
		}
		logs.Files = append(logs.Files, f)
	}
	text, err := json.MarshalIndent(&logs, "", "\t")
	if err != nil {
		return err
	}
	w, err := to.Create(mysql.LogsName)
	if err != nil {
		return err
	}
	_, err = w.Write(append(text, '\n'))
	return errors.Join(err, w.Close())
}
