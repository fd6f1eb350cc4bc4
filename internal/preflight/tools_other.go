//go:build !linux

package preflight

// useTools leaves mounting, and asking devices, to Linux.
func (m *Machine) useTools() {}
