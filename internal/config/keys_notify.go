package config

// notifySections are about who is told about runs. docs/notifications.md says more.
func notifySections() []Section {
	return []Section{
		{Name: "NOTIFICATIONS", Doc: "Who is told about runs, by which of the channels below; 'backup-handler notify test' tries them. docs/notifications.md says more.", Keys: []Key{
			{Name: "time_limit", Type: Duration, Default: "1m", Unit: "s",
				Doc: "How long all notifications of a run may take together, tries and waits included."},
			{Name: "bot", Type: Bool, Default: "False", Deprecated: "Telegram tells wherever [TELEGRAM] api_token and chats are set; [TELEGRAM] on = none silences it",
				Doc: "Was shown by BackupHandler 2.5, and had no effect there either."},
			{Name: "receiver_emails", Type: List, Doc: "Mail addresses that are told from the account of [EMAIL]."},
		}},
		{Name: "SMTP", Doc: "Mail about runs.", Keys: append([]Key{
			{Name: "host", Type: String, Doc: "Host of the mail server."},
			{Name: "port", Type: Int, Default: "587", Max: 65535, Doc: "Port of the mail server."},
			{Name: "user", Type: String, Doc: "User to log in as; unset means that no login is needed."},
			{Name: "password", Type: String, Secret: true, Example: "${SMTP_PASSWORD}", Doc: "Password to log in with; it is never sent in the clear."},
			{Name: "from_addr", Type: String, Doc: "Address of the sender; unset means user."},
			{Name: "to_addrs", Type: List, Doc: "Addresses of the receivers."},
			{Name: "use_tls", Type: Bool, Default: "True", Doc: "Use STARTTLS; tls says it better."},
			{Name: "tls", Type: Enum, Values: []string{"starttls", "tls", "none"},
				Doc: "How the connection is protected: starttls begins in the clear and switches or fails, tls is encrypted from the first byte, none is for relays that need no login. Unset means tls on port 465, else starttls, or none with use_tls = False."},
			{Name: "ca_file", Type: Path, Doc: "Certificates (PEM) of the only authorities to trust; unset means the system's."},
			{Name: "timeout", Type: Duration, Default: "30s", Unit: "s", Doc: "Longest wait for the server in one try."},
		}, tellingKeys(levels25)...)},
		{Name: "EMAIL", Doc: "The mail account that BackupHandler 2.5 kept in email_config.ini, which is read too; it mails [NOTIFICATIONS] receiver_emails. TLS from the first byte, or STARTTLS on port 587.", Keys: append([]Key{
			{Name: "sender_email", Type: String, Doc: "Address of the sender, and user to log in as."},
			{Name: "app_password", Type: String, Secret: true, Example: "${EMAIL_APP_PASSWORD}", Doc: "Password to log in with."},
			{Name: "smtp_host", Type: String, Default: "smtp.gmail.com", Doc: "Host of the mail server."},
			{Name: "smtp_port", Type: Int, Default: "465", Max: 65535, Doc: "Port of the mail server."},
		}, tellingKeys(levels25)...)},
		{Name: "TELEGRAM", Doc: "A Telegram bot; that which BackupHandler 2.5 kept in bot_config.ini is read too.", Keys: append([]Key{
			{Name: "api_token", Type: String, Secret: true, Example: "${TELEGRAM_API_TOKEN}", Doc: "Token of the bot."},
			{Name: "chats", Type: List, Example: "123456789", Doc: "Numbers of the chats that are told, or @names of channels, beside [USERS] interacted_users; nobody else is, whoever writes to the bot."},
			{Name: "commands", Type: Bool, Default: "False", Doc: "The daemon answers /status, /runs, /backup and /verify in these chats, if they are private ones or groups given by number: docs/notifications.md."},
			{Name: "server_url", Type: URL, Default: "https://api.telegram.org", Doc: "Server of the Bot API, where it is one of your own."},
			allowPrivate,
		}, tellingKeys(levels25)...)},
		{Name: "USERS", Doc: "The chats that BackupHandler 2.5 kept in bot_config.ini.", Keys: []Key{
			{Name: "interacted_users", Type: List, Doc: "Numbers of the Telegram chats that are told about runs."},
		}},
		{Name: "WEBHOOK", Named: true, Doc: "An HTTP POST about runs.", Keys: append([]Key{
			{Name: "url", Type: URL, Secret: true, Example: "${WEBHOOK_URL}", Doc: "Address that is called; it often holds a token."},
			{Name: "auth_header", Type: String, Secret: true, Example: "${WEBHOOK_AUTH}", Doc: "Value of the Authorization header."},
			{Name: "format", Type: Enum, Default: "simple", Values: []string{"simple", "full"},
				Doc: "What is sent: simple is a text twice, as text and as content, as in BackupHandler 2.5; full is everything about the run."},
			{Name: "hmac_secret", Type: String, Secret: true, Example: "${WEBHOOK_HMAC_SECRET}",
				Doc: "Secret that signs each call, in the headers X-Backup-Handler-Timestamp and -Signature."},
			allowPrivate, caFile,
		}, tellingKeys(levels25)...)},
		{Name: "NOTIFY", Named: true, Doc: "A message to one of the services that people use.", Keys: append([]Key{
			{Name: "service", Type: Enum, Values: []string{"slack", "discord", "teams", "ntfy", "gotify", "pushover", "matrix", "pagerduty"}, Example: "ntfy",
				Doc: "Which service; unset means that the section says nothing."},
			{Name: "url", Type: URL, Secret: true, Example: "${NOTIFY_URL}",
				Doc: "Address that Slack, Discord or Teams gave to the webhook, or the server of the others; unset means the public one of ntfy, Pushover and PagerDuty."},
			{Name: "token", Type: String, Secret: true, Example: "${NOTIFY_TOKEN}",
				Doc: "Access token of ntfy and Matrix, application token of Gotify and Pushover, routing key of PagerDuty."},
			{Name: "to", Type: String, Example: "my-backups", Doc: "Topic of ntfy, user or group key of Pushover, room ID of Matrix."},
			allowPrivate, caFile,
		}, tellingKeys(levelsNew)...)},
		{Name: "HEARTBEAT", Doc: "An HTTP call about backups to a service that notices when none comes: only a good one, with or without warnings, counts.", Keys: []Key{
			{Name: "url", Type: URL, Secret: true, Example: "${HEARTBEAT_URL}", Doc: "Address that is called; it often holds a token."},
			{Name: "timeout", Type: Int, Default: "10", Unit: "s", Floor: 1, Doc: "Longest wait for an answer."},
			{Name: "protocol", Type: Enum, Default: "auto", Values: []string{"auto", "healthchecks", "plain"},
				Doc: "healthchecks tells starts, failures and durations too, as healthchecks.io understands them; plain is one GET after a good backup; auto takes healthchecks for addresses of hc-ping.com, or with /ping/ and a UUID."},
			allowPrivate, caFile,
		}},
	}
}

var (
	allowPrivate = Key{Name: "allow_private", Type: Bool, Default: "False",
		Doc: "Let the address be in a private network or on this machine, and http:// where https:// is needed else."}
	caFile = Key{Name: "ca_file", Type: Path, Doc: "Certificates (PEM) of the only authorities to trust; unset means the system's."}
)

// Which levels a channel tells if nothing is said: those of 2.5 went on telling
// successes, and who waits for such a message must not take its absence for one.
const (
	levels25  = "failure, warning, recovered, success"
	levelsNew = "failure, warning, recovered"
)

// tellingKeys are those that say what a channel tells, and when.
func tellingKeys(levels string) []Key {
	return []Key{
		{Name: "on", Type: List, Default: levels, Values: []string{"failure", "warning", "recovered", "success", "started", "none"},
			Doc: "Which ends of runs are told; recovered is the first good one after a failure."},
		{Name: "repeat", Type: Duration, Default: "23h", Unit: "h",
			Doc: "How soon the same failure or warning is told again, if each run has it; 0 is every time."},
		{Name: "digest", Type: Enum, Default: "off", Values: []string{"off", "daily", "weekly"},
			Doc: "One summary a day, or a week on Mondays, instead of successes."},
		{Name: "digest_time", Type: String, Default: "08:00", Check: checkTime,
			Doc: "Time of day from which it is due; a daemon sends it then, else it goes out at the end of the next run."},
	}
}

func checkTime(text string) error {
	_, err := parseTime(text)
	return err
}
