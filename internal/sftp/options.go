package sftp

import (
	"context"
	"net"
	"time"
)

// Options say how to reach a server and log in. The zero Options use no secret and
// no file: a store opened with them can reach no host, since none is known. What
// is set here wins over the SSH configuration.
type Options struct {
	// Home is the directory that "~" means; with it come its .ssh/config,
	// .ssh/known_hosts and .ssh/id_* where they exist. "" leaves all these out.
	Home string
	// User and Port stand in for what a Target does not say; "" and 0 leave it to the
	// SSH configuration.
	User string
	Port int
	// LocalUser is who logs in if nothing else says.
	LocalUser string

	// SSHConfig is a file in the form of ~/.ssh/config, which must exist; "" means
	// that in Home, and "none" no file at all. Of it count Host, Match host and
	// Match all, Include, HostName, Port, User, IdentityFile, IdentitiesOnly,
	// UserKnownHostsFile and ProxyJump.
	SSHConfig string
	// ProxyJump lists the hosts to go through, as that setting does:
	// user@host:port, separated by commas. "none" goes straight.
	ProxyJump string

	// KeyFile is the private key to log in with; then no other is tried. Its agent
	// may hold it instead.
	KeyFile string
	// Passphrase returns that of a key file, if one that the server would accept
	// turns out to need it. nil leaves out such files.
	Passphrase func(ctx context.Context, keyFile string) (string, error)
	// Password returns the password, if the server asks for one. nil means none.
	// Jump hosts do not get it.
	Password func(ctx context.Context) (string, error)
	// AgentSocket is where the SSH agent listens (SSH_AUTH_SOCK; on Windows
	// \\.\pipe\openssh-ssh-agent). "" means no agent.
	AgentSocket string

	// KnownHosts are the files that hold the keys of hosts. Empty means those of
	// the SSH configuration, else that in Home, and the one of the system
	// (/etc/ssh/ssh_known_hosts). A file that does not exist is empty.
	KnownHosts []string

	// Connections is the most connections to hold at a time, by default
	// DefaultConnections. Further ones are made as calls overlap, and a second session on
	// each when all are in use.
	Connections int
	// ConnectTimeout bounds the time from the first packet to a usable session, by
	// default 30 s; questions to the user do not count.
	ConnectTimeout time.Duration
	// KeepAlive is how long a connection may be silent before it is asked for a
	// sign of life, by default 15 s; without one for three times that it is lost.
	KeepAlive time.Duration
	// AnswerTimeout is how long requests may wait while the SFTP server answers
	// none, by default 2 min: longer than sleeping disks and slow flushes take.
	AnswerTimeout time.Duration

	// Spare, if set, hands the connection of an Open that found no store to the next
	// Open or Create on that server.
	Spare *Spare

	// Dial makes the connection to the first host; nil means net.Dialer's.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Defaults of Options.
const (
	// DefaultConnections: one connection keeps one core busy on either side with its
	// cipher, and each of the two sessions on it moves at most its window of 2 MiB per round
	// trip, whatever the line could do. Four are far from what servers refuse (MaxStartups
	// 10, or six within half a minute behind 'ufw limit'). Numbers: docs/adr/0014-sftp.md.
	DefaultConnections = 4

	// maxConnections keeps a mistake from looking like an attack.
	maxConnections = 16

	DefaultConnectTimeout = 30 * time.Second
	DefaultKeepAlive      = 15 * time.Second
	DefaultAnswerTimeout  = 2 * time.Minute
)

func (o Options) withDefaults() Options {
	if o.Connections <= 0 {
		o.Connections = DefaultConnections
	}
	o.Connections = min(o.Connections, maxConnections)
	if o.ConnectTimeout <= 0 {
		o.ConnectTimeout = DefaultConnectTimeout
	}
	if o.KeepAlive <= 0 {
		o.KeepAlive = DefaultKeepAlive
	}
	if o.AnswerTimeout <= 0 {
		o.AnswerTimeout = DefaultAnswerTimeout
	}
	if o.Dial == nil {
		o.Dial = new(net.Dialer).DialContext
	}
	return o
}
