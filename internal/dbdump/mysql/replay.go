package mysql

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/dbdump"
	"github.com/SP1R4/BackupHandler/v3/internal/lazyregexp"
)

// ReplayOptions say up to where a database is brought. Of ToTime, ToPosition and
// StopBefore at most one is set; none means all there is.
type ReplayOptions struct {
	Database string // as the logs call it
	Into     string // as it is called now; "": the same
	// From is the position of the dump that was restored, and Dumped when it was made:
	// names of logs may come again.
	From   dbdump.Position
	Dumped time.Time
	// ToTime is an instant, whatever time zone it was given in: what was committed before
	// the second that it is in is replayed, by the server's clock.
	ToTime time.Time
	// ToPosition is the beginning of the first transaction that is not replayed.
	ToPosition *dbdump.Position
	// StopBefore is part of the text of a statement, in any case; spaces count as one,
	// and backquotes not at all: "drop table orders". The first transaction that has it
	// is not replayed, nor what follows.
	StopBefore string

	Progress dbdump.Progress                  // nil: nobody is told
	Warn     func(format string, args ...any) // nil: nobody is told
}

// A ReplayResult says what was done, or would be.
type ReplayResult struct {
	Transactions int             // of all databases
	At           dbdump.Position // the first that was not replayed begins here
	Last         time.Time       // the commit of the last that was; zero: there was none
	Until        time.Time       // up to which the logs have everything
}

// RestoreTo makes a database of a dump and brings it to a moment. The moment is looked
// for, and what would have to be replayed until then, before anything is made.
//
// It is loaded and replayed under a name that says so, NAME__replaying_TIME, and then
// gets its own; with Replace the old database is removed right before. What fails is
// removed again, as in [Restore]. A database that gets the name it had, on a server
// without it, is replayed under that name if statements in the logs need it.
func RestoreTo(ctx context.Context, server Server, dump, logs fs.FS, restore RestoreOptions, o ReplayOptions) (ReplayResult, error) {
	m, err := readManifest(dump)
	if err != nil {
		return ReplayResult{}, err
	}
	db, err := chooseDatabase(m, restore.Database)
	if err != nil {
		return ReplayResult{}, err
	}
	if m.Position == nil {
		return ReplayResult{}, &dbdump.Error{Err: errors.New("the dump does not say at which position of the binary log it is"),
			Hint: "choose another dump; for those to come, set binlog_position = True"}
	}
	if len(restore.Tables) > 0 {
		return ReplayResult{}, &dbdump.Error{Err: errors.New("a database is brought to a moment as a whole"), Hint: "restore it under a new name, and take the tables from there"}
	}
	into := cmp.Or(restore.Into, db.Name)
	if err := checkName(into); err != nil {
		return ReplayResult{}, err
	}
	s, err := open(ctx, server)
	if err != nil {
		return ReplayResult{}, err
	}
	defer s.close()
	err = s.mustNotExist(ctx, into)
	exists := errors.Is(err, errExists)
	if err != nil && !(exists && restore.Replace) {
		return ReplayResult{}, err
	}
	work := workName(into, replaying, time.Now())
	o.Database, o.Into, o.From, o.Dumped = db.Name, work, *m.Position, m.Start
	if _, err := s.planReplay(ctx, logs, &o); err != nil {
		if into != db.Name || exists {
			return ReplayResult{}, err
		}
		work = into
		o.Into = into
		if _, direct := s.planReplay(ctx, logs, &o); direct != nil {
			return ReplayResult{}, err
		}
	}
	restore.Replace = false
	r := &restorer{fsys: dump, o: restore, home: db.Name, from: db.Name, into: work}
	if err := r.restore(ctx, server, db); err != nil {
		return ReplayResult{}, err
	}
	again := &restorer{s: s, o: restore, home: db.Name, from: work, into: into, work: work}
	result, err := Replay(ctx, server, logs, o)
	if err != nil {
		return result, again.abandon(err, work)
	}
	if work == into {
		return result, nil
	}
	return result, again.rename(ctx, server, exists, r.events)
}

// rename gives a whole database another name. What cannot be renamed is dumped and loaded
// again; events are disabled, but for some of a database that is at home.
func (r *restorer) rename(ctx context.Context, server Server, replace bool, events []string) error {
	kept := memory{}
	var m *dbdump.Manifest
	broken, err := r.brokenViews(ctx)
	if err == nil {
		m, err = Dump(ctx, server, kept, DumpOptions{Databases: []string{r.work}, Exclude: broken, noData: true})
	}
	if err == nil {
		r.fsys = kept
		if err = r.choose(&m.Databases[0]); err == nil {
			if r.client, err = r.s.find(ctx, clientNames); err == nil {
				err = r.dropUnmovable(ctx)
			}
		}
	}
	if err != nil {
		return r.abandon(err, r.work)
	}
	if err := r.finish(ctx, replace); err != nil {
		return err
	}
	if r.into != r.home {
		return nil
	}
	have, err := r.s.strings1(ctx, "SELECT EVENT_NAME FROM information_schema.EVENTS WHERE EVENT_SCHEMA = ?", r.into)
	for _, name := range events {
		if err == nil && slices.Contains(have, name) {
			err = r.exec(ctx, "ALTER EVENT "+quote(r.into)+"."+quote(name)+" ENABLE")
		}
	}
	if err != nil {
		return fmt.Errorf("the database %s is whole, and its events are disabled: %w", printable(r.into), err)
	}
	return nil
}

// brokenViews are those, as patterns of what is left out, that refer to what was not there
// any more at the moment: a server keeps them, and lets nobody make them.
func (r *restorer) brokenViews(ctx context.Context) (patterns []string, err error) {
	views, err := r.s.strings1(ctx, "SELECT TABLE_NAME FROM information_schema.VIEWS WHERE TABLE_SCHEMA = ?", r.work)
	if err != nil {
		return nil, err
	}
	for _, name := range views {
		rows, err := r.s.db.QueryContext(ctx, "SHOW FIELDS FROM "+quote(r.work)+"."+quote(name))
		if err == nil {
			rows.Close()
			continue
		}
		if !isServerError(err, errBrokenView) {
			return nil, err
		}
		patterns = append(patterns, r.work+"."+name)
		r.o.warn("the view %s referred to what was not there at that moment, and is left out", printable(name))
	}
	return patterns, nil
}

// memory keeps the files of a dump that has no data.
type memory map[string]*bytes.Buffer

func (m memory) Create(name string) (io.WriteCloser, error) {
	m[name] = new(bytes.Buffer)
	return notClosed{m[name]}, nil
}

type notClosed struct{ io.Writer }

func (notClosed) Close() error { return nil }

func (m memory) Open(name string) (fs.File, error) {
	b, ok := m[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return &memoryFile{bytes.NewReader(b.Bytes())}, nil
}

type memoryFile struct{ *bytes.Reader }

func (*memoryFile) Close() error               { return nil }
func (*memoryFile) Stat() (fs.FileInfo, error) { return nil, errors.ErrUnsupported }

// Replay executes what binary logs have of one database, from the position of the dump
// that it was restored from. If it fails, the database is at no moment of its history.
//
// Rows go to the database that Into names, whatever else is in their transaction.
// Statements do, if they name no database: one that names the database of old, or
// another one of the server, would write there, and makes Replay refuse before it
// begins. So do statements that create, drop or change the database itself. Those that
// are not about databases, such as GRANT, are left out.
func Replay(ctx context.Context, server Server, logs fs.FS, o ReplayOptions) (ReplayResult, error) {
	s, err := open(ctx, server)
	if err != nil {
		return ReplayResult{}, err
	}
	defer s.close()
	p, err := s.planReplay(ctx, logs, &o)
	if err != nil {
		return ReplayResult{}, err
	}
	n := 0
	if err := s.db.QueryRowContext(ctx, "SELECT COUNT(*) FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = ?", o.Into).Scan(&n); err != nil {
		return p.result, err
	}
	if n == 0 {
		return p.result, fmt.Errorf("the database %s, to be replayed into, is not there", printable(o.Into))
	}
	return p.result, s.execute(ctx, logs, p, &o)
}

// A replayPlan is what a replay does.
type replayPlan struct {
	parts  []replayPart
	result ReplayResult
	dumped time.Time // of the last commit that the dump has
}

// A replayPart is a stretch of one log, without what is skipped.
type replayPart struct {
	file     LogFile
	from, to int64
	skip     [][2]int64 // offsets, ascending
}

// planReplay reads the logs, and finds where to stop and what cannot be replayed.
func (s *session) planReplay(ctx context.Context, logs fs.FS, o *ReplayOptions) (*replayPlan, error) {
	o.Into = cmp.Or(o.Into, o.Database)
	goals := 0
	for _, set := range []bool{!o.ToTime.IsZero(), o.ToPosition != nil, o.StopBefore != ""} {
		if set {
			goals++
		}
	}
	if goals > 1 {
		return nil, errors.New("a time, a position and a statement are three ways to say where to stop: give one")
	}
	if o.ToPosition != nil && o.ToPosition.File == o.From.File && o.ToPosition.Offset < o.From.Offset {
		return nil, &dbdump.Error{Err: fmt.Errorf("position %s:%d is before that of the dump, %d", printable(o.ToPosition.File), o.ToPosition.Offset, o.From.Offset), Hint: "choose an earlier dump"}
	}
	if strings.Contains(o.Database+o.Into, "->") {
		return nil, fmt.Errorf(`the program that reads binary logs cannot rename a database with "->" in its name`)
	}
	if err := checkName(o.Into); err != nil {
		return nil, err
	}
	l, err := ReadLogs(logs)
	if err != nil {
		return nil, err
	}
	first := startLog(l, o.From, o.Dumped)
	if first < 0 {
		return nil, &dbdump.Error{Err: fmt.Errorf("the archive has no binary log %s, in which the dump is", printable(o.From.File)),
			Hint: "restore the dump without replaying, or choose one whose log is there"}
	}
	others, err := s.strings1(ctx, "SELECT SCHEMA_NAME FROM information_schema.SCHEMATA")
	if err != nil {
		return nil, err
	}
	j := newJudge(o, others)
	p := &replayPlan{}
	p.result.At = o.From
	stopped := false
	for i, f := range l.Files[first:] {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if f.Gap && i > 0 {
			return nil, p.ended(o, fmt.Sprintf("the binary log before %s is missing, or a part of it", printable(f.Name)))
		}
		part := replayPart{file: f, from: int64(len(logMagic))}
		if i == 0 {
			part.from = o.From.Offset
			p.dumped = f.Created
		}
		if part.from > f.Bytes {
			return nil, fmt.Errorf("offset %d, at which the dump is, is behind the end of %s: run the archive again", part.from, printable(f.Name))
		}
		if stopped, err = p.read(logs, &part, j, o); err != nil {
			return nil, err
		}
		p.parts = append(p.parts, part)
		if stopped {
			break
		}
		p.result.Until = f.Until
	}
	switch {
	case stopped, goals == 0:
	case o.StopBefore != "":
		return nil, &dbdump.Error{Err: fmt.Errorf("no statement like %q is in the binary logs of after the dump, which reach until %s", printable(o.StopBefore), p.result.Until.Format(time.RFC3339)),
			Hint: "statements are compared without backquotes; rows that changed are found by the statement if the server notes it (binlog_annotate_row_events, binlog_rows_query_log_events)"}
	case o.ToPosition != nil && p.result.At != *o.ToPosition && !p.reaches(o.ToPosition):
		return nil, p.ended(o, fmt.Sprintf("they do not have position %s:%d", printable(o.ToPosition.File), o.ToPosition.Offset))
	case !o.ToTime.IsZero() && p.result.Until.Before(o.ToTime.Truncate(time.Second)):
		return nil, p.ended(o, "they end before")
	}
	return p, nil
}

// later is the error for a dump that is of after the time that is wanted.
func (p *replayPlan) later(o *ReplayOptions) error {
	return &dbdump.Error{Err: fmt.Errorf("the dump is of after %s: it has what was committed at %s", o.ToTime.UTC().Format(time.RFC3339), p.dumped.Format(time.RFC3339)),
		Hint: "choose an earlier dump"}
}

// reaches says whether a position is the end of what the plan has.
func (p *replayPlan) reaches(at *dbdump.Position) bool {
	last := p.parts[len(p.parts)-1]
	return last.file.Name == at.File && last.to == at.Offset
}

// ended is the error for logs that do not reach far enough.
func (p *replayPlan) ended(o *ReplayOptions, why string) error {
	until := "not beyond the dump itself"
	if !p.result.Until.IsZero() {
		until = "up to " + p.result.Until.Format(time.RFC3339)
	}
	wanted := "what was asked for"
	if !o.ToTime.IsZero() {
		wanted = o.ToTime.UTC().Format(time.RFC3339)
	}
	return &dbdump.Error{Err: fmt.Errorf("the binary logs do not lead to %s: %s; from this dump, a restore is possible %s", wanted, why, until),
		Hint: "choose a dump of after the gap, an earlier time, or archive the logs again"}
}

// clockSkew is by how much the clocks of the server and of the dump may differ.
const clockSkew = time.Minute

// startLog finds the log of a dump: of those with its name, the last that was begun
// before the dump.
func startLog(l *Logs, from dbdump.Position, dumped time.Time) int {
	found := -1
	for i, f := range l.Files {
		if f.Name == from.File && (dumped.IsZero() || !f.Created.After(dumped) || found < 0 && f.Created.Before(dumped.Add(clockSkew))) {
			found = i
		}
	}
	return found
}

// read goes through one log, and says whether the end of the replay is in it.
func (p *replayPlan) read(logs fs.FS, part *replayPart, j *judge, o *ReplayOptions) (stopped bool, err error) {
	f, err := logs.Open(part.file.File)
	if err != nil {
		return false, err
	}
	defer f.Close()
	l, err := newLogReader(f, part.file.Name)
	if err != nil {
		return false, err
	}
	err = l.groups(0, func(g *group) (bool, error) {
		at := dbdump.Position{File: part.file.Name, Offset: g.start}
		if g.end <= part.from { // of the first log only
			p.dumped = g.time
			return true, nil
		}
		if g.start < part.from {
			return false, fmt.Errorf("position %s:%d, at which the dump is, is within a transaction: this is not the log of the dump", printable(at.File), part.from)
		}
		if !o.ToTime.IsZero() && !p.dumped.Before(o.ToTime.Truncate(time.Second)) {
			return false, p.later(o)
		}
		if !g.whole {
			part.skip = append(part.skip, [2]int64{g.start, g.end})
			return true, nil
		}
		if to := o.ToPosition; to != nil && to.File == at.File && g.end > to.Offset {
			if g.start < to.Offset {
				return false, fmt.Errorf("position %s:%d is within a transaction, which begins at %d and ends at %d", printable(to.File), to.Offset, g.start, g.end)
			}
			stopped = true
		}
		stopped = stopped || !o.ToTime.IsZero() && !g.time.Before(o.ToTime.Truncate(time.Second))
		stopped = stopped || o.StopBefore != "" && j.matches(g)
		if stopped {
			p.result.At, part.to = at, g.start
			return false, nil
		}
		keep, err := j.judge(g)
		if err != nil {
			return false, &dbdump.Error{Err: fmt.Errorf("at %s, %s:%d: %w", g.time.Format(time.RFC3339), printable(at.File), at.Offset, err),
				Hint: fmt.Sprintf("a replay is possible up to there: --to-position %s:%d", printable(at.File), at.Offset)}
		}
		if !keep {
			part.skip = append(part.skip, [2]int64{g.start, g.end})
		}
		p.result.Transactions++
		p.result.Last, p.result.At = g.time, dbdump.Position{File: part.file.Name, Offset: g.end}
		return true, nil
	})
	if err == nil && !stopped && !o.ToTime.IsZero() && !p.dumped.Before(o.ToTime.Truncate(time.Second)) {
		err = p.later(o)
	}
	if err == nil && !stopped {
		part.to = l.at
		if l.at != part.file.Bytes {
			err = fmt.Errorf("%s has %d bytes, and should have %d", printable(part.file.File), l.at, part.file.Bytes)
		}
	}
	return stopped, err
}

// A judge says which groups can be replayed.
type judge struct {
	database, into string
	// The database before a dot, and other databases (nil: there are none); in double
	// quotes, too.
	mentions, ansi, others, othersANSI *regexp.Regexp
	pattern                            string
}

func newJudge(o *ReplayOptions, databases []string) *judge {
	j := &judge{database: o.Database, into: o.Into, mentions: mentions(o.Database), ansi: ansi(o.Database), pattern: plainText(o.StopBefore)}
	var names, rest []string
	for _, db := range databases {
		if db != o.Database && db != o.Into && db != "information_schema" && db != "performance_schema" {
			names, rest = append(names, regexp.QuoteMeta(quote(db)), regexp.QuoteMeta(db)), append(rest, db)
		}
	}
	if len(names) > 0 {
		j.others = regexp.MustCompile(`(?i)(?:^|[^\w$.` + "`" + `])(?:` + strings.Join(names, "|") + `)\s*\.`)
		j.othersANSI = ansi(rest...)
	}
	return j
}

// ansi matches names in double quotes before a dot.
func ansi(databases ...string) *regexp.Regexp {
	quoted := make([]string, len(databases))
	for i, db := range databases {
		quoted[i] = regexp.QuoteMeta(strings.ReplaceAll(db, `"`, `""`))
	}
	return regexp.MustCompile(`(?i)"(?:` + strings.Join(quoted, "|") + `)"\s*\.`)
}

var (
	spaces = lazyregexp.New(`\s+`)
	// literals are what a name cannot be in. Comments of the server's own kind are
	// executed, and stay.
	literals   = lazyregexp.New(`(?s)'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.|"")*"|/\*[^!M].*?\*/|/\*\*/|(?:--\s|#)[^\n]*`)
	noDatabase = lazyregexp.New(`(?is)^\s*(?:(?:CREATE|ALTER|DROP|RENAME)\s+(?:OR\s+REPLACE\s+)?(?:USER|ROLE|SERVER|TABLESPACE|LOGFILE|RESOURCE)\b|GRANT\b|REVOKE\b|SET\s+(?:PASSWORD|DEFAULT|ROLE|GLOBAL)\b|FLUSH\b|INSTALL\b|UNINSTALL\b)`)
	ofDatabase = lazyregexp.New("(?is)^\\s*(?:CREATE|ALTER|DROP)\\s+(?:OR\\s+REPLACE\\s+)?(?:DATABASE|SCHEMA)\\s+(?:IF\\s+(?:NOT\\s+)?EXISTS\\s+)?(`(?:[^`]|``)+`|[^\\s;`]+)")
	settings   = lazyregexp.New(`(?i)^(?:DEFAULT|CHARACTER|CHARSET|COLLATE|COMMENT|READ)$`)
)

// plainText is how statements are compared.
func plainText(s string) string {
	return strings.TrimSpace(spaces().ReplaceAllString(strings.ToLower(strings.ReplaceAll(s, "`", "")), " "))
}

// matches says whether a group has the statement to stop before.
func (j *judge) matches(g *group) bool {
	for _, q := range g.queries {
		if (q.database == j.database || j.mentions.MatchString(q.text)) && strings.Contains(plainText(q.text), j.pattern) {
			return true
		}
	}
	return slices.ContainsFunc(g.statements, func(text string) bool { return strings.Contains(plainText(text), j.pattern) })
}

// judge says whether a group is to be replayed; an error, if that cannot be done right.
func (j *judge) judge(g *group) (keep bool, err error) {
	if g.payload {
		return false, errors.New("the transaction is compressed as a whole (binlog_transaction_compression), and cannot be looked into")
	}
	keep = true
	for _, q := range g.queries {
		text := q.text
		if !strings.Contains(text, `\'`) && !strings.Contains(text, `\"`) {
			// What \ means in a literal depends on the session: such text is taken as it is.
			text = literals().ReplaceAllString(text, " ")
		}
		said := fmt.Sprintf("the statement %q", printable(spaces().ReplaceAllString(strings.TrimSpace(q.text), " ")))
		if m := ofDatabase().FindStringSubmatch(text); m != nil {
			name := unquote(m[1])
			if name == j.database {
				return false, fmt.Errorf("%s is about the database itself, and is not replayed", said)
			}
			// Without a name, it is the one that the session is in.
			if !settings().MatchString(name) {
				keep = false
				continue
			}
		}
		if noDatabase().MatchString(text) {
			keep = false
			continue
		}
		// Text in double quotes may be a name (ANSI_QUOTES).
		named := j.mentions.MatchString(text) || j.ansi.MatchString(q.text)
		switch {
		case q.database != j.database && named:
			return false, fmt.Errorf("%s was executed outside of the database, and names it: it would be left out", said)
		case q.database != j.database:
			// Its database is left out by the program.
		case named && j.into != j.database:
			return false, fmt.Errorf("%s names its database, and would be executed in %s, not in %s", said, printable(j.database), printable(j.into))
		case j.others != nil && (j.others.MatchString(text) || j.othersANSI.MatchString(q.text)):
			return false, fmt.Errorf("%s names another database, and would be executed there", said)
		}
	}
	return keep, nil
}

// execute replays a plan: our part of each log, read by the program that makes
// statements of it, executed by one client.
func (s *session) execute(ctx context.Context, logs fs.FS, p *replayPlan, o *ReplayOptions) error {
	client, err := s.find(ctx, clientNames)
	if err != nil {
		return err
	}
	binlog, err := s.find(ctx, binlogNames)
	if err != nil {
		return err
	}
	args := []string{"--no-defaults", "--database=" + o.Database}
	if o.Into != o.Database {
		args = append(args, "--rewrite-db="+o.Database+"->"+o.Into)
		if !binlog.mariaDB {
			args[1] = "--database=" + o.Into // MySQL renames first
		}
	}
	if !binlog.mariaDB {
		args = append(args, "--skip-gtids")
	}
	args = append(args, "-")
	from, to := io.Pipe()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	loaded := make(chan error, 1)
	go func() {
		err := s.load(ctx, client, "", from)
		if err != nil {
			cancel(err)
		}
		from.CloseWithError(errors.Join(err, io.ErrClosedPipe))
		loaded <- err
	}()
	for _, part := range p.parts {
		if err = s.part(ctx, logs, binlog, args, part, to, o); err != nil {
			err = fmt.Errorf("replay %s: %w", printable(part.file.Name), err)
			break
		}
	}
	if err != nil {
		cancel(err)
	}
	to.CloseWithError(err)
	if failed := <-loaded; failed != nil && (err == nil || errors.Is(err, failed) || errors.Is(err, io.ErrClosedPipe)) {
		return loadError("the binary logs into "+o.Into, failed)
	}
	return err
}

func (s *session) part(ctx context.Context, logs fs.FS, binlog program, args []string, part replayPart, to io.Writer, o *ReplayOptions) error {
	f, err := logs.Open(part.file.File)
	if err != nil {
		return err
	}
	defer f.Close()
	in, err := newPartReader(&counting{f, o.Progress}, part)
	if err != nil {
		return err
	}
	out := &withoutGTID{to: to}
	child := dbdump.Child{Path: binlog.path, Args: args, Stdin: in, Stdout: out}
	if err := child.Run(ctx); err != nil {
		return err
	}
	return out.flush()
}

// newPartReader reads a log without what does not belong to a part of it: its beginning
// with the description of its format, then that part.
func newPartReader(in io.Reader, part replayPart) (io.Reader, error) {
	head := make([]byte, len(logMagic)+eventHeaderBytes)
	if _, err := io.ReadFull(in, head); err != nil {
		return nil, err
	}
	length := int64(uint32(head[13]) | uint32(head[14])<<8 | uint32(head[15])<<16 | uint32(head[16])<<24)
	at := int64(len(logMagic)) + length
	readers := []io.Reader{bytes.NewReader(head), io.LimitReader(in, at-int64(len(head)))}
	for _, stretch := range append(append([][2]int64{{at, max(at, part.from)}}, part.skip...), [2]int64{part.to, part.to}) {
		if stretch[0] > at {
			readers = append(readers, io.LimitReader(in, stretch[0]-at))
			at = stretch[0]
		}
		if stretch[1] > at {
			readers = append(readers, &discarding{in, stretch[1] - at})
			at = stretch[1]
		}
	}
	return io.MultiReader(readers...), nil
}

// discarding reads bytes and gives none away.
type discarding struct {
	from io.Reader
	n    int64
}

func (d *discarding) Read([]byte) (int, error) {
	if _, err := io.CopyN(io.Discard, d.from, d.n); err != nil {
		return 0, errors.Join(io.ErrUnexpectedEOF, err)
	}
	d.n = 0
	return 0, io.EOF
}

// withoutGTID leaves out the lines that give a transaction the number that it had: in
// the log of this server it is another one, which would not be in order.
type withoutGTID struct {
	to   io.Writer
	line []byte // begun; only as long as it may be one of those
	long bool   // the line is none, and was given away up to here
}

var gtidLine = []byte("SET @@session.gtid_seq_no=")

func (w *withoutGTID) Write(p []byte) (int, error) {
	out := make([]byte, 0, len(p)+len(w.line))
	for rest := p; len(rest) > 0; {
		part := rest
		i := bytes.IndexByte(rest, '\n')
		if i >= 0 {
			part = rest[:i+1]
		}
		rest = rest[len(part):]
		if w.long {
			out = append(out, part...)
			w.long = i < 0
			continue
		}
		w.line = append(w.line, part...)
		switch {
		case i >= 0:
			if !isGTIDLine(w.line) {
				out = append(out, w.line...)
			}
			w.line = w.line[:0]
		case len(w.line) > 256:
			out, w.line, w.long = append(out, w.line...), w.line[:0], true
		}
	}
	if _, err := w.to.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (w *withoutGTID) flush() error {
	_, err := w.to.Write(w.line)
	return err
}

// /*M!100001 SET @@session.gtid_seq_no=23*//*!*/;
func isGTIDLine(line []byte) bool {
	return bytes.HasPrefix(line, []byte("/*")) && len(line) < 100 && bytes.Contains(line[:min(len(line), 40)], gtidLine) && bytes.HasSuffix(line, []byte("*//*!*/;\n"))
}
