package job

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/durable"
	"github.com/SP1R4/BackupHandler/v3/internal/location"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// What of an archived log is needed: docs/logs.md.

// needs are when the oldest dumps and base backups of a repository were made, by
// needKey. Each needs its server's log from then on.
type needs map[string]time.Time

func needKey(kind tree.Kind, name string) string { return string(kind) + "/" + name }

// needsOf says what the dumps in a destination need; false: it cannot be told.
func needsOf(d *Destination) (needs, bool) {
	if d.Repo == nil || d.Repo.WriteOnly() || len(d.Unreadable) > 0 {
		return nil, false
	}
	n := make(needs)
	for _, s := range d.Snapshots {
		name := DatabaseName(s)
		if name == "" || s.Kind != tree.KindMySQL && s.Kind != tree.KindPostgreSQLBase {
			continue
		}
		key := needKey(s.Kind, name)
		if oldest, ok := n[key]; !ok || s.Time.Before(oldest) {
			n[key] = s.Time
		}
	}
	return n, true
}

// An Outlook is the destinations of a configuration, for what may be left out of a log.
type Outlook struct {
	Known Known
	// Open are those that were read; Away, by location, the others.
	Open []*Destination
	Away []string
}

// Oldest returns when the oldest snapshot of a kind, of the server with a name, was made
// that any destination has, or has had when this machine last saw it; zero: there is none,
// or nobody knows.
func (o *Outlook) Oldest(kind tree.Kind, name string) (oldest time.Time) {
	key := needKey(kind, name)
	for _, d := range o.Open {
		n, ok := needsOf(d)
		if !ok {
			return time.Time{}
		}
		if t, ok := n[key]; ok && (oldest.IsZero() || t.Before(oldest)) {
			oldest = t
		}
	}
	for _, place := range o.Away {
		// One that had none may have got its first since.
		t, ok := o.Known.needs(place)[key]
		if !ok {
			return time.Time{}
		}
		if oldest.IsZero() || t.Before(oldest) {
			oldest = t
		}
	}
	return oldest
}

// remember records what the destinations need that were read: it counts while they are away.
func (o *Outlook) remember() error {
	for _, d := range o.Open {
		if n, ok := needsOf(d); ok {
			if err := o.Known.setNeeds(d.Location, n); err != nil {
				return err
			}
		}
	}
	return nil
}

// needsFile is what was needed of a destination when it was last seen.
type needsFile struct {
	Location string `json:"location"`
	Oldest   needs  `json:"oldest"`
}

// needs is what a destination needed when it was last seen; nil: it is not known.
func (k Known) needs(place string) needs {
	if k.Dir == "" {
		return nil
	}
	b, err := os.ReadFile(k.needsName(place))
	var f needsFile
	if err != nil || json.Unmarshal(b, &f) != nil {
		return nil
	}
	return f.Oldest
}

func (k Known) setNeeds(place string, n needs) error {
	if k.Dir == "" || maps.EqualFunc(k.needs(place), n, time.Time.Equal) && len(n) > 0 {
		return nil
	}
	b, err := json.Marshal(needsFile{location.Redact(place), n})
	if err != nil {
		return err
	}
	name := k.needsName(place)
	if err := durable.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	return durable.WriteFile(name, append(b, '\n'), 0o600)
}

func (k Known) needsName(place string) string {
	name, _ := k.file(place)
	return filepath.Join(k.Dir, "needs", filepath.Base(name))
}

// outlook is that of a run.
func (m *maker) outlook() *Outlook {
	return &Outlook{Known: m.o.Known, Open: m.ready, Away: m.away}
}

// remember notes for later runs what the destinations need. If that cannot be, nothing is
// lost: they count with what they needed before, or with everything.
func (m *maker) remember() {
	if m.o.DryRun {
		return
	}
	if err := m.outlook().remember(); err != nil && m.o.Log != nil {
		m.o.Log.Warn("what dumps need of logs is not remembered", "error", err.Error())
	}
}
