package tree

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/repo"

	"pgregory.net/rapid"
)

func TestPathsInJSON(t *testing.T) {
	check := func(t interface{ Errorf(string, ...any) }, p Path) {
		b, err := json.Marshal(p)
		var back Path
		if err == nil {
			err = json.Unmarshal(b, &back)
		}
		if err != nil || back != p {
			t.Errorf("%q became %s, then %q: %v", p, b, back, err)
		}
	}
	for _, p := range []Path{"", "/", "/etc", "/\xff", "\x00", "\x00AAAA", "a\x00", "\u2028<>&\"\\", "\xed\xa0\x80", "\ufffd"} {
		check(t, p)
	}
	rapid.Check(t, func(t *rapid.T) { check(t, Path(drawBytes(t, "path", 60))) })
	if b, err := json.Marshal(Path("/ä")); err != nil || string(b) != `"/ä"` {
		t.Errorf("a readable path is not readable: %s, %v", b, err)
	}
	if b, err := json.Marshal(Path("/\xff")); err != nil || string(b) != `"\u0000L/8="` {
		t.Errorf("%s, %v", b, err)
	}
	if err := json.Unmarshal([]byte(`"\u0000?"`), new(Path)); !errors.Is(err, ErrCorrupt) {
		t.Error(err)
	}
}

// goldenSnapshot has every field.
func goldenSnapshot() *Snapshot {
	parent := repo.ID{7}
	start := time.Date(2026, 2, 28, 3, 0, 0, 123456789, time.UTC)
	return &Snapshot{
		ID:   repo.ID{1, 2, 3},
		Time: start, End: start.Add(90 * time.Second), Host: "host", User: "root", Program: "backup-handler 3.0.0", RunID: "r1",
		Sources: []Path{"/etc", "/srv/\xff\xfe"}, Mode: Differential, Parent: &parent, Tags: []string{"weekly"},
		Root:  []Chunk{{hashOf("root"), 100}, {hashOf("root 2"), 1}},
		Users: map[uint32]string{0: "root", 4294967294: "nobody"}, Groups: map[uint32]string{0: "wheel"},
		Counts: Counts{Files: 1, Dirs: 2, Symlinks: 3, Others: 4, Bytes: 5, New: 6, Changed: 7, Unmodified: 8, BytesRead: 9,
			BytesAdded: 10, BytesStored: 11, ChunksAdded: 12, SkippedByRule: 13, Problems: 1},
		Problems: []Problem{{Path: "/srv/\xff\xfe/x", Kind: "unreadable", Text: "permission denied"}},
		Lacks:    []string{"xattrs"},
	}
}

func TestSnapshotRoundTrip(t *testing.T) {
	for name, s := range map[string]*Snapshot{
		"full":  goldenSnapshot(),
		"empty": {Root: []Chunk{}},
		"kind":  {Root: []Chunk{}, Kind: KindStream},
		"zone":  {Root: []Chunk{}, Time: time.Date(2026, 1, 1, 0, 0, 0, 0, time.FixedZone("", 3600))},
	} {
		body, err := EncodeSnapshot(s)
		if err != nil {
			t.Fatal(err)
		}
		back, err := DecodeSnapshot(s.ID, body)
		if err != nil {
			t.Fatal(err)
		}
		if !back.Time.Equal(s.Time) {
			t.Errorf("%s: %v became %v", name, s.Time, back.Time)
		}
		back.Time = s.Time // a zone has no identity
		if !reflect.DeepEqual(s, back) {
			t.Errorf("%s:\n%+v\n%+v", name, s, back)
		}
	}
	noRoot := &Snapshot{Time: time.Unix(1, 0)}
	body, err := EncodeSnapshot(noRoot)
	if err != nil {
		t.Fatal(err)
	}
	if back, err := DecodeSnapshot(repo.ID{}, body); err != nil || len(back.Root) != 0 {
		t.Error("an empty tree:", err)
	}
	if noRoot.Root != nil {
		t.Error("encoding changed the snapshot")
	}
	root := goldenSnapshot().RootNode()
	if root.Type != Dir || root.Name != "" || !reflect.DeepEqual(root.Content, goldenSnapshot().Root) {
		t.Errorf("%+v", root)
	}
}

// What a kind is of files is not written down: snapshots from before there were kinds.
func TestGroup(t *testing.T) {
	body, err := EncodeSnapshot(&Snapshot{Kind: KindFiles})
	if err != nil || strings.Contains(string(body), "kind") {
		t.Errorf("%s, %v", body, err)
	}
	ordered := []*Snapshot{
		{Host: "a", Sources: []Path{"/x"}},
		{Host: "a", Sources: []Path{"/x", "/y"}},
		{Host: "a", Sources: []Path{"/x!"}},
		{Host: "a", Kind: KindMySQL, Sources: []Path{"/x"}},
		{Host: "a", Kind: KindStream, Sources: []Path{"/x"}},
		{Host: "b", Sources: []Path{"/x"}},
	}
	for i, a := range ordered {
		for j, b := range ordered {
			if got := a.Group().Compare(b.Group()); got != cmp.Compare(i, j) || (a.Group() == b.Group()) != (i == j) {
				t.Errorf("%d, %d: %d", i, j, got)
			}
		}
	}
}

func TestDecodeSnapshotRefuses(t *testing.T) {
	for _, body := range []string{
		"", "null", "{}", "[]", "x", `{"root":null}`, `{"root":[]} x`,
		`{"root":[{"sha256":"00","size":1}]}`,
		`{"root":[{"sha256":"` + hex64 + `","size":0}]}`,
		`{"root":[{"sha256":"` + hex64 + `","size":4294967296}]}`,
		`{"root":[{"sha256":"` + hex64[:63] + `x","size":1}]}`,
		`{"root":[],"sources":["\u0000?"]}`,
		`{"root":[],"parent":"12"}`,
	} {
		if s, err := DecodeSnapshot(repo.ID{}, []byte(body)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %+v, %v", body, s, err)
		}
	}
	id := repo.ID{5}
	s, err := DecodeSnapshot(id, []byte(`{"root":[{"sha256":"`+hex64+`","size":1}],"later":{"x":1}}`))
	if err != nil || len(s.Root) != 1 || s.ID != id {
		t.Error(s, err)
	}
}

const hex64 = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

func FuzzDecodeSnapshot(f *testing.F) {
	body, err := EncodeSnapshot(goldenSnapshot())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Fuzz(func(t *testing.T, body []byte) {
		s, err := DecodeSnapshot(repo.ID{}, body)
		if err != nil {
			return
		}
		once, err := EncodeSnapshot(s)
		if err != nil {
			return // a year that JSON has no form for: nothing that was encoded
		}
		again, err := DecodeSnapshot(repo.ID{}, once)
		if err != nil {
			t.Fatal(err)
		}
		if twice, err := EncodeSnapshot(again); err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("%s\n%s\n%v", once, twice, err)
		}
	})
}

// The golden snapshot was written once: what is in repositories must stay readable.
func TestGoldenSnapshot(t *testing.T) {
	body, err := os.ReadFile("testdata/snapshot-v1.json")
	if err != nil {
		t.Fatal(err)
	}
	want := goldenSnapshot()
	s, err := DecodeSnapshot(want.ID, body)
	if err != nil || !reflect.DeepEqual(s, want) {
		t.Errorf("%+v\n%+v\n%v", s, want, err)
	}
}
