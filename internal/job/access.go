package job

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/config"
	"github.com/SP1R4/BackupHandler/v3/internal/keyring"
	"github.com/SP1R4/BackupHandler/v3/internal/location"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/seal"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
	"github.com/SP1R4/BackupHandler/v3/internal/tailscale"
)

// PassphraseEnv is the environment variable with the passphrase, where the
// configuration gives none.
const PassphraseEnv = "BACKUP_HANDLER_PASSPHRASE"

// KeyringHint is what to do without a keyring.
const KeyringHint = "run it in the session of a user who is logged in, or use another key: --key-file, --passphrase-file, $" + PassphraseEnv

// maxKeyFile bounds what is read of a file with a key.
const maxKeyFile = 64 << 10

// ErrNoKey says that encryption is wanted, but there is no key that this host could
// open the repository with again. A recipient's public key alone is not one.
var ErrNoKey = errors.New("encryption is on, but there is neither a passphrase nor a key file")

// Access is how repositories are opened and created.
type Access struct {
	// Encrypt says that the user insists on encryption: a repository that opens
	// without a key is refused.
	Encrypt bool
	// EncryptNew says that new repositories get slots for the keys: where
	// encryption is on, or keys are given and it is not explicitly off.
	EncryptNew bool
	// Credentials open repositories, Lockers are given slots in new ones.
	Credentials []seal.Credential
	Lockers     []seal.Locker
	KDF         seal.KDF
	CacheDir    string // "" for no cache
	CacheSize   int64  // bytes of each remote repository's directories
	// Proving says that what is read has to come from the repositories themselves:
	// what is kept of them on this machine is not used.
	Proving bool
	Ahead   bool // as in repo.Options
	Parity  int  // as in repo.Options
	// Stores opens what a location names.
	Stores *location.Settings
	// Prompt asks for a passphrase, when nothing else opens a repository. nil:
	// nobody is there to ask. confirm: for a new one, asked twice.
	Prompt func(question string, confirm bool) ([]byte, error)
	// OnMended, if set, is told what was damaged in a repository, and read as its
	// repair data has it, when the repository is closed.
	OnMended func(place string, objects []string)
	onKey    func(source string)

	kept         *keptOpen        // for the next OpenDestination; nil: nothing is
	keyring      *keyring.Keyring // nil: it is not asked
	keyringFirst bool
}

// AccessOptions override the configuration.
type AccessOptions struct {
	Encrypt        bool
	KeyFile        string
	PassphraseFile string
	IdentityFile   string
	Recipients     []string
	// Recovery is the key of a recovery sheet that was typed; nil for none.
	Recovery *seal.KeyFile
	// Keyring asks the operating system's keyring for the key of a repository before
	// any other is tried; [ENCRYPTION] keyring asks it where no other fits.
	Keyring bool
	// OnlyGiven leaves out the keys of the configuration and the environment: those
	// given here are for other repositories.
	OnlyGiven bool
	NoCache   bool
	// Limits bound the traffic with all repositories together.
	Limits storage.Limits
	Env    func(string) (string, bool)
	Prompt func(question string, confirm bool) ([]byte, error)
	// Dial makes connections to other machines; nil: as the system does.
	Dial Dial
	// Tailnet, if set, makes them instead. It is joined when the first store on
	// another machine is opened; closing it is left to the caller.
	Tailnet *tailscale.Node
	// OnKey, if set, is told where each key came from that is loaded, for the audit
	// log; never the key. Called concurrently.
	OnKey func(source string)
	// OnRetry, if set, receives a line for each request that failed and is tried
	// again. Called concurrently.
	OnRetry func(string)
	// OnRequest, if set, is told of each request to an object store.
	OnRequest func(method, what string)
}

// NewAccess gathers the keys that the configuration, the environment and the
// command line give. Keys that are not given are no error yet: Open says what
// is missing.
func NewAccess(cfg *config.Config, o AccessOptions) (*Access, error) {
	enc, err := cfg.Encryption()
	if err != nil {
		return nil, err
	}
	a := &Access{Encrypt: enc.Enabled || o.Encrypt || len(o.Recipients) > 0, Prompt: o.Prompt, onKey: o.OnKey, kept: new(keptOpen)}
	if a.Stores, err = stores(cfg, o); err != nil {
		return nil, err
	}
	if a.CacheSize, err = cfg.CacheSize(); err != nil {
		return nil, err
	}
	rc, err := cfg.Repository()
	if err != nil {
		return nil, err
	}
	a.Parity = rc.Parity
	if enc.KDF == "argon2id" {
		a.KDF = seal.Argon2id(3, 64<<10, 1)
	}
	if !o.NoCache {
		if a.CacheDir, err = cfg.CacheDir(); err != nil {
			a.CacheDir = "" // no home directory: everything works without a cache
		}
	}
	if err := a.loadKeyFile(o, enc); err != nil {
		return nil, err
	}
	if o.Recovery != nil {
		a.add(nil, o.Recovery, "recovery sheet from the terminal")
	}
	if err := a.loadPassphrase(o, enc); err != nil {
		return nil, err
	}
	if err := a.loadRecipients(o, enc); err != nil {
		return nil, err
	}
	if o.Keyring || enc.Keyring {
		a.keyring, a.keyringFirst = &keyring.Keyring{Env: o.Env}, o.Keyring
	}
	explicit := cfg.Value("ENCRYPTION", "enabled").IsSet() && !o.OnlyGiven
	keys := len(a.Lockers)+len(a.Credentials) > 0 || a.keyring != nil && !o.OnlyGiven
	a.EncryptNew = a.Encrypt || keys && !explicit
	// Whoever gives a key expects encryption: else a store could be swapped for an
	// unencrypted one, and the next run would fill it with plaintext.
	if !a.Encrypt && (explicit || !keys) {
		a.Credentials = append(a.Credentials, seal.None{})
	}
	return a, nil
}

func (a *Access) add(l seal.Locker, c seal.Credential, where string) {
	if l != nil {
		a.Lockers = append(a.Lockers, l)
	}
	if c != nil {
		a.Credentials = append(a.Credentials, c)
		a.loaded(where)
	}
}

// loaded tells that a key has been read.
func (a *Access) loaded(where string) {
	if a.onKey != nil {
		a.onKey(where)
	}
}

func (a *Access) loadKeyFile(o AccessOptions, enc config.Encryption) (err error) {
	path := o.KeyFile
	if path == "" && !o.OnlyGiven {
		if path, err = enc.KeyFile.Get(); err != nil {
			return err
		}
	}
	if path == "" {
		return nil
	}
	content, err := readKeyFile(path)
	if err != nil {
		return err
	}
	k, where, err := ParseKeyFile(content)
	if err != nil {
		return fmt.Errorf("key file %s: %w", path, err)
	}
	a.add(k, k, where+" "+path)
	return nil
}

// loadPassphrase takes the passphrase from a file, the configuration or the
// environment, in this order. With a key file, as in 2.5, the configured passphrase
// is not used for new repositories.
func (a *Access) loadPassphrase(o AccessOptions, enc config.Encryption) error {
	var text []byte
	var where string
	if o.PassphraseFile != "" {
		content, err := readKeyFile(o.PassphraseFile)
		if err != nil {
			return err
		}
		text, where = []byte(strings.TrimRight(string(content), "\r\n")), "passphrase from "+o.PassphraseFile
		if len(text) == 0 { // what was asked for is never replaced by something else
			return fmt.Errorf("passphrase file %s: it is empty", o.PassphraseFile)
		}
	} else if o.OnlyGiven {
		return nil
	} else if p, err := enc.Passphrase.Get(); err != nil {
		if len(a.Lockers) > 0 {
			return nil // the key file is enough: a restore does not need every secret
		}
		if env, ok := o.Env(PassphraseEnv); !ok || env == "" {
			return err
		}
	} else if !p.IsEmpty() {
		text, where = []byte(p.Reveal()), "passphrase from the configuration"
	}
	if len(text) == 0 {
		env, _ := o.Env(PassphraseEnv)
		text, where = []byte(env), "passphrase from $"+PassphraseEnv
	}
	if len(text) == 0 {
		return nil
	}
	p, err := seal.NewPassphrase(text)
	if err != nil {
		return err
	}
	if len(a.Lockers) > 0 {
		a.add(nil, p, where)
	} else {
		a.add(p, p, where)
	}
	return nil
}

func (a *Access) loadRecipients(o AccessOptions, enc config.Encryption) error {
	recipients := o.Recipients
	if len(recipients) == 0 && !o.OnlyGiven {
		var err error
		if recipients, err = enc.Recipients.Get(); err != nil {
			return err
		}
	}
	for _, item := range recipients {
		r, err := ParseRecipient(item)
		if err != nil {
			return err
		}
		a.add(r, nil, "")
	}
	identity := o.IdentityFile
	if identity == "" && !o.OnlyGiven {
		var err error
		if identity, err = enc.IdentityFile.Get(); err != nil {
			return err
		}
	}
	if identity == "" {
		return nil
	}
	content, err := readKeyFile(identity)
	if err != nil {
		return err
	}
	i, err := seal.ParseIdentity(keyLine(content))
	if err != nil {
		return fmt.Errorf("identity file %s: %w", identity, err)
	}
	a.add(nil, i, "identity file "+identity)
	return nil
}

// ParseRecipient reads a public key, given itself or as the path of a file.
func ParseRecipient(item string) (*seal.Recipient, error) {
	if r, err := seal.ParseRecipient(item); err == nil {
		return r, nil
	}
	content, err := readKeyFile(item)
	if err != nil {
		return nil, fmt.Errorf("recipient: neither a public key nor a readable file: %w", err)
	}
	r, err := seal.ParseRecipient(keyLine(content))
	if err != nil {
		return nil, fmt.Errorf("recipient file %s: %w", item, err)
	}
	return r, nil
}

// keyLine returns the first line that is neither empty nor a comment.
func keyLine(content []byte) string {
	for line := range strings.Lines(string(content)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			return line
		}
	}
	return ""
}

func readKeyFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() && info.Mode()&fs.ModeNamedPipe == 0 && info.Mode()&fs.ModeCharDevice == 0 {
		return nil, fmt.Errorf("%s is not a file", path)
	}
	if info.Size() > maxKeyFile {
		return nil, fmt.Errorf("%s: %d bytes are too many for a key", path, info.Size())
	}
	return os.ReadFile(path)
}

// noRepository is a place without a repository.
type noRepository struct {
	error
	// maySub: there may be one below it. On other machines that has been looked for
	// already, by a request in place of a connection.
	maySub bool
}

func (e *noRepository) Unwrap() error { return e.error }

// Open opens the repository at a location. It asks for a passphrase where nothing
// else fits and somebody is there to ask.
func (a *Access) Open(ctx context.Context, place string) (*repo.Repository, error) {
	b, err := a.Stores.Open(ctx, place)
	if err != nil {
		// What is missing for ever is a key file, say, and not the store.
		if _, permanent := errors.AsType[*storage.PermanentError](err); errors.Is(err, fs.ErrNotExist) && !permanent {
			return nil, &noRepository{fmt.Errorf("%s: %w", location.Redact(place), repo.ErrNoRepository), !location.IsRemote(place)}
		}
		return nil, named(place, err)
	}
	return a.openStore(ctx, place, b)
}

// openStore opens the repository in a store, which it closes if there is none.
func (a *Access) openStore(ctx context.Context, place string, b storage.Backend) (*repo.Repository, error) {
	o := repo.Options{Credentials: a.Credentials, CacheDir: a.CacheDir, Parity: a.Parity}
	if location.IsRemote(place) {
		o.CacheBytes, o.Transfers, o.Reads, o.Ahead = a.CacheSize, location.Transfers, location.Reads, a.Ahead
		if a.Proving {
			o.CacheBytes, o.ScratchBytes = 0, a.CacheSize
		}
	}
	r, err := a.tryKeys(ctx, b, o)
	if errors.Is(err, seal.ErrWrongKey) && a.Prompt != nil {
		text, perr := a.Prompt("Passphrase for "+location.Redact(place), false)
		if perr != nil {
			b.Close()
			return nil, errors.Join(err, perr)
		}
		p, perr := seal.NewPassphrase(text)
		if perr != nil {
			b.Close()
			return nil, perr
		}
		o.Credentials = []seal.Credential{p}
		if r, err = repo.Open(ctx, b, o); err == nil {
			a.add(nil, p, "passphrase from the terminal")
		}
	}
	if errors.Is(err, repo.ErrNoRepository) && location.IsRemote(place) {
		_, suberr := get(ctx, b, SubDir+"/config")
		err = &noRepository{err, !errors.Is(suberr, fs.ErrNotExist)}
	}
	if err != nil {
		b.Close()
		return nil, err
	}
	return r, nil
}

// tryKeys opens a repository with the keys that are given and that of the keyring.
func (a *Access) tryKeys(ctx context.Context, b storage.Backend, o repo.Options) (*repo.Repository, error) {
	if a.keyring == nil {
		return repo.Open(ctx, b, o)
	}
	var asked error
	o.More = func(id repo.ID) (c seal.Credential, err error) {
		if c, asked = KeyringKey(ctx, *a.keyring, id); asked != nil {
			return nil, asked
		}
		a.loaded("keyring, entry of repository " + id.String())
		return c, nil
	}
	if a.keyringFirst && len(o.Credentials) > 0 {
		only := o
		only.Credentials = nil
		r, err := repo.Open(ctx, b, only)
		if !errors.Is(err, seal.ErrWrongKey) {
			return r, err
		}
		o.More = func(repo.ID) (seal.Credential, error) { return nil, cmp.Or(asked, errKeyringOld) }
	}
	return repo.Open(ctx, b, o)
}

// errKeyringOld says that the key in the keyring is of a slot that is gone.
var errKeyringOld = errors.New("the key in the keyring does not open it")

// KeyringKey returns the key that a keyring has for a repository. Its error may be
// keyring.ErrNone or keyring.ErrUnavailable.
func KeyringKey(ctx context.Context, k keyring.Keyring, id repo.ID) (*seal.KeyFile, error) {
	text, err := k.Get(ctx, id.String())
	if err != nil {
		return nil, err
	}
	key, err := seal.ParsePaperKey([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("the entry in the keyring is no key: %w", err)
	}
	return key, nil
}

// get reads the beginning of an object.
func get(ctx context.Context, b storage.Backend, name string) ([]byte, error) {
	rc, err := b.Get(ctx, name, 0, 1)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	return io.ReadAll(rc)
}

// Create makes a repository at a location. With sibling, which may be nil, it shares
// its master secret, unless one of the two is encrypted and the other is not: the
// secret of the one would lie open in the other.
func (a *Access) Create(ctx context.Context, place string, sibling *repo.Repository) error {
	b, err := a.make(ctx, place, sibling)
	if b != nil {
		b.Close()
	}
	return err
}

// make is Create, and returns the store, also where a repository exists.
func (a *Access) make(ctx context.Context, place string, sibling *repo.Repository) (storage.Backend, error) {
	if sibling != nil {
		encrypted, err := sibling.Encrypted(ctx)
		if err != nil {
			return nil, err
		}
		if encrypted != a.EncryptNew {
			sibling = nil
		}
	}
	if a.EncryptNew && len(a.Lockers) == 0 {
		if err := a.askNew(place); err != nil {
			return nil, err
		}
	}
	lockers := a.Lockers
	if !a.EncryptNew {
		lockers = []seal.Locker{seal.None{}}
	}
	b, err := a.Stores.Create(ctx, place)
	if err != nil {
		return nil, named(place, err)
	}
	err = repo.Init(ctx, b, repo.InitOptions{
		Lockers: lockers, Sibling: sibling, Parity: a.Parity,
		Wrap: seal.WrapOptions{Created: time.Now(), KDF: a.KDF},
	})
	if err != nil && !errors.Is(err, repo.ErrExists) {
		b.Close()
		return nil, err
	}
	return b, err
}

// askNew asks for the passphrase of a new repository.
func (a *Access) askNew(place string) error {
	if a.Prompt == nil {
		return ErrNoKey
	}
	text, err := a.Prompt("New passphrase for "+location.Redact(place), true)
	if err != nil {
		return err
	}
	p, err := seal.NewPassphrase(text)
	if err != nil {
		return err
	}
	a.add(p, p, "passphrase from the terminal")
	return nil
}
