package journal

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// A Report says what [Verify] has seen.
type Report struct {
	Files    int       `json:"files"`
	Records  uint64    `json:"records"`
	Last     time.Time `json:"last"`   // time of the last record
	SHA256   string    `json:"sha256"` // of the last record; to be kept elsewhere
	Warnings []string  `json:"warnings,omitempty"`
}

// A Damage is what was done to an audit log.
type Damage string

// What can be wrong with an audit log.
const (
	Edited    Damage = "edited"    // a line is not what it was
	Removed   Damage = "removed"   // lines are missing
	Reordered Damage = "reordered" // lines are not in their order, or there twice
	Truncated Damage = "truncated" // the end is missing
)

// A DamageError names the first bad line of an audit log.
type DamageError struct {
	File    string // base name
	Line    int    // from 1; 0 for the file as a whole
	Damage  Damage
	Problem string // one sentence
}

func (e *DamageError) Error() string {
	at := e.File
	if e.Line > 0 {
		at = fmt.Sprintf("%s:%d", e.File, e.Line)
	}
	return fmt.Sprintf("audit log: %s: %s: %s", at, e.Damage, e.Problem)
}

// Verify checks the whole audit log of a state directory. Damage is a
// *[DamageError], which names the first bad line, together with a report of
// what came before it. A log that does not exist is fs.ErrNotExist.
//
// It waits for processes that append. Where it may not take the lock, in a
// read-only copy for example, it goes without and says so in a warning.
func Verify(stateDir string) (Report, error) {
	dir := logsDir(stateDir)
	var v verifier
	if lock, err := waitLock(filepath.Join(dir, auditLockName)); err == nil {
		defer lock.Unlock()
	} else if !errors.Is(err, fs.ErrNotExist) {
		v.warn("not locked (%v): a record that is being written may look torn", err)
	}
	err := v.verify(dir)
	return v.report, err
}

type verifier struct {
	report Report
	dir    string
	file   string // base name
	line   int

	seq        uint64 // of the last record
	hash, prev string // its line's, and what it says of the one before
	lastFile   string // its place
	lastLine   int
	torn       *tornLines // what follows it; nil for nothing
}

func (v *verifier) warn(format string, args ...any) {
	v.report.Warnings = append(v.report.Warnings, fmt.Sprintf(format, args...))
}

func (v *verifier) damage(d Damage, format string, args ...any) error {
	return &DamageError{v.file, v.line, d, fmt.Sprintf(format, args...)}
}

func (v *verifier) verify(dir string) error {
	v.dir, v.hash, v.prev = dir, zeroHash, zeroHash
	files, err := rotatedFiles(dir)
	if err != nil {
		return fmt.Errorf("verify the audit log: %w", err)
	}
	for i, name := range append(files, auditName) {
		err := v.verifyFile(name)
		if errors.Is(err, fs.ErrNotExist) && i == len(files) {
			break // a crash in a rotation, or no log at all: the head tells
		}
		if err != nil {
			return err
		}
		if v.torn != nil && i < len(files) {
			return v.torn.damage()
		}
	}
	return v.verifyHead()
}

func (v *verifier) verifyFile(name string) error {
	f, err := os.Open(filepath.Join(v.dir, name))
	if err != nil {
		return fmt.Errorf("verify the audit log: %w", err)
	}
	defer f.Close()
	v.report.Files++
	v.file, v.line = name, 0
	lines := bufio.NewReaderSize(f, maxRecordBytes+1)
	for {
		v.line++
		line, err := lines.ReadSlice('\n')
		if len(line) > 0 {
			if err := v.verifyLine(line, lines); err != nil {
				return err
			}
		}
		for errors.Is(err, bufio.ErrBufferFull) {
			line, err = lines.ReadSlice('\n')
			v.torn.write(line)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("verify the audit log: %w", err)
		}
	}
}

// verifyLine takes one line, with its line end if it has one. rest is what
// follows it.
func (v *verifier) verifyLine(line []byte, rest *bufio.Reader) error {
	text, ended := bytes.CutSuffix(line, []byte("\n"))
	r, ok := parseRecord(text)
	if !ok || !ended {
		if v.torn == nil {
			v.torn = &tornLines{file: v.file, line: v.line, sum: sha256.New()}
		}
		v.torn.write(line)
		return nil
	}
	if v.torn != nil {
		if r.TornTail == nil || *r.TornTail != v.torn.describe() {
			return v.torn.damage()
		}
		v.warn("%s:%d: %d bytes of a line that a crash cut short, noted by record %d", v.torn.file, v.torn.line, v.torn.bytes, r.Seq)
	} else if r.TornTail != nil {
		return v.damage(Removed, "record %d notes %d bytes of a torn line before it, which are not there", r.Seq, r.TornTail.Bytes)
	}
	switch {
	case r.Mismatch != "" && r.Seq > v.seq+1:
		return v.damage(Truncated, "when record %d was written, %s", r.Seq, r.Mismatch)
	case r.Mismatch != "":
		return v.damage(Edited, "when record %d was written, %s", r.Seq, r.Mismatch)
	case r.Seq <= v.seq:
		return v.damage(Reordered, "record %d comes after record %d", r.Seq, v.seq)
	case r.Seq > v.seq+1 && comesLater(v.seq+1, rest):
		return v.damage(Reordered, "record %d comes before record %d", r.Seq, v.seq+1)
	case r.Seq > v.seq+1:
		return v.damage(Removed, "records %d to %d are missing before record %d", v.seq+1, r.Seq-1, r.Seq)
	case r.Prev != v.hash && v.seq == 0:
		return v.damage(Edited, "record 1 does not begin a chain")
	case r.Prev != v.hash:
		return &DamageError{v.lastFile, v.lastLine, Edited, fmt.Sprintf("record %d is not the one that record %d was added to", v.seq, r.Seq)}
	}
	v.seq, v.hash, v.prev, v.torn = r.Seq, hashLine(text), r.Prev, nil
	v.lastFile, v.lastLine = v.file, v.line
	v.report.Records++
	v.report.Last, v.report.SHA256 = r.Time, v.hash
	return nil
}

// comesLater tells whether the rest of a file holds record seq.
func comesLater(seq uint64, rest *bufio.Reader) bool {
	for {
		line, err := rest.ReadSlice('\n')
		if r, ok := parseRecord(bytes.TrimSuffix(line, []byte("\n"))); ok && r.Seq == seq {
			return true
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return false
		}
	}
}

// verifyHead compares the end of the log with audit.head.
func (v *verifier) verifyHead() error {
	h, exists, err := readHead(v.dir)
	if !exists && v.report.Files == 0 {
		return fmt.Errorf("verify the audit log: %s: %w", filepath.Join(v.dir, auditName), fs.ErrNotExist)
	}
	if isIOError(err) {
		return fmt.Errorf("verify the audit log: %w", err)
	}
	if problem := mismatch(logEnd{seq: v.seq, hash: v.hash, prev: v.prev}, h, exists, err); problem != "" {
		switch {
		case err != nil:
			return &DamageError{auditHeadName, 0, Edited, problem}
		case !exists:
			return &DamageError{auditHeadName, 0, Removed, problem}
		case h.Seq > v.seq:
			return &DamageError{auditName, 0, Truncated, problem}
		}
		return &DamageError{v.lastFile, v.lastLine, Edited, problem}
	}
	if h.Seq < v.seq {
		v.warn("%s is one record behind, as after a crash", auditHeadName)
	}
	if v.torn != nil {
		v.warn("%s:%d: %d bytes of a line that a crash cut short; the next record will note them", v.torn.file, v.torn.line, v.torn.bytes)
	}
	return nil
}

// tornLines are lines that are no records. Their line ends count, except that
// of the last.
type tornLines struct {
	file    string
	line    int
	sum     hash.Hash
	bytes   int64
	lineEnd bool // the last one, not yet counted
}

func (t *tornLines) write(piece []byte) {
	if t.lineEnd && len(piece) > 0 {
		t.sum.Write([]byte("\n"))
		t.bytes++
		t.lineEnd = false
	}
	piece, ended := bytes.CutSuffix(piece, []byte("\n"))
	t.sum.Write(piece)
	t.bytes += int64(len(piece))
	t.lineEnd = t.lineEnd || ended
}

func (t *tornLines) describe() TornTail {
	return TornTail{Bytes: t.bytes, SHA256: hex.EncodeToString(t.sum.Sum(nil))}
}

func (t *tornLines) damage() error {
	return &DamageError{t.file, t.line, Edited, "the line is not a record, and the record after it does not tell of a crash"}
}
