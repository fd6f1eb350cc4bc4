package config

import "time"

// Telling says what a channel tells, and when.
type Telling struct {
	On         []string      // failure, warning, recovered, success, started, none
	Repeat     time.Duration // 0: every time
	Digest     string        // "off", "daily" or "weekly"
	DigestTime string        // HH:MM
}

func (c *Config) telling(r *reader, section string) Telling {
	return Telling{
		On:         get(r, c.Value(section, "on"), Value.List),
		Repeat:     get(r, c.Value(section, "repeat"), Value.Duration),
		Digest:     get(r, c.Value(section, "digest"), Value.Text),
		DigestTime: get(r, c.Value(section, "digest_time"), Value.Text),
	}
}

// SMTP is a mail server and who is mailed through it; used if Host is set.
type SMTP struct {
	Host     string
	Port     int
	User     string
	Password SecretString
	From     string // "": User
	To       []string
	TLS      string // "starttls", "tls" or "none"
	CAFile   string // absolute; "": the system's authorities
	Timeout  time.Duration
	Telling  Telling
}

// SMTP returns the section [SMTP]. Like the following it reads variables: whoever
// tells nobody must not call it.
func (c *Config) SMTP() (SMTP, error) {
	var r reader
	s := SMTP{
		Host:     get(&r, c.Value("SMTP", "host"), Value.Text),
		Port:     int(get(&r, c.Value("SMTP", "port"), Value.Int)),
		User:     get(&r, c.Value("SMTP", "user"), Value.Text),
		Password: get(&r, c.Value("SMTP", "password"), Value.Secret),
		From:     get(&r, c.Value("SMTP", "from_addr"), Value.Text),
		To:       get(&r, c.Value("SMTP", "to_addrs"), Value.List),
		TLS:      get(&r, c.Value("SMTP", "tls"), Value.Text),
		CAFile:   get(&r, c.Value("SMTP", "ca_file"), Value.Path),
		Timeout:  get(&r, c.Value("SMTP", "timeout"), Value.Duration),
		Telling:  c.telling(&r, "SMTP"),
	}
	starttls := get(&r, c.Value("SMTP", "use_tls"), Value.Bool)
	switch {
	case s.TLS != "":
	case s.Port == 465:
		s.TLS = "tls"
	case starttls:
		s.TLS = "starttls"
	default:
		s.TLS = "none"
	}
	return s, r.err
}

// Email is the mail account of 2.5, as an SMTP; used if To is not empty.
func (c *Config) Email() (SMTP, error) {
	var r reader
	s := SMTP{
		Host:     get(&r, c.Value("EMAIL", "smtp_host"), Value.Text),
		Port:     int(get(&r, c.Value("EMAIL", "smtp_port"), Value.Int)),
		User:     get(&r, c.Value("EMAIL", "sender_email"), Value.Text),
		Password: get(&r, c.Value("EMAIL", "app_password"), Value.Secret),
		To:       get(&r, c.Value("NOTIFICATIONS", "receiver_emails"), Value.List),
		TLS:      "tls",
		Timeout:  get(&r, c.Value("SMTP", "timeout"), Value.Duration),
		Telling:  c.telling(&r, "EMAIL"),
	}
	if s.Port == 587 {
		s.TLS = "starttls"
	}
	return s, r.err
}

// Telegram is a bot and the chats that it tells; used if Token is set.
type Telegram struct {
	Token        SecretString
	Chats        []string // numbers, or @names of channels
	Server       string
	AllowPrivate bool
	Telling      Telling
}

// Telegram returns the sections [TELEGRAM] and [USERS].
func (c *Config) Telegram() (Telegram, error) {
	var r reader
	return Telegram{
		Token: get(&r, c.Value("TELEGRAM", "api_token"), Value.Secret),
		Chats: append(get(&r, c.Value("TELEGRAM", "chats"), Value.List),
			get(&r, c.Value("USERS", "interacted_users"), Value.List)...),
		Server:       get(&r, c.Value("TELEGRAM", "server_url"), Value.Text),
		AllowPrivate: get(&r, c.Value("TELEGRAM", "allow_private"), Value.Bool),
		Telling:      c.telling(&r, "TELEGRAM"),
	}, r.err
}

// TelegramCommands tells whether the daemon answers what is written to the bot.
func (c *Config) TelegramCommands() (bool, error) { return c.Value("TELEGRAM", "commands").Bool() }

// Webhook is an address that is called; used if URL is set.
type Webhook struct {
	URL          SecretString
	Auth         SecretString // of the Authorization header
	Full         bool
	HMAC         SecretString
	AllowPrivate bool
	CAFile       string
	Telling      Telling
}

// Webhook returns a section of [Config.SectionsOf] WEBHOOK.
func (c *Config) Webhook(section string) (Webhook, error) {
	var r reader
	return Webhook{
		URL:          get(&r, c.Value(section, "url"), Value.Secret),
		Auth:         get(&r, c.Value(section, "auth_header"), Value.Secret),
		Full:         get(&r, c.Value(section, "format"), Value.Text) == "full",
		HMAC:         get(&r, c.Value(section, "hmac_secret"), Value.Secret),
		AllowPrivate: get(&r, c.Value(section, "allow_private"), Value.Bool),
		CAFile:       get(&r, c.Value(section, "ca_file"), Value.Path),
		Telling:      c.telling(&r, section),
	}, r.err
}

// Notify is one of the services that people use; used if Service is set.
type Notify struct {
	Service      string
	URL          SecretString
	Token        SecretString
	To           string
	AllowPrivate bool
	CAFile       string
	Telling      Telling
}

// Notify returns a section of [Config.SectionsOf] NOTIFY.
func (c *Config) Notify(section string) (Notify, error) {
	var r reader
	return Notify{
		Service:      get(&r, c.Value(section, "service"), Value.Text),
		URL:          get(&r, c.Value(section, "url"), Value.Secret),
		Token:        get(&r, c.Value(section, "token"), Value.Secret),
		To:           get(&r, c.Value(section, "to"), Value.Text),
		AllowPrivate: get(&r, c.Value(section, "allow_private"), Value.Bool),
		CAFile:       get(&r, c.Value(section, "ca_file"), Value.Path),
		Telling:      c.telling(&r, section),
	}, r.err
}

// Heartbeat is an address that hears of backups; used if URL is set.
type Heartbeat struct {
	URL          SecretString
	Timeout      time.Duration
	Protocol     string // "auto", "healthchecks" or "plain"
	AllowPrivate bool
	CAFile       string
}

// Heartbeat returns the section [HEARTBEAT].
func (c *Config) Heartbeat() (Heartbeat, error) {
	var r reader
	return Heartbeat{
		URL:          get(&r, c.Value("HEARTBEAT", "url"), Value.Secret),
		Timeout:      time.Duration(get(&r, c.Value("HEARTBEAT", "timeout"), Value.Int)) * time.Second,
		Protocol:     get(&r, c.Value("HEARTBEAT", "protocol"), Value.Text),
		AllowPrivate: get(&r, c.Value("HEARTBEAT", "allow_private"), Value.Bool),
		CAFile:       get(&r, c.Value("HEARTBEAT", "ca_file"), Value.Path),
	}, r.err
}

// TellingLimit returns how long all notifications of a run may take together.
func (c *Config) TellingLimit() (time.Duration, error) {
	return c.Value("NOTIFICATIONS", "time_limit").Duration()
}

// LocalMailTo returns the local user who is mailed about failures; "" for nobody.
func (c *Config) LocalMailTo() (string, error) {
	return c.Value("PREFLIGHT", "local_mail_to").Text()
}

// IsSet tells whether the file sets a key, to other than nothing or None.
func (c *Config) IsSet(section, key string) bool { return c.Value(section, key).IsSet() }
