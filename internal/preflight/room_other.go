//go:build !linux && !darwin && !freebsd && !windows

package preflight

import "errors"

func room(string) (Room, error) { return Room{}, errors.ErrUnsupported }
