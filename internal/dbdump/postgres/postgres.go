// Package postgres backs up and restores PostgreSQL servers: dumps of databases, cut into
// a file for each table, and copies of the whole server ("base backups") with its log
// (WAL), by which any moment between two of them can be reached.
//
// PostgreSQL's own programs do the work: pg_dump, pg_dumpall, psql, pg_basebackup, and
// for checks initdb and postgres. The package knows nothing of repositories: it writes
// to a [dbdump.Sink], reads from an [io/fs.FS], and has a [WAL] for segments of the log.
//
//   - server.go: how a server is reached, and its programs found and run
//   - session.go: questions to a server, through psql
//   - cut.go: the output of pg_dump, cut into files as it passes by
//   - dump.go, restore.go: databases
//   - base.go, wal.go, recover.go: the server as a whole, and moments
//   - scratch.go, verify.go: proof, by a server that exists for it alone
//
// No secret is ever on a command line: passwords reach programs by their environment.
// docs/postgresql.md is the manual, docs/adr/0039-postgresql.md says why it is so.
package postgres

// Names of files in a dump and in a base backup.
const (
	preName     = "schema-pre.sql"    // in the database's directory: what tables need
	postName    = "schema-post.sql"   // indexes, constraints, triggers, positions of sequences
	largeName   = "large-objects.sql" // their content
	databaseRec = "database.json"     // a databaseRecord
	globalsName = "globals.sql"       // roles and tablespaces
)

// Stages of a dump's files, in the order in which they are loaded.
const (
	stagePre = iota
	stageData
	stagePost
)
