package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/SP1R4/BackupHandler/v3/internal/config"
	"github.com/SP1R4/BackupHandler/v3/internal/job"
)

func (a *app) configCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "config",
		Short: "Show, check or begin the configuration",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return a.needsSubcommand(cmd) },
	}
	c.AddCommand(
		&cobra.Command{
			Use:   "show",
			Short: "Print the values in effect, with secrets hidden",
			Long: `Print the values in effect: those of the file, and the defaults for the rest.

Secrets are shown as ***, and values with ${VARIABLES} as they are written.

Exit codes: 0 printed · 1 usage, no such file, or it is not valid`,
			Example: `  backup-handler config show
  backup-handler config show --config /etc/backup-handler/config.ini --json`,
			Args: cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error { return a.configShow() },
		},
		&cobra.Command{
			Use:   "check",
			Short: "List everything that is wrong with the configuration",
			Long: `List everything that is wrong with the configuration: errors, warnings (unknown
and deprecated keys, plaintext secrets, a file that others can read) and notes.

Exit codes: 0 no errors · 1 errors, usage, or there is no configuration`,
			Example: `  backup-handler config check
  backup-handler config check --profile laptop --json`,
			Args: cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error { return a.configCheck() },
		},
		&cobra.Command{
			Use:   "example",
			Short: "Print a configuration that explains itself",
			Long: `Print a configuration file in which every key is explained. It is text, with
--json too.

Exit codes: 0 printed · 1 usage`,
			Example: `  backup-handler config example > /etc/backup-handler/config.ini`,
			Args:    cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error {
				_, err := a.stdout.Write(config.Example())
				return err
			},
		},
	)
	return c
}

// needsSubcommand is what a command does that is only a family of others.
func (a *app) needsSubcommand(cmd *cobra.Command) error {
	cmd.SetOut(a.stderr)
	cmd.Help()
	return outcome(job.ExitUsage)
}

// findConfig reads the configuration without opening logs, and without printing its
// warnings. Without a file it is the defaults.
func (a *app) findConfig() (*config.Config, []config.Warning, error) {
	path, err := config.Find(config.FindOptions{Path: a.configPath, Profile: a.profile, Env: a.env})
	if errors.Is(err, config.ErrNone) {
		return config.Defaults(a.env), nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	return config.Load(path, a.env)
}

func (a *app) configShow() error {
	cfg, warnings, err := a.findConfig()
	if err != nil {
		return job.Fail(job.ExitUsage, err, "'backup-handler config check' lists everything that is wrong")
	}
	for _, w := range warnings {
		if !w.Note() {
			a.warn("%s", w)
		}
	}
	out := struct {
		File     string          `json:"file"` // "" for none
		Settings config.Settings `json:"settings"`
	}{cfg.Path(), cfg.Show()}
	return a.print(out, func(w io.Writer) error {
		if out.File == "" {
			fmt.Fprintln(w, "# no configuration file: defaults")
		} else {
			fmt.Fprintln(w, "# "+quote(out.File))
		}
		fmt.Fprint(w, out.Settings)
		return nil
	})
}

type configReport struct {
	File     string           `json:"file"`
	OK       bool             `json:"ok"`
	Errors   []string         `json:"errors"`
	Warnings []config.Warning `json:"warnings"`
}

func (a *app) configCheck() error {
	path, err := config.Find(config.FindOptions{Path: a.configPath, Profile: a.profile, Env: a.env})
	if err != nil {
		return job.Fail(job.ExitUsage, err, "'backup-handler config example' prints one to begin with")
	}
	rep := configReport{File: path, Errors: []string{}, Warnings: []config.Warning{}}
	cfg, warnings, err := config.Load(path, a.env)
	rep.Warnings = append(rep.Warnings, warnings...)
	if err != nil {
		rep.Errors = append(rep.Errors, strings.Split(err.Error(), "\n")...)
	} else {
		errs := cfg.Check()
		if len(errs) == 0 { // else what follows would repeat them
			errs = job.CheckChannels(cfg)
		}
		for _, err := range errs {
			rep.Errors = append(rep.Errors, oneLine(err.Error()))
		}
	}
	rep.OK = len(rep.Errors) == 0
	err = a.print(rep, func(w io.Writer) error {
		for _, e := range rep.Errors {
			fmt.Fprintln(w, "error: "+e)
		}
		for _, x := range rep.Warnings {
			kind := "warning: "
			if x.Note() {
				kind = "note: "
			}
			fmt.Fprintln(w, kind+x.String())
		}
		if rep.OK && !a.quiet {
			fmt.Fprintf(w, "%s: ok, %d warnings\n", quote(path), len(rep.Warnings))
		}
		return nil
	})
	if err == nil && !rep.OK {
		err = outcome(job.ExitUsage)
	}
	return err
}
