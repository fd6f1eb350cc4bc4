package e2e

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// TestServiceRights: with the rights that the unit leaves to root, and no others, files
// of others are backed up to a destination of others, verified and restored in a drill.
func TestServiceRights(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root has rights to leave")
	}
	if _, err := exec.LookPath("setpriv"); err != nil {
		t.Skip("setpriv is not installed")
	}
	w := newWorld(t)
	config, dest := scheduled(w, "backup = 03:00\nverify = 04:00\ndrill = 05:00\n[DRILL]\nsample = 0\ndir = "+w.path("tmp")+"\n")
	secret := w.write([]byte("secret"), "src", "private", "file")
	must(t, os.Chmod(secret, 0o600))
	must(t, os.Chown(secret, nobody, nobody))
	must(t, os.Chmod(w.path("src", "private"), 0o700))
	must(t, os.Chown(w.path("src", "private"), nobody, nobody))
	suid := w.write([]byte("#!/bin/sh\n"), "src", "suid")
	must(t, os.Chown(suid, nobody, nobody))
	must(t, os.Chmod(suid, 0o755|os.ModeSetuid|os.ModeSetgid))
	if out, err := exec.Command("setcap", "cap_net_raw+ep", w.write([]byte("x"), "src", "capable")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	must(t, syscall.Mkfifo(w.path("src", "fifo"), 0o644))
	must(t, os.Mkdir(dest, 0o700))
	must(t, os.Chown(dest, nobody, nobody))

	unit := w.want(ok, "service", "show", "--config", config).out
	_, rest, found := strings.Cut(unit, "CapabilityBoundingSet=")
	if !found {
		t.Fatal(unit)
	}
	rights := "-all"
	for r := range strings.FieldsSeq(strings.SplitN(rest, "\n", 2)[0]) {
		rights += ",+" + strings.ToLower(strings.TrimPrefix(r, "CAP_"))
	}
	for _, command := range []string{"backup", "verify", "drill"} {
		c, out, errout := w.command(t.Context(), command, "--config", config)
		setpriv := exec.Command("setpriv", append([]string{"--bounding-set=" + rights, "--inh-caps=-all", "--no-new-privs", binary}, c.Args[1:]...)...)
		setpriv.Dir, setpriv.Env, setpriv.Stdout, setpriv.Stderr = c.Dir, c.Env, out, errout
		if err := setpriv.Run(); err != nil {
			t.Errorf("%s with %s: %v\n%s%s", command, rights, err, out, errout)
		}
		if strings.Contains(out.String(), "problem") {
			t.Errorf("%s: %s", command, out)
		}
	}
}
