package httpstoretest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

// FaultStall is how long a connection may stand still in TestCuts: what opens a store
// has to use it.
const FaultStall = 4 * time.Second

// bound is how long a call may take that has lost its connection, on a busy machine.
const bound = 40 * time.Second

// attempts are made where each may end like that.
const attempts = 10

// TestCuts cuts connections in the middle of a Put and of a Get, and lets them hang:
// each ends with an error that trying again may mend, in bounded time, leaves no
// object, and the next call works. open opens a store at the server of host:port
// target whose connections are the Dialer's, and which has FaultStall.
func TestCuts(t *testing.T, target string, open func(t *testing.T, d *Dialer) storage.Objects) {
	const size = 3 << 20
	data := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	for _, hang := range []time.Duration{0, time.Minute} {
		for _, after := range []int64{0, 100, 1 << 20} {
			for _, down := range []bool{false, true} {
				t.Run(fmt.Sprintf("after=%d,down=%t,hang=%s", after, down, hang), func(t *testing.T) {
					t.Parallel()
					var d Dialer
					d.To(target)
					s := open(t, &d)
					put := func(name string) error {
						return s.Put(t.Context(), name, bytes.NewReader(data), size)
					}
					if err := put("packs/there"); err != nil {
						t.Fatal(err)
					}
					// The connections that were made ahead are broken: who gets one of them fails, and
					// nobody after.
					d.To(target)
					for range attempts {
						if _, err := read(t, s, "packs/there"); err == nil {
							break
						}
					}
					disturbed := func(what string, f func() error) {
						t.Helper()
						d.To(Cut(t, target, after, down, hang))
						start := time.Now()
						err := f()
						if err == nil {
							t.Errorf("%s: no error", what)
						} else if strings.Contains(err.Error(), "://") {
							t.Errorf("%s: the error holds a URL: %v", what, err)
						}
						if took := time.Since(start); took > bound {
							t.Errorf("%s: took %s", what, took)
						}
						if _, ok := errors.AsType[*storage.PermanentError](err); ok || errors.Is(err, fs.ErrExist) || errors.Is(err, fs.ErrNotExist) {
							t.Errorf("%s: %v, which is for ever", what, err)
						}
						d.To(target)
					}
					if !down || after < 1<<20 { // the answer to a Put is shorter
						disturbed("put", func() error { return put("packs/new") })
						// The request may have arrived whole and its answer be lost. Then a server
						// refuses the next before it has read all of that, and may cut the connection
						// before it is heard: versitygw does, every sixth time on a busy machine.
						err := put("packs/new")
						for n := 1; down && n < attempts && err != nil && !errors.Is(err, fs.ErrExist); n++ {
							err = put("packs/new")
						}
						if err != nil && !(down && errors.Is(err, fs.ErrExist)) {
							t.Errorf("put again: %v", err)
						}
						if got, err := read(t, s, "packs/new"); err != nil || !bytes.Equal(got, data) {
							t.Errorf("get of what was put again: %d bytes, %v", len(got), err)
						}
					}
					if down || after < 100 { // the question of a Get is shorter
						disturbed("get", func() error { _, err := read(t, s, "packs/there"); return err })
						if got, err := read(t, s, "packs/there"); err != nil || !bytes.Equal(got, data) {
							t.Errorf("get again: %d bytes, %v", len(got), err)
						}
					}
				})
			}
		}
	}
}

func read(t *testing.T, s storage.Objects, name string) ([]byte, error) {
	r, err := s.Get(t.Context(), name, 0, -1)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}
