package journal

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/durable"
)

// Bounds of the audit log.
const (
	// maxAuditFileBytes is where audit.log is rotated: some 50,000 records.
	maxAuditFileBytes = 20 << 20
	// maxRecordBytes bounds one line. Records are a few hundred bytes.
	maxRecordBytes = 64 << 10
	// maxSeq is the largest number that every reader of JSON can hold.
	maxSeq = 1 << 53
	// tailBytes is how far back from the end the last record is looked for: it
	// covers the longest record and what a crash may leave behind it.
	tailBytes = 1 << 20
	// lockWait is how long to wait for other processes. Each holds the
	// lock for a few flushes of the disk.
	lockWait = 30 * time.Second
	lockPoll = 5 * time.Millisecond
)

const (
	auditName     = "audit.log"
	auditHeadName = "audit.head"
	auditLockName = "audit.lock"
)

// A Record is one line of the audit log.
type Record struct {
	Seq      uint64    `json:"seq"`  // from 1
	Prev     string    `json:"prev"` // SHA-256 of the line before, hexadecimal
	Time     time.Time `json:"time"` // UTC
	RunID    string    `json:"run_id"`
	Event    string    `json:"event"`
	User     string    `json:"user"`
	Host     string    `json:"host"`
	PID      int       `json:"pid"`
	TornTail *TornTail `json:"torn_tail,omitempty"`
	// Mismatch says that the log did not end where audit.head said when this
	// record was added.
	Mismatch string         `json:"mismatch,omitempty"`
	Fields   map[string]any `json:"fields,omitempty"`
}

// A TornTail describes what stands between the record that holds it and the one
// before: the remains of a line that a crash cut short, without the line end
// that follows them.
type TornTail struct {
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// head is the content of audit.head.
type head struct {
	Seq    uint64 `json:"seq"`
	SHA256 string `json:"sha256"`
}

// zeroHash is what the first record has for the line before.
var zeroHash = strings.Repeat("0", 2*sha256.Size)

func hashLine(line []byte) string {
	sum := sha256.Sum256(line)
	return hex.EncodeToString(sum[:])
}

// parseRecord reads a line without its line end. It tells records from what a
// crash leaves; whether a record is in its place is for the chain to say.
func parseRecord(line []byte) (Record, bool) {
	var r Record
	if len(line) > maxRecordBytes || json.Unmarshal(line, &r) != nil {
		return Record{}, false
	}
	sum, err := hex.DecodeString(r.Prev)
	return r, err == nil && len(sum) == sha256.Size && 0 < r.Seq && r.Seq <= maxSeq && r.Event != ""
}

// AuditOptions says where the audit log is and who writes to it.
type AuditOptions struct {
	Dir   string // state directory; the log is Logs/audit.log in it
	RunID string
	User  string
	Host  string
	Now   func() time.Time // nil is time.Now
	// MaxFileBytes is where the file is rotated; 0 is 20 MiB.
	MaxFileBytes int64
}

// An Audit appends to the audit log. It may be used concurrently, and so may
// several of them, in this and other processes on the same machine.
type Audit struct {
	o   AuditOptions
	dir string // of the logs
}

// OpenAudit makes the directory of the log if need be. It holds nothing open.
func OpenAudit(o AuditOptions) (*Audit, error) {
	dir, err := makeLogsDir(o.Dir)
	if err != nil {
		return nil, err
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.MaxFileBytes == 0 {
		o.MaxFileBytes = maxAuditFileBytes
	}
	return &Audit{o, dir}, nil
}

// Append adds a record and returns when it is on the disk. After an error the
// record may or may not be there; the log can be appended to in any case. A
// record of more than 64 KiB is refused.
//
// Fields are stored as JSON: errors as their text, durations as "1m30s", groups
// as objects.
func (a *Audit) Append(event string, fields ...slog.Attr) error {
	if err := a.append(event, fields); err != nil {
		return fmt.Errorf("audit %s: %w", event, err)
	}
	return nil
}

func (a *Audit) append(event string, fields []slog.Attr) error {
	if event == "" {
		return errors.New("a record needs an event")
	}
	lock, err := waitLock(filepath.Join(a.dir, auditLockName))
	if err != nil {
		return err
	}
	defer lock.Unlock()

	end, err := a.findEnd()
	if err != nil {
		return err
	}
	h, hasHead, headErr := readHead(a.dir)
	if isIOError(headErr) {
		return headErr // no sign of tampering, so not to be recorded for ever
	}
	line, err := json.Marshal(Record{
		Seq:      max(end.seq, h.Seq) + 1,
		Prev:     end.hash,
		Time:     a.o.Now().UTC(),
		RunID:    a.o.RunID,
		Event:    event,
		User:     a.o.User,
		Host:     a.o.Host,
		PID:      os.Getpid(),
		TornTail: end.torn,
		Mismatch: mismatch(end, h, hasHead, headErr),
		Fields:   fieldMap(fields),
	})
	if err != nil {
		return err
	}
	if len(line) > maxRecordBytes {
		return fmt.Errorf("the record has %d bytes, more than %d", len(line), maxRecordBytes)
	}
	if err := a.rotate(end); err != nil {
		return fmt.Errorf("rotate the log: %w", err)
	}
	text := slices.Concat(line, []byte("\n"))
	if end.unfinished {
		text = slices.Concat([]byte("\n"), text)
	}
	if err := appendFile(filepath.Join(a.dir, auditName), text); err != nil {
		return err
	}
	return writeHead(a.dir, head{max(end.seq, h.Seq) + 1, hashLine(line)})
}

// appendFile adds text to a file, which it makes if need be, and flushes it.
func appendFile(name string, text []byte) error {
	log, err := durable.OpenLog(name, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(log.Append(text), log.Close())
}

func waitLock(name string) (*durable.Lock, error) {
	for start := time.Now(); ; time.Sleep(lockPoll) {
		lock, err := durable.TryLock(name)
		if !errors.Is(err, durable.ErrLocked) || time.Since(start) > lockWait {
			return lock, err
		}
	}
}

func fieldMap(fields []slog.Attr) map[string]any {
	m := make(map[string]any, len(fields))
	for _, f := range fields {
		switch v := f.Value.Resolve(); v.Kind() {
		case slog.KindGroup:
			m[f.Key] = fieldMap(v.Group())
		case slog.KindDuration:
			m[f.Key] = v.Duration().String()
		default:
			m[f.Key] = v.Any()
			if err, ok := v.Any().(error); ok {
				m[f.Key] = err.Error()
			}
		}
	}
	return m
}

func readHead(dir string) (h head, exists bool, err error) {
	data, err := os.ReadFile(filepath.Join(dir, auditHeadName))
	if errors.Is(err, fs.ErrNotExist) {
		return head{}, false, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &h)
	}
	if err == nil && (h.Seq == 0 || h.Seq > maxSeq) {
		err = fmt.Errorf("%s: no record can have number %d", auditHeadName, h.Seq)
	}
	if err != nil {
		return head{}, true, err
	}
	return h, true, nil
}

// isIOError tells a file that cannot be read from one that reads wrong.
func isIOError(err error) bool {
	var path *fs.PathError
	return errors.As(err, &path)
}

func writeHead(dir string, h head) error {
	data, err := json.Marshal(h)
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, auditHeadName), append(data, '\n'), 0o600)
}

// mismatch compares the end of the log with what audit.head says of it, and
// returns what is wrong. A head that is one record behind is what a crash
// leaves.
func mismatch(end logEnd, h head, hasHead bool, headErr error) string {
	switch {
	case headErr != nil:
		return auditHeadName + " cannot be read"
	case !hasHead && end.seq > 1:
		return auditHeadName + " is missing"
	case !hasHead:
		return ""
	case h.Seq == end.seq && h.SHA256 == end.hash, h.Seq+1 == end.seq && h.SHA256 == end.prev:
		return ""
	case h.Seq > end.seq:
		return fmt.Sprintf("the log ends with record %d, but record %d had been written", end.seq, h.Seq)
	}
	return fmt.Sprintf("the log ends with record %d, which does not follow from record %d as it had been written", end.seq, h.Seq)
}

// A logEnd is the last record of the log, and what follows it.
type logEnd struct {
	seq  uint64 // 0 if there is no record
	hash string // of its line
	prev string // what it says of the line before

	size       int64     // of audit.log
	torn       *TornTail // what follows the record; nil for nothing
	unfinished bool      // the file does not end with a line end
}

// findEnd looks for the last record in audit.log, or if that holds none in the
// file that was rotated last.
func (a *Audit) findEnd() (logEnd, error) {
	start := logEnd{hash: zeroHash, prev: zeroHash}
	end, err := findEndOf(filepath.Join(a.dir, auditName), start)
	if err != nil || end.seq > 0 {
		return end, err
	}
	rotated, err := rotatedFiles(a.dir)
	if err != nil || len(rotated) == 0 {
		return end, err
	}
	last, err := findEndOf(filepath.Join(a.dir, rotated[len(rotated)-1]), start)
	if err != nil {
		return logEnd{}, err
	}
	return findEndOf(filepath.Join(a.dir, auditName), logEnd{seq: last.seq, hash: last.hash, prev: last.prev})
}

// findEndOf finds the end of one file, which goes on from the record before.
// Without a record in its last tailBytes, all of the file is torn.
func findEndOf(name string, before logEnd) (logEnd, error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return before, nil
	}
	if err != nil {
		return logEnd{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return logEnd{}, err
	}
	end := before
	end.size = info.Size()
	from := max(0, end.size-tailBytes) // where the window starts in the file
	tail, err := io.ReadAll(io.NewSectionReader(f, from, end.size-from))
	if err != nil {
		return logEnd{}, err
	}
	tornFrom := int64(0)
	if line, stop := lastRecord(tail, from == 0); line != nil {
		r, _ := parseRecord(line)
		end.seq, end.prev, end.hash = r.Seq, r.Prev, hashLine(line)
		tornFrom = from + int64(stop)
	}
	whole := from + int64(bytes.LastIndexByte(tail, '\n')+1) // where the last line end is behind
	end.unfinished = whole < end.size
	if end.torn, err = describeTorn(f, tornFrom, whole); err != nil {
		return logEnd{}, err
	}
	if !end.unfinished {
		return end, nil
	}
	last := tail[whole-from:]
	if r, ok := parseRecord(last); ok && r.Seq == end.seq+1 && r.Prev == end.hash && equal(r.TornTail, end.torn) {
		// All of it is there, and only its line end is missing.
		end.seq, end.prev, end.hash, end.torn = r.Seq, r.Prev, hashLine(last), nil
		return end, nil
	}
	end.torn, err = describeTorn(f, tornFrom, end.size)
	return end, err
}

// lastRecord finds the last line of text that ends and is a record, and the
// offset behind it. The first line only counts if text begins with it.
func lastRecord(text []byte, first bool) (line []byte, stop int) {
	for stop = bytes.LastIndexByte(text, '\n') + 1; stop > 0; {
		start := bytes.LastIndexByte(text[:stop-1], '\n') + 1
		if start == 0 && !first {
			break
		}
		if _, ok := parseRecord(text[start : stop-1]); ok {
			return text[start : stop-1], stop
		}
		stop = start
	}
	return nil, 0
}

func equal(a, b *TornTail) bool { return a == b || a != nil && b != nil && *a == *b }

// describeTorn describes the bytes of a file from one offset to another, less
// one line end; nil if there are none.
func describeTorn(f *os.File, from, to int64) (*TornTail, error) {
	if from == to {
		return nil, nil
	}
	var last [1]byte
	if _, err := f.ReadAt(last[:], to-1); err != nil {
		return nil, err
	}
	if last[0] == '\n' {
		to--
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(f, from, to-from)); err != nil {
		return nil, err
	}
	return &TornTail{Bytes: to - from, SHA256: hex.EncodeToString(sum.Sum(nil))}, nil
}

// rotate renames a full audit.log. One that a crash has torn first gets the
// record that says so: a rotated file always ends with a record.
func (a *Audit) rotate(end logEnd) error {
	if end.size < a.o.MaxFileBytes || end.torn != nil || end.unfinished {
		return nil
	}
	name := filepath.Join(a.dir, rotatedName(end.seq))
	if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", name, cmp.Or(err, fs.ErrExist))
	}
	if err := os.Rename(filepath.Join(a.dir, auditName), name); err != nil {
		return err
	}
	return durable.SyncDir(a.dir)
}

func rotatedName(seq uint64) string { return fmt.Sprintf("audit-%012d.log", seq) }

// rotatedFiles returns the names of the rotated files, oldest first.
func rotatedFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	seqs := make(map[string]uint64)
	var names []string
	for _, e := range entries {
		digits, ok := strings.CutSuffix(strings.TrimPrefix(e.Name(), "audit-"), ".log")
		seq, err := strconv.ParseUint(digits, 10, 64)
		if ok && err == nil && e.Name() == rotatedName(seq) {
			names, seqs[e.Name()] = append(names, e.Name()), seq
		}
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Compare(seqs[a], seqs[b]) })
	return names, nil
}
