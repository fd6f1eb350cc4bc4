package sftp

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/kevinburke/ssh_config"
)

// maxHops bounds the hosts of a route, the target included.
const maxHops = 8

// A hop is one SSH server on the way, with all that the SSH configuration and the
// options have to say about it.
type hop struct {
	host string
	port int
	user string

	// identities are the key files to try. They are named by somebody, or those
	// that ssh tries by itself (defaults); only means no other key, from the agent.
	identities []string
	defaults   bool
	only       bool

	knownHosts []string
}

func (h *hop) address() string { return net.JoinHostPort(h.host, strconv.Itoa(h.port)) }

// peer is the hop in messages.
func (h *hop) peer() string { return h.user + "@" + h.address() }

// command is the call of ssh or sftp that reaches the hop, for hints.
func (h *hop) command(program string) string {
	if h.port == 22 {
		return program + " " + shellQuote(h.user+"@"+h.host)
	}
	flag := "-p"
	if program == "sftp" {
		flag = "-P"
	}
	return fmt.Sprintf("%s %s %d %s", program, flag, h.port, shellQuote(h.user+"@"+h.host))
}

// resolve returns the route to a target: the jump hosts, then the target.
func resolve(target Target, options Options) ([]hop, error) {
	r := resolver{options: options}
	if err := r.read(); err != nil {
		return nil, err
	}
	jump := options.ProxyJump
	if jump == "" {
		var err error
		if jump, err = r.jumpOf(target.Host); err != nil {
			return nil, err
		}
	}
	route, err := r.route(jumpSpec{target.User, target.Host, target.Port}, jump, 0)
	if err != nil {
		return nil, err
	}
	if options.KeyFile != "" {
		last := &route[len(route)-1]
		last.identities, last.defaults, last.only = []string{options.KeyFile}, false, true
	}
	return route, nil
}

// A resolver looks hosts up in the SSH configuration.
type resolver struct {
	options Options
	file    string
	config  *ssh_config.Config // nil if there is none
}

func (r *resolver) read() error {
	r.file = r.options.SSHConfig
	switch {
	case r.file == "none":
		return nil
	case r.file == "" && r.options.Home == "":
		return nil
	case r.file == "":
		r.file = filepath.Join(r.options.Home, ".ssh", "config")
	}
	data, err := os.ReadFile(r.file)
	if errors.Is(err, fs.ErrNotExist) && r.options.SSHConfig == "" {
		return nil
	}
	if err != nil {
		return permanent("check the file's name and permissions", "read SSH configuration: %w", err)
	}
	if r.config, err = ssh_config.DecodeBytes(data); err != nil {
		return permanent("write a configuration for the backup without that line, and name it", "read SSH configuration %s: %w", r.file, err)
	}
	return nil
}

// get returns the first value of a key for a host, as ssh does.
func (r *resolver) get(alias, key string) (string, error) {
	if r.config == nil {
		return "", nil
	}
	v, err := r.config.Get(alias, key)
	if err != nil {
		return "", permanent("", "read SSH configuration %s: %s of %s: %w", r.file, key, alias, err)
	}
	return v, nil
}

// jumpOf returns the ProxyJump of a host, "" for none.
func (r *resolver) jumpOf(alias string) (string, error) {
	jump, err := r.get(alias, "ProxyJump")
	if err != nil || jump != "" {
		return jump, err
	}
	command, err := r.get(alias, "ProxyCommand")
	if err == nil && command != "" && !strings.EqualFold(command, "none") {
		err = permanent("use ProxyJump", "%s has a ProxyCommand for %s, and no command is run from here", r.file, alias)
	}
	return "", err
}

// A jumpSpec names a host as the user does.
type jumpSpec struct {
	user, host string
	port       int
}

// route resolves a host and what leads to it. As in ssh, the first of the jump
// hosts may have some of its own; those of the others are replaced by the list.
func (r *resolver) route(spec jumpSpec, jump string, depth int) ([]hop, error) {
	target, err := r.hop(spec)
	if err != nil {
		return nil, err
	}
	var route []hop
	if jump != "" && !strings.EqualFold(jump, "none") {
		for i, text := range strings.Split(jump, ",") {
			s, err := parseJump(strings.TrimSpace(text))
			if err != nil {
				return nil, permanent("write ProxyJump as user@host:port, separated by commas", "jump host of %s: %w", spec.host, err)
			}
			if s.host == spec.host {
				// "Host *" with a ProxyJump means all others.
				return []hop{target}, nil
			}
			own := ""
			if i == 0 {
				if own, err = r.jumpOf(s.host); err != nil {
					return nil, err
				}
			}
			if depth++; depth >= maxHops {
				return nil, permanent("", "more than %d hosts on the way to %s", maxHops, spec.host)
			}
			hops, err := r.route(s, own, depth)
			if err != nil {
				return nil, err
			}
			route = append(route, hops...)
		}
	}
	return append(route, target), nil
}

func parseJump(text string) (jumpSpec, error) {
	text = strings.TrimPrefix(text, "ssh://")
	var s jumpSpec
	if i := strings.LastIndexByte(text, '@'); i >= 0 {
		s.user, text = text[:i], text[i+1:]
		if !validUser(s.user) || strings.Contains(s.user, ":") {
			return s, errors.New("no valid user")
		}
	}
	s.host = text
	if host, port, err := net.SplitHostPort(text); err == nil {
		s.host = host
		if s.port, err = parsePort(port); err != nil {
			return s, err
		}
	} else {
		s.host = strings.TrimSuffix(strings.TrimPrefix(text, "["), "]")
	}
	if !validHost(s.host) {
		return s, errors.New("no valid host")
	}
	return s, nil
}

// hop resolves one host, without what leads to it.
func (r *resolver) hop(spec jumpSpec) (hop, error) {
	h := hop{host: spec.host, user: spec.user, port: spec.port}
	name, err := r.get(spec.host, "HostName")
	if err != nil {
		return h, err
	}
	if name != "" {
		h.host = strings.NewReplacer("%%", "%", "%h", spec.host).Replace(name)
	}
	if !validHost(h.host) {
		return h, permanent("", "%s: HostName of %s is not valid", r.file, spec.host)
	}
	if h.user == "" {
		if h.user, err = r.get(spec.host, "User"); err != nil {
			return h, err
		}
	}
	if h.user == "" {
		h.user = r.options.LocalUser
	}
	if !validUser(h.user) {
		return h, permanent("write sftp://user@"+spec.host+"/…", "no user to log in as on %s", spec.host)
	}
	if h.port == 0 {
		h.port = 22
		if port, err := r.get(spec.host, "Port"); err != nil {
			return h, err
		} else if port != "" {
			if h.port, err = parsePort(port); err != nil {
				return h, permanent("", "%s: Port of %s: %w", r.file, spec.host, err)
			}
		}
	}
	if err := r.identify(&h, spec.host); err != nil {
		return h, err
	}
	return h, r.know(&h, spec.host)
}

// identify finds the keys for a hop.
func (r *resolver) identify(h *hop, alias string) error {
	only, err := r.get(alias, "IdentitiesOnly")
	if err != nil {
		return err
	}
	h.only = strings.EqualFold(only, "yes") || strings.EqualFold(only, "true")
	if r.config != nil {
		files, err := r.config.GetAll(alias, "IdentityFile")
		if err != nil {
			return permanent("", "read SSH configuration %s: %w", r.file, err)
		}
		for _, file := range files {
			if strings.EqualFold(file, "none") {
				continue
			}
			if file, err = r.expand(file, h, alias); err != nil {
				return err
			}
			h.identities = append(h.identities, file)
		}
		if len(files) > 0 {
			return nil
		}
	}
	h.defaults = true
	if r.options.Home != "" {
		for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
			h.identities = append(h.identities, filepath.Join(r.options.Home, ".ssh", name))
		}
	}
	return nil
}

// know finds the files of host keys for a hop.
func (r *resolver) know(h *hop, alias string) error {
	if len(r.options.KnownHosts) > 0 {
		h.knownHosts = r.options.KnownHosts
		return nil
	}
	files, err := r.get(alias, "UserKnownHostsFile")
	if err != nil {
		return err
	}
	for _, file := range strings.Fields(files) {
		if strings.EqualFold(file, "none") {
			continue
		}
		if file, err = r.expand(file, h, alias); err != nil {
			return err
		}
		h.knownHosts = append(h.knownHosts, file)
	}
	if r.options.Home != "" {
		if files == "" {
			h.knownHosts = append(h.knownHosts, filepath.Join(r.options.Home, ".ssh", "known_hosts"))
		}
		h.knownHosts = append(h.knownHosts, systemKnownHosts)
	}
	return nil
}

// expand replaces ~ and the tokens of ssh_config(5) in the name of a file.
func (r *resolver) expand(file string, h *hop, alias string) (string, error) {
	if rest, ok := strings.CutPrefix(file, "~/"); ok {
		file = "%d/" + rest
	}
	var b strings.Builder
	for i := 0; i < len(file); i++ {
		if file[i] != '%' {
			b.WriteByte(file[i])
			continue
		}
		i++
		if i == len(file) {
			return "", permanent("", "%s: %q of %s ends in a lone %%", r.file, file, alias)
		}
		switch file[i] {
		case '%':
			b.WriteByte('%')
		case 'd':
			if r.options.Home == "" {
				return "", permanent("write the absolute path", "%s: there is no home directory for %q of %s", r.file, file, alias)
			}
			b.WriteString(r.options.Home)
		case 'h':
			b.WriteString(h.host)
		case 'n':
			b.WriteString(alias)
		case 'p':
			b.WriteString(strconv.Itoa(h.port))
		case 'r':
			b.WriteString(h.user)
		case 'u':
			b.WriteString(r.options.LocalUser)
		default:
			return "", permanent("write the path out", "%s: %%%c in %q of %s has no meaning here", r.file, file[i], file, alias)
		}
	}
	return b.String(), nil
}
