package postgres

import (
	"io"
	"os"
	"syscall"
)

// pipeBytes is the largest pipe that an unprivileged process may have: with it a program
// and we take turns less often.
const pipeBytes = 1 << 20

// widen makes a pipe larger, if it can be.
func widen(pipe io.Reader) {
	f, ok := pipe.(*os.File)
	if !ok {
		return
	}
	if c, err := f.SyscallConn(); err == nil {
		c.Control(func(fd uintptr) { syscall.Syscall(syscall.SYS_FCNTL, fd, syscall.F_SETPIPE_SZ, pipeBytes) })
	}
}
