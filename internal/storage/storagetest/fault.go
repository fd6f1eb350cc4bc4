package storagetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

// A Kind is a kind of operation on a store.
type Kind int

// The operations that change something, as far as the caller can tell, and those
// that do not.
const (
	Create Kind = iota
	Write
	Commit
	Delete

	Get
	List
)

func (k Kind) String() string {
	return [...]string{"create", "write", "commit", "delete", "get", "list"}[k]
}

// An Op is one operation. The Name is that of the object, or the directory of
// List.
type Op struct {
	Kind Kind
	Name string
}

func (op Op) String() string { return op.Kind.String() + " " + op.Name }

// An Outcome is what becomes of an operation.
type Outcome int

const (
	// Pass lets the operation happen.
	Pass Outcome = iota
	// Fail returns ErrFault and does nothing.
	Fail
	// Lose lets the operation happen, then returns ErrFault all the same: the
	// answer was lost. Lost reads deliver their data before the error.
	Lose
	// Cut cuts the power: this operation and all later ones do nothing and
	// return ErrCut.
	Cut
	// LoseCut cuts the power when the operation has happened, but before its
	// answer: it and all later ones return ErrCut.
	LoseCut
)

var (
	// ErrFault is the error of an operation that was made to fail.
	ErrFault = errors.New("injected fault")
	// ErrCut is the error of an operation at or after the power cut.
	ErrCut = errors.New("injected power cut")
)

// A Fault is a backend on top of another one, whose operations fail according to
// a plan. The other one keeps what took effect; after a cut, it is what the next
// process finds.
//
// Operations that run concurrently are planned in the order in which they begin.
type Fault struct {
	backend storage.Backend
	plan    func(op Op, n int) Outcome
	planned []Kind

	mu  sync.Mutex
	ops []Op
	cut bool
}

// NewFault wraps b. The plan is asked at each operation that changes something,
// and for the kinds of reads given, with the number n of operations it was asked
// about before; calls do not overlap.
func NewFault(b storage.Backend, plan func(op Op, n int) Outcome, reads ...Kind) *Fault {
	return &Fault{backend: b, plan: plan, planned: append([]Kind{Create, Write, Commit, Delete}, reads...)}
}

// CutAfter wraps b so that n operations that change something happen, and the
// power is cut before the next one.
func CutAfter(b storage.Backend, n int) *Fault { return At(b, n, Cut) }

// At wraps b so that n operations that change something happen, the next one has
// the outcome given, and those after it pass (unless there was a cut). A test
// that runs it for all n from 0 to the length of [Fault.Ops] of an undisturbed
// run has failed each of them once.
func At(b storage.Backend, n int, outcome Outcome) *Fault {
	return NewFault(b, func(_ Op, i int) Outcome {
		if i == n {
			return outcome
		}
		return Pass
	})
}

// Ops returns the operations that were planned so far.
func (f *Fault) Ops() []Op {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.ops)
}

// IsCut reports whether the power was cut.
func (f *Fault) IsCut() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cut
}

// A verdict says what to do with one operation: whether to do it, and the error
// to return then.
type verdict struct {
	happens bool
	err     error
}

func (f *Fault) judge(kind Kind, name string) verdict {
	f.mu.Lock()
	defer f.mu.Unlock()
	op := Op{kind, name}
	if f.cut {
		return verdict{false, fmt.Errorf("%s: %w", op, ErrCut)}
	}
	outcome := Pass
	if slices.Contains(f.planned, kind) {
		outcome = f.plan(op, len(f.ops))
		f.ops = append(f.ops, op)
	}
	switch outcome {
	case Pass:
		return verdict{true, nil}
	case Fail:
		return verdict{false, fmt.Errorf("%s: %w", op, ErrFault)}
	case Lose:
		return verdict{true, fmt.Errorf("%s: %w", op, ErrFault)}
	case Cut:
		f.cut = true
		return verdict{false, fmt.Errorf("%s: %w", op, ErrCut)}
	case LoseCut:
		f.cut = true
		return verdict{true, fmt.Errorf("%s: %w", op, ErrCut)}
	}
	panic(fmt.Sprintf("storagetest: no outcome %d", outcome))
}

// do runs an operation that returns nothing but an error.
func (v verdict) do(op func() error) error {
	if v.happens {
		if err := op(); err != nil {
			return err
		}
	}
	return v.err
}

// String implements storage.Backend.
func (f *Fault) String() string { return f.backend.String() }

// Close closes the backend below, whatever has happened.
func (f *Fault) Close() error { return f.backend.Close() }

// Create implements storage.Backend.
func (f *Fault) Create(ctx context.Context, name string) (storage.Writer, error) {
	var w storage.Writer
	err := f.judge(Create, name).do(func() (err error) {
		w, err = f.backend.Create(ctx, name)
		return err
	})
	if err != nil {
		if w != nil {
			w.Abort()
		}
		return nil, err
	}
	return &faultWriter{f, w, name}, nil
}

type faultWriter struct {
	fault *Fault
	w     storage.Writer
	name  string
}

func (w *faultWriter) Write(p []byte) (n int, err error) {
	err = w.fault.judge(Write, w.name).do(func() (err error) {
		n, err = w.w.Write(p)
		return err
	})
	return n, err
}

func (w *faultWriter) Commit() error {
	defer w.w.Abort()
	return w.fault.judge(Commit, w.name).do(w.w.Commit)
}

// Abort is not an operation: it cannot fail, and changes nothing anyone sees.
func (w *faultWriter) Abort() { w.w.Abort() }

// Delete implements storage.Backend.
func (f *Fault) Delete(ctx context.Context, name string) error {
	return f.judge(Delete, name).do(func() error { return f.backend.Delete(ctx, name) })
}

// Get implements storage.Backend. The reads that follow are part of it.
func (f *Fault) Get(ctx context.Context, name string, off, length int64) (io.ReadCloser, error) {
	v := f.judge(Get, name)
	if !v.happens {
		return nil, v.err
	}
	r, err := f.backend.Get(ctx, name, off, length)
	if err != nil {
		return nil, err
	}
	return &faultReader{f, r, Op{Get, name}, v.err}, nil
}

type faultReader struct {
	fault *Fault
	r     io.ReadCloser
	op    Op
	end   error // instead of io.EOF, if not nil
}

func (r *faultReader) Read(p []byte) (int, error) {
	if r.end == nil && r.fault.IsCut() {
		return 0, fmt.Errorf("%s: %w", r.op, ErrCut)
	}
	n, err := r.r.Read(p)
	if err == io.EOF && r.end != nil {
		err = r.end
	}
	return n, err
}

func (r *faultReader) Close() error { return r.r.Close() }

// List implements storage.Backend.
func (f *Fault) List(ctx context.Context, dir string, fn func(storage.Info) error) error {
	return f.judge(List, dir).do(func() error { return f.backend.List(ctx, dir, fn) })
}
