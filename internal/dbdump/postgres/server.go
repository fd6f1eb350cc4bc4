package postgres

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/dbdump"
	"github.com/SP1R4/BackupHandler/v3/internal/lazyregexp"
)

// A Server says how a server is reached.
type Server struct {
	Host     string // name or address, or the directory of its socket; "": libpq's default
	Port     int    // 0: 5432
	User     string // "": the account that the programs run as
	Password string // "": none, or that of Passfile or ~/.pgpass
	Passfile string // a password file of libpq, which wants a plain one; "": ~/.pgpass

	SSLMode     string // "disable" to "verify-full"; "": libpq's default, "prefer"
	SSLRootCert string // file with the CA; "": libpq's default

	// Database is connected to for what concerns none in particular; "": "postgres".
	Database string

	// Bin is the directory of PostgreSQL's programs; "": the newest that are found.
	Bin string
	// Account is whom the programs run as, if this process is root: servers often let
	// the account "postgres" in through their socket. "": as this process.
	Account string
}

// Address is where the server is, without user and password.
func (s *Server) Address() string {
	port := strconv.Itoa(cmp.Or(s.Port, 5432))
	if s.Host == "" || strings.HasPrefix(s.Host, "/") {
		return strings.TrimSuffix(s.Host, "/") + "/.s.PGSQL." + port
	}
	return net.JoinHostPort(s.Host, port)
}

// env is what a program that connects to a database gets in its environment, beside what
// every [dbdump.Child] gets: what is said here is all that counts.
func (s *Server) env(database string) []string {
	env := []string{"PGAPPNAME=backup-handler", "PGCONNECT_TIMEOUT=30"}
	for _, v := range [][2]string{
		{"PGHOST", s.Host}, {"PGUSER", s.User}, {"PGPASSWORD", s.Password}, {"PGPASSFILE", s.Passfile},
		{"PGSSLMODE", s.SSLMode}, {"PGSSLROOTCERT", s.SSLRootCert},
		{"PGDATABASE", cmp.Or(database, s.Database, "postgres")},
	} {
		if v[1] != "" {
			env = append(env, v[0]+"="+v[1])
		}
	}
	if s.Port != 0 {
		env = append(env, "PGPORT="+strconv.Itoa(s.Port))
	}
	return env
}

// packages name those of Debian that programs are in, without their versions.
var packages = map[string]string{
	"pg_dump": "postgresql-client", "pg_dumpall": "postgresql-client", "psql": "postgresql-client", "pg_basebackup": "postgresql-client",
	"initdb": "postgresql", "postgres": "postgresql", "pg_waldump": "postgresql",
}

// binDirs are where programs are that are not in $PATH. On Debian those in $PATH are a
// wrapper, pg_wrapper, which chooses a version by a configuration of its own.
var binDirs = []string{
	"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/lib/postgresql*/bin", "/usr/local/pgsql/bin", "/opt/pgsql*/bin",
	"/opt/homebrew/opt/postgresql*/bin", "/opt/homebrew/opt/libpq/bin", "/Library/PostgreSQL/*/bin", `C:\Program Files\PostgreSQL\*\bin`,
}

// A program is one of PostgreSQL's.
type program struct {
	path    string
	name    string
	text    string // "pg_dump (PostgreSQL) 15.18"
	version int    // as the server counts: 150018
}

func (p *program) major() int { return p.version / 10000 }

var versionRE = lazyregexp.New(`\(PostgreSQL\) (\d+)(?:\.(\d+))?`)

// find finds a program, the newest of those there are, or of one major version if it is
// not 0.
func (s *Server) find(ctx context.Context, name string, major int) (*program, error) {
	var paths []string
	if s.Bin != "" {
		paths = []string{filepath.Join(s.Bin, name)}
	} else {
		for _, pattern := range binDirs {
			found, _ := filepath.Glob(filepath.Join(pattern, name)) // the patterns are valid
			paths = append(paths, found...)
		}
		for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
			paths = append(paths, filepath.Join(dir, name))
		}
	}
	var best *program
	var broken error
	seen := map[string]bool{}
	for _, path := range paths {
		if _, err := exec.LookPath(path); err != nil {
			continue
		}
		real, err := filepath.EvalSymlinks(path)
		if err != nil || seen[real] || filepath.Base(real) == "pg_wrapper" {
			continue
		}
		seen[real] = true
		p, err := s.version(ctx, name, path)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil {
			broken = err
			continue
		}
		if (major == 0 || p.major() == major) && (best == nil || p.version > best.version) {
			best = p
		}
	}
	if best == nil {
		pkg := packages[name]
		what := name
		if major != 0 {
			pkg, what = fmt.Sprintf("%s-%d", pkg, major), fmt.Sprintf("%s of PostgreSQL %d", name, major)
		}
		err, hint := fmt.Errorf("%s: %w", what, dbdump.ErrNoProgram), ""
		if s.Bin != "" {
			err = fmt.Errorf("%s: %w in %s", what, dbdump.ErrNoProgram, s.Bin)
			hint = "set programs (--db-programs) to the directory that has PostgreSQL's, or unset it; or "
		}
		if broken != nil {
			err = broken
		}
		return nil, &dbdump.Error{Err: err, Hint: hint + fmt.Sprintf("install PostgreSQL's programs (on Debian: apt-get install %s)", pkg)}
	}
	return best, nil
}

// askVersion bounds how long a program may take to say its version.
const askVersion = 30 * time.Second

func (s *Server) version(ctx context.Context, name, path string) (*program, error) {
	ctx, cancel := context.WithTimeout(ctx, askVersion)
	defer cancel()
	var out bytes.Buffer
	c := dbdump.Child{Path: path, Args: []string{"--version"}, Stdout: &limited{&out, 4096}}
	err := c.Run(ctx)
	text := strings.TrimSpace(out.String())
	m := versionRE().FindStringSubmatch(text)
	if err != nil || m == nil {
		return nil, fmt.Errorf("%s does not say its version: %w", path, cmp.Or(err, errors.New(strconv.Quote(text))))
	}
	first, _ := strconv.Atoi(m[1]) // digits
	second, _ := strconv.Atoi(m[2])
	return &program{path: path, name: name, text: text, version: first*10000 + second}, nil
}

// A limited writer fails behind left bytes.
type limited struct {
	w    io.Writer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	if l.left -= len(p); l.left < 0 {
		return 0, errors.New("a program prints too much")
	}
	return l.w.Write(p)
}

// child prepares a program that connects to a database.
func (s *Server) child(p *program, database string, args ...string) (*dbdump.Child, error) {
	as, err := actAs(s.Account)
	if err != nil {
		return nil, err
	}
	// The account may not be able to enter the directory that we are in.
	return &dbdump.Child{Path: p.path, Args: args, Env: s.env(database), Dir: filepath.VolumeName(p.path) + string(filepath.Separator),
		Secrets: []string{s.Password}, Prepare: as}, nil
}

// run runs a program to its end; what it prints goes to stdout.
func (s *Server) run(ctx context.Context, p *program, database string, stdin io.Reader, stdout io.Writer, args ...string) error {
	c, err := s.child(p, database, args...)
	if err != nil {
		return err
	}
	c.Stdin, c.Stdout = stdin, stdout
	return s.explain(c.Run(ctx))
}

const (
	goneHint = "the server has gone away: see its log"
	fullHint = "the server's disk is full"
)

// hints are what can be done about what PostgreSQL says; … is the user.
var hints = []struct{ says, hint string }{
	{"password authentication failed", "check user and password"},
	{"the database system is", "the server is starting, recovers from a crash, or ends: see its log, and run it again"},
	{`FATAL:  role "`, "set the user (--db-user) to one that the server has, and lets in"},
	{`FATAL:  database "`, "check the name of the database: psql -l lists those there are"},
	{"no password supplied", "the server wants a password: set it, or have it in a password file"},
	{"Peer authentication failed", "the server lets only the account of this name in through its socket: set the account that programs run as, or use a host and a password"},
	{"no pg_hba.conf entry", "allow this in the server's pg_hba.conf, and reload it"},
	{"must be superuser or replication role", "give it the right: ALTER ROLE … REPLICATION;"},
	{"permission denied to start WAL sender", "give it the right: ALTER ROLE … REPLICATION;"},
	{"permission denied for", "give the user the right to read it: GRANT pg_read_all_data TO …; or exclude it"},
	{"does not exist\npg_dump: detail: Query was: LOCK TABLE", "it was dropped just as the dump began: dump again"},
	{"row-level security", "give the user the right to read all rows: ALTER ROLE … BYPASSRLS;"},
	{"could not translate host name", "check the host"},
	{"Connection refused", "is the server running, and are host and port right?"},
	{"No such file or directory\n\tIs the server running", "is the server running, and is the directory of its socket right?"},
	{"server closed the connection unexpectedly", goneHint},
	{"connection to server was lost", goneHint},
	{"terminating connection due to administrator command", "the server was stopped, or the connection ended by its administrator"},
	{"terminating connection", goneHint},
	{"No space left on device", fullHint},
	{"could not extend file", fullHint}, // "wrote only 4096 of 8192 bytes"
	{"certificate verify failed", "check the file with the CA, and whether the certificate is for this host"},
	{"too many clients", "the server has no connection left: raise max_connections, or work less side by side"},
	{"must be owner", "the user that restores must be a superuser, or own what is restored"},
	{"permission denied to create database", "give the user the right: ALTER ROLE … CREATEDB;"},
	{"is not available", "install the extension's package on this server"},
}

// fromServer is before what pg_dump has of the server.
const fromServer = "detail: Error message from server: "

// prefixRE is what programs say before a message.
var prefixRE = lazyregexp.New(`^(?:(?:psql|pg_[a-z]+|initdb)(?::<stdin>:\d+)?: ?|error: |fatal: |detail: )+`)

// explain is the function of that name, for a program of a server's.
func (s *Server) explain(err error) error {
	err = explain(err)
	if e, ok := err.(*dbdump.Error); ok {
		if user := cmp.Or(s.User, s.Account); user != "" {
			e.Hint = strings.ReplaceAll(e.Hint, "…", ident(user))
		}
	}
	return err
}

// explain makes one line of what a program has said before it failed, with a hint. Other
// errors stay as they are.
func explain(err error) error {
	failed, ok := errors.AsType[*dbdump.ChildError](err)
	if !ok {
		return err
	}
	message, detail := "", ""
	for line := range strings.Lines(failed.Stderr) {
		line = strings.TrimSpace(line)
		isError := strings.Contains(line, "error:") || strings.Contains(line, "ERROR:") || strings.Contains(line, "FATAL:") || strings.Contains(line, "fatal:")
		switch {
		case message == "" && isError:
			message = line
		case message != "" && detail == "" && strings.Contains(line, fromServer):
			_, detail, _ = strings.Cut(line, fromServer)
		case message != "" && detail == "" && (strings.Contains(line, "DETAIL:") || strings.Contains(line, "FATAL:") && !strings.Contains(message, "FATAL:")):
			detail = line
		}
	}
	message = prefixRE().ReplaceAllString(cmp.Or(message, failed.Last), "")
	if detail = prefixRE().ReplaceAllString(detail, ""); detail != "" {
		message += " (" + strings.TrimSpace(strings.TrimPrefix(detail, "DETAIL:")) + ")"
	}
	e := &dbdump.Error{Err: fmt.Errorf("%s: %s", failed.Name, cmp.Or(message, failed.Err.Error()))}
	for _, h := range hints {
		if strings.Contains(failed.Stderr, h.says) {
			e.Hint = h.hint
			break
		}
	}
	return e
}

// warner is warn, or nobody.
func warner(warn func(string)) func(string) {
	if warn == nil {
		return func(string) {}
	}
	return warn
}

// root says whether this process is the superuser of the system.
func root() bool { return os.Geteuid() == 0 }
