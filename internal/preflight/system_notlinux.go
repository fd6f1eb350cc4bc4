//go:build !linux

package preflight

import "os"

// isDevice: only Linux names volumes by links to their devices.
func isDevice(os.FileInfo, int, int) bool { return false }
