package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/chunk"
	"github.com/SP1R4/BackupHandler/v3/internal/seal"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
	"github.com/SP1R4/BackupHandler/v3/internal/storage/storagetest"
)

func openWith(t *testing.T, b storage.Backend, k seal.Credential) (*Repository, error) {
	t.Helper()
	r, err := Open(t.Context(), unclosed{b}, Options{Credentials: []seal.Credential{k}})
	if err == nil {
		t.Cleanup(func() { r.Close() })
	}
	return r, err
}

func TestKeys(t *testing.T) {
	m := newStore(t)
	r, _ := openIn(t, m, "")
	id, _ := mustBackup(t, r, smallSource(1))
	keys, err := r.Keys(t.Context())
	if err != nil || len(keys) != 1 || !keys[0].Current || keys[0].Kind != seal.KindKeyFile {
		t.Fatalf("%+v, %v", keys, err)
	}
	first := keys[0].ID
	if err := r.RemoveKey(t.Context(), first); err == nil {
		t.Fatal("the only key was removed")
	}
	second, err := r.AddKey(t.Context(), testKey(100), testWrap())
	must(t, err)
	if keys, err = r.Keys(t.Context()); err != nil || len(keys) != 2 {
		t.Fatalf("%+v, %v", keys, err)
	}
	r2, err := openWith(t, m, testKey(100))
	must(t, err)
	if r2.ID() != r.ID() || !r2.Sibling(r) || r2.slot != second {
		t.Error("the second key opens something else")
	}
	wantIs(t, r.RemoveKey(t.Context(), ID{1}), fs.ErrNotExist)
	// The old key goes once the new one is there, as a change of passphrase does it.
	must(t, r.RemoveKey(t.Context(), first))
	_, err = openWith(t, m, testKey(0))
	wantIs(t, err, seal.ErrWrongKey)
	if err := r2.RemoveKey(t.Context(), second); err == nil {
		t.Error("the last key was removed")
	}
	_, err = r2.LoadIndex(t.Context())
	must(t, err)
	wantSnapshots(t, r2, id)
}

// A slot that does not open the repository is no reason to remove the one that does.
// A key that is looked up by the repository's ID is asked for only where no other fits.
func TestMoreKeys(t *testing.T) {
	m := newStore(t)
	r, _ := openIn(t, m, "")
	second, err := r.AddKey(t.Context(), testKey(100), testWrap())
	must(t, err)
	away := errors.New("nobody is there to ask")
	for name, tt := range map[string]struct {
		have, more seal.Credential
		moreErr    error
		asked      bool
		want       error
	}{
		"another fits":         {testKey(0), testKey(100), nil, false, nil},
		"only it fits":         {testKey(1), testKey(100), nil, true, nil},
		"none fits":            {testKey(1), testKey(2), nil, true, seal.ErrWrongKey},
		"it cannot be had":     {testKey(1), nil, away, true, away},
		"and the key is wrong": {testKey(1), nil, away, true, seal.ErrWrongKey},
	} {
		asked := false
		got, err := Open(t.Context(), unclosed{m}, Options{Credentials: []seal.Credential{tt.have}, More: func(id ID) (seal.Credential, error) {
			if asked = true; id != r.ID() {
				t.Errorf("%s: asked for the key of %s", name, id)
			}
			return tt.more, tt.moreErr
		}})
		if err == nil {
			defer got.Close()
		}
		if asked != tt.asked || !errors.Is(err, tt.want) {
			t.Errorf("%s: asked %t, error %v", name, asked, err)
		}
	}
	if slot, ok, err := r.Opens(t.Context(), testKey(100)); slot != second || !ok || err != nil {
		t.Errorf("slot %s, %t, %v, want %s", slot, ok, err, second)
	}
	if slot, ok, err := r.Opens(t.Context(), testKey(2)); slot != (ID{}) || ok || err != nil {
		t.Errorf("a key that opens nothing: slot %s, %t, %v", slot, ok, err)
	}
}

func TestRemoveLastKeyAmongForeign(t *testing.T) {
	m := storage.NewMemory()
	// What an interrupted creation leaves: a slot of an ID that never was.
	storagetest.Put(t, m, "keys/"+strings.Repeat("0", 32), foreignSlot(t))
	storagetest.Put(t, m, "keys/"+strings.Repeat("1", 32), []byte("damaged"))
	initIn(t, m, InitOptions{})
	r, _ := openIn(t, m, "")
	if err := r.RemoveKey(t.Context(), r.slot); err == nil {
		t.Fatal("the only key that opens the repository was removed")
	}
	// The useless ones can go.
	must(t, r.RemoveKey(t.Context(), ID{}))
	damaged, err := ParseID(strings.Repeat("1", 32))
	must(t, err)
	must(t, r.RemoveKey(t.Context(), damaged))
	if got := objects(t, m, "keys"); len(got) != 1 {
		t.Errorf("slots %v", got)
	}
	openIn(t, m, "")
}

func foreignSlot(t *testing.T) []byte {
	t.Helper()
	secret, err := seal.NewSecret(strings.NewReader(strings.Repeat("x", 32)))
	must(t, err)
	slot, err := seal.Wrap(strings.NewReader(strings.Repeat("y", 1000)), [16]byte{9}, secret, testKey(0), testWrap())
	must(t, err)
	return slot.Encode()
}

// A wrong key changes nothing.
func TestWrongKey(t *testing.T) {
	m := newStore(t)
	r, _ := openIn(t, m, "")
	mustBackup(t, r, smallSource(1))
	before := storagetest.Objects(t, m)
	for _, c := range [][]seal.Credential{{testKey(1)}, {seal.None{}}, nil, {testKey(1), testKey(2)}} {
		_, err := Open(t.Context(), unclosed{m}, Options{Credentials: c, CacheDir: t.TempDir()})
		wantIs(t, err, seal.ErrWrongKey)
	}
	if !maps.EqualFunc(before, storagetest.Objects(t, m), func(a, b []byte) bool { return string(a) == string(b) }) {
		t.Error("the store has changed")
	}
}

// Of several processes that create a repository at the same time, one wins, and
// it is opened by the winner's key alone.
func TestInitRace(t *testing.T) {
	for _, kind := range []string{"memory", "local"} {
		t.Run(kind, func(t *testing.T) {
			for range 5 {
				var b storage.Backend = storage.NewMemory()
				if kind == "local" {
					l, err := storage.CreateLocal(filepath.Join(t.TempDir(), "r"))
					must(t, err)
					defer l.Close()
					b = l
				}
				errs := make([]error, 6)
				var wg sync.WaitGroup
				for i := range errs {
					wg.Go(func() {
						errs[i] = Init(t.Context(), b, InitOptions{Lockers: []seal.Locker{testKey(byte(i))}, Wrap: testWrap()})
					})
				}
				wg.Wait()
				winner := -1
				for i, err := range errs {
					if err == nil && winner < 0 {
						winner = i
					} else if err == nil {
						t.Errorf("%d and %d have both won", winner, i)
					} else {
						wantIs(t, err, ErrExists)
					}
				}
				if winner < 0 {
					t.Fatal("nobody has won")
				}
				for i := range errs {
					_, err := openWith(t, b, testKey(byte(i)))
					if i == winner {
						must(t, err)
					} else {
						wantIs(t, err, seal.ErrWrongKey)
					}
				}
				if got := objects(t, b, "keys"); len(got) != 1 {
					t.Errorf("slots %v", got)
				}
			}
		})
	}
}

func TestInitRefused(t *testing.T) {
	m := storage.NewMemory()
	if ok, err := Exists(t.Context(), m); ok || err != nil {
		t.Errorf("%t, %v", ok, err)
	}
	_, err := openWith(t, m, testKey(0))
	wantIs(t, err, ErrNoRepository)
	if err := Init(t.Context(), m, InitOptions{Wrap: testWrap()}); err == nil {
		t.Error("created without a key")
	}
	for _, p := range []chunk.Params{
		{Min: 1, Avg: 256, Max: 512},
		// A block with the largest chunk would be more than a table can say.
		{Min: 8 << 20, Avg: 16 << 20, Max: 64 << 20},
	} {
		if err := Init(t.Context(), m, InitOptions{Lockers: []seal.Locker{testKey(0)}, Wrap: testWrap(), Params: p}); err == nil {
			t.Errorf("created with %+v", p)
		}
	}
	if len(storagetest.Objects(t, m)) != 0 {
		t.Error("a refused creation has left something")
	}
	initIn(t, m, InitOptions{})
	before := storagetest.Objects(t, m)
	wantIs(t, Init(t.Context(), m, InitOptions{Lockers: []seal.Locker{testKey(1)}, Wrap: testWrap()}), ErrExists)
	if len(storagetest.Objects(t, m)) != len(before) {
		t.Error("the store has changed")
	}
	if ok, err := Exists(t.Context(), m); !ok || err != nil {
		t.Errorf("%t, %v", ok, err)
	}
	// Remains of a repository without config.
	for _, dir := range []string{"packs/00", "index", "snapshots"} {
		m := storage.NewMemory()
		storagetest.Put(t, m, dir+"/x", nil)
		if err := Init(t.Context(), m, InitOptions{Lockers: []seal.Locker{testKey(1)}, Wrap: testWrap()}); err == nil {
			t.Errorf("created over %s", dir)
		}
	}
}

// At every operation of Init: whatever the outcome, afterwards there is either no
// repository, and Init completes it, or one that opens.
func TestInitFaults(t *testing.T) {
	for _, outcome := range []storagetest.Outcome{storagetest.Cut, storagetest.LoseCut, storagetest.Fail, storagetest.Lose} {
		for n := 0; ; n++ {
			m := storage.NewMemory()
			f := storagetest.At(m, n, outcome)
			o := InitOptions{Lockers: []seal.Locker{testKey(0), testKey(1)}, Wrap: testWrap(), Params: smallParams}
			err := Init(t.Context(), f, o)
			if len(f.Ops()) <= n {
				if n < 9 || err != nil {
					t.Fatalf("only %d operations, %v", n, err)
				}
				break
			}
			if err == nil {
				t.Errorf("operation %d, outcome %d: no error", n, outcome)
			}
			if _, err := openWith(t, m, testKey(0)); errors.Is(err, ErrNoRepository) {
				must(t, Init(t.Context(), m, o))
			} else if err != nil {
				t.Errorf("operation %d, outcome %d: %v", n, outcome, err)
			}
			for i := range byte(2) {
				_, err := openWith(t, m, testKey(i))
				must(t, err)
			}
		}
	}
}

func TestAddKeyFaults(t *testing.T) {
	for _, outcome := range []storagetest.Outcome{storagetest.Cut, storagetest.LoseCut, storagetest.Fail, storagetest.Lose} {
		for n := range 3 {
			t.Run(fmt.Sprint(outcome, n), func(t *testing.T) {
				m := newStore(t)
				r, _ := openIn(t, m, "")
				withBackend(r, storagetest.At(m, n, outcome))
				if _, err := r.AddKey(t.Context(), testKey(100), testWrap()); err == nil {
					t.Error("no error")
				}
				_, err := openWith(t, m, testKey(0))
				must(t, err)
			})
		}
	}
}

// A config of a later version is refused as such, whatever else is in it.
func TestNewerConfig(t *testing.T) {
	for _, config := range []string{
		`{"format":"backup-handler repository","version":2}`,
		`{"format":"backup-handler repository","version":2,"id":"` + strings.Repeat("0", 64) + `","chunk_min":"1 MiB"}` + "\nx\n",
		`{"version":1000000,"id":7,"format":"backup-handler repository"}`,
	} {
		m := newStore(t)
		replace(t, m, configName, []byte(config))
		_, err := openWith(t, m, testKey(0))
		if newer, ok := errors.AsType[*seal.NewerVersionError](err); !ok || newer.Version < 2 {
			t.Errorf("%s: %v", config, err)
		}
	}
	for _, config := range []string{"", "\n", "{}", "[]", "null", `{"format":"other","version":2}`, `{"format":"backup-handler repository","version":0}`,
		`{"format":"backup-handler repository","version":-1}`, `{"format":"backup-handler repository"}`} {
		m := newStore(t)
		replace(t, m, configName, []byte(config))
		if _, err := openWith(t, m, testKey(0)); err == nil {
			t.Errorf("%q was accepted", config)
		} else if ok, err := Exists(t.Context(), m); !ok || err != nil {
			t.Errorf("%q: exists %t, %v", config, ok, err)
		}
	}
}

// Every byte of the config is authenticated.
func TestDamagedConfig(t *testing.T) {
	m := newStore(t)
	config := getObject(t, m, configName)
	for i := range config {
		c := m.Clone()
		flip(t, c, configName, i)
		if _, err := openWith(t, c, testKey(0)); err == nil {
			t.Errorf("byte %d: %q became %q", i, config, getObject(t, c, configName))
		}
	}
	for n := range config {
		c := m.Clone()
		replace(t, c, configName, append([]byte{}, config[:n]...))
		if _, err := openWith(t, c, testKey(0)); err == nil && n < len(config)-1 {
			t.Errorf("%d of %d bytes are enough", n, len(config))
		}
	}
	// Nor is the config of another repository, or a sibling, of use.
	other := newStore(t)
	replace(t, other, configName, config)
	if _, err := openWith(t, other, testKey(0)); err == nil {
		t.Error("a foreign config was accepted")
	}
	r, _ := openIn(t, m, "")
	sibling := storage.NewMemory()
	initIn(t, sibling, InitOptions{Sibling: r})
	replace(t, sibling, configName, config)
	if _, err := openWith(t, sibling, testKey(0)); err == nil {
		t.Error("a sibling's config was accepted")
	}
}

// A damaged slot does not keep others from opening.
func TestDamagedSlot(t *testing.T) {
	m := newStore(t)
	r, _ := openIn(t, m, "")
	second, err := r.AddKey(t.Context(), testKey(100), testWrap())
	must(t, err)
	slot := getObject(t, m, slotName(second))
	for i := range slot {
		c := m.Clone()
		flip(t, c, slotName(second), i)
		_, err := openWith(t, c, testKey(0))
		must(t, err)
		if _, err := openWith(t, c, testKey(100)); err == nil {
			t.Errorf("byte %d of the slot does not matter", i)
		}
	}
}

// overtaken is a store in which another process creates a repository, and writes to
// it, while this one looks whether there is one.
type overtaken struct {
	storage.Backend
	once *sync.Once
	by   func()
}

func (o overtaken) List(ctx context.Context, dir string, fn func(storage.Info) error) error {
	o.once.Do(o.by)
	return o.Backend.List(ctx, dir, fn)
}

func TestInitOvertaken(t *testing.T) {
	m := storage.NewMemory()
	o := overtaken{m, new(sync.Once), func() {
		initIn(t, m, InitOptions{})
		r, _ := openIn(t, m, "")
		mustBackup(t, r, smallSource(1))
	}}
	wantIs(t, Init(t.Context(), o, InitOptions{Lockers: []seal.Locker{testKey(0)}, Wrap: testWrap()}), ErrExists)
	r, _ := openIn(t, m, "")
	if keys, err := r.Keys(t.Context()); err != nil || len(keys) != 1 {
		t.Errorf("%d keys, %v", len(keys), err)
	}
}
