package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// A besideFile is one that BackupHandler 2.5 kept in the directory of its
// configuration.
type besideFile struct {
	name     string
	sections []string // what is read of it
}

func besideFiles() []besideFile {
	return []besideFile{
		{"bot_config.ini", []string{"TELEGRAM", "USERS"}},
		{"email_config.ini", []string{"EMAIL"}},
	}
}

// readBeside takes over what files of 2.5 beside the configuration say and it does
// not. One that cannot be read, or is wrong, is a warning: a restore needs none.
func (c *Config) readBeside(path string) (warnings []Warning) {
	for _, b := range besideFiles() {
		name := filepath.Join(filepath.Dir(path), b.name)
		w, err := c.readOneBeside(name, b.sections)
		warnings = append(warnings, w...)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			warnings = append(warnings, Warning{Kind: Beside, File: name, Message: "it is not read: " + err.Error()})
		}
	}
	return warnings
}

func (c *Config) readOneBeside(name string, sections []string) ([]Warning, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	file, err := parseINI(name, f)
	if err != nil {
		return nil, err
	}
	l := loader{c: c, path: name, file: file}
	if w, ok := checkPermissions(name, info); ok {
		l.warnings = append(l.warnings, w)
	}
	var taken []ref
	for _, s := range file.sections {
		if !slices.Contains(sections, s.name) {
			continue
		}
		for _, e := range s.entries {
			at := ref{s.name, e.key}
			k, known := c.keys[at]
			if was, ours := c.values[at]; !known || ours && was.file == c.path {
				continue // unknown, or the configuration goes before it
			}
			taken = append(taken, at)
			l.entry(k, e)
		}
	}
	if err := errors.Join(l.errs...); err != nil {
		for _, at := range taken {
			delete(c.values, at)
		}
		return nil, err
	}
	return l.warnings, nil
}
