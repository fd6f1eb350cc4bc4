package dbdump

// CheckEnter is of no use here: servers run as the same account.
func CheckEnter(string, uint32, uint32) error { return nil }
