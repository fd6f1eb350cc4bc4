package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/SP1R4/BackupHandler/v3/internal/files/filestest"
)

// TestTrapsOf25: sources and targets that BackupHandler 2.5 lost, changed or
// followed. The numbers are those of docs/defects.md.
func TestTrapsOf25(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	src, dest := w.path("src"), w.path("repo")
	w.write([]byte("notes"), "src", "backup_manifest_notes.json")              // 24
	w.write([]byte("manifest"), "src", "backup_manifest_20260101_000000.json") // 24
	w.write([]byte("x"), "src", "x")                                           // 25
	w.write([]byte("the user's own"), "src", "x.enc")                          // 25
	w.write([]byte("pattern"), "src", "[x]*.txt")                              // 34
	w.write([]byte("one"), "src", "a", "same-name")                            // 2, 35
	w.write([]byte("two"), "src", "b", "same-name")                            // 2, 35
	w.write(filestest.Bytes("twin", 5000), "src", "twin-1")                    // 5
	w.write(filestest.Bytes("twin", 5000), "src", "twin-2")                    // 5
	must(t, os.Chmod(w.path("src", "twin-2"), 0o600))                          // 39
	must(t, os.MkdirAll(w.path("src", "empty", "dirs"), 0o750))                // 10
	must(t, os.Symlink("no/such/file", w.path("src", "dangling")))             // 22
	must(t, os.Symlink("a", w.path("src", "to-dir")))                          // 10
	must(t, os.Symlink("/etc/hostname", w.path("src", "absolute")))            // 39
	victim := w.write([]byte("must stay"), "victim")                           // 43
	must(t, os.Symlink(victim, w.path("src", "link-then-file")))               // 43
	must(t, os.Symlink("old target", w.path("src", "changes-target")))         // 33
	before := factsOf(t, src, true)
	first := w.backup(ok, encrypted(src, dest)...)
	got := w.restore(ok, dest, first.Snapshot, src)
	same(t, src, got)

	// 33: links change; 43: a link becomes a file where its target was mirrored; 10:
	// deletions; 5: one of two equal files changes.
	must(t, os.Remove(w.path("src", "changes-target")))
	must(t, os.Symlink("new target", w.path("src", "changes-target")))
	must(t, os.Remove(w.path("src", "link-then-file")))
	w.write([]byte("a file now"), "src", "link-then-file")
	must(t, os.RemoveAll(w.path("src", "a")))
	w.write(filestest.Bytes("no twin", 5000), "src", "twin-1")
	second := w.backup(ok, append(encrypted(src, dest), "--backup-mode", "full")...)
	w.want(ok, "restore", second.Snapshot+":"+src, "--to", got, "--backup-dirs", dest, "--delete")
	same(t, src, got)

	// 43 on restore: the target is full of links that lead outside.
	to, outside := w.mkdir("to"), w.mkdir("outside")
	must(t, os.Symlink(outside, filepath.Join(to, "b")))
	must(t, os.Symlink(victim, filepath.Join(to, "x")))
	must(t, os.Link(victim, filepath.Join(to, "x.enc")))
	w.want(ok, "restore", second.Snapshot+":"+src, "--to", to, "--backup-dirs", dest)
	same(t, src, to)
	if left, err := os.ReadDir(outside); err != nil || len(left) != 0 {
		t.Errorf("restored through a link: %v, %v", left, err)
	}
	if data, err := os.ReadFile(victim); err != nil || string(data) != "must stay" {
		t.Errorf("written through a link: %q, %v", data, err)
	}

	// 1, 2, 3: an earlier point, also when the source is gone.
	must(t, os.RemoveAll(src))
	sameFacts(t, before, w.restore(ok, dest, first.Snapshot, src))

	// 29: a restore needs no secret but its own.
	ini := w.write([]byte("[BACKUPS]\nbackup_dirs = "+dest+"\n[WEBHOOK]\nurl = ${NOT_SET_ANYWHERE}\n[ENCRYPTION]\nenabled = True\npassphrase = ${BACKUP_HANDLER_PASSPHRASE}\n"), "config.ini")
	must(t, os.Chmod(ini, 0o600))
	w.want(ok, "restore", first.Snapshot+":"+src, "--to", w.path("rescued"), "--config", ini)
	sameFacts(t, before, w.path("rescued"))
	w.want(ok, "verify", "--config", ini)
}
