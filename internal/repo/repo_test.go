package repo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/SP1R4/BackupHandler/v3/internal/chunk"
	"github.com/SP1R4/BackupHandler/v3/internal/seal"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
	"github.com/SP1R4/BackupHandler/v3/internal/storage/storagetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// smallParams make chunks small enough that many fit in a block.
var smallParams = chunk.Params{Min: 1 << 10, Avg: 4 << 10, Max: 16 << 10}

// testKey is a key file of the bytes first, first+1 ….
func testKey(first byte) *seal.KeyFile {
	raw := make([]byte, 32)
	for i := range raw {
		raw[i] = first + byte(i)
	}
	k, err := seal.NewKeyFile(raw)
	if err != nil {
		panic(err)
	}
	return k
}

func testWrap() seal.WrapOptions { return seal.WrapOptions{Created: time.Unix(1_700_000_000, 0)} }

func initIn(t testing.TB, b storage.Backend, o InitOptions) {
	t.Helper()
	if o.Lockers == nil {
		o.Lockers = []seal.Locker{testKey(0)}
	}
	if o.Params == (chunk.Params{}) && o.Sibling == nil {
		o.Params = smallParams
	}
	o.Wrap = testWrap()
	if err := Init(t.Context(), b, o); err != nil {
		t.Fatal(err)
	}
}

// newStore returns a store in memory with an empty repository.
func newStore(t testing.TB) *storage.Memory {
	t.Helper()
	m := storage.NewMemory()
	initIn(t, m, InitOptions{})
	return m
}

// openIn opens the repository in b, which stays open when the repository is
// closed, and loads its index.
func openIn(t testing.TB, b storage.Backend, cache string) (*Repository, IndexReport) {
	t.Helper()
	r, report, err := tryOpen(t.Context(), b, cache)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r, report
}

func tryOpen(ctx context.Context, b storage.Backend, cache string) (*Repository, IndexReport, error) {
	r, err := Open(ctx, unclosed{b}, Options{Credentials: []seal.Credential{testKey(0)}, CacheDir: cache})
	if err != nil {
		return nil, IndexReport{}, err
	}
	report, err := r.LoadIndex(ctx)
	if err != nil {
		r.Close()
		return nil, IndexReport{}, err
	}
	return r, report, nil
}

// unclosed is a backend that outlives a repository.
type unclosed struct{ storage.Backend }

func (unclosed) Close() error { return nil }

// A source is content to be stored: chunks by their hashes.
type source struct {
	data, meta [][]byte
}

func hashOf(b []byte) Hash { return sha256.Sum256(b) }

func randomBytes(seed uint64, n int) []byte {
	var key [32]byte
	key[0], key[1], key[2], key[3] = byte(seed), byte(seed>>8), byte(seed>>16), 1
	b := make([]byte, n)
	rand.NewChaCha8(key).Read(b)
	return b
}

// text is content that can be compressed.
func text(seed uint64, n int) []byte {
	b := randomBytes(seed, n)
	for i := range b {
		b[i] = 'a' + b[i]%4
	}
	return b
}

// smallSource has a few blocks of data and some metadata.
func smallSource(seed uint64) source {
	var s source
	for i := range uint64(6) {
		s.data = append(s.data, randomBytes(seed<<8+i, int(3000+500*i)), text(seed<<8+100+i, 9000))
	}
	for i := range uint64(4) {
		s.meta = append(s.meta, text(seed<<8+200+i, 700))
	}
	return s
}

// body is the snapshot of a source: the hashes and sizes of all chunks, in JSON.
func (s source) body() []byte {
	var items []item
	for _, c := range append(slices.Clone(s.data), s.meta...) {
		items = append(items, item{hashOf(c), uint32(len(c))})
	}
	b, err := json.Marshal(items)
	if err != nil {
		panic(err)
	}
	return b
}

type item struct {
	Hash Hash
	Size uint32
}

// write stores the chunks with the given number of goroutines.
func (s source) write(w *Writer, workers int) error {
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			b := w.Batch(Data)
			for j := i; j < len(s.data); j += workers {
				if errs[i] = addData(b, s.data[j]); errs[i] != nil {
					return
				}
			}
			if errs[i] = b.Flush(); errs[i] != nil {
				return
			}
			for j := i; j < len(s.meta); j += workers {
				var hash Hash
				if hash, errs[i] = w.AddMetadata(s.meta[j]); errs[i] != nil {
					return
				}
				if hash != hashOf(s.meta[j]) {
					errs[i] = errors.New("AddMetadata returned another hash")
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func addData(b *Batch, data []byte) error {
	tail, err := b.Tail()
	if err != nil {
		return err
	}
	copy(tail, data)
	_, err = b.Add(len(data), 0, hashOf(data))
	return err
}

// backup is one run on an open repository.
func backup(ctx context.Context, r *Repository, s source, o WriterOptions) (ID, *WriteStats, error) {
	w, err := r.NewWriter(ctx, o)
	if err != nil {
		return ID{}, nil, err
	}
	defer w.Abort()
	if err := s.write(w, max(o.Readers, 1)); err != nil {
		return ID{}, nil, err
	}
	id := NewID()
	return id, &w.Stats, w.Commit(id, s.body())
}

func mustBackup(t testing.TB, r *Repository, s source) (ID, *WriteStats) {
	t.Helper()
	id, stats, err := backup(t.Context(), r, s, WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return id, stats
}

// readAll loads every chunk of every snapshot, and returns the snapshots' IDs.
func readAll(ctx context.Context, r *Repository) ([]ID, error) {
	snapshots, err := r.Snapshots(ctx)
	if err != nil {
		return nil, err
	}
	var ids []ID
	for _, s := range snapshots {
		if s.Err != nil {
			return nil, fmt.Errorf("snapshot %s: %w", s.ID, s.Err)
		}
		var items []item
		if err := json.Unmarshal(s.Body, &items); err != nil {
			return nil, fmt.Errorf("snapshot %s: %w", s.ID, err)
		}
		var buf []byte
		for _, it := range items {
			if buf, err = r.Load(ctx, it.Hash, it.Size, buf); err != nil {
				return nil, fmt.Errorf("snapshot %s: %w", s.ID, err)
			}
			if hashOf(buf) != it.Hash || len(buf) != int(it.Size) {
				return nil, errors.New("Load returned other content")
			}
		}
		ids = append(ids, s.ID)
	}
	return ids, nil
}

// wantReadable checks that b has a repository with exactly the snapshots given,
// that all of it can be read, and that every stored byte is right.
func wantReadable(t testing.TB, b storage.Backend, want ...ID) {
	t.Helper()
	r, report := openIn(t, b, "")
	if !report.OK() {
		t.Errorf("index: %+v", report)
	}
	wantSnapshots(t, r, want...)
	wantClean(t, r)
}

func wantSnapshots(t testing.TB, r *Repository, want ...ID) {
	t.Helper()
	got, err := readAll(t.Context(), r)
	if err != nil {
		t.Error(err)
	}
	less := func(a, b ID) int { return bytes.Compare(a[:], b[:]) }
	slices.SortFunc(got, less)
	slices.SortFunc(want, less)
	if !slices.Equal(got, want) {
		t.Errorf("snapshots %v, want %v", got, want)
	}
}

func wantClean(t testing.TB, r *Repository) *CheckReport {
	t.Helper()
	check, err := r.CheckData(t.Context(), CheckOptions{Workers: 2})
	if err != nil {
		t.Fatal(err)
	}
	if len(check.Faults)+len(check.Damaged) > 0 {
		t.Errorf("check: %v, %d chunks damaged", check.Faults, len(check.Damaged))
	}
	return check
}

func wantIs(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error is %v, want %v", err, want)
	}
}

// objects returns the names of a directory of a store, in ascending order.
func objects(t testing.TB, b storage.Backend, dir string) []string {
	t.Helper()
	var names []string
	for _, name := range slices.Sorted(maps.Keys(storagetest.Objects(t, b))) {
		if strings.HasPrefix(name, dir+"/") {
			names = append(names, name)
		}
	}
	return names
}

func getObject(t testing.TB, b storage.Backend, name string) []byte {
	t.Helper()
	rc, err := b.Get(t.Context(), name, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	data, err := io.ReadAll(rc)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// replace puts other content under a name; nil removes the object.
func replace(t testing.TB, b storage.Backend, name string, data []byte) {
	t.Helper()
	if err := b.Delete(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if data != nil {
		storagetest.Put(t, b, name, data)
	}
}

// condemn publishes a list.
func condemn(t testing.TB, r *Repository, packs ...ID) ID {
	t.Helper()
	list := packList{Time: time.Unix(1_700_000_000, 0).UTC(), Packs: packs}
	if err := r.createList(t.Context(), kindCondemned, &list); err != nil {
		t.Fatal(err)
	}
	return list.id
}

func packIDs(t testing.TB, b storage.Backend) []ID {
	t.Helper()
	var ids []ID
	for _, name := range objects(t, b, "packs") {
		id, ok := parseName("packs", name)
		if !ok {
			t.Fatalf("%s is no pack's name", name)
		}
		ids = append(ids, id)
	}
	return ids
}

// withBackend makes an open repository use another backend from now on.
func withBackend(r *Repository, b storage.Backend) *Repository {
	r.backend = unclosed{b}
	return r
}

// flip changes one byte of an object.
func flip(t testing.TB, b storage.Backend, name string, at int) {
	t.Helper()
	data := bytes.Clone(getObject(t, b, name))
	data[at] ^= 0x40
	replace(t, b, name, data)
}
