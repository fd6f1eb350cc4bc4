package mysql

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/dbdump"
	"github.com/SP1R4/BackupHandler/v3/internal/lazyregexp"
)

// The programs of a server are not on every PATH.
var serverDirs = []string{"/usr/sbin", "/usr/local/sbin", "/usr/libexec", "/usr/local/mysql/bin"}

const (
	// scratchStart bounds the start of a scratch server, scratchStop its end.
	scratchStart, scratchStop = 2 * time.Minute, time.Minute
	// serverUser is who a server runs as that root has started: it refuses to be root.
	serverUser = "mysql"
)

// A scratch is a server of its own: with a data directory that goes with it, and a socket
// in that. No other user and no network leads to it.
type scratch struct {
	dir     string
	running *dbdump.Running
	ended   chan error
}

// startScratch starts the server that is installed here, with its data below parent; "":
// the system's directory for temporary files.
func startScratch(ctx context.Context, parent string) (_ *scratch, err error) {
	program, err := dbdump.FindProgram("mariadb-server", serverDirs, "mariadbd", "mysqld")
	if err != nil {
		return nil, err
	}
	mariaDB := strings.Contains(filepath.Base(program), "mariadb")
	if !mariaDB {
		var out strings.Builder
		if err := (dbdump.Child{Path: program, Args: []string{"--no-defaults", "--version"}, Stdout: &out}).Run(ctx); err != nil {
			return nil, err
		}
		mariaDB = strings.Contains(out.String(), "MariaDB")
	}
	c := &scratch{ended: make(chan error, 1)}
	if c.dir, err = os.MkdirTemp(parent, "backup-handler-mysql-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(c.dir)
		}
	}()
	if len(c.socket()) > 100 {
		return nil, &dbdump.Error{Err: fmt.Errorf("the path of the directory for a scratch server, %s, is too long for a socket in it", c.dir), Hint: "choose a directory with a shorter one"}
	}
	var as []string
	if os.Geteuid() == 0 {
		u, err := user.Lookup(serverUser)
		if err != nil {
			return nil, &dbdump.Error{Err: fmt.Errorf("a server does not run as root, and there is no user %s: %w", serverUser, err), Hint: "make the user, or run the check as another one than root"}
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		if err := os.Chown(c.dir, uid, gid); err != nil {
			return nil, err
		}
		if err := dbdump.CheckEnter(c.dir, uint32(uid), uint32(gid)); err != nil {
			return nil, err
		}
		as = []string{"--user=" + serverUser}
	}
	data, log := filepath.Join(c.dir, "data"), c.log()
	if err := c.install(ctx, program, mariaDB, data, as); err != nil {
		return nil, err
	}
	// Only the socket: the directory lets nobody else in. What is here need not outlive a
	// power failure.
	args := append([]string{"--no-defaults", "--datadir=" + data, "--socket=" + c.socket(), "--skip-networking", "--pid-file=" + filepath.Join(c.dir, "pid"), "--log-error=" + log,
		"--character-set-server=utf8mb4", "--max-allowed-packet=1G", "--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0", "--innodb-buffer-pool-size=128M",
		"--skip-log-bin", "--event-scheduler=OFF", "--local-infile=0", "--secure-file-priv=" + c.dir, "--performance-schema=OFF"}, as...)
	c.running, err = dbdump.Child{Path: program, Args: args, Dir: c.dir, Env: c.env()}.Start(ctx)
	if err != nil {
		return nil, err
	}
	go func() { c.ended <- c.running.Wait() }()
	if err := c.wait(ctx, log); err != nil {
		c.stop()
		return nil, err
	}
	return c, nil
}

func (c *scratch) socket() string { return filepath.Join(c.dir, "socket") }
func (c *scratch) log() string    { return filepath.Join(c.dir, "log") }

// env keeps the server from our own directory for temporary files, which may be nobody
// else's, and from those of other servers: it removes temporary tables where it starts.
func (c *scratch) env() []string { return []string{"TMPDIR=" + c.dir} }

func (c *scratch) server() Server { return Server{Socket: c.socket(), User: "root"} }

// install makes the data directory: an account root without a password, for the socket.
func (c *scratch) install(ctx context.Context, program string, mariaDB bool, data string, as []string) error {
	child := dbdump.Child{Path: program, Args: append([]string{"--no-defaults", "--initialize-insecure", "--datadir=" + data}, as...), Dir: c.dir, Env: c.env()}
	if mariaDB {
		path, err := dbdump.FindProgram("mariadb-server", serverDirs, "mariadb-install-db", "mysql_install_db")
		if err != nil {
			return err
		}
		child.Path = path
		child.Args = append([]string{"--no-defaults", "--datadir=" + data, "--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"}, as...)
	}
	err := child.Run(ctx)
	if failed, ok := errors.AsType[*dbdump.ChildError](err); ok {
		// The first of its errors says why, the others what follows from it.
		if said := firstError(failed.Stderr); said != "" {
			err = errors.New(failed.Name + ": " + said)
		}
		err = c.noRoom(fmt.Errorf("make the data of a scratch server: %w", err), failed.Stderr)
	}
	return err
}

// wait waits until the server answers.
func (c *scratch) wait(ctx context.Context, log string) error {
	deadline := time.Now().Add(scratchStart)
	for {
		s, err := open(ctx, c.server())
		if err == nil {
			s.close()
			return nil
		}
		select {
		case ended := <-c.ended:
			c.ended <- ended
			return c.noRoom(fmt.Errorf("the scratch server has ended at its start: %s", lastLine(log)), lastLine(log))
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the scratch server does not answer: %w", err)
		}
	}
}

// full are the ways in which a server says that its disk is full.
var full = lazyregexp.New(`(?i)no space left|disk (?:is )?full|err(?:or|no|code):? 28\b`)

// noRoom adds to an error what to do, if what was said with it says that there is no room.
func (c *scratch) noRoom(err error, said string) error {
	if !full().MatchString(said) {
		return err
	}
	return &dbdump.Error{Err: err, Hint: fmt.Sprintf("there is no room for the scratch server in %s: choose a larger directory (--scratch, [DRILL] dir, $TMPDIR)", filepath.Dir(c.dir))}
}

// why says of an error what became of the server, whose log nobody can look into.
func (c *scratch) why(err error) error {
	switch dbdump.Hint(err) {
	case fullHint:
		return c.noRoom(err, "no space left")
	case goneHint:
		log := lastLine(c.log())
		return c.noRoom(fmt.Errorf("%w: the scratch server has ended: %s", err, log), log)
	}
	return err
}

// firstError is the first line of a server's log that is an error, without its head; "":
// none is.
func firstError(log string) string {
	for line := range strings.Lines(log) {
		if _, said, ok := strings.Cut(line, "[ERROR] "); ok {
			return printable(strings.TrimSpace(said))
		}
	}
	return ""
}

func lastLine(path string) string {
	b, _ := os.ReadFile(path)
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		if strings.Contains(lines[i], "[ERROR]") {
			return printable(lines[i])
		}
	}
	return printable(lines[len(lines)-1])
}

// stop ends the server and removes all that it has.
func (c *scratch) stop() error {
	select {
	case err := <-c.ended:
		c.ended <- err
	default:
		if c.running.Signal(syscall.SIGTERM) != nil {
			c.running.Signal(os.Kill)
		}
		select {
		case err := <-c.ended:
			c.ended <- err
		case <-time.After(scratchStop):
			c.running.Signal(os.Kill)
			<-c.ended
		}
	}
	if err := os.RemoveAll(c.dir); err != nil {
		return errors.Join(errors.New("the scratch server's files are left over"), err)
	}
	return nil
}
