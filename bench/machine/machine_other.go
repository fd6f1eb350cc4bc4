//go:build !linux

package machine

// Flush does nothing: the benchmark's numbers are made on Linux, elsewhere
// commands may pay for the dirty pages of those before.
func Flush() {}

// FetchMemory does nothing: it is for virtual machines that run Linux.
func FetchMemory(int64) {}
