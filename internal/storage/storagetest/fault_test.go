package storagetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

// Undisturbed, a Fault is a backend like any other.
func TestFaultPasses(t *testing.T) {
	Test(t, func(t *testing.T) storage.Backend {
		return NewFault(storage.NewMemory(), func(Op, int) Outcome { return Pass }, Get, List)
	})
}

// steps uses every operation, ignoring what has failed as a careless caller does.
func steps(b storage.Backend) (errs []error) {
	ctx := context.Background()
	errs = append(errs, put(b, "a", []byte("aa")))
	errs = append(errs, put(b, "b", []byte("bb")))
	errs = append(errs, b.Delete(ctx, "a"))
	_, err := get(b, "b", 0, -1)
	errs = append(errs, err)
	errs = append(errs, b.List(ctx, "", func(storage.Info) error { return nil }))
	return errs
}

func TestFaultOutcomes(t *testing.T) {
	// Each operation of steps, the step it is part of, and the objects that the
	// store below holds in the end if the operation has each outcome.
	tests := []struct {
		op                       Op
		step                     int
		fail, lose, cut, loseCut string
	}{
		{Op{Create, "a"}, 0, "b", "b", "", ""},
		{Op{Write, "a"}, 0, "b", "b", "", ""},
		{Op{Commit, "a"}, 0, "b", "b", "", "a"},
		{Op{Create, "b"}, 1, "", "", "a", "a"},
		{Op{Write, "b"}, 1, "", "", "a", "a"},
		{Op{Commit, "b"}, 1, "", "b", "a", "ab"},
		{Op{Delete, "a"}, 2, "ab", "b", "ab", "b"},
		{Op{Get, "b"}, 3, "b", "b", "b", "b"},
		{Op{List, ""}, 4, "b", "b", "b", "b"},
	}
	for n, tt := range tests {
		for outcome, below := range map[Outcome]string{Pass: "b", Fail: tt.fail, Lose: tt.lose, Cut: tt.cut, LoseCut: tt.loseCut} {
			t.Run(fmt.Sprintf("%v/%d", tt.op, outcome), func(t *testing.T) {
				m := storage.NewMemory()
				var failed Op
				f := NewFault(m, func(op Op, i int) Outcome {
					if i != n {
						return Pass
					}
					failed = op
					return outcome
				}, Get, List)
				errs := steps(f)
				if failed != tt.op {
					t.Fatalf("operation %d is %v", n, failed)
				}

				var want error
				switch outcome {
				case Fail, Lose:
					want = ErrFault
				case Cut, LoseCut:
					want = ErrCut
				}
				for i, err := range errs {
					switch {
					case i < tt.step && err != nil:
						t.Errorf("step %d, before it: %v", i, err)
					case i == tt.step && !errors.Is(err, want):
						t.Errorf("step %d: %v, want %v", i, err, want)
					case i > tt.step && want == ErrCut && !errors.Is(err, ErrCut):
						t.Errorf("step %d, after the cut: %v", i, err)
					case i > tt.step && want != ErrCut && (errors.Is(err, ErrFault) || errors.Is(err, ErrCut)):
						t.Errorf("step %d, after it: %v", i, err)
					}
				}
				if f.IsCut() != (want == ErrCut) {
					t.Errorf("cut: %t", f.IsCut())
				}
				objects := Objects(t, m)
				if got := strings.Join(slices.Sorted(maps.Keys(objects)), ""); got != below {
					t.Errorf("below: %q, want %q", got, below)
				}
				for name, data := range objects {
					if string(data) != name+name {
						t.Errorf("%s holds %q", name, data)
					}
				}
			})
		}
	}
}

func TestFaultReadsUnplanned(t *testing.T) {
	f := NewFault(storage.NewMemory(), func(Op, int) Outcome { return Pass })
	for _, err := range steps(f) {
		if err != nil {
			t.Error(err)
		}
	}
	if n := len(f.Ops()); n != 7 {
		t.Errorf("%d operations planned, want the 7 that change something", n)
	}
}

func TestCutAfter(t *testing.T) {
	for n := range 8 {
		m := storage.NewMemory()
		f := CutAfter(m, n)
		errs := steps(f)
		if cut := n < 7; f.IsCut() != cut || errors.Is(errs[4], ErrCut) != cut {
			t.Errorf("after %d operations: cut %t, last error %v", n, f.IsCut(), errs[4])
		}
		want := [][]string{nil, nil, nil, {"a"}, {"a"}, {"a"}, {"a", "b"}, {"b"}}[n]
		if got := slices.Sorted(maps.Keys(Objects(t, m))); !slices.Equal(got, want) {
			t.Errorf("after %d operations: %q, want %q", n, got, want)
		}
	}
}

// A reader that is open at the cut ends.
func TestCutEndsReaders(t *testing.T) {
	m := storage.NewMemory()
	Put(t, m, "a", []byte("aa"))
	f := CutAfter(m, 0)
	r, err := f.Get(t.Context(), "a", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if n, err := r.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("before: %d, %v", n, err)
	}
	wantError(t, "delete", f.Delete(t.Context(), "a"), ErrCut)
	_, err = r.Read(make([]byte, 1))
	wantError(t, "read", err, ErrCut)
}
