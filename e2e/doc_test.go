// Package e2e tests the program as its users run it: the real binary, built once,
// on real file systems.
//
// What it restores is never judged by its own code, but by rsync, lsattr,
// getfattr and getfacl, and, where those are blind (nanoseconds, holes, paths
// longer than PATH_MAX), by direct system calls: see compare_linux_test.go.
//
// Everything runs on Linux. What needs root (owners, devices, mounts) is skipped
// for other users, with the reason. -short makes the trees smaller. At most 6 GB
// below $TMPDIR are used. $E2E_BINARY names a binary to test instead of building
// one.
//
// Tests run side by side; those that must be alone say why.
//
// harness: how the program is run. kinds: every kind of file. trees: real trees.
// modes: what each mode reads. refusals: bad input. damage: damaged repositories.
// interrupt: signals and kills. destinations: several of them. keys: encryption.
// limits: how much of the machine a run takes. preflight: what is checked before one.
// run: hooks, records, exit codes, whatever goes wrong around a run. daemon: runs that are due. service: its rights. notify: mail through a real server.
package e2e
