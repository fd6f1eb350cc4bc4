package job

import (
	"context"
	"errors"
	"strings"

	"github.com/SP1R4/BackupHandler/v3/internal/config"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
	"github.com/SP1R4/BackupHandler/v3/internal/tailscale"
)

// TailnetOptions override [TAILSCALE].
type TailnetOptions struct {
	Enable bool
	Key    config.SecretString // instead of the configuration's
	Host   string              // this machine's name
	// Log receives lines for those who look for a fault. Called concurrently.
	Log func(line string)
}

// Tailnet returns the node through which other machines are reached, not joined yet;
// nil if nobody asks for one.
func Tailnet(cfg *config.Config, o TailnetOptions) (*tailscale.Node, error) {
	c, err := cfg.Tailscale()
	if err != nil || !c.Enabled && !o.Enable {
		return nil, err
	}
	to := tailscale.Options{
		System: c.Mode == "system", Hostname: c.Hostname, Tags: c.Tags, AcceptRoutes: c.AcceptRoutes,
		ControlURL: c.ControlURL, DisconnectAfter: c.DisconnectAfter, Log: o.Log,
		Key: func() (string, error) { return tailnetKey(c, o.Key) },
	}
	if to.Hostname == "" && !to.System {
		name, _, _ := strings.Cut(o.Host, ".")
		to.Hostname = strings.TrimSuffix("backup-handler-"+name, "-")
	}
	return tailscale.New(to), nil
}

func tailnetKey(c config.Tailscale, override config.SecretString) (string, error) {
	switch {
	case !override.IsEmpty():
		return override.Reveal(), nil
	case c.AuthKey.IsSet():
		return reveal(c.AuthKey)
	case c.AuthKeyFile == "":
		return "", nil
	}
	content, err := readKeyFile(c.AuthKeyFile)
	return strings.TrimSpace(string(content)), err
}

// join joins the tailnet. What is wrong with it does not go away by trying again.
func join(ctx context.Context, n *tailscale.Node) error {
	err := n.Join(ctx)
	if e, ok := errors.AsType[*tailscale.Error](err); ok {
		return &storage.PermanentError{Err: e, Hint: e.Hint}
	}
	return err
}
