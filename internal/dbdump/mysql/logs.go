package mysql

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
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
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/dbdump"
	"github.com/SP1R4/BackupHandler/v3/internal/lazyregexp"
)

// LogsKind is that of snapshots of binary logs, LogsName the file that describes them.
const (
	LogsKind = "mysql-log"
	LogsName = "logs.json"
)

// Logs are binary logs of one server, the oldest first.
type Logs struct {
	Kind     string    `json:"kind"`
	Server   string    `json:"server"` // name and version
	Address  string    `json:"address"`
	UUID     string    `json:"uuid,omitempty"` // of the server; MariaDB may have none
	ServerID uint32    `json:"server_id"`
	Files    []LogFile `json:"files"`
}

// A LogFile is one binary log.
type LogFile struct {
	Name string `json:"name"` // on the server: "binlog.000042"
	// File is its name in the archive, with the time at which the server has begun it:
	// a server that begins to count anew uses names again.
	File     string    `json:"file"`
	Bytes    int64     `json:"bytes"`
	SHA256   string    `json:"sha256"`
	ServerID uint32    `json:"server_id"` // of its first event
	Created  time.Time `json:"created"`
	Last     time.Time `json:"last"` // the latest of its events
	// Until is by the server's clock: what was committed before is in this log or in
	// those before it. Of a log that the server writes to, it is right before the log was
	// read, of others the time at which they were closed.
	Until time.Time `json:"until"`
	// Closed logs do not grow any more.
	Closed bool `json:"closed"`
	// Damaged logs are so on the server, behind what is here: whatever comes next has a gap
	// before it.
	Damaged bool `json:"damaged,omitempty"`
	// Gap means that the log before this one is not here, or not all of it, if there was
	// one: it was purged before it could be read, is damaged, or the server has begun to
	// count anew.
	Gap bool `json:"gap"`
}

// ReadLogs reads the description of archived logs, whose directory is the root of fsys.
func ReadLogs(fsys fs.FS) (*Logs, error) {
	b, err := fs.ReadFile(fsys, LogsName)
	if err != nil {
		return nil, fmt.Errorf("read the description of the binary logs: %w", err)
	}
	l := new(Logs)
	if err := json.Unmarshal(b, l); err != nil {
		return nil, fmt.Errorf("read the description of the binary logs: %w", err)
	}
	if l.Kind != LogsKind {
		return nil, fmt.Errorf("these are no binary logs of MySQL or MariaDB, but %q", printable(l.Kind))
	}
	return l, nil
}

// ArchiveOptions say how logs are archived.
type ArchiveOptions struct {
	// Flush makes the server begin a new log before, so that the one it writes to is
	// small: it is read again by the next call.
	Flush bool
	// TempDir is where one log at a time is kept, of at most the server's
	// max_binlog_size and one transaction; "": the system's.
	TempDir  string
	Progress dbdump.Progress                  // nil: nobody is told
	Warn     func(format string, args ...any) // nil: nobody is told
}

func (o *ArchiveOptions) warn(format string, args ...any) {
	if o.Warn != nil {
		o.Warn(format, args...)
	}
}

// Archive reads from a server the logs that are not in have, and the one that the server
// writes to, stores each in a sink, and last the description of all: those of have as
// well, whose files the caller takes over from where it has them. have may be nil.
//
// If it fails after some logs were stored, the description of these is stored, and what
// it has is returned with the error: the next call goes on there.
//
// A log that is missing between those of have and those of the server is warned of, and
// marked: what follows is archived all the same. So is one that is damaged on the server;
// what is whole of it is kept.
func Archive(ctx context.Context, server Server, have *Logs, to dbdump.Sink, o ArchiveOptions) (*Logs, error) {
	s, err := open(ctx, server)
	if err != nil {
		return nil, err
	}
	defer s.close()
	binlog, err := s.find(ctx, binlogNames)
	if err != nil {
		return nil, err
	}
	on, err := s.hasLogs(ctx)
	if err != nil {
		return nil, err
	}
	if !on {
		return nil, &dbdump.Error{Err: errors.New("the server writes no binary log"), Hint: "switch it on in the server's configuration: log_bin, server_id, binlog_format = ROW"}
	}
	if err := s.checkLogs(ctx, o.Flush); err != nil {
		return nil, err
	}
	out := &Logs{Kind: LogsKind, Server: s.name(), Address: server.Address(), UUID: s.uuid(ctx)}
	if err := s.db.QueryRowContext(ctx, "SELECT @@server_id").Scan(&out.ServerID); err != nil {
		return nil, fmt.Errorf("ask for the server's ID: %w", err)
	}
	var format string
	if err := s.db.QueryRowContext(ctx, "SELECT @@GLOBAL.binlog_format").Scan(&format); err == nil && !strings.EqualFold(format, "ROW") {
		o.warn("the server logs statements (binlog_format = %s), some of which cannot be replayed into another database: set it to ROW", format)
	}
	if o.Flush {
		if _, err := s.db.ExecContext(ctx, "FLUSH BINARY LOGS"); err != nil {
			return nil, fmt.Errorf("begin a new binary log: %w", err)
		}
	}
	if have != nil {
		if have.UUID != "" && out.UUID != "" && have.UUID != out.UUID {
			return nil, &dbdump.Error{Err: fmt.Errorf("%s is another server than the one whose logs were archived (%s, %s)", out.Address, printable(have.Address), printable(have.UUID)),
				Hint: "give the section of the configuration another name: each server has an archive of its own"}
		}
		out.Files = slices.Clone(have.Files)
	}
	list, err := s.logs(ctx)
	if err != nil {
		return nil, err
	}
	todo, gap, err := s.missingLogs(ctx, binlog, out, list, o.warn)
	if err != nil {
		return nil, err
	}
	stored := 0
	for _, log := range todo {
		f, damage, err := s.fetch(ctx, binlog, log, to, &o)
		if err != nil {
			err = fmt.Errorf("archive the binary log %s: %w", printable(log.name), err)
			if stored > 0 {
				err = errors.Join(err, out.write(to))
			}
			return out, err
		}
		if f.Bytes > 0 {
			f.Gap, f.Damaged = gap, damage != nil
			out.Files = append(out.Files, f)
			stored++
		}
		if gap = damage != nil; gap {
			o.warn("the server's %s is damaged, and is archived up to offset %d only: what was committed behind that cannot be restored, until a dump is made (%v)", printable(log.name), f.Bytes, damage)
		}
	}
	return out, out.write(to)
}

func (l *Logs) write(to dbdump.Sink) error {
	b, err := json.MarshalIndent(l, "", "\t")
	if err != nil {
		return err
	}
	_, err = writeFile(to, LogsName, string(b)+"\n")
	return err
}

// uuid identifies the server; "" if it has no such name.
func (s *session) uuid(ctx context.Context) (id string) {
	if s.mariaDB {
		s.db.QueryRowContext(ctx, "SELECT @@server_uid").Scan(&id)
	} else {
		s.db.QueryRowContext(ctx, "SELECT @@server_uuid").Scan(&id)
	}
	return id
}

// A serverLog is a log that the server has.
type serverLog struct {
	name   string
	bytes  int64
	closed bool
}

func (s *session) logs(ctx context.Context) ([]serverLog, error) {
	rows, err := s.db.QueryContext(ctx, "SHOW BINARY LOGS")
	if err != nil {
		return nil, fmt.Errorf("list the binary logs: %w", err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	var all []serverLog
	for rows.Next() {
		var l serverLog
		to := []any{&l.name, &l.bytes, new(any)}[:len(columns)] // MySQL says whether it is encrypted
		if err := rows.Scan(to...); err != nil {
			return nil, err
		}
		all = append(all, l)
	}
	for i := range all[:max(0, len(all)-1)] {
		all[i].closed = true
	}
	if len(all) == 0 && rows.Err() == nil {
		return nil, errors.New("the server has no binary logs")
	}
	return all, rows.Err()
}

// missingLogs says which logs are to be read, and whether one before the first of them
// is lost. It takes the last log of have out, if that has grown.
func (s *session) missingLogs(ctx context.Context, binlog program, have *Logs, list []serverLog, warn func(string, ...any)) (todo []serverLog, gap bool, err error) {
	if len(have.Files) == 0 {
		return list, true, nil
	}
	last := have.Files[len(have.Files)-1]
	anew := func(why string) ([]serverLog, bool, error) {
		warn("%s: no moment between %s and %s can be restored; archive more often (db binlog --every), or let the server keep its logs for longer", why, last.Until.Format(time.RFC3339), time.Now().UTC().Format(time.RFC3339))
		return list, true, nil
	}
	i := slices.IndexFunc(list, func(l serverLog) bool { return l.name == last.Name })
	if i < 0 {
		number, base := logNumber(last.Name)
		first, firstBase := logNumber(list[0].name)
		switch {
		case base != firstBase || first <= number:
			return anew(fmt.Sprintf("the server has begun to count its binary logs anew (%s, after %s)", printable(list[0].name), printable(last.Name)))
		case first == number+1 && last.Closed:
			return list, last.Damaged, nil
		case first == number+1:
			return anew(fmt.Sprintf("the server has purged %s before its end was archived", printable(last.Name)))
		}
		return anew(fmt.Sprintf("the server has purged binary logs before they were archived: those after %s, before %s", printable(last.Name), printable(list[0].name)))
	}
	created, id, err := s.logBeginning(ctx, binlog, last.Name)
	if err != nil {
		return nil, false, err
	}
	if !created.Equal(last.Created) || id != last.ServerID {
		return anew(fmt.Sprintf("the server's %s is another one than that which was archived: it has begun to count anew", printable(last.Name)))
	}
	if last.Closed {
		return list[i+1:], last.Damaged, nil
	}
	have.Files = have.Files[:len(have.Files)-1]
	return list[i:], last.Gap, nil
}

// logNumber splits the name of a log: "binlog.000042" is the 42nd of "binlog".
func logNumber(name string) (n int64, base string) {
	base, digits, _ := cutLast(name, ".")
	n, _ = strconv.ParseInt(digits, 10, 64)
	return n, base
}

// BINLOG '…' holds the first event of a log.
var binlogStatement = lazyregexp.New(`(?s)\nBINLOG '\n(.*?)\n'`)

// logBeginning asks for the first event of a log: when it was begun, by which server.
func (s *session) logBeginning(ctx context.Context, binlog program, name string) (created time.Time, serverID uint32, err error) {
	var out bytes.Buffer
	child := s.child(binlog, "--read-from-remote-server", "--stop-position=5", "--", name)
	child.Stdout = &out
	if err := child.Run(ctx); err != nil {
		return time.Time{}, 0, logError(err)
	}
	m := binlogStatement().FindSubmatch(out.Bytes())
	if m == nil {
		return time.Time{}, 0, fmt.Errorf("the beginning of %s is not understood", printable(name))
	}
	raw, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(string(m[1]), "\n", ""))
	if err != nil {
		return time.Time{}, 0, fmt.Errorf("the beginning of %s is not understood", printable(name))
	}
	l, err := newLogReader(io.MultiReader(strings.NewReader(logMagic), bytes.NewReader(raw)), name)
	if err != nil {
		return time.Time{}, 0, err
	}
	return l.created.time, l.created.serverID, nil
}

// fetch stores one log, as far as it is whole. The program can write to files only: one is
// kept at a time. Damage is said if there is any on the server; nothing is stored of a log
// without its beginning.
func (s *session) fetch(ctx context.Context, binlog program, log serverLog, to dbdump.Sink, o *ArchiveOptions) (f LogFile, damage, err error) {
	dir, err := os.MkdirTemp(o.TempDir, "backup-handler-binlog-")
	if err != nil {
		return f, nil, err
	}
	defer os.RemoveAll(dir)
	for range 2 { // whether it is damaged there, or was on its way
		if f, damage, err = s.read(ctx, binlog, log, dir, o); damage == nil {
			break
		}
	}
	if err != nil || f.Bytes == 0 {
		return f, damage, err
	}
	in, err := os.Open(filepath.Join(dir, log.name))
	if err != nil {
		return f, nil, err
	}
	defer in.Close()
	f.File = f.Created.Format("20060102T150405Z") + "-" + dbdump.FileName(log.name)
	w, err := to.Create(f.File)
	if err != nil {
		return f, nil, err
	}
	sum := sha256.New()
	_, err = io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(w, sum)}, &counting{io.LimitReader(in, f.Bytes), o.Progress}, make([]byte, 1<<20))
	f.SHA256 = hex.EncodeToString(sum.Sum(nil))
	return f, damage, errors.Join(err, w.Close())
}

// read makes a file of a log in a directory, and describes what of it is whole.
func (s *session) read(ctx context.Context, binlog program, log serverLog, dir string, o *ArchiveOptions) (f LogFile, damage, err error) {
	f.Name = log.name
	var now float64
	if err := s.db.QueryRowContext(ctx, "SELECT UNIX_TIMESTAMP()").Scan(&now); err != nil {
		return f, nil, err
	}
	f.Until = time.Unix(int64(now), 0).UTC()
	ran := s.child(binlog, "--read-from-remote-server", "--raw", "--result-file="+dir+string(filepath.Separator), "--", log.name).Run(ctx)
	cut, damaged := saidOf(ran, "binlog truncated in the middle of event"), saidOf(ran, "bogus data in log event", "I/O error reading", "bad magic number")
	if ran != nil && !(log.closed && (cut || damaged)) {
		return f, nil, logError(ran)
	}
	in, err := os.Open(filepath.Join(dir, log.name))
	if ran != nil && errors.Is(err, fs.ErrNotExist) { // not even the first event
		return f, ran, nil
	}
	if err != nil {
		return f, nil, err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return f, nil, err
	}
	if ran == nil && log.closed && info.Size() < log.bytes { // that is no damage of the server's
		return f, nil, fmt.Errorf("it has %d bytes on the server, and %d arrived", log.bytes, info.Size())
	}
	end, err := f.inspect(in)
	if f.Closed = log.closed; f.Closed && end.Before(f.Until) {
		f.Until = end
	}
	switch {
	case errors.Is(err, errLog) && log.closed:
		return f, err, nil
	case err != nil:
		return f, nil, err
	case damaged:
		return f, ran, nil
	case cut && f.Bytes < log.bytes:
		// A server that was killed as it wrote: it begins the next log when it is back, and
		// what the event was to note was never committed. (MySQL shortens the log to its
		// whole events; MariaDB leaves it as it is.)
		o.warn("%s ends within an event, of which it has %d bytes: the server was killed, or had no space left, before it had written it; all that is before is archived", printable(log.name), log.bytes-f.Bytes)
	case log.closed && f.Bytes != log.bytes:
		return f, nil, fmt.Errorf("it has %d bytes on the server, and %d arrived", log.bytes, f.Bytes)
	}
	return f, nil, nil
}

// saidOf says whether a program has ended with one of the messages.
func saidOf(err error, messages ...string) bool {
	failed, ok := errors.AsType[*dbdump.ChildError](err)
	return ok && slices.ContainsFunc(messages, func(m string) bool { return strings.Contains(failed.Stderr, m) })
}

// inspect reads all events of a log, notes what they say, and returns the time of the last
// one. If the log is damaged, that is of those before.
func (f *LogFile) inspect(in io.Reader) (end time.Time, err error) {
	l, err := newLogReader(in, f.Name)
	if err != nil {
		return time.Time{}, err
	}
	end = l.created.time
	f.Created, f.Last, f.ServerID = l.created.time, l.created.time, l.created.serverID
	for {
		e, err := l.next()
		f.Bytes = l.at
		if err == io.EOF {
			return end, nil
		}
		if err != nil {
			return end, err
		}
		end = e.time
		if e.time.After(f.Last) {
			f.Last = e.time
		}
	}
}

const tempHint = "is the directory for temporary files ($TMPDIR) full? It has to hold one binary log"

// logError adds what to do about a failure of the program that reads logs.
func logError(err error) error {
	failed, ok := errors.AsType[*dbdump.ChildError](err)
	if !ok {
		return err
	}
	hint := ""
	for _, h := range []struct{ said, hint string }{
		{"Could not find first log file", "the server has purged it in the meantime: run it again"},
		{"Lost connection", goneHint},
		{"o space left", tempHint},
		{"Could not write into log file", tempHint},
	} {
		if strings.Contains(failed.Stderr, h.said) {
			hint = h.hint
			break
		}
	}
	return &dbdump.Error{Err: err, Hint: hint}
}
