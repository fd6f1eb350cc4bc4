package httpstore

import (
	"fmt"
	"io/fs"
	"strings"
	"unicode/utf8"

	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

// maxPrefix, in bytes, leaves room for names in the 1,024 of the stores.
const maxPrefix = 512

// A Prefix is the directory in a bucket that holds a store, without slashes around
// it; "" is the whole bucket.
type Prefix string

// Check refuses prefixes that servers or their tools take for another.
func (p Prefix) Check() error {
	if p == "" {
		return nil
	}
	if len(p) > maxPrefix {
		return fmt.Errorf("prefix of %d bytes, more than %d", len(p), maxPrefix)
	}
	for element := range strings.SplitSeq(string(p), "/") {
		if element == "" || element == "." || element == ".." || strings.HasSuffix(element, ".") {
			return fmt.Errorf("prefix %q has an empty element, one that ends with a dot, or a slash at its start", string(p))
		}
	}
	if !utf8.ValidString(string(p)) || strings.ContainsFunc(string(p), func(r rune) bool { return r < ' ' || r == 0x7f || r == '\\' }) {
		return fmt.Errorf("prefix %q has characters that servers do not keep apart", string(p))
	}
	return nil
}

// Key returns the key of an object in the bucket.
func (p Prefix) Key(name string) string {
	if p == "" {
		return name
	}
	return string(p) + "/" + name
}

// Dir returns what the keys of all objects in a directory begin with.
func (p Prefix) Dir(dir string) string {
	if dir == "" {
		return p.Key("")
	}
	return p.Key(dir) + "/"
}

// Name returns the name of the object with a key; not ok if the key is not that of
// an object of ours.
func (p Prefix) Name(key string) (name string, ok bool) {
	name, ok = strings.CutPrefix(key, p.Key(""))
	return name, ok && storage.CheckName(name) == nil
}

// CheckName is storage.CheckName for the whole key. The error is fs.ErrInvalid.
func (p Prefix) CheckName(name string) error {
	if err := storage.CheckName(name); err != nil {
		return err
	}
	if n := len(p.Key(name)); n > storage.MaxName {
		return fmt.Errorf("object name of %d bytes with its prefix, more than %d: %w", n, storage.MaxName, fs.ErrInvalid)
	}
	return nil
}
