package mysql

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/SP1R4/BackupHandler/v3/internal/dbdump"
	"github.com/SP1R4/BackupHandler/v3/internal/lazyregexp"
)

// RestoreOptions say what becomes of a dump.
type RestoreOptions struct {
	Database string // of the dump; "": its only one
	Into     string // the database to make; "": as it was called
	// Replace removes a database of that name, once everything else is there.
	Replace bool
	// Tables are the only ones to restore, without views, routines, triggers and events;
	// none: everything.
	Tables   []string
	Parallel int // client processes; 0: two, or as many as the machine has processors

	Progress dbdump.Progress                  // nil: nobody is told
	Warn     func(format string, args ...any) // nil: nobody is told
}

func (o *RestoreOptions) warn(format string, args ...any) {
	if o.Warn != nil {
		o.Warn(format, args...)
	}
}

// RestoreAll makes all databases of a dump, under their names, and then its accounts,
// if it has them. It stops at the first database that fails; those before it stay.
func RestoreAll(ctx context.Context, server Server, fsys fs.FS, o RestoreOptions) error {
	m, err := readManifest(fsys)
	if err != nil {
		return err
	}
	if o.Into != "" || o.Database != "" || len(o.Tables) > 0 {
		return errors.New("all databases are restored under their own names, and whole")
	}
	if !o.Replace {
		s, err := open(ctx, server)
		if err != nil {
			return err
		}
		defer s.close()
		for _, db := range m.Databases {
			if err := s.mustNotExist(ctx, db.Name); err != nil {
				return err
			}
		}
	}
	for _, db := range m.Databases {
		o.Database = db.Name
		if err := Restore(ctx, server, fsys, o); err != nil {
			return err
		}
	}
	for _, f := range m.Files {
		if err := RestoreGrants(ctx, server, fsys, f.Name); err != nil {
			return err
		}
	}
	return nil
}

// RestoreGrants makes the accounts of a dump and gives them their rights. Accounts that
// are there keep their passwords.
func RestoreGrants(ctx context.Context, server Server, fsys fs.FS, name string) error {
	s, err := open(ctx, server)
	if err != nil {
		return err
	}
	defer s.close()
	client, err := s.find(ctx, clientNames)
	if err != nil {
		return err
	}
	text, err := readSmall(fsys, name)
	if err != nil {
		return err
	}
	return loadError("the accounts", s.load(ctx, client, "", bytes.NewReader(text)))
}

// Restore makes a database out of one of a dump.
//
// It is loaded under a name that says so, NAME__restoring_TIME, and gets its own when
// all its tables are there; what fails is removed again. With Replace, routines, views
// and triggers are tried there, too, and the old database is removed only then: until
// that moment nothing of it has changed. What fails between that and the end leaves
// the new tables, all of them, and says under which name.
//
// Nothing is written outside of these two databases, whatever the dump was called:
// triggers that name their database are made in the new one, and the defaults of columns
// that name a sequence refer to the new one. Bodies of routines and the like that name
// the old database are warned of, and stay as they are. Events of a database under
// another name are disabled: those of the old one do their work already.
func Restore(ctx context.Context, server Server, fsys fs.FS, o RestoreOptions) error {
	m, err := readManifest(fsys)
	if err != nil {
		return err
	}
	db, err := chooseDatabase(m, o.Database)
	if err != nil {
		return err
	}
	r := &restorer{fsys: fsys, o: o, home: db.Name, from: db.Name, into: cmp.Or(o.Into, db.Name)}
	return r.restore(ctx, server, db)
}

func (r *restorer) restore(ctx context.Context, server Server, db *dbdump.Database) error {
	if err := checkName(r.into); err != nil {
		return err
	}
	err := r.choose(db)
	if err != nil {
		return err
	}
	if r.s, err = open(ctx, server); err != nil {
		return err
	}
	defer r.s.close()
	if r.client, err = r.s.find(ctx, clientNames); err != nil {
		return err
	}
	err = r.s.mustNotExist(ctx, r.into)
	exists := errors.Is(err, errExists)
	if err != nil && !(exists && r.o.Replace) {
		return err
	}
	r.work = workName(r.into, restoring, time.Now())
	if err := r.exec(ctx, "CREATE DATABASE "+quote(r.work)); err != nil {
		return &dbdump.Error{Err: fmt.Errorf("make the database %s: %w", printable(r.work), err), Hint: rightsHint(err)}
	}
	if err := r.loadAll(ctx, exists); err != nil {
		return r.abandon(err, r.work)
	}
	return r.finish(ctx, exists)
}

// A restorer restores one database.
type restorer struct {
	s      *session
	client program
	fsys   fs.FS
	o      RestoreOptions
	home   string // as the database was called when it was dumped
	from   string // as the files call it; home, but in the second half of RestoreTo
	into   string // as it is to be called
	work   string // as it is called while it is loaded
	tables []dbdump.File
	rest   []dbdump.File // routines, views, triggers, events
	setUp  []dbdump.File // the database's own settings
	events []string      // that were disabled
}

// choose sorts the files of a database by what they are loaded for.
func (r *restorer) choose(db *dbdump.Database) error {
	missing := slices.Clone(r.o.Tables)
	for _, f := range db.Files {
		wanted := len(r.o.Tables) == 0 || slices.Contains(r.o.Tables, f.Table)
		switch {
		case f.Stage == stageDatabase:
			r.setUp = append(r.setUp, f)
		case f.Table == "" && len(r.o.Tables) == 0:
			r.rest = append(r.rest, f)
		case f.Table != "" && wanted:
			r.tables = append(r.tables, f)
			missing = slices.DeleteFunc(missing, func(name string) bool { return name == f.Table })
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("the dump of %s has no table %s", printable(r.from), printable(strings.Join(missing, ", ")))
	}
	return nil
}

// loadAll fills the work database with what can be renamed; for a replacement it tries
// the rest as well.
func (r *restorer) loadAll(ctx context.Context, rehearse bool) error {
	if err := r.stages(ctx, r.work, slices.Concat(r.setUp, r.tables)); err != nil {
		return err
	}
	have, err := r.s.strings1(ctx, "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = ?", r.work)
	if err != nil {
		return fmt.Errorf("list what was restored: %w", err)
	}
	for _, f := range r.tables {
		if !slices.ContainsFunc(have, func(name string) bool { return sameTable(name, f.Table) }) {
			return fmt.Errorf("%s was loaded, and the table %s is not there", printable(f.Name), printable(f.Table))
		}
	}
	if !rehearse {
		return nil
	}
	tried := slices.DeleteFunc(slices.Clone(r.rest), func(f dbdump.File) bool { return f.Stage == stageEvents })
	if err := r.stages(ctx, r.work, tried); err != nil {
		return err
	}
	return r.dropUnmovable(ctx)
}

// dropUnmovable drops from the work database what cannot be renamed into another one.
func (r *restorer) dropUnmovable(ctx context.Context) error {
	for _, kind := range []struct{ what, list string }{
		{"TRIGGER", "SELECT TRIGGER_NAME FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = ?"},
		{"VIEW", "SELECT TABLE_NAME FROM information_schema.VIEWS WHERE TABLE_SCHEMA = ?"},
	} {
		names, err := r.s.strings1(ctx, kind.list, r.work)
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := r.exec(ctx, "DROP "+kind.what+" "+quote(r.work)+"."+quote(name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// sameTable compares names as servers do that store them in lower case, too.
func sameTable(a, b string) bool { return a == b || strings.EqualFold(a, b) }

// finish gives the tables their database, and adds the rest.
func (r *restorer) finish(ctx context.Context, replace bool) error {
	names, err := r.s.strings1(ctx, "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = ? AND TABLE_TYPE NOT LIKE '%VIEW' ORDER BY 1", r.work)
	if err != nil {
		return r.abandon(err, r.work)
	}
	conn, err := r.s.db.Conn(ctx)
	if err != nil {
		return r.abandon(err, r.work)
	}
	defer conn.Close()
	if _, err := conn.ExecContext(ctx, "SET SESSION foreign_key_checks = 0"); err != nil {
		return r.abandon(err, r.work)
	}
	if replace {
		if _, err := conn.ExecContext(ctx, "DROP DATABASE "+quote(r.into)); err != nil {
			return r.abandon(fmt.Errorf("remove the old database %s: %w", printable(r.into), err), r.work)
		}
	}
	// From here on the tables are not removed any more if they replace others.
	fail := func(err error, made ...string) error {
		if !replace {
			return r.abandon(err, append(made, r.work)...)
		}
		return &dbdump.Error{Err: fmt.Errorf("the old database %s is removed, and its successor is not finished: %w", printable(r.into), err),
			Hint: fmt.Sprintf("its tables are whole, in the database %s or %s; run the restore again with --replace", printable(r.work), printable(r.into))}
	}
	if _, err := conn.ExecContext(ctx, "CREATE DATABASE "+quote(r.into)); err != nil {
		return fail(fmt.Errorf("make the database %s: %w", printable(r.into), err))
	}
	if err := r.stages(ctx, r.into, r.setUp); err != nil {
		return fail(err, r.into)
	}
	if len(names) > 0 {
		var rename strings.Builder
		for i, name := range names {
			rename.WriteString([]string{"RENAME TABLE ", ", "}[min(i, 1)])
			rename.WriteString(quote(r.work) + "." + quote(name) + " TO " + quote(r.into) + "." + quote(name))
		}
		if _, err := conn.ExecContext(ctx, rename.String()); err != nil {
			return fail(fmt.Errorf("give the tables to the database %s: %w", printable(r.into), err), r.into)
		}
	}
	if err := r.fixDefaults(ctx, conn); err != nil {
		return fail(err, r.into)
	}
	if err := r.stages(ctx, r.into, r.rest); err != nil {
		return fail(err, r.into)
	}
	if err := r.check(ctx); err != nil {
		return fail(err, r.into)
	}
	if err := r.exec(ctx, "DROP DATABASE "+quote(r.work)); err != nil {
		return fail(fmt.Errorf("remove the empty database %s: %w", printable(r.work), err), r.into)
	}
	r.warnNames()
	r.warnDefiners(ctx)
	return nil
}

// fixDefaults makes columns whose default is a sequence refer to the one beside them:
// renaming a table leaves them with that of the database that it was loaded in.
func (r *restorer) fixDefaults(ctx context.Context, conn *sql.Conn) error {
	rows, err := r.s.db.QueryContext(ctx, "SELECT TABLE_NAME, COLUMN_NAME, COLUMN_DEFAULT FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = ? AND COLUMN_DEFAULT LIKE '%(`%'", r.into)
	if err != nil {
		return err
	}
	defer rows.Close()
	var statements []string
	for rows.Next() {
		var table, column, value string
		if err := rows.Scan(&table, &column, &value); err != nil {
			return err
		}
		if fixed := renameSequence(value, r.work, r.into); fixed != value {
			statements = append(statements, "ALTER TABLE "+quote(r.into)+"."+quote(table)+" ALTER COLUMN "+quote(column)+" SET DEFAULT ("+fixed+")")
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	for _, q := range statements {
		if _, err := conn.ExecContext(ctx, q); err != nil {
			return fmt.Errorf("set the default of a column: %w", err)
		}
	}
	return nil
}

// renameSequence changes the database in calls of the functions of sequences, as the
// server writes them.
func renameSequence(text, from, to string) string {
	for _, f := range []string{"nextval(", "lastval(", "setval("} {
		text = strings.ReplaceAll(text, f+quote(from)+".", f+quote(to)+".")
	}
	return text
}

// stages loads files, one stage after the other.
func (r *restorer) stages(ctx context.Context, database string, files []dbdump.File) error {
	files = slices.Clone(files)
	slices.SortStableFunc(files, func(a, b dbdump.File) int {
		// Large ones first, so that no client ends up alone with the largest.
		return cmp.Or(cmp.Compare(a.Stage, b.Stage), cmp.Compare(b.Bytes, a.Bytes))
	})
	parallel := r.o.Parallel
	if parallel <= 0 {
		parallel = max(2, runtime.NumCPU())
	}
	for len(files) > 0 {
		n := slices.IndexFunc(files, func(f dbdump.File) bool { return f.Stage != files[0].Stage })
		if n < 0 {
			n = len(files)
		}
		work, workCtx := errgroup.WithContext(ctx)
		work.SetLimit(parallel)
		for _, f := range files[:n] {
			if workCtx.Err() != nil {
				break
			}
			work.Go(func() error { return r.file(workCtx, database, f) })
		}
		if err := work.Wait(); err != nil {
			return err
		}
		files = files[n:]
	}
	return ctx.Err()
}

// file loads one file.
func (r *restorer) file(ctx context.Context, database string, f dbdump.File) error {
	what := r.from + "." + f.Table
	if f.Table == "" {
		what = f.Name
	}
	if f.Table != "" && r.o.Progress != nil {
		r.o.Progress.Table(what, false)
	}
	file, err := r.fsys.Open(f.Name)
	if err != nil {
		return err
	}
	defer file.Close()
	in := io.Reader(&counting{from: file, progress: r.o.Progress})
	switch {
	case f.Stage == stageTables && database != r.from:
		if in, err = renameInHead(in, r.from, database); err != nil {
			return err
		}
	case f.Stage == stageTriggers:
		text, err := readAll(in, f.Name)
		if err != nil {
			return err
		}
		if text, err = unqualifyTriggers(text); err != nil {
			return err
		}
		in = bytes.NewReader(text)
	}
	if err := r.s.load(ctx, r.client, database, in); err != nil {
		return loadError(what, err)
	}
	if f.Stage == stageEvents && r.into != r.home {
		if err := r.disableEvents(ctx, database); err != nil {
			return err
		}
	}
	if f.Table != "" && r.o.Progress != nil {
		r.o.Progress.Table(what, true)
	}
	return nil
}

// maxHead bounds the definition of a table, in bytes: it has at most some 4,000 columns.
const maxHead = 4 << 20

// renameInHead changes the database of sequences in the definition of a table.
func renameInHead(in io.Reader, from, to string) (io.Reader, error) {
	head := make([]byte, 0, 64<<10)
	mark := []byte("\n-- Dumping data for table `")
	for {
		if len(head) == cap(head) {
			head = slices.Grow(head, len(head))
		}
		n, err := in.Read(head[len(head):cap(head)])
		head = head[:len(head)+n]
		i := bytes.Index(head, mark)
		if i < 0 && err == nil && len(head) < maxHead {
			continue
		}
		if err != nil && err != io.EOF {
			return nil, err
		}
		if i < 0 {
			i = min(len(head), maxHead)
		}
		return io.MultiReader(strings.NewReader(renameSequence(string(head[:i]), from, to)), bytes.NewReader(head[i:]), in), nil
	}
}

const identifier = "(?:`(?:[^`]|``)+`|[\\w$\\x{80}-\\x{10FFFF}]+)"

var (
	triggerHead = lazyregexp.New(`(?i)(/\*!50003\s+TRIGGER\s+(?:IF\s+NOT\s+EXISTS\s+)?)(?:` + identifier + `\s*\.\s*)?(` + identifier +
		`\s*(?:BEFORE|AFTER)\s+(?:INSERT|UPDATE|DELETE)\s+ON\s*)(?:` + identifier + `\s*\.\s*)?(` + identifier + `\s*FOR\s)`)
	triggerAny = lazyregexp.New(`(?i)/\*!50003\s+TRIGGER\b`)
)

// unqualifyTriggers takes the names of databases out of the heads of triggers, which are
// as their authors wrote them: one that names its database would be made there.
func unqualifyTriggers(text []byte) ([]byte, error) {
	if heads, all := len(triggerHead().FindAllIndex(text, -1)), len(triggerAny().FindAllIndex(text, -1)); heads != all {
		return nil, &dbdump.Error{Err: fmt.Errorf("the heads of %d of %d triggers are not understood, and may name another database", all-heads, all),
			Hint: "restore the tables alone (--table), and load schema/triggers.sql by hand"}
	}
	return triggerHead().ReplaceAll(text, []byte("$1$2$3")), nil
}

// counting counts what is read of a dump.
type counting struct {
	from     io.Reader
	progress dbdump.Progress
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.from.Read(p)
	if c.progress != nil {
		c.progress.Add(int64(n))
	}
	return n, err
}

// load runs a client that executes what it reads, in a database; "" for none. In binary
// mode a client takes what it reads for statements only, never for commands to itself.
func (s *session) load(ctx context.Context, client program, database string, in io.Reader) error {
	args := []string{"--batch", "--binary-mode", "--default-character-set=utf8mb4", "--max-allowed-packet=1G"}
	if database != "" {
		args = append(args, "--database="+database)
	}
	child := s.child(client, args...)
	child.Stdin = in
	return child.Run(ctx)
}

// What to do about a server that has no room, or is gone.
const (
	fullHint = "the disk of the server is full, or the table has reached its largest size"
	goneHint = "the server has ended, or has closed the connection: look into its log"
)

func loadError(what string, err error) error {
	if err == nil {
		return nil
	}
	hint := ""
	for _, h := range []struct{ said, hint string }{
		{"ERROR 1114", fullHint},
		{"ERROR 1021", fullHint},
		{"o space left", fullHint},
		{"ERROR 1044", "the account lacks a privilege; that of an administrator has all"},
		{"ERROR 1142", "the account lacks a privilege; that of an administrator has all"},
		{"ERROR 1227", "the account lacks a privilege that the message names; that of an administrator has all"},
		{"ERROR 1153", "raise max_allowed_packet of the server"},
		{"ERROR 2002", goneHint},
		{"ERROR 2003", goneHint},
		{"ERROR 2013", goneHint},
		{"ERROR 2006", "the server has ended, or has closed the connection: look into its log, and at its max_allowed_packet"},
		{"ERROR 2026", goneHint},
		{"ERROR 1273", "the dump is of a newer server, whose collation this one does not know"},
		{"ERROR 1115", "the dump is of a newer server, whose character set this one does not know"},
	} {
		if strings.Contains(err.Error(), h.said) {
			hint = h.hint
			break
		}
	}
	return &dbdump.Error{Err: fmt.Errorf("load %s: %w", printable(what), err), Hint: hint}
}

// abandonTimeout bounds the removal of what has failed.
const abandonTimeout = 5 * time.Minute

// abandon removes databases that are not whole, and returns the error that was the cause.
func (r *restorer) abandon(cause error, made ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), abandonTimeout)
	defer cancel()
	for _, name := range made {
		err := r.exec(ctx, "DROP DATABASE IF EXISTS "+quote(name))
		if err == nil {
			continue
		}
		hint := fmt.Sprintf("the database %s is not whole: DROP DATABASE %s;", printable(name), quote(name))
		if name == r.into {
			hint = fmt.Sprintf("the database %s has all tables, and not all of the rest: DROP DATABASE %s;", printable(name), quote(name))
		}
		if h := dbdump.Hint(cause); h != "" {
			hint = h + "; " + hint
		}
		cause = &dbdump.Error{Err: fmt.Errorf("%w; and %s could not be removed: %w", cause, printable(name), err), Hint: hint}
	}
	return cause
}

// exec runs a statement without checks of foreign keys, which may come from other
// databases.
func (r *restorer) exec(ctx context.Context, statement string) error {
	conn, err := r.s.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.ExecContext(ctx, "SET SESSION foreign_key_checks = 0"); err != nil {
		return err
	}
	_, err = conn.ExecContext(ctx, statement)
	return err
}

// check says what of the dump is not in the new database.
func (r *restorer) check(ctx context.Context) error {
	have, err := r.s.strings1(ctx, "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = ?", r.into)
	if err != nil {
		return fmt.Errorf("list what was restored: %w", err)
	}
	for _, f := range r.tables {
		if !slices.ContainsFunc(have, func(name string) bool { return sameTable(name, f.Table) }) {
			return fmt.Errorf("the table %s is not there after the restore", printable(f.Table))
		}
	}
	views := 0
	for _, f := range r.rest {
		if f.Stage > stageViews && f.Stage < stageTriggers {
			views++
		}
	}
	if want := len(r.tables) + views; len(have) != want {
		return fmt.Errorf("%d tables and views are there after the restore, and the dump has %d", len(have), want)
	}
	return nil
}

func (r *restorer) disableEvents(ctx context.Context, database string) error {
	names, err := r.s.strings1(ctx, "SELECT EVENT_NAME FROM information_schema.EVENTS WHERE EVENT_SCHEMA = ? AND STATUS = 'ENABLED'", database)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := r.exec(ctx, "ALTER EVENT "+quote(database)+"."+quote(name)+" DISABLE"); err != nil {
			return fmt.Errorf("disable the event %s: %w", printable(name), err)
		}
	}
	r.events = names
	if len(names) > 0 {
		r.o.warn("events are disabled, as this is another database than %s: %s", printable(r.home), printable(strings.Join(names, ", ")))
	}
	return nil
}

// warnNames tells of what names the old database, and still does.
func (r *restorer) warnNames() {
	if r.into == r.from {
		return
	}
	named := mentions(r.from)
	for _, f := range r.rest {
		if f.Stage == stagePlaceholders {
			continue
		}
		text, err := readSmall(r.fsys, f.Name)
		if err == nil && f.Stage == stageTriggers {
			text, err = unqualifyTriggers(text)
		}
		if err == nil && named.Match(text) {
			r.o.warn("%s names the database %s: what it reads or writes there, it does there still", printable(f.Name), printable(r.from))
		}
	}
}

// mentions matches a database's name before a dot.
func mentions(database string) *regexp.Regexp {
	return regexp.MustCompile("(?i)(?:" + regexp.QuoteMeta(quote(database)) + `|(?:^|[^\w$` + "`" + `])` + regexp.QuoteMeta(database) + `)\s*\.`)
}

// warnDefiners tells of accounts in whose name something would run, and that are not
// there.
func (r *restorer) warnDefiners(ctx context.Context) {
	var missing []string
	for _, list := range []string{
		"SELECT DEFINER FROM information_schema.VIEWS WHERE TABLE_SCHEMA = ? AND SECURITY_TYPE = 'DEFINER'",
		"SELECT DEFINER FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = ?",
		"SELECT DEFINER FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA = ? AND SECURITY_TYPE = 'DEFINER'",
		"SELECT DEFINER FROM information_schema.EVENTS WHERE EVENT_SCHEMA = ?",
	} {
		definers, err := r.s.strings1(ctx, list, r.into)
		if err != nil {
			return
		}
		for _, d := range definers {
			user, host, _ := cutLast(d, "@")
			n := 0
			if err := r.s.db.QueryRowContext(ctx, "SELECT COUNT(*) FROM mysql.user WHERE User = ? AND Host = ?", user, host).Scan(&n); err != nil {
				return // the account may not know
			}
			if n == 0 && !slices.Contains(missing, d) {
				missing = append(missing, d)
			}
		}
	}
	if len(missing) > 0 {
		r.o.warn("views, routines, triggers or events run as accounts that this server does not have: %s; make them, or restore the accounts of a dump that has them", printable(strings.Join(missing, ", ")))
	}
}

var errExists = errors.New("the database exists")

func (s *session) mustNotExist(ctx context.Context, name string) error {
	n := 0
	if err := s.db.QueryRowContext(ctx, "SELECT COUNT(*) FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = ?", name).Scan(&n); err != nil {
		return fmt.Errorf("look for the database %s: %w", printable(name), err)
	}
	if n > 0 {
		return &dbdump.Error{Err: fmt.Errorf("restore into %s: %w", printable(name), errExists), Hint: "give another name (--into NAME), or replace it (--replace)"}
	}
	return nil
}

func chooseDatabase(m *dbdump.Manifest, name string) (*dbdump.Database, error) {
	var names []string
	for i := range m.Databases {
		if m.Databases[i].Name == name || name == "" && len(m.Databases) == 1 {
			return &m.Databases[i], nil
		}
		names = append(names, printable(m.Databases[i].Name))
	}
	if name == "" {
		return nil, &dbdump.Error{Err: errors.New("the dump has several databases"), Hint: "choose one: " + strings.Join(names, ", ")}
	}
	return nil, &dbdump.Error{Err: fmt.Errorf("the dump has no database %s", printable(name)), Hint: "it has: " + strings.Join(names, ", ")}
}

func readManifest(fsys fs.FS) (*dbdump.Manifest, error) {
	m, err := dbdump.ReadManifest(fsys)
	if err != nil {
		return nil, err
	}
	if m.Kind != Kind {
		return nil, fmt.Errorf("this is a dump of kind %q, not of MySQL or MariaDB", printable(m.Kind))
	}
	return m, nil
}

// checkName says whether a database may be made under a name.
func checkName(name string) error {
	switch {
	case strings.Contains(systemDatabases, "'"+strings.ToLower(name)+"'"):
		return fmt.Errorf("%s is the server's own database: nothing is restored into it", name)
	case name == "" || len([]rune(name)) > 64 || strings.HasSuffix(name, " ") || strings.ContainsRune(name, 0):
		return fmt.Errorf("%q can be no database's name: 1 to 64 characters, no space at the end", printable(name))
	}
	return nil
}

// What a database is called while it is made.
const restoring, replaying = "__restoring_", "__replaying_"

// workName is a name that says that a database is not finished.
func workName(name, what string, now time.Time) string {
	suffix := what + now.UTC().Format("20060102150405")
	r := []rune(name)
	return string(r[:min(len(r), 64-len(suffix))]) + suffix
}

// maxSmall bounds files that are read as a whole: definitions, not data.
const maxSmall = 64 << 20

func readSmall(fsys fs.FS, name string) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f, name)
}

func readAll(r io.Reader, name string) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxSmall+1))
	if err == nil && len(text) > maxSmall {
		err = fmt.Errorf("%s is larger than %d MiB", printable(name), maxSmall>>20)
	}
	return text, err
}

func rightsHint(err error) string {
	if isServerError(err, errAccessDenied, errAccessDeniedDB, errNotAllowed) {
		return "a restore makes databases: use an account that may (--user root)"
	}
	return ""
}
