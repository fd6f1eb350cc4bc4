package preflight

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/moby/sys/mountinfo"
)

// A mount is one line of what is mounted.
type mount struct {
	point        string
	source       string // a device, or what the file system calls its source
	fsType       string
	major, minor int // of the device, as stat(2) has it
}

// mounts are what is mounted, in the order in which it was.
type mounts []mount

// at returns what is mounted on a directory, which hides what was mounted there
// before. An automounter that waits to be asked is not it.
func (ms mounts) at(point string) (mount, bool) {
	for i := len(ms) - 1; i >= 0; i-- {
		if ms[i].point == point {
			return ms[i], ms[i].fsType != "autofs"
		}
	}
	return mount{}, false
}

// holding returns what a path, which is real, is on.
func (ms mounts) holding(path string) (mount, bool) {
	for dir := path; ; dir = filepath.Dir(dir) {
		if m, ok := ms.at(dir); ok {
			return m, true
		}
		if dir == filepath.Dir(dir) {
			return mount{}, false
		}
	}
}

// MountOptions say what is done about what is not mounted.
type MountOptions struct {
	// Auto says that a backup mounts what /etc/fstab has.
	Auto bool
	// Now says to do so; else it is said that a backup would.
	Now bool
}

// Mounted checks that whatever /etc/fstab has at or above a path is mounted. A
// result that refuses, or a warning, says that what is on the disk cannot be seen.
// Nothing to be mounted is no result.
func (m *Machine) Mounted(ctx context.Context, path string, o MountOptions) []Result {
	table, err := readFstab(m.Fstab)
	if err != nil {
		return []Result{{Check: CheckMounted, State: Skipped, Subject: path, Text: fmt.Sprintf("what should be mounted is not known: %v", err)}}
	}
	if len(table) == 0 {
		return nil
	}
	var results []Result
	seen := make(map[string]bool)
	// What is mounted may hold symlinks that lead to the next mount point.
	for {
		at, err := answer(ctx, m, func() (string, error) { return resolve(path) })
		if err != nil {
			return []Result{{Check: CheckMounted, State: Refused, Subject: path, Text: err.Error(), Hint: trouble(err)}}
		}
		point := ""
		for _, p := range table.above(at) {
			if !seen[p] {
				point = p
				break
			}
		}
		if point == "" {
			return results
		}
		seen[point] = true
		r := m.ensure(ctx, point, true, o)
		r.Subject = path
		results = append(results, r)
		if r.State != OK {
			return results
		}
	}
}

// ensure checks that a directory is a mount point, or makes it one. listed: /etc/fstab
// has it.
func (m *Machine) ensure(ctx context.Context, point string, listed bool, o MountOptions) Result {
	r := Result{Check: CheckMounted, State: OK, Text: "mounted at " + point}
	mounted, err := m.mounted(ctx, point)
	switch {
	case err != nil:
		r.State, r.Text, r.Hint = Refused, fmt.Sprintf("what is mounted at %s cannot be found out: %v", point, err), trouble(err)
		return r
	case mounted:
		return r
	}
	r.State, r.Text, r.Hint = Refused, "nothing is mounted at "+point, "mount it: mount "+point
	switch {
	case !listed:
		r.Hint = "mount the disk; with an entry in /etc/fstab a backup does so by itself (auto_mount)"
	case !o.Auto || m.Mount == nil:
	case !o.Now:
		r.State, r.Text, r.Hint = Warning, "nothing is mounted at "+point+"; a backup mounts it first (auto_mount)", "--mount mounts it now; what is on it was not looked at"
	default:
		if err := m.Mount(ctx, point); err != nil {
			r.Text += ", and it cannot be mounted: " + err.Error()
			r.Hint = "is the disk connected, or the server on? 'mount " + point + "' tells more"
			return r
		}
		if mounted, err = m.mounted(ctx, point); err != nil || !mounted {
			r.Text += ", not even after mount " + point
			return r
		}
		r.State, r.Text, r.Hint = OK, "was not mounted; is now, at "+point, ""
	}
	return r
}

// mounted says whether something is mounted on a directory. An automounter is asked to
// do its work.
func (m *Machine) mounted(ctx context.Context, point string) (bool, error) {
	return answer(ctx, m, func() (bool, error) {
		at, err := resolve(point)
		if err != nil {
			return false, err
		}
		for asked := false; ; asked = true {
			ms, err := m.mounts()
			if err != nil {
				return false, err
			}
			on, ok := ms.at(at)
			if ok || asked || on.fsType != "autofs" {
				return ok, nil
			}
			if d, err := os.Open(at); err == nil {
				d.Readdirnames(1)
				d.Close()
			}
		}
	})
}

func converted(infos []*mountinfo.Info) mounts {
	ms := make(mounts, len(infos))
	for i, x := range infos {
		ms[i] = mount{x.Mountpoint, x.Source, x.FSType, x.Major, x.Minor}
	}
	return ms
}
