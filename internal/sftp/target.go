package sftp

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path"
	"strconv"
	"strings"
)

// A Target is a directory on an SSH server.
type Target struct {
	User string // "" for that of the SSH configuration, else the local one
	Host string // a name, an address, or an alias of the SSH configuration
	Port int    // 0 for that of the SSH configuration, else 22
	// Path is absolute, or begins with "/./" if it is relative to the directory
	// in which the server places the user ("/." is that directory).
	Path string
}

// ParseURL reads the URL of a store, as users of borg and restic know it:
//
//	sftp://user@host:2222/srv/backup	an absolute path
//	sftp://host/./backup	relative to the login directory
//	sftp://host/~/backup	the same
//
// Two slashes after the host are an absolute path as well. Characters of the path
// may be percent-encoded. A password is refused: a URL ends up in process lists,
// shell histories and logs. Errors do not repeat the URL.
func ParseURL(location string) (Target, error) {
	u, err := url.Parse(location)
	if err != nil {
		return Target{}, permanent(urlForm, "malformed sftp URL") // err repeats the URL
	}
	if !strings.EqualFold(u.Scheme, "sftp") {
		return Target{}, permanent(urlForm, "not an sftp URL")
	}
	if _, ok := u.User.Password(); ok {
		return Target{}, permanent("remove it, and use a key or the password setting instead", "sftp URL holds a password")
	}
	if u.Opaque != "" || u.RawQuery != "" || u.ForceQuery || strings.Contains(location, "#") {
		return Target{}, permanent("write ? as %3F and # as %23", "sftp URL has a query or a fragment")
	}
	t := Target{User: u.User.Username(), Host: u.Hostname()}
	if !validHost(t.Host) {
		return Target{}, permanent(urlForm, "sftp URL names no valid host")
	}
	if u.User != nil && !validUser(t.User) {
		return Target{}, permanent(urlForm, "sftp URL names no valid user")
	}
	if port := u.Port(); port != "" {
		if t.Port, err = parsePort(port); err != nil {
			return Target{}, permanent(urlForm, "sftp URL: %w", err)
		}
	} else if strings.HasSuffix(u.Host, ":") {
		return Target{}, permanent(urlForm, "sftp URL names no port after the colon")
	}
	if t.Path, err = parsePath(u.Path); err != nil {
		return Target{}, err
	}
	return t, nil
}

const urlForm = "write sftp://user@host:port/absolute/path, or sftp://host/./path for one in the login directory"

func parsePath(p string) (string, error) {
	if p == "" || strings.ContainsFunc(p, isControl) {
		return "", permanent(urlForm, "sftp URL has no valid path")
	}
	first, rest, _ := strings.Cut(strings.TrimPrefix(p, "/"), "/")
	switch {
	case first == "." || first == "~":
		// Cleaned by itself, so that no .. leads out of the login directory.
		clean := strings.TrimPrefix(path.Clean("/"+rest), "/")
		return strings.TrimSuffix("/./"+clean, "/"), nil
	case strings.HasPrefix(first, "~"):
		return "", permanent("write the absolute path", "sftp URL names the home directory of a user")
	}
	return path.Clean("/" + p), nil
}

// String returns the URL.
func (t Target) String() string {
	u := url.URL{Scheme: "sftp", Host: t.Host, Path: t.Path}
	if t.Port != 0 {
		u.Host = net.JoinHostPort(t.Host, strconv.Itoa(t.Port))
	} else if strings.Contains(t.Host, ":") {
		u.Host = "[" + t.Host + "]"
	}
	if t.User != "" {
		u.User = url.User(t.User)
	}
	return u.String()
}

// remotePath is the path as the server is told: relative ones start where it
// places the user.
func (t Target) remotePath() string {
	if rest, ok := strings.CutPrefix(t.Path, "/."); ok && (rest == "" || rest[0] == '/') {
		return path.Clean("./" + rest)
	}
	return path.Clean(t.Path)
}

func parsePort(s string) (int, error) {
	port, err := strconv.ParseUint(s, 10, 16)
	if err != nil || port == 0 {
		return 0, fmt.Errorf("port %q is not a number from 1 to 65535", s)
	}
	return int(port), nil
}

// validHost excludes what would be more than a host in a message, in known_hosts
// or in a command that a hint suggests.
func validHost(s string) bool {
	if s == "" || s[0] == '-' || len(s) > 255 || strings.ContainsFunc(s, func(r rune) bool {
		return isControl(r) || strings.ContainsRune(" \"'`$&;|<>()[]\\/@,*?!#", r)
	}) {
		return false
	}
	if strings.Contains(s, ":") {
		_, err := netip.ParseAddr(s) // says nothing about the characters of a zone
		return err == nil
	}
	return true
}

func validUser(s string) bool {
	return s != "" && s[0] != '-' && len(s) <= 255 && !strings.ContainsFunc(s, func(r rune) bool {
		return isControl(r) || strings.ContainsRune(" \"'`$&;|<>()/", r)
	})
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f || r == 0xfffd || 0x80 <= r && r < 0xa0 }
