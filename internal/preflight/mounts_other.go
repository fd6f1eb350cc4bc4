//go:build !linux

package preflight

import "github.com/moby/sys/mountinfo"

func (m *Machine) mounts() (mounts, error) {
	infos, err := mountinfo.GetMounts(nil)
	return converted(infos), err
}
