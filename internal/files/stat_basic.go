//go:build !linux && !darwin

package files

import (
	"os"

	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// Lacks lists what this platform's metadata a backup does not hold.
func Lacks() []string {
	return []string{
		"owners", "ACLs", "extended attributes", "hard links (each name becomes a file of its own)",
		"file attributes", "alternate data streams", "junctions and other reparse points",
		"holes of sparse files", "creation times", "recognition of mounts and of bind mounts",
	}
}

// openFlags has nothing to add here: Open compares what it opened with what
// was listed.
const openFlags = os.O_RDONLY

func addStat(*tree.Node, os.FileInfo) fileID { return fileID{} }

func (r *Root) addAttributes(*tree.Node, string) {}
