package storagetest

import (
	"context"
	"io"

	"github.com/SP1R4/BackupHandler/v3/internal/storage"
)

// Serve offers a backend's objects as a server would.
func Serve(b storage.Backend) storage.Objects { return objects{b} }

type objects struct{ storage.Backend }

// Put implements storage.Objects.
func (o objects) Put(ctx context.Context, name string, content io.ReaderAt, size int64) error {
	w, err := o.Create(ctx, name)
	if err != nil {
		return err
	}
	defer w.Abort()
	if _, err := io.Copy(w, io.NewSectionReader(content, 0, size)); err != nil {
		return err
	}
	return w.Commit()
}
