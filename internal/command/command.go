// Package command runs the commands that a configuration names: hooks, what judges a
// drill, and what prints a stream that is backed up.
//
// A command is a line for the shell, or a program and its arguments. It runs in a process group of its own, so that
// all it has started can be ended with it, with a time limit, and without a terminal.
// Its output is read line by line, never held in memory as a whole, and may be
// anything: binary, without an end, a hundred megabytes.
//
// Packages that run programs of their own choice, without a shell, take Apart and
// KillGroup from here.
//
// Whether a command may be run at all is the caller's question: one in a file that
// others can change must not be (config.OthersCanChange).
package command

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// Bounds of what is kept of a command's output.
const (
	// maxLine is the longest line, in bytes, that is passed on; the rest of it is
	// dropped. readLine is how much of it is looked at: secrets are taken out before
	// the line is cut, so that no half of one stays.
	maxLine, readLine = 4 << 10, 64 << 10
	// maxLines is how many lines are passed on.
	maxLines = 10_000
	// maxTail is how much of the end is kept, in bytes.
	maxTail = 16 << 10
	// pipeWait is how long processes that have left the group may hold the output
	// open after the command has ended.
	pipeWait = 2 * time.Second
)

// A Command is what to run.
type Command struct {
	Line string   // for /bin/sh -c, or cmd /C on Windows
	Args []string // in its place: a program and its arguments, without a shell
	Dir  string   // to run in; "": the program's own
	Env  []string // all of it

	// Limit is how long it may take; 0: as long as it likes.
	Limit time.Duration
	// Grace is how long it may take to end once it is asked to (SIGTERM), after Limit
	// or when the context ends; then, or at once if 0, it is killed.
	Grace time.Duration

	// Redact takes secrets out of a line; nil: there are none.
	Redact func(string) string
	// OnLine receives the lines of standard output and of standard error, at most
	// 10,000 of 4 KiB; never two at a time. nil: nobody does.
	OnLine func(line string, stderr bool)
	// Stdout receives all of standard output in its place, as it is. If it fails, so does
	// the command; and if processes that the command has left behind might have printed more, that
	// is a failure, too. nil: standard output is read by the line.
	Stdout io.Writer
}

// A Result is what became of a command.
type Result struct {
	ExitCode int // -1: it did not start, or a signal ended it
	Took     time.Duration
	TimedOut bool   // it was ended at its limit
	Output   string // the end of it, both streams, at most 16 KiB, without secrets
	// LastLine is the last one of standard error that is not empty, or else of standard
	// output: often the cause of a failure.
	LastLine string
	Dropped  int64 // bytes of output that OnLine did not get
	// Err is nil if the command ended by itself, with exit code 0. It says what
	// happened in words that fit behind the command's name: "failed with exit code 3".
	Err error
}

// Run runs a command to its end, and ends all that it has started. When the context
// ends, so does the command.
func Run(ctx context.Context, c Command) Result {
	limit := errors.New("limit")
	work, cancel := ctx, context.CancelFunc(func() {})
	if c.Limit > 0 {
		work, cancel = context.WithTimeoutCause(ctx, c.Limit, limit)
	}
	defer cancel()
	if c.Redact == nil {
		c.Redact = func(line string) string { return line }
	}
	out := &output{command: &c}
	stdout, stderr := &stream{out: out}, &stream{out: out, stderr: true}
	var cmd *exec.Cmd
	if len(c.Args) > 0 {
		cmd = exec.Command(c.Args[0], c.Args[1:]...)
	} else {
		cmd = shell(c.Line)
	}
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = c.Dir, c.Env, stdout, stderr, pipeWait
	if c.Stdout != nil {
		cmd.Stdout = c.Stdout
	}
	Apart(cmd)
	start := time.Now()
	asked := false // to end
	err := cmd.Start()
	if err == nil {
		ended := make(chan struct{})
		var ending sync.WaitGroup
		ending.Go(func() {
			select {
			case <-ended:
				return
			case <-work.Done():
				asked = true
			}
			if c.Grace > 0 && terminate(cmd) == nil {
				select {
				case <-ended:
				case <-time.After(c.Grace):
				}
			}
			KillGroup(cmd)
		})
		err = cmd.Wait()
		close(ended)
		ending.Wait()
		KillGroup(cmd) // what it has left in the background
	}
	stdout.end()
	stderr.end()
	r := Result{ExitCode: -1, Took: time.Since(start), Output: out.tail.String(), LastLine: cmp.Or(out.last[1], out.last[0]), Dropped: out.dropped}
	if cmd.ProcessState != nil {
		r.ExitCode = cmd.ProcessState.ExitCode()
	}
	switch {
	case r.ExitCode == 0 && !asked && c.Stdout != nil && err != nil:
		if errors.Is(err, exec.ErrWaitDelay) {
			err = errors.New("it has ended, and what it has left behind keeps its output open")
		}
		r.Err = fmt.Errorf("failed: %w", err)
	case r.ExitCode == 0 && !asked:
	case asked && context.Cause(work) == limit:
		r.TimedOut = true
		r.Err = fmt.Errorf("was ended: it took longer than %s", c.Limit)
	case asked:
		r.Err = fmt.Errorf("was ended: %w", context.Cause(ctx))
	case r.ExitCode > 0:
		r.Err = fmt.Errorf("failed with exit code %d", r.ExitCode)
	default:
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			err = errors.New(exit.ProcessState.String())
		}
		r.Err = fmt.Errorf("failed: %w", err)
	}
	return r
}

// An output is what both streams of a command have in common.
type output struct {
	command *Command
	mu      sync.Mutex
	lines   int
	tail    tail
	last    [2]string // line of standard output, of standard error
	dropped int64     // bytes
}

// line passes one on, as it was read: without its end, of at most readLine bytes.
func (o *output) line(raw []byte, more int64, stderr bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	text := o.command.Redact(strings.ToValidUTF8(string(raw), "\uFFFD"))
	if len(text) > maxLine {
		more += int64(len(text) - maxLine)
		text = strings.ToValidUTF8(text[:maxLine], "") + "…"
	}
	o.tail.add(text)
	if strings.TrimSpace(text) != "" {
		i := 0
		if stderr {
			i = 1
		}
		o.last[i] = text
	}
	if o.lines++; o.lines > maxLines {
		o.dropped += int64(len(text)) + more
		return
	}
	o.dropped += more
	if o.command.OnLine != nil {
		o.command.OnLine(text, stderr)
	}
}

// A stream cuts what is written to it into lines.
type stream struct {
	out    *output
	stderr bool
	buf    []byte
	more   int64 // bytes of the line that do not fit into buf
}

func (s *stream) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		part, rest, end := bytes.Cut(p, []byte{'\n'})
		fits := min(len(part), readLine-len(s.buf))
		s.buf = append(s.buf, part[:fits]...)
		s.more += int64(len(part) - fits)
		if end {
			s.flush()
		}
		p = rest
	}
	return n, nil
}

func (s *stream) flush() {
	s.out.line(bytes.TrimSuffix(s.buf, []byte{'\r'}), s.more, s.stderr)
	s.buf, s.more = s.buf[:0], 0
}

// end passes on a last line without an end.
func (s *stream) end() {
	if len(s.buf) > 0 {
		s.flush()
	}
}

// A tail keeps the last lines that it is given.
type tail struct {
	text []byte
	cut  bool
}

func (t *tail) add(line string) {
	t.text = append(append(t.text, line...), '\n')
	if len(t.text) > 2*maxTail {
		t.text, t.cut = append(t.text[:0], t.text[len(t.text)-maxTail:]...), true
	}
}

func (t *tail) String() string {
	text, cut := t.text, t.cut
	if over := len(text) - maxTail; over > 0 {
		text, cut = text[over:], true
	}
	if !cut {
		return string(text)
	}
	return "…" + strings.ToValidUTF8(string(text), "")
}
