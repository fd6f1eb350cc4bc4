//go:build unix

package daemon

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func env(pairs ...string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1], true
			}
		}
		return "", false
	}
}

func TestNotifier(t *testing.T) {
	dir, err := os.MkdirTemp("", "n") // a socket's name is short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "s")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	notify, watchdog := Notifier(env("NOTIFY_SOCKET", socket, "WATCHDOG_USEC", "30000000", "WATCHDOG_PID", "7"), 7)
	if watchdog != 30*time.Second {
		t.Errorf("watchdog %v", watchdog)
	}
	if err := notify("READY=1", "STATUS=waits"); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	conn.SetReadDeadline(time.Now().Add(time.Minute))
	n, err := conn.Read(buf)
	if err != nil || string(buf[:n]) != "READY=1\nSTATUS=waits" {
		t.Errorf("%q, %v", buf[:n], err)
	}
	if _, w := Notifier(env("NOTIFY_SOCKET", socket, "WATCHDOG_USEC", "30000000", "WATCHDOG_PID", "8"), 7); w != 0 {
		t.Errorf("another process's watchdog is ours: %v", w)
	}
	notify, watchdog = Notifier(env(), 7)
	if err := notify("READY=1"); err != nil || watchdog != 0 {
		t.Errorf("without systemd: %v, %v", err, watchdog)
	}
	notify, _ = Notifier(env("NOTIFY_SOCKET", socket+"x"), 7)
	if err := notify("READY=1"); err == nil || strings.Contains(err.Error(), "READY") {
		t.Errorf("error %v", err)
	}
}
