package mysql

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/dbdump"
)

// A Part is one description of the archive of a server. Several together may have what
// none has alone.
type Part struct {
	Logs *Logs
	Has  func(*LogFile) bool // whether the file is there, as it is described
}

// MergeLogs says what several parts have together, the oldest first. A log follows the one
// before it without a gap only if a part says so: one that has both in this order. Of a log
// that has grown, the longest version counts; whether the others are its beginning is for
// who opens the files to see.
//
// Logs of several servers follow each other if one has taken the other's place. Where they
// were at work at the same time, nobody knows which of them is meant, which is an error.
func MergeLogs(parts []Part) (*Logs, error) {
	if len(parts) == 0 {
		return nil, errors.New("there are no descriptions of binary logs")
	}
	newest := parts[len(parts)-1].Logs
	out := &Logs{Kind: LogsKind, Server: newest.Server, Address: newest.Address, UUID: newest.UUID, ServerID: newest.ServerID}
	var order []string                          // of Files: each behind what is before it in its part, or before what is behind it
	best := make(map[string]LogFile)            // the longest version
	owner := make(map[string]string)            // the server's UUID
	follows := make(map[string]map[string]bool) // which is right before it, in some part
	for _, p := range parts {
		at := -1 // where the next one goes in order; -1: nobody knows yet
		for i := range p.Logs.Files {
			f := p.Logs.Files[i]
			if i > 0 && !f.Gap {
				if follows[f.File] == nil {
					follows[f.File] = make(map[string]bool)
				}
				follows[f.File][p.Logs.Files[i-1].File] = true
			}
			old, there := best[f.File]
			if there {
				at = slices.Index(order, f.File) + 1
			}
			if !p.Has(&f) {
				continue
			}
			if there {
				if f.Bytes > old.Bytes || f.Bytes == old.Bytes && (f.Closed && !old.Closed || f.Closed == old.Closed && f.Until.After(old.Until)) {
					best[f.File] = f
				}
				continue
			}
			if at < 0 {
				at = len(order)
				for _, next := range p.Logs.Files[i+1:] {
					if n := slices.Index(order, next.File); n >= 0 {
						at = n
						break
					}
				}
			}
			order = slices.Insert(order, at, f.File)
			at++
			best[f.File], owner[f.File] = f, p.Logs.UUID
		}
	}
	for _, name := range order {
		out.Files = append(out.Files, best[name])
	}
	if err := checkServers(out.Files, owner, parts); err != nil {
		return nil, err
	}
	for i := range out.Files {
		f := &out.Files[i]
		f.Gap = i == 0 && f.Gap || i > 0 && !follows[f.File][out.Files[i-1].File]
	}
	return out, nil
}

// checkServers refuses logs of servers that were at work at the same time.
func checkServers(files []LogFile, owner map[string]string, parts []Part) error {
	type span struct {
		uuid     string
		from, to time.Time
	}
	var spans []span
	for _, f := range files {
		id := owner[f.File]
		if id == "" {
			continue
		}
		i := slices.IndexFunc(spans, func(s span) bool { return s.uuid == id })
		if i < 0 {
			spans = append(spans, span{id, f.Created, f.Last})
			continue
		}
		if f.Created.Before(spans[i].from) {
			spans[i].from = f.Created
		}
		if f.Last.After(spans[i].to) {
			spans[i].to = f.Last
		}
	}
	for i, a := range spans {
		for _, b := range spans[i+1:] {
			if a.from.Before(b.to) && b.from.Before(a.to) {
				return &dbdump.Error{Err: fmt.Errorf("the archive has binary logs of two servers that were at work at the same time, %s and %s: nobody can tell which is meant", printable(a.uuid), printable(b.uuid)),
					Hint: "give each server a section with a name of its own, and 'backup-handler forget SNAPSHOT' what is not of this one; 'backup-handler db list' shows them"}
			}
		}
	}
	return nil
}
