package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/SP1R4/BackupHandler/v3/internal/config"
	"github.com/SP1R4/BackupHandler/v3/internal/job"
	"github.com/SP1R4/BackupHandler/v3/internal/lazyregexp"
	"github.com/SP1R4/BackupHandler/v3/internal/notify"
)

func (a *app) notifyCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "notify",
		Short: "List and try the channels that tell about runs",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return a.needsSubcommand(cmd) },
	}
	c.AddCommand(
		&cobra.Command{
			Use:   "test [CHANNEL]",
			Short: "Send a test message to a channel, or to all",
			Long: `Send a test message to a channel, or to all of the configuration, and say what
became of it. 'notify list' has their names.

A heartbeat that only knows good backups is called only by its name: 'notify test
heartbeat' says that one was good.

Exit codes: 0 all have taken it · 1 usage or configuration: no such channel, or
its settings are wrong · 3 a channel has not taken it · 130 interrupted`,
			Example: `  backup-handler notify test
  backup-handler notify test smtp
  backup-handler notify test phone --json      # [NOTIFY phone]`,
			Args: cobra.MaximumNArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				return a.notifyTest(cmd.Context(), strings.Join(args, ""))
			},
			ValidArgsFunction: a.completeChannels,
		},
		&cobra.Command{
			Use:   "list",
			Short: "List the channels, and what each tells",
			Long: `List the channels of the configuration: where they go, without secrets, and what
each tells. One whose settings are wrong says what is.

Exit codes: 0 listed · 1 usage or configuration`,
			Example: `  backup-handler notify list
  backup-handler notify list --json`,
			Args: cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error { return a.notifyList() },
		},
	)
	return c
}

// notifier makes one of the configuration, which is loaded.
func (a *app) notifier() (*notify.Notifier, error) { return a.notifierOf(a.cfg) }

func (a *app) notifierOf(cfg *config.Config) (*notify.Notifier, error) {
	limit, err := cfg.TellingLimit()
	if err != nil {
		return nil, job.Fail(job.ExitUsage, err, "")
	}
	o := notify.Options{Host: hostName(), Program: "backup-handler " + version, Limit: limit, Redact: a.redactorOf(cfg), Now: time.Now}
	o.Channels, o.Heartbeat = job.Channels(cfg)
	if len(a.receivers) > 0 {
		switch c, err := job.Receivers(cfg, a.receivers); {
		case err != nil:
			a.warn("--receiver: nobody is mailed: %v", err)
		case c != nil:
			o.Channels = append(o.Channels, *c)
		}
	}
	if o.StateDir, err = cfg.StateDir(); err != nil { // load has said so
		o.StateDir = ""
	}
	n, err := notify.New(o)
	return n, job.Fail(job.ExitUsage, err, "give [WEBHOOK NAME] and [NOTIFY NAME] names of their own")
}

// A testResult is what became of a test message.
type testResult struct {
	Channel string `json:"channel"`
	OK      bool   `json:"ok"`
	Error   string `json:"error,omitempty"`
}

func (a *app) notifyTest(ctx context.Context, name string) error {
	if err := a.load(); err != nil {
		return err
	}
	n, err := a.notifier()
	if err != nil {
		return err
	}
	infos := n.List()
	if len(infos) == 0 {
		return job.Fail(job.ExitUsage, errors.New("nobody is told: there is no channel"),
			"set one up in the configuration, such as [SMTP], [TELEGRAM] or [NOTIFY]; docs/notifications.md says what each needs")
	}
	told, err := n.Test(ctx, name)
	if err != nil {
		names := make([]string, len(infos))
		for i, c := range infos {
			names[i] = c.Name
		}
		return job.Fail(job.ExitUsage, err, "there are: "+strings.Join(names, ", "))
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	wrong := map[string]bool{}
	for _, c := range infos {
		wrong[c.Name] = c.Error != ""
	}
	results, code := []testResult{}, job.ExitOK
	for _, t := range told {
		results = append(results, testResult{t.Channel, t.Error == "", t.Error})
		switch {
		case wrong[t.Channel]:
			code = job.ExitUsage
		case t.Error != "" && code == job.ExitOK:
			code = job.ExitPartial
		}
		if t.Error != "" {
			a.log.Warn("notification not sent", "channel", t.Channel, "error", t.Error)
		}
	}
	err = a.print(results, func(w io.Writer) error {
		for _, r := range results {
			if r.OK {
				fmt.Fprintln(w, r.Channel+": ok")
			} else {
				fmt.Fprintln(w, r.Channel+": "+r.Error)
			}
		}
		if len(results) == 0 {
			fmt.Fprintln(w, "nothing to test: 'notify test heartbeat' calls the heartbeat as after a good backup")
		}
		return nil
	})
	if err != nil || code == job.ExitOK {
		return err
	}
	hint := "check the address, the secrets and the network"
	if code == job.ExitUsage {
		hint = "correct the section of the channel in the configuration; docs/notifications.md says what each needs"
	}
	return &job.Failure{Code: code, Err: job.ErrReported, Hint: hint}
}

func (a *app) notifyList() error {
	if err := a.load(); err != nil {
		return err
	}
	n, err := a.notifier()
	if err != nil {
		return err
	}
	infos := n.List()
	return a.print(infos, func(w io.Writer) error {
		if len(infos) == 0 {
			fmt.Fprintln(w, "nobody is told: there is no channel")
		}
		for _, c := range infos {
			fmt.Fprintln(w, oneLine(channelLine(c)))
		}
		return nil
	})
}

// channelLine describes a channel in one line.
func channelLine(c notify.Info) string {
	line := c.Name
	if c.Kind != "" && c.Kind != c.Name {
		line += " (" + c.Kind + ")"
	}
	if c.Target != "" {
		line += " to " + c.Target
	}
	if len(c.On) > 0 {
		words := make([]string, len(c.On))
		for i, l := range c.On {
			words[i] = string(l)
		}
		line += ", on " + strings.Join(words, ", ")
	}
	if c.Digest != notify.Never {
		line += ", " + string(c.Digest) + " digest"
	}
	if c.Error != "" {
		line += "; cannot be used: " + c.Error
	}
	return line
}

// completeChannels offers the names of channels to a shell.
func (a *app) completeChannels(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	cfg, _, err := a.findConfig()
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	channels, heartbeat := job.Channels(cfg)
	var names []string
	for _, c := range channels {
		names = append(names, c.Name)
	}
	if heartbeat != nil {
		names = append(names, "heartbeat")
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// addressForm is what BackupHandler 2.5 took for a mail address.
var addressForm = lazyregexp.New(`^[^@\s,<>]+@[^@\s,<>]+\.[^@\s,<>.]+$`)

// toldBy checks the flags about who is told of a backup, and lets its receivers be told.
func (a *app) toldBy(notifications bool, receivers []string) error {
	for _, r := range receivers {
		if !addressForm().MatchString(r) {
			return usageError("", "--receiver %q is not a mail address", r)
		}
	}
	if notifications && !a.cfg.IsSet("TELEGRAM", "api_token") {
		return usageError("set [TELEGRAM] api_token and chats, in the configuration or in bot_config.ini beside it, or drop the flag: whoever the configuration names is told without it",
			"--notifications: there is no Telegram bot")
	}
	a.receivers = receivers
	return nil
}
