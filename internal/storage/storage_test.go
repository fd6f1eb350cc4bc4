package storage_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/storage"
	"github.com/SP1R4/BackupHandler/v3/internal/storage/storagetest"
)

func TestMemory(t *testing.T) {
	storagetest.Test(t, func(t *testing.T) storage.Backend { return storage.NewMemory() })
}

func TestMemoryClone(t *testing.T) {
	m := storage.NewMemory()
	storagetest.Put(t, m, "both", []byte("x"))
	c := m.Clone()
	storagetest.Put(t, m, "original", nil)
	storagetest.Put(t, c, "clone", nil)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	objects := storagetest.Objects(t, c)
	if _, ok := objects["original"]; ok || len(objects) != 2 || string(objects["both"]) != "x" {
		t.Errorf("the clone holds %q", objects)
	}
}

func TestOpen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a b%")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	slashed := filepath.ToSlash(dir)
	if !strings.HasPrefix(slashed, "/") {
		slashed = "/" + slashed // Windows
	}
	fileURL := (&url.URL{Scheme: "file", Path: slashed}).String()
	for _, location := range []string{dir, fileURL, "FILE" + strings.TrimPrefix(fileURL, "file"), strings.Replace(fileURL, "file://", "file://localhost", 1)} {
		b, err := storage.Open(t.Context(), location)
		if err != nil {
			t.Errorf("%s: %v", location, err)
			continue
		}
		if b.String() != dir {
			t.Errorf("%s: opened %s, want %s", location, b, dir)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}

	const anyError = ""
	for _, tt := range []struct {
		location string
		is       error
		says     string
	}{
		{"", nil, "no path"},
		{"sftp://user:secret@host/path", storage.ErrUnsupported, "sftp://"},
		{"s3://bucket/prefix", storage.ErrUnsupported, "s3://"},
		{"S3://bucket", storage.ErrUnsupported, "s3://"},
		{"a+b-c.1://secret", storage.ErrUnsupported, "a+b-c.1://"},
		{"mem://", storage.ErrUnsupported, "mem://"},
		{"1a://x", fs.ErrNotExist, anyError}, // a path
		{filepath.Join(dir, "missing"), fs.ErrNotExist, "missing"},
		{fileURL + "/missing", fs.ErrNotExist, "missing"},
		{"file://host/secret", nil, "three slashes"},
		{"file://user:secret@/path", nil, anyError},
		{"file://", nil, "no path"},
		{"file:///a?secret", nil, "query"},
		{"file:///a?", nil, "query"},
		{"file:///a#secret", nil, "fragment"},
		{"file:///%zzsecret", nil, "malformed"},
	} {
		for _, open := range []struct {
			name string
			open func() (storage.Backend, error)
		}{
			{"Open", func() (storage.Backend, error) { return storage.Open(t.Context(), tt.location) }},
			{"Create", func() (storage.Backend, error) { return storage.Create(t.Context(), tt.location) }},
		} {
			if open.name == "Create" && errors.Is(tt.is, fs.ErrNotExist) {
				continue // it would make the directory
			}
			b, err := open.open()
			if err == nil || b != nil {
				t.Errorf("%s(%q) succeeded", open.name, tt.location)
				continue
			}
			if tt.is != nil && !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%s(%q): %v", open.name, tt.location, err)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("%s(%q) tells a secret: %v", open.name, tt.location, err)
			}
		}
	}
}

func TestCreate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	for range 2 {
		b, err := storage.Create(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		storagetest.Put(t, b, fmt.Sprint("object", len(storagetest.Objects(t, b))), nil)
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
	b, err := storage.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if n := len(storagetest.Objects(t, b)); n != 2 {
		t.Errorf("%d objects, want 2", n)
	}
}

func TestCheckName(t *testing.T) {
	long := strings.Repeat("n", storage.MaxElement)
	for _, name := range []string{"a", "0", "packs/3f/3f0c", "a.b/c_d-e", long, long + "/" + long, strings.Repeat("n/", storage.MaxName/2-1) + "nn"} {
		if err := storage.CheckName(name); err != nil {
			t.Errorf("%.40q: %v", name, err)
		}
	}
	for _, name := range storagetest.InvalidNames() {
		if err := storage.CheckName(name); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%.40q: %v, want fs.ErrInvalid", name, err)
		}
	}
}

// Whatever CheckName accepts is safe as a path on every system, and means itself.
func FuzzCheckName(f *testing.F) {
	f.Add("packs/3f/3f0c")
	for _, name := range storagetest.InvalidNames() {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if storage.CheckName(name) != nil {
			return
		}
		if !fs.ValidPath(name) || name == "." || len(name) > storage.MaxName {
			t.Errorf("%q is no path", name)
		}
		if strings.ToLower(name) != name || url.PathEscape(strings.ReplaceAll(name, "/", "")) != strings.ReplaceAll(name, "/", "") {
			t.Errorf("%q needs escaping, or folds", name)
		}
		for _, e := range strings.Split(name, "/") {
			if strings.Trim(e, ".") != e || len(e) > storage.MaxElement {
				t.Errorf("%q has the element %q", name, e)
			}
		}
	})
}
