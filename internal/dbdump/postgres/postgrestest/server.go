//go:build unix

// Package postgrestest starts PostgreSQL servers for tests, from the programs of Debian's
// package postgresql: on a free port of loopback and a socket of their own, without
// flushing to disk. As root they run as the account "postgres".
package postgrestest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Password is that of the user "postgres" through TCP; the socket wants none.
const Password = "s3cret of the test"

// A Server is a running server.
type Server struct {
	Dir  string // socket, log and data are below it; others may enter it
	Port int

	t   testing.TB
	cmd *exec.Cmd
	end chan struct{} // closed when it has ended
}

// Data is the directory of the cluster.
func (s *Server) Data() string { return filepath.Join(s.Dir, "data") }

// Bin is where the newest programs are.
func Bin(t testing.TB) string {
	t.Helper()
	best, dir := -1, ""
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres") // the pattern is valid
	for _, f := range found {
		d := filepath.Dir(f)
		if v, err := strconv.Atoi(filepath.Base(filepath.Dir(d))); err == nil && v > best {
			best, dir = v, d
		}
	}
	if dir == "" {
		t.Fatal("PostgreSQL is not installed (make test installs it; on Debian: apt-get install postgresql)")
	}
	return dir
}

// Dir makes a directory that the server's account can enter, until the test ends. Names
// of sockets are short, so that it is not below that of the test.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "bh-pg-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// As makes a command run as the server's account.
func As(t testing.TB, cmd *exec.Cmd) *exec.Cmd {
	t.Helper()
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	deathsig(cmd)
	if uid, gid := account(t); uid >= 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	return cmd
}

func account(t testing.TB) (uid, gid int) {
	t.Helper()
	if os.Geteuid() != 0 {
		return -1, -1
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		t.Fatal(err)
	}
	uid, _ = strconv.Atoi(u.Uid)
	gid, _ = strconv.Atoi(u.Gid)
	return uid, gid
}

// Own gives a file or directory to the server's account.
func Own(t testing.TB, name string) {
	t.Helper()
	if uid, gid := account(t); uid >= 0 {
		if err := os.Chown(name, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
}

// New makes a cluster and starts its server, until the test ends. Settings are lines of
// its configuration.
func New(t testing.TB, settings ...string) *Server {
	t.Helper()
	s := Init(t)
	s.Start(settings...)
	return s
}

// Init makes a cluster.
func Init(t testing.TB) *Server {
	t.Helper()
	s := &Server{Dir: Dir(t), t: t}
	Own(t, s.Dir)
	pw := filepath.Join(s.Dir, "pw")
	if err := os.WriteFile(pw, []byte(Password+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	initdb := As(t, exec.Command(filepath.Join(Bin(t), "initdb"), "-D", s.Data(), "-U", "postgres", "--auth-host=scram-sha-256",
		"--auth-local=trust", "--pwfile="+pw, "-E", "UTF8", "--locale=C.UTF-8", "--no-sync", "--wal-segsize=1"))
	if out, err := initdb.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	return s
}

// Copy is New from a cluster that is there and has not been started: that is faster.
func Copy(t testing.TB, from *Server, settings ...string) *Server {
	t.Helper()
	s := &Server{Dir: Dir(t), t: t}
	Own(t, s.Dir)
	if out, err := As(t, exec.Command("cp", "-a", from.Data(), s.Data())).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v\n%s", err, out)
	}
	s.Start(settings...)
	return s
}

// At is the server of a cluster that is there already, in dir/data; Start starts it.
func At(t testing.TB, dir string) *Server { return &Server{Dir: dir, t: t} }

// Start starts a server that does not run, and waits until it takes connections. The
// settings come behind those of earlier starts.
func (s *Server) Start(settings ...string) {
	s.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	s.Port = l.Addr().(*net.TCPAddr).Port
	l.Close()
	conf, err := os.OpenFile(filepath.Join(s.Data(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	fmt.Fprintf(conf, "\nport = %d\nunix_socket_directories = '%s'\nlisten_addresses = '127.0.0.1'\nfsync = off\nshared_buffers = 32MB\nmax_connections = 40\n%s\n",
		s.Port, s.Dir, strings.Join(settings, "\n"))
	if err := conf.Close(); err != nil {
		s.t.Fatal(err)
	}
	log, err := os.OpenFile(filepath.Join(s.Dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	// The thread that starts a process must live as long as this, for its death signal.
	started := make(chan error)
	s.end = make(chan struct{})
	end := s.end
	s.cmd = As(s.t, exec.Command(filepath.Join(Bin(s.t), "postgres"), "-D", s.Data()))
	s.cmd.Stdout, s.cmd.Stderr = log, log
	cmd := s.cmd
	go func() {
		runtime.LockOSThread()
		defer close(end)
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(s.Stop)
	for try := 0; ; try++ {
		if _, err := s.Try("postgres", "SELECT 1"); err == nil {
			return
		}
		select {
		case <-end:
			s.t.Fatalf("the server has ended:\n%s", s.Log())
		case <-time.After(50 * time.Millisecond):
		}
		if try == 1200 {
			s.t.Fatalf("the server does not answer:\n%s", s.Log())
		}
	}
}

// Stop ends the server, in good order and at once. Nothing happens if it does not run.
func (s *Server) Stop() { s.signal(syscall.SIGINT) }

// Kill ends the server as a crash of its machine would, but for what is in memory.
func (s *Server) Kill() { s.signal(syscall.SIGQUIT) }

func (s *Server) signal(sig syscall.Signal) {
	if s.cmd == nil {
		return
	}
	s.cmd.Process.Signal(sig)
	<-s.end
	s.cmd = nil
}

// Wait waits until the server ends by itself.
func (s *Server) Wait() {
	if s.cmd != nil {
		<-s.end
	}
}

// Log is what the server has logged.
func (s *Server) Log() string {
	b, err := os.ReadFile(filepath.Join(s.Dir, "log"))
	if err != nil {
		s.t.Fatal(err)
	}
	return string(b)
}

// Command is a program that connects to a database as superuser, through the socket.
func (s *Server) Command(ctx context.Context, database, program string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, filepath.Join(Bin(s.t), program), args...)
	c.Env = append(os.Environ(), "PGHOST="+s.Dir, "PGPORT="+strconv.Itoa(s.Port), "PGUSER=postgres", "PGDATABASE="+database, "LC_ALL=C", "PGCLIENTENCODING=UTF8")
	return c
}

// Try runs statements, and returns what they print: a line for each row, with | between
// columns.
func (s *Server) Try(database, sql string) (string, error) {
	c := s.Command(context.Background(), database, "psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-f", "-")
	c.Stdin = strings.NewReader(sql)
	out, err := c.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return strings.TrimSuffix(string(out), "\n"), nil
}

// SQL is Try that ends the test.
func (s *Server) SQL(database, sql string) string {
	s.t.Helper()
	out, err := s.Try(database, sql)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}
