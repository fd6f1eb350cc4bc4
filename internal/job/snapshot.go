package job

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// Errors of naming a snapshot.
var (
	ErrNoSnapshot = errors.New("no such snapshot")
	ErrAmbiguous  = errors.New("more than one snapshot")
)

// minPrefix is the least number of digits of an ID's prefix.
const minPrefix = 4

// timeLayouts are the forms of a point in time, in local time where they name no
// zone. The first is BackupHandler 2.5's.
var timeLayouts = []string{
	"20060102_150405",
	time.RFC3339Nano,
	"2006-01-02T15:04:05",
	"2006-01-02 15:04:05",
	"2006-01-02T15:04",
	"2006-01-02 15:04",
}

// SplitSpec splits SNAPSHOT[:PATH]. A time may hold colons: the longest part that
// names a snapshot is taken.
func SplitSpec(spec string) (snapshot, path string) {
	if names(spec) {
		return spec, ""
	}
	for i := len(spec) - 1; i > 0; i-- {
		if spec[i] == ':' && names(spec[:i]) {
			return spec[:i], spec[i+1:]
		}
	}
	return spec, ""
}

// names says whether s has the form of a snapshot's name.
func names(s string) bool {
	if s == "latest" || isPrefix(s) {
		return true
	}
	_, ok := parseTime(s)
	return ok
}

func isPrefix(s string) bool {
	return len(s) >= minPrefix && len(s) <= 32 && strings.Trim(s, "0123456789abcdef") == ""
}

// parseTime returns the end of the moment that s names: a form without seconds
// means the whole minute, a day the whole day.
func parseTime(s string) (time.Time, bool) {
	for _, layout := range timeLayouts {
		t, err := time.ParseInLocation(layout, s, time.Local)
		if err != nil {
			continue
		}
		if strings.HasSuffix(layout, "15:04") {
			return t.Add(time.Minute - time.Nanosecond), true
		}
		if t.Nanosecond() == 0 {
			t = t.Add(time.Second - time.Nanosecond)
		}
		return t, true
	}
	if t, err := time.ParseInLocation("2006-01-02", s, time.Local); err == nil {
		return t.AddDate(0, 0, 1).Add(-time.Nanosecond), true
	}
	return time.Time{}, false
}

// ParseMoment reads an instant in one of the forms that snapshots may be named by.
func ParseMoment(text string) (time.Time, error) {
	for _, layout := range timeLayouts {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no time", text)
}

// A Filter chooses snapshots; "" is any.
type Filter struct {
	Host string
	Tag  string
	Path string // of those that hold it, or something below it
	Kind string // as tree.Kind.String has it
}

// Match says whether a snapshot is chosen.
func (f *Filter) Match(s *tree.Snapshot) bool {
	return (f.Host == "" || s.Host == f.Host) && (f.Tag == "" || slices.Contains(s.Tags, f.Tag)) &&
		(f.Kind == "" || s.Kind.String() == f.Kind) &&
		(f.Path == "" || slices.ContainsFunc(s.Sources, func(p tree.Path) bool {
			source := path.Clean(f.Path)
			return within(string(p), source) || within(source, string(p))
		}))
}

// within says whether p is dir or below it.
func within(p, dir string) bool {
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}

// Of returns the chosen ones.
func (f *Filter) Of(all []*tree.Snapshot) []*tree.Snapshot {
	return slices.DeleteFunc(slices.Clone(all), func(s *tree.Snapshot) bool { return !f.Match(s) })
}

// Hosts lists whose snapshots there are, in alphabetical order.
func Hosts(all []*tree.Snapshot) []string {
	var hosts []string
	for _, s := range all {
		if i, ok := slices.BinarySearch(hosts, s.Host); !ok {
			hosts = slices.Insert(hosts, i, s.Host)
		}
	}
	return hosts
}

// kindsOf lists the kinds of some snapshots.
func kindsOf(all []*tree.Snapshot) []string {
	var kinds []string
	for _, s := range all {
		if i, ok := slices.BinarySearch(kinds, s.Kind.String()); !ok {
			kinds = slices.Insert(kinds, i, s.Kind.String())
		}
	}
	return kinds
}

// maxHosts bounds how many hosts a hint names.
const maxHosts = 10

// Resolve is the function Resolve among the chosen snapshots. Where the repository
// has those of several hosts, "latest" and times mean snapshots of this host, unless
// the filter names one: nobody is given another machine's files unasked. And where it
// has any of files, of the host that is meant, these are meant: nobody is given a database
// unasked, unless the filter names a kind. note says so; "" where it makes no difference. The error is a *Failure.
func (f *Filter) Resolve(all []*tree.Snapshot, name, this string) (snap *tree.Snapshot, note string, err error) {
	const list = "'backup-handler snapshots' lists them"
	chosen := f.Of(all)
	if len(all) > 0 && len(chosen) == 0 {
		return nil, "", Fail(ExitUsage, fmt.Errorf("%w: none of the %d is chosen by --host, --kind, --tag and --path", ErrNoSnapshot, len(all)), list)
	}
	host := f.Host // that is meant; "": any
	if hosts := Hosts(all); len(hosts) > 1 && f.Host == "" && name != "" && !isPrefix(name) {
		host = this
		own := slices.DeleteFunc(slices.Clone(chosen), func(s *tree.Snapshot) bool { return s.Host != this })
		if _, isTime := parseTime(name); len(own) == 0 && (isTime || name == "latest") {
			if len(hosts) > maxHosts {
				hosts = append(hosts[:maxHosts], "…")
			}
			return nil, "", Fail(ExitUsage, fmt.Errorf("%w of this host, %s: which host's is %q?", ErrNoSnapshot, this, name),
				"add --host NAME: "+strings.Join(hosts, ", "))
		}
		if len(own) < len(chosen) {
			note = fmt.Sprintf("%s: of this host, %s (the repository has snapshots of %d hosts; --host chooses)", name, this, len(Hosts(all)))
		}
		chosen = own
	}
	files := func(s *tree.Snapshot) bool { return s.Kind == tree.KindFiles && (host == "" || s.Host == host) }
	if f.Kind == "" && !isPrefix(name) && slices.ContainsFunc(all, files) {
		kinds := kindsOf(chosen)
		chosen = slices.DeleteFunc(slices.Clone(chosen), func(s *tree.Snapshot) bool { return !files(s) })
		if len(chosen) == 0 {
			return nil, "", Fail(ExitUsage, fmt.Errorf("%w of files: which of the others is %q?", ErrNoSnapshot, name), "add --kind: "+strings.Join(kinds, ", "))
		}
	}
	if snap, err = Resolve(chosen, name); err != nil {
		return nil, "", Fail(ExitUsage, err, list)
	}
	return snap, note, nil
}

// Resolve returns the snapshot that a name means: "latest", a prefix of an ID, or
// a time: the newest at or before it. all is sorted, oldest first.
func Resolve(all []*tree.Snapshot, name string) (*tree.Snapshot, error) {
	if len(all) == 0 {
		return nil, fmt.Errorf("%w: there are none", ErrNoSnapshot)
	}
	if name == "latest" {
		return all[len(all)-1], nil
	}
	var found *tree.Snapshot
	if isPrefix(name) {
		for _, s := range all {
			if !strings.HasPrefix(s.ID.String(), name) {
				continue
			}
			if found != nil {
				return nil, fmt.Errorf("%w begins with %q: %s, %s", ErrAmbiguous, name, found.ID.Short(), s.ID.Short())
			}
			found = s
		}
		if found != nil {
			return found, nil
		}
	}
	t, ok := parseTime(name)
	if !ok {
		return nil, fmt.Errorf("%w: %q", ErrNoSnapshot, name)
	}
	for _, s := range all {
		if !s.Time.After(t) {
			found = s
		}
	}
	if found == nil {
		return nil, fmt.Errorf("%w at or before %s: the oldest is of %s", ErrNoSnapshot, name, all[0].Time.Local().Format(time.DateTime))
	}
	return found, nil
}
