package sftp

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/skeema/knownhosts"
	"golang.org/x/crypto/ssh"
	xknownhosts "golang.org/x/crypto/ssh/knownhosts"
)

// systemKnownHosts holds the host keys of all users of a machine.
const systemKnownHosts = "/etc/ssh/ssh_known_hosts"

// A hostKeyCheck decides on the key of one hop for one handshake. The files are
// read for each, so that a daemon notices when a host becomes known.
type hostKeyCheck struct {
	hop   *hop
	via   string // the jump hosts before it
	db    *knownhosts.HostKeyDB
	files []string // where a host is looked for, whether they exist or not
	home  string
	err   error // why the key was refused
}

func loadHostKeys(hop *hop, via, home string) (*hostKeyCheck, error) {
	check := &hostKeyCheck{hop: hop, via: via, files: hop.knownHosts, home: home}
	var exist []string
	for _, file := range hop.knownHosts {
		if _, err := os.Stat(file); err == nil {
			exist = append(exist, file)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, permanent("", "read known hosts: %w", err)
		}
	}
	db, err := knownhosts.NewDB(exist...)
	if err != nil {
		return nil, permanent("correct that line, or remove it", "read known hosts: %w", err)
	}
	check.db = db
	return check, nil
}

// algorithms are those of the keys that are known: asked for another type, the
// server would show a key that nothing can be said about.
// RSA by SHA-1 is left out; keys of that type sign by SHA-2 as well. A host of which
// nothing is known is asked for a key without a certificate, which is what its
// administrator can compare.
func (c *hostKeyCheck) algorithms() []string {
	if known := c.db.HostKeyAlgorithms(c.hop.address()); len(known) > 0 {
		return slices.DeleteFunc(known, func(a string) bool { return a == ssh.KeyAlgoRSA || a == ssh.CertAlgoRSAv01 })
	}
	return slices.DeleteFunc(ssh.SupportedAlgorithms().HostKeys, func(a string) bool { return strings.Contains(a, "-cert-") })
}

func (c *hostKeyCheck) callback(address string, _ net.Addr, key ssh.PublicKey) error {
	// The address behind the name is not looked up: it may be that of a proxy, and
	// a key that is pinned to the name says more.
	c.err = c.judge(key, c.db.HostKeyCallback()(address, &net.TCPAddr{IP: net.IPv4zero}, key))
	return c.err
}

func (c *hostKeyCheck) judge(key ssh.PublicKey, err error) error {
	if err == nil {
		return nil
	}
	if revoked, ok := errors.AsType[*xknownhosts.RevokedError](err); ok {
		return permanent("do not trust this server until its administrator has explained",
			"host key of %s is revoked by %s line %d", c.hop.address(), revoked.Revoked.Filename, revoked.Revoked.Line)
	}
	keyErr, ok := errors.AsType[*xknownhosts.KeyError](err)
	switch {
	case !ok:
		return permanent("", "host key of %s: %w", c.hop.address(), err)
	case len(keyErr.Want) > 0:
		return c.changed(keyErr.Want, fmt.Sprintf("the server shows %s %s", key.Type(), ssh.FingerprintSHA256(key)))
	}
	fingerprint := key.Type() + " " + ssh.FingerprintSHA256(key)
	return permanent(c.addHint()+", then compare the fingerprint "+ssh.FingerprintSHA256(key)+" with the server's",
		"host key of %s is not known (%s)", c.hop.address(), fingerprint)
}

// changed says which lines of known_hosts are contradicted.
func (c *hostKeyCheck) changed(want []xknownhosts.KnownKey, instead string) error {
	slices.SortFunc(want, func(a, b xknownhosts.KnownKey) int {
		if d := strings.Compare(a.Filename, b.Filename); d != 0 {
			return d
		}
		return a.Line - b.Line
	})
	var known []string
	for _, k := range want {
		known = append(known, fmt.Sprintf("%s line %d has %s %s", k.Filename, k.Line, k.Key.Type(), ssh.FingerprintSHA256(k.Key)))
	}
	name := c.hop.host
	if c.hop.port != 22 {
		name = "[" + name + "]:" + strconv.Itoa(c.hop.port)
	}
	return permanent(fmt.Sprintf("somebody may be listening in; only if you know that the server has a new key: ssh-keygen -R %s -f %s",
		shellQuote(name), shellQuote(want[0].Filename)),
		"HOST KEY OF %s HAS CHANGED: %s, %s", c.hop.address(), strings.Join(known, "; "), instead)
}

// negotiationError explains why there was no handshake. If a key of the host is
// known and the server has none of its type any more, that is a changed key.
func (c *hostKeyCheck) negotiationError(err *ssh.AlgorithmNegotiationError) error {
	if known := c.known(); err.What == "host key" && len(known) > 0 {
		return c.changed(known, "the server has none of this type, but "+strings.Join(err.RequestedAlgorithms, ", "))
	}
	return permanent("", "connect to %s: %w", c.hop.peer(), err)
}

// known are the keys of the host in known_hosts.
func (c *hostKeyCheck) known() []xknownhosts.KnownKey {
	// A key that cannot be that of any host is answered by all that are known.
	err := c.db.HostKeyCallback()(c.hop.address(), &net.TCPAddr{IP: net.IPv4zero}, noKey{})
	if keyErr, ok := errors.AsType[*xknownhosts.KeyError](err); ok {
		return keyErr.Want
	}
	return nil
}

type noKey struct{}

func (noKey) Type() string                        { return "none" }
func (noKey) Marshal() []byte                     { return []byte("none") }
func (noKey) Verify([]byte, *ssh.Signature) error { return errors.New("no key") }

// addHint is the command that makes the host known.
func (c *hostKeyCheck) addHint() string {
	file := "~/.ssh/known_hosts"
	if len(c.files) > 0 && (c.home == "" || c.files[0] != filepath.Join(c.home, ".ssh", "known_hosts")) {
		file = shellQuote(c.files[0])
	}
	if c.via != "" { // ssh-keyscan knows no jump hosts
		return fmt.Sprintf("ssh -o UserKnownHostsFile=%s -J %s %s", file, shellQuote(c.via), strings.TrimPrefix(c.hop.command("ssh"), "ssh "))
	}
	port := ""
	if c.hop.port != 22 {
		port = fmt.Sprintf("-p %d ", c.hop.port)
	}
	return fmt.Sprintf("ssh-keyscan %s%s >> %s", port, shellQuote(c.hop.host), file)
}

// shellQuote quotes an argument for a POSIX shell, if it needs that.
func shellQuote(s string) string {
	plain := s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("@%+=:,./_-", r))
	})
	if plain {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
