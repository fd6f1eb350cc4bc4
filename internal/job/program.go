package job

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/backup"
	"github.com/SP1R4/BackupHandler/v3/internal/command"
	"github.com/SP1R4/BackupHandler/v3/internal/dbdump"
)

// A Program is a command whose standard output becomes a file of a stream. Only if it
// ends by itself, with exit code 0, having printed something, there is one.
type Program struct {
	Line       string   // for the shell
	Args       []string // in its place
	File       string   // below the stream's source; ".": the source itself
	AllowEmpty bool     // it may print nothing

	Limit  time.Duration // 0: none
	Env    []string
	Redact func(string) string
	Log    *slog.Logger // gets what it says on standard error
}

// streamGrace is how long a command may take to end when it is asked to: less than
// stopTime, so that none is left behind.
const streamGrace = time.Second

const emptyHint = "if nothing is what it should be, add --allow-empty, or set allow_empty in its section; nothing was stored of it"

// Produce is Stream.Produce.
func (p *Program) Produce(ctx context.Context, to *backup.Sink, _ fs.FS) error {
	w, err := to.Create(p.File)
	if err != nil {
		return err
	}
	out := &counter{w: w}
	p.Log.Info("command starts")
	res := command.Run(ctx, command.Command{
		Line: p.Line, Args: p.Args, Env: p.Env, Limit: p.Limit, Grace: streamGrace, Redact: p.Redact, Stdout: out,
		OnLine: func(line string, _ bool) { p.Log.Warn("command prints", "line", line) },
	})
	p.Log.Info("command ended", "exit_code", res.ExitCode, "seconds", res.Took.Seconds(), "bytes", out.n, "dropped_bytes", res.Dropped)
	if res.Err != nil {
		return fmt.Errorf("the command %w%s", res.Err, lastLine(res.LastLine))
	}
	if out.n == 0 && !p.AllowEmpty {
		return &dbdump.Error{Err: errors.New("the command ended well, but has printed nothing"), Hint: emptyHint}
	}
	return w.Close()
}

// A counter counts what is written.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// An Input is what a reader gives, once, as a file of a stream.
type Input struct {
	From       io.Reader
	File       string // as Program has it
	AllowEmpty bool

	used bool
}

// Produce is Stream.Produce. When ctx ends, it leaves a Read behind.
func (p *Input) Produce(ctx context.Context, to *backup.Sink, _ fs.FS) error {
	if p.used {
		return &dbdump.Error{Err: errors.New("standard input can be read once only"), Hint: "run it again"}
	}
	p.used = true
	w, err := to.Create(p.File)
	if err != nil {
		return err
	}
	type part struct {
		data []byte
		err  error
	}
	full, empty := make(chan part), make(chan []byte, 2)
	empty <- make([]byte, inputBytes)
	empty <- make([]byte, inputBytes)
	go func() {
		for buf := range empty {
			n, err := p.From.Read(buf)
			select {
			case full <- part{buf[:n], err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	defer close(empty)
	for got := int64(0); ; {
		var x part
		select {
		case x = <-full:
		case <-ctx.Done():
			return ctx.Err()
		}
		if _, err := w.Write(x.data); err != nil {
			return err
		}
		got += int64(len(x.data))
		switch {
		case x.err == io.EOF && got == 0 && !p.AllowEmpty:
			return &dbdump.Error{Err: errors.New("standard input is empty"), Hint: "did what should print it fail? If nothing is what it should be, add --allow-empty; nothing was stored"}
		case x.err == io.EOF:
			return w.Close()
		case x.err != nil:
			return fmt.Errorf("read standard input: %w", x.err)
		}
		empty <- x.data[:cap(x.data)]
	}
}

// inputBytes is how much is read at a time, while as much is stored.
const inputBytes = 256 << 10
