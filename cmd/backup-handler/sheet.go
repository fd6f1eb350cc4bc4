package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/SP1R4/BackupHandler/v3/internal/durable"
	"github.com/SP1R4/BackupHandler/v3/internal/job"
	"github.com/SP1R4/BackupHandler/v3/internal/location"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/seal"
	"github.com/SP1R4/BackupHandler/v3/internal/sheet"
)

type sheetFlags struct {
	html  bool
	label string
}

func (a *app) keySheetCommand() *cobra.Command {
	var f sheetFlags
	c := &cobra.Command{
		Use:   "sheet [FILE]",
		Short: "Make a new key, and a recovery sheet with it to print",
		Long: `Make a new key for each repository, try it, and write a recovery sheet: a page to
print, with the key as text and as a QR code, and with all that somebody needs who
has nothing but the paper: where the backups are, and what to do, step by step.

FILE is text, or a page for a browser if it ends in .html (or with --html), which
prints better. It is written for you alone, and never over another file. Without
FILE, or with -, the sheet goes to standard output, without FILE to a terminal only.
Print it, delete FILE, and keep the paper where neither the computer nor the backups
are. The key opens the repositories wherever a key is wanted: --recovery-key asks
for its four lines, and --key-file takes a file with them, or with the code's text.

Exit codes: 0 made · 1 usage, FILE exists, or a key could not be added (then none
is) · 130 interrupted`,
		Example: `  backup-handler key sheet sheet.html
  backup-handler key sheet - | lp`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := ""
			if len(args) > 0 {
				name = args[0]
			}
			return a.keySheet(cmd.Context(), name, &f)
		},
	}
	c.Flags().BoolVar(&f.html, "html", false, "write a page for a browser")
	c.Flags().StringVar(&f.label, "label", "recovery sheet", "a word about the key, shown to whoever can read the repository's files")
	return c
}

func (a *app) keySheet(ctx context.Context, name string, f *sheetFlags) error {
	toFile := name != "" && name != "-"
	switch {
	case !toFile && a.json:
		return usageError("name a FILE", "--json leaves no place for the sheet on standard output")
	case name == "" && !a.stdoutIsTerminal():
		return usageError("name a FILE, or - if standard output is where it should go", "the sheet holds a key, and standard output is no terminal")
	case toFile:
		if _, err := os.Lstat(name); err == nil { // before a key is made; Commit makes sure
			return sheetExists(name)
		}
	}
	all, acc, err := a.openEach(ctx)
	if err != nil {
		return err
	}
	defer closeEach(all)
	for _, d := range all {
		key, err := currentKey(ctx, d.Repo)
		if err != nil {
			return job.Fail(job.ExitUsage, err, "")
		}
		if key.Kind == seal.KindNone {
			return usageError("a sheet is for encrypted repositories; restoring from this one needs no key", "%s opens without any key", quote(d.Place))
		}
	}
	s := sheet.Sheet{Created: time.Now(), Program: "backup-handler " + version, Key: seal.GenerateKeyFile()}
	if s.Host, err = sheetHost(ctx, all[0]); err != nil {
		return job.Fail(job.ExitUsage, err, "")
	}
	var file *durable.File
	if toFile {
		if file, err = durable.Create(name, 0o600); err != nil {
			return job.Fail(job.ExitUsage, fmt.Errorf("write %s: %w", quote(name), err), "")
		}
		defer file.Abort()
	}
	var done []keyChange
	defer func() {
		if err != nil {
			a.takeBack(all, done)
		}
	}()
	for _, d := range all {
		var c keyChange
		c, err = a.addTo(ctx, d, s.Key, s.Key, seal.KindKeyFile, seal.WrapOptions{Label: f.label, Created: s.Created, KDF: acc.KDF}, false)
		if c.Added != (repo.ID{}) {
			done = append(done, c)
		}
		if err != nil {
			return job.Fail(job.ExitUsage, fmt.Errorf("%s: %w", quote(d.Place), err), "no sheet was written")
		}
		r := sheet.Repository{Address: absolute(d.Place), ID: d.Repo.ID().String(), Slot: c.Added.Short()}
		if r.Endpoint, err = a.endpoint(d.Place); err != nil {
			return job.Fail(job.ExitUsage, err, "")
		}
		s.Repositories = append(s.Repositories, r)
	}
	text := s.Text
	if f.html || slices.Contains([]string{".html", ".htm"}, strings.ToLower(filepath.Ext(name))) {
		text = s.HTML
	}
	var content []byte
	if content, err = text(); err != nil {
		return err
	}
	if !toFile {
		if _, err = a.stdout.Write(content); err == nil {
			a.record("recovery_sheet", slog.String("file", "-"))
		}
		return err
	}
	if _, err = file.Write(content); err == nil {
		err = file.Commit()
	}
	if errors.Is(err, fs.ErrExist) {
		return sheetExists(name)
	}
	if err != nil {
		return job.Fail(job.ExitUsage, fmt.Errorf("write %s: %w", quote(name), err), "")
	}
	a.record("recovery_sheet", slog.String("file", name))
	a.note("print " + quote(name) + ", delete it, and keep the paper apart from the computer and the backups")
	return a.print(struct {
		File string      `json:"file"`
		Keys []keyChange `json:"keys"`
	}{name, done}, func(w io.Writer) error { return a.keyChangesText(w, done) })
}

func sheetExists(name string) error {
	return usageError("choose another name", "%s exists", quote(name))
}

// takeBack removes keys of a sheet that was not made: nobody has them.
func (a *app) takeBack(all []*job.Destination, done []keyChange) {
	for i, c := range done {
		// Not the command's context: an interruption is one reason to be here.
		err := all[i].Repo.RemoveKey(context.Background(), c.Added)
		if err != nil {
			a.warn("key slot %s of %s stays, though nobody has its key: %v", c.Added.Short(), quote(c.Place), err)
			continue
		}
		a.record("key_removed", slog.String("repository", c.Place), slog.String("key", c.Added.String()), slog.String("kind", string(c.Kind)))
	}
}

// sheetHost is the host whose snapshots somebody will want: this one, unless only
// another has any.
func sheetHost(ctx context.Context, d *job.Destination) (string, error) {
	this := hostName()
	if err := d.LoadSnapshots(ctx); err != nil {
		return "", err
	}
	if hosts := job.Hosts(d.Snapshots); len(hosts) == 1 && hosts[0] != this {
		return hosts[0], nil
	}
	return this, nil
}

// absolute is a location that means the same elsewhere.
func absolute(place string) string {
	if abs, err := filepath.Abs(place); err == nil && !location.IsURL(place) {
		return abs
	}
	return place
}

// endpoint is the store behind an address, where the configuration names one.
func (a *app) endpoint(place string) (string, error) {
	switch {
	case strings.HasPrefix(place, "s3://"):
		c, err := a.cfg.S3()
		return c.Endpoint, err
	case strings.HasPrefix(place, "gs://"):
		c, err := a.cfg.GCS()
		return c.Endpoint, err
	case strings.HasPrefix(place, "azblob://"):
		c, err := a.cfg.Azure()
		return c.Endpoint, err
	}
	return "", nil
}

func (a *app) stdoutIsTerminal() bool {
	f, ok := a.stdout.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
