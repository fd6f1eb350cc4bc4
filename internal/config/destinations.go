package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Modes say which kinds of destinations and sources are in use.
type Modes struct {
	// Local is on wherever the file does not say otherwise: files of this version
	// need no [MODES] for directories and addresses.
	Local, SSH, S3 bool
	// DB is on where [DATABASE] has databases and the file does not say otherwise.
	DB bool
}

// Modes returns the section [MODES].
func (c *Config) Modes() (Modes, error) {
	var r reader
	m := Modes{
		Local: get(&r, c.Value("MODES", "local"), Value.Bool),
		SSH:   get(&r, c.Value("MODES", "ssh"), Value.Bool),
		S3:    get(&r, c.Value("MODES", "s3"), Value.Bool),
		DB:    get(&r, c.Value("MODES", "db"), Value.Bool),
	}
	if !c.Value("MODES", "db").IsSet() {
		m.DB = true
	}
	if !c.Value("MODES", "local").IsSet() {
		m.Local = true
	}
	return m, r.err
}

// SSH says how SSH servers are reached. What is secret is read when a server asks
// for it.
type SSH struct {
	Servers       []string // host, host:port or user@host:port
	Username      string
	Password      Lazy[SecretString]
	Port          int    // 0: not set
	KeyFile       string // absolute path; "": not set
	KeyPassphrase Lazy[SecretString]
	RemoteDir     string
	KnownHosts    string // absolute path; "": not set
	SSHConfig     string // absolute path; "": not set
	ProxyJump     string
	Connections   int
	Bandwidth     int64 // bytes per second, for each server; 0 is no limit
}

// SSH returns the section [SSH].
func (c *Config) SSH() (SSH, error) {
	var r reader
	s := SSH{
		Servers:       get(&r, c.Value("SSH", "ssh_servers"), Value.List),
		Username:      get(&r, c.Value("SSH", "username"), Value.Text),
		Password:      Lazy[SecretString]{c.Value("SSH", "password"), Value.Secret},
		Port:          int(get(&r, c.Value("SSH", "port"), Value.Int)),
		KeyFile:       get(&r, c.Value("SSH", "key_file"), Value.Path),
		KeyPassphrase: Lazy[SecretString]{c.Value("SSH", "key_passphrase"), Value.Secret},
		RemoteDir:     get(&r, c.Value("SSH", "remote_dir"), Value.Text),
		SSHConfig:     get(&r, c.Value("SSH", "ssh_config"), Value.Path),
		ProxyJump:     get(&r, c.Value("SSH", "proxy_jump"), Value.Text),
		Connections:   int(get(&r, c.Value("SSH", "connections"), Value.Int)),
		Bandwidth:     get(&r, c.Value("SSH", "bandwidth_limit"), Value.Int) << 10,
	}
	if v := c.Value("SSH", "known_hosts"); v.IsSet() {
		s.KnownHosts = get(&r, v, Value.Path)
	}
	return s, r.err
}

// S3 says how buckets are reached.
type S3 struct {
	Bucket, Prefix   string // of the destination of [MODES] s3
	Region, Endpoint string
	PathStyle        string // "auto", "on" or "off"
	AccessKey        Lazy[SecretString]
	SecretKey        Lazy[SecretString]
	SessionToken     Lazy[SecretString]
	Profile          string
	CAFile           string // absolute path
	StorageClass     string // of packs
	SSE              string // "off", "s3" or "kms"
	KMSKeyID         string
	ObjectLock       string // "off", "governance" or "compliance"
	LockDays         int
	Bandwidth        int64 // bytes per second; 0 is no limit
	MaxConcurrency   int
}

// S3 returns the section [S3].
func (c *Config) S3() (S3, error) {
	var r reader
	return S3{
		Bucket:         get(&r, c.Value("S3", "bucket"), Value.Text),
		Prefix:         get(&r, c.Value("S3", "prefix"), Value.Text),
		Region:         get(&r, c.Value("S3", "region"), Value.Text),
		Endpoint:       get(&r, c.Value("S3", "endpoint"), Value.Text),
		PathStyle:      get(&r, c.Value("S3", "path_style"), Value.Text),
		AccessKey:      Lazy[SecretString]{c.Value("S3", "access_key"), Value.Secret},
		SecretKey:      Lazy[SecretString]{c.Value("S3", "secret_key"), Value.Secret},
		SessionToken:   Lazy[SecretString]{c.Value("S3", "session_token"), Value.Secret},
		Profile:        get(&r, c.Value("S3", "profile"), Value.Text),
		CAFile:         get(&r, c.Value("S3", "ca_file"), Value.Path),
		StorageClass:   get(&r, c.Value("S3", "storage_class"), Value.Text),
		SSE:            get(&r, c.Value("S3", "sse"), Value.Text),
		KMSKeyID:       get(&r, c.Value("S3", "kms_key_id"), Value.Text),
		ObjectLock:     get(&r, c.Value("S3", "object_lock"), Value.Text),
		LockDays:       int(get(&r, c.Value("S3", "lock_days"), Value.Int)),
		Bandwidth:      get(&r, c.Value("S3", "max_bandwidth"), Value.Int) << 10,
		MaxConcurrency: int(get(&r, c.Value("S3", "max_concurrency"), Value.Int)),
	}, r.err
}

// GCS says how Google Cloud Storage is reached.
type GCS struct {
	CredentialsFile string // absolute path
	Endpoint        string
	StorageClass    string // of packs
}

// GCS returns the section [GCS].
func (c *Config) GCS() (GCS, error) {
	var r reader
	return GCS{
		CredentialsFile: get(&r, c.Value("GCS", "credentials_file"), Value.Path),
		Endpoint:        get(&r, c.Value("GCS", "endpoint"), Value.Text),
		StorageClass:    get(&r, c.Value("GCS", "storage_class"), Value.Text),
	}, r.err
}

// Azure says how Azure Blob Storage is reached.
type Azure struct {
	Account      string
	AccountKey   Lazy[SecretString]
	SASToken     Lazy[SecretString]
	Endpoint     string
	StorageClass string // access tier of packs
}

// Azure returns the section [AZURE].
func (c *Config) Azure() (Azure, error) {
	var r reader
	return Azure{
		Account:      get(&r, c.Value("AZURE", "account"), Value.Text),
		AccountKey:   Lazy[SecretString]{c.Value("AZURE", "account_key"), Value.Secret},
		SASToken:     Lazy[SecretString]{c.Value("AZURE", "sas_token"), Value.Secret},
		Endpoint:     get(&r, c.Value("AZURE", "endpoint"), Value.Text),
		StorageClass: get(&r, c.Value("AZURE", "storage_class"), Value.Text),
	}, r.err
}

// Network says how patient the program is with other machines.
type Network struct {
	RetryFor    time.Duration
	Stall       time.Duration
	MaxDuration time.Duration // of a run; 0 is no limit
}

// Network returns the section [NETWORK].
func (c *Config) Network() (Network, error) {
	var r reader
	return Network{
		RetryFor:    get(&r, c.Value("NETWORK", "retry_for"), Value.Duration),
		Stall:       get(&r, c.Value("NETWORK", "stall_timeout"), Value.Duration),
		MaxDuration: get(&r, c.Value("NETWORK", "max_duration"), Value.Duration),
	}, r.err
}

// A RatePeriod is a rate that holds for a part of each day. From and To are
// durations since midnight, local time; To at or before From is on the next day.
type RatePeriod struct {
	From, To       time.Duration
	BytesPerSecond int64 // 0 is no limit
}

// Schedule returns a Schedule.
func (v Value) Schedule() ([]RatePeriod, error) {
	text, err := v.resolve(Schedule)
	if err != nil || text == "" {
		return nil, err
	}
	items, err := splitList(text)
	if err != nil {
		return nil, v.errorf("%v", err)
	}
	var all []RatePeriod
	for _, item := range items {
		p, err := parseRatePeriod(item)
		if err != nil {
			return nil, v.errorf("%v", err)
		}
		all = append(all, p)
	}
	return all, nil
}

// maxRateKiB bounds a rate so that it fits in bytes.
const maxRateKiB = 1 << 40

func parseRatePeriod(item string) (RatePeriod, error) {
	bad := errors.New("must be times and rates in KiB/s such as 08:00-18:00 500")
	f := strings.Fields(item)
	if len(f) != 2 {
		return RatePeriod{}, bad
	}
	from, to, ok := strings.Cut(f[0], "-")
	rate, err := strconv.ParseInt(f[1], 10, 64)
	if !ok || err != nil || rate < 0 {
		return RatePeriod{}, bad
	}
	if rate > maxRateKiB {
		return RatePeriod{}, fmt.Errorf("rate %d KiB/s is too large", rate)
	}
	p := RatePeriod{BytesPerSecond: rate << 10}
	if p.From, err = sinceMidnight(from); err == nil {
		p.To, err = sinceMidnight(to)
	}
	return p, err
}

func sinceMidnight(text string) (time.Duration, error) {
	if text == "24:00" {
		return 24 * time.Hour, nil
	}
	text, err := parseTime(text)
	if err != nil {
		return 0, err
	}
	t, err := time.Parse("15:04", text)
	return time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute, err
}

// Tailscale says how a tailnet is joined.
type Tailscale struct {
	Enabled         bool
	Mode            string // "userspace" or "system"
	AuthKey         Lazy[SecretString]
	AuthKeyFile     string // absolute path
	Hostname        string
	Tags            []string
	AcceptRoutes    bool
	DisconnectAfter bool
	ControlURL      string
}

// Tailscale returns the section [TAILSCALE].
func (c *Config) Tailscale() (Tailscale, error) {
	var r reader
	return Tailscale{
		Enabled:         get(&r, c.Value("TAILSCALE", "enabled"), Value.Bool),
		Mode:            get(&r, c.Value("TAILSCALE", "mode"), Value.Text),
		AuthKey:         Lazy[SecretString]{c.Value("TAILSCALE", "auth_key"), Value.Secret},
		AuthKeyFile:     get(&r, c.Value("TAILSCALE", "auth_key_file"), Value.Path),
		Hostname:        get(&r, c.Value("TAILSCALE", "hostname"), Value.Text),
		Tags:            get(&r, c.Value("TAILSCALE", "advertise_tags"), Value.List),
		AcceptRoutes:    get(&r, c.Value("TAILSCALE", "accept_routes"), Value.Bool),
		DisconnectAfter: get(&r, c.Value("TAILSCALE", "disconnect_after"), Value.Bool),
		ControlURL:      get(&r, c.Value("TAILSCALE", "control_url"), Value.Text),
	}, r.err
}
