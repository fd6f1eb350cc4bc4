package mysql

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/dbdump"
)

// DumpOptions say what is dumped.
type DumpOptions struct {
	// Databases are names, or "*" alone: all but those of the server itself.
	Databases []string
	// Exclude are patterns, database.table, with * and ?, of tables and views to leave
	// out.
	Exclude                                []string
	SkipRoutines, SkipTriggers, SkipEvents bool
	Grants                                 bool // accounts and what they may, in grants.sql
	// LockTables dumps each database under a read lock of its tables, instead of all in
	// one transaction: for tables that know no transactions.
	LockTables bool
	// RequirePosition makes a dump fail that cannot record its position in the binary
	// log. Without, it is recorded where the account may know it.
	RequirePosition bool
	// ExtraArgs are more arguments of the dump program. Those that the dump depends on
	// stay as they are.
	ExtraArgs []string

	Progress dbdump.Progress                  // nil: nobody is told
	Warn     func(format string, args ...any) // what its owner should know; nil: nobody is told

	position bool // the account may know it
	noData   bool
}

func (o *DumpOptions) warn(format string, args ...any) {
	if o.Warn != nil {
		o.Warn(format, args...)
	}
}

// The stages of a dump: what is loaded one after the other. Views may use routines, and
// routines are not looked at before they run.
const (
	stageDatabase = iota
	stageSequences
	stageTables
	stageRoutines
	stagePlaceholders
	stageTriggers   = 1 << 20
	stageEvents     = stageTriggers + 1
	stageViews      = stagePlaceholders // and one more for each: none while another is replaced
	grantsFile      = "grants.sql"
	dirSchema       = "schema/"
	systemDatabases = "'mysql','information_schema','performance_schema','sys'"
)

// An object is a table, a sequence or a view of a server.
type object struct {
	database, name string
	view           bool
	engine         string
}

// Dump writes databases of a server to a sink, and last the manifest.
//
// The files of a database NAME are, in its directory: TABLE.sql for each table and
// sequence, views/VIEW.sql, and in schema/ what belongs to none: database.sql (its
// character set), routines.sql, placeholders.sql (for views that need each other),
// triggers.sql, events.sql. Each can be loaded by itself into an empty database.
//
// All tables are dumped in one transaction, and show one moment, in all databases of
// the call; tables without transactions do not, and are warned of. Routines, triggers
// and events are read right after.
func Dump(ctx context.Context, server Server, to dbdump.Sink, o DumpOptions) (*dbdump.Manifest, error) {
	m := &dbdump.Manifest{Kind: Kind, Address: server.Address(), Start: time.Now()}
	s, err := open(ctx, server)
	if err != nil {
		return nil, err
	}
	defer s.close()
	dump, err := s.find(ctx, dumpNames)
	if err != nil {
		return nil, err
	}
	m.Server, m.Program = s.name(), dump.version
	databases, err := s.databases(ctx, o.Databases)
	if err != nil {
		return nil, err
	}
	before, excluded, err := s.objects(ctx, databases, o.Exclude)
	if err != nil {
		return nil, err
	}
	hasViews := func(db string) bool {
		return slices.ContainsFunc(before, func(x object) bool { return x.view && x.database == db })
	}
	if err := s.checkDump(ctx, &o, databases, hasViews); err != nil {
		return nil, err
	}
	logs, err := s.hasLogs(ctx)
	if err != nil {
		return nil, err
	}
	if o.RequirePosition && !logs {
		return nil, &dbdump.Error{Err: errors.New("the server writes no binary log, and the dump should record its position in it"),
			Hint: "switch the log on in the server (log_bin), or set binlog_position = False"}
	}
	s.warnEngines(&o, before)

	args := dumpArgs(dump, &o, logs && o.position)
	for _, x := range excluded {
		args = append(args, "--ignore-table="+x.database+"."+x.name)
	}
	cut := &cutter{sink: to, progress: o.Progress, known: s.lookup(ctx, before)}
	child := s.child(dump, append(append(slices.Clone(o.ExtraArgs), args...), append([]string{"--databases", "--"}, databases...)...)...)
	child.Stdout = cut
	if err := child.Run(ctx); err != nil {
		return nil, dumpError(err)
	}
	if !cut.complete {
		return nil, fmt.Errorf("%s has ended in the middle of the dump", baseName(dump.path))
	}
	if err := s.compare(ctx, cut, databases, before, &o); err != nil {
		return nil, err
	}
	if m.Position = cut.logPosition(); m.Position != nil {
		s.addGTID(ctx, m.Position)
	} else if o.RequirePosition {
		return nil, fmt.Errorf("%s has not said at which position of the binary log the dump is", baseName(dump.path))
	}
	for _, db := range databases {
		i := slices.IndexFunc(cut.dbs, func(d *cutDatabase) bool { return d.name == db })
		if i < 0 {
			return nil, fmt.Errorf("the database %s is not in the dump", printable(db))
		}
		files, err := s.dumpSchema(ctx, dump, to, &o, cut.dbs[i], excluded)
		if err != nil {
			return nil, err
		}
		m.Databases = append(m.Databases, dbdump.Database{Name: db, Files: files})
	}
	if o.Grants {
		f, err := s.dumpGrants(ctx, to)
		if err != nil {
			return nil, err
		}
		m.Files = append(m.Files, f)
	}
	m.End = time.Now()
	return m, m.Write(to)
}

// dumpArgs are those of the run that has the tables. They follow the user's, as the last
// one counts.
//
// Without LOCK TABLES in its file, a table can be loaded whose defaults are taken from a
// sequence; nobody else writes to a database that is being restored.
func dumpArgs(p program, o *DumpOptions, position bool) []string {
	args := []string{"--default-character-set=utf8mb4", "--hex-blob", "--tz-utc", "--quick", "--extended-insert", "--quote-names", "--comments", "--set-charset",
		"--add-drop-table", "--skip-add-locks", "--create-options", "--disable-keys", "--skip-dump-date", "--skip-triggers", "--skip-routines", "--skip-events",
		"--skip-add-drop-database", "--skip-flush-privileges", "--max-allowed-packet=1G"}
	if o.LockTables {
		args = append(args, "--skip-single-transaction", "--lock-tables")
	} else {
		args = append(args, "--single-transaction", "--skip-lock-tables")
	}
	if !p.mariaDB {
		// MySQL's programs from 8.0 on: the first would need PROCESS, the second would
		// make each file one for an empty server only, the third asks what old ones lack.
		args = append(args, "--no-tablespaces", "--set-gtid-purged=OFF", "--column-statistics=0")
	}
	if o.noData {
		args = append(args, "--no-data")
	}
	switch {
	case !position:
	case p.mariaDB:
		args = append(args, "--master-data=2")
	default:
		args = append(args, "--source-data=2")
	}
	return args
}

// databases resolves "*", and says which names are not there.
func (s *session) databases(ctx context.Context, names []string) ([]string, error) {
	if len(names) == 0 {
		return nil, errors.New("no database is named")
	}
	all, err := s.strings1(ctx, "SELECT SCHEMA_NAME FROM information_schema.SCHEMATA ORDER BY 1")
	if err != nil {
		return nil, fmt.Errorf("list the databases: %w", err)
	}
	if len(names) == 1 && names[0] == "*" {
		all = slices.DeleteFunc(all, func(db string) bool { return strings.Contains(systemDatabases, "'"+strings.ToLower(db)+"'") })
		if len(all) == 0 {
			return nil, errors.New("the server has no databases, or none that the account may see")
		}
		return all, nil
	}
	names = slices.Compact(slices.Sorted(slices.Values(names)))
	for _, name := range names {
		if name == "*" {
			return nil, errors.New(`"*" stands for all databases, and no others can be named beside it`)
		}
		if !slices.Contains(all, name) {
			return nil, &dbdump.Error{Err: fmt.Errorf("the database %s is not there, or %s may not see it", printable(name), s.server.User),
				Hint: fmt.Sprintf("it may see: %s; if the name is right: GRANT SELECT ON %s.* TO %s;", cmp.Or(printable(strings.Join(all, ", ")), "none"), quote(name), s.account(ctx))}
		}
	}
	return names, nil
}

// objects lists tables, sequences and views: those to be dumped, and those that are
// excluded.
func (s *session) objects(ctx context.Context, databases, exclude []string) (wanted, excluded []object, err error) {
	for _, db := range databases {
		rows, err := s.db.QueryContext(ctx, "SELECT TABLE_NAME, TABLE_TYPE, COALESCE(ENGINE, '') FROM information_schema.TABLES WHERE TABLE_SCHEMA = ? ORDER BY 1", db)
		if err != nil {
			return nil, nil, fmt.Errorf("list the tables of %s: %w", printable(db), err)
		}
		for rows.Next() {
			x := object{database: db}
			var kind string
			if err := rows.Scan(&x.name, &kind, &x.engine); err != nil {
				rows.Close()
				return nil, nil, err
			}
			x.view = strings.HasSuffix(kind, "VIEW")
			if slices.ContainsFunc(exclude, func(p string) bool { return glob(p, db+"."+x.name) }) {
				excluded = append(excluded, x)
			} else {
				wanted = append(wanted, x)
			}
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return nil, nil, fmt.Errorf("list the tables of %s: %w", printable(db), err)
		}
	}
	return wanted, excluded, nil
}

// glob matches with * and ?.
func glob(pattern, name string) bool {
	star, next := -1, 0
	p, n := []rune(pattern), []rune(name)
	i, j := 0, 0
	for j < len(n) {
		switch {
		case i < len(p) && p[i] == '*':
			star, next = i, j
			i++
		case i < len(p) && (p[i] == '?' || p[i] == n[j]):
			i, j = i+1, j+1
		case star >= 0:
			next++
			i, j = star+1, next
		default:
			return false
		}
	}
	for i < len(p) && p[i] == '*' {
		i++
	}
	return i == len(p)
}

// lookup answers the cutter. What was made since the list is asked for by name.
func (s *session) lookup(ctx context.Context, before []object) func(database, name string, view bool) bool {
	type key struct {
		database, name string
		view           bool
	}
	listed := map[key]bool{}
	for _, x := range before {
		listed[key{x.database, x.name, x.view}] = true
	}
	return func(database, name string, view bool) bool {
		if listed[key{database, name, view}] {
			return true
		}
		n := 0
		err := s.db.QueryRowContext(ctx, "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? AND (TABLE_TYPE LIKE '%VIEW') = ?",
			database, name, view).Scan(&n)
		return err == nil && n > 0
	}
}

// compare says which tables are not in the dump, although they were there before and
// still are.
func (s *session) compare(ctx context.Context, c *cutter, databases []string, before []object, o *DumpOptions) error {
	after, _, err := s.objects(ctx, databases, o.Exclude)
	if err != nil {
		return err
	}
	for _, x := range before {
		i := slices.IndexFunc(c.dbs, func(d *cutDatabase) bool { return d.name == x.database })
		found := i >= 0 && (c.dbs[i].tables[x.name] || c.dbs[i].views[x.name])
		if found && !o.noData && !x.view && slices.Contains(transactional, x.engine) && c.dbs[i].lacksData(x.name) {
			return &dbdump.Error{Err: fmt.Errorf("%s.%s is in the dump without its data", printable(x.database), printable(x.name)), Hint: "does extra_args leave them out?"}
		}
		if found {
			continue
		}
		what := "is not in the dump"
		if !slices.ContainsFunc(after, func(y object) bool { return y.database == x.database && y.name == x.name }) {
			what = "was dropped or renamed during the dump"
		}
		return &dbdump.Error{Err: fmt.Errorf("%s.%s %s", printable(x.database), printable(x.name), what), Hint: "run the backup again; exclude tables that come and go"}
	}
	return nil
}

// transactional are the engines whose tables show one moment in a transaction.
var transactional = []string{"InnoDB", "ROCKSDB", "TokuDB", "ndbcluster", "SEQUENCE", ""}

func (s *session) warnEngines(o *DumpOptions, objects []object) {
	if o.LockTables {
		return
	}
	byEngine := map[string][]string{}
	for _, x := range objects {
		if !x.view && !slices.Contains(transactional, x.engine) {
			byEngine[x.engine] = append(byEngine[x.engine], printable(x.database+"."+x.name))
		}
	}
	for _, engine := range slices.Sorted(mapsKeys(byEngine)) {
		tables := byEngine[engine]
		more := ""
		if len(tables) > 5 {
			tables, more = tables[:5], fmt.Sprintf(" and %d more", len(byEngine[engine])-5)
		}
		o.warn("tables without transactions (%s) may change during the dump, and not fit the others: %s%s; convert them to InnoDB, or set single_transaction = False",
			engine, strings.Join(tables, ", "), more)
	}
}

func mapsKeys[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func (s *session) hasLogs(ctx context.Context) (on bool, err error) {
	if err := s.db.QueryRowContext(ctx, "SELECT @@log_bin").Scan(&on); err != nil {
		return false, fmt.Errorf("ask for the binary log: %w", err)
	}
	return on, nil
}

// addGTID adds MariaDB's other name of a position. MySQL has none that is exact.
func (s *session) addGTID(ctx context.Context, p *dbdump.Position) {
	if s.mariaDB {
		var gtid *string
		if s.db.QueryRowContext(ctx, "SELECT BINLOG_GTID_POS(?, ?)", p.File, p.Offset).Scan(&gtid) == nil && gtid != nil {
			p.GTID = *gtid
		}
	}
}

// dumpSchema adds what belongs to no table, and returns all files of the database in
// the order in which they are loaded.
func (s *session) dumpSchema(ctx context.Context, dump program, to dbdump.Sink, o *DumpOptions, db *cutDatabase, excluded []object) ([]dbdump.File, error) {
	dir := databaseDir(db.name) + "/" + dirSchema
	var charset, collation string
	if err := s.db.QueryRowContext(ctx, "SELECT DEFAULT_CHARACTER_SET_NAME, DEFAULT_COLLATION_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = ?", db.name).Scan(&charset, &collation); err != nil {
		return nil, fmt.Errorf("ask for the character set of %s: %w", printable(db.name), err)
	}
	var files []dbdump.File
	for _, f := range db.files {
		files = append(files, *f)
	}
	add := func(name string, stage int, text string) error {
		f, err := writeFile(to, dir+name, text)
		f.Stage = stage
		files = append(files, f)
		return err
	}
	// Without a name, it is the database that a session is in.
	if err := add("database.sql", stageDatabase, fmt.Sprintf("ALTER DATABASE CHARACTER SET %s COLLATE %s;\n", charset, collation)); err != nil {
		return nil, err
	}
	if db.placeholders.Len() > 0 {
		if err := add("placeholders.sql", stagePlaceholders, strings.TrimRight(db.placeholders.String(), "\n")+"\n"); err != nil {
			return nil, err
		}
	}
	for _, part := range []struct {
		name  string
		stage int
		skip  bool
		count string
		args  []string
	}{
		{"routines.sql", stageRoutines, o.SkipRoutines, "SELECT COUNT(*) FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA = ?", []string{"--routines", "--skip-triggers", "--skip-events"}},
		{"triggers.sql", stageTriggers, o.SkipTriggers, "SELECT COUNT(*) FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = ?", []string{"--skip-routines", "--triggers", "--skip-events"}},
		{"events.sql", stageEvents, o.SkipEvents, "SELECT COUNT(*) FROM information_schema.EVENTS WHERE EVENT_SCHEMA = ?", []string{"--skip-routines", "--skip-triggers", "--events"}},
	} {
		if part.skip {
			continue
		}
		n := 0
		if err := s.db.QueryRowContext(ctx, part.count, db.name).Scan(&n); err != nil {
			return nil, fmt.Errorf("count what is for %s: %w", part.name, err)
		}
		if n == 0 {
			continue
		}
		args := []string{"--default-character-set=utf8mb4", "--no-data", "--no-create-info", "--no-create-db", "--skip-comments", "--skip-lock-tables", "--set-charset", "--quote-names", "--skip-opt", "--max-allowed-packet=1G"}
		if !dump.mariaDB {
			args = append(args, "--no-tablespaces", "--set-gtid-purged=OFF", "--column-statistics=0")
		}
		args = append(args, part.args...)
		for _, x := range excluded {
			args = append(args, "--ignore-table="+x.database+"."+x.name)
		}
		w, err := to.Create(dir + part.name)
		if err != nil {
			return nil, err
		}
		out := &withoutSandbox{to: w}
		child := s.child(dump, append(args, "--", db.name)...)
		child.Stdout = out
		err = child.Run(ctx)
		err = errors.Join(err, out.flush(), w.Close())
		if err != nil {
			return nil, dumpError(err)
		}
		files = append(files, dbdump.File{Name: dir + part.name, Stage: part.stage, Bytes: out.n})
	}
	slices.SortStableFunc(files, func(a, b dbdump.File) int {
		return cmp.Or(cmp.Compare(a.Stage, b.Stage), cmp.Compare(a.Name, b.Name))
	})
	return files, nil
}

func writeFile(to dbdump.Sink, name, text string) (dbdump.File, error) {
	w, err := to.Create(name)
	if err != nil {
		return dbdump.File{}, err
	}
	_, err = io.WriteString(w, text)
	return dbdump.File{Name: name, Bytes: int64(len(text))}, errors.Join(err, w.Close())
}

// withoutSandbox drops the first line, if it is one that clients of before 2024 do not
// know.
type withoutSandbox struct {
	to    io.Writer
	first []byte
	past  bool
	n     int64
}

func (w *withoutSandbox) Write(p []byte) (int, error) {
	if w.past {
		n, err := w.to.Write(p)
		w.n += int64(n)
		return n, err
	}
	w.first = append(w.first, p...)
	if bytes.IndexByte(w.first, '\n') < 0 && len(w.first) < 1<<10 {
		return len(p), nil
	}
	return len(p), w.flush()
}

func (w *withoutSandbox) flush() error {
	if w.past {
		return nil
	}
	w.past = true
	if line, rest, ok := bytes.Cut(w.first, []byte{'\n'}); ok && bytes.Contains(line, []byte("enable the sandbox mode")) {
		w.first = rest
	}
	n, err := w.to.Write(w.first)
	w.n, w.first = int64(n), nil
	return err
}

// dumpError adds what to do about a failure of the dump program.
func dumpError(err error) error {
	failed, ok := errors.AsType[*dbdump.ChildError](err)
	if !ok {
		return err
	}
	hint := ""
	for _, h := range []struct{ said, hint string }{
		{"1146", "a table was dropped or renamed during the dump: run the backup again; exclude tables that come and go"},
		{"1356", "a view refers to what is not there, or its definer may not see it: repair, drop or exclude it"},
		{"1370", "a view uses a routine, and the account needs EXECUTE to see the view's columns: GRANT EXECUTE ON database.*"},
		{"1412", "a table was altered during the dump: run the backup again"},
		{"2013", goneHint},
		{"2006", goneHint},
		{"Lost connection", goneHint},
		{"unknown option", "an argument of extra_args is not known to this version of the program"},
		{"unknown variable", "an argument of extra_args is not known to this version of the program"},
	} {
		if strings.Contains(failed.Last, h.said) {
			hint = h.hint
			break
		}
	}
	return &dbdump.Error{Err: err, Hint: hint}
}
