package httpstoretest

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

const (
	// startTimeout is ten times what the slowest takes: the machine may be busy.
	startTimeout = 60 * time.Second
	// startAttempts, because somebody else may take the free port.
	startAttempts = 3
)

// Tool installs the program that scripts/tools knows by that name, if need be, and
// returns where it is.
func Tool(t testing.TB, name string) string {
	t.Helper()
	if _, err := exec.LookPath("sh"); err != nil && runtime.GOOS == "windows" {
		t.Skip("scripts/tools is for sh, which Windows does not have")
	}
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(root, "go.mod")); err == nil {
			break
		}
		up := filepath.Dir(root)
		if up == root {
			t.Fatal("the test does not run inside the module")
		}
		root = up
	}
	if out, err := exec.Command("sh", filepath.Join(root, "scripts", "tools"), name).CombinedOutput(); err != nil {
		t.Fatalf("install %s: %v\n%s", name, err, out)
	}
	return filepath.Join(root, "build", "tools", name)
}

// Start runs a server on a free port of loopback until the test ends, and returns
// its host:port. command makes the command line for a port; the server is ready when
// it answers a GET of path with any status.
func Start(t testing.TB, path string, command func(port string) []string) string {
	t.Helper()
	var err error
	for range startAttempts {
		var addr string
		if addr, err = start(t, path, command); err == nil {
			return addr
		}
	}
	t.Fatalf("start the server: %v", err)
	return ""
}

func start(t testing.TB, path string, command func(port string) []string) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	addr := l.Addr().String()
	l.Close()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", err
	}
	args := command(port)
	var output bytes.Buffer
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = t.TempDir()
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		return "", err
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	stop := func() {
		cmd.Process.Kill()
		<-ended
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for deadline := time.Now().Add(startTimeout); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		select {
		case <-ended:
			return "", fmt.Errorf("it has ended: %s", output.String())
		default:
		}
		if resp, err := client.Get("http://" + addr + path); err == nil {
			resp.Body.Close()
			t.Cleanup(stop)
			return addr, nil
		}
	}
	stop()
	return "", fmt.Errorf("it does not answer: %s", output.String())
}
