package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/SP1R4/BackupHandler/v3/internal/job"
	"github.com/SP1R4/BackupHandler/v3/internal/keyring"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/seal"
)

// keyringLabel begins the label of slots whose key is in a keyring.
const keyringLabel = "keyring"

const keyringSetHint = "run it in the session of a user who is logged in, with the keyring unlocked"

// osKeyring is that of the user.
func (a *app) osKeyring() keyring.Keyring { return keyring.Keyring{Env: a.env} }

// checkKeyring says whether the keyring can take a new key of d: in the place of the
// one that has opened it with replace, else where there is none that opens it.
func (a *app) checkKeyring(ctx context.Context, d *job.Destination, replace bool, current repo.ID) error {
	old, err := job.KeyringKey(ctx, a.osKeyring(), d.Repo.ID())
	if err != nil && !errors.Is(err, keyring.ErrNone) {
		hint := keyringSetHint
		if !errors.Is(err, keyring.ErrUnavailable) {
			hint = "remove the entry of the service " + keyring.Service + " and this repository from the keyring"
		}
		return job.Fail(job.ExitUsage, fmt.Errorf("%s: %w", quote(d.Place), err), hint)
	}
	var slot repo.ID
	opens := false
	if err == nil {
		if slot, opens, err = d.Repo.Opens(ctx, old); err != nil {
			return job.Fail(job.ExitUsage, err, "")
		}
	}
	switch {
	case replace && !(opens && slot == current):
		return usageError("'backup-handler key add --keyring' makes one; nothing was changed", "%s was not opened with a key of the keyring", quote(d.Place))
	case !replace && opens:
		return usageError("'backup-handler key change --keyring' replaces it; nothing was changed", "the keyring has a key of %s already, of slot %s", quote(d.Place), slot.Short())
	}
	return nil
}

// inKeyring says whether the keyring has the key of a slot. It is asked only where it
// is in use, or the label tells of it: it may ask somebody for a password.
func (a *app) inKeyring(ctx context.Context, d *job.Destination, key *repo.Key) bool {
	enc, err := a.cfg.Encryption()
	labelled := strings.HasPrefix(key.Label, keyringLabel)
	if key.Kind != seal.KindKeyFile || !labelled && !a.keyring && (err != nil || !enc.Keyring) {
		return false
	}
	k, err := job.KeyringKey(ctx, a.osKeyring(), d.Repo.ID())
	if errors.Is(err, keyring.ErrUnavailable) && labelled {
		a.warn("if a keyring has an entry for the slot, it stays there, and opens nothing any more: %v", err)
	}
	if err != nil {
		return false
	}
	slot, opens, err := d.Repo.Opens(ctx, k)
	return err == nil && opens && slot == key.ID
}
