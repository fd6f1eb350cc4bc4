package config

// TrustEnv is the environment variable that, as in 2.5, lets commands of any
// configuration be run where it is "1".
const TrustEnv = "BACKUP_HANDLER_TRUST_CONFIG"

// Trusted says why commands of the file must not be run; nil if they may. Whoever can
// change the file, or put another one in its place, could run commands as this user:
// so the file, and each directory and symlink on the way to it, must belong to this
// user or root, and be writable by nobody else. In a directory with the sticky bit,
// as /tmp has it, others can put nothing in the place of what is there. That is
// how it was when the file was loaded. Access lists that let others write show in
// the bits of the group. Windows has no such bits: every file is trusted there.
//
// A configuration without a file is trusted, and any is where $BACKUP_HANDLER_TRUST_CONFIG
// is 1.
func (c *Config) Trusted() error {
	if v, _ := c.env(TrustEnv); v == "1" {
		return nil
	}
	return c.distrust
}
