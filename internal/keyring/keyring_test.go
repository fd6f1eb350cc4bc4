package keyring

import (
	"context"
	"errors"
	"strings"
	"testing"

	keyring "github.com/zalando/go-keyring"
)

// desktop is an environment with a session bus; the mock never asks it.
var desktop = Keyring{func(string) (string, bool) { return "unix:path=/nonexistent", true }}

func TestEntries(t *testing.T) {
	keyring.MockInit()
	ctx := t.Context()
	if _, err := desktop.Get(ctx, "a"); !errors.Is(err, ErrNone) {
		t.Errorf("an entry that is not there: %v", err)
	}
	if err := desktop.Delete(ctx, "a"); !errors.Is(err, ErrNone) {
		t.Errorf("delete what is not there: %v", err)
	}
	for _, text := range []string{"one", "two"} {
		if err := desktop.Set(ctx, "a", text); err != nil {
			t.Fatal(err)
		}
		if got, err := desktop.Get(ctx, "a"); got != text || err != nil {
			t.Errorf("%q, %v, want %q", got, err, text)
		}
	}
	if _, err := desktop.Get(ctx, "b"); !errors.Is(err, ErrNone) {
		t.Errorf("another account: %v", err)
	}
	if got, err := keyring.Get("backup-handler", "a"); got != "two" || err != nil {
		t.Errorf("not under the service that is documented: %q, %v", got, err)
	}
	if err := desktop.Delete(ctx, "a"); err != nil {
		t.Error(err)
	}
	if _, err := desktop.Get(ctx, "a"); !errors.Is(err, ErrNone) {
		t.Errorf("deleted: %v", err)
	}
}

func TestUnavailable(t *testing.T) {
	keyring.MockInitWithError(errors.New("the prompt was dismissed"))
	calls := map[string]func(context.Context, Keyring) error{
		"get":    func(ctx context.Context, k Keyring) error { _, err := k.Get(ctx, "a"); return err },
		"set":    func(ctx context.Context, k Keyring) error { return k.Set(ctx, "a", "the secret") },
		"delete": func(ctx context.Context, k Keyring) error { return k.Delete(ctx, "a") },
	}
	for name, call := range calls {
		err := call(t.Context(), desktop)
		if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "dismissed") || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
