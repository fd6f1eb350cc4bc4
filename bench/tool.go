package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// A step is one thing that every tool is asked to do, in this order.
type step string

const (
	first       step = "first backup"
	unchanged   step = "unchanged run"
	changed     step = "after 1 % change"
	patched     step = "after patched pages"
	verify      step = "verify all data"
	restoreAll  step = "restore everything"
	restoreFile step = "restore one file"
	smallAlone  step = "small files alone" // a first backup of nothing else
)

var allSteps = [...]step{first, unchanged, changed, patched, verify, restoreAll, restoreFile, smallAlone}

func (s step) writesBackup() bool {
	return s == first || s == unchanged || s == changed || s == patched || s == smallAlone
}

func (s step) writesTree() bool { return s == restoreAll || s == restoreFile }

// Places that a tool works with, all absolute.
type places struct {
	source  string // the live corpus
	store   string // the tool's repository; empty at the start of a round
	restore string // empty at the start of a restore
	state   string // caches, configuration and home directory of the tool
	file    string // the file that restoreFile wants, below source
	bin     string // backup-handler
}

// under is the path at which a tool that restores absolute paths puts path.
func (p places) under(path string) string {
	return filepath.Join(p.restore, strings.TrimPrefix(path, filepath.VolumeName(path)))
}

// A tool is one way to make backups: the table below is all that the harness
// knows of any of them.
type tool struct {
	name    string
	label   string // in tables and charts
	version func(places) command
	env     func(places) []string
	// prepare creates an empty repository; its time does not count.
	prepare func(places) []command
	// replaces says that the tool has no increments: every run is a complete
	// new copy, and the harness removes the one before.
	replaces bool
	// looks says that the tool stores nothing: it is a floor for a step.
	looks bool
	// steps may lack one, which the report then shows as a dash.
	steps map[step]func(places) command
	// restored is where the restored source directory lies.
	restored func(places) string
}

const passphrase = "benchmark passphrase" // of throw-away repositories

func tools() []tool { return []tool{ours(), restic(), borg(), tar(), cp(), find()} }

func toolsNamed(names string) ([]tool, error) {
	var chosen []tool
	for name := range strings.SplitSeq(names, ",") {
		found := false
		for _, t := range tools() {
			if t.name == strings.TrimSpace(name) {
				chosen, found = append(chosen, t), true
			}
		}
		if !found {
			return nil, fmt.Errorf("no tool is named %q", name)
		}
	}
	return chosen, nil
}

func ours() tool {
	backup := func(p places) command {
		return run(p.bin, "backup", "--source-dir", p.source, "--backup-dirs", p.store, "--encrypt")
	}
	return tool{
		name:    "ours",
		label:   "backup-handler",
		version: func(p places) command { return run(p.bin, "version") },
		env: func(p places) []string {
			return []string{
				"BACKUP_HANDLER_PASSPHRASE=" + passphrase,
				"BACKUP_HANDLER_DATA_DIR=" + filepath.Join(p.state, "data"),
				"XDG_CACHE_HOME=" + filepath.Join(p.state, "cache"),
				"XDG_CONFIG_HOME=" + filepath.Join(p.state, "config"),
			}
		},
		steps: map[step]func(places) command{
			first: backup, unchanged: backup, changed: backup, patched: backup, smallAlone: backup,
			verify: func(p places) command { return run(p.bin, "verify", "--read-data", "--backup-dirs", p.store) },
			restoreAll: func(p places) command {
				return run(p.bin, "restore", "latest", "--backup-dirs", p.store, "--to", p.restore)
			},
			restoreFile: func(p places) command {
				return run(p.bin, "restore", "latest:"+p.file, "--backup-dirs", p.store, "--to", filepath.Dir(p.under(p.file)))
			},
		},
		restored: func(p places) string { return p.under(p.source) },
	}
}

func restic() tool {
	call := func(p places, args ...string) command {
		return run(append([]string{"restic", "--quiet", "--repo", p.store}, args...)...)
	}
	backup := func(p places) command { return call(p, "backup", p.source) }
	return tool{
		name:    "restic",
		label:   "restic",
		version: func(places) command { return run("restic", "version") },
		env: func(p places) []string {
			return []string{"RESTIC_PASSWORD=" + passphrase, "RESTIC_CACHE_DIR=" + filepath.Join(p.state, "cache")}
		},
		// Version 2 is the format with compression.
		prepare: func(p places) []command { return []command{call(p, "init", "--repository-version", "2")} },
		steps: map[step]func(places) command{
			first: backup, unchanged: backup, changed: backup, patched: backup, smallAlone: backup,
			verify:     func(p places) command { return call(p, "check", "--read-data") },
			restoreAll: func(p places) command { return call(p, "restore", "latest", "--target", p.restore) },
			restoreFile: func(p places) command {
				return call(p, "restore", "latest", "--target", p.restore, "--include", p.file)
			},
		},
		restored: func(p places) string { return p.under(p.source) },
	}
}

// tar packs and compresses on all processors: no encryption, no increments. Its
// default format would cut times to seconds.
func tar() tool {
	archive := func(p places) string { return filepath.Join(p.store, "archive.tar.zst") }
	backup := func(p places) command {
		return pipe(
			[]string{"tar", "--format=posix", "-cf", "-", "-C", filepath.Dir(p.source), filepath.Base(p.source)},
			[]string{"zstd", "-q", "-3", "-T2"},
		).to(archive(p))
	}
	extract := func(p places, names ...string) command {
		return pipe(
			[]string{"zstd", "-q", "-dc"},
			append([]string{"tar", "-xpf", "-", "-C", p.restore}, names...),
		).from(archive(p))
	}
	return tool{
		name:     "tar",
		label:    "tar + zstd -3",
		version:  func(places) command { return run("zstd", "--version") },
		replaces: true,
		steps: map[step]func(places) command{
			first: backup, unchanged: backup, changed: backup, patched: backup, smallAlone: backup,
			verify:     func(p places) command { return run("zstd", "-q", "-t", archive(p)) },
			restoreAll: func(p places) command { return extract(p) },
			restoreFile: func(p places) command {
				name, err := filepath.Rel(filepath.Dir(p.source), p.file)
				if err != nil {
					panic(err) // the harness picks the file below the source
				}
				return extract(p, name)
			},
		},
		restored: func(p places) string { return filepath.Join(p.restore, filepath.Base(p.source)) },
	}
}

// cp is the floor: no compression, no encryption, no increments, no checks.
func cp() tool {
	stored := func(p places) string { return filepath.Join(p.store, "copy") }
	backup := func(p places) command { return run("cp", "-a", p.source, stored(p)) }
	restored := func(p places) string { return filepath.Join(p.restore, "copy") }
	return tool{
		name:     "cp",
		label:    "cp -a",
		version:  func(places) command { return run("cp", "--version") },
		replaces: true,
		steps: map[step]func(places) command{
			first: backup, unchanged: backup, changed: backup, patched: backup, smallAlone: backup,
			restoreAll: func(p places) command { return run("cp", "-a", stored(p), restored(p)) },
			restoreFile: func(p places) command {
				name, err := filepath.Rel(p.source, p.file)
				if err != nil {
					panic(err) // the harness picks the file below the source
				}
				to := filepath.Join(restored(p), name)
				return run("install", "-D", "-p", "-m", "644", filepath.Join(stored(p), name), to)
			},
		},
		restored: restored,
	}
}

func borg() tool {
	backup := func(archive string) func(places) command {
		return func(p places) command {
			return run("borg", "create", "--compression", "zstd,3", p.store+"::"+archive, p.source)
		}
	}
	return tool{
		name:    "borg",
		label:   "borg",
		version: func(places) command { return run("borg", "--version") },
		env: func(p places) []string {
			return []string{"BORG_PASSPHRASE=" + passphrase, "BORG_BASE_DIR=" + p.state}
		},
		prepare: func(p places) []command {
			return []command{run("borg", "init", "--encryption", "repokey-blake2", p.store)}
		},
		steps: map[step]func(places) command{
			first: backup("first"), unchanged: backup("unchanged"), changed: backup("changed"),
			patched: backup("patched"), smallAlone: backup("small"),
			verify: func(p places) command { return run("borg", "check", "--verify-data", p.store) },
			restoreAll: func(p places) command {
				return run("borg", "extract", p.store+"::patched").in(p.restore)
			},
			restoreFile: func(p places) command {
				return run("borg", "extract", p.store+"::patched", strings.TrimPrefix(p.file, "/")).in(p.restore)
			},
		},
		restored: func(p places) string { return p.under(p.source) },
	}
}

// find is the floor of an unchanged run: it asks the file system what every tool
// has to ask, and does nothing with the answer.
func find() tool {
	return tool{
		name:    "find",
		label:   "find -printf",
		version: func(places) command { return run("find", "--version") },
		looks:   true,
		steps: map[step]func(places) command{
			unchanged: func(p places) command {
				return run("find", p.source, "-printf", `%s %T@ %C@ %i\n`).to(os.DevNull)
			},
		},
	}
}
