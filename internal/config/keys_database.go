package config

// databaseSections are about databases as sources. docs/databases.md says more.
func databaseSections() []Section {
	return []Section{
		{Name: "DATABASE", Named: true, Doc: "A database server as source: each backup dumps it into a snapshot of its own, behind that of the files. Several have names, [DATABASE NAME]. docs/databases.md says more.", Keys: []Key{
			{Name: "type", Type: Enum, Default: "mysql", Values: []string{"mysql", "postgresql"}, Own: true, Doc: "Kind of server: mysql is MariaDB, too."},
			{Name: "database", Type: List, Example: "shop, blog", Doc: "Names of the databases; * alone means all but the server's own."},
			{Name: "user", Type: String, Doc: "User to log in as; unset means the one who runs the backup."},
			{Name: "password", Type: String, Secret: true, Example: "${DB_PASSWORD}", Doc: "Password to log in with; unset for accounts without one, and those that a socket authenticates."},
			{Name: "host", Type: String, Default: "localhost", Doc: "Host of the server; localhost means its usual socket where there is one."},
			{Name: "port", Type: Int, Default: "3306", Max: 65535, Doc: "Port of the server; unset means 5432 for PostgreSQL."},
			{Name: "socket", Type: Path, Own: true, Example: "/run/mysqld/mysqld.sock", Doc: "Socket of the server, instead of host and port; for PostgreSQL the directory that it is in."},
			{Name: "tls", Type: Enum, Default: "preferred", Values: []string{"preferred", "off", "required", "verified"}, Own: true,
				Doc: "preferred encrypts where the server offers it, required always, verified also checks its certificate and name."},
			{Name: "ca_file", Type: Path, Own: true, Doc: "Certificates (PEM) of the authorities to trust for tls = verified; unset means the system's."},
			{Name: "single_transaction", Type: Bool, Default: "True", Doc: "MySQL: dump all tables as of one moment, without keeping anybody from writing; False locks each database's tables meanwhile, for tables that know no transactions."},
			{Name: "binlog_position", Type: Bool, Default: "False", Doc: "MySQL: fail if the position in the binary log cannot be recorded; it is recorded anyway where the account may know it."},
			{Name: "logs", Type: Bool, Default: "False", Own: true, Doc: "MySQL: archive the binary logs with each backup, in a snapshot of their own, so that 'db restore --to-time' reaches any moment. PostgreSQL archives by 'db wal-push'."},
			{Name: "dump", Type: Bool, Default: "True", Own: true, Doc: "Dump the databases; False for a PostgreSQL server that has base backups only."},
			{Name: "base", Type: Bool, Default: "False", Own: true, Doc: "PostgreSQL: make a base backup of the whole server, too, from which any moment that 'db wal-push' has archived can be reached."},
			{Name: "grants", Type: Bool, Default: "False", Own: true, Doc: "Dump the accounts and what they may (PostgreSQL: roles and tablespaces), too."},
			{Name: "routines", Type: Bool, Default: "True", Own: true, Doc: "MySQL: dump stored procedures and functions."},
			{Name: "triggers", Type: Bool, Default: "True", Own: true, Doc: "MySQL: dump triggers."},
			{Name: "events", Type: Bool, Default: "True", Own: true, Doc: "MySQL: dump scheduled events."},
			{Name: "exclude_tables", Type: List, Own: true, Example: "shop.sessions, *.cache_*", Doc: "Tables to leave out, as database.table (PostgreSQL: rows of schema.table); * and ? stand for others."},
			{Name: "extra_args", Type: List, Own: true, Example: "--max-allowed-packet=1G", Doc: "More arguments of the dump program."},
			{Name: "parallel", Type: Int, Default: "0", Max: 64, Own: true, Doc: "Tables that a restore loads side by side, and databases of PostgreSQL that are dumped so; 0 means as the machine has processors, and one."},
			{Name: "programs", Type: Path, Own: true, Example: "/usr/lib/postgresql/17/bin", Doc: "Directory of the server's programs; unset means those of the PATH, for PostgreSQL the newest that are installed."},
			{Name: "run_as", Type: String, Own: true, Example: "postgres", Doc: "PostgreSQL: account that its programs run as where this one is root: a server lets its own account in through its socket. Unset: as root."},
			{Name: "tags", Type: List, Own: true, Doc: "Tags of the snapshots."},
		}},
	}
}
