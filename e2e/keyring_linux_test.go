package e2e

import (
	"bufio"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// busConfig is of a bus that nothing is on but what the test starts.
const busConfig = `<busconfig><type>session</type><listen>unix:dir=DIR</listen>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>`

// startKeyring gives w a desktop session with an unlocked keyring (Debian: dbus,
// gnome-keyring, libsecret-tools), and returns its environment.
func startKeyring(t *testing.T, w *world) []string {
	t.Helper()
	run := w.mkdir("run")
	must(t, os.Chmod(run, 0o700))
	config := w.write([]byte(strings.ReplaceAll(busConfig, "DIR", run)), "bus.conf")
	env := append(os.Environ(), "HOME="+w.path("home"), "XDG_RUNTIME_DIR="+run, "XDG_DATA_HOME="+w.path("home"), "LC_ALL=C")
	daemon := func(c *exec.Cmd) *bufio.Reader {
		t.Helper()
		c.Env = env
		out, err := c.StdoutPipe()
		must(t, err)
		must(t, c.Start())
		t.Cleanup(func() {
			c.Process.Kill()
			c.Wait()
		})
		return bufio.NewReader(out)
	}
	address, err := daemon(exec.Command("dbus-daemon", "--config-file="+config, "--nofork", "--print-address")).ReadString('\n')
	must(t, err)
	bus := "DBUS_SESSION_BUS_ADDRESS=" + strings.TrimSpace(address)
	env = append(env, bus)
	c := exec.Command("gnome-keyring-daemon", "--foreground", "--unlock", "--components=secrets", "--control-directory="+run)
	c.Stdin = strings.NewReader("the password of the login\n")
	daemon(c)
	waitFor(t, "the keyring", func() bool {
		c := exec.Command("secret-tool", "store", "--label=probe", "probe", "probe")
		c.Env, c.Stdin = env, strings.NewReader("probe")
		return c.Run() == nil
	})
	w.env = append(w.env, bus)
	return env
}

// lookup asks the keyring itself for an entry; "" if there is none.
func lookup(env []string, id string) string {
	c := exec.Command("secret-tool", "lookup", "service", "backup-handler", "username", id)
	c.Env = env
	out, _ := c.Output()
	return strings.TrimSpace(string(out))
}

type keySlot struct {
	ID, Kind, Label string
	Current         bool
}

// slots lists the keys of a repository, and its ID.
func slots(t *testing.T, w *world, dest string, args ...string) (id string, all []keySlot) {
	t.Helper()
	var reps []struct {
		ID   string
		Keys []keySlot
	}
	r := w.want(ok, append([]string{"key", "list", "--json", "--backup-dirs", dest}, args...)...)
	if err := json.Unmarshal([]byte(r.out), &reps); err != nil || len(reps) != 1 {
		t.Fatalf("%v: %v", err, r)
	}
	return reps[0].ID, reps[0].Keys
}

// TestKeyring: the keyring of a desktop (GNOME's) keeps the key of a repository, which
// then opens without any other.
func TestKeyring(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	passphrase := w.env
	env := startKeyring(t, w)
	src, dest := w.tree(3, "src"), w.path("repo")
	w.backup(ok, encrypted(src, dest)...)

	// Nothing is in it yet.
	id, before := slots(t, w, dest)
	w.want(ok, "snapshots", "--backup-dirs", dest, "--keyring") // by the passphrase
	w.env = w.env[1:]                                           // only the bus
	w.want(failed, "snapshots", "--backup-dirs", dest, "--keyring").complaint(t, true, "keyring has no entry", "wrong key")
	w.want(failed, "snapshots", "--backup-dirs", dest).complaint(t, true, "wrong key")

	bus := w.env
	w.env = append(passphrase, bus...)
	w.want(ok, "key", "add", "--keyring", "--backup-dirs", dest)
	w.want(failed, "key", "add", "--keyring", "--backup-dirs", dest).complaint(t, true, "has a key")
	w.want(failed, "key", "change", "--keyring", "--backup-dirs", w.path("none")).complaint(t, true, "no repository")
	first := lookup(env, id)
	if !regexp.MustCompile(`^BHKEY1(-[0-9A-Z]{16}){4}$`).MatchString(first) {
		t.Fatalf("the keyring has an entry of %d characters", len(first))
	}

	// It opens the repository, by the flag and by the configuration.
	w.env = bus
	_, now := slots(t, w, dest, "--keyring")
	if len(now) != len(before)+1 {
		t.Fatalf("%d slots, were %d", len(now), len(before))
	}
	var added string
	for _, s := range now {
		if s.Label == "keyring" && s.Kind == "keyfile" && s.Current {
			added = s.ID
		}
	}
	same(t, src, w.restore(ok, dest, "latest", src, "--keyring"))
	w.want(failed, "snapshots", "--backup-dirs", dest).complaint(t, true, "wrong key")
	config := w.write([]byte("[ENCRYPTION]\nkeyring = yes\n"), "config.ini")
	must(t, os.Chmod(config, 0o600))
	w.backup(ok, "--config", config, "--source-dir", src, "--backup-dirs", dest)
	// Nobody makes a repository that only this keyring opens, or an open one unasked.
	w.want(refused, "backup", "--config", config, "--source-dir", src, "--backup-dirs", w.path("new")).complaint(t, true, "key")
	// By the configuration it comes last, by the flag first.
	w.env = append(passphrase, bus...)
	for flag, want := range map[string]string{"--keyring": "keyfile", "--no-cache": "passphrase"} {
		_, all := slots(t, w, dest, "--config", config, flag)
		for _, s := range all {
			if s.Current != (s.Kind == want) {
				t.Errorf("%s: slot %s, current %t", flag, s.Kind, s.Current)
			}
		}
	}

	// Another one in its place.
	w.want(failed, "key", "remove", added[:8], "--keyring", "--backup-dirs", dest).complaint(t, true, "cannot remove itself")
	r := w.want(ok, "key", "change", "--keyring", "--backup-dirs", dest)
	second := lookup(env, id)
	if second == first || !strings.Contains(r.out, "removed "+added[:8]) {
		t.Errorf("the key was not changed: %v", r)
	}
	old := w.write([]byte(first), "old")
	w.env = bus
	w.want(failed, "snapshots", "--backup-dirs", dest, "--key-file", old).complaint(t, true, "wrong key")
	_, now = slots(t, w, dest, "--keyring")

	// The entry goes with the slot.
	w.env = append(passphrase, bus...)
	for _, s := range now {
		if s.Label == "keyring" {
			if r := w.want(ok, "key", "remove", s.ID[:8], "--backup-dirs", dest); !strings.Contains(r.out, "entry in the keyring") {
				t.Errorf("%v", r)
			}
		}
	}
	if lookup(env, id) != "" {
		t.Error("the entry is still there")
	}

	// All is on record, and no secret anywhere.
	audit, err := os.ReadFile(w.path("state", "Logs", "audit.log"))
	must(t, err)
	if !strings.Contains(string(audit), `"source":"keyring, entry of repository `+id) {
		t.Error("the audit log does not tell of the key that was loaded")
	}
	log, err := os.ReadFile(w.path("state", "Logs", "application.log"))
	must(t, err)
	if secret := regexp.MustCompile(`BHKEY1|[0-9A-Z]{16}-[0-9A-Z]{16}`); secret.Match(audit) || secret.Match(log) {
		t.Error("a log holds the key")
	}
}

// Without a keyring, or with one that does not answer, it is said, and nothing hangs.
func TestNoKeyring(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	src, dest := w.tree(1, "src"), w.path("repo")
	w.backup(ok, encrypted(src, dest)...)
	passphrase := w.env
	gone := "DBUS_SESSION_BUS_ADDRESS=unix:path=" + w.path("nothing")
	w.env = append(passphrase, gone)
	_, before := slots(t, w, dest)
	w.want(failed, "key", "add", "--keyring", "--backup-dirs", dest).complaint(t, true, "keyring of the operating system cannot be used")
	if _, now := slots(t, w, dest, "--keyring"); len(now) != len(before) { // opened by the passphrase
		t.Errorf("%d slots, were %d", len(now), len(before))
	}
	w.env = []string{gone}
	r := w.want(failed, "snapshots", "--backup-dirs", dest, "--keyring")
	r.complaint(t, true, "keyring of the operating system cannot be used", "wrong key")
	if !strings.Contains(r.errout, "hint: run it in the session of a user who is logged in") {
		t.Errorf("%v", r)
	}

	mute, err := net.Listen("unix", filepath.Join(w.dir, "mute"))
	must(t, err)
	defer mute.Close()
	w.env = []string{"DBUS_SESSION_BUS_ADDRESS=unix:path=" + w.path("mute")}
	c, end := w.start("snapshots", "--backup-dirs", dest, "--keyring")
	_, err = mute.Accept() // it asks, and waits
	must(t, err)
	must(t, c.Process.Signal(syscall.SIGINT))
	if r := end(); r.code != interrupted {
		t.Errorf("%v", r)
	}
}
