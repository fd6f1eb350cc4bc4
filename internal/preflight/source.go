package preflight

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// SourceOptions say what is known of a source.
type SourceOptions struct {
	// AllowEmpty accepts a directory without any entry.
	AllowEmpty bool
	// Had is the number of files that the last backup of it had; 0: none, or not known.
	Had int64
	// Hooked says that a hook comes before the backup, which may put there what is
	// missing: a snapshot of a file system. The backup itself refuses what then still is.
	Hooked bool
}

// afterHook is the result for what a hook may put right.
func (o *SourceOptions) afterHook(r Result) Result {
	if o.Hooked {
		r.State, r.Hint = Skipped, ""
		r.Text += " before the hook runs"
	}
	return r
}

// Source checks that a source is there, what should be mounted is, it can be read, and
// it is not empty. It reads one name of a directory, and nothing of a file.
func (m *Machine) Source(ctx context.Context, path string, o SourceOptions) []Result {
	// Nothing is mounted for a source: whatever it was, it was not asked for.
	mounted := m.Mounted(ctx, path, MountOptions{})
	if AnyRefused(mounted) {
		return mounted
	}
	return append(mounted, m.within(ctx, CheckSource, path, func() []Result { return []Result{source(path, o)} })...)
}

func source(path string, o SourceOptions) Result {
	r := Result{Check: CheckSource, State: Refused, Subject: path}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		r.Text, r.Hint = "it does not exist", "is its file system mounted? Correct the path, or take it out of the sources"
		return o.afterHook(r)
	case err != nil:
		r.Text, r.Hint = plain(err).Error(), "is its disk well, and may this user see it?"
		return r
	case !info.IsDir() && !info.Mode().IsRegular():
		r.Text, r.Hint = "it is neither a directory nor a file", "name the directory that holds it"
		return r
	}
	f, err := os.Open(path)
	if err == nil {
		defer f.Close()
		if !info.IsDir() {
			return Result{Check: CheckSource, State: OK, Subject: path, Text: "a file of " + size(info.Size())}
		}
		_, err = f.Readdirnames(1)
	}
	switch {
	case err == nil:
		return Result{Check: CheckSource, State: OK, Subject: path, Text: "a directory that is not empty"}
	case !errors.Is(err, io.EOF):
		r.Text, r.Hint = "it cannot be read: "+plain(err).Error(), "run as a user who may read it"
		return r
	}
	r.Text, r.Hint = "it is empty", "is its file system mounted? If it is meant to be empty, add --allow-empty"
	if o.Had > 0 {
		r.Text = fmt.Sprintf("it is empty; the last backup of it had %d files", o.Had)
	}
	if o.AllowEmpty {
		r.State, r.Hint = OK, ""
		r.Text += ", as --allow-empty allows"
		return r
	}
	return o.afterHook(r)
}
