//go:build unix

package postgres

func walCommand(string, []string) int { return 1 }
