package tailscale

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

const (
	// downTimeout bounds 'tailscale down', which only talks to the local daemon.
	downTimeout = 10 * time.Second
	// settle is how long a daemon that is just starting is given to say more.
	settle = 10 * time.Second
	poll   = 250 * time.Millisecond
	// maxOutput bounds what is kept of the client's output, in bytes.
	maxOutput = 64 << 10
)

// A client is the installed one. The system routes what belongs to the tailnet.
type client struct {
	node      *Node
	connected bool // by us
}

func (c *client) dial(ctx context.Context, network, address string) (net.Conn, error) {
	return dialSystem(ctx, network, address)
}

func (c *client) close() {
	if !c.connected || !c.node.o.DisconnectAfter {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), downTimeout)
	defer cancel()
	if _, err := c.run(ctx, nil, "down"); err != nil {
		c.node.log("disconnect: " + err.Error())
	}
}

// joinSystem connects the installed client, if it is not connected.
func (n *Node) joinSystem(ctx context.Context) (member, error) {
	c := &client{node: n}
	state, err := c.state(ctx)
	for wait := time.Duration(0); err == nil && (state == "NoState" || state == "Starting") && wait < settle; wait += poll {
		select {
		case <-ctx.Done():
			return nil, c.failed("connect", ctx.Err())
		case <-time.After(poll):
		}
		state, err = c.state(ctx)
	}
	switch {
	case err != nil:
		return nil, c.failed("find the state of the client", err)
	case state == "Running":
		return c, nil
	case state == "Stopped":
		// It has logged in before. Without any flag, "up" changes no setting.
		_, err = c.run(ctx, nil, "up")
	default:
		err = c.login(ctx)
	}
	if err != nil {
		return nil, c.failed("connect", err)
	}
	c.connected = true
	if state, err = c.state(ctx); err != nil {
		return nil, c.failed("find the state of the client", err)
	}
	if state != "Running" {
		c.close()
		return nil, &Error{Err: fmt.Errorf("the client is in state %s after 'tailscale up'", state),
			Hint: "look at 'tailscale status'; a machine may have to be approved in the admin console"}
	}
	return c, nil
}

// login connects a client that is not logged in. Never with --reset, which would
// wipe what somebody has set.
func (c *client) login(ctx context.Context) error {
	key, err := c.node.askKey()
	if err != nil {
		return err
	}
	file, stdin, remove, err := keyFile(key)
	if err != nil {
		return err
	}
	defer remove()
	o := &c.node.o
	args := []string{"up", "--auth-key=file:" + file}
	if o.Hostname != "" {
		args = append(args, "--hostname="+o.Hostname)
	}
	if len(o.Tags) > 0 {
		args = append(args, "--advertise-tags="+strings.Join(o.Tags, ","))
	}
	if o.AcceptRoutes {
		args = append(args, "--accept-routes")
	}
	if o.ControlURL != "" {
		args = append(args, "--login-server="+o.ControlURL)
	}
	_, err = c.run(ctx, stdin, args...)
	return err
}

// keyFile is a file to read the key from. All users see a process's arguments, so
// that the key is none. Where there is /dev/stdin it stays in a pipe; the client of a
// snap could not read a file of ours.
func keyFile(key string) (path string, stdin []byte, remove func(), err error) {
	if runtime.GOOS != "windows" {
		return "/dev/stdin", []byte(key), func() {}, nil
	}
	dir, err := os.MkdirTemp("", "backup-handler-tailscale-*") // 0700
	if err != nil {
		return "", nil, nil, err
	}
	path = filepath.Join(dir, "key")
	if err := os.WriteFile(path, []byte(key), 0o600); err != nil {
		os.RemoveAll(dir)
		return "", nil, nil, err
	}
	return path, nil, func() { os.RemoveAll(dir) }, nil
}

func (c *client) state(ctx context.Context) (string, error) {
	out, err := c.run(ctx, nil, "status", "--json", "--peers=false")
	if err != nil {
		return "", err
	}
	var status struct{ BackendState string }
	if err := json.Unmarshal(out, &status); err != nil || status.BackendState == "" {
		return "", errors.New("'tailscale status --json' has no BackendState")
	}
	return status.BackendState, nil
}

// run runs the client and returns its standard output.
func (c *client) run(ctx context.Context, stdin []byte, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, c.node.o.Client, args...)
	var out, errOut bounded
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if stdin != nil {
		cmd.Stdin = bytes.NewReader(stdin)
	}
	cmd.WaitDelay = time.Second // for children that keep the output open
	err := cmd.Run()
	if args[0] != "status" {
		c.node.log("tailscale " + strings.Join(args, " "))
	}
	if err == nil {
		return out.Bytes(), nil
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("'tailscale %s' has not ended in time", args[0])
		if strings.Contains(errOut.String(), "https://") {
			err = fmt.Errorf("'tailscale %s' waits for a login in a browser", args[0])
		}
		return nil, err
	}
	if line := firstLine(errOut.String()); line != "" {
		err = fmt.Errorf("'tailscale %s': %s", args[0], c.node.redact(line))
	}
	return nil, err
}

func (c *client) failed(what string, err error) error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	hint := "look at 'tailscale status'; connecting needs root, or 'tailscale set --operator=USER' once"
	text := strings.ToLower(err.Error())
	switch {
	case errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist):
		hint = "install Tailscale, or set [TAILSCALE] mode = userspace, which needs no client"
	case strings.Contains(text, "changing settings"):
		hint = "the client has settings of its own, which are left alone: connect it once by hand, as 'tailscale up' says"
	case strings.Contains(text, "key") || strings.Contains(text, "login"):
		hint = badKeyHint
	case strings.Contains(text, "tailscaled") && strings.Contains(text, "connect"):
		hint = "start the service tailscaled"
	}
	return &Error{Err: fmt.Errorf("%s: %w", what, err), Hint: hint}
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return strings.TrimSpace(line)
}

// bounded keeps the beginning of what is written to it.
type bounded struct{ bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	b.Buffer.Write(p[:min(len(p), max(0, maxOutput-b.Len()))])
	return len(p), nil
}
