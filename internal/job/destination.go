package job

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/SP1R4/BackupHandler/v3/internal/files"
	"github.com/SP1R4/BackupHandler/v3/internal/location"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// SubDir is where the repository of a backup directory is when the directory holds
// other things, such as the mirror of BackupHandler 2.5.
const SubDir = "backup-handler.repo"

// removable are directories below which media are mounted: a repository is not
// created there while nothing is mounted.
var removable = []string{"/mnt", "/media", "/run/media"}

// A Destination is one repository that a run writes to.
type Destination struct {
	Location string           // as given
	Place    string           // where the repository is: Location or its SubDir
	Repo     *repo.Repository // nil: not open
	Created  bool
	Index    repo.IndexReport
	// Snapshots are those that can be read; Unreadable the others.
	Snapshots  []*tree.Snapshot
	Unreadable []repo.RawSnapshot

	// Err is why the destination failed.
	Err error
	// Copied are snapshots that were copied here in this run.
	Copied []repo.ID
	// Free is the room that a backup has left, in bytes; nil: not known.
	Free *int64

	onMended func(place string, objects []string)
}

// OpenDestination opens the repository of a location, its own or that in its
// SubDir. One that [Preflight] has kept open is taken over, without the list of
// snapshots.
func (a *Access) OpenDestination(ctx context.Context, place string) (*Destination, error) {
	if d := a.kept.take(place); d != nil {
		return d, nil
	}
	d := &Destination{Location: place, Place: place, onMended: a.OnMended}
	var err error
	d.Repo, err = a.Open(ctx, place)
	if none, ok := errors.AsType[*noRepository](err); ok && !none.maySub {
		return d, err
	}
	if errors.Is(err, repo.ErrNoRepository) {
		sub := location.Join(place, SubDir)
		r, suberr := a.Open(ctx, sub)
		if suberr == nil || !errors.Is(suberr, repo.ErrNoRepository) {
			d.Place, d.Repo, err = sub, r, suberr
		}
	}
	return d, err
}

// keptOpen are destinations that were opened to be looked at, by location, until they are
// used or closed. A nil one keeps nothing.
type keptOpen struct {
	mu   sync.Mutex
	open map[string]*Destination
}

// put keeps a destination, or closes it.
func (k *keptOpen) put(d *Destination) error {
	if k == nil {
		return d.Close()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.open == nil {
		k.open = make(map[string]*Destination)
	}
	if k.open[d.Location] != nil {
		return d.Close()
	}
	d.Snapshots, d.Unreadable = nil, nil // as they are now is for who uses it to find out
	k.open[d.Location] = d
	return nil
}

// take returns the destination of a location, and forgets it; nil if there is none.
func (k *keptOpen) take(place string) *Destination {
	if k == nil {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	d := k.open[place]
	delete(k.open, place)
	return d
}

// Close closes what [Preflight] has kept open and nobody has used. The Access can be
// used further.
func (a *Access) Close() error {
	if a.kept == nil {
		return nil
	}
	a.kept.mu.Lock()
	defer a.kept.mu.Unlock()
	var errs []error
	for _, d := range a.kept.open {
		errs = append(errs, d.Close())
	}
	a.kept.open = nil
	return errors.Join(errs...)
}

// create makes the repository of d, where the place is fit for one.
func (a *Access) create(ctx context.Context, d *Destination, sibling *repo.Repository) error {
	if !location.IsURL(d.Location) {
		if err := checkMounted(d.Location); err != nil {
			return err
		}
	}
	var err error
	if d.Place, err = Place(d.Location); err != nil {
		return err
	}
	if a.EncryptNew && len(a.Credentials) == 0 { // recipients only: this run could not open it
		if err := a.askNew(d.Place); err != nil {
			return err
		}
	}
	b, err := a.make(ctx, d.Place, sibling)
	if err != nil && !errors.Is(err, repo.ErrExists) {
		return err
	}
	d.Created = err == nil
	d.Repo, err = a.openStore(ctx, d.Place, b)
	return err
}

// Place returns where the repository of a location is created: there, or in its
// SubDir where the location holds other things.
func Place(place string) (string, error) {
	if location.IsURL(place) {
		return place, nil
	}
	entries, err := os.ReadDir(place)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	// After the entries were read: whatever another process that is just creating the
	// repository has put there since, its config came before the packs.
	if _, err := os.Lstat(filepath.Join(place, "config")); err == nil && slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == "keys" }) {
		return place, nil
	}
	has := func(name string) bool {
		return slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == name && e.IsDir() })
	}
	if has("packs") && has("keys") {
		return "", &Failure{ExitRefused, fmt.Errorf("%s holds the remains of a repository whose file 'config' is lost", place),
			"bring config back from a copy; nothing was changed"}
	}
	if slices.ContainsFunc(entries, foreign) {
		return filepath.Join(place, SubDir), nil
	}
	return place, nil
}

// foreign says whether an entry of a directory is not from an interrupted creation
// of a repository.
func foreign(e fs.DirEntry) bool {
	return !slices.Contains([]string{"lost+found", "keys", "readme.txt"}, e.Name()) && !strings.HasPrefix(e.Name(), ".")
}

// checkMounted refuses a place for removable media with no medium in it.
func checkMounted(dir string) error {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	for _, base := range removable {
		if !strings.HasPrefix(abs, base+"/") {
			continue
		}
		mount, err := files.MountPoint(existing(abs))
		if err != nil {
			return fmt.Errorf("find what is mounted at %s: %w", dir, err)
		}
		if mount != base && !strings.HasPrefix(mount, base+"/") {
			return &Failure{ExitRefused, fmt.Errorf("nothing is mounted at %s", dir),
				"mount the backup medium; to keep a repository there on the system disk, create it once with 'backup-handler init'"}
		}
	}
	return nil
}

// existing is the longest part of a path that exists.
func existing(path string) string {
	for {
		if _, err := os.Lstat(path); err == nil || filepath.Dir(path) == path {
			return path
		}
		path = filepath.Dir(path)
	}
}

// loadToWrite is Load for a backup: with the key of a write-only host the index alone.
func (d *Destination) loadToWrite(ctx context.Context) (err error) {
	if d.Repo.WriteOnly() {
		d.Index, err = d.Repo.LoadIndex(ctx)
		return err
	}
	return d.Load(ctx)
}

// Load reads the index and, at the same time, the list of snapshots.
func (d *Destination) Load(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		d.Index, err = d.Repo.LoadIndex(ctx)
		return err
	})
	g.Go(func() error { return d.LoadSnapshots(ctx) })
	return g.Wait()
}

// LoadSnapshots reads the list of snapshots only, oldest first.
func (d *Destination) LoadSnapshots(ctx context.Context) error {
	raw, err := d.Repo.Snapshots(ctx)
	if err != nil {
		return err
	}
	d.Snapshots, d.Unreadable = nil, nil
	for _, s := range raw {
		var snap *tree.Snapshot
		if s.Err == nil {
			snap, s.Err = tree.DecodeSnapshot(s.ID, s.Body)
		}
		if s.Err != nil {
			d.Unreadable = append(d.Unreadable, s)
			continue
		}
		d.Snapshots = append(d.Snapshots, snap)
	}
	slices.SortFunc(d.Snapshots, func(a, b *tree.Snapshot) int {
		if c := a.Time.Compare(b.Time); c != 0 {
			return c
		}
		return strings.Compare(a.ID.String(), b.ID.String())
	})
	return nil
}

// Close releases the repository, if it is open.
func (d *Destination) Close() error {
	if d.Repo == nil {
		return nil
	}
	if objects := d.Repo.Mended(); len(objects) > 0 && d.onMended != nil {
		d.onMended(d.Place, objects)
	}
	return d.Repo.Close()
}

// FreeBytes is how much room the store has; nil where it does not tell. The error is none
// of a store that cannot.
func (d *Destination) FreeBytes(ctx context.Context) (*int64, error) {
	sp, ok := d.Repo.Backend().(storage.Spacer)
	if !ok {
		return nil, nil
	}
	free, err := sp.Free(ctx)
	if errors.Is(err, errors.ErrUnsupported) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &free, nil
}

// roomTime is how long a backup waits at its end to learn how much room is left.
const roomTime = 10 * time.Second

// lookForRoom notes how much room is left, unless the destination has failed.
func (d *Destination) lookForRoom(ctx context.Context) {
	if d.Repo == nil || d.Err != nil || ctx.Err() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, roomTime)
	defer cancel()
	d.Free, _ = d.FreeBytes(ctx) // it is for statistics only
}
