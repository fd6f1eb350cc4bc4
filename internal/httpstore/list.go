package httpstore

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

// A Lister asks a server for the objects in a directory ("": all), and calls fn for each,
// until that returns an error, which it returns as it is.
type Lister func(ctx context.Context, dir string, fn func(storage.Info) error) error

// List is the List of a store. What goes wrong is described by describe.
func (c *Client) List(ctx context.Context, dir string, list Lister, describe func(error) error, fn func(storage.Info) error) error {
	if err := c.Usable(ctx); err != nil {
		return err
	}
	var stopped error
	each := func(info storage.Info) error {
		if stopped = c.Usable(ctx); stopped == nil {
			stopped = fn(info)
		}
		return stopped
	}
	if objects, ok := c.first.take(dir); ok {
		for _, info := range objects {
			if each(info) != nil {
				return stopped
			}
		}
		return nil
	}
	opCtx, done := c.Begin(ctx)
	defer done()
	err := list(opCtx, dir, each)
	switch {
	case stopped != nil:
		return stopped
	case err != nil:
		return describe(err)
	}
	return c.Usable(ctx)
}

// ListFirst lists a directory to see whether a store is there. Who asks for it next, and
// soon, gets the same, unless this client has made a request that may change something: a
// request, and a round trip, less. "" is no directory: one object of the store is looked
// for, and nothing kept.
func (c *Client) ListFirst(ctx context.Context, dir string, list Lister) error {
	ctx, done := c.Begin(ctx)
	defer done()
	var objects []storage.Info
	asked := time.Now()
	err := list(ctx, dir, func(info storage.Info) error {
		if dir == "" {
			return errOne
		}
		objects = append(objects, info)
		return nil
	})
	if err == errOne {
		return nil
	}
	if err == nil && dir != "" {
		c.first.put(dir, objects, asked.Add(firstFor))
	}
	return err
}

// errOne ends a listing of which one object is enough.
var errOne = errors.New("one is enough")

// firstFor is how long a first listing may be told: a moment ago, for somebody who
// has just opened the store.
const firstFor = 5 * time.Second

// firstList is the listing with which a store was opened, until somebody has it.
type firstList struct {
	mu      sync.Mutex
	dir     string
	objects []storage.Info
	until   time.Time // zero: there is none
}

func (f *firstList) put(dir string, objects []storage.Info, until time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dir, f.objects, f.until = dir, objects, until
}

func (f *firstList) drop() { f.put("", nil, time.Time{}) }

func (f *firstList) take(dir string) (objects []storage.Info, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dir != dir || !time.Now().Before(f.until) {
		return nil, false
	}
	objects = f.objects
	f.objects, f.until = nil, time.Time{}
	return objects, true
}
