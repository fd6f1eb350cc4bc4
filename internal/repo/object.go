package repo

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/SP1R4/BackupHandler/v3/internal/seal"
)

// Kinds of sealed objects: docs/format.md §10.
const (
	kindIndex     byte = 1
	kindSnapshot  byte = 2
	kindCondemned byte = 5
	kindRun       byte = 6
	// kindSessionSnapshot is a snapshot of a write-only host: docs/format.md §14.
	kindSessionSnapshot byte = 7

	// What condemned lists and announcements were before, under another key.
	oldCondemned byte = 3
	oldRun       byte = 4
)

func kindDir(kind byte) string {
	switch kind {
	case kindIndex:
		return "index"
	case kindSnapshot:
		return "snapshots"
	case kindCondemned:
		return "condemned"
	case kindRun:
		return "runs"
	}
	panic("repo: unknown kind of object")
}

func objectName(kind byte, id ID) string { return kindDir(kind) + "/" + id.String() }

func packName(id ID) string {
	s := id.String()
	return "packs/" + s[:2] + "/" + s
}

// parseName returns the ID in the name of an object of a directory.
func parseName(dir, name string) (ID, bool) {
	rest, ok := strings.CutPrefix(name, dir+"/")
	if ok && dir == "packs" {
		var fan string
		if fan, rest, ok = strings.Cut(rest, "/"); !strings.HasPrefix(rest, fan) || len(fan) != 2 {
			return ID{}, false
		}
	}
	if !ok {
		return ID{}, false
	}
	id, err := ParseID(rest)
	return id, err == nil
}

func (r *Repository) objectKey(kind byte) *seal.AEAD {
	switch kind {
	case kindIndex, kindCondemned, kindRun:
		return r.keys.Index
	}
	return r.keys.Meta
}

func (r *Repository) objectAAD(id ID) []byte { return append(r.id[:len(r.id):len(r.id)], id[:]...) }

// openObject reads and opens a sealed object and returns its plaintext. What does
// not open is ErrCorrupt.
func (r *Repository) openObject(ctx context.Context, kind byte, id ID) ([]byte, error) {
	raw, err := r.getSealed(ctx, kind, id)
	if err != nil {
		return nil, err
	}
	return r.openRaw(ctx, kind, id, raw)
}

// getSealed reads a sealed object, which may be there already.
func (r *Repository) getSealed(ctx context.Context, kind byte, id ID) ([]byte, error) {
	name := objectName(kind, id)
	if raw := r.ahead.takeBody(ctx, name); raw != nil {
		return raw, nil
	}
	return r.get(ctx, name, 0, -1)
}

// openRaw opens the bytes of a sealed object.
func (r *Repository) openRaw(ctx context.Context, kind byte, id ID, raw []byte) ([]byte, error) {
	key := r.objectKey(kind)
	var err error
	switch {
	case kind == kindSnapshot:
		if key, kind, raw, err = r.snapshotKey(ctx, raw); err != nil {
			return nil, err
		}
	case len(raw) > 5 && (kind == kindCondemned && raw[5] == oldCondemned || kind == kindRun && raw[5] == oldRun):
		if r.WriteOnly() {
			return nil, ErrWriteOnly
		}
		kind = raw[5]
		key = r.keys.Meta
	}
	plain, err := key.OpenObject(nil, kind, r.objectAAD(id), raw)
	if err != nil {
		if _, newer := errors.AsType[*seal.NewerVersionError](err); newer {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return unsqueeze(r.dec, plain)
}

// readIndex reads an index object. What does not open or decode is ErrCorrupt.
func (r *Repository) readIndex(ctx context.Context, id ID) (*indexObject, error) {
	if sealed := r.scratch.index(id); sealed != nil {
		if body, err := r.openRaw(ctx, kindIndex, id, sealed); err == nil {
			return decodeIndex(body)
		}
	}
	sealed, err := r.getSealed(ctx, kindIndex, id)
	if err != nil {
		return nil, err
	}
	r.scratch.putIndex(id, sealed)
	body, err := r.openRaw(ctx, kindIndex, id, sealed)
	if err != nil {
		return nil, err
	}
	return decodeIndex(body)
}

// createObject stores a new sealed object under a random ID. It returns the
// number of bytes stored.
func (r *Repository) createObject(ctx context.Context, kind byte, body []byte) (ID, int64, error) {
	var id ID
	rand.Read(id[:])
	n, err := r.putObject(ctx, kind, id, body)
	return id, n, err
}

func (r *Repository) putObject(ctx context.Context, kind byte, id ID, body []byte) (int64, error) {
	return r.putSealed(ctx, kind, id, r.objectKey(kind).SealObject(nil, kind, r.objectAAD(id), body))
}

func (r *Repository) putSealed(ctx context.Context, kind byte, id ID, sealed []byte) (int64, error) {
	err := r.put(ctx, objectName(kind, id), sealed)
	if err == nil && kind == kindSnapshot {
		r.kept.put(keptSnapshot(id), sealed)
	}
	return int64(len(sealed)), err
}

// put stores an object whole.
func (r *Repository) put(ctx context.Context, name string, data []byte) error {
	return put(ctx, r.backend, name, data)
}

// A packList is the body of a condemned object, and of one that announces a run:
// docs/format.md §9.
type packList struct {
	id    ID
	Time  time.Time `json:"time"`
	Host  string    `json:"host"`
	Packs []ID      `json:"packs"`
}

func (r *Repository) createList(ctx context.Context, kind byte, l *packList) error {
	body, err := json.Marshal(l)
	if err != nil {
		return err
	}
	l.id, _, err = r.createObject(ctx, kind, squeeze(r.enc, body))
	return err
}

// lists reads all lists of a kind. Those that do not open are named, and otherwise
// left out: no pruner acts on a list that it cannot open either. Damage may be that of
// one read, so such a list is read twice.
func (r *Repository) lists(ctx context.Context, kind byte) (lists []packList, damaged []ID, err error) {
	var ids []ID
	if err := r.list(ctx, kindDir(kind), nil, func(id ID, _ int64) { ids = append(ids, id) }); err != nil {
		return nil, nil, err
	}
	for _, id := range ids {
		l, err := r.readList(ctx, kind, id)
		if errors.Is(err, ErrCorrupt) {
			l, err = r.readList(ctx, kind, id)
		}
		switch {
		case err == nil:
			lists = append(lists, l)
		case errors.Is(err, ErrCorrupt):
			damaged = append(damaged, id)
		case errors.Is(err, fs.ErrNotExist): // it has served
		default:
			return nil, nil, fmt.Errorf("read %s: %w", objectName(kind, id), err)
		}
	}
	return lists, damaged, nil
}

func (r *Repository) readList(ctx context.Context, kind byte, id ID) (l packList, err error) {
	body, err := r.openObject(ctx, kind, id)
	if err != nil {
		return packList{}, err
	}
	if err := json.Unmarshal(body, &l); err != nil {
		return packList{}, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	l.id = id
	return l, nil
}

// listedPacks is the union of lists.
func listedPacks(lists []packList) map[ID]struct{} {
	packs := make(map[ID]struct{})
	for i := range lists {
		for _, id := range lists[i].Packs {
			packs[id] = struct{}{}
		}
	}
	return packs
}

// A RawSnapshot is a snapshot's body, or why it could not be read.
type RawSnapshot struct {
	ID   ID
	Body []byte
	Err  error
}

// Snapshots reads all snapshots, in no order. One that cannot be read has an Err
// and no Body; the error is for a listing that fails, or ErrWriteOnly.
func (r *Repository) Snapshots(ctx context.Context) ([]RawSnapshot, error) {
	if r.WriteOnly() {
		return nil, ErrWriteOnly
	}
	var ids []ID
	if err := r.list(ctx, "snapshots", nil, func(id ID, _ int64) { ids = append(ids, id) }); err != nil {
		return nil, err
	}
	out := make([]RawSnapshot, len(ids))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(fetchers)
	for i, id := range ids {
		g.Go(func() error {
			body, err := r.SnapshotBody(gctx, id)
			out[i] = RawSnapshot{id, body, err}
			return gctx.Err()
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	// A snapshot that was forgotten since the listing is not there.
	kept := out[:0]
	for _, s := range out {
		if !errors.Is(s.Err, fs.ErrNotExist) {
			kept = append(kept, s)
		}
	}
	return kept, nil
}

// SnapshotBody reads one snapshot, which may be kept on this machine.
func (r *Repository) SnapshotBody(ctx context.Context, id ID) ([]byte, error) {
	if raw := r.kept.get(keptSnapshot(id)); raw != nil {
		if body, err := r.openRaw(ctx, kindSnapshot, id, raw); err == nil {
			return body, nil
		}
		r.kept.drop(keptSnapshot(id))
	}
	raw, err := r.getSealed(ctx, kindSnapshot, id)
	if err != nil {
		return nil, err
	}
	body, err := r.openRaw(ctx, kindSnapshot, id, raw)
	if errors.Is(err, ErrCorrupt) {
		if mended, merr := r.mended(ctx, objectName(kindSnapshot, id), 0, -1); merr == nil {
			if body, merr := r.openRaw(ctx, kindSnapshot, id, mended); merr == nil {
				r.noteMended(objectName(kindSnapshot, id))
				return body, nil
			}
		}
	}
	if err == nil {
		r.kept.put(keptSnapshot(id), raw)
	}
	return body, err
}

// Forget removes a snapshot. What only it needed stays until a Prune. A missing one is
// fs.ErrNotExist.
func (r *Repository) Forget(ctx context.Context, id ID) error {
	if r.WriteOnly() {
		return ErrWriteOnly
	}
	err := r.backend.Delete(ctx, objectName(kindSnapshot, id))
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		r.kept.drop(keptSnapshot(id))
	}
	return err
}

// ReplaceSnapshot stores a snapshot anew whose object is damaged. It is the one case
// in which an object is exchanged: docs/format.md §11. The caller keeps the body until
// it returns, and has stored what the snapshot needs. An object
// that opens is left alone; where there is none it was forgotten, which is
// fs.ErrNotExist. The error is ErrReplacing if the damaged object is gone and the good
// one may not be there.
func (r *Repository) ReplaceSnapshot(ctx context.Context, id ID, body []byte) error {
	for range 2 { // damage may be that of one read
		_, err := r.openObject(ctx, kindSnapshot, id)
		if !errors.Is(err, ErrCorrupt) {
			return err
		}
	}
	// From here on nothing but a crash comes between the two.
	ctx = context.WithoutCancel(ctx)
	if err := r.backend.Delete(ctx, objectName(kindSnapshot, id)); err != nil {
		_, now := r.openObject(ctx, kindSnapshot, id)
		switch {
		case errors.Is(now, ErrCorrupt):
			return fmt.Errorf("remove damaged snapshot %s: %w", id.Short(), err)
		case !errors.Is(now, fs.ErrNotExist):
			return fmt.Errorf("remove damaged snapshot %s: %w: %w", id.Short(), ErrReplacing, err)
		}
	}
	if _, err := r.putObject(ctx, kindSnapshot, id, squeeze(r.enc, body)); err != nil {
		// It may have taken effect, or somebody else was faster.
		if _, now := r.openObject(ctx, kindSnapshot, id); now != nil {
			return fmt.Errorf("store snapshot %s: %w: %w", id.Short(), ErrReplacing, err)
		}
	}
	return nil
}

// NewID returns a random ID.
func NewID() (id ID) {
	rand.Read(id[:])
	return id
}
