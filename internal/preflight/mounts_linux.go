package preflight

import (
	"os"

	"github.com/moby/sys/mountinfo"
)

func (m *Machine) mounts() (mounts, error) {
	f, err := os.Open(m.MountInfo)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	infos, err := mountinfo.GetMountsFromReader(f, nil)
	return converted(infos), err
}
