package usage_test

import (
	"os/exec"
	"runtime"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/bench/usage"
)

// A child must not be charged for what this process itself once held.
func TestPeakIsTheChildsOwn(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux counts the parent's memory as the child's")
	}
	const ballast = 256 << 20
	held := make([]byte, ballast)
	for i := 0; i < len(held); i += 4096 {
		held[i] = 1
	}
	runtime.KeepAlive(held)
	held = nil
	usage.Shrink()
	c := exec.Command("true")
	if err := c.Run(); err != nil {
		t.Fatal(err)
	}
	if peak := usage.Peak(c.ProcessState); peak == 0 || peak > ballast/2 {
		t.Errorf("true needs %d bytes", peak)
	}
}
