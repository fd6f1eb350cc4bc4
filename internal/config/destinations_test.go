package config

import (
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestModes(t *testing.T) {
	for text, want := range map[string]Modes{
		"":                             {Local: true, DB: true},
		"[MODES]\nssh = True\n":        {Local: true, SSH: true, DB: true},
		"[MODES]\nlocal = False\n":     {DB: true},
		"[MODES]\nlocal = off\ns3=1\n": {S3: true, DB: true},
		"[MODES]\ndb = False\n":        {Local: true},
		"[MODES]\nlocal = yes\n":       {Local: true, DB: true},
		"[MODES]\nlocal = None\n":      {Local: true, DB: true}, // 2.5's word for unset
	} {
		c, _ := mustRead(t, text, envOf())
		wantEqual(t, text, must[Modes](t)(c.Modes()), want)
	}
}

func TestSSH(t *testing.T) {
	c, _ := mustRead(t, "", envOf("HOME", "/home/ann"))
	s := must[SSH](t)(c.SSH())
	if s.Password.IsSet() || s.KeyPassphrase.IsSet() {
		t.Error("secrets are set by themselves")
	}
	s.Password, s.KeyPassphrase = Lazy[SecretString]{}, Lazy[SecretString]{}
	if want := (SSH{RemoteDir: "backup-handler", Connections: 4}); !reflect.DeepEqual(s, want) {
		t.Errorf("defaults: %+v, want %+v", s, want)
	}

	c, _ = mustRead(t, `[SSH]
ssh_servers = one.example, ann@[::1]:2222
username = ann
password = ${PW}
port = 2200
key_file = ~/.ssh/id_backup
key_passphrase = ${MISSING}
remote_dir = /srv/backup
known_hosts = known
ssh_config = /etc/ssh/other
proxy_jump = gate
connections = 0
bandwidth_limit = 500
`, envOf("HOME", "/home/ann", "PW", "hush"))
	s = must[SSH](t)(c.SSH())
	if pw := must[SecretString](t)(s.Password.Get()); pw.Reveal() != "hush" {
		t.Error("another password")
	}
	if _, err := s.KeyPassphrase.Get(); err == nil || !strings.Contains(err.Error(), "MISSING is not set") {
		t.Errorf("a variable that is not set: %v", err)
	}
	s.Password, s.KeyPassphrase = Lazy[SecretString]{}, Lazy[SecretString]{}
	want := SSH{
		Servers: []string{"one.example", "ann@[::1]:2222"}, Username: "ann", Port: 2200,
		KeyFile: filepath.FromSlash("/home/ann/.ssh/id_backup"), RemoteDir: "/srv/backup", KnownHosts: abs(t, "known"),
		SSHConfig: abs(t, "/etc/ssh/other"), ProxyJump: "gate", Connections: 1, Bandwidth: 500 << 10,
	}
	if !reflect.DeepEqual(s, want) {
		t.Errorf("got %+v\nwant %+v", s, want)
	}
}

func TestObjectStores(t *testing.T) {
	c, _ := mustRead(t, "", envOf())
	s := must[S3](t)(c.S3())
	if s.PathStyle != "auto" || s.SSE != "off" || s.ObjectLock != "off" || s.LockDays != 30 || s.MaxConcurrency != 10 || s.Bandwidth != 0 || s.AccessKey.IsSet() {
		t.Errorf("defaults of S3: %+v", s)
	}
	c, _ = mustRead(t, `[S3]
bucket = b
prefix = p/q
region = eu-1
endpoint = https://s3.example
path_style = ON
access_key = ${KEY}
secret_key = ${KEY}
session_token = ${KEY}
profile = nightly
ca_file = /ca.pem
storage_class = STANDARD_IA
sse = kms
kms_key_id = k
object_lock = Compliance
lock_days = 7
max_bandwidth = 10
max_concurrency = 3
[GCS]
credentials_file = /gcs.json
endpoint = http://gcs
storage_class = NEARLINE
[AZURE]
account = acc
account_key = ${KEY}
sas_token = ${MISSING}
endpoint = http://azure
storage_class = Cool
`, envOf("KEY", "hush"))
	s = must[S3](t)(c.S3())
	for _, l := range []Lazy[SecretString]{s.AccessKey, s.SecretKey, s.SessionToken} {
		if v := must[SecretString](t)(l.Get()); v.Reveal() != "hush" {
			t.Error("another secret")
		}
	}
	s.AccessKey, s.SecretKey, s.SessionToken = Lazy[SecretString]{}, Lazy[SecretString]{}, Lazy[SecretString]{}
	if want := (S3{
		Bucket: "b", Prefix: "p/q", Region: "eu-1", Endpoint: "https://s3.example", PathStyle: "on", Profile: "nightly", CAFile: abs(t, "/ca.pem"),
		StorageClass: "STANDARD_IA", SSE: "kms", KMSKeyID: "k", ObjectLock: "compliance", LockDays: 7, Bandwidth: 10 << 10, MaxConcurrency: 3,
	}); !reflect.DeepEqual(s, want) {
		t.Errorf("S3: got %+v\nwant %+v", s, want)
	}
	wantEqual(t, "GCS", must[GCS](t)(c.GCS()), GCS{abs(t, "/gcs.json"), "http://gcs", "NEARLINE"})
	a := must[Azure](t)(c.Azure())
	if v := must[SecretString](t)(a.AccountKey.Get()); v.Reveal() != "hush" || a.Account != "acc" || a.Endpoint != "http://azure" || a.StorageClass != "Cool" {
		t.Errorf("Azure: %+v", a)
	}
	if _, err := a.SASToken.Get(); err == nil {
		t.Error("a variable that is not set is no error")
	}
}

func TestNetwork(t *testing.T) {
	c, _ := mustRead(t, "", envOf())
	wantEqual(t, "defaults", must[Network](t)(c.Network()), Network{RetryFor: 15 * time.Minute, Stall: 2 * time.Minute})
	c, _ = mustRead(t, "[NETWORK]\nretry_for = 90\nstall_timeout = 1m30s\nmax_duration = 6h\n", envOf())
	wantEqual(t, "set", must[Network](t)(c.Network()), Network{90 * time.Second, 90 * time.Second, 6 * time.Hour})
}

func TestSchedule(t *testing.T) {
	at := func(h, m int) time.Duration { return time.Duration(h)*time.Hour + time.Duration(m)*time.Minute }
	for text, want := range map[string][]RatePeriod{
		"":                                  nil,
		"08:00-18:00 500":                   {{at(8, 0), at(18, 0), 500 << 10}},
		"08:00-18:00 500, 22:00-06:30 0":    {{at(8, 0), at(18, 0), 500 << 10}, {at(22, 0), at(6, 30), 0}},
		"0:00-24:00\t1":                     {{0, at(24, 0), 1 << 10}},
		"08:00-18:00   500\n 18:00-20:00 1": {{at(8, 0), at(18, 0), 500 << 10}, {at(18, 0), at(20, 0), 1 << 10}},
	} {
		c, _ := mustRead(t, "[LIMITS]\nlimit_schedule = "+text+"\n", envOf())
		l, err := c.Limits()
		if err != nil || !reflect.DeepEqual(l.Schedule, want) {
			t.Errorf("%q: %v, %v, want %v", text, l.Schedule, err, want)
		}
	}
}

// What is wrong is told with its line, when the file is read or its value is.
func TestWrongDestinations(t *testing.T) {
	for _, text := range []string{
		"[LIMITS]\nlimit_schedule = 500",
		"[LIMITS]\nlimit_schedule = 08:00-18:00",
		"[LIMITS]\nlimit_schedule = 08:00 500",
		"[LIMITS]\nlimit_schedule = 08:00-18:00 fast",
		"[LIMITS]\nlimit_schedule = 08:00-18:00 -1",
		"[LIMITS]\nlimit_schedule = 08:00-25:00 1",
		"[LIMITS]\nlimit_schedule = 08:60-18:00 1",
		"[LIMITS]\nlimit_schedule = 24:01-18:00 1",
		"[LIMITS]\nlimit_schedule = 08:00-18:00 1 2",
		"[LIMITS]\nlimit_schedule = 08:00-18:00 99999999999999",
		"[LIMITS]\nlimit_schedule = 08:00-18:00 1, later 2",
		"[SSH]\nport = 65536",
		"[SSH]\nport = ssh",
		"[SSH]\nconnections = 17",
		"[SSH]\nbandwidth_limit = -1",
		"[S3]\npath_style = maybe",
		"[S3]\nsse = yes",
		"[S3]\nobject_lock = forever",
		"[S3]\nlock_days = 36501",
		"[S3]\nmax_bandwidth = much",
		"[NETWORK]\nretry_for = soon",
		"[NETWORK]\nstall_timeout = -1s",
		"[MODES]\nssh = perhaps",
	} {
		c, _, err := read("f.ini", strings.NewReader(text+"\n"), envOf())
		if err == nil {
			if errs := c.Check(); len(errs) > 0 {
				err = errs[0]
			}
		}
		if err == nil || !strings.HasPrefix(err.Error(), "f.ini:2: [") {
			t.Errorf("%q: %v", text, err)
		}
	}
}
