package repo

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/SP1R4/BackupHandler/v3/internal/parity"
	"github.com/SP1R4/BackupHandler/v3/internal/seal"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

// What repair data does for a repository: docs/format.md §13. Reads go on with what it
// rebuilds, and remember it (Mended); HealObject and Mending put it right.

// mendBlock is readBlock for a block that was found damaged: as its pack's repair data
// rebuilds it.
func (r *Repository) mendBlock(ctx context.Context, b *Block, buf []byte) ([]byte, bool) {
	sealed, ok := r.mendSealed(ctx, b)
	if !ok {
		return nil, false
	}
	plain, err := r.openBlock(ctx, b, sealed, buf)
	if err != nil {
		return nil, false
	}
	r.noteMended(packName(b.Pack))
	return plain, true
}

// mendSealed returns a sealed block as repair data rebuilds it, not authenticated yet.
func (r *Repository) mendSealed(ctx context.Context, b *Block) ([]byte, bool) {
	sealed, err := r.mended(ctx, packName(b.Pack), int64(b.Offset), int64(b.Stored))
	return sealed, err == nil && len(sealed) == int(b.Stored)
}

// mended reads a range of an object, length -1 to its end, as repair data rebuilds it.
func (r *Repository) mended(ctx context.Context, name string, off, length int64) ([]byte, error) {
	if r.view == nil {
		return nil, parity.ErrNone
	}
	if _, err := r.view.Patch(ctx, name); err != nil {
		return nil, err
	}
	return get(ctx, r.view, name, off, length)
}

func (r *Repository) noteMended(name string) {
	r.mendMu.Lock()
	defer r.mendMu.Unlock()
	if r.mends == nil {
		r.mends = make(map[string]struct{})
	}
	r.mends[name] = struct{}{}
}

// Mended names the objects that this process has found damaged, and has read as their
// repair data rebuilds them, in ascending order.
func (r *Repository) Mended() []string {
	r.mendMu.Lock()
	defer r.mendMu.Unlock()
	return slices.Sorted(maps.Keys(r.mends))
}

// openMended opens a repository whose config or key slots do not open as they are.
// ok is false if they have no repair data, or it changes nothing.
func openMended(ctx context.Context, b storage.Backend, o Options) (r *Repository, ok bool) {
	if _, err := get(ctx, b, parity.Name(configName), 0, 1); err != nil {
		return nil, false
	}
	names, err := precious(ctx, b, "keys")
	if err != nil {
		return nil, false
	}
	view := parity.View(b)
	var changed []string
	for _, name := range names {
		if p, err := view.Patch(ctx, name); err == nil && p.Damaged > 0 {
			changed = append(changed, name)
		}
	}
	if len(changed) == 0 {
		return nil, false
	}
	if r, err = open(ctx, b, lister{view, names}, o); err != nil {
		return nil, false
	}
	for _, name := range changed {
		r.noteMended(name)
	}
	return r, true
}

// lister lists key slots that are gone, and have repair data, too.
type lister struct {
	*parity.Mended
	names []string
}

func (l lister) List(ctx context.Context, dir string, fn func(storage.Info) error) error {
	for _, name := range l.names {
		if strings.HasPrefix(name, dir+"/") {
			if err := fn(storage.Info{Name: name}); err != nil {
				return err
			}
		}
	}
	return nil
}

// precious lists the config, and of some kinds the objects that are there or have
// repair data, in ascending order.
func precious(ctx context.Context, b storage.Backend, kinds ...string) ([]string, error) {
	names := map[string]struct{}{configName: {}}
	for _, kind := range kinds {
		for _, dir := range []string{kind, parity.Name(kind)} {
			err := b.List(ctx, dir, func(info storage.Info) error {
				name := strings.TrimPrefix(info.Name, parity.Dir+"/")
				if _, ok := parseName(kind, name); ok {
					names[name] = struct{}{}
				}
				return nil
			})
			if err != nil {
				return nil, fmt.Errorf("list %s: %w", dir, err)
			}
		}
	}
	return slices.Sorted(maps.Keys(names)), nil
}

// ProtectedName returns the name of the object that a name of repair data belongs to.
func ProtectedName(name string) (object string, ok bool) {
	object, ok = strings.CutPrefix(name, parity.Dir+"/")
	if !ok || object == configName {
		return object, ok
	}
	kind, _, _ := strings.Cut(object, "/")
	switch kind {
	case "keys", "snapshots", "sessions", "packs":
		_, ok = parseName(kind, object)
		return object, ok
	}
	return "", false
}

// A DamagedObject is a config, key slot, write session or snapshot that is not as it was
// stored.
type DamagedObject struct {
	Name    string `json:"name"`
	Missing bool   `json:"missing,omitempty"`
}

// DamagedObjects returns the config, key slots, write sessions and snapshots that their
// repair data can put right: it compares config and slots with theirs, and finds sessions
// and snapshots that are gone or that this process has found damaged (Snapshots reads
// them all). What was removed meanwhile is not among them.
func (r *Repository) DamagedObjects(ctx context.Context) ([]DamagedObject, error) {
	names, err := precious(ctx, r.backend, "keys", "sessions", "snapshots")
	if err != nil {
		return nil, err
	}
	there := make(map[string]bool)
	for _, dir := range []string{"sessions", "snapshots"} {
		if err := r.list(ctx, dir, nil, func(id ID, _ int64) { there[dir+"/"+id.String()] = true }); err != nil {
			return nil, err
		}
	}
	mended := r.Mended()
	var damaged []DamagedObject
	view := parity.View(r.backend)
	for _, name := range names {
		if _, found := slices.BinarySearch(mended, name); there[name] && !found {
			continue
		}
		p, err := view.Patch(ctx, name)
		if errors.Is(err, parity.ErrNone) || errors.Is(err, parity.ErrTooMuch) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("compare %s with its repair data: %w", name, err)
		}
		if p.Damaged == 0 {
			continue
		}
		_, err = r.get(ctx, name, 0, 1)
		missing := errors.Is(err, fs.ErrNotExist)
		if _, err := r.get(ctx, parity.Name(name), 0, 1); errors.Is(err, fs.ErrNotExist) {
			continue // its repair data is removed first
		}
		damaged = append(damaged, DamagedObject{name, missing})
	}
	return damaged, nil
}

// HealObject puts the very bytes back that a damaged or missing config, key slot, write
// session or snapshot had, once they have been seen to be valid: docs/format.md §13. A crash leaves
// its repair data, which stays as it is.
func (r *Repository) HealObject(ctx context.Context, name string) error {
	view := parity.View(r.backend)
	_, err := view.Patch(ctx, name)
	var data []byte
	if err == nil {
		data, err = get(ctx, view, name, 0, -1)
	}
	if err != nil {
		return fmt.Errorf("heal %s: %w", name, err)
	}
	if err := r.checkObject(ctx, name, data); err != nil {
		return fmt.Errorf("heal %s: what its repair data gives back: %w", name, err)
	}
	base := view.Backend
	if now, err := r.get(ctx, name, 0, -1); err == nil && bytes.Equal(now, data) {
		return nil // damage of one read, or somebody else was faster
	}
	// From here on nothing but a crash comes between the two.
	ctx = context.WithoutCancel(ctx)
	if err := base.Delete(ctx, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("heal %s: remove the damaged object: %w", name, err)
	}
	if err := put(ctx, base, name, data); err != nil {
		if now, gerr := r.get(ctx, name, 0, -1); gerr != nil || !bytes.Equal(now, data) {
			return fmt.Errorf("heal %s: %w; its repair data has it, run this again", name, err)
		}
	}
	// Who removes an object deletes its repair data first.
	if _, err := get(ctx, base, parity.Name(name), 0, 1); errors.Is(err, fs.ErrNotExist) {
		if err := base.Delete(ctx, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("heal %s, which was removed meanwhile: %w", name, err)
		}
	}
	return nil
}

// checkObject says whether the bytes of such an object are valid.
func (r *Repository) checkObject(ctx context.Context, name string, data []byte) error {
	kind, _, _ := strings.Cut(name, "/")
	switch id, ok := parseName(kind, name); {
	case name == configName:
		line, rest, _ := bytes.Cut(data, []byte("\n"))
		mac, err := hex.DecodeString(strings.TrimSuffix(string(rest), "\n"))
		if err != nil || !r.keys.VerifyConfig(line, mac) {
			return ErrCorrupt
		}
	case kind == "keys" && ok:
		_, err := seal.DecodeSlot(data)
		return err
	case kind == "sessions" && ok:
		_, err := r.keys.OpenSession(r.id, id, data)
		return err
	case kind == "snapshots" && ok:
		_, err := r.openRaw(ctx, kindSnapshot, id, data)
		return err
	default:
		return fmt.Errorf("%w: not an object with a copy", ErrCorrupt)
	}
	return nil
}

// Mending returns a view of the repository that has what repair data rebuilds: a source
// for Writer.Salvage. resized are packs that have not the size that they should have. It
// is nil where there is no repair data of packs. Closing it leaves the repository open;
// memory is that of an index.
func (r *Repository) Mending(ctx context.Context, resized []ID) (*Repository, error) {
	errSome := errors.New("some")
	err := r.backend.List(ctx, parity.Name("packs"), func(storage.Info) error { return errSome })
	if err == nil {
		return nil, nil
	}
	if !errors.Is(err, errSome) {
		return nil, fmt.Errorf("list repair data: %w", err)
	}
	view := parity.View(r.backend)
	for _, id := range resized {
		err := view.Resized(ctx, packName(id))
		if err != nil && !errors.Is(err, parity.ErrNone) && !errors.Is(err, parity.ErrTooMuch) {
			return nil, fmt.Errorf("read pack %s with its repair data: %w", id.Short(), err)
		}
	}
	m := &Repository{
		backend: view, id: r.id, params: r.params, keys: r.keys, secret: r.secret, split: r.split, slot: r.slot,
		transfers: r.transfers, reads: r.reads,
	}
	if err := m.coders(); err != nil {
		return nil, err
	}
	m.index.repo = m
	if _, err := m.LoadIndex(ctx); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// checkParity reads the repair data of a pack that was just read.
func (r *Repository) checkParity(ctx context.Context, pack ID, size int64) error {
	name := packName(pack)
	raw, err := get(ctx, r.backend, parity.Name(name), 0, -1)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a prune has deleted it meanwhile
	}
	if err != nil {
		return fmt.Errorf("pack %s: repair data: %w", pack.Short(), err)
	}
	d, err := parity.Decode(name, raw)
	if err != nil || d.Size() != size || d.Damaged() > 0 {
		r.mendMu.Lock()
		defer r.mendMu.Unlock()
		if r.unsound == nil {
			r.unsound = make(map[string]struct{})
		}
		r.unsound[name] = struct{}{}
		return fmt.Errorf("pack %s: %w: its repair data", pack.Short(), ErrCorrupt)
	}
	return nil
}

// Protect makes the repair data of objects that have none, or whose own is damaged, where
// Options.Parity asks for it, and returns their number. Whoever calls it has just read
// the packs: those with blocks that this process has found damaged are left out.
func (r *Repository) Protect(ctx context.Context) (int, error) {
	store, ok := r.backend.(*parity.Store)
	if !ok || r.parity == 0 {
		return 0, nil
	}
	have := make(map[string]bool)
	err := r.backend.List(ctx, parity.Dir, func(info storage.Info) error {
		if name, ok := ProtectedName(info.Name); ok {
			have[name] = true
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("list repair data: %w", err)
	}
	r.mendMu.Lock()
	unsound := maps.Clone(r.unsound)
	r.mendMu.Unlock()
	var names []string
	add := func(name string) {
		if _, ok := unsound[name]; ok || !have[name] {
			names = append(names, name)
		}
	}
	add(configName)
	for _, dir := range []string{"keys", "sessions", "snapshots"} {
		if err := r.list(ctx, dir, nil, func(id ID, _ int64) { add(dir + "/" + id.String()) }); err != nil {
			return 0, err
		}
	}
	bad := make(map[ID]bool)
	if p := r.index.bad.Load(); p != nil {
		for at := range *p {
			bad[at.pack] = true
		}
	}
	r.index.mu.Lock()
	err = r.index.eachPack(func(id ID, _ int64) {
		if !bad[id] {
			add(packName(id))
		}
	})
	r.index.mu.Unlock()
	if err != nil {
		return 0, err
	}
	slices.Sort(names)
	names = slices.Compact(names)
	done := 0
	for _, name := range names {
		if kind, _, _ := strings.Cut(name, "/"); kind != "packs" {
			raw, err := r.get(ctx, name, 0, -1)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return done, fmt.Errorf("read %s: %w", name, err)
			}
			if r.checkObject(ctx, name, raw) != nil {
				continue // damaged
			}
		}
		if _, ok := unsound[name]; ok {
			if err := r.backend.Delete(ctx, parity.Name(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return done, fmt.Errorf("delete damaged repair data of %s: %w", name, err)
			}
		}
		err := store.Protect(ctx, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return done, fmt.Errorf("make repair data of %s: %w", name, err)
		}
		done++
	}
	return done, nil
}

// sweepParity deletes the repair data of packs that are gone. listed is what there was
// of it before the packs were listed.
func (r *Repository) sweepParity(ctx context.Context, listed []ID) error {
	if len(listed) == 0 {
		return nil
	}
	there := make(map[ID]struct{})
	if err := r.list(ctx, "packs", nil, func(id ID, _ int64) { there[id] = struct{}{} }); err != nil {
		return err
	}
	for _, id := range listed {
		if _, ok := there[id]; ok {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		name := parity.Name(packName(id))
		if err := r.backend.Delete(ctx, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("delete %s: %w", name, err)
		}
	}
	return nil
}

// listParity lists the packs that have repair data.
func (r *Repository) listParity(ctx context.Context) (ids []ID, err error) {
	err = r.backend.List(ctx, parity.Name("packs"), func(info storage.Info) error {
		if name, ok := ProtectedName(info.Name); ok {
			if id, ok := parseName("packs", name); ok {
				ids = append(ids, id)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list repair data: %w", err)
	}
	return ids, nil
}
