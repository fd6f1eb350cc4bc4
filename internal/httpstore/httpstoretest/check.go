package httpstoretest

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

// Secret is what tests hide in all that a store is given. No error may hold it.
const Secret = "s3cret"

// CheckError judges an error: it is the one of those that callers know, or none of
// them; permanent or not; has the words, on one line, and no Secret.
func CheckError(t testing.TB, err, is error, permanent bool, words string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want one with %q", words)
		return
	}
	p, ok := errors.AsType[*storage.PermanentError](err)
	if ok != permanent {
		t.Errorf("permanent: %t (%v)", ok, err)
	}
	for _, e := range []error{fs.ErrExist, fs.ErrNotExist, fs.ErrPermission, storage.ErrFull, storage.ErrReadOnly} {
		if errors.Is(err, e) != (e == is) {
			t.Errorf("%v is %v: %t", err, e, errors.Is(err, e))
		}
	}
	text := err.Error()
	if ok {
		text += " (" + p.Hint + ")"
	}
	if !strings.Contains(err.Error(), words) || strings.ContainsAny(text, "\n\r") || strings.Contains(text, Secret) || len(text) > 600 {
		t.Errorf("error is %q, want one line with %q", text, words)
	}
}

// Requests are those that a store has made.
type Requests struct {
	mu  sync.Mutex
	got []string
}

// Add is an Options.OnRequest.
func (r *Requests) Add(method, what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got = append(r.got, method+" "+what)
}

// Want compares what has been made since the last call with what was to be expected.
func (r *Requests) Want(t testing.TB, during string, want ...string) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(r.got, want) {
		t.Errorf("%s: requests %q, want %q", during, r.got, want)
	}
	r.got = nil
}

// Reset forgets what has been made.
func (r *Requests) Reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got = nil
}
