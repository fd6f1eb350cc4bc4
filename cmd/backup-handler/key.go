package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/SP1R4/BackupHandler/v3/internal/durable"
	"github.com/SP1R4/BackupHandler/v3/internal/job"
	"github.com/SP1R4/BackupHandler/v3/internal/keyring"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/seal"
)

// newKey is what add and change are to add.
type newKey struct {
	passFile, keyFile, recipient, label, kdf string
	writeOnly                                bool

	ask bool // for a passphrase
	// keyring: a random key file, kept in the operating system's keyring.
	keyring bool
}

// takeKeyring makes --keyring mean the new key, where no flag gives another one.
func (k *newKey) takeKeyring(a *app) {
	k.keyring = a.keyring && !k.ask && k.passFile+k.keyFile+k.recipient == ""
}

func (a *app) keyCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "key",
		Short: "List, add, change and remove the keys of repositories",
		Long: `List, add, change and remove the keys of repositories.

A repository has any number of key slots, each opened by a passphrase, a key file
or a recipient's identity. Adding or removing one does not touch the backups. It
does not help against somebody who has copied an old slot and knows its key.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.needsSubcommand(cmd) },
	}
	c.AddCommand(a.keyListCommand(), a.keyAddCommand(), a.keyChangeCommand(), a.keyRemoveCommand(), a.keySheetCommand(), a.generateCommand())
	for _, old := range []*cobra.Command{a.generateKeyFileCommand("generate-key-file"), a.generateIdentityCommand("generate-identity")} {
		old.Hidden = true // the names of the first versions
		c.AddCommand(old)
	}
	return c
}

func (a *app) keyListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the key slots of each repository",
		Long: `List the key slots of each repository. The current one, marked with *, has opened
it now.

Exit codes: 0 listed · 1 usage, or a repository cannot be opened · 130 interrupted`,
		Example: `  backup-handler key list --backup-dirs /mnt/disk/backup
  backup-handler key list --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.keyList(cmd.Context()) },
	}
}

func (a *app) keyAddCommand() *cobra.Command {
	var k newKey
	c := &cobra.Command{
		Use:   "add",
		Short: "Add a key to each repository",
		Long: `Add a key to each repository: a passphrase, which is asked for twice where no file
is given, a key file, a recipient, or, with --keyring and no other, a random key for
the operating system's keyring to keep. Unless it is a recipient's, it is tried
before the command ends.

With --write-only the key is for a host that makes backups, one destination at a
time, and must not be able to read, list or remove any, its own included: what it
finds stored already it does not store again. Restore from another host, with a
key of the whole repository. docs/format.md, section 14, says what a thief of the
key can and cannot do.

The keyring is that of the user who runs the command, who has to be logged in to a
desktop session. With [ENCRYPTION] keyring = True, or --keyring, it opens the
repository from then on. It is lost with the machine: keep another key elsewhere.

Exit codes: 0 added to all · 1 usage, or not added to all · 130 interrupted`,
		Example: `  backup-handler key add --label 'in the head of Ann'
  backup-handler key add --new-key-file /etc/backup-handler/key
  backup-handler key add --recipient team.pub
  backup-handler key add --write-only --new-key-file web-server.key --label web
  backup-handler key add --keyring`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if k.takeKeyring(a); k.keyring {
				a.keyring = false // it is where the new key goes
			}
			return a.keyAdd(cmd.Context(), &k, false)
		},
	}
	k.flags(c)
	c.Flags().StringVar(&k.recipient, "recipient", "", "public key, or file with one")
	c.Flags().BoolVar(&k.writeOnly, "write-only", false, "the key makes backups, and reads none")
	c.MarkFlagsMutuallyExclusive("passphrase", "new-passphrase-file", "new-key-file", "recipient")
	return c
}

func (a *app) keyChangeCommand() *cobra.Command {
	var k newKey
	c := &cobra.Command{
		Use:   "change",
		Short: "Replace the key that opens each repository",
		Long: `Replace the key that opens each repository: the new one is added, then tried, and
only then is the one removed that the command was run with. Both must be of a kind:
from a passphrase to a key file leads 'key add', then 'key remove'. With --keyring
and no other flag for the new key, the one in the operating system's keyring is
replaced by another.

Exit codes: 0 changed in all · 1 usage, or not changed in all · 130 interrupted`,
		Example: `  backup-handler key change
  backup-handler key change --passphrase-file old.txt --new-passphrase-file new.txt`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			k.takeKeyring(a)
			return a.keyAdd(cmd.Context(), &k, true)
		},
	}
	k.flags(c)
	c.MarkFlagsMutuallyExclusive("passphrase", "new-passphrase-file", "new-key-file")
	return c
}

func (k *newKey) flags(c *cobra.Command) {
	fl := c.Flags()
	fl.BoolVar(&k.ask, "passphrase", false, "ask for the new passphrase (so it is without any other flag for the new key)")
	fl.StringVar(&k.passFile, "new-passphrase-file", "", "file with the new passphrase")
	fl.StringVar(&k.keyFile, "new-key-file", "", "new key file of 32 bytes")
	fl.StringVar(&k.label, "label", "", "a word about the key, shown to whoever can read the repository's files")
	fl.StringVar(&k.kdf, "kdf", "", "how a passphrase becomes a key: pbkdf2 or argon2id (default: the configuration's, else pbkdf2)")
}

func (a *app) keyRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "remove ID",
		Short: "Remove a key slot",
		Long: `Remove a key slot, named by the first digits of its ID. The key that opened the
repository cannot remove itself: what remains is known to open. An entry that the
operating system's keyring has for the slot goes with it.

Exit codes: 0 removed · 1 usage, no such slot, or refused · 130 interrupted`,
		Example: `  backup-handler key remove 5e1f0a77
  backup-handler key remove 5e1f0a77 --key-file /etc/backup-handler/key`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.keyRemove(cmd.Context(), args[0]) },
	}
}

func (a *app) generateCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "generate",
		Short: "Make a new key file, or an identity and its recipient",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return a.needsSubcommand(cmd) },
	}
	c.AddCommand(a.generateKeyFileCommand("key-file"), a.generateIdentityCommand("identity"))
	return c
}

func (a *app) generateKeyFileCommand(name string) *cobra.Command {
	return &cobra.Command{
		Use:   name + " FILE",
		Short: "Write a new key file",
		Long: `Write a new key file: 32 random bytes that only you can read. A file that exists
is never overwritten. Keep a copy where the backups are not.

Exit codes: 0 written · 1 usage, or FILE exists`,
		Example: `  backup-handler key generate key-file /etc/backup-handler/key`,
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			key := make([]byte, seal.KeySize)
			rand.Read(key)
			return a.generate(args[0], key, "key file", "")
		},
	}
}

func (a *app) generateIdentityCommand(name string) *cobra.Command {
	return &cobra.Command{
		Use:   name + " FILE",
		Short: "Write a new private identity, and print its public recipient",
		Long: `Write a new private identity to FILE, which only you can read, and print its public
key. Repositories that have the public key as a recipient open with the identity
(--identity-file): it can be kept away from the machines that are backed up. A file
that exists is never overwritten.

Exit codes: 0 written · 1 usage, or FILE exists`,
		Example: `  backup-handler key generate identity recovery.key > recovery.pub
  backup-handler key add --recipient recovery.pub`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			id, err := seal.GenerateIdentity(rand.Reader)
			if err != nil {
				return err
			}
			text := "# Private identity of backup-handler: keep it secret, and do not lose it.\n# created: " +
				time.Now().UTC().Format(time.RFC3339) + "\n" + id.Text() + "\n"
			return a.generate(args[0], []byte(text), "identity", id.Recipient().String())
		},
	}
}

// generate writes a secret to a file that does not exist.
func (a *app) generate(name string, secret []byte, kind, recipient string) error {
	if err := a.load(); err != nil {
		return err
	}
	f, err := durable.Create(name, 0o600)
	if err == nil {
		defer f.Abort()
		if _, err = f.Write(secret); err == nil {
			err = f.Commit()
		}
	}
	if errors.Is(err, fs.ErrExist) {
		return usageError("choose another name: a key that is overwritten is lost", "%s exists", quote(name))
	}
	if err != nil {
		return job.Fail(job.ExitUsage, fmt.Errorf("write %s %s: %w", kind, quote(name), err), "")
	}
	a.record("key_generated", slog.String("kind", kind), slog.String("file", name))
	a.note("wrote " + kind + " " + quote(name) + "; keep a copy of it apart from the backups")
	out := struct {
		File      string `json:"file"`
		Recipient string `json:"recipient,omitempty"`
	}{name, recipient}
	return a.print(out, func(w io.Writer) error {
		if recipient != "" {
			fmt.Fprintln(w, recipient)
		}
		return nil
	})
}

// openEach opens every repository, or none: keys are changed in all.
func (a *app) openEach(ctx context.Context) (all []*job.Destination, acc *job.Access, err error) {
	if err := a.load(); err != nil {
		return nil, nil, err
	}
	locations, err := a.locations()
	if err != nil {
		return nil, nil, err
	}
	if acc, err = a.access(false, nil); err != nil {
		return nil, nil, err
	}
	for _, l := range locations {
		d, err := acc.OpenDestination(ctx, l)
		if err != nil {
			closeEach(all)
			return nil, nil, job.Fail(job.ExitUsage, err, openHint(err))
		}
		all = append(all, d)
	}
	return all, acc, nil
}

func closeEach(all []*job.Destination) {
	for _, d := range all {
		d.Close()
	}
}

type keysReport struct {
	Place string     `json:"repository"`
	ID    repo.ID    `json:"id"`
	Keys  []repo.Key `json:"keys"`
}

func (a *app) keyList(ctx context.Context) error {
	all, _, err := a.openEach(ctx)
	if err != nil {
		return err
	}
	defer closeEach(all)
	var reps []keysReport
	for _, d := range all {
		keys, err := d.Repo.Keys(ctx)
		if err != nil {
			return job.Fail(job.ExitUsage, err, "")
		}
		reps = append(reps, keysReport{d.Place, d.Repo.ID(), keys})
	}
	return a.print(reps, func(w io.Writer) error {
		for _, r := range reps {
			fmt.Fprintln(w, quote(r.Place))
			t := newTable("", "ID", "KIND", "ROLE", "CREATED", "DERIVATION", "LABEL")
			for _, k := range r.Keys {
				mark := " "
				if k.Current {
					mark = "*"
				}
				t.row(mark, k.ID.Short(), string(k.Kind), cmp.Or(k.Role, "all"), k.Created.Local().Format("2006-01-02 15:04"), k.KDF.Name, quote(k.Label))
			}
			if err := t.write(w); err != nil {
				return err
			}
		}
		return nil
	})
}

// newCredential reads or asks for the new key. Nobody but its owner can try a
// recipient's.
func (a *app) newCredential(k *newKey) (seal.Locker, seal.Credential, seal.Kind, error) {
	switch {
	case k.keyring:
		f := seal.GenerateKeyFile()
		return f, f, seal.KindKeyFile, nil
	case k.recipient != "":
		r, err := job.ParseRecipient(k.recipient)
		return r, nil, seal.KindRecipient, err
	case k.keyFile != "":
		content, err := readSecret(k.keyFile)
		if err != nil {
			return nil, nil, "", err
		}
		f, _, err := job.ParseKeyFile(content)
		if err != nil {
			return nil, nil, "", fmt.Errorf("key file %s: %w", quote(k.keyFile), err)
		}
		return f, f, seal.KindKeyFile, nil
	}
	var text []byte
	var err error
	if k.passFile != "" {
		text, err = readSecret(k.passFile)
		text = []byte(strings.TrimRight(string(text), "\r\n"))
	} else if ask := a.prompter(); ask != nil {
		text, err = ask("New passphrase", true)
	} else {
		return nil, nil, "", job.Fail(job.ExitUsage, errors.New("no new key is given"), "use --new-passphrase-file, --new-key-file, --recipient or --keyring, or run it on a terminal")
	}
	if err != nil {
		return nil, nil, "", err
	}
	p, err := seal.NewPassphrase(text)
	return p, p, seal.KindPassphrase, err
}

// maxSecretBytes bounds what is read of a file with a key or a passphrase.
const maxSecretBytes = 64 << 10

func readSecret(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSecretBytes+1))
	if err == nil && len(b) > maxSecretBytes {
		err = fmt.Errorf("%s: more than %d bytes are too many for a key", quote(name), maxSecretBytes)
	}
	return b, err
}

type keyChange struct {
	Place   string    `json:"repository"`
	Kind    seal.Kind `json:"kind"`
	Added   repo.ID   `json:"added"`
	Removed *repo.ID  `json:"removed,omitempty"`
}

// keyAdd adds a key to each repository; with replace it takes the place of the one
// that has opened it.
func (a *app) keyAdd(ctx context.Context, k *newKey, replace bool) error {
	all, acc, err := a.openEach(ctx)
	if err != nil {
		return err
	}
	defer closeEach(all)
	opts := seal.WrapOptions{Label: k.label, Created: time.Now()}
	if k.keyring && opts.Label == "" {
		opts.Label = keyringLabel
	}
	if opts.KDF, err = parseKDF(k.kdf, acc.KDF); err != nil {
		return job.Fail(job.ExitUsage, err, "")
	}
	locker, credential, kind, err := a.newCredential(k)
	if err != nil {
		return job.Fail(job.ExitUsage, err, "")
	}
	current := make([]repo.Key, len(all))
	for i, d := range all {
		if current[i], err = currentKey(ctx, d.Repo); err != nil {
			return job.Fail(job.ExitUsage, err, "")
		}
		if replace && current[i].Kind != kind {
			return usageError("use 'backup-handler key add', then 'backup-handler key remove "+current[i].ID.Short()+"' with the new key; nothing was changed",
				"%s was opened with a slot of kind %s, which a %s does not replace", quote(d.Place), current[i].Kind, kind)
		}
		if k.keyring {
			if err := a.checkKeyring(ctx, d, replace, current[i].ID); err != nil {
				return err
			}
		}
		if replace && d.Repo.OpensWith(ctx, credential) {
			return usageError("nothing was changed", "%s opens with the new key already", quote(d.Place))
		}
	}
	var done []keyChange
	for i, d := range all {
		c, err := a.addTo(ctx, d, locker, credential, kind, opts, k.writeOnly)
		if f, ok := credential.(*seal.KeyFile); err == nil && ok && k.keyring {
			if err = a.osKeyring().Set(ctx, d.Repo.ID().String(), f.Text()); err != nil {
				a.takeBack([]*job.Destination{d}, []keyChange{c})
			}
		}
		if err == nil && replace {
			if err = d.Repo.RemoveKey(ctx, current[i].ID); err == nil {
				c.Removed = &current[i].ID
				a.record("key_removed", slog.String("repository", d.Place), slog.String("key", c.Removed.String()), slog.String("kind", string(kind)))
			}
		}
		if err != nil {
			hint := "'backup-handler key list' shows what each repository has now"
			if errors.Is(err, keyring.ErrUnavailable) {
				hint = keyringSetHint
			}
			return job.Fail(job.ExitUsage, fmt.Errorf("%s: %w", quote(d.Place), err), hint)
		}
		done = append(done, c)
	}
	for i, d := range all {
		if current[i].Kind == seal.KindNone {
			a.warn("%s still opens without any key, as long as slot %s is there, and for whoever has a copy of it", quote(d.Place), current[i].ID.Short())
		}
	}
	switch {
	case k.keyring && !replace:
		a.note("the key is in the keyring of this user on this machine: --keyring, or [ENCRYPTION] keyring = True, uses it; it is lost with the machine, so keep another key elsewhere")
	case replace && !k.keyring:
		a.note("use the new key from now on: in $" + job.PassphraseEnv + ", its file, or the configuration")
	}
	return a.print(done, func(w io.Writer) error { return a.keyChangesText(w, done) })
}

func (a *app) keyChangesText(w io.Writer, done []keyChange) error {
	for _, c := range done {
		if a.quiet {
			break
		}
		fmt.Fprintf(w, "%s: added %s %s", quote(c.Place), c.Kind, c.Added.Short())
		if c.Removed != nil {
			fmt.Fprintf(w, ", removed %s", c.Removed.Short())
		}
		fmt.Fprintln(w)
	}
	return nil
}

// addTo adds a key, and opens the repository with it before it is relied upon. With an
// error, Added is the slot if there is one.
func (a *app) addTo(ctx context.Context, d *job.Destination, l seal.Locker, c seal.Credential, kind seal.Kind, o seal.WrapOptions, writeOnly bool) (keyChange, error) {
	add := d.Repo.AddKey
	if writeOnly {
		add = d.Repo.AddWriteOnlyKey
	}
	id, err := add(ctx, l, o)
	if err != nil {
		return keyChange{}, err
	}
	added := keyChange{Place: d.Place, Kind: kind, Added: id}
	a.record("key_added", slog.String("repository", d.Place), slog.String("key", id.String()), slog.String("kind", string(kind)))
	if c != nil && !d.Repo.OpensWith(ctx, c) {
		return added, fmt.Errorf("key slot %s was stored, but the new key does not open it", id.Short())
	}
	return added, nil
}

func currentKey(ctx context.Context, r *repo.Repository) (repo.Key, error) {
	keys, err := r.Keys(ctx)
	for _, k := range keys {
		if k.Current {
			return k, nil
		}
	}
	return repo.Key{}, errors.Join(err, errors.New("the key slot that opened the repository has been removed meanwhile"))
}

func (a *app) keyRemove(ctx context.Context, prefix string) error {
	if len(prefix) < 4 || strings.Trim(prefix, "0123456789abcdef") != "" {
		return usageError("'backup-handler key list' lists them", "%q is no beginning of an ID: want 4 or more hexadecimal digits", prefix)
	}
	all, _, err := a.openEach(ctx)
	if err != nil {
		return err
	}
	defer closeEach(all)
	var in *job.Destination
	var key repo.Key
	for _, d := range all {
		keys, err := d.Repo.Keys(ctx)
		if err != nil {
			return job.Fail(job.ExitUsage, err, "")
		}
		for _, k := range keys {
			if !strings.HasPrefix(k.ID.String(), prefix) {
				continue
			}
			if in != nil {
				return usageError("give more digits", "%s begins more than one key slot", prefix)
			}
			in, key = d, k
		}
	}
	if in == nil {
		return usageError("'backup-handler key list' lists them", "no key slot begins with %s", prefix)
	}
	if key.Current {
		return usageError("open it with another key to remove this one (--passphrase-file, --key-file, --identity-file), or use 'backup-handler key change'",
			"key slot %s has opened %s, and cannot remove itself", key.ID.Short(), quote(in.Place))
	}
	kept := a.inKeyring(ctx, in, &key)
	if err := in.Repo.RemoveKey(ctx, key.ID); err != nil {
		return job.Fail(job.ExitUsage, fmt.Errorf("%s: %w", quote(in.Place), err), "")
	}
	if kept {
		if err := a.osKeyring().Delete(ctx, in.Repo.ID().String()); err != nil {
			a.warn("the entry in the keyring stays, and opens nothing any more: %v", err)
			kept = false
		}
	}
	a.record("key_removed", slog.String("repository", in.Place), slog.String("key", key.ID.String()), slog.String("kind", string(key.Kind)))
	out := struct {
		Place   string    `json:"repository"`
		Removed repo.ID   `json:"removed"`
		Kind    seal.Kind `json:"kind"`
		Keyring bool      `json:"keyring_entry_removed,omitempty"`
	}{in.Place, key.ID, key.Kind, kept}
	return a.print(out, func(w io.Writer) error {
		if !a.quiet {
			fmt.Fprintf(w, "%s: removed %s %s", quote(in.Place), key.Kind, key.ID.Short())
			if kept {
				fmt.Fprint(w, ", and its entry in the keyring")
			}
			fmt.Fprintln(w)
		}
		return nil
	})
}
