package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/SP1R4/BackupHandler/v3/internal/backup"
	"github.com/SP1R4/BackupHandler/v3/internal/job"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/seal"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

type statusFlags struct {
	allHosts, local, check bool
	maxAge                 parsed[time.Duration]
}

func (a *app) statusCommand() *cobra.Command {
	f := statusFlags{maxAge: parsed[time.Duration]{kind: "duration", parse: parseLimit}}
	c := &cobra.Command{
		Use:   "status",
		Short: "Show how runs and destinations are, and how old the newest snapshots",
		Long: `Show how the runs on this machine stand: the last good one of each kind and its age,
judged by [SCHEDULE] and [PREFLIGHT] staleness_factor, what is due next, what is
running, what failed last and why. Then for every destination: whether it can be
opened, whether it is encrypted, how much it holds, how much room is left and how
long it lasts, what waits for a prune, and the newest snapshot of each set of
sources. Where several hosts share a repository, only this host's are shown and
judged; --all-hosts shows and judges those of every host, a line each.

Something is wrong if a destination cannot be opened, holds no snapshot (none of
this host, where it has those of several others), or lacks the newest one that
another has; if packs, index or snapshots are missing or damaged, as far as can be
told without reading them ('backup-handler verify' reads them); if files are missing
from the newest snapshot; if the last drill failed, or its report was changed; if a
snapshot is suspicious and not approved ('help approve'); if the last backup,
verification or drill failed, or the last good backup is older than the schedule
allows. What is shown as WARNING does not change the exit code. That a repository is
not encrypted is said, but is a choice.

--local looks at nothing but the record of runs in the state directory: no
repository is opened, no key is needed, no disk wakes up.

--check prints one line for Nagios, Icinga, Zabbix and the like, with --local unless
--local=false is given. CRITICAL is a backup that failed or is too old, and a
verification or drill that failed; WARNING is a warning of the last run, a prune
that failed, another kind of run that is too old or overdue, and a destination
that is full within 14 days.

Exit codes: 0 all is well · 1 something is wrong, or usage · 130 interrupted
With --check: 0 OK · 1 WARNING, or usage of flags · 2 CRITICAL · 3 UNKNOWN`,
		Example: `  backup-handler status
  backup-handler status --backup-dirs /mnt/disk/backup,/mnt/nas/backup --json
  backup-handler status --all-hosts --backup-dirs sftp://nas/backup
  backup-handler status --check --config /etc/backup-handler/config.ini
  backup-handler status --check --max-age 26h`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.check && !cmd.Flags().Changed("local") {
				f.local = true
			}
			if f.allHosts && f.local {
				return usageError("use --local=false", "--all-hosts needs the repositories, which --local and --check leave alone")
			}
			if f.check {
				return a.statusCheck(cmd.Context(), &f)
			}
			return a.status(cmd.Context(), &f)
		},
	}
	fl := c.Flags()
	fl.BoolVar(&f.allHosts, "all-hosts", false, "show the newest snapshots of every host")
	fl.BoolVar(&f.local, "local", false, "look at the record of runs only, and open no repository")
	fl.BoolVar(&f.check, "check", false, "print one line for monitoring, and exit 0, 1, 2 or 3")
	fl.Var(&f.maxAge, "max-age", "how old the last good backup may be, e.g. 26h (default: by the schedule)")
	return c
}

type statusReport struct {
	OK           bool                `json:"ok"`
	Config       string              `json:"config"` // path; "" for none
	Host         string              `json:"host"`
	AllHosts     bool                `json:"all_hosts,omitempty"`
	Local        bool                `json:"local,omitempty"` // no repository was opened
	Destinations []destinationStatus `json:"destinations"`
	Runs         *health             `json:"runs,omitempty"` // absent: there is no state directory
	hints        []string
}

type destinationStatus struct {
	Location   string   `json:"location"`
	Place      string   `json:"repository,omitempty"` // where in Location it is
	OK         bool     `json:"ok"`
	Wrong      []string `json:"wrong"`
	Reachable  bool     `json:"reachable"`
	ID         *repo.ID `json:"id,omitempty"`
	Encrypted  bool     `json:"encrypted"`
	Keys       string   `json:"keys,omitempty"`
	FreeBytes  *int64   `json:"free_bytes,omitempty"` // absent: not known
	Snapshots  int      `json:"snapshots"`
	Unreadable int      `json:"unreadable_snapshots"`
	// WriteOnly: the key lists no snapshots, so there is nothing more to judge.
	WriteOnly bool `json:"write_only,omitempty"`

	Index     *repo.IndexReport `json:"index,omitempty"`
	Growth    *job.Growth       `json:"forecast,omitempty"`
	Groups    []groupStatus     `json:"newest"`
	LastDrill *drillStatus      `json:"last_drill,omitempty"`
	// OtherHosts are those whose snapshots are not among Groups.
	OtherHosts int `json:"other_hosts,omitempty"`
	allHosts   bool
	hint       string
}

// A drillStatus is the last drill of a repository on this machine.
type drillStatus struct {
	Time       time.Time `json:"time"`
	AgeSeconds int64     `json:"age_seconds"`
	Passed     bool      `json:"passed"`
	Snapshot   repo.ID   `json:"snapshot"`
	Files      int64     `json:"files"`
	Reasons    []string  `json:"reasons,omitempty"`
	File       string    `json:"report_file"`
}

// A groupStatus is the newest snapshot of one host, kind and set of sources.
type groupStatus struct {
	Snapshot   repo.ID     `json:"snapshot"`
	Time       time.Time   `json:"time"`
	AgeSeconds int64       `json:"age_seconds"`
	Host       string      `json:"host"`
	Kind       tree.Kind   `json:"kind,omitempty"`
	Sources    []tree.Path `json:"sources"`
	Snapshots  int         `json:"snapshots"` // of this group
	Files      int64       `json:"files"`
	Bytes      int64       `json:"bytes"`
	Problems   int64       `json:"problems"`
	Suspicious []repo.ID   `json:"suspicious,omitempty"` // of this group, and not approved
	snap       *tree.Snapshot
}

func (a *app) status(ctx context.Context, f *statusFlags) error {
	now := time.Now()
	rep, err := a.statusReport(ctx, f, now)
	if err != nil {
		return err
	}
	err = a.print(rep, func(w io.Writer) error { return a.statusText(w, rep, now) })
	if err != nil || rep.OK {
		return err
	}
	return &job.Failure{Code: job.ExitUsage, Err: job.ErrReported, Hint: strings.Join(rep.hints, "; ")}
}

// statusCheck answers monitoring in one line, whatever happens.
func (a *app) statusCheck(ctx context.Context, f *statusFlags) error {
	now := time.Now()
	line, code := "", checkUnknown
	rep, err := a.statusReport(ctx, f, now)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		line = unknown(err)
	case rep.Runs == nil:
		line = unknown(errors.New("there is no state directory, so that nothing is known"))
	default:
		var wrong []string
		for _, d := range rep.Destinations {
			for _, x := range d.Wrong {
				wrong = append(wrong, quote(d.Location)+": "+x)
			}
		}
		line, code = checkLine(rep.Runs, wrong, now)
	}
	if a.json && rep != nil {
		if err := a.print(rep, nil); err != nil {
			return err
		}
	} else if _, err := fmt.Fprintln(a.stdout, line); err != nil {
		return err
	}
	return outcome(code)
}

func (a *app) statusReport(ctx context.Context, f *statusFlags, now time.Time) (*statusReport, error) {
	if f.local && a.cfg == nil {
		// Monitoring asks each minute: that is none of the logs' business.
		cfg, _, err := a.findConfig()
		if err != nil {
			return nil, job.Fail(job.ExitUsage, err, "'backup-handler config check' lists everything that is wrong")
		}
		a.cfg = cfg
	}
	if err := a.load(); err != nil {
		return nil, err
	}
	rep := &statusReport{Config: a.cfg.Path(), OK: true, Host: hostName(), AllHosts: f.allHosts, Local: f.local, Destinations: []destinationStatus{}}
	locations := a.backupDirs
	var err error
	if !f.local {
		if locations, err = a.locations(); err != nil {
			return nil, err
		}
	}
	if rep.Runs, err = healthOf(a.cfg, locations, f.maxAge.or(0), now); err != nil {
		if f.local {
			return nil, err
		}
		a.warn("how runs stand is not known: %v", err)
		rep.Runs = nil
	}
	if !f.local {
		if err := a.lookAtDestinations(ctx, rep, locations, now); err != nil {
			return nil, err
		}
	}
	if rep.Runs != nil && !rep.Runs.OK {
		rep.OK = false
		rep.hints = append(rep.hints, "'backup-handler runs' lists what was tried, 'runs show latest' says why")
	}
	return rep, nil
}

func (a *app) lookAtDestinations(ctx context.Context, rep *statusReport, locations []string, now time.Time) error {
	acc, err := a.access(false, nil)
	if err != nil {
		return err
	}
	reports, _ := a.reports() // load has said that there is no state directory
	for _, l := range locations {
		s := statusOf(ctx, acc, a.known(), l, rep.Host, rep.AllHosts, reports, now)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		rep.Destinations = append(rep.Destinations, s)
	}
	compareDestinations(rep.Destinations, rep.Host)
	for i := range rep.Destinations {
		d := &rep.Destinations[i]
		d.OK = len(d.Wrong) == 0
		rep.OK = rep.OK && d.OK
		if d.hint != "" && !slices.Contains(rep.hints, d.hint) {
			rep.hints = append(rep.hints, d.hint)
		}
	}
	return nil
}

// statusText shows a report; with --quiet only what is wrong.
func (a *app) statusText(out io.Writer, rep *statusReport, now time.Time) error {
	var b strings.Builder
	if h := rep.Runs; h != nil && (h.any || rep.Local) && (!h.OK || !a.quiet) {
		h.text(&b, rep.Host, rep.Local, now)
	}
	for i := range rep.Destinations {
		if d := &rep.Destinations[i]; !d.OK || !a.quiet {
			if err := destinationText(&b, d, now); err != nil {
				return err
			}
		}
	}
	text := b.String()
	if a.colour() {
		text = coloured(text)
	}
	_, err := io.WriteString(out, text)
	return err
}

// colour says whether standard output is a terminal that wants colours
// (https://no-color.org).
func (a *app) colour() bool {
	f, ok := a.stdout.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return false
	}
	no, _ := a.env("NO_COLOR")
	kind, _ := a.env("TERM")
	return no == "" && kind != "dumb"
}

// coloured marks the lines of a status that say how something is.
func coloured(text string) string {
	const red, yellow, green, plain = "\x1b[31m", "\x1b[33m", "\x1b[32m", "\x1b[0m"
	var b strings.Builder
	paint := func(line, word, colour string) {
		at := strings.LastIndex(line, word)
		b.WriteString(line[:at] + colour + word + plain + line[at+len(word):])
	}
	for line := range strings.Lines(text) {
		head := strings.TrimRight(line, "\n")
		switch {
		case !strings.HasPrefix(line, " ") && strings.HasSuffix(head, "  ok"):
			paint(line, "ok", green)
		case !strings.HasPrefix(line, " ") && strings.HasSuffix(head, "  SOMETHING IS WRONG"):
			paint(line, "SOMETHING IS WRONG", red)
		case strings.HasPrefix(line, "  WRONG "):
			b.WriteString("  " + red + "WRONG" + plain + line[len("  WRONG"):])
		case strings.HasPrefix(line, "  WARNING "):
			b.WriteString("  " + yellow + "WARNING" + plain + line[len("  WARNING"):])
		default:
			b.WriteString(line)
		}
	}
	return b.String()
}

// statusOf looks at one destination.
func statusOf(ctx context.Context, acc *job.Access, known job.Known, location, host string, allHosts bool, reports job.Reports, now time.Time) destinationStatus {
	s := destinationStatus{Location: location, Wrong: []string{}, Groups: []groupStatus{}, allHosts: allHosts}
	wrong := func(format string, args ...any) { s.Wrong = append(s.Wrong, oneLine(fmt.Sprintf(format, args...))) }
	d, err := acc.OpenDestination(ctx, location)
	if err != nil {
		wrong("cannot be opened: %v", err)
		s.hint = openHint(err)
		return s
	}
	defer d.Close()
	id := d.Repo.ID()
	s.Place, s.Reachable, s.ID = d.Place, true, &id
	if kinds, err := keyKinds(ctx, d.Repo); err != nil {
		wrong("%v", err)
	} else {
		s.Encrypted, s.Keys = kinds[seal.KindNone] == 0, keysText(kinds)
	}
	if s.FreeBytes, err = d.FreeBytes(ctx); err != nil {
		wrong("free space: %v", err)
	}
	if s.LastDrill, err = lastDrill(d, reports, now); err != nil {
		wrong("the last drill: %v", err)
		s.hint = "'backup-handler drill report' says more"
	} else if l := s.LastDrill; l != nil && !l.Passed {
		wrong("the last drill, %s ago, failed: %s", ageText(time.Duration(l.AgeSeconds)*time.Second), strings.Join(l.Reasons, "; "))
		s.hint = "'backup-handler drill report' says more"
	}
	if s.WriteOnly = d.Repo.WriteOnly(); s.WriteOnly {
		if d.Index, err = d.Repo.LoadIndex(ctx); err != nil {
			wrong("%v", err)
		}
		s.Index = &d.Index
		return s
	}
	if err := d.Load(ctx); err != nil {
		wrong("%v", err)
		return s
	}
	s.Snapshots, s.Unreadable, s.Index = len(d.Snapshots), len(d.Unreadable), &d.Index
	s.Growth = d.RecordedGrowth(growthDays, s.FreeBytes)
	for _, x := range []struct {
		n    int
		what string
	}{
		{len(d.Unreadable), "snapshots cannot be read"},
		{len(d.Index.MissingPacks), "packs are missing"},
		{len(d.Index.ResizedPacks), "packs have a wrong size"},
		{len(d.Index.DamagedPacks), "packs are damaged"},
		{len(d.Index.DamagedIndex), "index objects are damaged"},
		{len(d.Index.CondemnedList), "condemned lists are damaged"},
	} {
		if x.n > 0 {
			wrong("%d %s", x.n, x.what)
			s.hint = "'backup-handler verify' tells which files are lost; a backup stores again what the sources still have"
		}
	}
	if len(d.Snapshots) == 0 {
		wrong("holds no snapshot")
	}
	count := make(map[tree.Group]int)
	for _, snap := range d.Snapshots {
		count[snap.Group()]++
	}
	shown := d.Snapshots
	if hosts := job.Hosts(shown); len(hosts) > 1 && !allHosts {
		shown = (&job.Filter{Host: host}).Of(shown)
		s.OtherHosts = len(hosts)
		if len(shown) > 0 {
			s.OtherHosts--
		} else {
			wrong("holds no snapshot of this host, %s", quote(host))
			s.hint = "a backup makes one; --all-hosts shows those of the others"
		}
	}
	suspicious := make(map[tree.Group][]repo.ID)
	for _, snap := range known.Unapproved(shown) {
		suspicious[snap.Group()] = append(suspicious[snap.Group()], snap.ID)
		if list := suspicious[snap.Group()]; len(list) == 1 {
			wrong("snapshot %s of %s, of %s, is suspicious: %s", snap.ID.Short(), quote(snap.Host), snap.Time.Local().Format("2006-01-02 15:04"), suspicionsText(snap))
			s.hint = "if all is well, 'backup-handler approve " + snap.ID.Short() + "'; until then older snapshots are kept"
		}
	}
	for _, snap := range newest(shown, 1) {
		s.Groups = append(s.Groups, groupStatus{
			Snapshot: snap.ID, Time: snap.Time, AgeSeconds: int64(now.Sub(snap.Time).Seconds()), Host: snap.Host, Kind: snap.Kind, Sources: snap.Sources,
			Snapshots: count[snap.Group()], Files: snap.Counts.Files, Bytes: snap.Counts.Bytes, Problems: snap.Counts.Problems,
			Suspicious: suspicious[snap.Group()], snap: snap,
		})
		if slices.ContainsFunc(snap.Problems, func(p tree.Problem) bool { return p.Kind != backup.Metadata }) {
			wrong("the newest snapshot of %s is not complete: %s problems", quote(snap.Host), countText(snap.Counts.Problems))
		}
	}
	return s
}

// lastDrill is what this machine knows of the last drill of a repository; nil: nothing.
func lastDrill(d *job.Destination, reports job.Reports, now time.Time) (*drillStatus, error) {
	name, err := reports.Last(d.Repo.ID())
	if err != nil || name == "" || d.Repo.WriteOnly() {
		return nil, err
	}
	r, err := job.ReadReport(name)
	if err != nil {
		return nil, err
	}
	if err := r.Check(d.Repo.ReportMAC); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	x := &r.Report
	return &drillStatus{x.Time, int64(now.Sub(x.Time).Seconds()), x.Passed, x.Snapshot, x.Files, x.Reasons, name}, nil
}

// compareDestinations finds those that lack what another has. What other hosts keep
// in one of them need not be in all.
func compareDestinations(all []destinationStatus, host string) {
	best := make(map[tree.Group]time.Time)
	for _, d := range all {
		for _, g := range d.Groups {
			if k := g.snap.Group(); g.Time.After(best[k]) {
				best[k] = g.Time
			}
		}
	}
	for i := range all {
		d := &all[i]
		if !d.Reachable || len(d.Groups) == 0 {
			continue
		}
		have := make(map[tree.Group]time.Time)
		for _, g := range d.Groups {
			have[g.snap.Group()] = g.Time
		}
		for k, t := range best {
			if last, ok := have[k]; last.Before(t) && (ok || k.Host == host) {
				d.Wrong = append(d.Wrong, fmt.Sprintf("lacks the newest snapshot of %s, of %s", quote(k.Host), t.Local().Format("2006-01-02 15:04")))
				if d.hint == "" {
					d.hint = "the next backup copies what is missing"
				}
			}
		}
		slices.Sort(d.Wrong)
	}
}

// textWidth is what the lines of a report keep to, paths and names apart.
const textWidth = 80

func destinationText(w io.Writer, d *destinationStatus, now time.Time) error {
	state := "ok"
	if !d.OK {
		state = "SOMETHING IS WRONG"
	}
	fmt.Fprintf(w, "%s  %s\n", quote(d.Location), state)
	for _, x := range d.Wrong {
		fmt.Fprintf(w, "  WRONG       %s\n", x)
	}
	if !d.Reachable {
		return nil
	}
	if d.Place != d.Location {
		fmt.Fprintf(w, "  place       %s\n", quote(d.Place))
	}
	if d.Encrypted {
		fmt.Fprintf(w, "  repository  %s, encrypted (%s)\n", d.ID.Short(), d.Keys)
	} else {
		fmt.Fprintf(w, "  repository  %s\n", d.ID.Short())
		fmt.Fprintln(w, "  WARNING     NOT ENCRYPTED: whoever can read it can read the backups")
	}
	if d.Index != nil {
		fmt.Fprintf(w, "  stored      %s in %s packs", bytesText(d.Index.Bytes), countText(int64(d.Index.Packs)))
		if d.FreeBytes != nil {
			fmt.Fprintf(w, ", %s free", bytesText(*d.FreeBytes))
		}
		snapshots := countText(int64(d.Snapshots))
		if d.WriteOnly {
			snapshots = "not to be seen with a write-only key: 'status' on a host with another one judges them"
		}
		fmt.Fprintf(w, "\n  snapshots   %s\n", snapshots)
	}
	if g := d.Growth; g != nil && g.Rate != nil {
		name := "forecast"
		if g.FullIn != nil && *g.FullIn < soonFull {
			name = "WARNING"
		}
		rest := *g
		rest.Free = nil // has been said
		field(w, name, spaceText(&rest, now))
	}
	if d.Index != nil && d.Index.Condemned > 0 {
		fmt.Fprintf(w, "  waiting     %s packs, %s, for a prune to delete them\n", countText(int64(d.Index.Condemned)), bytesText(d.Index.CondemnedBytes))
	}
	if l := d.LastDrill; l != nil && l.Passed {
		fmt.Fprintf(w, "  drill       passed %s ago: %s files of %s\n", ageText(time.Duration(l.AgeSeconds)*time.Second), countText(l.Files), l.Snapshot.Short())
	}
	if d.allHosts {
		return hostsTable(w, d.Groups)
	}
	if d.OtherHosts > 0 {
		fmt.Fprintf(w, "  others      snapshots of %s other hosts (--all-hosts)\n", countText(int64(d.OtherHosts)))
	}
	for _, g := range d.Groups {
		fmt.Fprintf(w, "  newest      %s  %s ago (%s), %s\n", g.Snapshot.Short(), ageText(time.Duration(g.AgeSeconds)*time.Second),
			g.Time.Local().Format("2006-01-02 15:04"), quote(g.Host))
		line := ""
		for i, p := range g.Sources {
			word := quote(string(p))
			switch {
			case i == 0:
				line = word
			case len(line)+len(word)+16 > textWidth:
				fmt.Fprintf(w, "              %s,\n", line)
				line = word
			default:
				line += ", " + word
			}
		}
		fmt.Fprintf(w, "              %s\n", line)
		fmt.Fprintf(w, "              %s files, %s; %s problems; 1 of %s snapshots\n", countText(g.Files), bytesText(g.Bytes), countText(g.Problems), countText(int64(g.Snapshots)))
	}
	return nil
}

// hostsTable shows the newest snapshots of every host, by host.
func hostsTable(w io.Writer, groups []groupStatus) error {
	if len(groups) == 0 {
		return nil
	}
	groups = slices.Clone(groups)
	slices.SortStableFunc(groups, func(a, b groupStatus) int { return strings.Compare(a.Host, b.Host) })
	t := newTable("HOST", "NEWEST", "TIME", "AGE", "FILES", "SIZE", "PROBLEMS", "SNAPSHOTS", "SOURCES")
	t.right("FILES", "SIZE", "PROBLEMS", "SNAPSHOTS")
	for _, g := range groups {
		t.row(quote(g.Host), g.Snapshot.Short(), g.Time.Local().Format("2006-01-02 15:04"), ageText(time.Duration(g.AgeSeconds)*time.Second),
			countText(g.Files), bytesText(g.Bytes), countText(g.Problems), countText(int64(g.Snapshots)), sourcesText(g.snap))
	}
	return t.write(w)
}

// ageText is a duration in its largest unit.
func ageText(d time.Duration) string {
	unit := func(n int64, name string) string {
		if n != 1 {
			name += "s"
		}
		return fmt.Sprintf("%d %s", n, name)
	}
	switch {
	case d < time.Minute:
		return unit(max(0, int64(d/time.Second)), "second")
	case d < 2*time.Hour:
		return unit(int64(d/time.Minute), "minute")
	case d < 48*time.Hour:
		return unit(int64(d/time.Hour), "hour")
	}
	return unit(int64(d/(24*time.Hour)), "day")
}
