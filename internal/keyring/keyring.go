// Package keyring keeps texts in the keyring of the operating system: the Secret
// Service of desktops (GNOME Keyring, KWallet, KeePassXC), the macOS Keychain, the
// Windows Credential Manager.
//
// It knows nothing of keys or repositories. Secrets are in no error. Whatever the
// system does, a call ends: with its context, or after patience.
package keyring

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"time"

	keyring "github.com/zalando/go-keyring"
)

// Service is the name under which entries are kept.
const Service = "backup-handler"

// patience is how long the system may take: it may ask somebody for a password.
const patience = 2 * time.Minute

var (
	// ErrNone says that there is no entry for the account.
	ErrNone = errors.New("the keyring has no entry for it")
	// ErrUnavailable says that there is no keyring, or that it stays locked.
	ErrUnavailable = errors.New("the keyring of the operating system cannot be used")
)

// A Keyring is that of the user who runs the program.
type Keyring struct {
	// Env is the environment, which says how to reach the keyring.
	Env func(name string) (string, bool)
}

// Get returns the text of an account; the error may be ErrNone or ErrUnavailable.
func (k Keyring) Get(ctx context.Context, account string) (string, error) {
	return k.ask(ctx, func() (string, error) { return keyring.Get(Service, account) })
}

// Set stores the text of an account, in place of what it had, and reads it back: some
// systems report what a user has refused as done.
func (k Keyring) Set(ctx context.Context, account, text string) error {
	if _, err := k.ask(ctx, func() (string, error) { return "", keyring.Set(Service, account, text) }); err != nil {
		return err
	}
	got, err := k.Get(ctx, account)
	if err == nil && got != text || errors.Is(err, ErrNone) {
		return fmt.Errorf("%w: it did not keep the entry", ErrUnavailable)
	}
	return err
}

// Delete removes the entry of an account; ErrNone if there is none.
func (k Keyring) Delete(ctx context.Context, account string) error {
	if _, err := k.ask(ctx, func() (string, error) { return "", keyring.Delete(Service, account) }); err != nil {
		return err
	}
	_, err := k.Get(ctx, account)
	switch {
	case err == nil:
		return fmt.Errorf("%w: it did not remove the entry", ErrUnavailable)
	case errors.Is(err, ErrNone):
		return nil
	}
	return err
}

// ask makes a request that may not end by itself. One that is given up goes on in its
// goroutine; what it yields is not looked at.
func (k Keyring) ask(ctx context.Context, request func() (string, error)) (string, error) {
	if !k.reachable() {
		return "", fmt.Errorf("%w: there is no session bus, so nobody is logged in to a desktop", ErrUnavailable)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	type answer struct {
		text string
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		text, err := request()
		answers <- answer{text, err}
	}()
	select {
	case a := <-answers:
		switch {
		case a.err == nil:
			return a.text, nil
		case errors.Is(a.err, keyring.ErrNotFound):
			return "", ErrNone
		}
		return "", fmt.Errorf("%w: %w", ErrUnavailable, a.err)
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return "", fmt.Errorf("%w: no answer in %v; it may be locked", ErrUnavailable, patience)
		}
		return "", ctx.Err()
	}
}

// reachable says whether there is a session bus, where keyrings are asked through one.
// The library would start a bus that is not there, and nobody would end it.
func (k Keyring) reachable() bool {
	if runtime.GOOS == "darwin" || runtime.GOOS == "windows" {
		return true
	}
	if address, _ := k.Env("DBUS_SESSION_BUS_ADDRESS"); address != "" && address != "autolaunch:" {
		return true
	}
	u, err := user.Current()
	if err != nil {
		return false
	}
	for _, name := range []string{"bus", "dbus-session"} {
		if _, err := os.Stat(filepath.Join("/run/user", u.Uid, name)); err == nil {
			return true
		}
	}
	return false
}
