//go:build unix

package job

import "syscall"

// listOpenFlags keep a symlink or FIFO that has taken a file's place from being
// followed or waited for.
const listOpenFlags = syscall.O_NOFOLLOW | syscall.O_NONBLOCK
