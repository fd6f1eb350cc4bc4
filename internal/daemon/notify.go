package daemon

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// notifyTimeout bounds telling systemd something: a full socket must not stop the loop.
const notifyTimeout = time.Second

// Notifier returns what tells systemd about the daemon, by the protocol of sd_notify(3):
// datagrams of lines to the socket that $NOTIFY_SOCKET names. Without one it does
// nothing. watchdog is how often systemd wants to hear WATCHDOG=1, by $WATCHDOG_USEC; 0:
// never. pid is that of this process.
func Notifier(env func(string) (string, bool), pid int) (notify func(lines ...string) error, watchdog time.Duration) {
	socket, _ := env("NOTIFY_SOCKET")
	if socket == "" {
		return func(...string) error { return nil }, 0
	}
	usec, _ := env("WATCHDOG_USEC")
	owner, _ := env("WATCHDOG_PID")
	if n, err := strconv.ParseInt(usec, 10, 64); err == nil && n > 0 && (owner == "" || owner == strconv.Itoa(pid)) {
		watchdog = time.Duration(n) * time.Microsecond
	}
	return func(lines ...string) error {
		conn, err := net.DialTimeout("unixgram", socket, notifyTimeout) // "@…" is an abstract one
		if err != nil {
			return fmt.Errorf("tell systemd: %w", err)
		}
		defer conn.Close()
		conn.SetWriteDeadline(time.Now().Add(notifyTimeout))
		if _, err := conn.Write([]byte(strings.Join(lines, "\n"))); err != nil {
			return fmt.Errorf("tell systemd: %w", err)
		}
		return nil
	}, watchdog
}
