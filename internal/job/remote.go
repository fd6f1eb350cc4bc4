package job

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/user"
	"path"
	"runtime"
	"strings"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/azure"
	"github.com/SP1R4/BackupHandler/v3/internal/config"
	"github.com/SP1R4/BackupHandler/v3/internal/gcs"
	"github.com/SP1R4/BackupHandler/v3/internal/location"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/s3"
	"github.com/SP1R4/BackupHandler/v3/internal/sftp"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

// Dial makes connections to other machines.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// stores says how stores on this and other machines are reached. What is only
// needed by one kind of store is read when the first of that kind is opened.
func stores(cfg *config.Config, o AccessOptions) (*location.Settings, error) {
	n, err := cfg.Network()
	if err != nil {
		return nil, err
	}
	var connect func(context.Context) error
	if o.Tailnet != nil {
		o.Dial, connect = o.Tailnet.Dial, func(ctx context.Context) error { return join(ctx, o.Tailnet) }
	}
	spare := new(sftp.Spare)
	return &location.Settings{
		Connect: connect,

		SFTP: func() (sftp.Options, storage.Limits, error) {
			so, limits, err := sftpOptions(cfg, o, n.Stall)
			so.Spare = spare
			return so, limits, err
		},
		S3:    func() (s3.Options, storage.Limits, error) { return s3Options(cfg, o, n.Stall) },
		GCS:   func() (gcs.Options, error) { return gcsOptions(cfg, o, n.Stall) },
		Azure: func() (azure.Options, error) { return azureOptions(cfg, o, n.Stall) },
		Remote: storage.RemoteOptions{
			Limits: o.Limits, Patience: n.RetryFor, Stall: n.Stall,
			OnRetry: func(what string, err error, wait time.Duration) {
				if o.OnRetry == nil {
					return
				}
				if what != "" {
					what += ": "
				}
				o.OnRetry(fmt.Sprintf("%s%v; once more in %s", what, err, wait.Round(100*time.Millisecond)))
			},
		},
	}, nil
}

// both is a rate in each direction; the limit of each store that is opened.
func both(bytesPerSecond int64) storage.Limits {
	return storage.Limits{Upload: storage.NewRate(bytesPerSecond), Download: storage.NewRate(bytesPerSecond)}
}

func sftpOptions(cfg *config.Config, o AccessOptions, stall time.Duration) (sftp.Options, storage.Limits, error) {
	c, err := cfg.SSH()
	if err != nil {
		return sftp.Options{}, storage.Limits{}, err
	}
	so := sftp.Options{
		SSHConfig: c.SSHConfig, ProxyJump: c.ProxyJump, KeyFile: c.KeyFile, Connections: c.Connections, Dial: o.Dial,
		User: c.Username, Port: c.Port,
	}
	// Whoever lets transfers stand still for less than usual waits less for the
	// rest, too. A connection is given up after three times KeepAlive.
	if stall > 0 {
		so.ConnectTimeout = min(stall, sftp.DefaultConnectTimeout)
		so.KeepAlive = min(stall/3, sftp.DefaultKeepAlive)
		so.AnswerTimeout = min(stall, sftp.DefaultAnswerTimeout)
	}
	so.Home, _ = o.Env("HOME")
	if so.Home == "" {
		so.Home, _ = os.UserHomeDir()
	}
	if u, err := user.Current(); err == nil {
		so.LocalUser = u.Username
		if i := strings.LastIndexByte(u.Username, '\\'); runtime.GOOS == "windows" && i >= 0 {
			so.LocalUser = u.Username[i+1:]
		}
	}
	if so.AgentSocket, _ = o.Env("SSH_AUTH_SOCK"); so.AgentSocket == "" && runtime.GOOS == "windows" {
		so.AgentSocket = `\\.\pipe\openssh-ssh-agent`
	}
	if c.KnownHosts != "" {
		so.KnownHosts = []string{c.KnownHosts}
	}
	if c.Password.IsSet() || o.Prompt != nil {
		so.Password = func(context.Context) (string, error) {
			return secretOrPrompt(c.Password, o.Prompt, "Password of the SSH server")
		}
	}
	if c.KeyPassphrase.IsSet() || o.Prompt != nil {
		so.Passphrase = func(_ context.Context, file string) (string, error) {
			return secretOrPrompt(c.KeyPassphrase, o.Prompt, "Passphrase of "+file)
		}
	}
	return so, both(c.Bandwidth), nil
}

// secretOrPrompt is what the configuration says, or somebody at the terminal.
func secretOrPrompt(l config.Lazy[config.SecretString], prompt func(string, bool) ([]byte, error), question string) (string, error) {
	if l.IsSet() {
		s, err := l.Get()
		return s.Reveal(), err
	}
	text, err := prompt(question, false)
	return string(text), err
}

func s3Options(cfg *config.Config, o AccessOptions, stall time.Duration) (s3.Options, storage.Limits, error) {
	c, err := cfg.S3()
	if err != nil {
		return s3.Options{}, storage.Limits{}, err
	}
	so := s3.Options{
		Endpoint: c.Endpoint, Region: c.Region, CAFile: c.CAFile, KMSKey: c.KMSKeyID,
		MaxConcurrency: c.MaxConcurrency, Dial: o.Dial, Stall: stall, First: repo.FirstListed, OnRequest: o.OnRequest,
	}
	if c.PathStyle != "auto" {
		so.PathStyle = s3.PathStyle(c.PathStyle)
	}
	if c.StorageClass != "" {
		so.StorageClasses = packsOnly(c.StorageClass)
	}
	switch c.SSE {
	case "s3":
		so.Encryption = s3.EncryptionS3
	case "kms":
		so.Encryption = s3.EncryptionKMS
	}
	if c.ObjectLock != "off" {
		so.Lock = s3.Lock{Mode: s3.LockMode(strings.ToUpper(c.ObjectLock)), Days: c.LockDays}
	}
	so.Credentials.Profile = c.Profile
	if so.Credentials.AccessKey, err = reveal(c.AccessKey); err != nil {
		return so, storage.Limits{}, err
	}
	if so.Credentials.SecretKey, err = reveal(c.SecretKey); err != nil {
		return so, storage.Limits{}, err
	}
	so.Credentials.SessionToken, err = reveal(c.SessionToken)
	return so, both(c.Bandwidth), err
}

// packsOnly keeps a colder storage class from what is read by every run.
func packsOnly(class string) map[string]string { return map[string]string{"packs": class} }

func reveal(l config.Lazy[config.SecretString]) (string, error) {
	s, err := l.Get()
	return s.Reveal(), err
}

func gcsOptions(cfg *config.Config, o AccessOptions, stall time.Duration) (gcs.Options, error) {
	c, err := cfg.GCS()
	so := gcs.Options{
		Endpoint: c.Endpoint, Credentials: gcs.Credentials{File: c.CredentialsFile},
		Dial: o.Dial, Stall: stall, First: repo.FirstListed, OnRequest: o.OnRequest, Getenv: getenv(o.Env),
	}
	if c.StorageClass != "" {
		so.StorageClasses = packsOnly(c.StorageClass)
	}
	return so, err
}

func azureOptions(cfg *config.Config, o AccessOptions, stall time.Duration) (azure.Options, error) {
	c, err := cfg.Azure()
	if err != nil {
		return azure.Options{}, err
	}
	so := azure.Options{
		Account: c.Account, Endpoint: c.Endpoint,
		Dial: o.Dial, Stall: stall, First: repo.FirstListed, OnRequest: o.OnRequest, Getenv: getenv(o.Env),
	}
	if c.StorageClass != "" {
		so.StorageClasses = packsOnly(c.StorageClass)
	}
	if so.Credentials.Key, err = reveal(c.AccountKey); err != nil {
		return so, err
	}
	so.Credentials.SAS, err = reveal(c.SASToken)
	return so, err
}

func getenv(env func(string) (string, bool)) func(string) string {
	return func(name string) string {
		v, _ := env(name)
		return v
	}
}

// ServerLocation is the location of the repository on a server of [SSH]
// ssh_servers: host, host:port or user@host:port, or a location already.
func ServerLocation(server string, c config.SSH) (string, error) {
	if location.IsURL(server) {
		return server, nil
	}
	u := url.URL{Scheme: "sftp", Host: server, Path: "/./" + c.RemoteDir}
	if path.IsAbs(c.RemoteDir) {
		u.Path = c.RemoteDir
	}
	if i := strings.LastIndexByte(server, '@'); i >= 0 {
		u.User, u.Host = url.User(server[:i]), server[i+1:]
		if strings.Contains(server[:i], ":") { // not repeated
			return "", fmt.Errorf("SSH server …@%s: the name of a server must not hold a password: set [SSH] password", u.Host)
		}
	}
	if strings.Count(u.Host, ":") > 1 && !strings.HasPrefix(u.Host, "[") {
		u.Host = "[" + u.Host + "]"
	}
	if _, err := sftp.ParseURL(u.String()); err != nil {
		return "", fmt.Errorf("SSH server %q: want host, host:port or user@host:port", server)
	}
	return u.String(), nil
}

// BucketLocation is the location of the repository in [S3] bucket. It is kept apart
// from what BackupHandler 2.5 stored at the same prefix.
func BucketLocation(c config.S3) (string, error) {
	if c.Bucket == "" {
		return "", errors.New("no bucket is given: set [S3] bucket")
	}
	l := "s3://" + c.Bucket + "/" + path.Join(strings.Trim(c.Prefix, "/"), SubDir)
	_, err := s3.ParseURL(l)
	return l, err
}
