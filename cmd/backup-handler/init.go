package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/SP1R4/BackupHandler/v3/internal/job"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/seal"
)

type initFlags struct {
	encrypt    bool
	recipients []string
	kdf        string
}

func (a *app) initCommand() *cobra.Command {
	var f initFlags
	c := &cobra.Command{
		Use:   "init",
		Short: "Create repositories",
		Long: `Create a repository in each of --backup-dirs (or those of the configuration).

A backup creates what does not exist by itself; init is for repositories that are
to be there before, and for those below /mnt or /media where nothing is mounted.
In a directory that holds other things the repository is backup-handler.repo.

An encrypted one opens with the passphrase or the key file of this machine, and
with each --recipient. Repositories created together share their content key, so
that snapshots are copied between them without being encrypted again.

Exit codes: 0 created · 1 one exists already (then none is created), or usage
130 interrupted`,
		Example: `  backup-handler init --backup-dirs /mnt/disk/backup --encrypt
  backup-handler init --backup-dirs /a,/b --encrypt --key-file /etc/backup-handler/key --recipient team.pub
  backup-handler init --config /etc/backup-handler/config.ini`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.create(cmd.Context(), &f) },
	}
	fl := c.Flags()
	fl.BoolVar(&f.encrypt, "encrypt", false, "encrypt, also where the configuration does not say so")
	fl.StringArrayVar(&f.recipients, "recipient", nil, "public key, or file with one, that opens them too (repeat)")
	fl.StringVar(&f.kdf, "kdf", "", "how a passphrase becomes a key: pbkdf2 or argon2id (default: the configuration's, else pbkdf2)")
	return c
}

type initReport struct {
	Place     string   `json:"repository"`
	ID        *repo.ID `json:"id,omitempty"` // absent: this machine has no key that opens it
	Encrypted bool     `json:"encrypted"`
	Keys      string   `json:"keys,omitempty"`
}

func (a *app) create(ctx context.Context, f *initFlags) error {
	if err := a.load(); err != nil {
		return err
	}
	locations, err := a.locations()
	if err != nil {
		return err
	}
	acc, err := a.access(f.encrypt, f.recipients)
	if err != nil {
		return err
	}
	if acc.KDF, err = parseKDF(f.kdf, acc.KDF); err != nil {
		return job.Fail(job.ExitUsage, err, "")
	}
	for _, l := range locations {
		if err := noRepository(ctx, acc, l); err != nil {
			return err
		}
	}
	var sibling *repo.Repository
	var made []initReport
	for _, l := range locations {
		r, d, err := a.initOne(ctx, acc, l, sibling)
		if err != nil {
			return job.Fail(job.ExitUsage, fmt.Errorf("create %s: %w", quote(l), err), createHint(err))
		}
		made = append(made, r)
		if d == nil {
			continue
		}
		if err := a.known().Remember(l, d.Repo.ID()); err != nil {
			a.warn("cannot remember the repository %s: %v", quote(r.Place), err)
		}
		defer d.Close()
		if sibling == nil {
			sibling = d.Repo
		}
	}
	for _, r := range made {
		if !r.Encrypted {
			a.warn("%s is NOT ENCRYPTED: whoever can read it can read the backups (--encrypt)", quote(r.Place))
		}
		if r.ID == nil {
			a.warn("%s opens with a recipient's identity only: this machine can create it, but not back up to it", quote(r.Place))
		}
	}
	return a.print(made, func(w io.Writer) error {
		for _, r := range made {
			if a.quiet {
				break
			}
			fmt.Fprintf(w, "created repository %s\n", quote(r.Place))
			if r.ID != nil {
				fmt.Fprintf(w, "  id    %s\n  keys  %s\n", r.ID, r.Keys)
			}
		}
		return nil
	})
}

func parseKDF(name string, configured seal.KDF) (seal.KDF, error) {
	switch name {
	case "":
		return configured, nil
	case "pbkdf2":
		return seal.DefaultKDF(), nil
	case "argon2id":
		return seal.Argon2id(seal.MinArgonTime, seal.MinArgonMemoryKiB, 1), nil
	}
	return seal.KDF{}, fmt.Errorf("--kdf %q: want pbkdf2 or argon2id", name)
}

// noRepository is an error if there is a repository, whether it opens or not.
func noRepository(ctx context.Context, acc *job.Access, location string) error {
	quiet := *acc
	quiet.Prompt = nil // whether one exists takes no passphrase
	d, err := quiet.OpenDestination(ctx, location)
	if errors.Is(err, repo.ErrNoRepository) {
		return nil
	}
	if err == nil || errors.Is(err, seal.ErrWrongKey) {
		if err == nil {
			d.Close()
		}
		return usageError("it can be used as it is; nothing was changed", "%s: %w", quote(d.Place), repo.ErrExists)
	}
	return job.Fail(job.ExitUsage, err, openHint(err))
}

// initOne creates a repository, and opens it again to see that it can be.
func (a *app) initOne(ctx context.Context, acc *job.Access, location string, sibling *repo.Repository) (initReport, *job.Destination, error) {
	place, err := job.Place(location)
	if err != nil {
		return initReport{}, nil, err
	}
	if err := acc.Create(ctx, place, sibling); err != nil {
		return initReport{}, nil, err
	}
	rep := initReport{Place: place, Encrypted: acc.EncryptNew}
	a.record("repository_created", slog.String("repository", place), slog.Bool("encrypted", acc.EncryptNew))
	again := *acc
	again.Prompt = nil
	d, err := again.OpenDestination(ctx, place)
	if errors.Is(err, seal.ErrWrongKey) {
		return rep, nil, nil
	}
	if err != nil {
		return rep, nil, err
	}
	id := d.Repo.ID()
	rep.ID = &id
	kinds, err := keyKinds(ctx, d.Repo)
	if err != nil {
		d.Close()
		return rep, nil, err
	}
	rep.Keys = keysText(kinds)
	return rep, d, nil
}

func createHint(err error) string {
	if errors.Is(err, job.ErrNoKey) {
		return "set $" + job.PassphraseEnv + ", or use --passphrase-file, --key-file or --recipient"
	}
	return openHint(err)
}
