// Package mysql dumps and restores databases of MySQL and MariaDB, archives their binary
// logs, and brings a database to a moment between two dumps.
//
// The server's own programs do the work: mariadb-dump or mysqldump, mariadb or mysql,
// mariadb-binlog or mysqlbinlog. What they print is cut into files on its way, and
// never kept as a whole. Questions to the server (which tables, which rights) go
// through a driver, so that answers need no parsing and passwords no command line.
//
// Invariants:
//
//   - a dump shows one moment, and has every table of that moment, or it fails;
//   - a table that did not change has the same bytes in every dump;
//   - restore and replay write to the database that they were told to make, and to no
//     other; what fails half way is removed, or left under a name that says so;
//   - no secret is on a command line, in an error or in a message: programs get the
//     password in MYSQL_PWD, which only their user and root can read.
//
// Files: mysql.go (servers and programs), rights.go (what an account may), dump.go,
// cut.go (one stream into files), grants.go (accounts), restore.go, logs.go (binary
// logs), event.go (their format), replay.go, verify.go and scratch.go (a server for a
// check).
package mysql

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	driver "github.com/go-sql-driver/mysql"

	"github.com/SP1R4/BackupHandler/v3/internal/config"
	"github.com/SP1R4/BackupHandler/v3/internal/dbdump"
)

// Kind is that of the manifests of this package.
const Kind = "mysql"

// A Server says how a server is reached. Option files of the machine (my.cnf) are not
// read: all that counts is here.
type Server struct {
	// Host is a name or an address. "localhost", and "", with Port 0 or 3306 mean the
	// server's usual socket where there is one, as they do to its own programs.
	Host   string
	Port   int    // 0: 3306
	Socket string // absolute; used instead of Host and Port
	User   string // "": the user who runs this
	// Password may be empty: accounts without one, and those that a socket
	// authenticates.
	Password config.SecretString
	// TLS is "preferred" (or ""): where the server offers it, whoever it is; "off";
	// "required": whoever it is; "verified": with a certificate for Host.
	TLS    string
	CAFile string // that signed the certificate; "": the system's authorities
	// Programs is the only directory in which the server's programs are looked for; "":
	// the PATH.
	Programs string
}

// dialTimeout bounds the wait for a server's first word.
const dialTimeout = 15 * time.Second

// usualSockets are those of Debian, of Red Hat, and of MySQL's own packages.
var usualSockets = []string{"/run/mysqld/mysqld.sock", "/var/lib/mysql/mysql.sock", "/tmp/mysql.sock"}

// resolve fills in what "" stands for.
func (s Server) resolve() Server {
	local := s.Host == "" || s.Host == "localhost"
	if s.Socket == "" && local && (s.Port == 0 || s.Port == 3306) {
		for _, path := range usualSockets {
			if info, err := os.Stat(path); err == nil && info.Mode()&os.ModeSocket != 0 {
				s.Socket = path
				break
			}
		}
	}
	s.Host, s.Port, s.TLS = cmp.Or(s.Host, "localhost"), cmp.Or(s.Port, 3306), cmp.Or(s.TLS, "preferred")
	if s.User == "" {
		s.User = cmp.Or(os.Getenv("USER"), os.Getenv("USERNAME"), "root")
	}
	return s
}

// Address is where the server is: host and port, or the socket.
func (s Server) Address() string {
	s = s.resolve()
	if s.Socket != "" {
		return s.Socket
	}
	return net.JoinHostPort(s.Host, strconv.Itoa(s.Port))
}

// A session is a connection to a server, and what is known of it.
type session struct {
	server  Server // resolved
	db      *sql.DB
	version string // "10.11.19-MariaDB-0+deb12u1"
	mariaDB bool
	tls     bool // the connection is encrypted
}

// open logs in to a server.
func open(ctx context.Context, server Server) (*session, error) {
	server = server.resolve()
	cfg := driver.NewConfig()
	cfg.User, cfg.Passwd, cfg.Timeout, cfg.Logger = server.User, server.Password.Reveal(), dialTimeout, &driver.NopLogger{}
	cfg.Net, cfg.Addr = "tcp", net.JoinHostPort(server.Host, strconv.Itoa(server.Port))
	if server.Socket != "" {
		cfg.Net, cfg.Addr = "unix", server.Socket
	}
	cfg.InterpolateParams = true // one round trip, and no prepared statements
	secure, err := server.tlsConfig()
	if err != nil {
		return nil, err
	}
	if cfg.TLS = secure; secure != nil {
		cfg.AllowFallbackToPlaintext = server.TLS == "preferred"
	}
	connector, err := driver.NewConnector(cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", server.Address(), err)
	}
	s := &session{server: server, db: sql.OpenDB(connector)}
	s.db.SetMaxIdleConns(1)
	var comment, name, cipher string
	err = s.db.QueryRowContext(ctx, "SELECT VERSION(), @@version_comment").Scan(&s.version, &comment)
	if err == nil {
		err = s.db.QueryRowContext(ctx, "SHOW STATUS LIKE 'Ssl_cipher'").Scan(&name, &cipher)
	}
	if err != nil {
		s.db.Close()
		return nil, server.loginError(err)
	}
	s.mariaDB = strings.Contains(strings.ToLower(s.version+comment), "mariadb")
	s.tls = cipher != ""
	return s, nil
}

func (s *session) close() { s.db.Close() }

// name is the server's own name and version.
func (s *session) name() string {
	version, _, _ := strings.Cut(s.version, "-")
	if s.mariaDB {
		return "MariaDB " + version
	}
	return "MySQL " + version
}

func (s Server) tlsConfig() (*tls.Config, error) {
	c := &tls.Config{ServerName: s.Host, MinVersion: tls.VersionTLS12}
	switch s.TLS {
	case "off":
		return nil, nil
	case "verified":
		if s.Socket != "" {
			return nil, nil // there is nobody between
		}
	case "preferred", "required":
		if s.Socket != "" && s.TLS == "preferred" {
			return nil, nil
		}
		c.InsecureSkipVerify = s.CAFile == ""
	default:
		return nil, fmt.Errorf("unknown TLS mode %q", s.TLS)
	}
	if s.CAFile == "" {
		return c, nil
	}
	pem, err := os.ReadFile(s.CAFile)
	if err != nil {
		return nil, fmt.Errorf("read the server's certificate authority: %w", err)
	}
	if c.RootCAs = x509.NewCertPool(); !c.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", s.CAFile)
	}
	if s.TLS != "verified" {
		// The certificate is looked at, the name in it is not.
		roots := c.RootCAs
		c.InsecureSkipVerify = true
		c.VerifyConnection = func(state tls.ConnectionState) error {
			o := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()}
			for _, cert := range state.PeerCertificates[1:] {
				o.Intermediates.AddCert(cert)
			}
			_, err := state.PeerCertificates[0].Verify(o)
			return err
		}
	}
	return c, nil
}

// Numbers of the server's errors.
const (
	errAccessDenied   = 1045
	errAccessDeniedDB = 1044
	errNotAllowed     = 1227
	errSocketDenied   = 1698
	errBrokenView     = 1356
)

func isServerError(err error, numbers ...uint16) bool {
	e, ok := errors.AsType[*driver.MySQLError](err)
	if !ok {
		return false
	}
	for _, n := range numbers {
		if e.Number == n {
			return true
		}
	}
	return false
}

func (s Server) loginError(err error) error {
	hint := "is the server running, and are host, port and socket right?"
	switch {
	case isServerError(err, errAccessDenied, errSocketDenied):
		hint = "check user and password of the database"
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		hint = ""
	case isServerError(err):
		hint = ""
	default:
		if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
			hint = "set the file of the authority that signed the server's certificate, and the name that it is for as host"
		} else if errors.Is(err, driver.ErrNoTLS) {
			hint = "the server offers no TLS: switch it on there, or set tls = off where the network is trusted"
		}
	}
	return &dbdump.Error{Err: fmt.Errorf("log in to %s as %s: %w", s.Address(), s.User, err), Hint: hint}
}

// A program is one of the server's programs on this machine.
type program struct {
	path    string
	version string // "mariadb-dump 10.11.19-MariaDB"
	mariaDB bool
}

// The programs, as MariaDB and as MySQL call them, and the package of Debian with each.
var (
	dumpNames   = [...]string{"mariadb-dump", "mysqldump", "mariadb-client"}
	clientNames = [...]string{"mariadb", "mysql", "mariadb-client"}
	binlogNames = [...]string{"mariadb-binlog", "mysqlbinlog", "mariadb-client"}
)

// find finds a program; that of the server's own make first.
func (s *session) find(ctx context.Context, names [3]string) (program, error) {
	order := []string{names[0], names[1]}
	if !s.mariaDB {
		order[0], order[1] = order[1], order[0]
	}
	path, err := s.server.findProgram(names[2], nil, order...)
	if err != nil {
		return program{}, err
	}
	var out strings.Builder
	if err := (dbdump.Child{Path: path, Args: []string{"--no-defaults", "--version"}, Stdout: &out}).Run(ctx); err != nil {
		return program{}, err
	}
	p := program{path: path, mariaDB: strings.Contains(strings.ToLower(path+out.String()), "mariadb")}
	// "mariadb-dump  Ver 10.19 Distrib 10.11.19-MariaDB, for debian-linux-gnu (x86_64)"
	// "mariadb-dump from 11.4.5-MariaDB, client 10.19 for Linux (x86_64)"
	// "mysqldump  Ver 8.0.40 for Linux on x86_64 (MySQL Community Server - GPL)"
	fields := strings.Fields(strings.ReplaceAll(out.String(), ",", " "))
	for i, f := range fields[:max(0, len(fields)-1)] {
		if f == "Ver" || f == "Distrib" || f == "from" {
			p.version = fields[i+1]
		}
	}
	p.version = strings.TrimSpace(baseName(path) + " " + p.version)
	return p, nil
}

// findProgram finds the first of some programs, on the PATH or else in other directories,
// or in the one that was chosen.
func (s Server) findProgram(pkg string, dirs []string, names ...string) (string, error) {
	if s.Programs == "" {
		return dbdump.FindProgram(pkg, dirs, names...)
	}
	for _, name := range names {
		if path, err := exec.LookPath(filepath.Join(s.Programs, name)); err == nil {
			return path, nil
		}
	}
	return "", &dbdump.Error{Err: fmt.Errorf("%s: %w in %s", strings.Join(names, " or "), dbdump.ErrNoProgram, s.Programs),
		Hint: "set programs (--db-programs) to the directory that has the server's, or unset it to look on the PATH; Debian: apt-get install " + pkg}
}

func baseName(path string) string { return path[strings.LastIndexAny(path, `/\`)+1:] }

// child is a program that logs in to the server. Arguments that must be the first ones
// are in it already.
func (s *session) child(p program, args ...string) dbdump.Child {
	c := dbdump.Child{Path: p.path, Secrets: []string{s.server.Password.Reveal()}}
	c.Args = append(c.Args, "--no-defaults", "--user="+s.server.User)
	if s.server.Socket != "" {
		c.Args = append(c.Args, "--protocol=socket", "--socket="+s.server.Socket)
	} else {
		c.Args = append(c.Args, "--protocol=tcp", "--host="+s.server.Host, "--port="+strconv.Itoa(s.server.Port))
	}
	c.Args = append(c.Args, s.tlsArgs(p)...)
	c.Args = append(c.Args, args...)
	if !s.server.Password.IsEmpty() {
		c.Env = append(c.Env, "MYSQL_PWD="+s.server.Password.Reveal())
	}
	return c
}

// tlsArgs make a program do what our own connection did.
func (s *session) tlsArgs(p program) []string {
	verified := s.server.TLS == "verified" && s.tls
	var args []string
	switch {
	case p.mariaDB && !s.tls:
		return []string{"--skip-ssl"}
	case p.mariaDB && verified:
		args = []string{"--ssl", "--ssl-verify-server-cert"}
	case p.mariaDB:
		args = []string{"--ssl", "--skip-ssl-verify-server-cert"}
	case !s.tls:
		return []string{"--ssl-mode=DISABLED"}
	case verified:
		args = []string{"--ssl-mode=VERIFY_IDENTITY"}
	default:
		args = []string{"--ssl-mode=REQUIRED"}
	}
	if s.server.CAFile != "" {
		args = append(args, "--ssl-ca="+s.server.CAFile)
	}
	return args
}

// quote makes a name an identifier.
func quote(name string) string { return "`" + strings.ReplaceAll(name, "`", "``") + "`" }

// strings1 returns the first column of all rows.
func (s *session) strings1(ctx context.Context, query string, args ...any) ([]string, error) {
	rows, err := s.db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []string
	for rows.Next() {
		var one string
		if err := rows.Scan(&one); err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, rows.Err()
}
