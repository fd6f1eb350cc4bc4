package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/spf13/cobra"

	"github.com/SP1R4/BackupHandler/v3/internal/job"
	"github.com/SP1R4/BackupHandler/v3/internal/journal"
)

func (a *app) auditCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "audit",
		Short: "Check the audit log",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return a.needsSubcommand(cmd) },
	}
	c.AddCommand(&cobra.Command{
		Use:   "verify",
		Short: "Prove that the audit log is as it was written",
		Long: `Prove that the audit log (Logs/audit.log in the state directory) is as it was
written: each record carries the hash of the one before.

Whoever can write the log can also write it anew. Keep the hash that is printed
elsewhere: it must be found again in a later log.

Exit codes: 0 whole · 1 damaged, missing, or usage`,
		Example: `  backup-handler audit verify
  backup-handler audit verify --json`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return a.auditVerify() },
	})
	return c
}

type auditReport struct {
	Dir   string `json:"state_dir"`
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`
	// Damage is where the log is damaged first.
	Damage *auditDamage `json:"damage,omitempty"`
	journal.Report
}

type auditDamage struct {
	File    string         `json:"file"`
	Line    int            `json:"line,omitempty"`
	Kind    journal.Damage `json:"kind"`
	Problem string         `json:"problem"`
}

// auditVerify opens no logs: what is verified must not be written to meanwhile.
func (a *app) auditVerify() error {
	cfg, _, err := a.findConfig()
	if err != nil {
		return job.Fail(job.ExitUsage, err, "'backup-handler config check' lists everything that is wrong")
	}
	rep := auditReport{}
	if rep.Dir, err = cfg.StateDir(); err != nil {
		return job.Fail(job.ExitUsage, err, "")
	}
	rep.Report, err = journal.Verify(rep.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return job.Fail(job.ExitUsage, fmt.Errorf("no audit log in %s", quote(rep.Dir)), "is this the configuration, and the user, with which the backups run?")
	}
	rep.OK = err == nil
	if err != nil {
		rep.Error = oneLine(err.Error())
		if d, ok := errors.AsType[*journal.DamageError](err); ok {
			rep.Damage = &auditDamage{d.File, d.Line, d.Damage, d.Problem}
		}
	}
	err = a.print(rep, func(w io.Writer) error {
		for _, x := range rep.Warnings {
			fmt.Fprintln(w, "warning: "+oneLine(x))
		}
		state := "whole"
		if !rep.OK {
			state = "DAMAGED"
			fmt.Fprintln(w, "error: "+rep.Error)
		} else if a.quiet {
			return nil
		}
		fmt.Fprintf(w, "%s  %s\n", quote(rep.Dir), state)
		if rep.Records > 0 {
			fmt.Fprintf(w, "  records   %d in %d files, the last of %s\n", rep.Records, rep.Files, rep.Last.Local().Format(time.DateTime))
			fmt.Fprintf(w, "  SHA-256   %s\n", rep.SHA256)
		}
		return nil
	})
	if err == nil && !rep.OK {
		err = outcome(job.ExitUsage)
	}
	return err
}
