package repo

import (
	"errors"
	"strings"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/seal"
	"github.com/SP1R4/BackupHandler/v3/internal/storage/storagetest"
)

// A list that cannot be read now is an error, never an empty list.
func TestCondemnedReadError(t *testing.T) {
	m := newStore(t)
	r, _ := openIn(t, m, "")
	s := smallSource(1)
	mustBackup(t, r, s)
	condemn(t, r, packIDs(t, m)...)

	failing := storagetest.NewFault(m, func(op storagetest.Op, _ int) storagetest.Outcome {
		if strings.HasPrefix(op.Name, "condemned/") {
			return storagetest.Fail
		}
		return storagetest.Pass
	}, storagetest.Get)
	_, _, err := tryOpen(t.Context(), failing, "")
	wantIs(t, err, storagetest.ErrFault)

	// The same for the last look before a snapshot.
	id, _, err := backup(t.Context(), withBackend(r, failing), s, WriterOptions{})
	wantIs(t, err, storagetest.ErrFault)
	if got := objects(t, m, "snapshots"); len(got) != 1 || got[0] == objectName(kindSnapshot, id) {
		t.Errorf("snapshots %v", got)
	}

	// And for a list of a later version.
	name := objects(t, m, "condemned")[0]
	data := getObject(t, m, name)
	data[4] = 2
	replace(t, m, name, data)
	_, _, err = tryOpen(t.Context(), m, "")
	if _, ok := errors.AsType[*seal.NewerVersionError](err); !ok {
		t.Errorf("a list of version 2: %v", err)
	}
}
