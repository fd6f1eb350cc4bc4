// Package sheet makes recovery sheets: a page of text or HTML for the safe, from which
// somebody who knows nothing of the program gets the backups back. It holds a key, as
// text with a checksum for each line and as a QR code.
//
// It turns values into bytes, and knows nothing of files, repositories or terminals.
// What it returns is secret.
//
// Invariants: the key is on lines of its own in both forms, so that the file of a sheet
// serves as a key file (seal.ParsePaperKey); everything that may come from elsewhere is
// escaped; HTML refers to nothing outside of itself.
//
// Files: sheet.go the content; text.go, html.go the forms; qr.go the code.
package sheet

import (
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/lazyregexp"
	"github.com/SP1R4/BackupHandler/v3/internal/seal"
)

// A Repository is one that the key opens.
type Repository struct {
	Address  string // a URL, or an absolute path
	ID       string // of the repository
	Slot     string // beginning of the ID of the key's slot, to remove it
	Endpoint string // of a store that is not the usual one for the address; else ""
}

// A Sheet is what there is to say.
type Sheet struct {
	Repositories []Repository // at least one
	Host         string       // whose snapshots are restored
	Created      time.Time
	Program      string // name and version
	Key          *seal.KeyFile
}

const (
	title   = "Recovery sheet"
	project = "https://github.com/SP1R4/BackupHandler"
)

// A step is one thing to do.
type step struct {
	text    string
	command string // "" for none
	after   string
}

func (s *Sheet) intro() string {
	return fmt.Sprintf("The files of the computer %q are backed up, encrypted. With this sheet, and access to where the backups are, "+
		"anybody can read them: keep it like a key to your home, apart from the computer and from the backups.", s.Host)
}

func (s *Sheet) steps() []step {
	first := shellQuote(s.Repositories[0].Address)
	steps := []step{
		{text: "Take any computer, and get the program backup-handler, version 3 or later, for it. It is one file, and needs no installation. Where to find it: " + project},
		{text: access(&s.Repositories[0])},
		{text: "Open a terminal (a command prompt), go to the directory of the program, and list what there is:",
			command: "backup-handler snapshots --recovery-key --backup-dirs " + first,
			after: "It asks for the four lines of the key below, one after the other. Capitals and spaces do not matter. A line that is mistyped is named. " +
				"Instead of typing: scan the code with a telephone, save its text in a file, key.txt say, and write --key-file key.txt in place of --recovery-key."},
		{text: "Get the files back, as they were at the last backup, into a new directory on a disk with enough room; /restored is an example of its name:",
			command: "backup-handler restore latest --to /restored --host " + shellQuote(s.Host) + " --recovery-key --backup-dirs " + first,
			after:   `For an older state write its date in place of latest, as "2026-02-28 03:00", or its ID from the list of step 3.`},
		{text: "Every byte is checked on its way. At the end the program says what it has restored, or by name what it could not."},
	}
	if len(s.Repositories) > 1 {
		steps[1].text += " If this one is lost, take another of the list above: each has everything."
	}
	return steps
}

// access says how to reach a repository.
func access(r *Repository) string {
	u, err := url.Parse(r.Address)
	if !strings.Contains(r.Address, "://") || err != nil {
		u = &url.URL{Scheme: "file"}
	}
	const notHere = ", which is not on this sheet"
	var text string
	switch u.Scheme {
	case "file":
		return "Connect the disk with the backups to it. Their directory was " + r.Address + " on the computer that was backed up; if it has another name now, write that in the commands below."
	case "sftp", "ssh":
		return "The backups are on the server " + u.Hostname() + ". You need a login for it by SSH (a key in the directory .ssh, or a password), and its host key in .ssh/known_hosts; neither is on this sheet."
	case "s3":
		text = "The backups are in the bucket " + u.Host + " of a store that speaks S3. You need an access key for it" + notHere + ": set the variables AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
	case "gs":
		text = "The backups are in the bucket " + u.Host + " of Google Cloud Storage. You need credentials for it" + notHere + ": set the variable GOOGLE_APPLICATION_CREDENTIALS to the name of the file that holds them."
	case "azblob":
		container, account := u.Host, ""
		if u.User != nil {
			container, account = u.User.Username(), " of the account "+u.Host
		}
		text = "The backups are in the container " + container + account + " in Azure Blob Storage. You need the account's key" + notHere + ": set the variables AZURE_STORAGE_ACCOUNT and AZURE_STORAGE_KEY."
	default:
		return "The backups are at " + r.Address + ". What is needed to reach that is not on this sheet."
	}
	if r.Endpoint != "" {
		section := map[string]string{"s3": "S3", "gs": "GCS", "azblob": "AZURE"}[u.Scheme]
		text += fmt.Sprintf(" The store is %s: write a file config.ini of the two lines [%s] and endpoint = %s, and add --config config.ini to the commands below.", r.Endpoint, section, r.Endpoint)
	}
	return text
}

func (s *Sheet) ifLost() string {
	var slots []string
	for _, r := range s.Repositories {
		slots = append(slots, "backup-handler key remove "+r.Slot)
	}
	return "If this sheet is lost, or somebody has seen it: make a new one (backup-handler key sheet), then remove the key of this one with another key (" +
		strings.Join(slots, ", ") + "). Somebody who has copied the repository with the old key in it can still read that copy."
}

// windowsPath is such as C:\x or \\server\x.
var windowsPath = lazyregexp.New(`^([A-Za-z]:|\\)\\`)

// shellQuote makes one word of it for the shell that is likely to be used.
func shellQuote(s string) string {
	switch {
	case s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/.:_-+@,=") == "":
		return s
	case windowsPath().MatchString(s), !strings.ContainsAny(s, "\"$`\\!"):
		return `"` + s + `"`
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
