package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/SP1R4/BackupHandler/v3/internal/dbdump"
	"github.com/SP1R4/BackupHandler/v3/internal/dbdump/mysql"
	"github.com/SP1R4/BackupHandler/v3/internal/restore"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// Archived logs, read: all snapshots of one together (docs/logs.md). pile.go makes and
// forgets them.

// isLog says whether snapshots of a kind pile up.
func isLog(kind tree.Kind) bool { return kind == tree.KindMySQLLog || kind == tree.KindPostgreSQLLog }

// A Log is the archived log of a server in a repository, to read from: what its snapshots
// have together.
type Log struct {
	d     *Destination
	kind  tree.Kind
	parts []*logPart // the newest first
}

// A logPart is what one snapshot has of a log.
type logPart struct {
	snap  *tree.Snapshot
	dir   *tree.Node
	files map[string]*tree.Node
	fsys  fs.FS
}

// OpenLog opens the archived log of the server with a name, as a host has archived it.
// That a file is not there is certain only if the destination has no snapshots that cannot
// be read.
func OpenLog(ctx context.Context, d *Destination, kind tree.Kind, host, name string) (*Log, error) {
	l := &Log{d: d, kind: kind}
	for _, s := range slices.Backward(d.Snapshots) {
		if s.Kind == kind && DatabaseName(s) == name && s.Host == host {
			p, err := readPart(ctx, d, s)
			if err != nil {
				return nil, fmt.Errorf("snapshot %s: %w", s.ID.Short(), err)
			}
			l.parts = append(l.parts, p)
		}
	}
	return l, nil
}

// Snapshots is how many there are of the log.
func (l *Log) Snapshots() int { return len(l.parts) }

func readPart(ctx context.Context, d *Destination, s *tree.Snapshot) (*logPart, error) {
	dir, err := tree.Lookup(ctx, d.Repo, s.RootNode(), string(s.Sources[0]))
	if err != nil {
		return nil, err
	}
	p := &logPart{snap: s, dir: dir, files: make(map[string]*tree.Node), fsys: restore.NewFS(ctx, d.Repo, dir)}
	err = tree.ReadDir(ctx, d.Repo, dir.Content, func(n *tree.Node) error {
		if n.Type == tree.File {
			p.files[n.Name] = n
		}
		return nil
	})
	return p, err
}

// LogHost chooses the machine whose archive of the log of the server with a name is meant:
// the one that was given, else the preferred one if it has one, else the only one.
func LogHost(d *Destination, name, given, preferred string) (string, error) {
	logs := slices.DeleteFunc(slices.Clone(d.Snapshots), func(s *tree.Snapshot) bool { return s.Kind != tree.KindPostgreSQLLog || DatabaseName(s) != name })
	hosts := Hosts(logs)
	switch {
	case given != "" && slices.Contains(hosts, given):
		return given, nil
	case given == "" && slices.Contains(hosts, preferred):
		return preferred, nil
	case given == "" && len(hosts) == 1:
		return hosts[0], nil
	case given == "" && len(hosts) > 1:
		return "", Fail(ExitUsage, fmt.Errorf("several machines archive the log of a server %s", name), "add --host NAME: "+strings.Join(hosts, ", "))
	case given != "":
		name += " of " + given
	}
	return "", Fail(ExitUsage, fmt.Errorf("%s has no archived log of the server %s", d.Place, name), "'backup-handler db list' lists what there is")
}

// A LogConflict says that two snapshots of a log have different files of one name, and
// nobody can tell which is the right one.
type LogConflict struct {
	File string
	// Snapshots are one that has the one, and one that has the other, the newer first.
	Snapshots [2]*tree.Snapshot
}

func (c *LogConflict) Error() string {
	return fmt.Sprintf("the archive has two different files %s, in the snapshots %s and %s: nobody can tell which is the log of this server", c.File, c.Snapshots[0].ID.Short(), c.Snapshots[1].ID.Short())
}

const conflictHint = "find out which server wrote them ('backup-handler db list' shows when), and 'backup-handler forget SNAPSHOT' what is not this one's; docs/logs.md says more"

// find returns the part that has a file: of two of one name the longer one, if the shorter
// is its beginning and the log one whose files grow. The error is fs.ErrNotExist or, with a
// hint, a *LogConflict.
func (l *Log) find(ctx context.Context, name string) (*logPart, error) {
	var best *logPart
	for _, p := range l.parts { // the newest first: of those that are alike, it is taken
		n := p.files[name]
		if n == nil {
			continue
		}
		if best == nil {
			best = p
			continue
		}
		long, short := best, p
		if n.Size > best.files[name].Size {
			long, short = p, best
		}
		same, err := l.begins(ctx, long.files[name], short.files[name])
		if err != nil {
			return nil, err
		}
		if !same || l.kind != tree.KindMySQLLog && long.files[name].Size != short.files[name].Size {
			newer, older := best.snap, p.snap
			return nil, &dbdump.Error{Err: &LogConflict{name, [2]*tree.Snapshot{newer, older}}, Hint: conflictHint}
		}
		best = long
	}
	if best == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return best, nil
}

// begins says whether a file is the beginning of another, or all of it. What is in the same
// chunks is not read.
func (l *Log) begins(ctx context.Context, long, short *tree.Node) (bool, error) {
	if short.Size > long.Size {
		return false, nil
	}
	if short.Size == long.Size && slices.Equal(short.Content, long.Content) {
		return true, nil
	}
	var chunks [2][]tree.Chunk
	for i, n := range []*tree.Node{long, short} {
		err := tree.EachChunk(ctx, l.d.Repo, n, func(c tree.Chunk) error {
			chunks[i] = append(chunks[i], c)
			return nil
		})
		if err != nil {
			return false, err
		}
	}
	var at int64
	for i := range min(len(chunks[0]), len(chunks[1])) {
		if chunks[0][i] != chunks[1][i] {
			break
		}
		at += int64(chunks[0][i].Size)
	}
	var readers [2]io.Reader
	for i, n := range []*tree.Node{long, short} {
		r, err := restore.NewReader(ctx, l.d.Repo, n)
		if err != nil {
			return false, err
		}
		defer r.Close()
		if _, err := r.Seek(min(at, short.Size), io.SeekStart); err != nil {
			return false, err
		}
		readers[i] = r
	}
	a, b := make([]byte, 256<<10), make([]byte, 256<<10)
	for {
		n, err := io.ReadFull(readers[1], b)
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return false, err
		}
		ended := err != nil
		if _, err := io.ReadFull(readers[0], a[:n]); err != nil {
			return false, err
		}
		if string(a[:n]) != string(b[:n]) {
			return false, nil
		}
		if ended {
			return true, nil
		}
	}
}

// Names implements [postgres.WAL].
func (l *Log) Names(context.Context) ([]string, error) {
	all := make(map[string]bool)
	for _, p := range l.parts {
		for name := range p.files {
			all[name] = true
		}
	}
	return slices.Sorted(maps.Keys(all)), nil
}

// Open implements [postgres.WAL]. One of two different files is not opened.
func (l *Log) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	p, err := l.find(ctx, name)
	if err != nil {
		return nil, err
	}
	return p.fsys.Open(name)
}

// Put implements [postgres.WAL]: it refuses.
func (*Log) Put(context.Context, string, int64, io.Reader) error { return errors.ErrUnsupported }

// Conflicts implements [postgres.Disputed]: the files that cannot be opened as there are
// two, each with the error that says so.
func (l *Log) Conflicts(ctx context.Context) (map[string]error, error) {
	names, err := l.Names(ctx)
	if err != nil {
		return nil, err
	}
	conflicts := make(map[string]error)
	for _, name := range names {
		if l.kind == tree.KindMySQLLog && name == mysql.LogsName {
			continue
		}
		_, err := l.find(ctx, name)
		if _, ok := errors.AsType[*LogConflict](err); ok {
			conflicts[name] = err
		} else if err != nil {
			return nil, err
		}
	}
	return conflicts, nil
}

// Binlogs are the archived binary logs of a server, as one directory with one description.
type Binlogs struct {
	ctx context.Context
	log *Log
	// Logs are what the snapshots say together.
	Logs *mysql.Logs
}

// OpenBinlogs opens the archived binary logs of the server with a name, as a host has
// archived them; without any snapshot the error is fs.ErrNotExist. A snapshot whose
// description is damaged is told of, and left out: what it alone has is a gap.
func OpenBinlogs(ctx context.Context, d *Destination, host, name string, warn func(string)) (*Binlogs, error) {
	l, err := OpenLog(ctx, d, tree.KindMySQLLog, host, name)
	if err != nil {
		return nil, err
	}
	if len(l.parts) == 0 {
		return nil, fs.ErrNotExist
	}
	var damaged error
	var all []mysql.Part // the oldest first
	for _, p := range slices.Backward(l.parts) {
		logs, err := mysql.ReadLogs(p.fsys)
		if err != nil {
			if err = fmt.Errorf("snapshot %s: %w", p.snap.ID.Short(), err); !isDamage(err) {
				return nil, err
			}
			damaged = err
			warn(err.Error())
			continue
		}
		all = append(all, mysql.Part{Logs: logs, Has: func(f *mysql.LogFile) bool {
			n := p.files[f.File]
			return n != nil && n.Size == f.Bytes
		}})
	}
	if len(all) == 0 {
		return nil, damaged
	}
	b := &Binlogs{ctx: ctx, log: l}
	b.Logs, err = mysql.MergeLogs(all)
	return b, err
}

// Newest is the newest snapshot that they are in.
func (b *Binlogs) Newest() *tree.Snapshot { return b.log.parts[0].snap }

// Open implements [fs.FS]. One of two different logs is not opened.
func (b *Binlogs) Open(name string) (fs.File, error) {
	p, err := b.log.find(b.ctx, path.Clean(name))
	if err != nil {
		return nil, err
	}
	return p.fsys.Open(name)
}

// ReadFile implements [fs.ReadFileFS]: the description is that of all.
func (b *Binlogs) ReadFile(name string) ([]byte, error) {
	if name == mysql.LogsName {
		return json.Marshal(b.Logs)
	}
	f, err := b.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// logNames are the files of one snapshot of a log.
func logNames(fsys fs.FS) (names []string, err error) {
	entries, err := fs.ReadDir(fsys, ".")
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}
