package postgres

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/dbdump"
)

// DumpOptions say what is dumped.
type DumpOptions struct {
	// Databases are names; "*" is all but templates and those that let nobody in.
	Databases []string
	// Globals adds what belongs to no database: roles and tablespaces.
	Globals bool
	// ExcludeTables are tables whose rows are left out, as SCHEMA.TABLE, or TABLE in
	// any schema; * and ? stand for others. Their definitions stay, as others may refer
	// to them.
	ExcludeTables []string
	// ExtraArgs are more arguments of pg_dump.
	ExtraArgs []string
	// Parallel is how many databases are dumped side by side; 0: one.
	Parallel int

	Warn    func(string)                 // what is not an error, one line; nil: nobody
	OnTable func(database, table string) // a table begins, from any goroutine; nil: nobody
}

// layoutArgs are arguments of pg_dump by which its output is no longer what is cut here.
var layoutArgs = []string{
	"--format", "--file", "--jobs", "--compress", "--inserts", "--column-inserts", "--attribute-inserts", "--rows-per-insert", "--clean", "--create",
	"--section", "--data-only", "--schema-only", "--statistics-only", "--restrict-key", "--snapshot", "--encoding", "--disable-dollar-quoting", "--load-via-partition-root",
	"--use-set-session-authorization", "--password", "--no-password", "--host", "--port", "--username", "--dbname", "--verbose", "--help", "--version",
	"--table", "--schema", "--exclude-table", "--exclude-schema", "--filter", "--exclude-table-data", "--table-and-children", "--exclude-table-and-children",
}

// allowedArgs are short ones that do not.
const allowedShort = "OSx"

func checkArgs(args []string) error {
	for _, a := range args {
		name, _, _ := strings.Cut(a, "=")
		bad := !strings.HasPrefix(a, "-") // a database
		if strings.HasPrefix(a, "--") {
			// pg_dump takes the beginning of a name for it.
			bad = slices.ContainsFunc(layoutArgs, func(l string) bool { return strings.HasPrefix(l, name) })
		} else if !bad {
			bad = len(a) < 2 || !strings.Contains(allowedShort, a[1:2])
		}
		if bad {
			return &dbdump.Error{Err: fmt.Errorf("pg_dump is not to be given %q: it changes what its output is", name),
				Hint: "arguments like --no-comments and --lock-wait-timeout=MS are possible; values belong behind an equals sign"}
		}
	}
	return nil
}

// A databaseRecord is what is needed to make a database anew: databaseRec.
type databaseRecord struct {
	Name            string   `json:"name"`
	Owner           string   `json:"owner"`
	Encoding        string   `json:"encoding"`
	Collate         string   `json:"collate"`
	Ctype           string   `json:"ctype"`
	Provider        string   `json:"provider,omitempty"` // "c": the system's, "i": ICU, "b": builtin; "": before version 15
	Locale          string   `json:"locale,omitempty"`   // of ICU or builtin
	ICURules        string   `json:"icu_rules,omitempty"`
	Comment         string   `json:"comment,omitempty"`
	ConnectionLimit int      `json:"connection_limit"`
	Settings        []string `json:"settings,omitempty"` // "name=value"
	// RoleSettings are those of ALTER ROLE … IN DATABASE.
	RoleSettings []roleSettings `json:"role_settings,omitempty"`
	Public       bool           `json:"default_rights"` // rights were never changed
	Rights       []rightRecord  `json:"rights,omitempty"`
	Roles        []string       `json:"roles"`       // that own something or have rights
	Tablespaces  []string       `json:"tablespaces"` // that hold something, but for the default
	Excluded     []string       `json:"excluded,omitempty"`
}

// roleSettings are what holds for a role in the database.
type roleSettings struct {
	Role     string   `json:"role"`
	Settings []string `json:"settings"` // "name=value"
}

// A rightRecord is a right to the database; Role "": everybody's.
type rightRecord struct {
	Role      string `json:"role"`
	Right     string `json:"right"`
	Grantable bool   `json:"grantable,omitempty"`
}

const recordQuery = `SELECT d.datname AS name, pg_get_userbyid(d.datdba) AS owner, pg_encoding_to_char(d.encoding) AS encoding,
	d.datcollate AS collate, d.datctype AS ctype, to_jsonb(d)->>'datlocprovider' AS provider,
	coalesce(to_jsonb(d)->>'datlocale', to_jsonb(d)->>'daticulocale') AS locale, to_jsonb(d)->>'daticurules' AS icu_rules,
	shobj_description(d.oid, 'pg_database') AS comment, d.datconnlimit AS connection_limit,
	(SELECT json_agg(v) FROM pg_db_role_setting s, unnest(s.setconfig) v WHERE s.setdatabase = d.oid AND s.setrole = 0) AS settings,
	(SELECT json_agg(json_build_object('role', r.rolname, 'settings', s.setconfig) ORDER BY r.rolname)
		FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = s.setrole WHERE s.setdatabase = d.oid) AS role_settings,
	d.datacl IS NULL AS default_rights,
	(SELECT json_agg(json_build_object('role', coalesce(r.rolname, ''), 'right', a.privilege_type, 'grantable', a.is_grantable) ORDER BY r.rolname, a.privilege_type)
		FROM aclexplode(d.datacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee) AS rights,
	(SELECT json_agg(DISTINCT r.rolname) FROM pg_roles r WHERE r.oid = d.datdba OR r.oid IN (SELECT a.grantee FROM aclexplode(d.datacl) a)
		OR r.oid IN (SELECT refobjid FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND dbid = d.oid)) AS roles,
	(SELECT json_agg(DISTINCT t.spcname) FROM pg_class c JOIN pg_tablespace t ON t.oid = c.reltablespace WHERE t.spcname <> 'pg_global') AS tablespaces
FROM pg_database d WHERE d.datname = current_database()`

// A tableRecord is a table that a dump has to have; the keys are its names as bytes, which
// a database can have in any encoding.
type tableRecord struct {
	Schema    string `json:"schema"`
	Name      string `json:"name"`
	SchemaKey string `json:"schema_key"`
	NameKey   string `json:"name_key"`
	Unlogged  bool   `json:"unlogged"`
}

// fromKey is a name in the encoding of its database, which pg_dump takes names in.
func fromKey(key string) string {
	b, _ := hex.DecodeString(key) // as PostgreSQL encodes it
	return string(b)
}

// tablesQuery has no tables of extensions: these make them.
const tablesQuery = `SELECT n.nspname AS schema, c.relname AS name, c.relpersistence = 'u' AS unlogged,
	encode(convert_to(n.nspname::text, getdatabaseencoding()), 'hex') AS schema_key, encode(convert_to(c.relname::text, getdatabaseencoding()), 'hex') AS name_key
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
	AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1, 2`

// Dump writes a dump of databases. Each of them is consistent in itself, as of the moment
// in which its own dump began: PostgreSQL has no way to read several in one moment.
//
// If it fails, what it has written is not a dump, and the manifest is missing.
func Dump(ctx context.Context, s *Server, to dbdump.Sink, o DumpOptions) (*dbdump.Manifest, error) {
	warn := warner(o.Warn)
	if err := checkArgs(o.ExtraArgs); err != nil {
		return nil, err
	}
	pgDump, err := s.find(ctx, "pg_dump", 0)
	if err != nil {
		return nil, err
	}
	m := &dbdump.Manifest{Kind: "postgresql", Program: pgDump.text, Address: s.Address(), Start: time.Now()}
	t, err := s.connect(ctx, "")
	if err != nil {
		return nil, err
	}
	defer t.close()
	info, err := t.info()
	if err != nil {
		return nil, err
	}
	m.Server = info.Text
	if pgDump.major() < info.major() {
		return nil, &dbdump.Error{Err: fmt.Errorf("pg_dump is of version %d, the server of version %d: pg_dump must not be older", pgDump.major(), info.major()),
			Hint: fmt.Sprintf("install the programs of version %d (on Debian: apt-get install postgresql-client-%d)", info.major(), info.major())}
	}
	if m.Position, err = t.position(info); err != nil {
		return nil, err
	}
	databases, err := t.databases(o.Databases)
	if err != nil {
		return nil, err
	}
	if o.Globals {
		f, err := s.dumpGlobals(ctx, t, to, warn)
		if err != nil {
			return nil, fmt.Errorf("dump roles and tablespaces: %w", err)
		}
		m.Files = append(m.Files, *f)
	}

	work, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	m.Databases = make([]dbdump.Database, len(databases))
	var wg sync.WaitGroup
	slots := make(chan struct{}, max(o.Parallel, 1))
	for i, name := range databases {
		slots <- struct{}{}
		if work.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			d, pos, err := s.dumpDatabase(work, pgDump, info, to, name, &o)
			if err != nil {
				cancel(fmt.Errorf("dump database %q: %w", name, err))
				return
			}
			m.Databases[i] = *d
			if len(databases) == 1 {
				m.Position = pos
			}
		})
	}
	wg.Wait()
	if work.Err() != nil {
		return nil, context.Cause(work)
	}
	m.End = time.Now()
	if err := m.Write(to); err != nil {
		return nil, fmt.Errorf("write %s: %w", dbdump.ManifestName, err)
	}
	return m, nil
}

// position is that of the server's log.
func (t *session) position(info *serverInfo) (*dbdump.Position, error) {
	query := `SELECT l AS lsn, left(pg_walfile_name(l), 8) AS timeline FROM pg_current_wal_lsn() l`
	if info.Recovery {
		query = `SELECT pg_last_wal_replay_lsn() AS lsn, '' AS timeline`
	}
	var r []struct{ LSN, Timeline string }
	if err := t.rows(query, &r); err != nil {
		return nil, err
	}
	p := &dbdump.Position{LSN: r[0].LSN}
	if b, err := hex.DecodeString(r[0].Timeline); err == nil && len(b) == 4 {
		p.Timeline = int64(b[0])<<24 | int64(b[1])<<16 | int64(b[2])<<8 | int64(b[3])
	}
	return p, nil
}

// databases are those that are meant, by name.
func (t *session) databases(want []string) ([]string, error) {
	var there []struct {
		Name     string `json:"datname"`
		Template bool   `json:"datistemplate"`
		Allow    bool   `json:"datallowconn"`
	}
	if err := t.rows("SELECT datname, datistemplate, datallowconn FROM pg_database", &there); err != nil {
		return nil, err
	}
	var names []string
	for _, w := range want {
		found := false
		for _, d := range there {
			if w == d.Name || w == "*" && d.Allow && !d.Template {
				found = true
				names = append(names, d.Name)
			}
		}
		if !found {
			return nil, &dbdump.Error{Err: fmt.Errorf("there is no database %q on the server", w), Hint: "psql -l lists those there are"}
		}
	}
	if len(names) == 0 {
		return nil, &dbdump.Error{Err: errors.New("no database is named"), Hint: `name one, or "*" for all`}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// dumpDatabase dumps one database.
func (s *Server) dumpDatabase(ctx context.Context, pgDump *program, info *serverInfo, to dbdump.Sink, name string, o *DumpOptions) (*dbdump.Database, *dbdump.Position, error) {
	t, err := s.connect(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	defer t.close()
	// One snapshot for the list of tables and for pg_dump.
	snapshot, err := t.value("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT pg_export_snapshot()")
	if err != nil {
		return nil, nil, err
	}
	pos, err := t.position(info)
	if err != nil {
		return nil, nil, err
	}
	var records []databaseRecord
	if err := t.rows(recordQuery, &records); err != nil {
		return nil, nil, err
	}
	if len(records) != 1 {
		return nil, nil, errors.New("it is not in the server's list")
	}
	record := &records[0]
	var tables []tableRecord
	if err := t.rows(tablesQuery, &tables); err != nil {
		return nil, nil, err
	}
	args := []string{"--no-password", "--format=plain", "--snapshot=" + snapshot}
	byKey := map[[2]string]tableRecord{}
	expect := map[string]bool{}
	used := map[string]bool{}
	for _, r := range tables {
		byKey[[2]string{r.SchemaKey, r.NameKey}] = r
		switch {
		case excluded(o.ExcludeTables, r, used):
			record.Excluded = append(record.Excluded, tableName(r.Schema, r.Name))
			args = append(args, "--exclude-table-data="+ident(fromKey(r.SchemaKey))+"."+ident(fromKey(r.NameKey)))
		case r.Unlogged && (info.Recovery || slices.ContainsFunc(o.ExtraArgs, func(a string) bool { return strings.HasPrefix("--no-unlogged-table-data", a) })):
			// A standby has no rows of theirs.
			record.Excluded = append(record.Excluded, tableName(r.Schema, r.Name))
		default:
			expect[tableName(r.Schema, r.Name)] = true
		}
	}
	for _, p := range o.ExcludeTables {
		if !used[p] {
			warner(o.Warn)(fmt.Sprintf("database %q has no table %q to leave out", name, p))
		}
	}

	c := &cutter{to: to, dir: dbdump.FileName(name)}
	c.display = func(schema, table string) (string, string) {
		r, ok := byKey[[2]string{hex.EncodeToString([]byte(schema)), hex.EncodeToString([]byte(table))}]
		if !ok || strings.ContainsRune(r.Schema+r.Name, '\uFFFD') {
			return schema, table
		}
		return r.Schema, r.Name
	}
	if o.OnTable != nil {
		c.onTable = func(table string) { o.OnTable(name, table) }
	}
	if err := s.cut(ctx, pgDump, name, c, append(args, o.ExtraArgs...)); err != nil {
		return nil, nil, err
	}
	for _, f := range c.files {
		delete(expect, f.Table)
	}
	if len(expect) > 0 {
		var missing []string
		for t := range expect {
			missing = append(missing, t)
		}
		slices.Sort(missing)
		return nil, nil, fmt.Errorf("pg_dump has left out %d of its tables: %.200s", len(missing), strings.Join(missing, ", "))
	}
	f, err := writeRecord(to, c.dir, record)
	if err != nil {
		return nil, nil, err
	}
	files := append(c.files, *f)
	slices.SortFunc(files, func(a, b dbdump.File) int {
		return cmp.Or(cmp.Compare(a.Stage, b.Stage), cmp.Compare(a.Name, b.Name))
	})
	return &dbdump.Database{Name: name, Files: files}, pos, nil
}

// cut runs pg_dump, and cuts what it prints.
func (s *Server) cut(ctx context.Context, pgDump *program, database string, c *cutter, args []string) error {
	child, err := s.child(pgDump, database, args...)
	if err != nil {
		return err
	}
	child.Stdout = c
	if err := s.explain(child.Run(ctx)); err != nil {
		return err
	}
	return c.finish()
}

// excluded says whether the rows of a table are left out, and by which patterns.
func excluded(patterns []string, r tableRecord, used map[string]bool) bool {
	hit := false
	for _, p := range patterns {
		if p == r.Name || p == r.Schema+"."+r.Name || matches(p, r.Name) && !strings.Contains(p, ".") || matches(p, r.Schema+"."+r.Name) {
			used[p], hit = true, true
		}
	}
	return hit
}

// matches: in a pattern * and ? stand for others, slashes too.
func matches(pattern, name string) bool {
	const slash = "\uE000"
	esc := strings.NewReplacer(`\`, `\\`, "[", `\[`, "/", slash)
	ok, _ := path.Match(esc.Replace(pattern), strings.ReplaceAll(name, "/", slash)) // the pattern is valid
	return ok
}

func writeRecord(to dbdump.Sink, dir string, r *databaseRecord) (*dbdump.File, error) {
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return nil, err
	}
	return writeFile(to, dir+"/"+databaseRec, append(b, '\n'))
}

func writeFile(to dbdump.Sink, name string, b []byte) (*dbdump.File, error) {
	w, err := to.Create(name)
	if err == nil {
		_, err = w.Write(b)
		err = errors.Join(err, w.Close())
	}
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", name, err)
	}
	return &dbdump.File{Name: name, Bytes: int64(len(b))}, nil
}

// maxGlobals bounds the roles and tablespaces of a server, in bytes of SQL.
const maxGlobals = 64 << 20

// dumpGlobals dumps roles and tablespaces; without passwords if these cannot be read.
func (s *Server) dumpGlobals(ctx context.Context, t *session, to dbdump.Sink, warn func(string)) (*dbdump.File, error) {
	p, err := s.find(ctx, "pg_dumpall", 0)
	if err != nil {
		return nil, err
	}
	args := []string{"--no-password", "--globals-only", "--database=" + cmp.Or(s.Database, "postgres")}
	may, err := t.value("SELECT has_table_privilege('pg_authid', 'SELECT')")
	if err != nil {
		return nil, err
	}
	if may != "t" {
		warn("roles are dumped without their passwords, which only a superuser can read")
		args = append(args, "--no-role-passwords")
	}
	var out bytes.Buffer
	if err := s.run(ctx, p, "", nil, &limited{&out, maxGlobals}, args...); err != nil {
		return nil, err
	}
	if !bytes.Contains(out.Bytes(), []byte("\n-- PostgreSQL database cluster dump complete\n")) {
		return nil, errors.New("pg_dumpall: its output is not complete")
	}
	var clean bytes.Buffer
	if err := filter(&clean, &out, func(line []byte) bool { return line[0] == '\\' }); err != nil {
		return nil, err
	}
	return writeFile(to, globalsName, clean.Bytes())
}

// filter copies SQL without the lines outside of all quotes for which drop says so.
func filter(to io.Writer, from io.Reader, drop func(line []byte) bool) error {
	in, lex := &input{r: from, buf: make([]byte, 64<<10)}, lexer{}
	dropping := false
	for {
		line, whole, err := in.line()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if whole {
			dropping = lex.state == 0 && drop(line)
		}
		if dropping {
			continue
		}
		if whole && lex.state == 0 && string(line) == "SET standard_conforming_strings = off;\n" {
			lex.escapes = true
		}
		lex.feed(line)
		if _, err := to.Write(line); err != nil {
			return err
		}
	}
}
