package job

import (
	"context"

	"github.com/SP1R4/BackupHandler/v3/internal/preflight"
	"github.com/SP1R4/BackupHandler/v3/internal/sqlite"
)

// newCopier returns what copies the databases of a run; nil: they are files like others.
func newCopier(ctx context.Context, o *BackupOptions) (*sqlite.Copier, error) {
	s := o.SQLite
	if len(s.Paths) == 0 && !s.Find {
		return nil, nil
	}
	s.Room = func(dir string) (int64, error) {
		room, err := preflight.This().RoomAt(dir)
		return room.Bytes, err
	}
	c, err := sqlite.New(ctx, s)
	if err != nil {
		return nil, Fail(ExitUsage, err, "correct [SQLITE] paths")
	}
	return c, nil
}
