//go:build !windows

package sftp

import (
	"context"
	"io"
	"net"
)

func dialAgent(ctx context.Context, socket string) (io.ReadWriteCloser, error) {
	return new(net.Dialer).DialContext(ctx, "unix", socket)
}
