// Package machine puts the machine into the same state before each command that is
// measured: for all measurements below bench.
package machine

import "golang.org/x/sys/unix"

// Flush writes dirty pages back, so that no command pays for the one before.
func Flush() { unix.Sync() }

// fetchLeft is how much free memory is left alone, so that nothing is pushed out.
const fetchLeft = 512 << 20

// FetchMemory makes the hypervisor of a virtual machine give back the memory that it
// took while nobody used it (free page reporting, balloons). Otherwise the first
// command to write much waits for each page, which takes two to five times as long as
// filling it, and the next one finds it there. Elsewhere this costs a second or two.
// most is how much the command needs at most, in bytes.
func FetchMemory(most int64) {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return
	}
	size := min(int64(info.Freeram)*int64(info.Unit)-fetchLeft, most)
	if size <= 0 {
		return
	}
	if m, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_POPULATE); err == nil {
		_ = unix.Munmap(m)
	}
}
