// Package journal records what the program did: the application log, for
// people who look for a cause, and the audit log, for those who must be able to
// tell afterwards whether the record is whole.
//
// Both live in the directory Logs of the state directory, 0700, files 0600. The
// package knows nothing of backups: events and fields are the caller's, who
// never passes a secret. Values that know how to hide themselves (a
// slog.LogValuer, a json.Marshaler) are asked to.
//
// # The audit log
//
// audit.log is a file of lines, each a JSON object (see [Record]) with a
// sequence number, from 1, and the SHA-256 of the line before, without its line
// end; the first holds 64 zeros. At 20 MiB it is renamed to audit-N.log, N being
// the number of its last record, and the chain goes on in a new file. Nothing is
// ever removed.
//
// audit.head holds the number and the hash of the last line, so that a log that
// was cut off at its end is noticed. It is written after the line; a crash in
// between leaves it one record behind, which is in order.
//
// A crash while a line is written can leave a part of it. That part stays: the
// next record says how long it is and what its SHA-256 is (torn_tail). A line
// that only lacks its line end is given one, and counts.
//
// What this proves: whoever changes, removes, inserts or swaps lines, or cuts
// off the end, without also redoing every later line and audit.head, is found
// out by [Verify]; and a record written after such a change says so (mismatch).
// What it does not prove: whoever can write to the directory can redo all of it,
// and the result is consistent, for no secret is involved. Against that only a
// copy of audit.head elsewhere helps, on paper or on another host: every later
// state of a true log still contains that line.
//
// # The record of runs
//
// runs.jsonl has a line for each run that starts and one for each that ends (see
// [Run] and [Runs]); at 16 MiB the older half goes. It is for people and programs
// that ask how the last runs went, and proves nothing.
//
// Writers take turns through audit.lock, runs.lock (and application.log.lock, to rotate).
//
// Files: journal.go (run IDs, the directory), log.go (application log), syslog_linux.go (the
// system's), audit.go
// (records and appending), verify.go, run.go (records of runs).
package journal

import (
	"encoding/hex"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/durable"
)

// NewRunID names a run: its start in UTC and three random bytes, such as
// 20261124T003208Z-ab12cd. Run IDs sort by time, to the second.
func NewRunID(start time.Time, random io.Reader) (string, error) {
	var b [3]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return "", fmt.Errorf("make a run ID: %w", err)
	}
	return start.UTC().Format("20060102T150405Z") + "-" + hex.EncodeToString(b[:]), nil
}

// logsDir returns the directory of the logs, in a state directory.
func logsDir(stateDir string) string { return filepath.Join(stateDir, "Logs") }

// makeLogsDir makes it, and the state directory too.
func makeLogsDir(stateDir string) (string, error) {
	dir := logsDir(stateDir)
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make the directory of the logs: %w", err)
	}
	return dir, nil
}
