//go:build unix

package postgres

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"syscall"

	"github.com/SP1R4/BackupHandler/v3/internal/dbdump"
)

// actAs makes a command run as an account; nil: it is to run as this process.
func actAs(account string) (func(*exec.Cmd), error) {
	uid, gid, err := ids(account)
	if err != nil || uid < 0 {
		return nil, err
	}
	return func(c *exec.Cmd) {
		c.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}, nil
}

// ids are user and group of an account that this process, as root, can act for; -1 if
// it is to stay what it is.
func ids(account string) (uid, gid int, err error) {
	if account == "" {
		return -1, -1, nil
	}
	u, err := user.Lookup(account)
	if err != nil {
		return 0, 0, &dbdump.Error{Err: fmt.Errorf("there is no account %q on this machine", account), Hint: "name one that there is"}
	}
	uid, _ = strconv.Atoi(u.Uid) // numbers on Unix
	gid, _ = strconv.Atoi(u.Gid)
	switch os.Geteuid() {
	case uid:
		return -1, -1, nil
	case 0:
		return uid, gid, nil
	}
	return 0, 0, &dbdump.Error{Err: fmt.Errorf("only root can act for the account %q", account), Hint: "run this as root or as that account"}
}

// interrupt ends a server at once, but in good order.
func interrupt(r *dbdump.Running) error { return r.Signal(os.Interrupt) }
