package sftp

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// A keyring holds what was asked for once, so that a connection that is made anew
// in the night asks nobody.
type keyring struct {
	options Options

	mu       sync.Mutex
	signers  map[string]ssh.Signer // key file → its key, decrypted
	password *string
}

func newKeyring(options Options) *keyring {
	return &keyring{options: options, signers: map[string]ssh.Signer{}}
}

// A login is how one handshake logs in.
type login struct {
	methods []ssh.AuthMethod
	names   []string // what there is to try, for messages
	err     error    // why something that the server would take failed here
	agent   io.Closer
}

// close ends the connection to the agent, which signs during the handshake only.
func (l *login) close() {
	if l.agent != nil {
		l.agent.Close()
	}
}

func (l *login) tried() string {
	if len(l.names) == 0 {
		return "nothing (there is no key, no agent and no password)"
	}
	return strings.Join(l.names, ", ")
}

// login prepares to log in to a hop. Keys are tried in ssh's order: those named in
// the configuration, those of the agent, those in their usual places.
func (k *keyring) login(ctx context.Context, limit *limit, hop *hop, isTarget bool) (*login, error) {
	l := &login{}
	agentKeys := k.dialAgent(ctx, l)
	var files, signers []ssh.Signer
	named := map[string]bool{} // public keys of identities
	for _, file := range hop.identities {
		key, err := k.loadKey(file)
		if errors.Is(err, fs.ErrNotExist) && file != k.options.KeyFile {
			continue // as ssh does
		}
		if err != nil {
			l.close()
			return nil, err
		}
		named[string(key.public.Marshal())] = true
		if signer := agentKeys[string(key.public.Marshal())]; signer != nil {
			signers = append(signers, signer)
			l.names = append(l.names, "key "+file+" (in the agent)")
			continue
		}
		if key.signer == nil && (!key.encrypted || k.options.Passphrase == nil) {
			l.names = append(l.names, "key "+file+" (not used: "+key.lack()+")")
			continue
		}
		if key.signer == nil {
			key.signer = &lockedKey{ring: k, file: file, public: key.public, ctx: ctx, limit: limit, login: l}
		}
		files = append(files, key.signer)
		l.names = append(l.names, "key "+file)
	}
	if !hop.defaults {
		signers, files = append(signers, files...), nil
	}
	if !hop.only {
		others := 0
		for blob, signer := range agentKeys {
			if !named[blob] {
				signers = append(signers, signer)
				others++
			}
		}
		if others > 0 {
			l.names = append(l.names, fmt.Sprintf("%d other keys in the agent", others))
		}
	}
	if signers = append(signers, files...); len(signers) > 0 {
		l.methods = append(l.methods, ssh.PublicKeys(signers...))
	}
	if isTarget && k.options.Password != nil {
		k.addPassword(ctx, limit, l)
	}
	return l, nil
}

// dialAgent returns the keys of the agent by their public halves. An agent that
// cannot be reached has none: others may do.
func (k *keyring) dialAgent(ctx context.Context, l *login) map[string]ssh.Signer {
	if k.options.AgentSocket == "" {
		return nil
	}
	conn, err := dialAgent(ctx, k.options.AgentSocket)
	if err != nil {
		l.names = append(l.names, "agent (not reachable)")
		return nil
	}
	l.agent = conn
	// An agent that hangs must not hang us: closed when the time is up.
	context.AfterFunc(ctx, func() { conn.Close() })
	signers, err := agent.NewClient(conn).Signers()
	if err != nil {
		l.names = append(l.names, "agent (no answer)")
		return nil
	}
	keys := make(map[string]ssh.Signer, len(signers))
	for _, s := range signers {
		keys[string(s.PublicKey().Marshal())] = s
	}
	return keys
}

// A key is what a file has to say about one.
type key struct {
	public    ssh.PublicKey
	signer    ssh.Signer // nil if it is encrypted, or only the public half is here
	encrypted bool
}

func (k *key) lack() string {
	if k.encrypted {
		return "it needs a passphrase"
	}
	return "only its public half is here, and it is not in the agent"
}

// loadKey reads a key file. Of an encrypted one, or where a key is kept in an agent
// and only its .pub file is here, it finds the public half.
func (k *keyring) loadKey(file string) (*key, error) {
	k.mu.Lock()
	signer := k.signers[file]
	k.mu.Unlock()
	if signer != nil {
		return &key{public: signer.PublicKey(), signer: signer}, nil
	}
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		if public, pubErr := readPublic(file + ".pub"); pubErr == nil {
			return &key{public: public}, nil
		}
	}
	if err != nil {
		return nil, denied("name the private key's file, or put the key into the SSH agent", "read key: %w", err)
	}
	defer clear(data)
	signer, err = ssh.ParsePrivateKey(data)
	if err == nil {
		return &key{public: signer.PublicKey(), signer: signer}, nil
	}
	if missing, ok := errors.AsType[*ssh.PassphraseMissingError](err); ok {
		public := missing.PublicKey
		if public == nil { // an old PEM file
			if public, err = readPublic(file + ".pub"); err != nil {
				return nil, denied("convert it: ssh-keygen -p -f "+shellQuote(file),
					"key %s is encrypted in an old format, and there is no %s.pub", file, file)
			}
		}
		return &key{public: public, encrypted: true}, nil
	}
	if public, _, _, _, pubErr := ssh.ParseAuthorizedKey(data); pubErr == nil {
		return &key{public: public}, nil
	}
	return nil, denied("", "key %s is damaged or of an unknown kind: %w", file, err)
}

func readPublic(file string) (ssh.PublicKey, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	public, _, _, _, err := ssh.ParseAuthorizedKey(data)
	return public, err
}

// A lockedKey is an encrypted key file: its passphrase is asked for only if the
// server would accept the key.
type lockedKey struct {
	ring   *keyring
	file   string
	public ssh.PublicKey
	ctx    context.Context // of the one handshake it is for
	limit  *limit
	login  *login
}

func (k *lockedKey) PublicKey() ssh.PublicKey { return k.public }

func (k *lockedKey) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	return k.SignWithAlgorithm(rand, data, "")
}

// SignWithAlgorithm implements ssh.AlgorithmSigner, without which RSA keys sign by
// SHA-1 only.
func (k *lockedKey) SignWithAlgorithm(rand io.Reader, data []byte, algorithm string) (*ssh.Signature, error) {
	signer, err := k.unlock()
	if err != nil {
		k.login.err = err
		return nil, err
	}
	if s, ok := signer.(ssh.AlgorithmSigner); ok && algorithm != "" {
		return s.SignWithAlgorithm(rand, data, algorithm)
	}
	return signer.Sign(rand, data)
}

func (k *lockedKey) unlock() (ssh.Signer, error) {
	k.ring.mu.Lock() // two connections do not ask at the same time
	defer k.ring.mu.Unlock()
	if signer := k.ring.signers[k.file]; signer != nil {
		return signer, nil
	}
	defer k.limit.pause()()
	passphrase, err := k.ring.options.Passphrase(k.ctx, k.file)
	if err != nil {
		return nil, denied("", "passphrase of key %s: %w", k.file, err)
	}
	data, err := os.ReadFile(k.file)
	if err != nil {
		return nil, denied("", "read key: %w", err)
	}
	defer clear(data)
	signer, err := ssh.ParsePrivateKeyWithPassphrase(data, []byte(passphrase))
	if errors.Is(err, x509.IncorrectPasswordError) {
		return nil, denied("", "wrong passphrase for key %s", k.file)
	}
	if err != nil {
		return nil, denied("", "decrypt key %s: %w", k.file, err)
	}
	if !bytes.Equal(signer.PublicKey().Marshal(), k.public.Marshal()) {
		return nil, denied("write the right one: ssh-keygen -y -f "+shellQuote(k.file), "key %s is not that of its .pub file", k.file)
	}
	k.ring.signers[k.file] = signer
	return signer, nil
}

// addPassword offers the password in both ways in which servers ask for one.
func (k *keyring) addPassword(ctx context.Context, limit *limit, l *login) {
	ask := func() (string, error) {
		password, err := k.askPassword(ctx, limit)
		if err != nil {
			l.err = err
		}
		return password, err
	}
	l.names = append(l.names, "password")
	l.methods = append(l.methods,
		ssh.PasswordCallback(ask),
		ssh.KeyboardInteractive(func(_, _ string, questions []string, echos []bool) ([]string, error) {
			switch {
			case len(questions) == 0:
				return nil, nil
			case len(questions) > 1 || echos[0]:
				// A second factor; or a question whose answer is not secret,
				// which the password is.
				l.err = denied("log in with a key", "the server asks for more than a password (%.100q)", questions)
				return nil, l.err
			}
			password, err := ask()
			return []string{password}, err
		}))
}

func (k *keyring) askPassword(ctx context.Context, limit *limit) (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.password != nil {
		return *k.password, nil
	}
	defer limit.pause()()
	password, err := k.options.Password(ctx)
	if err != nil {
		return "", denied("", "password: %w", err)
	}
	k.password = &password
	return password, nil
}
