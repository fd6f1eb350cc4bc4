// Package mysqltest starts MariaDB servers for tests.
//
// They are real: the mariadbd of the machine, on a socket and a free port of loopback,
// with a data directory of their own, which goes with the test. As root, they run as
// the user mysql, which Debian's package makes.
package mysqltest

import (
	"context"
	"database/sql"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	driver "github.com/go-sql-driver/mysql"
)

// Config says how a server differs from the usual one.
type Config struct {
	Args    []string // more options of mariadbd; later ones win
	DataDir string   // an existing, empty directory; "": made
	TLS     bool     // with a certificate for localhost, by a CA of its own
	NoLog   bool     // without binary logs
}

// A Server is a running server. Its user root has no password and may come by the
// socket only.
type Server struct {
	Dir    string
	Socket string
	Port   int
	CAFile string // of Config.TLS

	t    testing.TB
	args []string
	cmd  *exec.Cmd
	done chan struct{}
	stop sync.Once
}

// template is a data directory that mariadb-install-db has made, copied for each
// server: that takes a second, and a copy less.
var template struct {
	sync.Once
	dir string
	err error
}

const startTimeout = 30 * time.Second

// Start starts a server, until the test ends.
func Start(t testing.TB, c Config) *Server {
	t.Helper()
	if _, err := exec.LookPath("/usr/sbin/mariadbd"); err != nil {
		if _, err := exec.LookPath("mariadbd"); err != nil {
			t.Fatal("mariadbd is not installed; make test installs it (Debian: mariadb-server)")
		}
	}
	// Sockets have short paths, and user mysql must be able to come here.
	dir, err := os.MkdirTemp("", "mysql")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	os.Chmod(dir, 0o755)
	s := &Server{Dir: dir, Socket: filepath.Join(dir, "sock"), t: t}
	data := c.DataDir
	if data == "" {
		data = filepath.Join(dir, "data")
	}
	if err := install(data); err != nil {
		t.Fatal(err)
	}
	// A server that starts removes all temporary tables that it finds: those of others, too.
	tmp := filepath.Join(dir, "tmp")
	if err := os.Mkdir(tmp, 0o755); err != nil {
		t.Fatal(err)
	}
	chown(tmp)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.Port = l.Addr().(*net.TCPAddr).Port
	l.Close()
	s.args = []string{"--no-defaults", "--datadir=" + data, "--socket=" + s.Socket, "--port=" + strconv.Itoa(s.Port), "--bind-address=127.0.0.1",
		"--pid-file=" + filepath.Join(dir, "pid"), "--tmpdir=" + tmp, "--character-set-server=utf8mb4", "--collation-server=utf8mb4_general_ci", "--innodb-buffer-pool-size=64M",
		"--innodb-log-file-size=8M", "--innodb-flush-log-at-trx-commit=0", "--innodb-flush-method=nosync", "--sync-frm=0", "--log-error=" + filepath.Join(dir, "log"),
		"--performance-schema=off", "--max-allowed-packet=64M", "--lower-case-table-names=0"}
	if !c.NoLog {
		s.args = append(s.args, "--log-bin="+filepath.Join(data, "binlog"), "--server-id=1", "--binlog-format=ROW")
	}
	if os.Geteuid() == 0 {
		s.args = append(s.args, "--user=mysql")
		chown(dir)
	}
	if c.TLS {
		s.args = append(s.args, s.makeCertificates()...)
	}
	s.args = append(s.args, c.Args...)
	t.Cleanup(s.Stop)
	s.run()
	return s
}

func mariadbd() string {
	if path, err := exec.LookPath("mariadbd"); err == nil {
		return path
	}
	return "/usr/sbin/mariadbd"
}

func (s *Server) run() {
	s.t.Helper()
	s.cmd, s.done, s.stop = exec.Command(mariadbd(), s.args...), make(chan struct{}), sync.Once{}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	cmd, done := s.cmd, s.done
	go func() { cmd.Wait(); close(done) }()
	db := s.Open("root", "", "")
	defer db.Close()
	for end := time.Now().Add(startTimeout); ; time.Sleep(20 * time.Millisecond) {
		err := db.Ping()
		if err == nil {
			return
		}
		select {
		case <-done:
			s.t.Fatalf("mariadbd has ended:\n%s", s.Log())
		default:
		}
		if time.Now().After(end) {
			s.t.Fatalf("mariadbd does not answer: %v\n%s", err, s.Log())
		}
	}
}

// Restart starts a server that was stopped or killed, with its data.
func (s *Server) Restart() { s.t.Helper(); s.run() }

// Stop ends the server, and waits for that.
func (s *Server) Stop() {
	if s.cmd == nil || s.cmd.Process == nil {
		return
	}
	s.stop.Do(func() {
		s.cmd.Process.Signal(terminate)
		select {
		case <-s.done:
		case <-time.After(30 * time.Second):
			s.cmd.Process.Kill()
			<-s.done
		}
	})
}

// Kill ends the server as a power failure would.
func (s *Server) Kill() {
	s.stop.Do(func() { s.cmd.Process.Kill(); <-s.done })
}

// Log is the end of the server's log.
func (s *Server) Log() string {
	b, _ := os.ReadFile(filepath.Join(s.Dir, "log"))
	return string(b[max(0, len(b)-4<<10):])
}

// Open connects by the socket; the caller closes it.
func (s *Server) Open(user, password, database string) *sql.DB {
	c := driver.NewConfig()
	c.User, c.Passwd, c.DBName, c.Net, c.Addr, c.MultiStatements, c.Logger = user, password, database, "unix", s.Socket, true, &driver.NopLogger{}
	connector, err := driver.NewConnector(c)
	if err != nil {
		s.t.Fatal(err)
	}
	return sql.OpenDB(connector)
}

// Exec runs statements as root.
func (s *Server) Exec(statements ...string) {
	s.t.Helper()
	db := s.Open("root", "", "")
	defer db.Close()
	conn, err := db.Conn(context.Background())
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	for _, q := range statements {
		if _, err := conn.ExecContext(context.Background(), q); err != nil {
			s.t.Fatalf("%s: %v", q[:min(len(q), 200)], err)
		}
	}
}

// Query returns all rows, each as its columns joined by a bar; NULL is "NULL".
func (s *Server) Query(query string, args ...any) []string {
	s.t.Helper()
	db := s.Open("root", "", "")
	defer db.Close()
	rows, err := db.Query(query, args...)
	if err != nil {
		s.t.Fatalf("%s: %v", query, err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		s.t.Fatal(err)
	}
	var all []string
	for rows.Next() {
		cells, to := make([]sql.NullString, len(columns)), make([]any, len(columns))
		for i := range cells {
			to[i] = &cells[i]
		}
		if err := rows.Scan(to...); err != nil {
			s.t.Fatal(err)
		}
		texts := make([]string, len(cells))
		for i, c := range cells {
			if texts[i] = c.String; !c.Valid {
				texts[i] = "NULL"
			}
		}
		all = append(all, strings.Join(texts, "|"))
	}
	if err := rows.Err(); err != nil {
		s.t.Fatal(err)
	}
	return all
}

// Shell runs statements through the client program.
func (s *Server) Shell(database, statements string) {
	s.t.Helper()
	cmd := exec.Command("mariadb", "--no-defaults", "-uroot", "--socket="+s.Socket, "--default-character-set=utf8mb4", "--database="+database)
	cmd.Stdin = strings.NewReader(statements)
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("%v: %s", err, out)
	}
}

// install makes a data directory.
func install(data string) error {
	template.Do(func() {
		template.dir, template.err = os.MkdirTemp("", "mysql-template")
		if template.err != nil {
			return
		}
		chown(template.dir)
		args := []string{"--no-defaults", "--datadir=" + filepath.Join(template.dir, "data"), "--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve",
			"--innodb-log-file-size=8M"}
		if os.Geteuid() == 0 {
			args = append(args, "--user=mysql")
		}
		if out, err := exec.Command("mariadb-install-db", args...).CombinedOutput(); err != nil {
			template.err = fmt.Errorf("mariadb-install-db: %w\n%s", err, out)
		}
	})
	if template.err != nil {
		return template.err
	}
	if out, err := exec.Command("cp", "-a", filepath.Join(template.dir, "data")+"/.", data).CombinedOutput(); err != nil {
		return fmt.Errorf("copy the data directory: %w\n%s", err, out)
	}
	return nil
}

// Cleanup removes what all servers of a process have in common; for TestMain.
func Cleanup() {
	if template.dir != "" {
		os.RemoveAll(template.dir)
	}
}

// chown gives a directory to the user mysql, as root.
func chown(dir string) {
	if os.Geteuid() != 0 {
		return
	}
	if u, err := user.Lookup("mysql"); err == nil {
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		os.Chown(dir, uid, gid)
	}
}
