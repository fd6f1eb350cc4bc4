package mysql

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/SP1R4/BackupHandler/v3/internal/dbdump"
	"github.com/SP1R4/BackupHandler/v3/internal/lazyregexp"
)

// rights are what an account may, as SHOW GRANTS says it.
type rights struct {
	list []right
	// roles: the account has rights that the list may not show.
	roles bool
}

// A right is one line of SHOW GRANTS.
type right struct {
	privileges []string // upper case; "ALL PRIVILEGES" is all
	database   string   // a pattern of LIKE; "*" is all
	table      string   // "*" is all
}

// grantLine matches the scope of a grant: *.*, `db`.*, `db`.`table`. Grants on
// routines and of roles have another form.
var grantLine = lazyregexp.New("^GRANT (.+) ON (\\*|`(?:[^`]|``)*`)\\.(\\*|`(?:[^`]|``)*`) TO ")

func parseRights(lines []string) (r rights) {
	for _, line := range lines {
		m := grantLine().FindStringSubmatch(line)
		if m == nil {
			r.roles = r.roles || strings.HasPrefix(line, "GRANT `")
			continue
		}
		one := right{database: unquote(m[2]), table: unquote(m[3])}
		for p := range strings.SplitSeq(m[1], ",") {
			one.privileges = append(one.privileges, strings.ToUpper(strings.TrimSpace(p)))
		}
		r.list = append(r.list, one)
	}
	return r
}

func unquote(name string) string {
	if len(name) < 2 || name[0] != '`' {
		return name
	}
	return strings.ReplaceAll(name[1:len(name)-1], "``", "`")
}

// has says whether any of some privileges is given for all tables of a database; for
// "*", on the whole server.
func (r rights) has(database string, any ...string) bool {
	return slices.ContainsFunc(r.list, func(g right) bool {
		return g.table == "*" && (g.database == "*" || database != "*" && like(g.database, database)) && g.gives(any)
	})
}

// onSomeTable says whether one of some privileges is given for a table of a database.
func (r rights) onSomeTable(database string, any ...string) bool {
	return slices.ContainsFunc(r.list, func(g right) bool { return g.table != "*" && g.database == database && g.gives(any) })
}

func (g right) gives(any []string) bool {
	return slices.ContainsFunc(g.privileges, func(p string) bool {
		p, _, _ = strings.Cut(p, " (") // of columns
		return p == "ALL PRIVILEGES" || p == "ALL" || slices.Contains(any, p)
	})
}

// like says whether a name matches a pattern with % and _, both of which \ escapes.
func like(pattern, name string) bool {
	for pattern != "" {
		switch {
		case pattern[0] == '%':
			for i := range len(name) + 1 {
				if like(pattern[1:], name[i:]) {
					return true
				}
			}
			return false
		case pattern[0] == '\\' && len(pattern) > 1:
			pattern = pattern[1:]
			if name == "" || name[0] != pattern[0] {
				return false
			}
		case name == "" || pattern[0] != '_' && pattern[0] != name[0]:
			return false
		}
		pattern, name = pattern[1:], name[1:]
	}
	return name == ""
}

func (s *session) rights(ctx context.Context) (rights, error) {
	lines, err := s.strings1(ctx, "SHOW GRANTS")
	if err != nil {
		return rights{}, fmt.Errorf("ask what %s may: %w", s.server.User, err)
	}
	r := parseRights(lines)
	// MariaDB lists what the roles in force give, MySQL does not.
	r.roles = r.roles && !s.mariaDB
	return r, nil
}

// A lack is a privilege that is not there.
type lack struct{ privilege, on, what string }

// account is that which the server has logged in, as statements name it.
func (s *session) account(ctx context.Context) string {
	var name string
	if err := s.db.QueryRowContext(ctx, "SELECT CURRENT_USER()").Scan(&name); err != nil {
		return quote(s.server.User)
	}
	user, host, _ := cutLast(name, "@")
	return quote(user) + "@" + quote(host)
}

// missing is the error for rights that are not there: all of them, with the statements
// that give them.
func (s *session) missing(ctx context.Context, lacks []lack) error {
	if len(lacks) == 0 {
		return nil
	}
	account := s.account(ctx)
	var said, on []string
	privileges := map[string][]string{}
	for _, l := range lacks {
		if slices.Contains(privileges[l.on], l.privilege) {
			continue
		}
		if privileges[l.on] == nil {
			on = append(on, l.on)
		}
		privileges[l.on] = append(privileges[l.on], l.privilege)
		said = append(said, fmt.Sprintf("%s on %s, which %s needs", l.privilege, l.on, l.what))
	}
	for i, o := range on {
		on[i] = fmt.Sprintf("GRANT %s ON %s TO %s;", strings.Join(privileges[o], ", "), o, account)
	}
	return &dbdump.Error{Err: fmt.Errorf("%s lacks %s", strings.ReplaceAll(account, "`", ""), strings.Join(said, "; ")), Hint: strings.Join(on, " ")}
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// checkDump says which rights a dump of some databases would lack.
func (s *session) checkDump(ctx context.Context, o *DumpOptions, databases []string, hasViews func(database string) bool) error {
	r, err := s.rights(ctx)
	if err != nil {
		return err
	}
	if r.roles {
		o.position = true
		return nil // the server will say
	}
	var lacks []lack
	lacking := func(privilege, on, what string) { lacks = append(lacks, lack{privilege, on, what}) }
	for _, db := range databases {
		all := quote(db) + ".*"
		if o.Databases[0] == "*" {
			all = "*.*"
		}
		if !r.has(db, "SELECT") {
			if !r.onSomeTable(db, "SELECT") {
				lacking("SELECT", all, "a dump")
				continue
			}
			o.warn("%s may read some tables of %s only: the dump has no others", s.server.User, printable(db))
		}
		if hasViews(db) && !r.has(db, "SHOW VIEW") {
			lacking("SHOW VIEW", all, "a dump of views")
		}
		if !o.SkipTriggers && !r.has(db, "TRIGGER") {
			lacking("TRIGGER", all, "a dump of triggers")
		}
		if !o.SkipEvents && !r.has(db, "EVENT") {
			lacking("EVENT", all, "a dump of events")
		}
		if o.LockTables && !r.has(db, "LOCK TABLES") {
			lacking("LOCK TABLES", all, "a dump without single transaction")
		}
	}
	if !o.SkipRoutines {
		if s.mariaDB {
			seen := r.has("mysql", "SELECT") || r.onSomeTable("mysql", "SELECT")
			if !seen && !slices.ContainsFunc(databases, func(db string) bool { return r.has(db, "SHOW CREATE ROUTINE") }) {
				lacking("SELECT", "`mysql`.`proc`", "a dump of routines")
			}
		} else if !r.has("*", "SELECT", "SHOW_ROUTINE") {
			lacking("SHOW_ROUTINE", "*.*", "a dump of routines")
		}
	}
	if o.Grants && !r.has("mysql", "SELECT") {
		lacking("SELECT", "`mysql`.*", "a dump of accounts")
	}
	// In a transaction, MariaDB tells the position to everyone, without a lock. MySQL locks
	// all tables for a moment, and so do both for the whole dump if there is no transaction.
	lock := !s.mariaDB || o.LockTables
	o.position = (!o.LockTables || o.RequirePosition) && (!lock || r.has("*", "RELOAD")) && (s.mariaDB || r.has("*", "REPLICATION CLIENT", "SUPER"))
	if o.RequirePosition && !o.position {
		if s.mariaDB {
			lacking("RELOAD", "*.*", "the position in the binary log")
		} else {
			lacking("RELOAD, REPLICATION CLIENT", "*.*", "the position in the binary log")
		}
	}
	return s.missing(ctx, lacks)
}

// checkLogs says which rights the reading of binary logs would lack.
func (s *session) checkLogs(ctx context.Context, flush bool) error {
	r, err := s.rights(ctx)
	if err != nil || r.roles {
		return err
	}
	var lacks []lack
	if s.mariaDB && !r.has("*", "BINLOG MONITOR", "REPLICATION CLIENT", "SUPER") {
		lacks = append(lacks, lack{"BINLOG MONITOR", "*.*", "the list of binary logs"})
	}
	if !s.mariaDB && !r.has("*", "REPLICATION CLIENT", "SUPER") {
		lacks = append(lacks, lack{"REPLICATION CLIENT", "*.*", "the list of binary logs"})
	}
	if !r.has("*", "REPLICATION SLAVE") {
		lacks = append(lacks, lack{"REPLICATION SLAVE", "*.*", "the reading of binary logs"})
	}
	if flush && !r.has("*", "RELOAD") {
		lacks = append(lacks, lack{"RELOAD", "*.*", "FLUSH BINARY LOGS"})
	}
	return s.missing(ctx, lacks)
}

// printable is a name for a message: one line, at most 80 characters.
func printable(name string) string {
	name = strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f {
			return '\uFFFD'
		}
		return r
	}, strings.ToValidUTF8(name, "\uFFFD"))
	if r := []rune(name); len(r) > 80 {
		name = string(r[:80]) + "…"
	}
	return name
}
