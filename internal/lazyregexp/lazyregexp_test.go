package lazyregexp

import "testing"

func TestNew(t *testing.T) {
	re := New(`^a+$`)
	if !re().MatchString("aaa") || re().MatchString("b") {
		t.Fatal("matches wrongly")
	}
	if first, second := re(), re(); first != second {
		t.Fatal("compiled twice")
	}
	defer func() {
		if recover() == nil {
			t.Fatal("a wrong expression is not found in a test")
		}
	}()
	New(`(`)
}
