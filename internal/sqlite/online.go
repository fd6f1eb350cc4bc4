package sqlite

import (
	"database/sql"
	"encoding/binary"
	"fmt"
	"io"
	"net/url"
	"path/filepath"

	engine "modernc.org/sqlite"
)

// stepPages is how many pages are copied between two looks at the context. The lock is
// that of the transaction around all steps.
const stepPages = 4096

// source is a database for SQLite to open.
type source struct {
	path, mode string // mode as in SQLite's URIs: ro, rw
	opened     func() error
	wal        bool
	main       io.ReaderAt // nil: the header is not of interest
}

// uri names a database to SQLite. Bytes that are not UTF-8 are escaped.
func uri(path string, query string) string {
	u := url.URL{Scheme: "file", OmitHost: true, Path: filepath.ToSlash(path), RawQuery: query}
	if filepath.VolumeName(path) != "" {
		u.Path = "/" + u.Path
	}
	return u.String()
}

// backuper is what the driver's connections can do beside database/sql.
type backuper interface {
	NewBackup(dst string) (*engine.Backup, error)
}

// online copies a database by SQLite's online backup interface, within one read
// transaction.
func (c *Copier) online(s source) (_ *Copy, err error) {
	wait := fmt.Sprintf("&_pragma=busy_timeout(%d)", c.o.Wait.Milliseconds())
	db, err := sql.Open("sqlite", uri(s.path, "mode="+s.mode+wait))
	if err != nil {
		return nil, err
	}
	defer db.Close() // after all that use it
	conn, err := db.Conn(c.ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()

	// The first statement of the transaction takes the lock, and this one looks at
	// nothing but the header.
	if _, err := conn.ExecContext(c.ctx, "BEGIN"); err != nil {
		return nil, err
	}
	var cookie uint32
	if err := conn.QueryRowContext(c.ctx, "PRAGMA schema_version").Scan(&cookie); err != nil {
		if c.ctx.Err() != nil {
			return nil, c.ctx.Err()
		}
		return nil, err
	}
	if s.opened != nil {
		if err := s.opened(); err != nil {
			return nil, err
		}
	}

	made, err := c.newCopy()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			made.Close()
		}
	}()
	err = conn.Raw(func(dc any) error {
		b, err := dc.(backuper).NewBackup(uri(made.Name(), "mode=rw&_pragma=journal_mode(OFF)&_pragma=synchronous(OFF)&_pragma=locking_mode(EXCLUSIVE)"))
		if err != nil {
			return err
		}
		err = made.hide()
		for more := true; more && err == nil; {
			if more, err = b.Step(stepPages); err == nil {
				err = c.ctx.Err()
			}
		}
		if end := b.Finish(); err == nil {
			err = end
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := made.measure(); err != nil {
		return nil, err
	}
	return made, restoreHeader(made, s, cookie)
}

// restoreHeader undoes what the interface does to the first page beyond copying it: it
// counts a change of the file and of the schema. In rollback mode the header on disk is
// that of the transaction, so that the copy equals the file; with a WAL, only the number
// of the schema is known.
func restoreHeader(made *Copy, s source, cookie uint32) error {
	if made.size < HeadBytes {
		return nil // without a page
	}
	if s.wal || s.main == nil {
		_, err := made.WriteAt(binary.BigEndian.AppendUint32(nil, cookie), schemaCookieAt)
		return err
	}
	head := make([]byte, HeadBytes)
	if _, err := s.main.ReadAt(head, 0); err != nil {
		return err
	}
	_, err := made.WriteAt(head, 0)
	return err
}
