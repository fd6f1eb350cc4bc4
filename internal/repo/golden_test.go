package repo

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/SP1R4/BackupHandler/v3/internal/seal"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

// testdata/v1 is a repository as version 1 of the format writes it. It was made
// once, with the key file 00 01 … 1f, the master secret 20 21 … 3f, chunk sizes 1 KiB, 4 KiB and 16 KiB, and two
// runs, of goldenSource(1) and goldenSource(2), whose snapshots are 0101…01 and
// 0202…02; then a condemned list was added, 2024-01-02 03:04:05 UTC, of the pack
// abab…ab, which there is not. It is never written again: a version of this package
// that does not read it cannot read what users have.
const goldenDir = "testdata/v1"

// goldenSource is content that depends on nothing but SHA-256.
func goldenSource(n byte) source {
	stream := func(label string, size int) []byte {
		var b []byte
		for i := 0; len(b) < size; i++ {
			h := sha256.Sum256(fmt.Appendf(nil, "golden %d %s %d", n, label, i))
			b = append(b, h[:]...)
		}
		return b[:size]
	}
	return source{
		data: [][]byte{
			stream("random", 5000), {n}, bytes.Repeat([]byte("all work and no play "), 500+int(n)),
			stream("max", 16<<10), []byte("in both"),
		},
		meta: [][]byte{bytes.Repeat(stream("record", 40), 20), []byte("record in both")},
	}
}

func goldenID(b byte) ID { return ID(bytes.Repeat([]byte{b}, 16)) }

// goldenStore is a copy of testdata/v1.
func goldenStore(t *testing.T) *storage.Memory {
	t.Helper()
	l, err := storage.OpenLocal(goldenDir)
	must(t, err)
	defer l.Close()
	m := storage.NewMemory()
	must(t, l.List(t.Context(), "", func(info storage.Info) error {
		return put(context.Background(), m, info.Name, getObject(t, l, info.Name))
	}))
	return m
}

func TestGolden(t *testing.T) {
	m := goldenStore(t)
	r, report := openIn(t, m, "")
	if !report.OK() || report.Adopted != 0 || len(report.Unknown) != 0 || report.Packs < 4 || report.IndexObjects != 2 {
		t.Errorf("%+v", report)
	}
	wantSnapshots(t, r, goldenID(1), goldenID(2))
	for n := range byte(2) {
		s := goldenSource(n + 1)
		for _, c := range append(s.data, s.meta...) {
			got, err := r.Load(t.Context(), hashOf(c), uint32(len(c)), nil)
			if err != nil || !bytes.Equal(got, c) {
				t.Errorf("source %d: %v", n+1, err)
			}
		}
		snapshots, err := r.Snapshots(t.Context())
		must(t, err)
		for _, snapshot := range snapshots {
			if snapshot.ID == goldenID(n+1) && !bytes.Equal(snapshot.Body, s.body()) {
				t.Errorf("snapshot %d has another body", n+1)
			}
		}
	}
	wantClean(t, r)
	condemned, damaged, err := r.lists(t.Context(), kindCondemned)
	if _, ok := listedPacks(condemned)[goldenID(0xab)]; !ok || len(condemned) != 1 || damaged != nil || err != nil {
		t.Errorf("%v, %v, %v", condemned, damaged, err)
	}
	// Today's version writes into it.
	id, stats := mustBackup(t, r, goldenSource(1))
	if stats.ChunksAdded.Load() != 0 {
		t.Errorf("%d chunks have other names", stats.ChunksAdded.Load())
	}
	third, _ := mustBackup(t, r, goldenSource(3))
	wantReadable(t, m, goldenID(1), goldenID(2), id, third)
	// The index can be rebuilt from the packs alone.
	for _, name := range objects(t, m, "index") {
		replace(t, m, name, nil)
	}
	r, report = openIn(t, m, "")
	if !report.OK() || report.Adopted != report.Packs {
		t.Errorf("%+v", report)
	}
	wantSnapshots(t, r, goldenID(1), goldenID(2), id, third)
}

// goldenSecret opens the only slot; its format is tested by package seal.
func goldenSecret(t *testing.T, repo ID) seal.Secret {
	t.Helper()
	names, err := filepath.Glob(goldenDir + "/keys/*")
	if err != nil || len(names) != 1 {
		t.Fatal(names, err)
	}
	raw, err := os.ReadFile(names[0])
	must(t, err)
	slot, err := seal.DecodeSlot(raw)
	must(t, err)
	secret, _, err := seal.Unwrap(repo, []seal.Slot{slot}, testKey(0))
	must(t, err)
	want, err := seal.NewSecret(bytes.NewReader(goldenRawSecret()))
	must(t, err)
	if !secret.Equal(want) {
		t.Error("the slot opens to another secret")
	}
	return secret
}

// A reader made of docs/format.md and nothing of this package but its test
// helpers finds every chunk, by packs alone and by index objects.
func TestGoldenByTheDocument(t *testing.T) {
	// §3: config.
	raw, err := os.ReadFile(goldenDir + "/config")
	must(t, err)
	lines := strings.Split(string(raw), "\n")
	if len(lines) != 3 || lines[2] != "" {
		t.Fatalf("config has %d lines", len(lines))
	}
	var config struct {
		Format, ID, Fingerprint, Suite, Chunker string
		Version                                 int
		ChunkMin                                int `json:"chunk_min"`
		ChunkAvg                                int `json:"chunk_avg"`
		ChunkMax                                int `json:"chunk_max"`
	}
	must(t, json.Unmarshal([]byte(lines[0]), &config))
	if config.Format != "backup-handler repository" || config.Version != 1 || config.Suite != "xaes-256-gcm/hmac-sha256-128" ||
		config.Chunker != "gear-1" || config.ChunkMin != 1024 || config.ChunkAvg != 4096 || config.ChunkMax != 16384 {
		t.Errorf("%+v", config)
	}
	repoID, err := hex.DecodeString(config.ID)
	must(t, err)
	keys := seal.NewKeys(goldenSecret(t, ID(repoID)))
	if mac := keys.ConfigMAC([]byte(lines[0])); hex.EncodeToString(mac[:]) != lines[1] {
		t.Error("MAC of the config")
	}
	if f := keys.Fingerprint(); hex.EncodeToString(f[:]) != config.Fingerprint {
		t.Error("fingerprint")
	}
	dec, err := zstd.NewReader(nil)
	must(t, err)
	defer dec.Close()

	type place struct {
		kind byte
		data []byte
	}
	chunks := make(map[[16]byte]place) // by chunk ID
	tables := make(map[string][]byte)  // by pack ID, without the compression byte
	sizes := make(map[string]int)
	names, err := filepath.Glob(goldenDir + "/packs/*/*")
	must(t, err)
	if len(names) < 4 {
		t.Fatalf("%d packs", len(names))
	}
	for _, name := range names {
		// §5: packs.
		pack, err := os.ReadFile(name)
		must(t, err)
		base := filepath.Base(name)
		if filepath.Base(filepath.Dir(name)) != base[:2] {
			t.Errorf("%s is in the wrong directory", name)
		}
		id, err := hex.DecodeString(base)
		must(t, err)
		if len(pack)%4096 != 0 || string(pack[:8]) != "BHPACK1\n" {
			t.Errorf("%s: size or magic", base)
		}
		foot := pack[len(pack)-48:]
		body, err := keys.Index.Open(nil, seal.Nonce(foot[:24]), foot[24:], append([]byte("BHPACK1\nF"), id...))
		must(t, err)
		length := int(binary.LittleEndian.Uint32(body))
		if len(body) != 8 || binary.LittleEndian.Uint32(body[4:]) != 0 {
			t.Errorf("%s: footer %x", base, body)
		}
		sealed := pack[len(pack)-48-length : len(pack)-48]
		table, err := keys.Index.Open(nil, seal.Nonce(sealed[:24]), sealed[24:], append([]byte("BHPACK1\nT"), id...))
		must(t, err)
		table = inflate(t, dec, table)
		tables[base], sizes[base] = table, len(pack)

		at := 8
		kind, rest := table[0], table[1:]
		next := func(n int) []byte {
			b := rest[:n]
			rest = rest[n:]
			return b
		}
		number := func() int {
			v, n := binary.Uvarint(rest)
			rest = rest[n:]
			return int(v)
		}
		if number() != 1 || !bytes.Equal(next(16), make([]byte, 16)) {
			t.Errorf("%s: sealing keys", base)
		}
		var prefix []byte
		for i := range number() {
			nonce := next(24)
			if i == 0 {
				prefix = nonce[:20]
			}
			if !bytes.Equal(nonce[:20], prefix) {
				t.Errorf("%s: nonces have several prefixes", base)
			}
			if next(1)[0] != 0 {
				t.Errorf("%s: sealing key", base)
			}
			compressed := next(1)[0]
			stored, plain := number(), number()
			content, err := keys.Data.Open(nil, seal.Nonce(nonce), pack[at:at+stored], nil)
			must(t, err)
			at += stored
			if compressed == 1 {
				content, err = dec.DecodeAll(content, nil)
				must(t, err)
			}
			if len(content) != plain {
				t.Errorf("%s: block of %d bytes, not %d", base, len(content), plain)
			}
			for range number() {
				chunk := [16]byte(next(16))
				size := number()
				chunks[chunk] = place{kind, content[:size]}
				content = content[size:]
			}
			if len(content) != 0 {
				t.Errorf("%s: %d bytes in no chunk", base, len(content))
			}
		}
		if len(rest) != 0 {
			t.Errorf("%s: %d bytes behind the table", base, len(rest))
		}
	}

	// §2, §4: every chunk is there, under its name.
	chunkKey, err := hkdf.Key(sha256.New, goldenRawSecret(), nil, "backup-handler v1 chunk id", 32)
	must(t, err)
	for n := range byte(2) {
		s := goldenSource(n + 1)
		for i, c := range append(s.data, s.meta...) {
			hash := sha256.Sum256(c)
			mac := hmac.New(sha256.New, chunkKey)
			mac.Write(hash[:])
			want := place{1, c}
			if i >= len(s.data) {
				want.kind = 2
			}
			if got := chunks[[16]byte(mac.Sum(nil))]; got.kind != want.kind || !bytes.Equal(got.data, want.data) {
				t.Errorf("source %d, chunk %d: kind %d, %d bytes", n+1, i, got.kind, len(got.data))
			}
		}
	}

	// §6, §10: the index says the same.
	open := func(kind byte, dir string) map[string][]byte {
		names, err := filepath.Glob(goldenDir + "/" + dir + "/*")
		must(t, err)
		bodies := make(map[string][]byte)
		for _, name := range names {
			object, err := os.ReadFile(name)
			must(t, err)
			head := append([]byte("BHOB"), 1, kind, 0, 0)
			if !bytes.Equal(object[:8], head) {
				t.Errorf("%s: %x", name, object[:8])
			}
			id, err := hex.DecodeString(filepath.Base(name))
			must(t, err)
			key := keys.Meta
			if kind == 1 {
				key = keys.Index
			}
			plain, err := key.Open(nil, seal.Nonce(object[8:32]), object[32:], append(append(head, repoID...), id...))
			must(t, err)
			bodies[filepath.Base(name)] = inflate(t, dec, plain)
		}
		return bodies
	}
	indexed := 0
	for name, body := range open(1, "index") {
		if body[0] != 0 {
			t.Errorf("index %s replaces others", name)
		}
		n, rest := int(body[1]), body[2:]
		for range n {
			pack := hex.EncodeToString(rest[:16])
			size, l := binary.Uvarint(rest[16:])
			rest = rest[16+l:]
			if int(size) != sizes[pack] || !bytes.HasPrefix(rest, tables[pack]) {
				t.Errorf("index %s: pack %s is another one", name, pack)
			}
			rest = rest[len(tables[pack]):]
			indexed++
		}
		if len(rest) != 0 {
			t.Errorf("index %s: %d bytes left", name, len(rest))
		}
	}
	if indexed != len(names) {
		t.Errorf("%d of %d packs are in the index", indexed, len(names))
	}

	// §7: snapshots.
	bodies := open(2, "snapshots")
	for n := range byte(2) {
		if id := strings.Repeat(fmt.Sprintf("%02x", n+1), 16); !bytes.Equal(bodies[id], goldenSource(n+1).body()) {
			t.Errorf("snapshot %s: %.40s", id, bodies[id])
		}
	}
	// §9: condemned lists.
	for _, body := range open(3, "condemned") {
		if want := `{"time":"2024-01-02T03:04:05Z","packs":["` + strings.Repeat("ab", 16) + `"]}`; string(body) != want {
			t.Errorf("condemned: %s", body)
		}
	}
}

// goldenRawSecret is the master secret: 20 21 … 3f.
func goldenRawSecret() []byte {
	b := make([]byte, 32)
	for i := range b {
		b[i] = 0x20 + byte(i)
	}
	return b
}

// inflate undoes the byte 0 or 1 in front.
func inflate(t *testing.T, dec *zstd.Decoder, b []byte) []byte {
	t.Helper()
	switch b[0] {
	case 0:
		return b[1:]
	case 1:
		out, err := dec.DecodeAll(b[1:], nil)
		must(t, err)
		return out
	}
	t.Fatalf("compression %d", b[0])
	return nil
}
