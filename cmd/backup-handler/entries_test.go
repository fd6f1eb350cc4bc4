package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

func TestModeText(t *testing.T) {
	for _, c := range []struct {
		kind tree.Type
		mode uint32
		want string
	}{
		{tree.File, 0o644, "-rw-r--r--"},
		{tree.Dir, 0o755, "drwxr-xr-x"},
		{tree.Symlink, 0o777, "lrwxrwxrwx"},
		{tree.FIFO, 0, "p---------"},
		{tree.CharDevice, 0o620, "crw--w----"},
		{tree.BlockDevice, 0o660, "brw-rw----"},
		{tree.File, 0o4755, "-rwsr-xr-x"},
		{tree.File, 0o4644, "-rwSr--r--"},
		{tree.Dir, 0o2775, "drwxrwsr-x"},
		{tree.Dir, 0o2765, "drwxrwSr-x"},
		{tree.Dir, 0o1777, "drwxrwxrwt"},
		{tree.Dir, 0o1776, "drwxrwxrwT"},
	} {
		if got := modeText(&tree.Node{Type: c.kind, Mode: c.mode}); got != c.want {
			t.Errorf("%v %o: %s, want %s", c.kind, c.mode, got, c.want)
		}
	}
}

// An entry is JSON whatever a file system allows: times beyond the year 9999, names
// that are not text.
func TestEntryIsJSON(t *testing.T) {
	h := tree.Hash{1}
	n := &tree.Node{
		Name: "\xff", Type: tree.File, MTime: tree.Time{Sec: 1 << 40, Nsec: 1}, Target: "\xfe", SHA256: &h,
		Xattrs: []tree.Xattr{{Name: "user.\xff", Value: "\x00"}}, Extents: []tree.Extent{},
	}
	snap := &tree.Snapshot{Users: map[uint32]string{0: "ro\xfft"}}
	b, err := compactJSON(newEntry(snap, "/\xff", n))
	if err != nil {
		t.Fatal(err)
	}
	var back entry
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if back.Path != "/\xff" || back.User != "ro\xfft" || back.Target != "\xfe" || string(back.Xattrs[0].Value) != "\x00" || !back.Sparse || back.SHA256[:2] != "01" {
		t.Errorf("%s became %+v", b, back)
	}
	if d := newEntry(snap, "/d", &tree.Node{Type: tree.BlockDevice, Rdev: 8<<32 | 1}); d.Device != "8:1" {
		t.Errorf("device %q", d.Device)
	}
}

func TestStream(t *testing.T) {
	for n := range 4 {
		var out bytes.Buffer
		a := newApp(nil, nil, &out, io.Discard)
		a.json = true
		s := a.stream(`{"head":1,"list":`)
		for i := range n {
			if err := s.item(i, nil); err != nil {
				t.Fatal(err)
			}
		}
		if s.w.Flush(); n > 0 && json.Valid(out.Bytes()) {
			t.Errorf("%d items: whole before its end: %s", n, out.Bytes())
		}
		if err := s.end(`,"tail":2}`); err != nil {
			t.Fatal(err)
		}
		var back struct {
			Head, Tail int
			List       []int
		}
		if err := json.Unmarshal(out.Bytes(), &back); err != nil || back.Head != 1 || back.Tail != 2 || len(back.List) != n {
			t.Errorf("%d items: %s: %v", n, out.Bytes(), err)
		}
	}
	// A reader that has gone ends the listing.
	s := newApp(nil, nil, failingWriter{}, io.Discard).stream("")
	var err error
	for i := 0; err == nil && i < 1000; i++ {
		err = s.item(nil, func(w io.Writer) { fmt.Fprintln(w, strings.Repeat("x", 100)) })
	}
	if err == nil {
		t.Error("writes that fail are not noticed")
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestNewest(t *testing.T) {
	snap := func(n byte, host string, sources ...tree.Path) *tree.Snapshot {
		return &tree.Snapshot{ID: repo.ID{n}, Host: host, Sources: sources}
	}
	list := []*tree.Snapshot{snap(1, "a", "/x"), snap(2, "b", "/x"), snap(3, "a", "/x"), snap(4, "a", "/x", "/y"), snap(5, "a", "/x")}
	for n, want := range map[int][]byte{0: {1, 2, 3, 4, 5}, 1: {2, 4, 5}, 2: {2, 3, 4, 5}, 3: {1, 2, 3, 4, 5}} {
		var got []byte
		for _, s := range newest(list, n) {
			got = append(got, s.ID[0])
		}
		if !bytes.Equal(got, want) {
			t.Errorf("newest %d: %v, want %v", n, got, want)
		}
	}
}

func TestAgeText(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0 seconds", 0: "0 seconds", time.Second: "1 second", 59 * time.Second: "59 seconds", time.Minute: "1 minute",
		119 * time.Minute: "119 minutes", 2 * time.Hour: "2 hours", 47 * time.Hour: "47 hours", 48 * time.Hour: "2 days", 400 * 24 * time.Hour: "400 days",
	} {
		if got := ageText(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}

func TestCompareDestinations(t *testing.T) {
	at := func(d int) time.Time { return time.Date(2026, 2, d, 0, 0, 0, 0, time.UTC) }
	newest := func(host string, day int) groupStatus {
		return groupStatus{Host: host, Time: at(day), snap: &tree.Snapshot{Host: host, Time: at(day), Sources: []tree.Path{"/x"}}}
	}
	for _, c := range []struct {
		name string
		a, b []groupStatus
		want int // what is wrong with b
	}{
		{"the same", []groupStatus{newest("me", 2)}, []groupStatus{newest("me", 2)}, 0},
		{"behind", []groupStatus{newest("me", 2)}, []groupStatus{newest("me", 1)}, 1},
		{"ahead", []groupStatus{newest("me", 1)}, []groupStatus{newest("me", 2)}, 0},
		{"never had it", []groupStatus{newest("me", 2)}, []groupStatus{newest("other", 2)}, 1},
		{"another's, never had it", []groupStatus{newest("other", 2)}, []groupStatus{newest("me", 2)}, 0},
		{"another's, behind", []groupStatus{newest("other", 2)}, []groupStatus{newest("other", 1)}, 1},
		{"empty, which is said already", []groupStatus{newest("me", 2)}, nil, 0},
	} {
		all := []destinationStatus{{Reachable: true, Groups: c.a}, {Reachable: true, Groups: c.b}, {}}
		compareDestinations(all, "me")
		if len(all[1].Wrong) != c.want || len(all[2].Wrong) != 0 {
			t.Errorf("%s: %q", c.name, all[1].Wrong)
		}
	}
}

func TestParseMoment(t *testing.T) {
	for s, want := range map[string]time.Time{
		"":                     {},
		"2026-02-28":           time.Date(2026, 2, 28, 0, 0, 0, 0, time.Local),
		"2026-02-28 03:04":     time.Date(2026, 2, 28, 3, 4, 0, 0, time.Local),
		"2026-02-28 03:04:05":  time.Date(2026, 2, 28, 3, 4, 5, 0, time.Local),
		"20260228_030405":      time.Date(2026, 2, 28, 3, 4, 5, 0, time.Local),
		"2026-02-28T03:04:05Z": time.Date(2026, 2, 28, 3, 4, 5, 0, time.UTC),
	} {
		if got, err := parseMoment("--newer", s); err != nil || !got.Equal(want) {
			t.Errorf("%q: %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"yesterday", "2026-02-30", "3"} {
		if _, err := parseMoment("--newer", s); err == nil {
			t.Errorf("%q is taken for a time", s)
		}
	}
}
