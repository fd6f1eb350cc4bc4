package restore

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// memory is a repository in memory: chunks in blocks of several, blocks in packs.
// Blocks can be damaged (flipped bytes that nobody notices, errors) or lost.
type memory struct {
	chunkSize, blockSize int // bytes; a block ends behind the chunk that fills it
	chunks               map[repo.Hash]repo.Location
	blocks               map[blockKey][]byte
	open                 []byte // the block being filled
	openKey              blockKey
	metadata             map[repo.Hash][]byte // directory pages and lists of chunks

	mu       sync.Mutex
	bad      map[blockKey]error // reading the block gives this
	lost     map[repo.Hash]bool // in no pack; pages: cannot be read
	copies   map[repo.Hash]bool // of which Load finds another copy
	reads    map[blockKey]int
	inflight func() // called in ReadBlock
	readAll  atomic.Int64
}

func newMemory() *memory {
	return &memory{
		chunkSize: 64 << 10, blockSize: 256 << 10,
		chunks: map[repo.Hash]repo.Location{}, blocks: map[blockKey][]byte{}, metadata: map[repo.Hash][]byte{},
		bad: map[blockKey]error{}, lost: map[repo.Hash]bool{}, copies: map[repo.Hash]bool{}, reads: map[blockKey]int{},
	}
}

// add stores one chunk of file content.
func (m *memory) add(data []byte) tree.Chunk {
	c := tree.Chunk{Hash: sha256.Sum256(data), Size: uint32(len(data))}
	if _, ok := m.chunks[c.Hash]; ok {
		return c
	}
	m.chunks[c.Hash] = repo.Location{
		Block:  repo.Block{Pack: m.openKey.pack, Offset: m.openKey.offset},
		Offset: uint32(len(m.open)), Size: c.Size,
	}
	m.open = append(m.open, data...)
	m.blocks[m.openKey] = m.open
	if len(m.open) >= m.blockSize {
		m.open = nil
		if m.openKey.offset++; m.openKey.offset == 16 { // the next pack
			h := sha256.Sum256(m.openKey.pack[:])
			m.openKey = blockKey{pack: repo.ID(h[:16])}
		}
	}
	return c
}

// file stores content and completes n.
func (m *memory) file(n *tree.Node, content []byte) *tree.Node {
	n.Type, n.Content, n.Indirect = tree.File, nil, false
	if n.Extents == nil {
		n.Size = int64(len(content))
	}
	if n.Links == 0 {
		n.Links = 1
	}
	for len(content) > 0 {
		k := min(m.chunkSize, len(content))
		n.Content = append(n.Content, m.add(content[:k]))
		content = content[k:]
	}
	if len(n.Content) > tree.DirectChunks {
		m.indirect(n)
	}
	return n
}

func (m *memory) indirect(n *tree.Node) {
	pieces := tree.SplitList(n.Content)
	n.Content, n.Indirect = nil, true
	for _, p := range pieces {
		n.Content = append(n.Content, m.page(tree.AppendChunks(nil, p)))
	}
}

func (m *memory) page(page []byte) tree.Chunk {
	c := tree.Chunk{Hash: sha256.Sum256(page), Size: uint32(len(page))}
	m.metadata[c.Hash] = append([]byte(nil), page...)
	return c
}

// dir stores a record and completes n. The entries are in order.
func (m *memory) dir(t testing.TB, n *tree.Node, entries ...*tree.Node) *tree.Node {
	t.Helper()
	n.Type, n.Links, n.Content = tree.Dir, 1, nil
	if n.Mode == 0 {
		n.Mode = 0o755
	}
	w := tree.PageWriter{Page: func(page []byte) error {
		n.Content = append(n.Content, m.page(page))
		return nil
	}}
	for _, e := range entries {
		if e.Links == 0 {
			e.Links = 1
		}
		if err := w.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return n
}

func (m *memory) Load(ctx context.Context, hash tree.Hash, size uint32, buf []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	lost := m.lost[hash]
	m.mu.Unlock()
	if data, ok := m.metadata[hash]; ok && !lost {
		return append(buf[:0], data...), nil
	}
	loc, ok := m.chunks[hash]
	if !ok || lost {
		return nil, fmt.Errorf("load: %w", repo.ErrMissing)
	}
	key := blockKey{loc.Block.Pack, loc.Block.Offset}
	m.mu.Lock()
	bad := m.bad[key]
	m.mu.Unlock()
	if bad != nil && !m.copies[hash] {
		return nil, bad
	}
	return append(buf[:0], m.blocks[key][loc.Offset:loc.Offset+size]...), nil
}

func (m *memory) Locate(hash repo.Hash) (repo.Location, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	loc, ok := m.chunks[hash]
	return loc, ok && !m.lost[hash]
}

func (m *memory) ReadBlock(ctx context.Context, b *repo.Block, buf []byte) ([]byte, error) {
	if m.inflight != nil {
		m.inflight()
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	key := blockKey{b.Pack, b.Offset}
	m.mu.Lock()
	m.reads[key]++
	err := m.bad[key]
	m.mu.Unlock()
	m.readAll.Add(1)
	if err != nil {
		return nil, err
	}
	return append(buf[:0], m.blocks[key]...), nil
}

// blockOf returns the block that holds a chunk.
func (m *memory) blockOf(c tree.Chunk) blockKey {
	loc := m.chunks[c.Hash]
	return blockKey{loc.Block.Pack, loc.Block.Offset}
}

// noise returns n bytes that differ for each seed.
func noise(seed uint64, n int) []byte {
	out := make([]byte, 0, n+32)
	for i := uint64(0); len(out) < n; i++ {
		var k [16]byte
		binary.LittleEndian.PutUint64(k[:], seed)
		binary.LittleEndian.PutUint64(k[8:], i)
		h := sha256.Sum256(k[:])
		out = append(out, h[:]...)
	}
	return out[:n]
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
