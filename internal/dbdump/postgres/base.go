package postgres

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/dbdump"
)

// BaseName is the file of a base backup with the Base. It is written last.
const BaseName = "base.json"

const (
	dataDir      = "data/"           // what is in the data directory
	configDir    = "config/"         // configuration that is elsewhere, as on Debian
	manifestFile = "backup_manifest" // PostgreSQL's own, with the SHA-256 of each file
)

// A Base says what a base backup is: the files of a server, copied while it worked. They
// are a database again once its log from Start to Stop is applied, at least.
type Base struct {
	Kind     string    `json:"kind"` // "postgresql-base"
	Server   string    `json:"server"`
	Program  string    `json:"program"`
	Address  string    `json:"address"`
	System   string    `json:"system"` // identifier of the cluster
	Timeline uint32    `json:"timeline"`
	Start    LSN       `json:"start"`
	Stop     LSN       `json:"stop"`
	Begun    time.Time `json:"begun"` // by the server's clock
	Ended    time.Time `json:"ended"` // likewise; no moment before can be restored
	// SegmentBytes is the length of a file of its log.
	SegmentBytes int64 `json:"segment_bytes"`
	// Directories are all of them: some are empty, and needed.
	Directories []string `json:"directories"`
	GroupRead   bool     `json:"group_read,omitempty"` // the group of its owner can read it
	Files       int      `json:"files"`
	Bytes       int64    `json:"bytes"`
}

// BaseOptions say how a base backup is made.
type BaseOptions struct {
	// Fast makes the server write a checkpoint at once, instead of at its leisure.
	Fast bool
	// BytesPerSecond limits what the server reads and sends; 0: no limit. PostgreSQL
	// takes 32 KiB to 1 GiB.
	BytesPerSecond int64

	Warn   func(string)                   // what is not an error, one line; nil: nobody
	OnFile func(name string, bytes int64) // a file begins; nil: nobody
}

// BaseBackup writes a base backup. The server has to archive its log: without that the
// copy is worth nothing.
//
// If it fails, what it has written is not a base backup, and base.json is missing.
func BaseBackup(ctx context.Context, s *Server, to dbdump.Sink, o BaseOptions) (*Base, error) {
	p, err := s.find(ctx, "pg_basebackup", 0)
	if err != nil {
		return nil, err
	}
	t, err := s.connect(ctx, "")
	if err != nil {
		return nil, err
	}
	defer func() { t.close() }()
	info, err := t.info()
	if err != nil {
		return nil, err
	}
	if info.major() < 13 {
		return nil, &dbdump.Error{Err: fmt.Errorf("%s makes base backups without a manifest", info.Text), Hint: "13 is the oldest version that base backups can be made of; dumps can be made of 12"}
	}
	if p.major() < info.major() {
		return nil, &dbdump.Error{Err: fmt.Errorf("pg_basebackup is of version %d, the server of version %d: it must not be older", p.major(), info.major()),
			Hint: fmt.Sprintf("install the programs of version %d (on Debian: apt-get install postgresql-client-%d)", info.major(), info.major())}
	}
	b := &Base{Kind: "postgresql-base", Server: info.Text, Program: p.text, Address: s.Address()}
	if err := t.lookBase(b, info, warner(o.Warn)); err != nil {
		return nil, err
	}
	args := []string{"--pgdata=-", "--format=tar", "--wal-method=none", "--manifest-checksums=SHA256", "--no-password", "--label=backup-handler"}
	if o.Fast {
		args = append(args, "--checkpoint=fast")
	}
	if o.BytesPerSecond > 0 {
		args = append(args, fmt.Sprintf("--max-rate=%dk", o.BytesPerSecond>>10))
	}
	c, err := s.child(p, "", args...)
	if err != nil {
		return nil, err
	}
	u := &untar{to: to, base: b, onFile: o.OnFile, sizes: map[string]int64{}}
	c.Stdout = u
	waiting := false
	c.OnLine = func(line string) {
		switch {
		case strings.Contains(line, "still waiting for all required WAL"):
			if !waiting { // it counts seconds that are none
				warner(o.Warn)("the server waits until its log is archived: does its archive_command work? (pg_stat_archiver)")
			}
			waiting = true
		case strings.Contains(line, "WARNING:"):
			warner(o.Warn)(prefixRE().ReplaceAllString(line, ""))
		}
	}
	if err := s.explain(c.Run(ctx)); err != nil {
		return nil, err
	}
	if err := u.check(); err != nil {
		return nil, err
	}
	// The session may not have lived as long as that took.
	t.close()
	if t, err = s.connect(ctx, ""); err != nil {
		return nil, err
	}
	var now []struct{ Now time.Time }
	if err := t.rows("SELECT clock_timestamp() AS now", &now); err != nil {
		return nil, err
	}
	b.Ended = now[0].Now
	if err := t.configuration(to, info); err != nil {
		return nil, err
	}
	text, err := json.MarshalIndent(b, "", "\t")
	if err != nil {
		return nil, err
	}
	if _, err := writeFile(to, BaseName, append(text, '\n')); err != nil {
		return nil, err
	}
	return b, nil
}

// lookBase checks what would make a base backup impossible, or worthless.
func (t *session) lookBase(b *Base, info *serverInfo, warn func(string)) error {
	var r []struct {
		Spaces  []string  `json:"spaces"`
		Mode    string    `json:"mode"`
		Command string    `json:"command"`
		Library string    `json:"library"`
		Segment int64     `json:"segment"`
		System  string    `json:"system"`
		Now     time.Time `json:"now"`
	}
	err := t.rows(`SELECT (SELECT json_agg(spcname) FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global')) AS spaces,
	current_setting('archive_mode') AS mode, current_setting('archive_command', true) AS command, current_setting('archive_library', true) AS library,
	pg_size_bytes(current_setting('wal_segment_size')) AS segment, (SELECT system_identifier::text FROM pg_control_system()) AS system, clock_timestamp() AS now`, &r)
	if err != nil {
		return err
	}
	b.SegmentBytes, b.System, b.Begun = r[0].Segment, r[0].System, r[0].Now
	if len(r[0].Spaces) > 0 {
		return &dbdump.Error{Err: fmt.Errorf("the server has tablespaces (%s), which base backups do not cover: pg_basebackup prints a server without any only, and would need a directory with room for all of it", strings.Join(r[0].Spaces, ", ")),
			Hint: "move what is in them to the default one, or make dumps"}
	}
	off := r[0].Command == "" || r[0].Command == "(disabled)"
	if r[0].Mode == "off" || off && r[0].Library == "" {
		return &dbdump.Error{Err: errors.New("the server does not archive its log: a base backup could not be restored without it"),
			Hint: "set archive_mode = on and archive_command in its configuration, and restart it"}
	}
	if info.Recovery && r[0].Mode != "always" {
		warn("this is a standby that does not archive its log: what this base backup needs has to come from its primary")
	}
	return nil
}

// configuration stores configuration files that are not in the data directory, if they may
// be read.
func (t *session) configuration(to dbdump.Sink, info *serverInfo) error {
	if !info.Super {
		return nil
	}
	var files []struct{ Name, Content string }
	err := t.rows(`SELECT CASE name WHEN 'config_file' THEN 'postgresql.conf' WHEN 'hba_file' THEN 'pg_hba.conf' ELSE 'pg_ident.conf' END AS name,
	translate(encode(pg_read_binary_file(setting, 0, 1048576, true), 'base64'), E'\n', '') AS content
FROM pg_settings WHERE name IN ('config_file', 'hba_file', 'ident_file') AND NOT starts_with(setting, current_setting('data_directory') || '/')`, &files)
	if err != nil {
		return err
	}
	for _, f := range files {
		b, err := base64.StdEncoding.DecodeString(f.Content)
		if err != nil {
			return err
		}
		if _, err := writeFile(to, configDir+f.Name, b); err != nil {
			return err
		}
	}
	return nil
}

// An untar writes the files of a tar to a sink as they pass by. It is the output of a
// [dbdump.Child].
type untar struct {
	to       dbdump.Sink
	base     *Base
	onFile   func(string, int64)
	sizes    map[string]int64
	label    bytes.Buffer
	manifest bytes.Buffer
}

// copyBytes is the size of the pieces in which files are copied.
const copyBytes = 256 << 10

// maxManifest bounds a backup_manifest: 200 bytes for each of a million files, and more.
const maxManifest = 512 << 20

func (u *untar) Write([]byte) (int, error) { return 0, errors.ErrUnsupported }

func (u *untar) ReadFrom(r io.Reader) (int64, error) {
	widen(r)
	in := tar.NewReader(r)
	buf := make([]byte, copyBytes)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			// What is behind the end has to be read, or the program fails.
			_, err = io.Copy(io.Discard, r)
			return 0, err
		}
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return 0, nil // pg_basebackup says why; check finds it, too
		}
		if err != nil {
			return 0, fmt.Errorf("read what pg_basebackup prints: %w", err)
		}
		name := strings.TrimSuffix(strings.TrimPrefix(h.Name, "./"), "/")
		switch {
		case name == "" || name == ".":
		case !fs.ValidPath(name):
			return 0, &dbdump.Error{Err: fmt.Errorf("the data directory has a file %q, which is none of PostgreSQL's", name), Hint: "remove it"}
		case h.Typeflag == tar.TypeDir:
			u.base.Directories = append(u.base.Directories, name)
		case h.Typeflag == tar.TypeReg:
			if err := u.file(in, name, h, buf); err != nil {
				if errors.Is(err, io.ErrUnexpectedEOF) {
					return 0, nil
				}
				return 0, err
			}
		default:
			return 0, &dbdump.Error{Err: fmt.Errorf("the data directory has %q, which is no file and no directory", name), Hint: "base backups do not cover tablespaces and links"}
		}
	}
}

func (u *untar) file(in io.Reader, name string, h *tar.Header, buf []byte) error {
	if u.onFile != nil {
		u.onFile(name, h.Size)
	}
	switch name {
	case "PG_VERSION":
		u.base.GroupRead = h.Mode&0o040 != 0
	case "backup_label":
		in = io.TeeReader(in, &limited{&u.label, maxOther})
	case manifestFile:
		in = io.TeeReader(in, &limited{&u.manifest, maxManifest})
	}
	w, err := u.to.Create(dataDir + name)
	if err != nil {
		return err
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{in}, buf)
	if err := errors.Join(err, w.Close()); err != nil {
		return err
	}
	u.sizes[name] = n
	u.base.Files++
	u.base.Bytes += n
	return nil
}

// A backupManifest is PostgreSQL's own list of what a base backup is.
type backupManifest struct {
	Files []manifestEntry
	WAL   []struct {
		Timeline uint32
		Start    LSN `json:"Start-LSN"`
		End      LSN `json:"End-LSN"`
	} `json:"WAL-Ranges"`
}

type manifestEntry struct {
	Path      string
	Encoded   string `json:"Encoded-Path"`
	Size      int64
	Algorithm string `json:"Checksum-Algorithm"`
	Checksum  string
}

func parseManifest(b []byte) (*backupManifest, error) {
	m := new(backupManifest)
	if err := json.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("read %s: %w", manifestFile, err)
	}
	for i := range m.Files {
		if e := m.Files[i].Encoded; e != "" {
			p, err := hex.DecodeString(e)
			if err != nil {
				return nil, fmt.Errorf("read %s: %w", manifestFile, err)
			}
			m.Files[i].Path = string(p)
		}
	}
	if len(m.Files) == 0 || len(m.WAL) == 0 {
		return nil, fmt.Errorf("read %s: it lists nothing", manifestFile)
	}
	return m, nil
}

// check compares what came with what PostgreSQL says that it has sent.
func (u *untar) check() error {
	if u.manifest.Len() == 0 {
		return errors.New("pg_basebackup: its output is not complete")
	}
	m, err := parseManifest(u.manifest.Bytes())
	if err != nil {
		return err
	}
	for _, f := range m.Files {
		if n, ok := u.sizes[f.Path]; !ok || n != f.Size {
			return fmt.Errorf("pg_basebackup: its output lacks the file %q", f.Path)
		}
	}
	last := m.WAL[len(m.WAL)-1]
	u.base.Start, u.base.Stop, u.base.Timeline = m.WAL[0].Start, last.End, last.Timeline
	// The label says from where recovery starts: it is what counts.
	for line := range strings.Lines(u.label.String()) {
		if rest, ok := strings.CutPrefix(line, "START WAL LOCATION: "); ok {
			at, _, _ := strings.Cut(rest, " ")
			if u.base.Start, err = ParseLSN(at); err != nil {
				return err
			}
		}
		if rest, ok := strings.CutPrefix(line, "START TIMELINE: "); ok {
			n, err := strconv.ParseUint(strings.TrimSpace(rest), 10, 32)
			if err != nil {
				return fmt.Errorf("backup_label: %w", err)
			}
			u.base.Timeline = uint32(n)
		}
	}
	return nil
}
