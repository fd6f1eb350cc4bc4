package preflight

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"slices"
	"strings"
)

// Expected says on what the destinations must be; "" asks for nothing.
type Expected struct {
	Mount  string // absolute
	Label  string
	UUID   string // in any case
	FSType string
	Owner  string // name or number
}

func (e Expected) identity() bool { return e.Label != "" || e.UUID != "" || e.FSType != "" }

// Volume checks that a path is on the volume that it should be on. If Mount is set and
// the path is not below it, nothing is asked for, and there is no result.
func (m *Machine) Volume(ctx context.Context, path string, e Expected, o MountOptions) []Result {
	if e.Mount == "" {
		return m.within(ctx, CheckVolume, path, func() []Result { return m.volume(ctx, path, path, e) })
	}
	governed, err := answer(ctx, m, func() (bool, error) { return Below(path, e.Mount), nil })
	if err == nil && !governed {
		return nil
	}
	table, terr := readFstab(m.Fstab)
	point, listed := e.Mount, false
	if place, rerr := answer(ctx, m, func() (string, error) { return resolve(e.Mount) }); rerr == nil {
		if point, listed = table.entry(place); !listed {
			point = e.Mount
		}
	} else if err == nil {
		err = rerr
	}
	if err = firstError(err, terr); err != nil {
		return []Result{{Check: CheckMounted, State: Refused, Subject: path, Text: fmt.Sprintf("whether %s is mounted cannot be found out: %v", e.Mount, err), Hint: trouble(err)}}
	}
	r := m.ensure(ctx, point, listed, o)
	if r.Subject = path; r.State != OK {
		return []Result{r}
	}
	return append([]Result{r}, m.within(ctx, CheckVolume, path, func() []Result { return m.volume(ctx, path, e.Mount, e) })...)
}

// volume compares what a path is at, which is path or the mount point above it.
func (m *Machine) volume(ctx context.Context, path, at string, e Expected) []Result {
	if !e.identity() {
		return nil
	}
	refuse := func(hint, format string, args ...any) []Result {
		return []Result{{Check: CheckVolume, State: Refused, Subject: path, Text: fmt.Sprintf(format, args...), Hint: hint}}
	}
	const leave = "it is needed because of expected_uuid, expected_label or expected_fs_type in [PREFLIGHT]"
	ms, err := m.mounts()
	if err != nil {
		return refuse(leave, "the volume cannot be found out: %v", err)
	}
	place, err := resolve(at)
	if err != nil {
		return refuse(leave, "the volume cannot be found out: %v", err)
	}
	on, ok := ms.holding(place)
	if !ok {
		return refuse(leave, "the volume cannot be found out: nothing that is mounted holds %s", place)
	}
	const connect = "connect the right disk; if it was replaced on purpose, change %s in [PREFLIGHT]"
	for _, want := range []struct {
		key, name, value string
		equal            func(a, b string) bool
	}{
		{"expected_uuid", "UUID", e.UUID, strings.EqualFold},
		{"expected_label", "LABEL", e.Label, func(a, b string) bool { return a == b }},
	} {
		if want.value == "" {
			continue
		}
		word := map[string]string{"UUID": "UUID", "LABEL": "label"}[want.name]
		names, err := m.identity(ctx, on, want.name)
		switch {
		case err != nil:
			return refuse("it is needed because "+want.key+" is set; run as root, so that blkid can read the device, or leave "+want.key+" out",
				"the %s of the volume at %s cannot be found out: %v", word, on.point, err)
		case len(names) == 0:
			return refuse(fmt.Sprintf(connect, want.key), "another volume is mounted at %s: it has no %s, where it should be %s", on.point, word, want.value)
		case !slices.ContainsFunc(names, func(n string) bool { return want.equal(n, want.value) }):
			return refuse(fmt.Sprintf(connect, want.key), "another volume is mounted at %s: its %s is %s, not %s", on.point, word, strings.Join(names, ", "), want.value)
		}
	}
	r := Result{Check: CheckVolume, State: OK, Subject: path, Text: "the right one, " + on.source + " at " + on.point}
	if e.FSType == "" || sameFileSystem(on.fsType, e.FSType) {
		return []Result{r}
	}
	r.State, r.Text = Refused, fmt.Sprintf("another volume is mounted at %s: its file system is %s, not %s", on.point, on.fsType, e.FSType)
	r.Hint = fmt.Sprintf(connect, "expected_fs_type")
	if e.UUID != "" || e.Label != "" {
		r.State, r.Text = Warning, fmt.Sprintf("the volume at %s is the right one, but its file system is %s, not %s", on.point, on.fsType, e.FSType)
		r.Hint = "set expected_fs_type = " + on.fsType + " in [PREFLIGHT], or leave it out"
	}
	return []Result{r}
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// Below says whether a path is a directory or below it, whatever symlinks lead there.
func Below(path, dir string) bool {
	p, err := resolve(path)
	d, derr := resolve(dir)
	return err == nil && derr == nil && isWithin(p, d)
}

// aliases are names by which the kernel and people mean the same file system.
var aliases = [][]string{
	{"ntfs", "ntfs3", "fuseblk", "ntfs-3g"},
	{"vfat", "fat", "fat32", "msdos"},
	{"nfs", "nfs4"},
	{"cifs", "smb3", "smb"},
	{"exfat", "fuseblk"},
}

func sameFileSystem(a, b string) bool {
	a, b = strings.ToLower(a), strings.ToLower(b)
	return a == b || slices.ContainsFunc(aliases, func(names []string) bool {
		return slices.Contains(names, a) && slices.Contains(names, b)
	})
}

// identity returns what a volume calls itself by UUID or LABEL: as udev has noted it
// in /dev/disk, or as the device says. No name and no error: it has none.
func (m *Machine) identity(ctx context.Context, on mount, name string) ([]string, error) {
	if names := m.links("by-"+strings.ToLower(name), on); len(names) > 0 {
		return names, nil
	}
	if !strings.HasPrefix(on.source, "/dev/") {
		return nil, fmt.Errorf("%s is not a device", on.source)
	}
	var asked error
	if m.Tag != nil {
		text, err := m.Tag(ctx, on.source, name)
		if err == nil && text != "" {
			return []string{text}, nil
		}
		// It fails for a device without the name as for one that it cannot read.
		kind, kerr := m.Tag(ctx, on.source, "TYPE")
		if kerr == nil && kind != "" {
			return nil, nil
		}
		asked = firstError(kerr, err)
	}
	// Where udev has noted a volume's UUID, it would have noted the label as well.
	if len(m.links("by-uuid", on)) > 0 && name != "UUID" {
		return nil, nil
	}
	if asked != nil {
		return nil, fmt.Errorf("%s does not name it, and %w", m.DevDisk, asked)
	}
	return nil, fmt.Errorf("%s does not name it", m.DevDisk)
}

// links returns the names of a volume's device in a directory of DevDisk.
func (m *Machine) links(dir string, on mount) []string {
	dir = m.DevDisk + "/" + dir
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	device, _ := os.Stat(on.source) // nil, as of /dev/root: the number has to do
	var names []string
	for _, e := range entries {
		info, err := os.Stat(dir + "/" + e.Name())
		if err == nil && (device != nil && os.SameFile(info, device) || isDevice(info, on.major, on.minor)) {
			names = append(names, unescape(e.Name(), `\x`, 2, 16))
		}
	}
	return names
}

// Owned checks that a user, by name or number, owns a path. One that does not exist
// yet is skipped.
func (m *Machine) Owned(ctx context.Context, path, owner string) []Result {
	return m.within(ctx, CheckOwner, path, func() []Result {
		r := Result{Check: CheckOwner, Subject: path}
		info, err := os.Stat(path)
		id, known := ownerOf(info)
		switch {
		case os.IsNotExist(err):
			r.State, r.Text = Skipped, "it does not exist yet"
			return []Result{r}
		case err != nil:
			r.State, r.Text, r.Hint = Refused, fmt.Sprintf("its owner cannot be found out: %v", plain(err)), trouble(err)
			return []Result{r}
		case !known:
			r.State, r.Text = Refused, "its owner cannot be found out on this system"
			r.Hint = "leave expected_owner out"
			return []Result{r}
		}
		want := owner
		if u, err := user.Lookup(owner); err == nil {
			want = u.Uid
		} else if strings.Trim(owner, "0123456789") != "" {
			r.State, r.Text, r.Hint = Refused, fmt.Sprintf("there is no user %s on this machine", owner), "correct expected_owner in [PREFLIGHT]"
			return []Result{r}
		}
		if id != want {
			have := "user " + id
			if u, err := user.LookupId(id); err == nil {
				have = u.Username
			}
			r.State, r.Text = Refused, fmt.Sprintf("it belongs to %s, not to %s", have, owner)
			r.Hint = "is the right disk mounted? Else: chown -R " + owner + " " + path
			return []Result{r}
		}
		r.State, r.Text = OK, "it belongs to "+owner
		return []Result{r}
	})
}

// plain is an error without the path that the message has already.
func plain(err error) error {
	for {
		switch e := err.(type) {
		case *fs.PathError:
			err = e.Err
		case *os.SyscallError:
			err = e.Err
		default:
			return err
		}
	}
}
