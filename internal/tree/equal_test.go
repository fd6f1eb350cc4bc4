package tree

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

// drawTwin returns a valid node of few possible ones, with some of all there is.
func drawTwin(t *rapid.T) *Node {
	small := rapid.Uint32Range(0, 2)
	n := &Node{
		Name: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "name"), Type: Type(rapid.IntRange(1, 6).Draw(t, "type")),
		Mode: small.Draw(t, "mode"), UID: small.Draw(t, "uid"), GID: small.Draw(t, "gid"),
		MTime: Time{int64(small.Draw(t, "mtime")), small.Draw(t, "nsec")}, CTime: Time{int64(small.Draw(t, "ctime")), small.Draw(t, "cnsec")},
		Inode: uint64(small.Draw(t, "inode")), Links: 1, InodeFlags: small.Draw(t, "flags"),
	}
	if n.Type != Dir && rapid.Bool().Draw(t, "linked") {
		n.Device, n.Links = uint64(small.Draw(t, "device")), 2+small.Draw(t, "links")
	}
	if rapid.Bool().Draw(t, "attributes") {
		n.Xattrs = []Xattr{{"user.a", rapid.SampledFrom([]string{"", "x"}).Draw(t, "value")}}
	}
	switch n.Type {
	case File:
		n.Size = 10 + int64(small.Draw(t, "size"))
		if rapid.Bool().Draw(t, "sparse") {
			n.Extents = []Extent{{0, 1}, {3, 1 + int64(small.Draw(t, "extent"))}}[:small.Draw(t, "extents")]
		}
		for range small.Draw(t, "chunks") {
			n.Content = append(n.Content, Chunk{Hash{byte(small.Draw(t, "hash"))}, 1 + small.Draw(t, "bytes")})
		}
		n.Indirect = len(n.Content) > 0 && rapid.Bool().Draw(t, "indirect")
		if rapid.Bool().Draw(t, "whole") {
			n.SHA256 = &Hash{byte(small.Draw(t, "sha256"))}
		}
		n.Unstable = rapid.Bool().Draw(t, "unstable")
	case Symlink:
		n.Target = rapid.SampledFrom([]string{"x", "y"}).Draw(t, "target")
	case CharDevice, BlockDevice:
		n.Rdev = uint64(small.Draw(t, "rdev"))
	}
	return n
}

// Nodes are equal exactly if their records are.
func TestEqual(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := drawTwin(t)
		b := *a
		if rapid.Bool().Draw(t, "other") {
			b = *drawTwin(t)
		}
		same := bytes.Equal(appendNode(nil, a), appendNode(nil, &b))
		if a.Equal(&b) != same || b.Equal(a) != same {
			t.Fatalf("records are the same: %v; %+v and %+v", same, a, &b)
		}
	})
}

// Equal knows every field, those to come included.
func TestEqualFields(t *testing.T) {
	for i := range reflect.TypeFor[Node]().NumField() {
		var a, b Node
		name := reflect.TypeFor[Node]().Field(i).Name
		switch f := reflect.ValueOf(&b).Elem().Field(i); f.Kind() {
		case reflect.String:
			f.SetString("x")
		case reflect.Bool:
			f.SetBool(true)
		case reflect.Int64:
			f.SetInt(1)
		case reflect.Uint8, reflect.Uint32, reflect.Uint64:
			f.SetUint(1)
		case reflect.Slice:
			f.Set(reflect.MakeSlice(f.Type(), 1, 1))
		case reflect.Pointer:
			f.Set(reflect.New(f.Type().Elem()))
		case reflect.Struct:
			f.Field(1).SetUint(1) // the nanoseconds of a Time
		default:
			t.Fatalf("%s: a kind of field that this test does not know", name)
		}
		if a.Equal(&b) || b.Equal(&a) {
			t.Errorf("%s makes no difference", name)
		}
	}
}

// A page from elsewhere between two pages leaves the others as they would be.
func TestPageWriterPass(t *testing.T) {
	type page struct {
		data  []byte
		nodes []*Node
	}
	var want []page
	var since []*Node
	w := PageWriter{Page: func(p []byte) error {
		want = append(want, page{bytes.Clone(p), since})
		since = nil
		return nil
	}}
	for _, n := range newStore().many(3000) {
		if !w.Between() && len(since) == 0 || w.Between() && len(since) > 0 {
			t.Fatalf("before %s: between %v, %d entries in the page", n.Name, w.Between(), len(since))
		}
		since = append(since, n)
		if err := w.Add(n); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil || len(want) < 4 {
		t.Fatal(len(want), err)
	}
	for skip := range want {
		var got [][]byte
		w := PageWriter{Page: func(p []byte) error { got = append(got, bytes.Clone(p)); return nil }}
		for k, p := range want {
			if !w.Between() {
				t.Fatalf("page %d did not end", k-1)
			}
			if k == skip {
				w.Pass(p.nodes[len(p.nodes)-1].Name)
				got = append(got, p.data)
			}
			for _, n := range p.nodes {
				if err := w.Add(n); k != skip && err != nil || k == skip && !errors.Is(err, ErrInvalid) {
					t.Fatalf("%s of page %d without page %d: %v", n.Name, k, skip, err)
				}
			}
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		for k := range max(len(want), len(got)) {
			if !bytes.Equal(got[k], want[k].data) {
				t.Fatalf("without page %d: page %d of %d differs", skip, k, len(got))
			}
		}
	}
}
