package mysql

import (
	"context"
	"fmt"
	"strings"

	"github.com/SP1R4/BackupHandler/v3/internal/dbdump"
	"github.com/SP1R4/BackupHandler/v3/internal/lazyregexp"
)

// systemAccounts are those that a server makes for itself.
const systemAccounts = "'mariadb.sys','mysql.sys','mysql.session','mysql.infoschema'"

// dumpGrants writes accounts and what they may. An account that is there already keeps
// its password when the file is loaded, and gets the rights.
func (s *session) dumpGrants(ctx context.Context, to dbdump.Sink) (dbdump.File, error) {
	fail := func(err error) (dbdump.File, error) { return dbdump.File{}, fmt.Errorf("dump the accounts: %w", err) }
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return fail(err)
	}
	defer conn.Close()
	isRole := "'N'"
	if s.mariaDB {
		isRole = "is_role"
	} else {
		conn.ExecContext(ctx, "SET SESSION print_identified_with_as_hex = ON") // from 8.0.17 on
	}
	rows, err := conn.QueryContext(ctx, "SELECT User, Host, "+isRole+" FROM mysql.user WHERE User NOT IN ("+systemAccounts+") ORDER BY 3 DESC, 1, 2")
	if err != nil {
		return fail(err)
	}
	type account struct{ user, host, role string }
	var accounts []account
	for rows.Next() {
		var a account
		if err := rows.Scan(&a.user, &a.host, &a.role); err != nil {
			rows.Close()
			return fail(err)
		}
		if a.user != "" && a.user != "PUBLIC" { // anonymous accounts are nobody's
			accounts = append(accounts, a)
		}
	}
	if err := rows.Err(); err != nil {
		return fail(err)
	}
	var create, grant strings.Builder
	for _, a := range accounts {
		name := quote(a.user) + "@" + quote(a.host)
		if a.role == "Y" {
			name = quote(a.user)
			fmt.Fprintf(&create, "CREATE ROLE IF NOT EXISTS %s;\n", name)
		} else {
			var text string
			if err := conn.QueryRowContext(ctx, "SHOW CREATE USER "+name).Scan(&text); err != nil {
				return fail(err)
			}
			if text, ok := strings.CutPrefix(text, "CREATE USER "); ok {
				fmt.Fprintf(&create, "CREATE USER IF NOT EXISTS %s;\n", text)
			}
		}
		grants, err := conn.QueryContext(ctx, "SHOW GRANTS FOR "+name)
		if err != nil {
			return fail(err)
		}
		for grants.Next() {
			var line string
			if err := grants.Scan(&line); err != nil {
				grants.Close()
				return fail(err)
			}
			grant.WriteString(withoutPassword(line) + ";\n")
		}
		if err := grants.Err(); err != nil {
			return fail(err)
		}
	}
	return writeFile(to, grantsFile, "/*!40101 SET NAMES utf8mb4 */;\n"+create.String()+grant.String())
}

var (
	identifiedBy  = lazyregexp.New(" IDENTIFIED BY PASSWORD '[^']*'")
	identifiedVia = lazyregexp.New(" IDENTIFIED VIA .*?( REQUIRE | WITH | ACCOUNT |$)")
)

// withoutPassword is a line of SHOW GRANTS that changes no password.
func withoutPassword(line string) string {
	return identifiedVia().ReplaceAllString(identifiedBy().ReplaceAllString(line, ""), "$1")
}
