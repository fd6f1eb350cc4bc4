package repo

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"github.com/SP1R4/BackupHandler/v3/internal/chunk"
	"github.com/SP1R4/BackupHandler/v3/internal/parity"
	"github.com/SP1R4/BackupHandler/v3/internal/seal"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

const (
	configName    = "config"
	readmeName    = "readme.txt"
	configFormat  = "backup-handler repository"
	configVersion = 1
	configSuite   = "xaes-256-gcm/hmac-sha256-128"
	maxConfig     = 64 << 10
)

// Errors of opening and creating.
var (
	// ErrNoRepository says that there is no repository at the place.
	ErrNoRepository = errors.New("no repository")
	// ErrExists says that there is one already.
	ErrExists = errors.New("a repository exists here")
)

// DefaultParams are the chunk sizes of a new repository, in bytes: docs/adr/0002
// has the measurements.
var DefaultParams = chunk.Params{Min: 128 << 10, Avg: 512 << 10, Max: 2 << 20}

// A Repository is an open repository. Its methods may be called concurrently.
//
// It is the engine: it stores chunks, finds them again and keeps snapshots' bytes.
// It knows nothing of files, of configuration or of a user.
type Repository struct {
	backend storage.Backend
	id      ID
	params  chunk.Params
	keys    *seal.Keys
	secret  seal.Secret
	split   *chunk.Splitter
	slot    ID // the slot that opened it

	slotMu sync.Mutex
	added  map[ID]struct{} // slots that this process has added

	enc    *zstd.Encoder // for tables, index and snapshots; EncodeAll is safe for concurrent use
	dec    *zstd.Decoder
	index  index
	recent blockCache

	kept      *keptDir // nil: none
	scratch   *scratch // of the proof under way; nil: none
	scratchIn string   // directory; "": none
	// scratchBytes bounds a scratch.
	scratchBytes int64

	transfers int
	reads     int

	sessions sessions
	ahead    *ahead // nil: nothing was asked for

	parity int
	view   *parity.Mended // reads what is damaged; nil: this is such a view itself
	mendMu sync.Mutex
	mends  map[string]struct{} // objects that were read as their repair data has them
	// unsound are objects whose repair data was found damaged.
	unsound map[string]struct{}
}

// repoConfig is the first line of the config object.
type repoConfig struct {
	Format      string `json:"format"`
	Version     int    `json:"version"`
	ID          ID     `json:"id"`
	Fingerprint ID     `json:"fingerprint"`
	Suite       string `json:"suite"`
	Chunker     string `json:"chunker"`
	ChunkMin    int    `json:"chunk_min"`
	ChunkAvg    int    `json:"chunk_avg"`
	ChunkMax    int    `json:"chunk_max"`
}

// Options are how a repository is opened.
type Options struct {
	// Credentials are tried on the key slots.
	Credentials []seal.Credential
	// More, if set, is asked for another one where none of Credentials fits. Its error
	// becomes part of that of Open.
	More func(id ID) (seal.Credential, error)
	// CacheDir is where index caches are kept; "" for none.
	CacheDir string
	// CacheBytes is how much of the metadata is kept in CacheDir beside the index, in
	// bytes: for a store that is slow to ask.
	CacheBytes int64
	// ScratchBytes is how much of it a proof of such a store may hold there while it
	// lasts: see Prove.
	ScratchBytes int64
	// Transfers is how many packs are worth storing at a time, if that is more than
	// the engine's own measure: while one waits for an answer, others fill the line.
	Transfers int
	// Reads is how many parts of packs are worth reading at a time, if that is more
	// than there are processors.
	Reads int
	// Ahead says that LoadIndex and Snapshots are called next, to read: what they list, and
	// where nothing is cached what they read, is asked for while the key is looked for.
	Ahead bool
	// Parity is how much repair data packs that are stored get, in percent, at most
	// parity.MaxPercent; config, key slots and snapshots get a copy then. 0 for none.
	Parity int
}

// InitOptions describe a new repository.
type InitOptions struct {
	// Lockers wrap the master secret, each in a slot of its own; at least one.
	Lockers []seal.Locker
	Wrap    seal.WrapOptions
	// Sibling, if set, shares its master secret and chunk sizes with the new
	// repository, so that blocks can be copied between them unopened.
	Sibling *Repository
	// Params are the chunk sizes; zero: the sibling's, or DefaultParams.
	Params chunk.Params
	// Parity is as in Options.
	Parity int
}

const readme = `This directory is a repository of backup-handler: encrypted, deduplicated backups.

Do not change, rename or delete anything in it by hand.
To list and restore what is in it, get backup-handler and run
    backup-handler snapshots --backup-dirs THIS_DIRECTORY
    backup-handler restore latest --backup-dirs THIS_DIRECTORY --to SOME_EMPTY_DIRECTORY
You need the passphrase, key file or identity of one of its key slots (keys/).
The format is documented in docs/format.md of the program's source.
`

// Init creates a repository. Where one exists already, also if another process
// was faster, it is ErrExists and nothing has changed.
func Init(ctx context.Context, b storage.Backend, o InitOptions) error {
	if err := checkVacant(ctx, b); err != nil {
		return err
	}
	if len(o.Lockers) == 0 {
		return errors.New("create repository: no key")
	}
	b = parity.Wrap(b, o.Parity)
	var secret seal.Secret
	var err error
	if o.Sibling != nil {
		if o.Sibling.WriteOnly() {
			return ErrWriteOnly
		}
		secret = o.Sibling.secret
		if o.Params == (chunk.Params{}) {
			o.Params = o.Sibling.params
		}
	} else if secret, err = seal.NewSecret(rand.Reader); err != nil {
		return err
	}
	if o.Params == (chunk.Params{}) {
		o.Params = DefaultParams
	}
	if err := checkParams(o.Params); err != nil {
		return err
	}
	keys := seal.NewKeys(secret)
	c := repoConfig{
		Format: configFormat, Version: configVersion, ID: NewID(), Fingerprint: ID(keys.Fingerprint()),
		Suite: configSuite, Chunker: chunk.Algorithm,
		ChunkMin: o.Params.Min, ChunkAvg: o.Params.Avg, ChunkMax: o.Params.Max,
	}
	slots := make([]string, len(o.Lockers))
	undo := func() {
		for _, name := range slots {
			b.Delete(context.WithoutCancel(ctx), name) // leftovers are harmless: of no repository
		}
	}
	// All is there before the config makes a repository of it.
	var g errgroup.Group
	g.SetLimit(fetchers)
	g.Go(func() error {
		if err := put(ctx, b, readmeName, []byte(readme)); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("store %s: %w", readmeName, err)
		}
		return nil
	})
	for i, l := range o.Lockers {
		slots[i] = slotName(NewID())
		g.Go(func() error {
			slot, err := seal.Wrap(rand.Reader, c.ID, secret, l, o.Wrap)
			if err != nil {
				return err
			}
			if err := put(ctx, b, slots[i], slot.Encode()); err != nil {
				return fmt.Errorf("store key slot: %w", err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		undo()
		return err
	}
	line, err := json.Marshal(c)
	if err != nil {
		return err
	}
	mac := keys.ConfigMAC(line)
	body := append(append(line, '\n'), hex.EncodeToString(mac[:])+"\n"...)
	if err := put(ctx, b, configName, body); err != nil {
		if errors.Is(err, fs.ErrExist) {
			// Either another process was faster, or this very write took effect
			// before it was reported as failed and was tried again.
			if stored, err := getConfig(ctx, b); err == nil && bytes.Equal(stored, body) {
				return nil
			}
			undo()
			return ErrExists
		}
		// The config may be there all the same: the slots stay, for it would not
		// open without them.
		return fmt.Errorf("store config: %w", err)
	}
	return nil
}

// maxChunk bounds chunk_max: a block that is closed by a chunk of that size, behind
// nearly BlockBytes of others, still has lengths that a table can hold.
const maxChunk = maxBlockSize - BlockBytes - ReadBytes - tagBytes

func checkParams(p chunk.Params) error {
	if p.Max > maxChunk {
		return fmt.Errorf("maximum chunk size %d is above %d", p.Max, maxChunk)
	}
	return p.Validate()
}

// checkVacant returns ErrExists where there is a repository, and refuses a place
// where the config of one has been lost.
func checkVacant(ctx context.Context, b storage.Backend) error {
	var g errgroup.Group
	var noConfig error
	g.Go(func() error {
		_, noConfig = getConfig(ctx, b)
		return nil
	})
	for _, dir := range []string{"packs", "index", "snapshots"} {
		g.Go(func() error {
			return b.List(ctx, dir, func(info storage.Info) error {
				return fmt.Errorf("%s has %s but no config: the remains of a repository whose config was lost", b, info.Name)
			})
		})
	}
	err := g.Wait()
	switch {
	case noConfig == nil:
		return ErrExists
	case !errors.Is(noConfig, ErrNoRepository):
		return noConfig
	case err != nil:
		if _, gerr := getConfig(ctx, b); gerr == nil { // another process was faster, and is writing already
			return ErrExists
		}
	}
	return err
}

// FirstListed is the directory that Open lists first: a store that has to be asked for
// something may as well be asked for this.
const FirstListed = "keys"

func slotName(id ID) string { return "keys/" + id.String() }

// put stores an object whole.
func put(ctx context.Context, b storage.Backend, name string, data []byte) error {
	w, err := b.Create(ctx, name)
	if err != nil {
		return err
	}
	defer w.Abort()
	if _, err := w.Write(data); err != nil {
		return err
	}
	return w.Commit()
}

// getConfig returns the bytes of the config object, or ErrNoRepository.
func getConfig(ctx context.Context, b storage.Backend) ([]byte, error) {
	r := Repository{backend: b}
	raw, err := r.get(ctx, configName, 0, maxConfig)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", b, ErrNoRepository)
	}
	if err != nil {
		return nil, fmt.Errorf("read config of %s: %w", b, err)
	}
	return raw, nil
}

// Exists says whether there is a repository, without opening it.
func Exists(ctx context.Context, b storage.Backend) (bool, error) {
	_, err := getConfig(ctx, b)
	if errors.Is(err, ErrNoRepository) {
		return false, nil
	}
	return err == nil, err
}

// Open opens a repository. The error is ErrNoRepository where there is none,
// seal.ErrWrongKey where no credential fits. Nothing is written.
//
// Only the config and the key slots are read; LoadIndex does the rest, for what
// needs chunks. If they do not open, and repair data has them, that is used.
func Open(ctx context.Context, b storage.Backend, o Options) (*Repository, error) {
	r, err := open(ctx, b, b, o)
	if err == nil || ctx.Err() != nil {
		return r, err
	}
	// A store that does not answer is not asked, and waited for, once more.
	if errors.Is(err, ErrNoRepository) || errors.Is(err, ErrCorrupt) || errors.Is(err, seal.ErrCorrupt) || errors.Is(err, seal.ErrWrongKey) {
		if r, ok := openMended(ctx, b, o); ok {
			return r, nil
		}
	}
	return nil, err
}

// open reads config and key slots from one place, and opens the repository at b.
func open(ctx context.Context, b, from storage.Backend, o Options) (r *Repository, err error) {
	var lists *ahead
	if o.Ahead {
		lists = listAhead(ctx, b)
		defer func() {
			if err != nil {
				lists.close()
			}
		}()
	}
	// Both at a time: a distant store takes as long for one.
	var slots []seal.Slot
	var ids []ID
	var g errgroup.Group
	g.Go(func() (err error) {
		slots, ids, err = readSlots(ctx, from)
		return err
	})
	raw, err := getConfig(ctx, from)
	if err == nil && !cached(o.CacheDir, raw) {
		lists.fetch(b)
	}
	slotsErr := g.Wait()
	if err != nil {
		return nil, err
	}
	line, rest, _ := bytes.Cut(raw, []byte("\n"))
	// The version comes first: in a later one other fields may have other types.
	var head struct {
		Format  string `json:"format"`
		Version int    `json:"version"`
	}
	if err := json.Unmarshal(line, &head); err != nil || head.Format != configFormat {
		return nil, fmt.Errorf("config of %s: %w: not the config of a repository", b, ErrCorrupt)
	}
	if head.Version > configVersion {
		return nil, &seal.NewerVersionError{What: "repository " + b.String(), Version: head.Version}
	}
	var c repoConfig
	if err := json.Unmarshal(line, &c); err != nil {
		return nil, fmt.Errorf("config of %s: %w: %w", b, ErrCorrupt, err)
	}
	if slotsErr != nil {
		return nil, slotsErr
	}
	secret, opened, err := seal.Unwrap(c.ID, slots, o.Credentials...)
	if errors.Is(err, seal.ErrWrongKey) && o.More != nil {
		more, moreErr := o.More(c.ID)
		if moreErr != nil {
			err = fmt.Errorf("%w; %w", moreErr, err)
		} else {
			secret, opened, err = seal.Unwrap(c.ID, slots, more)
		}
	}
	var keys *seal.Keys
	if err == nil {
		keys, err = slots[opened].Keys(c.ID, secret)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", b, err)
	}
	if keys.WriteOnly() {
		secret = seal.Secret{} // of the slot alone
	}
	r = &Repository{
		backend: parity.Wrap(b, o.Parity), ahead: lists, parity: o.Parity, view: parity.View(b), id: c.ID, secret: secret, keys: keys, slot: ids[opened],
		params: chunk.Params{Min: c.ChunkMin, Avg: c.ChunkAvg, Max: c.ChunkMax},
	}
	mac, err := hex.DecodeString(strings.TrimSuffix(string(rest), "\n"))
	if err != nil || !r.keys.VerifyConfig(line, mac) {
		return nil, fmt.Errorf("config of %s: %w: its authentication code is wrong", b, ErrCorrupt)
	}
	if c.Suite != configSuite || c.Chunker != chunk.Algorithm || c.Version < 1 {
		return nil, fmt.Errorf("config of %s: suite %q with chunker %q is unknown to this version", b, c.Suite, c.Chunker)
	}
	if err := checkParams(r.params); err != nil {
		return nil, fmt.Errorf("config of %s: %w", b, err)
	}
	if r.split, err = chunk.New(r.keys.Chunker(), r.params); err != nil {
		return nil, fmt.Errorf("config of %s: %w: %w", b, ErrCorrupt, err)
	}
	if err := r.coders(); err != nil {
		return nil, err
	}
	r.index.repo = r
	r.index.cache = openCache(o.CacheDir, r.id)
	r.kept = openKept(o.CacheDir, r.id, o.CacheBytes)
	r.transfers, r.reads = o.Transfers, o.Reads
	if r.index.cache != nil {
		r.scratchIn, r.scratchBytes = r.index.cache.dir, o.ScratchBytes
	}
	return r, nil
}

// cached says whether this machine has a cache of the repository with that config, as far
// as the config can be believed.
func cached(dir string, config []byte) bool {
	line, _, _ := bytes.Cut(config, []byte("\n"))
	var c repoConfig
	if dir == "" || json.Unmarshal(line, &c) != nil {
		return false
	}
	_, err := os.Stat(filepath.Join(dir, c.ID.String(), cacheManifest))
	return err == nil
}

func (r *Repository) coders() (err error) {
	if r.enc, err = newEncoder(zstd.SpeedDefault); err != nil {
		return err
	}
	r.dec, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(maxTable), zstd.WithDecoderLowmem(true))
	return err
}

// LoadIndex lists the repository and makes its chunks available. Called again, it
// does so afresh; no look-up or Writer may be going on.
func (r *Repository) LoadIndex(ctx context.Context) (IndexReport, error) {
	return r.index.load(ctx)
}

// Close writes the index cache and releases everything, the backend included.
func (r *Repository) Close() error {
	r.ahead.close()
	r.index.close()
	r.kept.close()
	r.dec.Close()
	return r.backend.Close()
}

// ID is the repository's own ID.
func (r *Repository) ID() ID { return r.id }

// Reads is Options.Reads.
func (r *Repository) Reads() int { return r.reads }

// Splitter splits content into chunks as this repository wants them.
func (r *Repository) Splitter() *chunk.Splitter { return r.split }

// Backend is where the repository is stored.
func (r *Repository) Backend() storage.Backend { return r.backend }

// Sibling says whether two repositories share their master secret.
func (r *Repository) Sibling(o *Repository) bool {
	return !r.WriteOnly() && !o.WriteOnly() && r.secret.Equal(o.secret)
}

// Encrypted says whether a secret is needed to open the repository.
func (r *Repository) Encrypted(ctx context.Context) (bool, error) {
	slots, _, err := r.slots(ctx)
	return !slices.ContainsFunc(slots, func(s seal.Slot) bool { return s.Kind == seal.KindNone }), err
}

// slots reads all key slots; where none decodes, as their repair data has them.
func (r *Repository) slots(ctx context.Context) ([]seal.Slot, []ID, error) {
	slots, ids, err := readSlots(ctx, r.backend)
	if errors.Is(err, ErrCorrupt) && r.view != nil {
		if slots, ids, verr := readSlots(ctx, r.view); verr == nil {
			return slots, ids, nil
		}
	}
	return slots, ids, err
}

// readSlots reads all key slots. Slots that do not decode are left out: they open
// nothing, and others may.
func readSlots(ctx context.Context, b storage.Backend) ([]seal.Slot, []ID, error) {
	r := Repository{backend: b}
	var ids []ID
	if err := r.list(ctx, "keys", nil, func(id ID, _ int64) { ids = append(ids, id) }); err != nil {
		return nil, nil, err
	}
	slices.SortFunc(ids, func(a, b ID) int { return bytes.Compare(a[:], b[:]) })
	all := make([][]byte, len(ids)) // nil: removed meanwhile
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(fetchers)
	for i, id := range ids {
		g.Go(func() error {
			raw, err := r.get(gctx, slotName(id), 0, maxConfig)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("read key slot %s: %w", id.Short(), err)
			}
			if err == nil {
				all[i] = append([]byte{}, raw...) // not nil, if it is empty
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, nil, err
	}
	var slots []seal.Slot
	kept := ids[:0]
	var first error
	for i, id := range ids {
		if all[i] == nil {
			continue
		}
		s, err := seal.DecodeSlot(all[i])
		if err != nil {
			if _, newer := errors.AsType[*seal.NewerVersionError](err); !newer {
				err = fmt.Errorf("%w: %w", ErrCorrupt, err)
			}
			first = errors.Join(first, fmt.Errorf("key slot %s: %w", id.Short(), err))
			continue
		}
		slots, kept = append(slots, s), append(kept, id)
	}
	if len(slots) == 0 && first != nil {
		return nil, nil, first
	}
	return slots, kept, nil
}

// A Key describes a key slot.
type Key struct {
	ID ID `json:"id"`
	seal.Slot
	// Current says that this slot opened the repository.
	Current bool `json:"current"`
}

// ReportMAC authenticates a report about the repository, which is kept elsewhere:
// only who can open the repository can make it, or check it.
//
// The key of a write-only host cannot: with it this is a random number, and no report is
// right.
func (r *Repository) ReportMAC(report []byte) (mac [sha256.Size]byte) {
	if r.WriteOnly() {
		rand.Read(mac[:])
		return mac
	}
	return r.keys.ReportMAC(report)
}

// Keys lists the key slots.
func (r *Repository) Keys(ctx context.Context) ([]Key, error) {
	slots, ids, err := r.slots(ctx)
	if err != nil {
		return nil, err
	}
	keys := make([]Key, len(slots))
	for i := range slots {
		keys[i] = Key{ids[i], slots[i], ids[i] == r.slot}
	}
	return keys, nil
}

// OpensWith says whether a credential by itself opens the repository as it is
// stored now.
func (r *Repository) OpensWith(ctx context.Context, c seal.Credential) bool {
	_, ok, err := r.Opens(ctx, c)
	return ok && err == nil
}

// Opens returns the slot that a credential opens; false: none.
func (r *Repository) Opens(ctx context.Context, c seal.Credential) (ID, bool, error) {
	slots, ids, err := r.slots(ctx)
	if err != nil {
		return ID{}, false, err
	}
	secret, i, err := seal.Unwrap(r.id, slots, c)
	if err != nil {
		return ID{}, false, nil
	}
	if slots[i].Role != "" {
		keys, err := slots[i].Keys(r.id, secret)
		return ids[i], err == nil && keys.Fingerprint() == r.keys.Fingerprint(), nil
	}
	return ids[i], secret.Equal(r.secret), nil
}

// AddKey adds a slot, and checks that it is stored before it returns.
func (r *Repository) AddKey(ctx context.Context, l seal.Locker, o seal.WrapOptions) (ID, error) {
	if r.WriteOnly() {
		return ID{}, ErrWriteOnly
	}
	slot, err := seal.Wrap(rand.Reader, r.id, r.secret, l, o)
	if err != nil {
		return ID{}, err
	}
	id, err := r.addSlot(ctx, slot)
	if err != nil {
		return ID{}, err
	}
	r.slotMu.Lock()
	defer r.slotMu.Unlock()
	if r.added == nil {
		r.added = make(map[ID]struct{})
	}
	r.added[id] = struct{}{}
	return id, nil
}

// AddWriteOnlyKey is AddKey for a slot that opens to the keys of a write-only host.
func (r *Repository) AddWriteOnlyKey(ctx context.Context, l seal.Locker, o seal.WrapOptions) (ID, error) {
	if r.WriteOnly() {
		return ID{}, ErrWriteOnly
	}
	slot, err := seal.WrapWriteOnly(rand.Reader, r.id, r.keys, l, o)
	if err != nil {
		return ID{}, err
	}
	return r.addSlot(ctx, slot)
}

// addSlot stores a slot, and reads it back.
func (r *Repository) addSlot(ctx context.Context, slot seal.Slot) (ID, error) {
	id := NewID()
	if err := r.put(ctx, slotName(id), slot.Encode()); err != nil {
		return ID{}, fmt.Errorf("store key slot: %w", err)
	}
	stored, err := r.get(ctx, slotName(id), 0, maxConfig)
	if err != nil || !bytes.Equal(stored, slot.Encode()) {
		return ID{}, fmt.Errorf("key slot %s was stored, but does not read back: %w", id.Short(), errors.Join(err, ErrCorrupt))
	}
	return id, nil
}

// RemoveKey removes a slot, but only while there is another that is known to open
// the repository: the one that has opened it, or one added by AddKey since. Others
// may be damaged, of another repository, or of a forgotten passphrase.
func (r *Repository) RemoveKey(ctx context.Context, id ID) error {
	if r.WriteOnly() {
		return ErrWriteOnly
	}
	var ids []ID
	if err := r.list(ctx, "keys", nil, func(id ID, _ int64) { ids = append(ids, id) }); err != nil {
		return err
	}
	if !slices.Contains(ids, id) {
		return fmt.Errorf("key slot %s: %w", id.Short(), fs.ErrNotExist)
	}
	r.slotMu.Lock()
	defer r.slotMu.Unlock()
	if !slices.ContainsFunc(ids, func(other ID) bool {
		_, added := r.added[other]
		return other != id && (added || other == r.slot)
	}) {
		return fmt.Errorf("key slot %s is the only one known to open the repository: open it with another key to remove this one", id.Short())
	}
	if err := r.backend.Delete(ctx, slotName(id)); err != nil {
		return fmt.Errorf("remove key slot %s: %w", id.Short(), err)
	}
	return nil
}
