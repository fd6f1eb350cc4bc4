// Package preflight looks, before a backup, at the machine it would run on: are the
// sources there, is the right disk mounted, can it be written, is there room, is the
// clock sane?
//
// It knows mounts, directories and clocks, and nothing of repositories, keys or the
// configuration: package job adds the checks which need those, to the same [Report].
//
// Invariants:
//
//   - what cannot be found out is never a pass: an identity that was asked for is
//     refused, anything else skipped, and the text says why;
//   - nothing is changed, but for a probe file that is removed again, and mounts that
//     /etc/fstab has and the caller has asked for;
//   - no file system that hangs makes a check hang: each has [Machine.Wait] to answer;
//   - programs are run without a shell, in a process group of their own, for a limited
//     time.
//
// Files: machine.go (where the checks look), mounts.go and fstab.go (what is, and what
// should be mounted), volume.go (which volume it is), source.go, probe.go, room.go,
// clock.go.
package preflight

import (
	"slices"
	"strings"
)

// A State is how a check ended.
type State string

// The states, from the best to the worst.
const (
	OK      State = "ok"
	Skipped State = "skipped" // could not be made, or has nothing to compare with
	Warning State = "warning" // a backup can be made, and somebody should look
	Refused State = "refused" // no backup must be made: of all, or to the destination
)

// A Check is the name of one, which stays the same between versions.
type Check string

// The checks.
const (
	CheckConfig      Check = "config"      // who can read and change the configuration
	CheckClock       Check = "clock"       // is this machine's right
	CheckSource      Check = "source"      // is there, can be read, is not empty
	CheckMounted     Check = "mounted"     // is mounted what should be
	CheckVolume      Check = "volume"      // is the right one mounted
	CheckOwner       Check = "owner"       // of a destination
	CheckWritable    Check = "writable"    // can a file be made
	CheckSpace       Check = "space"       // is there room
	CheckReachable   Check = "reachable"   // can the store be reached, and asked
	CheckCredentials Check = "credentials" // does it let us in
	CheckRepository  Check = "repository"  // is the one that should be there, and whole so far
	CheckKey         Check = "key"         // opens a key the repository
	CheckStale       Check = "stale"       // how old is the last good backup
	CheckAll         Check = "preflight"   // the checks as a whole, where they are switched off
)

// A Result is what one check has found.
type Result struct {
	Check Check `json:"check"`
	State State `json:"state"`
	// Subject is the path or address that was looked at, without secrets; "" for the
	// machine.
	Subject string `json:"subject,omitempty"`
	// Text says what was found, in one line. Like Subject it may hold names of files,
	// which are not safe for a terminal.
	Text string `json:"text"`
	// Hint says what to do; "" where nothing is.
	Hint string `json:"hint,omitempty"`

	// Destination is the location, as it was given, that is not used if the check
	// refuses; "": the whole backup is refused.
	Destination string `json:"-"`
}

// String is what was found, with what it is about, and without the hint.
func (r Result) String() string {
	if r.Subject == "" || strings.HasPrefix(r.Text, r.Subject) {
		return r.Text
	}
	return r.Subject + ": " + r.Text
}

// A Report is what all checks have found, in the order in which they were made.
type Report struct {
	Results []Result `json:"checks"`
}

// Add adds what checks have found.
func (r *Report) Add(results ...Result) { r.Results = append(r.Results, results...) }

// With returns what ended in a state.
func (r *Report) With(s State) []Result {
	return slices.DeleteFunc(slices.Clone(r.Results), func(x Result) bool { return x.State != s })
}

// State is the worst of all, where what was skipped is as good as OK.
func (r *Report) State() State {
	for _, s := range []State{Refused, Warning} {
		if refuses(r.Results, s) {
			return s
		}
	}
	return OK
}

func refuses(results []Result, s State) bool {
	return slices.ContainsFunc(results, func(x Result) bool { return x.State == s })
}

// AnyRefused says whether one of some checks refuses: what builds on it need not be
// looked at.
func AnyRefused(results []Result) bool { return refuses(results, Refused) }
