package preflight

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const (
	// probePrefix begins the names of probe files. Stores do not see names that begin
	// with a dot.
	probePrefix = ".backup-handler-probe-"
	// probeBytes is one block, so that a file system without room refuses it.
	probeBytes = 4096
)

// Writable checks that files can be made in a directory or, where it does not exist
// yet, in that in which it would be made, by making one and removing it.
func (m *Machine) Writable(ctx context.Context, path string) []Result {
	return m.within(ctx, CheckWritable, path, func() []Result {
		dir, err := existing(path)
		if err != nil {
			return []Result{refusedWrite(path, "", err)}
		}
		if info, err := os.Stat(dir); err == nil && !info.IsDir() {
			return []Result{{Check: CheckWritable, State: Refused, Subject: path, Text: dir + " is not a directory", Hint: "name a directory"}}
		}
		return []Result{probe(path, dir)}
	})
}

func probe(path, dir string) Result {
	name := filepath.Join(dir, probePrefix+strings.ToLower(rand.Text()))
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return refusedWrite(path, dir, err)
	}
	_, err = f.Write(make([]byte, probeBytes))
	if cerr := f.Close(); err == nil {
		err = cerr // where a network file system tells of a quota
	}
	rerr := os.Remove(name)
	if err != nil {
		return refusedWrite(path, dir, err)
	}
	r := Result{Check: CheckWritable, State: OK, Subject: path, Text: "a file can be made and removed"}
	if dir != filepath.Clean(path) {
		r.Text += " in " + dir
	}
	if rerr != nil {
		r.State, r.Text = Warning, fmt.Sprintf("a file can be made, and not removed: %v; %s is left", plain(rerr), name)
		r.Hint = "a backup can be made; 'prune' will not be able to free space"
	}
	return r
}

// refusedWrite says why no file can be made in dir, which is where path is or would be.
func refusedWrite(path, dir string, err error) Result {
	r := Result{Check: CheckWritable, State: Refused, Subject: path}
	switch {
	case isFull(err):
		r.Check, r.Text, r.Hint = CheckSpace, "it is full: not even a small file can be stored", fullHint
	case isQuota(err):
		r.Check, r.Text, r.Hint = CheckSpace, "this user's quota there is used up: not even a small file can be stored", "raise the quota, or "+fullHint
	case isReadOnly(err):
		r.Text, r.Hint = "it is mounted read-only", "mount it for writing; if the system did that by itself, 'dmesg' tells what is wrong with the disk"
	case os.IsPermission(err):
		r.Text, r.Hint = "this user may not make a file in "+dir, "give the directory to the user who makes the backups, or run as root"
	default:
		r.Text = fmt.Sprintf("no file can be made in %s: %v", dir, plain(err))
		r.Hint = trouble(err)
	}
	return r
}
