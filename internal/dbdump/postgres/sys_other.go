//go:build !unix

package postgres

import (
	"errors"
	"os"
	"os/exec"

	"github.com/SP1R4/BackupHandler/v3/internal/dbdump"
)

func actAs(account string) (func(*exec.Cmd), error) {
	_, _, err := ids(account)
	return nil, err
}

func ids(account string) (uid, gid int, err error) {
	if account != "" {
		return 0, 0, errors.New("programs cannot be run as another account on this system")
	}
	return -1, -1, nil
}

func interrupt(r *dbdump.Running) error { return r.Signal(os.Kill) }
