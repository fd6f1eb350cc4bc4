package metrics

import (
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// root is the project's directory.
func root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

// promtool is Prometheus' program that checks metrics and rules.
var promtool = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("sh", filepath.Join(root(), "scripts", "tools"), "promtool").CombinedOutput()
	return string(out), err
})

// check runs promtool, which has to find nothing.
func check(t *testing.T, stdin string, args ...string) {
	t.Helper()
	if out, err := promtool(); err != nil {
		t.Fatalf("scripts/tools promtool: %v\n%s", err, out)
	}
	c := exec.Command(filepath.Join(root(), "build", "tools", "promtool"), args...)
	c.Stdin = strings.NewReader(stdin)
	if out, err := c.CombinedOutput(); err != nil || args[0] == "check" && args[1] == "metrics" && len(out) > 0 {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}
