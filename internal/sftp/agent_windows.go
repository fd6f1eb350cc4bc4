package sftp

import (
	"context"
	"io"
	"net"
	"os"
	"strings"
)

// dialAgent connects to the agent of Windows' OpenSSH, a named pipe, or to one with
// a socket.
func dialAgent(ctx context.Context, socket string) (io.ReadWriteCloser, error) {
	if strings.HasPrefix(socket, `\\.\pipe\`) {
		return os.OpenFile(socket, os.O_RDWR, 0)
	}
	return new(net.Dialer).DialContext(ctx, "unix", socket)
}
