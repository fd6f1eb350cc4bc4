package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"github.com/SP1R4/BackupHandler/v3/internal/seal"
)

// Write-only hosts: docs/format.md §14.

// ErrWriteOnly says that the repository was opened with the key of a write-only host,
// which makes backups and reads none.
var ErrWriteOnly = errors.New("the key is a write-only one: it makes backups, and cannot read, list or remove any")

// WriteOnly says whether the repository was opened with the key of a write-only host:
// then a Writer works, and whatever needs to open a block or a snapshot is ErrWriteOnly.
func (r *Repository) WriteOnly() bool { return r.keys.WriteOnly() }

func sessionName(id ID) string { return "sessions/" + id.String() }

// sessions are those that this process has opened.
type sessions struct {
	mu    sync.Mutex
	open  map[ID]*seal.Session
	packs map[ID]ID // pack → session
}

// session opens a write session. Its error is ErrCorrupt if it is damaged or gone.
func (r *Repository) session(ctx context.Context, id ID) (*seal.Session, error) {
	if r.WriteOnly() {
		return nil, ErrWriteOnly
	}
	r.sessions.mu.Lock()
	s := r.sessions.open[id]
	r.sessions.mu.Unlock()
	if s != nil {
		return s, nil
	}
	raw, err := r.get(ctx, sessionName(id), 0, int64(seal.SessionSize)+1)
	if err == nil {
		s, err = r.keys.OpenSession(r.id, id, raw)
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, seal.ErrCorrupt) {
		if mended, merr := r.mended(ctx, sessionName(id), 0, -1); merr == nil {
			if s, merr = r.keys.OpenSession(r.id, id, mended); merr == nil {
				r.noteMended(sessionName(id))
				err = nil
			}
		}
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, seal.ErrCorrupt) {
		return nil, fmt.Errorf("write session %s: %w: %v", id.Short(), ErrCorrupt, err)
	}
	if err != nil {
		return nil, fmt.Errorf("read write session %s: %w", id.Short(), err)
	}
	r.sessions.mu.Lock()
	defer r.sessions.mu.Unlock()
	if r.sessions.open == nil {
		r.sessions.open = make(map[ID]*seal.Session)
	}
	r.sessions.open[id] = s
	return s, nil
}

// blockKey returns the key that seals a block.
func (r *Repository) blockKey(ctx context.Context, b *Block) (*seal.AEAD, error) {
	if r.WriteOnly() {
		return nil, ErrWriteOnly
	}
	if !b.Session {
		return r.keys.Data, nil
	}
	id, err := r.packSession(ctx, b.Pack)
	if err != nil {
		return nil, err
	}
	s, err := r.session(ctx, id)
	if err != nil {
		return nil, err
	}
	return s.Data, nil
}

// packSession finds the session that has sealed a pack, in the pack's table.
func (r *Repository) packSession(ctx context.Context, pack ID) (ID, error) {
	r.sessions.mu.Lock()
	id, ok := r.sessions.packs[pack]
	r.sessions.mu.Unlock()
	if ok {
		return id, nil
	}
	size := r.index.packSize(pack)
	t, err := r.readTable(ctx, pack, size)
	if errors.Is(err, ErrCorrupt) {
		t, err = r.indexedTable(ctx, pack, size, err)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return ID{}, ErrMissing
	}
	if err != nil {
		return ID{}, err
	}
	r.knowSession(t)
	return t.key, nil
}

// knowSession remembers the session of a pack whose table was read.
func (r *Repository) knowSession(t *packTable) {
	if t.key == dataKey {
		return
	}
	r.sessions.mu.Lock()
	defer r.sessions.mu.Unlock()
	if r.sessions.packs == nil {
		r.sessions.packs = make(map[ID]ID)
	}
	r.sessions.packs[t.id] = t.key
}

// A sealer is under what a Writer seals: the repository's keys, or those of a session.
type sealer struct {
	key        ID // of the session, or dataKey
	data, meta *seal.AEAD
}

// newSealer stores a new session for a write-only host.
func (r *Repository) newSealer(ctx context.Context) (sealer, error) {
	if !r.WriteOnly() {
		return sealer{dataKey, r.keys.Data, r.keys.Meta}, nil
	}
	id := NewID()
	s, object, err := r.keys.NewSession(r.id, id)
	if err == nil {
		err = r.put(ctx, sessionName(id), object)
	}
	if err != nil {
		return sealer{}, fmt.Errorf("store write session: %w", err)
	}
	return sealer{id, s.Data, s.Meta}, nil
}

const sessionSnapshotMagic = "BHSS\x00\x00\x00\x00"

// sealSnapshot seals the body of a snapshot.
func (r *Repository) sealSnapshot(s sealer, id ID, body []byte) []byte {
	if s.key == dataKey {
		return s.meta.SealObject(nil, kindSnapshot, r.objectAAD(id), body)
	}
	head := append([]byte(sessionSnapshotMagic), s.key[:]...)
	return s.meta.SealObject(head, kindSessionSnapshot, r.objectAAD(id), body)
}

// snapshotKey returns what opens a snapshot's bytes, and the sealed object in them.
func (r *Repository) snapshotKey(ctx context.Context, raw []byte) (key *seal.AEAD, kind byte, object []byte, err error) {
	if r.WriteOnly() {
		return nil, 0, nil, ErrWriteOnly
	}
	head := len(sessionSnapshotMagic)
	if len(raw) < head+len(ID{}) || string(raw[:head]) != sessionSnapshotMagic {
		return r.keys.Meta, kindSnapshot, raw, nil
	}
	s, err := r.session(ctx, ID(raw[head:]))
	if err != nil {
		return nil, 0, nil, err
	}
	return s.Meta, kindSessionSnapshot, raw[head+len(ID{}):], nil
}
