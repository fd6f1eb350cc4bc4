package dbdump

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/command"
)

// ErrNoProgram says that a program is not installed, or not where it was looked for.
var ErrNoProgram = errors.New("program not found")

// FindProgram returns the path of the first of several programs that is installed: on
// the PATH, or else in one of the directories. pkg is the Debian package that has them,
// for the hint.
func FindProgram(pkg string, dirs []string, names ...string) (string, error) {
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return filepath.Abs(path)
		}
		for _, dir := range dirs {
			if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
				return path, nil
			}
		}
	}
	return "", &Error{
		Err:  fmt.Errorf("%s: %w on the PATH", strings.Join(names, " or "), ErrNoProgram),
		Hint: "install the package that has it (Debian: apt-get install " + pkg + "), or put its directory on the PATH",
	}
}

// A Child is a program to run, without a shell and without a terminal.
type Child struct {
	Path string
	Args []string // no secrets: everyone on the machine can read them
	// Env is added to what every program gets: PATH, HOME, TMPDIR, and the C locale,
	// which makes messages English.
	Env []string
	Dir string // to run in; "": the program's own
	// Stdin is copied to the child; nil: it has none.
	Stdin io.Reader
	// Stdout receives what it prints; nil: nobody does. A writer that is an
	// io.ReaderFrom reads the pipe itself, in pieces of the size it likes.
	Stdout io.Writer
	// Secrets are taken out of what it says on standard error.
	Secrets []string
	// OnLine receives the lines of standard error, of at most 4 KiB; nil: nobody does.
	OnLine func(line string)
	// Prepare changes the command before it starts, as to run it for another account;
	// nil: nothing is to be changed.
	Prepare func(*exec.Cmd)
}

const (
	// maxStderrLine and maxStderrTail bound what is kept of standard error, in bytes.
	maxStderrLine, maxStderrTail = 4 << 10, 16 << 10
	// childWait is how long those that have left the group of an ended child may hold
	// its output open.
	childWait = 2 * time.Second
)

// A ChildError is the failure of a program.
type ChildError struct {
	Name   string // of the program
	Err    error  // what became of it: "exit status 2"
	Stderr string // the end of what it said, without secrets, at most 16 KiB
	Last   string // the last line of that which is not empty
}

func (e *ChildError) Error() string {
	if e.Last == "" {
		return e.Name + ": " + e.Err.Error()
	}
	// Most programs say their name themselves, some with its directory.
	if i := strings.Index(e.Last, e.Name+": "); i >= 0 && !strings.ContainsRune(e.Last[:i], ' ') {
		return e.Last[i:]
	}
	return e.Name + ": " + e.Last
}

func (e *ChildError) Unwrap() error { return e.Err }

// Run runs a program to its end. It runs in a process group of its own, which is killed
// when the context ends, and then the cause of that is what failed. An error of Stdin
// or Stdout ends it, too. Other failures are a *[ChildError].
func (c Child) Run(ctx context.Context) error {
	r, err := c.Start(ctx)
	if err != nil {
		return err
	}
	return r.Wait()
}

// A Running is a child that was started.
type Running struct {
	ctx    context.Context
	cancel context.CancelFunc
	cmd    *exec.Cmd
	name   string
	stderr *stderrLines
	copies *copying
	output chan struct{} // closed when Stdout has everything
}

// Start starts a program; Wait has to be called.
func (c Child) Start(ctx context.Context) (*Running, error) {
	name := filepath.Base(c.Path)
	ctx, cancel := context.WithCancel(ctx)
	r := &Running{ctx: ctx, cancel: cancel, name: name, stderr: &stderrLines{child: &c}, copies: &copying{}}
	cmd := exec.CommandContext(ctx, c.Path, c.Args...)
	cmd.Dir, cmd.Env, cmd.Stderr, cmd.WaitDelay = c.Dir, append(childEnv(), c.Env...), r.stderr, childWait
	cmd.Cancel = func() error { command.KillGroup(cmd); return nil }
	if c.Stdin != nil {
		cmd.Stdin = &childInput{c.Stdin, r}
	}
	// The pipe of standard output is ours: exec would close its own childWait after the
	// end of the program, even if Stdout is only slow.
	var from, to *os.File
	if f, ok := c.Stdout.(*os.File); ok {
		cmd.Stdout = f
	} else if c.Stdout != nil {
		var err error
		if from, to, err = os.Pipe(); err != nil {
			cancel()
			return nil, err
		}
		cmd.Stdout = to
	}
	command.Apart(cmd)
	if c.Prepare != nil {
		c.Prepare(cmd)
	}
	r.cmd = cmd
	err := cmd.Start()
	if to != nil {
		to.Close()
	}
	if err != nil {
		if from != nil {
			from.Close()
		}
		cancel()
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	r.output = make(chan struct{})
	go func() {
		defer close(r.output)
		if from == nil {
			return
		}
		defer from.Close()
		// Who has left the group may hold the pipe open.
		stop := context.AfterFunc(ctx, func() { time.AfterFunc(childWait, func() { from.SetReadDeadline(time.Now()) }) })
		defer stop()
		if err := copyOutput(c.Stdout, widen(from)); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			r.copies.set(err)
			cancel()
		}
	}()
	return r, nil
}

// PID is the process ID.
func (r *Running) PID() int { return r.cmd.Process.Pid }

// Signal sends a signal to the program itself.
func (r *Running) Signal(s os.Signal) error { return r.cmd.Process.Signal(s) }

// Wait waits for the program's end, and ends what it has left in its group.
func (r *Running) Wait() error {
	ended := context.Cause(r.ctx) // before the end of the child is one
	err := r.cmd.Wait()
	if ended == nil {
		ended = context.Cause(r.ctx)
	}
	command.KillGroup(r.cmd)
	<-r.output
	defer r.cancel()
	r.stderr.end()
	if copied := r.copies.err(); copied != nil {
		return copied
	}
	if err == nil {
		return nil
	}
	if ended != nil {
		return fmt.Errorf("%s was ended: %w", r.name, ended)
	}
	tail, last := r.stderr.text()
	return &ChildError{Name: r.name, Err: err, Stderr: tail, Last: last}
}

// copying keeps the first error of our side of the pipes.
type copying struct {
	mu    sync.Mutex
	first error
}

func (c *copying) set(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.first == nil {
		c.first = err
	}
}

func (c *copying) err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.first
}

// childInput is Stdin; when it fails, the child is ended, as it would take the end of
// its input for all of it.
type childInput struct {
	from io.Reader
	r    *Running
}

func (i *childInput) Read(p []byte) (int, error) {
	n, err := i.from.Read(p)
	if err != nil && err != io.EOF {
		i.r.copies.set(err)
		i.r.cancel()
	}
	return n, err
}

func copyOutput(to io.Writer, from io.Reader) (err error) {
	if direct, ok := to.(io.ReaderFrom); ok {
		_, err = direct.ReadFrom(from)
	} else {
		_, err = io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, 64<<10))
	}
	return err
}

// childEnv is what every program gets of our environment: nothing that could change
// what it does, or hold a secret.
func childEnv() []string {
	env := []string{"LC_ALL=C"}
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "TZ", "SYSTEMROOT", "TEMP", "TMP"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// stderrLines cuts standard error into lines, and keeps the end of it.
type stderrLines struct {
	child *Child
	mu    sync.Mutex
	line  []byte
	tail  []byte
	last  string
}

func (s *stderrLines) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(p)
	for len(p) > 0 {
		part, rest, whole := bytes.Cut(p, []byte{'\n'})
		// Secrets are taken out before the line is cut, so that no half of one stays.
		s.line = append(s.line, part[:min(len(part), 16*maxStderrLine-len(s.line))]...)
		if whole {
			s.flush()
		}
		p = rest
	}
	return n, nil
}

func (s *stderrLines) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.line) > 0 {
		s.flush()
	}
}

func (s *stderrLines) flush() {
	text := strings.ToValidUTF8(strings.TrimRight(string(s.line), "\r"), "\uFFFD")
	s.line = s.line[:0]
	for _, secret := range s.child.Secrets {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "***")
		}
	}
	if len(text) > maxStderrLine {
		text = strings.ToValidUTF8(text[:maxStderrLine], "") + "…"
	}
	if strings.TrimSpace(text) != "" {
		s.last = text
	}
	s.tail = append(append(s.tail, text...), '\n')
	if over := len(s.tail) - maxStderrTail; over > 0 {
		s.tail = append(s.tail[:0], s.tail[over:]...)
	}
	if s.child.OnLine != nil {
		s.child.OnLine(text)
	}
}

func (s *stderrLines) text() (tail, last string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.ToValidUTF8(string(s.tail), ""), s.last
}

// Hint returns the hint of an error, "" if it has none.
func Hint(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Hint
	}
	return ""
}
