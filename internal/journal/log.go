package journal

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/DeRuina/timberjack"

	"github.com/SP1R4/BackupHandler/v3/internal/durable"
)

// maxLogText bounds one message or one text value, in bytes, so that a program
// that fails with a megabyte of output cannot fill the log.
const maxLogText = 8 << 10

// LogOptions says where and how the application log is written.
type LogOptions struct {
	Dir       string       // state directory; the log is Logs/application.log in it
	RunID     string       // on each line
	Level     slog.Leveler // least level that is written; nil is slog.LevelInfo
	JSON      bool         // JSON lines instead of text
	MaxSizeMB int          // MiB at which the log is rotated, at least 1
	MaxFiles  int          // rotated logs that are kept, at least 1
}

// A Log is the open application log. It may be used concurrently, and several
// processes may write to the same files: no line is lost or mixed up. A process
// that did not rotate the log itself goes on writing to the rotated file until
// it has written as much as a file may hold.
type Log struct {
	file    *rotatingFile
	handler slog.Handler
}

// OpenLog opens the log, and makes the directory and the file if need be.
func OpenLog(o LogOptions) (*Log, error) {
	if o.MaxSizeMB < 1 || o.MaxFiles < 1 {
		return nil, fmt.Errorf("open the log: %d files of %d MiB: at least 1 each", o.MaxFiles, o.MaxSizeMB)
	}
	dir, err := makeLogsDir(o.Dir)
	if err != nil {
		return nil, err
	}
	file, err := openRotatingFile(filepath.Join(dir, "application.log"), o.MaxSizeMB, o.MaxFiles)
	if err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	options := &slog.HandlerOptions{Level: o.Level, ReplaceAttr: cutLongText}
	var handler slog.Handler = slog.NewTextHandler(file, options)
	if o.JSON {
		handler = slog.NewJSONHandler(file, options)
	}
	handler = handler.WithAttrs([]slog.Attr{slog.String("run_id", o.RunID), slog.Int("pid", os.Getpid())})
	return &Log{file, handler}, nil
}

// Handler returns the log as a handler, to be combined with others.
func (l *Log) Handler() slog.Handler { return l.handler }

// Logger returns a logger that writes to the log alone.
func (l *Log) Logger() *slog.Logger { return slog.New(l.handler) }

// Close closes the file. It returns the first error of all writes, which slog
// has no way to return.
func (l *Log) Close() error { return l.file.close() }

func cutLongText(_ []string, a slog.Attr) slog.Attr {
	text := ""
	switch v := a.Value.Resolve(); v.Kind() {
	case slog.KindString:
		text = v.String()
	case slog.KindAny:
		if err, ok := v.Any().(error); ok {
			text = err.Error()
		}
	}
	if len(text) > maxLogText {
		a.Value = slog.StringValue(text[:maxLogText] + "… (cut)")
	}
	return a
}

// A rotatingFile is a file that timberjack rotates, at our command, and under a
// lock, because timberjack expects to be alone: it makes the file that follows a
// rotation without O_APPEND, and would overwrite what other processes write to
// it. One that exists it opens for appending. So each rotation ends with a new
// timberjack.Logger, which has opened the file before the lock is released.
type rotatingFile struct {
	name     string
	maxBytes int64
	maxFiles int

	mu     sync.Mutex
	rolled *timberjack.Logger
	size   int64 // bytes, as far as this process knows
	err    error // the first one
	closed bool
}

func openRotatingFile(name string, maxMB, maxFiles int) (*rotatingFile, error) {
	f := &rotatingFile{name: name, maxBytes: int64(maxMB) << 20, maxFiles: maxFiles}
	lock, err := f.lock()
	if err != nil {
		return nil, err
	}
	defer lock.Unlock()
	return f, f.open()
}

func (f *rotatingFile) lock() (*durable.Lock, error) { return waitLock(f.name + ".lock") }

// open makes sure that the file exists, for us alone, and opens it. The lock is
// held.
func (f *rotatingFile) open() error {
	file, err := os.OpenFile(f.name, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		// A log of 2.5 that others can read. If it is not ours to change, it
		// is theirs to protect.
		_ = file.Chmod(0o600)
	}
	f.size = info.Size()
	f.rolled = &timberjack.Logger{
		Filename: f.name,
		// Beyond what we let it grow to, and what it may have grown to under
		// another setting, so that it does not rotate by itself.
		MaxSize:    int(max(f.maxBytes, f.size)>>20)*2 + 1,
		MaxBackups: f.maxFiles,
		FileMode:   0o600,
	}
	_, err = f.rolled.Write(nil) // opens
	return err
}

// rotate makes room for a line, unless another process has done so.
func (f *rotatingFile) rotate(line int64) error {
	lock, err := f.lock()
	if err != nil {
		return err
	}
	defer lock.Unlock()
	if info, err := os.Stat(f.name); err == nil && info.Size()+line > f.maxBytes {
		if err := f.rolled.Rotate(); err != nil {
			return err
		}
	}
	if err := f.rolled.Close(); err != nil {
		return err
	}
	return f.open()
}

// Write adds one line.
func (f *rotatingFile) Write(line []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.write(line)
	if f.err == nil && err != nil {
		f.err = fmt.Errorf("write the log: %w", err)
	}
	return n, err
}

func (f *rotatingFile) write(line []byte) (int, error) {
	if f.closed {
		return 0, os.ErrClosed
	}
	if f.size > 0 && f.size+int64(len(line)) > f.maxBytes {
		if err := f.rotate(int64(len(line))); err != nil {
			return 0, err
		}
	}
	n, err := f.rolled.Write(line)
	f.size += int64(n)
	return n, err
}

func (f *rotatingFile) close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil
	}
	f.closed = true
	if err := f.rolled.Close(); f.err == nil && err != nil {
		f.err = fmt.Errorf("close the log: %w", err)
	}
	return f.err
}
