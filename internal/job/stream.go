package job

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"slices"
	"strconv"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/backup"
	"github.com/SP1R4/BackupHandler/v3/internal/restore"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// A Stream is a source that is no directory: a program prints it, and it is a snapshot
// of its own (ADR 0037).
type Stream struct {
	Name   string // in messages: "[STREAM packages]"
	Kind   tree.Kind
	Source string   // the path in the snapshot below which its files are, or of the file
	Tags   []string // beside those of the run
	What   string   // what a dry run says that would be run, in one line without secrets

	// Look, if set, is called before Produce: with the destination that the snapshot is made
	// in, and all of them.
	Look func(*Destination, *Outlook)
	// Stored, if set, is told where the snapshot was made, before it is copied.
	Stored func(*Destination)
	// Piles says that each snapshot has all of those before: they are forgotten, by
	// ForgetLogs.
	Piles bool
	// Produce creates the files. before is the Source in the snapshot before, if it is a
	// directory; nil: there is none. If Produce returns an error there is no snapshot; the
	// hint of a *dbdump.Error reaches the user. It may be called again: when a destination
	// fails, or was pruned meanwhile.
	Produce func(ctx context.Context, to *backup.Sink, before fs.FS) error
}

// A StreamResult is what became of a Stream.
type StreamResult struct {
	*Stream
	Snapshot *tree.Snapshot // nil: Err says why there is none, or it is a dry run
	Err      error
}

// Hint says what to do about Err; "" if nothing.
func (s *StreamResult) Hint() string { return hint(s.Err) }

// streams makes the snapshots of streams. None keeps the others from anything.
func (m *maker) streams(ctx context.Context, res *BackupResult) {
	for i := range m.o.Streams {
		res.Streams = append(res.Streams, StreamResult{Stream: &m.o.Streams[i]})
	}
	if m.o.DryRun {
		return
	}
	for i := range res.Streams {
		s := &res.Streams[i]
		if ctx.Err() != nil {
			s.Err = context.Cause(ctx)
			continue
		}
		group := (&tree.Snapshot{Host: m.o.Host, Kind: s.Kind, Sources: []tree.Path{tree.Path(s.Source)}}).Group()
		var first *Destination
		first, s.Snapshot, s.Err = m.make(ctx, group, func(d *Destination) (*tree.Snapshot, error) { return m.streamTo(ctx, d, s.Stream) })
		if s.Snapshot != nil && s.Stored != nil {
			s.Stored(first)
		}
		switch source, ok := errors.AsType[*backup.SourceError](s.Err); {
		case ctx.Err() != nil && s.Snapshot == nil:
			s.Err = context.Cause(ctx)
		case ok:
			s.Err = source.Err // whose it is is said beside it
		case s.Err == nil && s.Snapshot == nil:
			s.Err = firstError(res.Destinations)
		}
		m.copy(ctx, group) // without a new one, what was missed before
		if s.Piles && s.Snapshot != nil {
			m.forgetLogs(ctx, s.Snapshot)
		}
	}
}

// forgetLogs forgets what a snapshot of a log supersedes. What cannot be forgotten costs
// room, and no more.
func (m *maker) forgetLogs(ctx context.Context, last *tree.Snapshot) {
	look := m.outlook()
	for _, d := range m.ready {
		if d.Err != nil {
			continue
		}
		if err := ForgetLogs(ctx, d, last, look); err != nil && m.o.Log != nil {
			m.o.Log.Warn("superseded snapshots of a log stay", "destination", d.Location, "error", err.Error())
		}
	}
}

// streamTo makes the snapshot of a stream in one destination.
func (m *maker) streamTo(ctx context.Context, d *Destination, s *Stream) (*tree.Snapshot, error) {
	o := m.o
	snap := tree.Snapshot{
		Time: o.Now().Truncate(time.Microsecond), Host: o.Host, User: o.User, Program: o.Program, RunID: o.RunID,
		Kind: s.Kind, Sources: []tree.Path{tree.Path(s.Source)}, Mode: tree.Full, Tags: slices.Concat(o.Tags, s.Tags),
	}
	opts := backup.Options{
		Parent: parent(d.Snapshots, &snap), FileSHA256: o.FileSHA256, Readers: o.Readers, Write: o.writer(), Progress: o.Progress,
		OnFile: o.OnFile, Owners: ownNames, Now: o.Now,
	}
	var before fs.FS
	if opts.Parent != nil {
		n, err := tree.Lookup(ctx, d.Repo, opts.Parent.RootNode(), s.Source)
		switch {
		case err == nil && n.Type == tree.Dir:
			before = restore.NewFS(ctx, d.Repo, n)
		case err == nil, errors.Is(err, fs.ErrNotExist):
		case isDamage(err): // as good as none
			if o.Warn != nil {
				o.Warn(fmt.Sprintf("%s: the snapshot %s before this one is damaged: nothing of it is taken over", s.Name, opts.Parent.ID.Short()))
			}
		default:
			return nil, err // another destination may answer
		}
	}
	if s.Look != nil {
		s.Look(d, m.outlook())
	}
	return backup.Stream(ctx, d.Repo, snap, opts, func(ctx context.Context, to *backup.Sink) error { return s.Produce(ctx, to, before) })
}

// ownNames are the names of the user and the group that this process makes files of.
func ownNames() (users, groups map[uint32]string) {
	uid, gid := max(os.Getuid(), 0), max(os.Getgid(), 0)
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		users = map[uint32]string{uint32(uid): u.Username}
	}
	if g, err := user.LookupGroupId(strconv.Itoa(gid)); err == nil {
		groups = map[uint32]string{uint32(gid): g.Name}
	}
	return users, groups
}
