package journal

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Sockets of the system's log.
const (
	journaldSocket = "/run/systemd/journal/socket"
	syslogSocket   = "/dev/log"
)

const (
	// systemLogWait is how long a line may wait for a log daemon that is behind; after
	// systemLogPause it is tried again. What comes in between is only in application.log.
	systemLogWait  = 100 * time.Millisecond
	systemLogPause = 10 * time.Second
	// maxSystemLine bounds a line, in bytes: far below what a datagram may hold (some
	// 200 KiB), and what journald takes as it comes (48 KiB).
	maxSystemLine = 32 << 10
	// facility of lines is user, as in 2.5.
	facility = 1 << 3
)

// SystemLog returns a handler that writes to the system's log: to journald in its own
// protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL), or else to whoever listens at /dev/log, as
// RFC 3164 and every syslog(3) have it. Lines that it cannot write in time it drops:
// no run waits for a log, or fails for one.
func SystemLog(runID string, level slog.Leveler) (slog.Handler, error) {
	return systemLog(runID, level, journaldSocket, syslogSocket)
}

func systemLog(runID string, level slog.Leveler, journald, syslog string) (slog.Handler, error) {
	s := &systemSink{runID: runID, now: time.Now}
	errJournald := s.open(journald)
	if s.native = errJournald == nil; !s.native {
		if err := s.open(syslog); err != nil {
			return nil, fmt.Errorf("open the system's log: %w", errors.Join(errJournald, err))
		}
	}
	text := slog.NewTextHandler(&s.line, &slog.HandlerOptions{Level: level, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.LevelKey && a.Value.Kind() == slog.KindAny || a.Key == slog.MessageKey && a.Value.String() == "") {
			return slog.Attr{} // they are written in another way
		}
		return cutLongText(groups, a)
	}})
	return &systemHandler{s, text}, nil
}

// A systemHandler writes the fields of a record behind its message, as text.
type systemHandler struct {
	sink *systemSink
	text slog.Handler // into sink.line
}

func (h *systemHandler) Enabled(ctx context.Context, l slog.Level) bool {
	return h.text.Enabled(ctx, l)
}
func (h *systemHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &systemHandler{h.sink, h.text.WithAttrs(attrs)}
}
func (h *systemHandler) WithGroup(name string) slog.Handler {
	return &systemHandler{h.sink, h.text.WithGroup(name)}
}

func (h *systemHandler) Handle(ctx context.Context, r slog.Record) error {
	fields := slog.NewRecord(time.Time{}, r.Level, "", 0)
	r.Attrs(func(a slog.Attr) bool {
		fields.AddAttrs(a)
		return true
	})
	h.sink.mu.Lock()
	defer h.sink.mu.Unlock()
	h.sink.line.Reset()
	if err := h.text.Handle(ctx, fields); err != nil {
		return err
	}
	message := strings.TrimSpace(r.Message + " " + h.sink.line.String())
	if len(message) > maxSystemLine {
		message = strings.ToValidUTF8(message[:maxSystemLine], "") + "… (cut)"
	}
	h.sink.write(severity(r.Level), message)
	return nil
}

// severity is that of syslog(3).
func severity(l slog.Level) int {
	switch {
	case l >= slog.LevelError:
		return 3
	case l >= slog.LevelWarn:
		return 4
	case l >= slog.LevelInfo:
		return 6
	}
	return 7
}

// A systemSink is the socket.
type systemSink struct {
	runID  string
	now    func() time.Time
	native bool // it is journald's

	mu    sync.Mutex
	line  bytes.Buffer
	name  string
	conn  *net.UnixConn // nil: to be opened again
	quiet time.Time     // until then nothing is tried
}

// open connects; the mutex is held, or nobody else knows of s.
func (s *systemSink) open(name string) error {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	s.name, s.conn = name, conn
	return err
}

// write sends one line. A daemon that was started anew has a new socket.
func (s *systemSink) write(severity int, message string) {
	if s.now().Before(s.quiet) {
		return
	}
	data := s.journald(severity, message)
	if !s.native {
		data = s.rfc3164(severity, message)
	}
	for range 2 {
		if s.conn == nil && s.open(s.name) != nil {
			break
		}
		err := s.conn.SetWriteDeadline(time.Now().Add(systemLogWait))
		if err == nil {
			_, err = s.conn.Write(data)
		}
		if err == nil {
			return
		}
		s.conn.Close()
		s.conn = nil
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
	}
	s.quiet = s.now().Add(systemLogPause)
}

func (s *systemSink) journald(severity int, message string) []byte {
	var b []byte
	add := func(name, value string) {
		b = append(b, name...)
		if strings.Contains(value, "\n") {
			b = append(b, '\n')
			b = binary.LittleEndian.AppendUint64(b, uint64(len(value)))
		} else {
			b = append(b, '=')
		}
		b = append(append(b, value...), '\n')
	}
	add("MESSAGE", message)
	add("PRIORITY", strconv.Itoa(severity))
	add("RUN_ID", s.runID)
	add("SYSLOG_IDENTIFIER", "backup-handler")
	add("SYSLOG_FACILITY", strconv.Itoa(facility>>3))
	add("SYSLOG_PID", strconv.Itoa(os.Getpid()))
	return b
}

func (s *systemSink) rfc3164(severity int, message string) []byte {
	message = strings.NewReplacer("\n", " ", "\r", " ", "\x00", " ").Replace(message)
	return fmt.Appendf(nil, "<%d>%s backup-handler[%d]: [%s] %s", facility|severity, s.now().Format(time.Stamp), os.Getpid(), s.runID, message)
}
