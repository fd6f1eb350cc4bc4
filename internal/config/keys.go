package config

import "slices"

// A Type says how the text of a key is read.
type Type string

// The types of keys. A number with a unit may be written without it where the
// key names a unit of its own.
const (
	String   Type = "string"
	Path     Type = "path"       // made absolute from the working directory; ~ is the home directory
	List     Type = "list"       // items separated by commas or newlines; "quoted" to hold either
	PathList Type = "path list"  // a list of paths; items with :// are addresses and left alone
	Int      Type = "integer"    // 0 or more
	Float    Type = "number"     // 0 or more
	Bool     Type = "boolean"    // True/False, yes/no, on/off, 1/0, in any case
	Duration Type = "duration"   // 90s, 5m, 2h, 7d, 4w, 1h30m
	Size     Type = "size"       // 512K, 20MiB, 1G: powers of 1024
	CPUs     Type = "processors" // a number such as 0.5 or 2, or a share of the machine such as 50%
	Enum     Type = "choice"     // one of Key.Values, in any case
	Times    Type = "times"      // a list of HH:MM, 24 hours
	URL      Type = "URL"        // http or https
	Schedule Type = "schedule"   // a list of HH:MM-HH:MM and a rate in KiB/s
)

// A Section is one [SECTION] of the table.
type Section struct {
	Name string
	Doc  string // one sentence
	// Named sections may come any number of times, as [NAME word], with the same keys.
	Named bool
	Keys  []Key
}

// A Key is one setting: everything about it that the program or its
// documentation knows is declared here, once.
type Key struct {
	Section string
	Name    string // lower case
	Type    Type
	// Default is what an unset key means, written as in a file; "" is none.
	Default string
	// Unit of a bare number: "s", "KiB/s"; "" if it has none.
	Unit string
	// Values are the choices of an Enum, and of each item of a List.
	Values []string
	// Floor is what smaller integers are raised to (2.5 did so for a few keys).
	Floor int64
	// Max is the largest integer allowed; 0 is no bound.
	Max int64
	// Check says what else is wrong with a String.
	Check func(text string) error
	// Secret values are never printed and should come from a ${VARIABLE}.
	Secret bool
	// Reserved keys are read, checked and kept, and not acted on.
	Reserved bool
	// Deprecated says what to do instead; "" for a current key.
	Deprecated string
	// Own keys are not inherited from [DEFAULT], whose key of the same name means
	// something else.
	Own bool
	// Doc is one sentence.
	Doc string
	// Example is what the example file shows instead of the default.
	Example string
	// Active keys are not commented out in the example file.
	Active bool
}

// Keys returns every key of the table, in its order.
func Keys() []Key {
	var keys []Key
	for _, s := range Sections() {
		keys = append(keys, s.Keys...)
	}
	return keys
}

// Sections returns the table. Sections and keys of BackupHandler 2.5 keep their
// names, meanings and defaults; new ones are added, none is given another
// meaning, and none is removed.
func Sections() []Section {
	sections := slices.Concat(currentSections(), notifySections(), metricsSections(), databaseSections())
	for i := range sections {
		s := &sections[i]
		for j := range s.Keys {
			s.Keys[j].Section = s.Name
		}
	}
	return sections
}

// literalSchema is the first value of [META] schema_version whose files mean %
// literally. 2.5 and its successor wrote 3 to 5 and knew %-interpolation.
const literalSchema = 6

func currentSections() []Section {
	return []Section{
		{Name: "META", Doc: "About this file.", Keys: []Key{
			{Name: "schema_version", Type: String, Example: "6", Active: true,
				Doc: "Version of the file's rules: from 6 on, % stands for itself; below, or unset, %% means % as in BackupHandler 2.5."},
		}},
		{Name: "DEFAULT", Doc: "What is backed up and how; keys set here are inherited by all other sections.", Keys: []Key{
			{Name: "source_dir", Type: Path, Example: "/home", Active: true,
				Doc: "Directory to back up."},
			{Name: "source_dirs", Type: PathList, Example: `/etc, "/srv/files, shared"`,
				Doc: "More directories to back up into the same snapshot."},
			{Name: "mode", Type: Enum, Default: "full", Values: []string{"full", "incremental", "differential"}, Example: "incremental", Active: true,
				Doc: "What is read: full reads every byte, incremental only files changed since the previous snapshot, differential those changed since the last full one; every snapshot is complete in each mode."},
			{Name: "exclude_patterns", Type: List, Example: "*.tmp, *.cache, node_modules",
				Doc: "Shell patterns of what to leave out, matched against a file's name and its path below the source; * also matches /."},
			{Name: "parallel_copies", Type: Int, Default: "1", Floor: 1, Max: 256,
				Doc: "Number of files read at the same time."},
			{Name: "compress_type", Type: Enum, Default: "none", Values: []string{"none", "zip", "zip_pw"},
				Deprecated: "repositories are always compressed, see [REPOSITORY] compression; zip archives are written by the export command",
				Doc:        "Archive that BackupHandler 2.5 made after a backup; it has no effect."},
		}},
		{Name: "BACKUPS", Doc: "Where to.", Keys: []Key{
			{Name: "backup_dirs", Type: PathList, Example: "/mnt/backup/repository", Active: true,
				Doc: "Destinations, directories or addresses (sftp://user@host/path, s3://bucket/prefix, gs://bucket/prefix, azblob://container/prefix); each holds one repository and receives every snapshot."},
		}},
		{Name: "RETENTION", Doc: "Which snapshots are kept: those that any of the rules keeps, of each host and set of sources by itself. A backup applies them to its own at its end; without a rule nothing is forgotten.", Keys: []Key{
			{Name: "max_age_days", Type: Int, Default: "0", Unit: "d",
				Doc: "Keep what is not older than this, counted from the newest snapshot; with max_count only what fulfils both. 0 is no bound."},
			{Name: "max_count", Type: Int, Default: "0", Doc: "Keep this many of the newest snapshots; with max_age_days only what fulfils both. 0 is no bound."},
			{Name: "keep_last", Type: Int, Default: "0", Example: "7", Doc: "Keep this many of the newest snapshots."},
			{Name: "keep_hourly", Type: Int, Default: "0", Doc: "Keep the newest snapshot of each of so many hours that have any."},
			{Name: "keep_daily", Type: Int, Default: "0", Example: "14", Doc: "The same for days."},
			{Name: "keep_weekly", Type: Int, Default: "0", Example: "8", Doc: "The same for weeks, from Monday on."},
			{Name: "keep_monthly", Type: Int, Default: "0", Example: "24", Doc: "The same for months."},
			{Name: "keep_yearly", Type: Int, Default: "0", Doc: "The same for years."},
			{Name: "keep_within", Type: String, Check: checkSpan, Example: "1y6m14d12h",
				Doc: "Keep all snapshots of this time before the newest one: years, months, days and hours, any part of it."},
			{Name: "keep_tags", Type: List, Example: "release, audit", Doc: "Keep snapshots with one of these tags; those with the tag hold are always kept."},
			{Name: "min_keep", Type: Int, Default: "1", Floor: 1, Doc: "Keep this many of the newest snapshots whatever the rules say."},
			{Name: "prune_days", Type: Int, Default: "7", Unit: "d",
				Doc: "How often a backup that has applied the rules prunes, too, so that the space of what was forgotten comes back; 0 is never."},
			{Name: "grace", Type: Duration, Default: "24h", Unit: "h",
				Doc: "How long packs that nothing needs stay before they are deleted, at least 1 h: it has to be longer than clocks of hosts that share a repository are apart."},
			{Name: "max_unused", Type: String, Check: checkUnused, Default: "5%", Example: "10%",
				Doc: "What a prune may leave unused in packs that are needed in part: a share of what is needed, a size, or unlimited."},
		}},
		{Name: "ENCRYPTION", Doc: "Who can read the repositories.", Keys: []Key{
			{Name: "enabled", Type: Bool, Default: "False", Example: "True", Active: true,
				Doc: "Protect new repositories by a secret; without it, anyone who can read a destination can read the backups."},
			{Name: "key_file", Type: Path, Example: "/etc/backup-handler/key",
				Doc: "File of 32 random bytes that opens the repositories; it takes precedence over the passphrase."},
			{Name: "passphrase", Type: String, Secret: true, Example: "${BACKUP_HANDLER_PASSPHRASE}", Active: true,
				Doc: "Passphrase that opens the repositories."},
			{Name: "workers", Type: Int, Default: "1", Floor: 1, Max: 256,
				Doc: "Number of blocks compressed and sealed at the same time."},
			{Name: "kdf", Type: Enum, Default: "pbkdf2", Values: []string{"pbkdf2", "argon2id"},
				Doc: "How new key slots turn a passphrase into a key."},
			{Name: "recipients", Type: List, Example: "/etc/backup-handler/team.pub",
				Doc: "Public keys, or files that hold them, whose owners can open new repositories too."},
			{Name: "identity_file", Type: Path, Example: "/media/key/recovery.key",
				Doc: "Private key that opens the repositories as one of their recipients."},
			{Name: "keyring", Type: Bool, Default: "False",
				Doc: "Where no other key opens a repository, ask the operating system's keyring for the one that 'key add --keyring' has put there; --keyring asks it first."},
			{Name: "backend", Type: Enum, Default: "aes", Values: []string{"aes", "qsafe"}, Reserved: true,
				Doc: "Cipher of the file-by-file backups of BackupHandler 2.5's successor."},
			{Name: "qsafe_recipients", Type: PathList, Reserved: true, Doc: "Public keys of that successor's qsafe cipher."},
			{Name: "qsafe_secret_key", Type: Path, Reserved: true, Doc: "Secret key of the qsafe cipher, to restore and verify."},
			{Name: "qsafe_sign_key", Type: Path, Reserved: true, Doc: "Key that signed manifests."},
			{Name: "qsafe_sign_pub", Type: Path, Reserved: true, Doc: "Key that checks the signatures of manifests."},
			{Name: "qsafe_sign_passphrase", Type: String, Secret: true, Reserved: true, Example: "${QSAFE_PASSPHRASE}",
				Doc: "Passphrase of the signing key."},
		}},
		{Name: "REPOSITORY", Doc: "How repositories are written.", Keys: []Key{
			{Name: "compression", Type: Enum, Default: "default", Values: []string{"off", "fastest", "default", "better", "best"},
				Doc: "How hard to compress; data that does not shrink is stored as it is. `default` is as hard as pays: where it gains next to nothing, it makes do with `fastest`."},
			{Name: "file_sha256", Type: Bool, Default: "False",
				Doc: "Record the SHA-256 of every file, which costs a second pass over files of several chunks."},
			{Name: "parity", Type: Int, Default: "0", Unit: "%", Max: 50, Example: "5%",
				Doc: "Repair data stored with each pack, as a share of it, so that flipped bits and lost sectors heal by themselves; config, keys and snapshots are stored twice then. 0 for none. 'backup-handler verify --heal' makes up for what has none yet."},
		}},
		{Name: "VERIFY", Doc: "Proof that what is stored can be read.", Keys: []Key{
			{Name: "read_data_days", Type: Int, Default: "0", Unit: "d", Max: 3650, Example: "30",
				Doc: "'verify' without flags reads a share of the data such that all of it is read once in so many days, if it is called that often; 0 reads none."},
			{Name: "after_backup", Type: Bool, Default: "False",
				Doc: "End each backup with a 'verify' of its destinations, of the structure and of the share of the data that is due; what is damaged makes the run one that has failed (exit code 3)."},
		}},
		{Name: "DRILL", Doc: "Proof that what is stored can be restored: how 'drill' goes about it.", Keys: []Key{
			{Name: "sample", Type: Int, Default: "1000",
				Doc: "How many files, chosen at random, a drill restores; 0 is the whole snapshot."},
			{Name: "dir", Type: Path, Example: "/var/tmp",
				Doc: "Directory in which a drill makes its scratch directory; unset means the system's for temporary files."},
			{Name: "max_duration", Type: Duration, Default: "0s", Unit: "s", Example: "4h",
				Doc: "How long restoring may take in a drill before the drill has failed, 0 for no limit."},
			{Name: "check_command", Type: String, Example: "test -s \"$BACKUP_HANDLER_DRILL_DIR/etc/passwd\"",
				Doc: "Shell command that judges what a drill has restored, in its scratch directory; a code other than 0 fails the drill."},
			{Name: "check_timeout", Type: Duration, Default: "10m", Unit: "s",
				Doc: "How long the command may take."},
			{Name: "databases", Type: Bool, Default: "True",
				Doc: "Check the newest dump of each database, too, as 'db verify' does, where the server's program is installed."},
			{Name: "list_files", Type: Int, Default: "100", Max: 100_000,
				Doc: "How many files, chosen at random, a backup reads once more at its end, for the list of SHA-256s that drills compare with; at most 256 MiB of them, 0 for none."},
		}},
		{Name: "GUARD", Doc: "What makes a run suspicious, compared with the snapshot before it and with what is usual for its sources: somebody may have encrypted or deleted them. Its snapshot is tagged suspicious, and what is older is kept until 'backup-handler approve'. Shares are of the files of the snapshot before; 0 asks for nothing.", Keys: []Key{
			{Name: "enabled", Type: Bool, Default: "True", Doc: "Judge each run; what it finds is recorded in any case."},
			{Name: "fail", Type: Bool, Default: "False", Doc: "End a suspicious run with exit code 3, as one that has failed; its snapshot is made all the same."},
			{Name: "max_scrambled_percent", Type: Float, Default: "2",
				Doc: "Files that were readable and are noise without a known header now, over the last 14 days; three times as many where the noise is in new files of other names."},
			{Name: "max_changed_percent", Type: Float, Default: "80", Doc: "Files that hold other content; at least 100, and three times what is usual, as for the next two."},
			{Name: "max_deleted_percent", Type: Float, Default: "50", Doc: "Files that are gone and under no other name."},
			{Name: "max_renamed_percent", Type: Float, Default: "20", Doc: "Files whose name became longer and that are the same or noise, as report.doc.locked."},
			{Name: "min_files", Type: Int, Default: "10", Floor: 1, Doc: "Scrambled files that it takes at least."},
		}},
		{Name: "PREFLIGHT", Doc: "Checks before a backup, which 'backup-handler preflight' makes, too: what is refused is not backed up to (docs/preflight.md).", Keys: []Key{
			{Name: "enabled", Type: Bool, Default: "True", Doc: "Make these checks; without them, what a backup needs in any case is still looked at."},
			{Name: "expected_mount", Type: Path, Example: "/mnt/backup", Doc: "Directory that must be a mount point for the destinations below it to be used."},
			{Name: "expected_label", Type: String, Example: "BACKUP", Doc: "Label that the volume must have: of expected_mount or, where that is unset, of each local destination. What cannot be found out is refused, as for the next two."},
			{Name: "expected_uuid", Type: String, Doc: "UUID that the volume must have."},
			{Name: "expected_fs_type", Type: String, Default: "xfs", Doc: "File system that the volume must hold; compared only where the file sets it. Where UUID or label fit, another one is a warning."},
			{Name: "expected_owner", Type: String, Example: "backup", Doc: "User, by name or number, who must own the local destinations."},
			{Name: "auto_mount", Type: Bool, Default: "True", Doc: "Mount what a local destination is on, if /etc/fstab has an entry for it and it is not mounted; never anything else."},
			{Name: "min_free", Type: Size, Default: "0", Example: "10G", Doc: "Room that a destination must have; 0 asks only for what a usual run needs."},
			{Name: "auto_fix_ownership", Type: Bool, Default: "False",
				Deprecated: "a backup changes no owners; expected_owner says who owns what",
				Doc:        "Gave the destinations to the expected owner; it has no effect."},
			{Name: "ensure_fstab", Type: Bool, Default: "True",
				Deprecated: "a backup does not edit /etc/fstab; add the entry by hand",
				Doc:        "Added the volume to /etc/fstab; it has no effect."},
			{Name: "staleness_factor", Type: Float, Default: "2.0", Floor: 1, Doc: "Intervals of [SCHEDULE] without a good backup after which there is a warning; without a schedule there is none."},
			{Name: "local_mail_to", Type: String, Doc: "Local user who is mailed about alarms."},
			{Name: "status_sentinel", Type: String, Default: "Logs/last_run_status.json", Doc: "File that holds the outcome of the last backup, in the state directory unless it is an absolute path."},
		}},
		{Name: "LIMITS", Doc: "How much of a busy machine the program may take; --limit-cpu, --limit-upload, --limit-download and --io-idle go before these keys, and 'backup-handler help limits' says more.", Keys: []Key{
			{Name: "cpu", Type: CPUs, Default: "0", Example: "50%",
				Doc: "Processors to use at most: a number such as 0.5 or 2, or a share of the machine's such as 50%; 0 for no limit."},
			{Name: "upload", Type: Size, Default: "0", Example: "10M",
				Doc: "Bytes a second to write to all destinations together, such as 500K or 10M; 0 for no limit."},
			{Name: "download", Type: Size, Default: "0", Example: "10M",
				Doc: "Bytes a second to read from all destinations together; 0 for no limit."},
			{Name: "limit_schedule", Type: Schedule, Example: "08:00-18:00 500, 22:00-06:00 0",
				Doc: "Largest rate in each direction at some times of day, in KiB/s, beside the limits above: the first time that fits counts, 0 is no limit."},
			{Name: "io_idle", Type: Bool, Default: "False",
				Doc: "Let every other program go first at disks and processors."},
		}},
		{Name: "MODES", Doc: "Which destinations and sources are in use; --operation-modes goes before these keys.", Keys: []Key{
			{Name: "local", Type: Bool, Default: "False", Doc: "Use [BACKUPS] backup_dirs; unset, they are used whenever they are set."},
			{Name: "ssh", Type: Bool, Default: "False", Doc: "Use [SSH] ssh_servers."},
			{Name: "s3", Type: Bool, Default: "False", Doc: "Use [S3] bucket."},
			{Name: "db", Type: Bool, Default: "False", Doc: "Back up each [DATABASE]; unset, those with a database key are backed up."},
		}},
		{Name: "SSH", Doc: "SSH servers as destinations, and how sftp:// addresses are reached. ~/.ssh/config counts, too; what is set here goes before it.", Keys: []Key{
			{Name: "ssh_servers", Type: List, Example: "backup.example.org, nas.example.org:2222",
				Doc: "Servers, as host, host:port or user@host:port; each holds one repository in remote_dir."},
			{Name: "username", Type: String, Doc: "User to log in as."},
			{Name: "password", Type: String, Secret: true, Example: "${SSH_PASSWORD}", Doc: "Password to log in with; keys and the SSH agent are tried before it."},
			{Name: "port", Type: Int, Max: 65535, Doc: "Port of servers that name none; unset means that of ~/.ssh/config, else 22."},
			{Name: "key_file", Type: Path, Example: "~/.ssh/id_backup", Doc: "Private key to log in with, instead of those of ~/.ssh."},
			{Name: "key_passphrase", Type: String, Secret: true, Example: "${SSH_KEY_PASSPHRASE}", Doc: "Passphrase of the private key."},
			{Name: "remote_dir", Type: String, Default: "backup-handler",
				Doc: "Directory of the repository on the servers, below the login directory unless it begins with a slash."},
			{Name: "known_hosts", Type: Path, Default: "~/.ssh/known_hosts", Doc: "File of host keys that are trusted; an unknown or changed key is refused."},
			{Name: "ssh_config", Type: Path, Doc: "File in the form of ~/.ssh/config to read instead of that."},
			{Name: "proxy_jump", Type: String, Example: "gate.example.org", Doc: "Hosts to go through, as user@host:port, separated by commas."},
			{Name: "connections", Type: Int, Default: "4", Floor: 1, Max: 16, Doc: "Connections to one server at a time, with up to two SFTP sessions on each."},
			{Name: "bandwidth_limit", Type: Int, Default: "0", Unit: "KiB/s", Doc: "Largest rate to or from one server, 0 for no limit."},
		}},
		{Name: "S3", Doc: "An S3 bucket as destination, and how s3:// addresses are reached.", Keys: []Key{
			{Name: "bucket", Type: String, Doc: "Name of the bucket."},
			{Name: "prefix", Type: String, Doc: "Directory in the bucket; the repository is backup-handler.repo in it."},
			{Name: "region", Type: String, Doc: "Region of the bucket; unset, it is found out."},
			{Name: "endpoint", Type: String, Example: "https://s3.example.org", Doc: "Server that speaks S3; unset means Amazon."},
			{Name: "path_style", Type: Enum, Default: "auto", Values: []string{"auto", "on", "off"}, Doc: "Name the bucket in the path of requests (on) or in the host name (off)."},
			{Name: "access_key", Type: String, Secret: true, Example: "${AWS_ACCESS_KEY_ID}", Doc: "Access key ID; unset means the usual AWS credential chain."},
			{Name: "secret_key", Type: String, Secret: true, Example: "${AWS_SECRET_ACCESS_KEY}", Doc: "Secret access key."},
			{Name: "session_token", Type: String, Secret: true, Example: "${AWS_SESSION_TOKEN}", Doc: "Session token of temporary keys."},
			{Name: "profile", Type: String, Doc: "Profile of ~/.aws/config and ~/.aws/credentials to use."},
			{Name: "ca_file", Type: Path, Doc: "Certificates (PEM) of the only authorities to trust; unset means the system's."},
			{Name: "storage_class", Type: String, Example: "STANDARD_IA", Doc: "Storage class of packs, nearly all of the data; everything else gets the bucket's default."},
			{Name: "sse", Type: Enum, Default: "off", Values: []string{"off", "s3", "kms"}, Doc: "Encryption by the server, beside our own."},
			{Name: "kms_key_id", Type: String, Doc: "Key of the key service, for sse = kms."},
			{Name: "object_lock", Type: Enum, Default: "off", Values: []string{"off", "governance", "compliance"},
				Doc: "Lock new objects against deletion; the bucket must have object lock."},
			{Name: "lock_days", Type: Int, Default: "30", Floor: 1, Max: 36500, Unit: "days", Doc: "How long new objects are locked."},
			{Name: "max_bandwidth", Type: Int, Default: "0", Unit: "KiB/s", Doc: "Largest rate, 0 for no limit."},
			{Name: "multipart_threshold", Type: Int, Default: "8", Unit: "MiB",
				Deprecated: "packs take one request each, which the server can refuse if the name is taken",
				Doc:        "Size from which objects were sent in parts; it has no effect."},
			{Name: "max_concurrency", Type: Int, Default: "10", Floor: 1, Max: 256, Doc: "Number of parts of a very large object sent at the same time."},
		}},
		{Name: "GCS", Doc: "How gs:// addresses (Google Cloud Storage) are reached.", Keys: []Key{
			{Name: "credentials_file", Type: Path, Doc: "Key of a service account (JSON); unset means Google's application default credentials."},
			{Name: "endpoint", Type: String, Doc: "Server to use instead of Google's."},
			{Name: "storage_class", Type: String, Example: "NEARLINE", Doc: "Storage class of packs; everything else gets the bucket's default."},
		}},
		{Name: "AZURE", Doc: "How azblob:// addresses (Azure Blob Storage) are reached.", Keys: []Key{
			{Name: "account", Type: String, Doc: "Storage account; unset means $AZURE_STORAGE_ACCOUNT."},
			{Name: "account_key", Type: String, Secret: true, Example: "${AZURE_STORAGE_KEY}", Doc: "Key of the account."},
			{Name: "sas_token", Type: String, Secret: true, Example: "${AZURE_STORAGE_SAS_TOKEN}", Doc: "Shared access signature, instead of the key."},
			{Name: "endpoint", Type: String, Doc: "Address of the account's blob service, where it is not Azure's own."},
			{Name: "storage_class", Type: String, Example: "Cool", Doc: "Access tier of packs; everything else gets the account's default."},
		}},
		{Name: "NETWORK", Doc: "How patient the program is with destinations on other machines.", Keys: []Key{
			{Name: "retry_for", Type: Duration, Default: "15m", Unit: "s", Doc: "How long a request that fails is tried again before its destination has failed."},
			{Name: "stall_timeout", Type: Duration, Default: "2m", Unit: "s", Doc: "How long a transfer may stand still before it is begun anew."},
			{Name: "max_duration", Type: Duration, Default: "0s", Unit: "s", Doc: "How long a backup may take before it is ended, 0 for no limit; destinations that have the snapshot by then have it, and what was stored is used by the next one."},
		}},
		{Name: "TAILSCALE", Doc: "Reaching destinations through a tailnet.", Keys: []Key{
			{Name: "enabled", Type: Bool, Default: "False", Doc: "Join the tailnet when the first SSH server or object store is opened, and reach through it what is in the tailnet."},
			{Name: "mode", Type: Enum, Default: "userspace", Own: true, Values: []string{"userspace", "system"},
				Doc: "userspace joins as a node of its own inside the program, which needs no installed client and no root; system uses the installed client."},
			{Name: "auth_key", Type: String, Secret: true, Example: "${TAILSCALE_AUTHKEY}", Doc: "Key to join with, or the secret of an OAuth client; best reusable, ephemeral and tagged. In system mode it is used if the client is not logged in."},
			{Name: "auth_key_file", Type: Path, Example: "/etc/backup-handler/tailscale.key", Doc: "File that holds the key instead."},
			{Name: "hostname", Type: String, Doc: "Name of this machine in the tailnet; unset means backup-handler and the host's name, and in system mode the client's own. In system mode name, tags, routes and control server count when the client logs in; one that is connected is left as it is."},
			{Name: "advertise_tags", Type: List, Example: "tag:backup", Doc: "Tags of this machine."},
			{Name: "accept_routes", Type: Bool, Default: "False", Doc: "Use the routes to other networks that machines of the tailnet offer."},
			{Name: "disconnect_after", Type: Bool, Default: "False", Doc: "In system mode, disconnect after the run, if the run has connected."},
			{Name: "control_url", Type: String, Example: "https://headscale.example.org", Doc: "Control server to use instead of Tailscale's."},
		}},
		{Name: "EXCLUDE", Doc: "What to leave out, beside [DEFAULT] exclude_patterns.", Keys: []Key{
			{Name: "exclude_files", Type: PathList, Example: "/etc/backup-handler/excludes",
				Doc: "Files with one pattern per line."},
			{Name: "gitignore", Type: Bool, Default: "False",
				Doc: "Read exclude_files by the rules of .gitignore: **, ! and anchoring, * does not match /."},
			{Name: "exclude_caches", Type: Bool, Default: "False",
				Doc: "Leave out the content of directories marked by a CACHEDIR.TAG."},
			{Name: "exclude_if_present", Type: List, Example: ".nobackup",
				Doc: "Leave out the content of directories that hold a file of one of these names."},
			{Name: "one_file_system", Type: Bool, Default: "False",
				Doc: "Stay on the file system of each source: do not enter mounts below it."},
			{Name: "larger_than", Type: Size, Example: "4GiB",
				Doc: "Leave out files larger than this; unset means no limit."},
		}},
		{Name: "SQLITE", Doc: "SQLite databases that are stored as consistent copies, whatever other programs write to them at the time; see docs/sqlite.md.", Keys: []Key{
			{Name: "paths", Type: PathList, Example: "/var/lib/app/app.db, /home/*/notes/*.sqlite",
				Doc: "Databases to copy so, or shell patterns of their paths, in which * and ? do not match /."},
			{Name: "find", Type: Bool, Default: "False",
				Doc: "Copy every file so that begins as a database does. Not all programs let others read theirs while they run, as browsers do not: these would make a run fail, and need to be excluded."},
			{Name: "wait", Type: Duration, Default: "10s", Unit: "s",
				Doc: "How long a database may stay locked before it is stored as it is, with a problem; 0 does not wait."},
		}},
		{Name: "SCHEDULE", Doc: "When the daemon, or a timer of 'service install --timer', runs what. An entry is a list of times (03:00, 15:30), an interval (every 6h, counted from midnight UTC on) or a cron expression of five fields (30 2 * * 1-5, @daily); several are separated by semicolons or lines.", Keys: []Key{
			{Name: "times", Type: Times, Example: "03:00, 15:30", Doc: "Times of day of a backup, beside those of the key backup."},
			{Name: "backup", Type: String, Check: checkSchedule, Example: "every 6h", Doc: "When 'backup' runs."},
			{Name: "forget", Type: String, Check: checkSchedule, Example: "0 5 * * *", Doc: "When 'forget' runs by the rules of [RETENTION]; a backup applies them to its own snapshots anyway."},
			{Name: "prune", Type: String, Check: checkSchedule, Example: "0 6 * * sun", Doc: "When 'prune' runs."},
			{Name: "verify", Type: String, Check: checkSchedule, Example: "0 12 * * *", Doc: "When 'verify' runs."},
			{Name: "drill", Type: String, Check: checkSchedule, Example: "30 4 * * sun", Doc: "When 'drill' runs."},
			{Name: "timezone", Type: String, Check: checkZone, Example: "Europe/Berlin", Doc: "Time zone of all these times, by its IANA name; unset means the machine's."},
			{Name: "jitter", Type: Duration, Default: "0s", Unit: "s", Example: "30m",
				Doc: "By how much a host is late at most: each host by an amount of its own, always the same, so that many do not begin at once."},
			{Name: "catch_up", Type: Bool, Default: "True", Doc: "Make up, once, for what was missed while the machine was off or asleep, as soon as the daemon notices."},
			{Name: "on_stop", Type: Enum, Default: "interrupt", Values: []string{"interrupt", "finish"},
				Doc: "What becomes of a run when the daemon is told to stop: it is interrupted cleanly, and made up for at the next start, or finished first."},
			{Name: "stop_timeout", Type: Duration, Default: "3m", Unit: "s", Doc: "How long an interrupted run may take to end before it is killed."},
			{Name: "interval_minutes", Type: Int, Default: "1", Unit: "min", Floor: 1, Example: "60",
				Doc: "Expected time between backups, by which a missing one is noticed; it starts none."},
		}},
		{Name: "STATE", Doc: "Where the program keeps what must last: logs, run records.", Keys: []Key{
			{Name: "dir", Type: Path, Example: "/var/lib/backup-handler",
				Doc: "State directory; unset means $BACKUP_HANDLER_DATA_DIR, else /var/lib/backup-handler for root, else $XDG_STATE_HOME/backup-handler or ~/.local/state/backup-handler."},
		}},
		{Name: "CACHE", Doc: "Where the program keeps what it can fetch again.", Keys: []Key{
			{Name: "dir", Type: Path, Example: "/var/cache/backup-handler",
				Doc: "Cache directory; unset means $XDG_CACHE_HOME/backup-handler or ~/.cache/backup-handler, for root without a home /var/cache/backup-handler."},
			{Name: "max_size", Type: Size, Default: "1G",
				Doc: "Most that is kept of the directories of each repository on another machine, so that they are not fetched again, and, in another place, while a verification lasts; the index comes on top."},
		}},
		{Name: "LOG", Doc: "The application log, Logs/application.log in the state directory.", Keys: []Key{
			{Name: "level", Type: Enum, Default: "info", Values: []string{"debug", "info", "warn", "error"},
				Doc: "Least level that is written."},
			{Name: "json", Type: Bool, Default: "False",
				Doc: "One JSON object per line instead of text; unset means $BACKUP_HANDLER_LOG_JSON."},
			{Name: "max_size_mb", Type: Int, Default: "50", Unit: "MiB", Floor: 1, Max: 4096,
				Doc: "Size at which the log is rotated."},
			{Name: "max_files", Type: Int, Default: "30", Floor: 1, Max: 1000,
				Doc: "Number of rotated logs that are kept."},
			{Name: "syslog", Type: Bool, Default: "False",
				Doc: "Write to the system's log too (Linux: journald, else /dev/log); unset means $BACKUP_HANDLER_LOG_SYSLOG. See docs/runs.md."},
		}},
		{Name: "HOOKS", Doc: "Commands around a run, for the shell; see docs/runs.md for what they learn of it. They are not run if others can change this file.", Keys: []Key{
			{Name: "pre_backup", Type: String, Example: "systemctl stop shop", Doc: "Before a backup reads anything; if it fails, nothing is backed up (exit code 2)."},
			{Name: "post_backup", Type: String, Example: "systemctl start shop", Doc: "After a backup, however it went, if pre_backup succeeded; if it fails, the run has a warning."},
			{Name: "on_success", Type: String, Doc: "At the end of a backup that has done all it should."},
			{Name: "on_failure", Type: String, Doc: "At the end of a backup that has not, one that was refused or interrupted included."},
			{Name: "pre_restore", Type: String, Doc: "Before a restore writes anything; if it fails, nothing is restored (exit code 2)."},
			{Name: "post_restore", Type: String, Doc: "After a restore, however it went, if pre_restore succeeded."},
			{Name: "timeout", Type: Duration, Default: "5m", Unit: "s", Doc: "How long each may take; then it and all it has started is ended, and counts as failed. 0 is no limit."},
		}},
		{Name: "SOURCE", Named: true, Doc: "A directory to back up, beside those of [DEFAULT], with commands of its own around each backup that has it.", Keys: []Key{
			{Name: "path", Type: Path, Example: "/srv/shop", Doc: "Directory or file to back up."},
			{Name: "pre_backup", Type: String, Own: true, Example: "systemctl stop shop", Doc: "As in [HOOKS], after the one there."},
			{Name: "post_backup", Type: String, Own: true, Example: "systemctl start shop", Doc: "As in [HOOKS], before the one there."},
		}},
		{Name: "STREAM", Named: true, Doc: "What a command prints, as a snapshot of its own, made by each backup behind that of the files: [STREAM NAME] is below /stream/NAME in it. A command that fails leaves no snapshot.", Keys: []Key{
			{Name: "command", Type: String, Example: "ldapsearch -x -LLL",
				Doc: "Line for /bin/sh. Any exit code but 0 is a failure; the shell tells that of the last command of a pipe only (bash -o pipefail tells any)."},
			{Name: "file", Type: String, Check: checkFile, Example: "directory.ldif", Doc: "Name of the file with the output; unset means that of the section."},
			{Name: "limit", Type: Duration, Default: "0s", Unit: "s", Example: "30m", Doc: "How long the command may take before it, and all that it has started, is ended, and has failed; 0 is no limit."},
			{Name: "tags", Type: List, Example: "ldap", Doc: "Tags of the snapshot."},
			{Name: "allow_empty", Type: Bool, Default: "False", Doc: "Accept that the command prints nothing, which is a failure else."},
		}},
		{Name: "DEDUP", Doc: "Deduplication of BackupHandler 2.5.", Keys: []Key{
			{Name: "enabled", Type: Bool, Default: "False",
				Deprecated: "repositories always store equal data once",
				Doc:        "Replaced equal files by hard links; it has no effect."},
		}},
	}
}
