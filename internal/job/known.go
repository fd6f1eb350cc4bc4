package job

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/SP1R4/BackupHandler/v3/internal/durable"
	"github.com/SP1R4/BackupHandler/v3/internal/location"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
)

// Known remembers which repository was seen at which location, in the state
// directory. So a disk that is not mounted is not taken for a new destination, and
// an exchanged repository is noticed. Each location has a file of its own,
// repositories/<hash>.json: processes do not disturb each other.
type Known struct {
	// Dir is the state directory; "" remembers nothing.
	Dir string
}

type knownFile struct {
	Location   string  `json:"location"`
	Repository repo.ID `json:"repository"`
}

func (k Known) file(place string) (name, key string) {
	key = place
	if !location.IsURL(key) {
		if abs, err := filepath.Abs(key); err == nil {
			key = abs
		}
	}
	sum := sha256.Sum256([]byte(key))
	return filepath.Join(k.Dir, "repositories", hex.EncodeToString(sum[:16])+".json"), key
}

// Lookup returns the repository last seen at a location.
func (k Known) Lookup(place string) (id repo.ID, ok bool, err error) {
	if k.Dir == "" {
		return id, false, nil
	}
	name, _ := k.file(place)
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return id, false, nil
	}
	var f knownFile
	if err == nil {
		err = json.Unmarshal(b, &f)
	}
	if err != nil {
		return id, false, fmt.Errorf("read what is known of %s: %w", location.Redact(place), err)
	}
	return f.Repository, true, nil
}

// Remember records the repository at a location.
func (k Known) Remember(place string, id repo.ID) error {
	if old, ok, err := k.Lookup(place); k.Dir == "" || err == nil && ok && old == id {
		return nil
	}
	name, key := k.file(place)
	b, err := json.Marshal(knownFile{key, id})
	if err != nil {
		return err
	}
	if err := durable.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	return durable.WriteFile(name, append(b, '\n'), 0o600)
}
