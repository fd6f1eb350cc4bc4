//go:build !unix

package main

import "os"

// peakBytes is not reported by this platform's process accounting in Go.
func peakBytes(*os.ProcessState) (int64, bool) { return 0, false }
