package repo

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"reflect"
	"testing"
)

func randomTable(rnd *rand.Rand, kind Kind, blocks int) packTable {
	t := packTable{kind: kind, blocks: make([]blockRef, blocks)}
	for i := range t.id {
		t.id[i] = byte(rnd.Uint32())
	}
	t.size = rnd.Int64N(1 << 40)
	for i := range t.blocks {
		b := &t.blocks[i]
		for j := range b.nonce {
			b.nonce[j] = byte(rnd.Uint32())
		}
		for range 1 + rnd.IntN(5) {
			c := chunkRef{size: 1 + rnd.Uint32N(1<<20)}
			for j := range c.id {
				c.id[j] = byte(rnd.Uint32())
			}
			b.chunks = append(b.chunks, c)
			b.raw += c.size
		}
		b.compressed = rnd.IntN(2) == 0
		b.stored = b.raw + tagBytes
		if b.compressed {
			b.stored = tagBytes + rnd.Uint32N(b.raw)
		}
	}
	return t
}

func tableSeeds() [][]byte {
	rnd := rand.New(rand.NewPCG(1, 2))
	var seeds [][]byte
	for i := range 4 {
		t := randomTable(rnd, Kind(1+i%2), i*3)
		seeds = append(seeds, appendTable(nil, &t))
	}
	return append(seeds, nil, []byte{1}, []byte{1, 0, 0}, []byte{2, 1})
}

func FuzzDecodeTable(f *testing.F) {
	for _, s := range tableSeeds() {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var table packTable
		if err := decodeTable(data, &table); err != nil {
			wantIs(t, err, ErrCorrupt)
			return
		}
		wantValid(t, &table)
		again := appendTable(nil, &table)
		var second packTable
		if err := decodeTable(again, &second); err != nil || !bytes.Equal(appendTable(nil, &second), again) {
			t.Fatalf("what was decoded does not survive encoding: %v", err)
		}
		if !bytes.Equal(again, data) {
			t.Fatalf("%x encodes as %x", data, again)
		}
	})
}

// wantValid checks the rules of docs/format.md §5.
func wantValid(t *testing.T, table *packTable) {
	t.Helper()
	if table.kind != Data && table.kind != Metadata {
		t.Errorf("kind %d", table.kind)
	}
	for _, b := range table.blocks {
		sum := uint64(0)
		for _, c := range b.chunks {
			if c.size == 0 {
				t.Error("an empty chunk")
			}
			sum += uint64(c.size)
		}
		if len(b.chunks) == 0 || sum != uint64(b.raw) || b.raw > maxBlockSize || b.stored > maxBlockSize || b.stored < tagBytes {
			t.Errorf("block %+v", b)
		}
	}
}

func FuzzDecodeIndex(f *testing.F) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for i := range 4 {
		x := indexObject{replaces: make([]ID, i)}
		for j := range i {
			x.packs = append(x.packs, randomTable(rnd, Data, j))
		}
		f.Add(appendIndex(nil, &x))
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		x, err := decodeIndex(data)
		if err != nil {
			wantIs(t, err, ErrCorrupt)
			return
		}
		for i := range x.packs {
			wantValid(t, &x.packs[i])
		}
		again := appendIndex(nil, x)
		y, err := decodeIndex(again)
		if err != nil || !reflect.DeepEqual(x, y) {
			t.Fatalf("%x: what was decoded does not survive encoding: %v", data, err)
		}
	})
}

func TestTableRoundTrip(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine: nothing for the race detector")
	}
	rnd := rand.New(rand.NewPCG(5, 6))
	x := indexObject{replaces: []ID{{1}, {2}}}
	for i := range 20 {
		table := randomTable(rnd, Kind(1+i%2), i)
		data := appendTable(nil, &table)
		var got packTable
		must(t, decodeTable(data, &got))
		if !bytes.Equal(appendTable(nil, &got), data) {
			t.Error("not the same")
		}
		// Every truncation and every extension is refused.
		for n := range data {
			wantIs(t, decodeTable(data[:n], new(packTable)), ErrCorrupt)
		}
		wantIs(t, decodeTable(append(data, 0), new(packTable)), ErrCorrupt)
		x.packs = append(x.packs, table)
	}
	data := appendIndex(nil, &x)
	got, err := decodeIndex(data)
	if err != nil || !bytes.Equal(appendIndex(nil, got), data) || len(got.packs) != 20 || got.packs[3].size != x.packs[3].size || len(got.replaces) != 2 {
		t.Errorf("%v", err)
	}
	for n := range data {
		_, err := decodeIndex(data[:n])
		wantIs(t, err, ErrCorrupt)
	}
	_, err = decodeIndex(append(data, 0))
	wantIs(t, err, ErrCorrupt)
}

func TestTableBounds(t *testing.T) {
	valid := func() packTable {
		return packTable{kind: Data, blocks: []blockRef{{stored: 26, raw: 10, chunks: []chunkRef{{ID{1}, 4}, {ID{2}, 6}}}}}
	}
	for name, change := range map[string]func(p *packTable){
		"kind 0":              func(p *packTable) { p.kind = 0 },
		"kind 3":              func(p *packTable) { p.kind = 3 },
		"no chunks":           func(p *packTable) { p.blocks[0].chunks = nil },
		"empty chunk":         func(p *packTable) { p.blocks[0].chunks = append(p.blocks[0].chunks, chunkRef{}) },
		"sum":                 func(p *packTable) { p.blocks[0].raw++; p.blocks[0].stored++ },
		"sum over 32 bits":    func(p *packTable) { p.blocks[0].chunks[0].size = 1<<32 - 2 },
		"stored without tag":  func(p *packTable) { p.blocks[0].compressed = true; p.blocks[0].stored = 15 },
		"stored uncompressed": func(p *packTable) { p.blocks[0].stored = 25 },
		"stored large":        func(p *packTable) { p.blocks[0].compressed = true; p.blocks[0].stored = maxBlockSize + 1 },
		"raw large": func(p *packTable) {
			p.blocks[0].compressed = true
			p.blocks[0].raw = maxBlockSize + 1
			p.blocks[0].chunks = []chunkRef{{ID{1}, maxBlockSize + 1}}
		},
	} {
		p := valid()
		must(t, decodeTable(appendTable(nil, &p), new(packTable)))
		change(&p)
		if err := decodeTable(appendTable(nil, &p), new(packTable)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	p := valid()
	data := appendTable(nil, &p)
	for name, change := range map[string]func([]byte) []byte{
		"several sealing keys": func(b []byte) []byte { b[1] = 2; return append(b[:18:18], append(make([]byte, 16), b[18:]...)...) },
		"no sealing key":       func(b []byte) []byte { b[1] = 0; return append(b[:2:2], b[18:]...) },
		"sealing key position": func(b []byte) []byte { b[1+1+16+1+24] = 1; return b },
		"compression 2":        func(b []byte) []byte { b[1+1+16+1+24+1] = 2; return b },
		"long varint":          func(b []byte) []byte { return append([]byte{b[0], 0x81, 0}, b[2:]...) },
		"blocks":               func(b []byte) []byte { return append(binary.AppendUvarint(b[:18:18], maxBlocks+1), b[19:]...) },
		"chunks":               func(b []byte) []byte { return append(binary.AppendUvarint(b[:47:47], 1<<25), b[48:]...) },
	} {
		if err := decodeTable(change(bytes.Clone(data)), new(packTable)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A pack's size reveals little, and costs little: at most 1/512, or 4 to 16 KiB, more
// than its content.
func TestPaddedSize(t *testing.T) {
	for _, tt := range []struct{ n, want int64 }{
		{1, 4096}, {4095, 4096}, {4096, 4096}, {4097, 8192},
		{1<<21 - 1, 1 << 21}, {1 << 21, 1 << 21}, {1<<21 + 1, 1<<21 + 4096},
		{1 << 22, 1 << 22}, {1<<22 + 1, 1<<22 + 8192},
		{8<<20 + 1, 8<<20 + 16<<10}, {32<<20 + 1, 32<<20 + 16<<10}, {64<<20 - 1, 64 << 20},
	} {
		if got := paddedSize(tt.n); got != tt.want {
			t.Errorf("paddedSize(%d) = %d, want %d", tt.n, got, tt.want)
		}
	}
}

func TestParseID(t *testing.T) {
	id := NewID()
	got, err := ParseID(id.String())
	if err != nil || got != id || len(id.Short()) != 8 {
		t.Errorf("%v, %v", got, err)
	}
	for _, s := range []string{"", id.String()[1:], id.String() + "0", "G" + id.String()[1:], "A" + id.String()[1:], id.String()[:31] + "/"} {
		if _, err := ParseID(s); err == nil {
			t.Errorf("%q was accepted", s)
		}
		if err := new(ID).UnmarshalText([]byte(s)); err == nil {
			t.Errorf("%q was accepted", s)
		}
	}
	for _, name := range []string{"packs/" + id.String(), "packs/00/11" + id.String()[2:], "packs//" + id.String(), "packs/" + id.String()[:2] + "/x/" + id.String(),
		"packs/" + id.String()[:3] + "/" + id.String(), "index/" + id.String()} {
		if _, ok := parseName("packs", name); ok {
			t.Errorf("%q was accepted", name)
		}
	}
	if got, ok := parseName("packs", packName(id)); !ok || got != id {
		t.Error("a pack's name was refused")
	}
}

func FuzzSqueeze(f *testing.F) {
	r, _ := openIn(f, newStore(f), "")
	f.Add([]byte{0})
	f.Add([]byte{1, 0x28, 0xb5, 0x2f, 0xfd})
	f.Add(squeeze(r.enc, bytes.Repeat([]byte("abc"), 100)))
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := unsqueeze(r.dec, data); err != nil {
			wantIs(t, err, ErrCorrupt)
		}
		got, err := unsqueeze(r.dec, squeeze(r.enc, data))
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%v", err)
		}
	})
}
