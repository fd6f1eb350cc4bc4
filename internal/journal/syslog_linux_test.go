package journal

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// logDaemon listens where a log daemon does.
func logDaemon(t *testing.T, name string) *net.UnixConn {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// hears reads one line.
func hears(t *testing.T, conn *net.UnixConn) string {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1<<20)
	n, err := conn.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

func TestSystemLogJournald(t *testing.T) {
	dir := t.TempDir()
	conn := logDaemon(t, filepath.Join(dir, "socket"))
	logDaemon(t, filepath.Join(dir, "log")) // journald comes first
	h, err := systemLog("R1", slog.LevelInfo, filepath.Join(dir, "socket"), filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(h)
	tail := fmt.Sprintf("RUN_ID=R1\nSYSLOG_IDENTIFIER=backup-handler\nSYSLOG_FACILITY=1\nSYSLOG_PID=%d\n", os.Getpid())
	log.Debug("not at this level")
	log.Info("run starts", "command", "backup", "level", "deep")
	if d := cmp.Diff("MESSAGE=run starts command=backup level=deep\nPRIORITY=6\n"+tail, hears(t, conn)); d != "" {
		t.Error(d)
	}
	log.With("hook", "pre").WithGroup("g").Error("a\nb", "x", "c\nd")
	if d := cmp.Diff("MESSAGE\n\x17\x00\x00\x00\x00\x00\x00\x00a\nb hook=pre g.x=\"c\\nd\"\nPRIORITY=3\n"+tail, hears(t, conn)); d != "" {
		t.Error(d)
	}
	log.Warn(strings.Repeat("long", maxSystemLine))
	if line := hears(t, conn); !strings.Contains(line, "… (cut)\nPRIORITY=4\n") || len(line) > maxSystemLine+1000 {
		t.Errorf("%d bytes", len(line))
	}
}

func TestSystemLogSyslog(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "log")
	conn := logDaemon(t, name)
	h, err := systemLog("R1", slog.LevelDebug, filepath.Join(dir, "nothing"), name)
	if err != nil {
		t.Fatal(err)
	}
	sink := h.(*systemHandler).sink
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.Local)
	sink.now = func() time.Time { return now }
	log := slog.New(h)
	log.Debug("a\nb\x00c", "k", 1)
	if d := cmp.Diff(fmt.Sprintf("<15>Mar  4 05:06:07 backup-handler[%d]: [R1] a b c k=1", os.Getpid()), hears(t, conn)); d != "" {
		t.Error(d)
	}

	// The daemon goes away: nothing fails, and after a pause it is looked for again.
	conn.Close()
	os.Remove(name)
	log.Info("lost")
	conn = logDaemon(t, name)
	log.Info("lost, too")
	now = now.Add(systemLogPause)
	log.Info("found")
	if line := hears(t, conn); !strings.HasSuffix(line, "[R1] found") {
		t.Errorf("%q", line)
	}
	// It is started anew: not a line is lost.
	conn.Close()
	os.Remove(name)
	conn = logDaemon(t, name)
	log.Info("anew")
	if line := hears(t, conn); !strings.HasSuffix(line, "[R1] anew") {
		t.Errorf("%q", line)
	}
	// It hangs: lines are dropped, not waited for.
	for range 10_000 {
		log.Info("much")
	}
	if sink.quiet != now.Add(systemLogPause) {
		t.Error("nothing was dropped")
	}
}

func TestSystemLogNone(t *testing.T) {
	dir := t.TempDir()
	if _, err := systemLog("R1", nil, filepath.Join(dir, "a"), filepath.Join(dir, "b")); err == nil || !strings.Contains(err.Error(), "system's log") {
		t.Error(err)
	}
}
