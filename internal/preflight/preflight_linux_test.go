package preflight

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A stage is a machine of files: what is mounted where is text.
type stage struct {
	*Machine
	t    *testing.T
	root string
}

func newStage(t *testing.T) *stage {
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s := &stage{&Machine{
		MountInfo: filepath.Join(root, "mountinfo"), Fstab: filepath.Join(root, "fstab"), DevDisk: filepath.Join(root, "disk"), Wait: time.Minute,
	}, t, root}
	s.write("mountinfo", "1 1 8:1 / / rw - ext4 /dev/root rw\n")
	return s
}

func (s *stage) path(name string) string { return filepath.Join(s.root, name) }

func (s *stage) write(name, text string) {
	s.t.Helper()
	if err := os.MkdirAll(filepath.Dir(s.path(name)), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(s.path(name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) mkdir(name string) string {
	s.t.Helper()
	if err := os.MkdirAll(s.path(name), 0o755); err != nil {
		s.t.Fatal(err)
	}
	return s.path(name)
}

func (s *stage) link(target, name string) {
	s.t.Helper()
	s.mkdir(filepath.Dir(name))
	if err := os.Symlink(target, s.path(name)); err != nil {
		s.t.Fatal(err)
	}
}

// mount adds a line to what is mounted.
func (s *stage) mount(point, fsType, source string) {
	s.t.Helper()
	text, err := os.ReadFile(s.MountInfo)
	if err != nil {
		s.t.Fatal(err)
	}
	line := fmt.Sprintf("2 1 0:77 / %s rw - %s %s rw\n", strings.ReplaceAll(point, " ", `\040`), fsType, source)
	s.write("mountinfo", string(text)+line)
}

func TestMounted(t *testing.T) {
	s := newStage(t)
	disk, inner, spaced := s.mkdir("mnt/disk"), s.mkdir("mnt/disk/inner"), s.mkdir("mnt/my disk")
	s.link("mnt/disk", "link")
	s.write("fstab", fmt.Sprintf("# a comment\n\n/dev/root / ext4 defaults 0 1\n/dev/sda2 none swap sw 0 0\nproc relative proc defaults 0 0\nbroken\n"+
		"UUID=1 %s/ ext4 noauto 0 2\nLABEL=x %s xfs defaults\n/dev/sdb1\t%s\tvfat\n", disk, inner, strings.ReplaceAll(spaced, " ", `\040`)))
	mounted := func(path string, o MountOptions) []Result {
		t.Helper()
		return s.Mounted(t.Context(), s.path(path), o)
	}
	refused := func(path, point string) {
		t.Helper()
		one(t, mounted(path, MountOptions{})).check(t, Refused, "nothing is mounted at "+point)
	}
	if r := mounted("other", MountOptions{Auto: true, Now: true}); len(r) > 0 {
		t.Errorf("nothing need be mounted: %+v", r)
	}
	refused("mnt/disk", disk)
	refused("mnt/disk/a/b", disk)
	refused("link/a", disk)
	refused("mnt/my disk/a", spaced)
	s.mount(disk, "ext4", "/dev/sda1")
	one(t, mounted("mnt/disk/a", MountOptions{})).check(t, OK, "mounted at "+disk)
	// The one below is not, though the one above is.
	r := mounted("mnt/disk/inner/a", MountOptions{})
	if len(r) != 2 || r[0].State != OK {
		t.Fatalf("%+v", r)
	}
	r[1].check(t, Refused, "nothing is mounted at "+inner)
	// A source is refused for the same reason.
	one(t, s.Source(t.Context(), spaced, SourceOptions{})).check(t, Refused, "nothing is mounted at "+spaced)

	// An automounter that has mounted nothing is nothing.
	s.mount(spaced, "autofs", "systemd-1")
	refused("mnt/my disk", spaced)
	s.mount(spaced, "vfat", "/dev/sdb1")
	one(t, mounted("mnt/my disk", MountOptions{})).check(t, OK)
}

func TestMount(t *testing.T) {
	s := newStage(t)
	disk := s.mkdir("disk")
	s.write("fstab", "/dev/sda1 "+disk+" ext4\n")
	var asked []string
	var fails error
	does := true
	s.Mount = func(_ context.Context, point string) error {
		asked = append(asked, point)
		if fails == nil && does {
			s.mount(point, "ext4", "/dev/sda1")
		}
		return fails
	}
	mounted := func(o MountOptions) Result {
		t.Helper()
		return one(t, s.Mounted(t.Context(), filepath.Join(disk, "repo"), o))
	}
	mounted(MountOptions{}).check(t, Refused)
	mounted(MountOptions{Now: true}).check(t, Refused) // auto_mount is off
	mounted(MountOptions{Auto: true}).check(t, Warning, "a backup mounts it first")
	if len(asked) > 0 {
		t.Fatalf("mounted without being asked to: %q", asked)
	}
	fails = errors.New("mount: no medium")
	mounted(MountOptions{Auto: true, Now: true}).check(t, Refused, "cannot be mounted", "no medium")
	fails, does = nil, false
	mounted(MountOptions{Auto: true, Now: true}).check(t, Refused, "not even after")
	does = true
	mounted(MountOptions{Auto: true, Now: true}).check(t, OK, "is now")
	mounted(MountOptions{Auto: true, Now: true}).check(t, OK, "mounted at")
	if len(asked) != 3 || asked[0] != disk {
		t.Errorf("mounted %q", asked)
	}

	// What /etc/fstab does not have is never mounted.
	other := s.mkdir("other")
	e := Expected{Mount: other}
	one(t, s.Volume(t.Context(), other, e, MountOptions{Auto: true, Now: true})).check(t, Refused, "nothing is mounted at "+other)
	if len(asked) != 3 {
		t.Errorf("mounted %q", asked)
	}
}

func TestVolume(t *testing.T) {
	s := newStage(t)
	disk := s.mkdir("disk")
	device := s.path("dev/sdz1")
	s.write("dev/sdz1", "")
	s.write("dev/sdy1", "")
	s.link("../../dev/sdz1", `disk/by-label/My\x20Disk`)
	s.link("../../dev/sdz1", "disk/by-uuid/0123-ABCD")
	s.link("../../dev/sdy1", "disk/by-label/OTHER")
	s.link("../../dev/none", "disk/by-uuid/gone")
	s.mount(disk, "xfs", device)
	volume := func(e Expected) Result {
		t.Helper()
		return one(t, s.Volume(t.Context(), filepath.Join(disk, "repo"), e, MountOptions{}))
	}
	volume(Expected{Label: "My Disk"}).check(t, OK, device)
	volume(Expected{UUID: "0123-abcd"}).check(t, OK)
	volume(Expected{Label: "My Disk", UUID: "0123-ABCD", FSType: "XFS"}).check(t, OK)
	volume(Expected{FSType: "xfs"}).check(t, OK)
	volume(Expected{Label: "OTHER"}).check(t, Refused, "another volume", "My Disk", "OTHER")
	volume(Expected{Label: "my disk"}).check(t, Refused, "another volume")
	volume(Expected{UUID: "gone"}).check(t, Refused, "another volume", "0123-ABCD")
	volume(Expected{FSType: "ext4"}).check(t, Refused, "xfs, not ext4")
	// The volume is proven, so only the key is wrong.
	volume(Expected{UUID: "0123-ABCD", FSType: "ext4"}).check(t, Warning, "xfs, not ext4")
	if r := s.Volume(t.Context(), s.path("elsewhere"), Expected{}, MountOptions{}); len(r) > 0 {
		t.Errorf("nothing is asked for: %+v", r)
	}

	// With a mount point, what is not below it is left alone.
	e := Expected{Mount: disk, UUID: "0123-ABCD"}
	if r := s.Volume(t.Context(), s.path("elsewhere"), e, MountOptions{}); len(r) > 0 {
		t.Errorf("elsewhere: %+v", r)
	}
	r := s.Volume(t.Context(), filepath.Join(disk, "repo"), e, MountOptions{})
	if len(r) != 2 || r[0].Check != CheckMounted || r[0].State != OK || r[1].Check != CheckVolume || r[1].State != OK {
		t.Errorf("%+v", r)
	}
	// A disk beside it that is mounted there, over it.
	s.mount(disk, "xfs", s.path("dev/sdy1"))
	r = s.Volume(t.Context(), filepath.Join(disk, "repo"), e, MountOptions{})
	if len(r) != 2 {
		t.Fatalf("%+v", r)
	}
	r[1].check(t, Refused, "cannot be found out")
}

// What cannot be found out is refused; what is known to have no name is another volume.
func TestUnknownVolume(t *testing.T) {
	s := newStage(t)
	disk := s.mkdir("disk")
	s.mount(disk, "ext4", "/dev/bh-none")
	tags := map[string]string{}
	refusal := errors.New("blkid: not permitted")
	volume := func(e Expected) Result {
		t.Helper()
		return one(t, s.Volume(t.Context(), disk, e, MountOptions{}))
	}
	volume(Expected{Label: "BACKUP"}).check(t, Refused, "cannot be found out")
	s.Tag = func(_ context.Context, device, name string) (string, error) {
		if device != "/dev/bh-none" {
			t.Errorf("asked %s", device)
		}
		if v, ok := tags[name]; ok {
			return v, nil
		}
		return "", refusal
	}
	volume(Expected{Label: "BACKUP"}).check(t, Refused, "cannot be found out", "not permitted")
	tags["TYPE"] = "ext4"
	volume(Expected{Label: "BACKUP"}).check(t, Refused, "another volume", "no label")
	tags["LABEL"] = "BACKUP"
	volume(Expected{Label: "BACKUP"}).check(t, OK)
	tags["UUID"] = "a-b"
	volume(Expected{Label: "BACKUP", UUID: "A-B"}).check(t, OK)
	volume(Expected{UUID: "c"}).check(t, Refused, "a-b, not c")
	s.write("mountinfo", "")
	volume(Expected{UUID: "c"}).check(t, Refused, "cannot be found out")
	if err := os.Remove(s.MountInfo); err != nil {
		t.Fatal(err)
	}
	volume(Expected{UUID: "c"}).check(t, Refused, "cannot be found out")

	// A file system of no device has no name.
	s.write("mountinfo", "1 1 0:5 / / rw - tmpfs tmpfs rw\n")
	volume(Expected{Label: "BACKUP"}).check(t, Refused, "cannot be found out", "tmpfs is not a device")
}

func TestSameFileSystem(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{{"xfs", "xfs", true}, {"xfs", "XFS", true}, {"fuseblk", "ntfs", true}, {"nfs4", "nfs", true}, {"ext4", "ext3", false}, {"ntfs", "exfat", false}} {
		if sameFileSystem(c.a, c.b) != c.want {
			t.Errorf("%s and %s: %t", c.a, c.b, !c.want)
		}
	}
}

// Real mounts: a small one that is full, and one that is read-only.
func TestRealMounts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts a file system")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m,nr_inodes=10"); err != nil {
		t.Skipf("mount: %v", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	m := This()
	volume := func(e Expected) Result {
		t.Helper()
		return one(t, m.Volume(t.Context(), filepath.Join(dir, "repo"), e, MountOptions{}))
	}
	volume(Expected{Mount: dir}).check(t, OK, "mounted at "+dir)
	volume(Expected{FSType: "tmpfs"}).check(t, OK)
	volume(Expected{FSType: "ext4"}).check(t, Refused, "tmpfs, not ext4")
	volume(Expected{UUID: "0123"}).check(t, Refused, "cannot be found out")
	one(t, m.Writable(t.Context(), dir)).check(t, OK)
	room, err := m.RoomAt(filepath.Join(dir, "repo"))
	if err != nil || room.Bytes != 1<<20 || room.Inodes != 9 {
		t.Errorf("%+v, %v", room, err)
	}
	one(t, m.OwnSpace(t.Context(), dir)).check(t, Warning, "1.0 MiB free")
	if err := os.WriteFile(filepath.Join(dir, "big"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	full := one(t, m.Writable(t.Context(), dir))
	if full.check(t, Refused, "full"); full.Check != CheckSpace {
		t.Errorf("%+v", full)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	one(t, m.Writable(t.Context(), dir)).check(t, Refused, "read-only")
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	volume(Expected{Mount: dir}).check(t, Refused, "nothing is mounted at "+dir)
}

// A tool that hangs is ended with what it has started.
func TestTool(t *testing.T) {
	bin := t.TempDir()
	dirs := append([]string{bin}, toolDirs...)
	t.Setenv("BACKUP_HANDLER_PASSPHRASE", "secret")
	script := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	script("says", `printf '%s|%s|' "$1" "$BACKUP_HANDLER_PASSPHRASE"; head -c 100000 /dev/zero | tr '\0' x; echo oops >&2`)
	out, err := tool(t.Context(), dirs, time.Minute, "says", "a;b")
	if err != nil || !strings.HasPrefix(out, "a;b||xxx") || len(out) > maxOutput {
		t.Errorf("%d bytes, %.20q, %v", len(out), out, err)
	}
	script("fails", "echo what is wrong >&2; echo more >&2; exit 3")
	if _, err = tool(t.Context(), dirs, time.Minute, "fails"); err == nil || err.Error() != "fails: what is wrong" {
		t.Errorf("%v", err)
	}
	if _, err = tool(t.Context(), dirs, time.Minute, "bh-no-such-tool"); err == nil || !strings.Contains(err.Error(), "not installed") {
		t.Errorf("%v", err)
	}
	child := filepath.Join(bin, "child")
	script("hangs", "sleep 1000 & echo $! >"+child+".new; mv "+child+".new "+child+"; wait")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for ctx.Err() == nil {
			if _, err := os.Stat(child); err == nil {
				cancel()
			}
			time.Sleep(time.Millisecond)
		}
	}()
	if _, err = tool(ctx, dirs, time.Hour, "hangs"); err == nil {
		t.Error("what hangs succeeds")
	}
	text, err := os.ReadFile(child)
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	fmt.Sscan(string(text), &pid)
	for {
		state, err := exec.Command("ps", "-o", "stat=", "-p", fmt.Sprint(pid)).Output()
		if err != nil || strings.HasPrefix(string(state), "Z") || syscall.Kill(pid, 0) != nil {
			break // gone, or dead and not yet waited for by init
		}
		time.Sleep(10 * time.Millisecond)
	}
	if _, err = tool(t.Context(), dirs, time.Nanosecond, "hangs"); err == nil || !strings.Contains(err.Error(), "longer than 1ns") {
		t.Errorf("%v", err)
	}
}
