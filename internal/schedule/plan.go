package schedule

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"time"
)

// A Kind is what is run.
type Kind string

// The kinds of jobs. Those that are due at the same time run in this order: what makes a
// snapshot before what removes some, and both before what reads what is left.
const (
	Backup Kind = "backup"
	Forget Kind = "forget"
	Prune  Kind = "prune"
	Verify Kind = "verify"
	Drill  Kind = "drill"
)

// Kinds returns all kinds, in their order.
func Kinds() []Kind { return []Kind{Backup, Forget, Prune, Verify, Drill} }

// A Plan is the schedules of all kinds, and the rules for them. It does not change.
type Plan struct {
	Jobs map[Kind]Schedule // without those that are never due
	// Zone is that of all schedules.
	Zone *time.Location
	// Jitter is the most by which a host is late on purpose; see [Plan.Delay].
	Jitter time.Duration
	// CatchUp says that what was missed is made up for, once.
	CatchUp bool
	// Finish says that a run goes on when the daemon is told to stop; else it is
	// interrupted, and killed after StopTimeout.
	Finish      bool
	StopTimeout time.Duration
}

// Delay is by how much a host is later than the schedules say: less than Jitter, in whole
// seconds, and always the same. So hosts with the same configuration spread, and what
// runs on one of them keeps its order and distances.
func (p Plan) Delay(host string) time.Duration {
	seconds := uint64(p.Jitter / time.Second)
	if seconds == 0 {
		return 0
	}
	sum := sha256.Sum256([]byte(host))
	return time.Duration(binary.BigEndian.Uint64(sum[:])%seconds) * time.Second
}

// Zone loads a time zone by its IANA name; "" is the machine's.
func Zone(name string) (*time.Location, error) {
	switch name {
	case "":
		return time.Local, nil
	case "Local":
	default:
		if zone, err := time.LoadLocation(name); err == nil {
			return zone, nil
		}
	}
	return nil, errors.New("must be the name of a time zone such as Europe/Berlin or UTC")
}
