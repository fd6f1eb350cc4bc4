package postgres

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/dbdump"
	"github.com/SP1R4/BackupHandler/v3/internal/lazyregexp"
)

// RestoreOptions say what is restored, and where to.
type RestoreOptions struct {
	Database string // of the dump; "": the only one
	Into     string // name that the database gets; "": its own
	// Replace lets it take the place of a database that exists, once it is whole.
	Replace bool
	// Tables are those whose rows are restored, as the manifest calls them; nil: all.
	// With some only, foreign keys are left out, as what they refer to may be missing.
	Tables []string
	// CreateRoles makes roles that are missing, which cannot log in.
	CreateRoles bool
	// Parallel is how many tables are loaded side by side; 0: one for each processor,
	// four at most.
	Parallel int

	Progress dbdump.Progress // nil: nobody is told
	Warn     func(string)    // what is not an error, one line; nil: nobody
}

// restoringPrefix begins the name of a database that is not complete yet.
const restoringPrefix = "restoring_"

// cleanupTime bounds how long it may take to remove what a restore that failed has made.
const cleanupTime = time.Minute

// Restore restores a database of a dump. It is loaded under a temporary name, and gets its
// own when it is whole; what was made is removed if it fails.
func Restore(ctx context.Context, s *Server, fsys fs.FS, o RestoreOptions) error {
	m, err := readDump(fsys)
	if err != nil {
		return err
	}
	var d *dbdump.Database
	var names []string
	for i := range m.Databases {
		names = append(names, strconv.Quote(m.Databases[i].Name))
		if m.Databases[i].Name == o.Database || o.Database == "" && len(m.Databases) == 1 {
			d = &m.Databases[i]
		}
	}
	if d == nil {
		err := fmt.Errorf("the dump has no database %q", o.Database)
		if o.Database == "" {
			err = errors.New("the dump has several databases")
		}
		return &dbdump.Error{Err: err, Hint: "it has " + strings.Join(names, ", ") + ": name one"}
	}
	r := &restore{server: s, fsys: fsys, dump: m, database: d, options: &o, into: cmp.Or(o.Into, d.Name), warn: warner(o.Warn)}
	if err := r.run(ctx); err != nil {
		return fmt.Errorf("restore database %q: %w", d.Name, err)
	}
	return nil
}

// RestoreAll restores all of a dump to a server: roles and tablespaces, if the dump has
// them, and each database under its own name. The database "postgres", which every server
// has, is replaced if it is empty. It stops at the first that fails; those before it stay.
// Database, Into and Tables of the options are not looked at.
func RestoreAll(ctx context.Context, s *Server, fsys fs.FS, o RestoreOptions) error {
	m, err := readDump(fsys)
	if err != nil {
		return err
	}
	for _, f := range m.Files {
		if f.Name == globalsName {
			if err := s.restoreGlobals(ctx, fsys, &f, warner(o.Warn)); err != nil {
				return fmt.Errorf("restore roles and tablespaces: %w", err)
			}
		}
	}
	o.Into, o.Tables = "", nil
	for _, d := range m.Databases {
		o.Database = d.Name
		each := o
		if d.Name == "postgres" && !o.Replace { // every server has one
			if each.Replace, err = s.empty(ctx, d.Name); err != nil {
				return err
			}
		}
		if err := Restore(ctx, s, fsys, each); err != nil {
			return err
		}
	}
	return nil
}

// empty says whether a database has nothing but what every one has.
func (s *Server) empty(ctx context.Context, database string) (bool, error) {
	t, err := s.connect(ctx, database)
	if err != nil {
		return false, err
	}
	defer t.close()
	n, err := t.value(`SELECT (SELECT count(*) FROM pg_namespace WHERE nspname NOT IN ('public', 'information_schema') AND nspname !~ '^pg_')
	+ (SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace) + (SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace)
	+ (SELECT count(*) FROM pg_type WHERE typnamespace = 'public'::regnamespace) + (SELECT count(*) FROM pg_extension WHERE extname <> 'plpgsql') + (SELECT count(*) FROM pg_largeobject_metadata)`)
	return n == "0", err
}

func readDump(fsys fs.FS) (*dbdump.Manifest, error) {
	m, err := dbdump.ReadManifest(fsys)
	if err != nil {
		return nil, &dbdump.Error{Err: err, Hint: "this is not a dump, or not a complete one"}
	}
	if m.Kind != "postgresql" {
		return nil, &dbdump.Error{Err: fmt.Errorf("this is a dump of kind %q, not of PostgreSQL", m.Kind), Hint: "choose another snapshot"}
	}
	return m, nil
}

// A restore is one of a database.
type restore struct {
	server   *Server
	fsys     fs.FS
	dump     *dbdump.Manifest
	database *dbdump.Database
	options  *RestoreOptions
	into     string
	warn     func(string)

	record  databaseRecord
	temp    string // its name until it is whole
	psql    *program
	noSpace bool // tablespaces are missing
	once    sync.Mutex
}

func (r *restore) run(ctx context.Context) (err error) {
	if len(r.into) > 63 || r.into == "" || strings.ContainsRune(r.into, 0) {
		return &dbdump.Error{Err: fmt.Errorf("%q cannot be the name of a database", r.into), Hint: "it has 1 to 63 bytes"}
	}
	b, err := fs.ReadFile(r.fsys, dbdump.FileName(r.database.Name)+"/"+databaseRec)
	if err == nil {
		err = json.Unmarshal(b, &r.record)
	}
	if err != nil {
		return fmt.Errorf("read the description of the database: %w", err)
	}
	files, err := r.files()
	if err != nil {
		return err
	}
	if r.psql, err = r.server.find(ctx, "psql", 0); err != nil {
		return err
	}
	t, err := r.connect(ctx)
	if err != nil {
		return err
	}
	defer t.close()
	if err := r.look(t); err != nil {
		return err
	}
	r.temp = restoringPrefix + strings.ToLower(rand.Text()[:10])
	if err := t.exec(r.createSQL()); err != nil {
		return err
	}
	// The session may end with the context; what was made has to go anyhow.
	defer func() {
		if err == nil {
			return
		}
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
		defer cancel()
		if dropErr := r.drop(clean, r.temp); dropErr != nil {
			r.warn(fmt.Sprintf("the database %[1]q is left behind, and is not whole: DROP DATABASE %[1]s; (%[2]v)", r.temp, dropErr))
		}
	}()
	if err := t.exec("ALTER DATABASE " + ident(r.temp) + " OWNER TO " + ident(r.record.Owner)); err != nil {
		return err
	}
	for stage := stagePre; stage <= stagePost; stage++ {
		if err := r.stage(ctx, files, stage); err != nil {
			return err
		}
	}
	if err := t.exec(r.propertiesSQL()); err != nil {
		return err
	}
	if err := r.roleSettings(t); err != nil {
		return err
	}
	return r.publish(t)
}

// connect opens a session in a database that is not the one to be replaced.
func (r *restore) connect(ctx context.Context) (*session, error) {
	database := cmp.Or(r.server.Database, "postgres")
	if database == r.into {
		database = "template1"
	}
	return r.server.connect(ctx, database)
}

// files are those to be loaded.
func (r *restore) files() ([]dbdump.File, error) {
	missing := map[string]bool{}
	for _, t := range r.options.Tables {
		missing[t] = true
	}
	var files []dbdump.File
	for _, f := range r.database.Files {
		if strings.HasSuffix(f.Name, "/"+databaseRec) || r.options.Tables != nil && f.Stage == stageData && !missing[f.Table] {
			continue
		}
		files = append(files, f)
	}
	for _, f := range files {
		delete(missing, f.Table)
	}
	for t := range missing {
		return nil, &dbdump.Error{Err: fmt.Errorf("the dump has no table %q", t), Hint: "tables are named SCHEMA.TABLE, as in public.orders"}
	}
	// The largest first: then none of them is waited for alone at the end.
	slices.SortStableFunc(files, func(a, b dbdump.File) int {
		return cmp.Or(cmp.Compare(a.Stage, b.Stage), cmp.Compare(b.Bytes, a.Bytes))
	})
	return files, nil
}

// look checks what would fail later.
func (r *restore) look(t *session) error {
	info, err := t.info()
	if err != nil {
		return err
	}
	if versionOf(r.dump.Server) > info.major() {
		return &dbdump.Error{Err: fmt.Errorf("the dump is of %s, and the server is an older %s", r.dump.Server, info.Text), Hint: "restore to a server of the same version, or a later one"}
	}
	exists, err := t.value("SELECT count(*) FROM pg_database WHERE datname = " + literal(r.into))
	if err != nil {
		return err
	}
	if exists != "0" && !r.options.Replace {
		return &dbdump.Error{Err: fmt.Errorf("there is a database %q on the server already", r.into), Hint: "restore into another name, or say that this one is to be replaced"}
	}
	missing, err := t.missing(r.record.Roles, "pg_roles", "rolname")
	if err != nil {
		return err
	}
	if len(missing) > 0 && !r.options.CreateRoles {
		return &dbdump.Error{Err: fmt.Errorf("the server lacks roles that own something or have rights: %s", strings.Join(missing, ", ")),
			Hint: "restore the roles first, or let missing ones be created"}
	}
	for _, role := range missing {
		if err := t.exec("CREATE ROLE " + ident(role)); err != nil {
			return err
		}
		r.warn(fmt.Sprintf("the role %q was missing, and is created; it cannot log in", role))
	}
	if missing, err = t.missing(r.record.Tablespaces, "pg_tablespace", "spcname"); err != nil {
		return err
	}
	if r.noSpace = len(missing) > 0; r.noSpace {
		r.warn(fmt.Sprintf("the server lacks tablespaces: %s; everything goes to the default one", strings.Join(missing, ", ")))
	}
	return nil
}

// versionOf is the major version in "PostgreSQL 15.18".
func versionOf(server string) int {
	m := majorRE().FindStringSubmatch(server)
	if m == nil {
		return 0
	}
	v, _ := strconv.Atoi(m[1]) // digits
	return v
}

var majorRE = lazyregexp.New(`^PostgreSQL (\d+)`)

// missing are the names that a catalog does not have.
func (t *session) missing(names []string, catalog, column string) (missing []string, err error) {
	for _, n := range names {
		count, err := t.value(fmt.Sprintf("SELECT count(*) FROM %s WHERE %s = %s", catalog, column, literal(n)))
		if err != nil {
			return nil, err
		}
		if count == "0" {
			missing = append(missing, n)
		}
	}
	return missing, nil
}

func (r *restore) createSQL() string {
	d := &r.record
	sql := fmt.Sprintf("CREATE DATABASE %s TEMPLATE template0 ENCODING %s LC_COLLATE %s LC_CTYPE %s",
		ident(r.temp), literal(d.Encoding), literal(d.Collate), literal(d.Ctype))
	switch d.Provider {
	case "i":
		sql += " LOCALE_PROVIDER icu ICU_LOCALE " + literal(d.Locale)
		if d.ICURules != "" {
			sql += " ICU_RULES " + literal(d.ICURules)
		}
	case "b":
		sql += " LOCALE_PROVIDER builtin BUILTIN_LOCALE " + literal(d.Locale)
	case "c":
		sql += " LOCALE_PROVIDER libc"
	}
	return sql
}

// listSettings have values that are lists of quoted names.
var listSettings = []string{"local_preload_libraries", "search_path", "session_preload_libraries", "temp_tablespaces"}

// setSQL is the SET of "name=value", as catalogs have it.
func setSQL(setting string) string {
	name, value, _ := strings.Cut(setting, "=")
	if !slices.Contains(listSettings, strings.ToLower(name)) || value == "" {
		value = literal(value)
	}
	parts := strings.Split(name, ".") // "extension.setting"
	for i := range parts {
		parts[i] = ident(parts[i])
	}
	return "SET " + strings.Join(parts, ".") + " TO " + value
}

// roleSettings sets what holds for roles in the database. What cannot be set is warned of:
// the database is whole without.
func (r *restore) roleSettings(t *session) error {
	for _, s := range r.record.RoleSettings {
		missing, err := t.missing([]string{s.Role}, "pg_roles", "rolname")
		if err != nil {
			return err
		}
		if len(missing) > 0 {
			r.warn(fmt.Sprintf("the server lacks the role %q: its settings in the database are left out", s.Role))
			continue
		}
		for _, setting := range s.Settings {
			why, err := t.try(fmt.Sprintf("ALTER ROLE %s IN DATABASE %s %s", ident(s.Role), ident(r.temp), setSQL(setting)))
			if err != nil {
				return err
			}
			if why != "" {
				name, _, _ := strings.Cut(setting, "=")
				r.warn(fmt.Sprintf("the setting %s of the role %q in the database is left out: %s", name, s.Role, why))
			}
		}
	}
	return nil
}

// propertiesSQL sets what a database has beside its contents.
func (r *restore) propertiesSQL() string {
	d, on := &r.record, ident(r.temp)
	var b strings.Builder
	fmt.Fprintf(&b, "ALTER DATABASE %s CONNECTION LIMIT %d;\n", on, d.ConnectionLimit)
	if d.Comment != "" {
		fmt.Fprintf(&b, "COMMENT ON DATABASE %s IS %s;\n", on, literal(d.Comment))
	}
	for _, s := range d.Settings {
		fmt.Fprintf(&b, "ALTER DATABASE %s %s;\n", on, setSQL(s))
	}
	if !d.Public {
		fmt.Fprintf(&b, "REVOKE ALL ON DATABASE %s FROM PUBLIC; REVOKE ALL ON DATABASE %s FROM %s;\n", on, on, ident(d.Owner))
		for _, g := range d.Rights {
			to, grantable := "PUBLIC", ""
			if g.Role != "" {
				to = ident(g.Role)
			}
			if g.Grantable {
				grantable = " WITH GRANT OPTION"
			}
			fmt.Fprintf(&b, "GRANT %s ON DATABASE %s TO %s%s;\n", g.Right, on, to, grantable)
		}
	}
	return b.String() + "SELECT"
}

// stage loads all files of a stage, several at once.
func (r *restore) stage(ctx context.Context, files []dbdump.File, stage int) error {
	work, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	slots := make(chan struct{}, cmp.Or(r.options.Parallel, min(runtime.NumCPU(), 4)))
	for _, f := range files {
		if f.Stage != stage {
			continue
		}
		slots <- struct{}{}
		if work.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			r.progress(f.Table, false)
			if err := r.load(work, &f); err != nil {
				cancel(fmt.Errorf("load %s: %w", f.Name, err))
				return
			}
			r.progress(f.Table, true)
		})
	}
	wg.Wait()
	if work.Err() != nil {
		return context.Cause(work)
	}
	return nil
}

func (r *restore) progress(table string, done bool) {
	if r.options.Progress != nil && table != "" {
		r.once.Lock()
		defer r.once.Unlock()
		r.options.Progress.Table(table, done)
	}
}

// load loads one file. Data is loaded in one transaction, of which nothing stays if it
// fails.
func (r *restore) load(ctx context.Context, f *dbdump.File) error {
	file, err := r.fsys.Open(f.Name)
	if err != nil {
		return err
	}
	defer file.Close()
	var from io.Reader = &counted{r: file, want: f.Bytes, add: func(n int64) {
		if r.options.Progress != nil {
			r.once.Lock()
			defer r.once.Unlock()
			r.options.Progress.Add(n)
		}
	}}
	if drop := r.drops(f); drop != nil {
		out, in := io.Pipe()
		defer out.Close()
		go func(from io.Reader) { in.CloseWithError(filter(in, from, drop)) }(from)
		from = out
	}
	return r.server.load(ctx, r.psql, r.temp, from, f.Stage == stageData)
}

// drops says which lines of a file are left out; nil: none.
func (r *restore) drops(f *dbdump.File) func([]byte) bool {
	foreign := r.options.Tables != nil && f.Stage == stagePost
	if f.Stage == stageData || !r.noSpace && !foreign {
		return nil
	}
	skip, frame := false, false
	return func(line []byte) bool {
		if r.noSpace && bytes.HasPrefix(line, []byte("SET default_tablespace = ")) {
			return true
		}
		if foreign {
			// In the frame of its comment stands what follows.
			switch {
			case string(line) == "--\n":
				if frame = !frame; frame {
					skip = false
				}
			case frame:
				skip = bytes.Contains(line, []byte("; Type: FK CONSTRAINT; Schema: "))
			}
		}
		return skip
	}
}

// A counted reader fails if the file is not as long as it should be: what reads it must
// not take that for its end.
type counted struct {
	r         io.Reader
	got, want int64
	add       func(int64)
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.got += int64(n)
	if n > 0 {
		c.add(int64(n))
	}
	if err == io.EOF && c.got != c.want {
		err = fmt.Errorf("the file has %d bytes, not %d as when it was dumped", c.got, c.want)
	}
	return n, err
}

// restricts says whether a psql can be told to obey no commands for itself within what it
// reads, by which a server could make another machine run programs (CVE-2025-8714).
func restricts(p *program) bool {
	since := map[int]int{13: 22, 14: 19, 15: 14, 16: 10, 17: 6}
	minor, known := since[p.major()]
	return p.major() >= 18 || known && p.version%10000 >= minor
}

// load runs SQL from a file of a dump in a database. once: in one transaction.
func (s *Server) load(ctx context.Context, psql *program, database string, from io.Reader, once bool) error {
	args := []string{"-X", "-w", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-f", "-"}
	if once {
		args = append(args, "--single-transaction")
	}
	if restricts(psql) {
		key := rand.Text()
		from = io.MultiReader(strings.NewReader("\\restrict "+key+"\n"), from, strings.NewReader("\\unrestrict "+key+"\n"))
	}
	return s.run(ctx, psql, database, from, nil, args...)
}

// startingRE is what a server says that lets nobody in yet.
var startingRE = lazyregexp.New(`the database system is (?:starting up|in recovery mode|not yet accepting connections)`)

// drop removes a database of ours. A server that recovers from a crash is waited for: it
// may be why there is something to remove.
func (r *restore) drop(ctx context.Context, name string) error {
	t, err := r.connect(ctx)
	for err != nil && startingRE().MatchString(err.Error()) && ctx.Err() == nil {
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
		}
		t, err = r.connect(ctx)
	}
	if err != nil {
		return err
	}
	defer t.close()
	return t.dropDatabase(name)
}

func (t *session) dropDatabase(name string) error {
	if err := t.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = " + literal(name)); err != nil {
		return err
	}
	info, err := t.info()
	if err != nil {
		return err
	}
	force := ""
	if info.major() >= 13 {
		force = " WITH (FORCE)"
	}
	return t.exec("DROP DATABASE IF EXISTS " + ident(name) + force)
}

// publish gives the database its name.
func (r *restore) publish(t *session) error {
	rename := func(from, to string) error {
		return t.exec("ALTER DATABASE " + ident(from) + " RENAME TO " + ident(to))
	}
	exists, err := t.value("SELECT count(*) FROM pg_database WHERE datname = " + literal(r.into))
	if err != nil {
		return err
	}
	if exists == "0" || !r.options.Replace {
		return rename(r.temp, r.into) // fails if it was made meanwhile
	}
	old := strings.Replace(r.temp, restoringPrefix, "replaced_", 1)
	// Renaming waits for sessions that are ending, five seconds.
	err = t.exec(fmt.Sprintf(`ALTER DATABASE %[1]s ALLOW_CONNECTIONS false;
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %[2]s;
BEGIN;
ALTER DATABASE %[1]s RENAME TO %[3]s;
ALTER DATABASE %[4]s RENAME TO %[1]s;
COMMIT`, ident(r.into), literal(r.into), ident(old), ident(r.temp)))
	if err != nil {
		// The session has ended; the old one lets its users in again.
		if again, againErr := r.connect(context.Background()); againErr == nil {
			again.exec("ALTER DATABASE " + ident(r.into) + " ALLOW_CONNECTIONS true")
			again.close()
		}
		return err
	}
	if err := t.dropDatabase(old); err != nil {
		r.warn(fmt.Sprintf("the database that was replaced is left as %[1]q: DROP DATABASE %[1]s; (%[2]v)", old, err))
	}
	return nil
}

// restoreGlobals creates roles and tablespaces. Those that exist stay, with the
// properties of the dump.
func (s *Server) restoreGlobals(ctx context.Context, fsys fs.FS, f *dbdump.File, warn func(string)) error {
	psql, err := s.find(ctx, "psql", 0)
	if err != nil {
		return err
	}
	b, err := fs.ReadFile(fsys, f.Name)
	if err != nil {
		return err
	}
	if int64(len(b)) != f.Bytes {
		return fmt.Errorf("%s has %d bytes, not %d as when it was dumped", f.Name, len(b), f.Bytes)
	}
	c, err := s.child(psql, "", "-X", "-w", "-q", "-A", "-t", "-f", "-")
	if err != nil {
		return err
	}
	key := rand.Text()
	text := string(b)
	if restricts(psql) {
		text = "\\restrict " + key + "\n" + text + "\\unrestrict " + key + "\n"
	}
	c.Stdin = strings.NewReader(text)
	var failed []string
	c.OnLine = func(line string) {
		if strings.Contains(line, "ERROR:") && !strings.Contains(line, "already exists") {
			failed = append(failed, prefixRE().ReplaceAllString(line, ""))
		}
	}
	if err := s.explain(c.Run(ctx)); err != nil {
		return err
	}
	for _, line := range failed {
		warn("roles and tablespaces: " + line)
	}
	return nil
}
