package metrics

import (
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/httpstore/httpstoretest"
)

// root is the project's directory.
func root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

// check runs promtool, which has to find nothing.
func check(t *testing.T, stdin string, args ...string) {
	t.Helper()
	c := exec.Command(httpstoretest.Tool(t, "promtool"), args...)
	c.Stdin = strings.NewReader(stdin)
	if out, err := c.CombinedOutput(); err != nil || args[0] == "check" && args[1] == "metrics" && len(out) > 0 {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}
