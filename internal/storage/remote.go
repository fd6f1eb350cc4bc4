package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/limit"
)

// Objects is what a server offers that keeps whole objects: what an
// implementation for another machine has to provide. NewRemote makes a Backend of
// it, with retries, time limits and rate limits, so that an implementation does
// each thing once, and returns errors as they come.
//
// Names, and the errors for objects that are missing or there already, are those
// of a Backend. All methods may be called concurrently, and end soon when the
// context does. An error that trying again cannot mend is a *PermanentError, or
// one of the errors of this package that callers branch on.
type Objects interface {
	// Put stores an object of size bytes, whole and durable on return, unless
	// one of that name exists: then fs.ErrExist, and that one is untouched. It
	// may read content in any order, and more than once; what it does not read
	// for sending it reads from Unpaced(content). What a Put that was interrupted
	// leaves is not an object.
	Put(ctx context.Context, name string, content io.ReaderAt, size int64) error

	// Get is that of a Backend. What asks for an object part by part, ahead of whoever
	// reads it, lets [Ask] say when.
	Get(ctx context.Context, name string, off, length int64) (io.ReadCloser, error)

	// List is that of a Backend.
	List(ctx context.Context, dir string, fn func(Info) error) error

	// Delete is that of a Backend.
	Delete(ctx context.Context, name string) error

	// String names the store for messages, without secrets.
	String() string

	// Close ends all connections.
	Close() error
}

// A PermanentError is one that trying again cannot mend: a wrong password, an
// unknown host, a bucket that does not exist.
type PermanentError struct {
	Err  error
	Hint string // what its reader can do about it, a line; "" if that is obvious
	// Kind, which errors.Is finds, is ErrDenied, ErrClock, or nil for anything else.
	Kind error
}

// Is says whether the error is of a kind.
func (e *PermanentError) Is(kind error) bool { return kind != nil && kind == e.Kind }

func (e *PermanentError) Error() string { return e.Err.Error() }
func (e *PermanentError) Unwrap() error { return e.Err }

// An UnreachableError is a failure that might have passed, but did not while the
// patience lasted.
type UnreachableError struct {
	Err   error // of the last attempt
	Tried int
	For   time.Duration
}

func (e *UnreachableError) Error() string {
	if e.Tried == 1 {
		return e.Err.Error()
	}
	return fmt.Sprintf("%v (tried %d times in %s)", e.Err, e.Tried, e.For.Round(time.Second))
}

func (e *UnreachableError) Unwrap() error { return e.Err }

// passing says whether an error may be gone when the operation is tried again.
func passing(err error) bool {
	if _, ok := errors.AsType[*PermanentError](err); ok {
		return false
	}
	for _, lasting := range []error{fs.ErrNotExist, fs.ErrExist, fs.ErrInvalid, fs.ErrClosed, ErrReadOnly, ErrFull, ErrUnsupported} {
		if errors.Is(err, lasting) {
			return false
		}
	}
	return true
}

// Patience with a network, unless RemoteOptions say otherwise.
const (
	// DefaultPatience outlasts a router that restarts and a server that is
	// updated; who waits for the run still learns of a dead destination.
	DefaultPatience = 15 * time.Minute
	// DefaultStall is longer than a busy server takes to store a pack once it
	// has all of it.
	DefaultStall = 2 * time.Minute

	firstWait = 500 * time.Millisecond // doubled from failure to failure
	lastWait  = 30 * time.Second
	// waitsInPatience keeps a wait from taking more than its part of a patience
	// that is small: an operation is not given up after a handful of attempts.
	waitsInPatience = 30
)

// RemoteOptions say how patient a remote store is, and how fast.
type RemoteOptions struct {
	Limits Limits
	// Patience is how long an operation is tried again without any progress; 0:
	// DefaultPatience.
	Patience time.Duration
	// Stall is how long a transfer may stand still before it is given up and
	// tried again; 0: DefaultStall.
	Stall time.Duration
	// SpoolDir holds objects on their way to the store; "": the system's
	// temporary directory.
	SpoolDir string
	// OnRetry, if set, is told of each failure that is followed by another
	// attempt, and how long that waits. what is "" where the error says it. Called
	// concurrently.
	OnRetry func(what string, err error, wait time.Duration)
}

// NewRemote makes a Backend of a server's objects. An object is spooled on this
// machine until its Commit, so that it can be sent again. A failure that may pass
// is followed by other attempts, ever more slowly, until the operation succeeds,
// its context ends, or there was no progress for as long as the options say. The
// Backend closes o. It is a Spacer if o is one.
func NewRemote(o Objects, opt RemoteOptions) Backend {
	if opt.Patience == 0 {
		opt.Patience = DefaultPatience
	}
	if opt.Stall == 0 {
		opt.Stall = DefaultStall
	}
	r := &remote{objects: o, o: opt}
	if s, ok := o.(Spacer); ok {
		return remoteSpacer{r, s}
	}
	return r
}

type remote struct {
	objects Objects
	o       RemoteOptions
	closed  atomic.Bool
}

type remoteSpacer struct {
	*remote
	Spacer
}

// String implements Backend.
func (r *remote) String() string { return r.objects.String() }

// Close implements Backend.
func (r *remote) Close() error {
	if r.closed.Swap(true) {
		return nil
	}
	return r.objects.Close()
}

// check refuses what needs no server to be refused.
func (r *remote) check(ctx context.Context, op, name string, err error) error {
	if err == nil && r.closed.Load() {
		err = fs.ErrClosed
	}
	if err == nil {
		err = limit.Pace(ctx)
	}
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s: %w", op, name, err)
}

// errStalled is why a transfer was given up.
var errStalled = errors.New("no data was transferred for too long")

// A watch ends a request that stands still.
type watch struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	stall  time.Duration

	mu    sync.Mutex
	timer *time.Timer
	on    bool // somebody waits for the transfer
	rated int  // of those who move it, how many wait for the rate, which is no standstill
}

func newWatch(ctx context.Context, stall time.Duration) *watch {
	w := &watch{stall: stall, on: true}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	w.timer = time.AfterFunc(stall, func() { w.cancel(errStalled) })
	return w
}

func (w *watch) moved() { w.set(true, 0) }
func (w *watch) pause() { w.set(false, 0) }

func (w *watch) set(on bool, rated int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.on = on
	w.adjust(rated)
}

// adjust counts those who wait for the rate. The caller holds mu.
func (w *watch) adjust(rated int) {
	if w.rated += rated; w.on && w.rated == 0 {
		w.timer.Reset(w.stall)
	} else {
		w.timer.Stop()
	}
}

// until waits for the rate.
func (w *watch) until(ctx context.Context, at time.Time) error {
	w.count(1)
	defer w.count(-1)
	return waitUntil(ctx, at)
}

func (w *watch) count(rated int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.adjust(rated)
}

func (w *watch) end() {
	w.timer.Stop()
	w.cancel(context.Canceled)
}

// why replaces the error of a request that was ended by the watch with the reason.
func (w *watch) why(err error) error {
	if err != nil && errors.Is(context.Cause(w.ctx), errStalled) {
		return errStalled
	}
	return err
}

// attempts counts the failures of one operation.
type attempts struct {
	r     *remote
	what  string
	count int
	since time.Time // of the first failure without progress since
}

// again waits after a failure, and returns nil if the operation is to be tried
// again, or why not.
func (a *attempts) again(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if !passing(err) {
		return err
	}
	if a.r.closed.Load() {
		return fs.ErrClosed
	}
	if a.count == 0 {
		a.since = time.Now()
	}
	a.count++
	wait := min(firstWait<<min(a.count-1, 16), lastWait, max(firstWait, a.r.o.Patience/waitsInPatience))
	wait -= rand.N(wait / 2) // so that a thousand clients do not come back at once
	if elapsed := time.Since(a.since); elapsed+wait > a.r.o.Patience {
		return &UnreachableError{err, a.count, elapsed}
	}
	if a.r.o.OnRetry != nil {
		a.r.o.OnRetry(a.what, err, wait)
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Retry is how a Backend of NewRemote tries again what may pass, for what comes
// before there is one: a connection. Its errors name what f does.
func Retry(ctx context.Context, o RemoteOptions, f func() error) error {
	if o.Patience == 0 {
		o.Patience = DefaultPatience
	}
	a := attempts{r: &remote{o: o}}
	for {
		err := f()
		if err == nil {
			return nil
		}
		if err := a.again(ctx, err); err != nil {
			return err
		}
	}
}

// retry runs a request until it succeeds or is given up.
func (r *remote) retry(ctx context.Context, what string, request func(w *watch, attempt int) error) error {
	a := attempts{r: r, what: what}
	for {
		w := newWatch(ctx, r.o.Stall)
		err := w.why(request(w, a.count))
		w.end()
		if err == nil {
			return nil
		}
		if err := a.again(ctx, err); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
}

// Create implements Backend.
func (r *remote) Create(ctx context.Context, name string) (Writer, error) {
	if err := r.check(ctx, "create", name, CheckName(name)); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("create %s: %w", name, err)
	}
	return &remoteWriter{r: r, ctx: ctx, name: name, spool: spool{dir: r.o.SpoolDir}}, nil
}

type remoteWriter struct {
	r        *remote
	ctx      context.Context
	name     string
	spool    spool
	err      error
	finished bool
}

// Write implements io.Writer.
func (w *remoteWriter) Write(p []byte) (int, error) {
	if err := w.r.check(w.ctx, "write", w.name, w.usable()); err != nil {
		return 0, err
	}
	n, err := w.spool.Write(p)
	if err != nil {
		w.err = err
		err = fmt.Errorf("write %s: %w", w.name, err)
	}
	return n, err
}

func (w *remoteWriter) usable() error {
	if w.finished {
		return fs.ErrClosed
	}
	if w.err != nil {
		return w.err
	}
	return w.ctx.Err()
}

// Commit implements Writer.
func (w *remoteWriter) Commit() error {
	if err := w.r.check(w.ctx, "store", w.name, w.usable()); err != nil {
		w.Abort()
		return err
	}
	defer w.Abort()
	return w.r.retry(w.ctx, "store "+w.name, func(watch *watch, attempt int) error {
		content := &sending{&w.spool, watch, w.r.o.Limits.Upload}
		err := w.r.objects.Put(watch.ctx, w.name, content, w.spool.size)
		if errors.Is(err, fs.ErrExist) && attempt > 0 {
			// An attempt before may have succeeded without our learning of it.
			ours, cerr := w.isStored(watch)
			if cerr != nil {
				return cerr
			}
			if ours {
				return nil
			}
		}
		return err
	})
}

// compared is how much of an object is read back to find out who has stored it:
// all of a small one; of a pack the end, which begins with a random nonce.
const compared = 64 << 10

// isStored says whether the object that is there is the one being written.
func (w *remoteWriter) isStored(watch *watch) (bool, error) {
	n := min(w.spool.size, compared)
	// One byte more than there should be finds an object that is longer.
	rc, err := w.r.objects.Get(watch.ctx, w.name, w.spool.size-n, n+1)
	if err != nil {
		return false, err
	}
	defer rc.Close()
	got, err := io.ReadAll(io.LimitReader(rc, n+1))
	if err != nil {
		return false, err
	}
	want := make([]byte, n)
	if _, err := w.spool.ReadAt(want, w.spool.size-n); err != nil && err != io.EOF {
		return false, err
	}
	return bytes.Equal(got, want), nil
}

// Abort implements Writer.
func (w *remoteWriter) Abort() {
	if !w.finished {
		w.finished = true
		w.spool.close()
	}
}

// sendBytes is what a client may send with one request, and the rate lets pass as one:
// of requests under way together each would else be let pass in part, and all of them
// leave at the same time.
const sendBytes = 256 << 10

// sending is content on its way: limited, and watched.
type sending struct {
	content io.ReaderAt
	watch   *watch
	rate    *Rate
}

func (s *sending) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for {
		piece := p[done:]
		if len(piece) > sendBytes {
			piece = piece[:max(s.rate.most(len(piece)), sendBytes)]
		}
		if err := s.watch.until(s.watch.ctx, s.rate.reserve(len(piece))); err != nil {
			return done, err
		}
		n, err := s.content.ReadAt(piece, off+int64(done))
		if done += n; err != nil || done >= len(p) {
			return done, err
		}
	}
}

// An Asker says how much of an object may be asked for, and when: what is read ahead
// counts when it is asked for, not when somebody takes it. A nil *Asker knows no limit.
type Asker struct {
	watch *watch
	rate  *Rate
	asked atomic.Bool
}

type askerKey struct{}

// Ask returns the Asker of a Get, by its context; nil for no limit.
func Ask(ctx context.Context) *Asker {
	a, _ := ctx.Value(askerKey{}).(*Asker)
	return a
}

// Most is how many of n bytes may be asked for at once.
func (a *Asker) Most(n int64) int64 {
	if a == nil {
		return n
	}
	return int64(a.rate.most(int(min(n, maxPiece))))
}

// Reserve takes the time of n bytes. wait returns when they may be asked for; its error
// is the context's.
func (a *Asker) Reserve(n int64) (wait func(context.Context) error) {
	if a == nil {
		return context.Context.Err
	}
	a.asked.Store(true)
	at := a.rate.reserve(int(n))
	return func(ctx context.Context) error { return a.watch.until(ctx, at) }
}

// Unpaced returns content to be read without being sent, for a checksum: reading it
// counts towards no rate, and is no progress of a transfer.
func Unpaced(content io.ReaderAt) io.ReaderAt {
	if s, ok := content.(*sending); ok {
		return s.content
	}
	return content
}

// Get implements Backend. A transfer that breaks off goes on where it was.
func (r *remote) Get(ctx context.Context, name string, off, length int64) (io.ReadCloser, error) {
	if err := r.check(ctx, "get", name, CheckName(name)); err != nil {
		return nil, err
	}
	g := &remoteReader{r: r, ctx: ctx, name: name, off: off, length: length}
	g.attempts = attempts{r: r, what: "get " + name}
	if err := g.open(); err != nil {
		return nil, fmt.Errorf("get %s: %w", name, err)
	}
	return g, nil
}

type remoteReader struct {
	r           *remote
	ctx         context.Context
	name        string
	off, length int64
	got         int64 // bytes delivered

	body     io.ReadCloser
	watch    *watch
	asker    *Asker // nil: no limit
	attempts attempts
	err      error // the end
}

// open asks for what has not been delivered yet, until that succeeds.
func (g *remoteReader) open() error {
	for {
		err := g.request()
		if err == nil {
			return nil
		}
		g.end()
		if err := g.attempts.again(g.ctx, err); err != nil {
			return err
		}
	}
}

func (g *remoteReader) request() error {
	g.watch = newWatch(g.ctx, g.r.o.Stall)
	off, length, skip := g.off+g.got, g.length, int64(0)
	if g.off < 0 { // the end of an object of unknown size: all of it again
		off, skip = g.off, g.got
	} else if length >= 0 {
		length -= g.got
	}
	ctx := g.watch.ctx
	if g.asker = nil; g.r.o.Limits.Download != nil {
		g.asker = &Asker{watch: g.watch, rate: g.r.o.Limits.Download}
		ctx = context.WithValue(ctx, askerKey{}, g.asker)
	}
	body, err := g.r.objects.Get(ctx, g.name, off, length)
	if err != nil {
		return g.watch.why(err)
	}
	g.body = body
	if skip > 0 {
		if _, err := io.CopyN(io.Discard, body, skip); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return g.watch.why(err)
		}
	}
	g.watch.pause()
	return nil
}

// Read implements io.Reader.
func (g *remoteReader) Read(p []byte) (int, error) {
	for g.err == nil {
		if err := limit.Pace(g.ctx); err != nil {
			g.err = fmt.Errorf("get %s: %w", g.name, err)
			break
		}
		g.watch.moved()
		n, err := g.body.Read(g.r.o.Limits.Download.piece(p))
		g.watch.pause()
		g.got += int64(n)
		if n > 0 {
			g.attempts.count = 0
			if g.asker != nil && !g.asker.asked.Load() {
				if werr := g.asker.rate.wait(g.ctx, n); werr != nil {
					err = werr
				}
			}
		}
		switch {
		case err == io.EOF:
			g.err = err
		case err != nil:
			err = g.watch.why(err)
			g.end()
			if err = g.attempts.again(g.ctx, err); err == nil {
				err = g.open()
			}
			if err != nil {
				g.err = fmt.Errorf("get %s: %w", g.name, err)
			}
		}
		if n > 0 {
			return n, nil
		}
	}
	return 0, g.err
}

// end ends the request under way.
func (g *remoteReader) end() {
	if g.body != nil {
		g.body.Close()
		g.body = nil
	}
	if g.watch != nil {
		g.watch.end()
		g.watch = nil
	}
}

// Close implements io.Closer.
func (g *remoteReader) Close() error {
	g.end()
	if g.err == nil {
		g.err = fs.ErrClosed
	}
	return nil
}

// List implements Backend. A listing that breaks off begins anew, and leaves out
// what fn has seen; of each name it remembers 16 bytes for that.
func (r *remote) List(ctx context.Context, dir string, fn func(Info) error) error {
	if err := r.check(ctx, "list", dir, checkDir(dir)); err != nil {
		return err
	}
	seeds := [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}
	seen := make(map[[2]uint64]struct{})
	var fnErr error
	err := r.retry(ctx, "list "+dir, func(w *watch, attempt int) error {
		err := r.objects.List(w.ctx, dir, func(i Info) error {
			key := [2]uint64{maphash.String(seeds[0], i.Name), maphash.String(seeds[1], i.Name)}
			if _, ok := seen[key]; ok && attempt > 0 {
				w.moved()
				return nil
			}
			seen[key] = struct{}{}
			w.pause()
			fnErr = fn(i)
			w.moved()
			return fnErr
		})
		if fnErr != nil {
			return nil
		}
		return err
	})
	if fnErr != nil {
		return fnErr
	}
	return err
}

// Delete implements Backend.
func (r *remote) Delete(ctx context.Context, name string) error {
	if err := r.check(ctx, "delete", name, CheckName(name)); err != nil {
		return err
	}
	return r.retry(ctx, "delete "+name, func(w *watch, attempt int) error {
		err := r.objects.Delete(w.ctx, name)
		if attempt > 0 && errors.Is(err, fs.ErrNotExist) {
			return nil // by an attempt before whose answer was lost, or by somebody else meanwhile
		}
		return err
	})
}
