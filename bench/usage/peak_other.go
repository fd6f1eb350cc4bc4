//go:build !unix

package usage

import "os"

// Peak is not known on this platform.
func Peak(*os.ProcessState) int64 { return 0 }
