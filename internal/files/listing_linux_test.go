package files

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// appendDirent encodes a record as getdents64 does.
func appendDirent(b []byte, ino uint64, kind byte, name string) []byte {
	length := (19 + len(name) + 1 + 7) &^ 7
	r := make([]byte, length)
	binary.NativeEndian.PutUint64(r, ino)
	binary.NativeEndian.PutUint16(r[16:], uint16(length))
	r[18] = kind
	copy(r[19:], name)
	return append(b, r...)
}

// A listing is what a slice of strings, sorted, would be.
func TestListing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		prefix := rapid.SampledFrom([]string{"", "a", "reading_0000"}).Draw(t, "prefix")
		tail := rapid.Custom(func(t *rapid.T) string {
			return rapid.StringOfN(rapid.RuneFrom([]rune("ab.\xffz")), 0, 12, -1).Draw(t, "tail")
		})
		var l listing
		var want []dirent
		for range rapid.IntRange(0, 4).Draw(t, "calls") {
			buf := appendDirent(nil, 1, 4, ".")
			for range rapid.IntRange(0, 20).Draw(t, "names") {
				name := prefix + tail.Draw(t, "name")
				if name == "" || name == "." || name == ".." {
					continue
				}
				d := dirent{name, rapid.Uint64().Draw(t, "ino"), rapid.Byte().Draw(t, "kind")}
				buf = appendDirent(buf, d.ino, d.kind, d.name)
				want = append(want, d)
			}
			l.add(appendDirent(buf, 2, 4, ".."))
		}
		all := func(d dirent) string {
			return d.name + "\x00" + string(binary.BigEndian.AppendUint64(nil, d.ino)) + string(d.kind)
		}
		order := func(a, b dirent) int { return strings.Compare(all(a), all(b)) }
		l.sort()
		got := l.slice(0, l.len())
		if !slices.IsSortedFunc(got, func(a, b dirent) int { return strings.Compare(a.name, b.name) }) {
			t.Errorf("not sorted: %+v", got)
		}
		slices.SortFunc(got, order) // of those with equal names
		slices.SortFunc(want, order)
		if !slices.Equal(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
		for i := range got {
			at, ok := l.find(got[i].name)
			if !ok || l.slice(at, at+1)[0].name != got[i].name {
				t.Errorf("%q: found %v at %d", got[i].name, ok, at)
			}
		}
		p := l.pack()
		var unpacked []dirent
		for p.len() > 0 {
			unpacked = append(unpacked, p.take(rapid.IntRange(1, 30).Draw(t, "taken"))...)
		}
		if again := l.slice(0, l.len()); !slices.Equal(unpacked, again) {
			t.Errorf("unpacked %+v, want %+v", unpacked, again)
		}
		if _, ok := l.find(prefix + "nothing of the kind"); ok {
			t.Error("found what is not there")
		}
		if len(got) > 0 {
			name := got[len(got)/2].name
			at, _ := l.find(name)
			l.keep(at)
			if l.len() != 1 || l.slice(0, 1)[0].name != name {
				t.Errorf("kept %+v", l.slice(0, l.len()))
			}
		}
	})
}

// A name that a listing holds twice is one entry.
func TestBatchesUnique(t *testing.T) {
	dirPath := t.TempDir()
	var dents []byte
	for _, name := range []string{"a", "b", "c", "d"} {
		write(t, dirPath+"/"+name, "")
		dents = appendDirent(dents, 1, 8, name)
		dents = appendDirent(dents, 2, 8, name)
	}
	r := openRoot(t, dirPath, Options{})
	defer r.Entry.Close()
	d, err := r.Entry.Dir(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	x := d.(*dir)
	x.listed = true
	x.names.add(dents)
	x.names.sort()
	entries, err := listAll(d)
	got := ""
	for _, e := range entries {
		got += e.Node().Name
		e.Close()
	}
	if err != nil || got != "abcd" {
		t.Errorf("%q, %v", got, err)
	}
}

// Packed names fill pieces to their ends, the longest ones of a kernel, too.
func TestPackedPieces(t *testing.T) {
	for _, length := range []int{1, 20, 255, packedBytes / 3, packedBytes/2 - 20, packedBytes - 100} {
		var l listing
		var want []string
		for i := range 3 + 4*packedBytes/(length+20) {
			name := strings.Repeat(string(rune('a'+i%26)), length-1) + string(rune('a'+i/26%26))
			want = append(want, name)
			l.add(appendDirent(nil, uint64(i), 8, name))
		}
		l.sort()
		slices.Sort(want)
		p := l.pack()
		for i := 0; p.len() > 0; i++ {
			if got := p.take(1); got[0].name != want[i] {
				t.Fatalf("length %d: name %d differs", length, i)
			}
		}
	}
}

func FuzzDirents(f *testing.F) {
	f.Add([]byte("\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x18\x00\x08abc\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var l listing
		l.add(b)
		l.sort()
		for _, e := range l.slice(0, l.len()) {
			if strings.Contains(e.name, "\x00") || e.name == "." || e.name == ".." || !bytes.Contains(b, []byte(e.name)) {
				t.Errorf("name %q", e.name)
			}
		}
	})
}
