package dbdump

import (
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// pipeBytes is what the pipe of a child's output holds: what Linux allows to everyone.
	pipeBytes = 1 << 20
	// gather is how long a reader waits after it has read little. Dump programs write 4 KiB
	// at a time; a reader that is woken for each takes as much of a processor as they do.
	gather, littleBytes = 500 * time.Microsecond, 64 << 10
)

// widen makes a pipe hold more, and lets it fill before it is read.
func widen(f *os.File) io.Reader {
	raw, err := f.SyscallConn()
	if err != nil {
		return f
	}
	size := 0
	if err := raw.Control(func(fd uintptr) { size, err = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, pipeBytes) }); err != nil || size < pipeBytes {
		return f
	}
	return &gathering{from: f}
}

type gathering struct {
	from   io.Reader
	little bool // the last read was
}

func (g *gathering) Read(p []byte) (int, error) {
	if g.little {
		time.Sleep(gather)
	}
	n, err := g.from.Read(p)
	g.little = n < littleBytes
	return n, err
}
