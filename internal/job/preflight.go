package job

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/SP1R4/BackupHandler/v3/internal/config"
	"github.com/SP1R4/BackupHandler/v3/internal/journal"
	"github.com/SP1R4/BackupHandler/v3/internal/keyring"
	"github.com/SP1R4/BackupHandler/v3/internal/location"
	"github.com/SP1R4/BackupHandler/v3/internal/preflight"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/seal"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// forecastRuns is how many runs a forecast of space looks back.
const forecastRuns = 10

// PreflightOptions say for which backup the checks are made.
type PreflightOptions struct {
	// Config is the file whose permissions are judged, Settings its [PREFLIGHT].
	Config   *config.Config
	Settings config.Preflight

	Sources, Destinations []string
	NoFiles               bool // there are no Sources: only streams are backed up
	Host                  string
	AllowEmpty            bool
	SQLite                []string // patterns of databases: [SQLITE] paths
	// Hooked says of a source that a hook runs before its backup; nil: none does.
	Hooked   func(source string) bool
	StateDir string // "" for none
	Known    Known
	// Runs are the records of earlier runs; nil: there are none.
	Runs *journal.Runs

	// Mount mounts what [PREFLIGHT] auto_mount allows; else it is said that a backup
	// would.
	Mount bool
	// Keep leaves the repositories open in the Access, for the backup that follows, and
	// does not list their snapshots where Runs has a good backup. Without it, all that
	// was opened is closed.
	Keep bool

	// Machine is where to look; nil: this one.
	Machine *preflight.Machine
	Now     func() time.Time
	Built   time.Time // when the program was; zero: not known
}

// Preflight checks whether a backup can be made. It changes nothing: it creates no
// repository, stores nothing in one, and makes no more than a probe file in local
// destinations, which it removes. Destinations are looked at side by side, unless
// there is somebody to ask for a passphrase. [Refusal] says what a backup makes of the
// report.
func Preflight(ctx context.Context, a *Access, o PreflightOptions) *preflight.Report {
	p := &preflighting{PreflightOptions: o, access: a, machine: o.Machine}
	if p.machine == nil {
		p.machine = preflight.This()
	}
	rep := new(preflight.Report)
	sources, err := cleanSources(o.Sources, func(string, ...any) {})
	if err != nil && !o.NoFiles {
		rep.Add(preflight.Result{Check: preflight.CheckSource, State: preflight.Refused, Text: err.Error(), Hint: "use --source-dir, or set [DEFAULT] source_dir in the configuration"})
	}
	p.Sources = sources
	if !o.Settings.Enabled {
		bare := *p.machine
		bare.Fstab = "" // nothing need be mounted
		p.machine = &bare
		rep.Add(preflight.Result{Check: preflight.CheckAll, State: preflight.Skipped, Text: "[PREFLIGHT] enabled is off: only what a backup needs in any case is checked"})
	}
	now := o.Now()
	h := p.recorded()
	list := !o.Keep || h.last.IsZero()
	looks := p.destinations(ctx, list)
	for _, l := range looks {
		h.add(l.snapshots(o.Host, sources))
	}

	rep.Add(p.configuration()...)
	if o.Settings.Enabled {
		rep.Add(preflight.ClockOf(now, o.Built, h.newest))
		rep.Add(preflight.StaleAfter(now, h.last, o.Settings.Interval, o.Settings.StalenessFactor))
		rep.Add(p.own(ctx)...)
		rep.Add(p.ungoverned(looks)...)
	}
	had := h.files
	if len(sources) != 1 {
		had = 0 // of which of them is not known
	}
	for _, s := range sources {
		rep.Add(p.machine.Source(ctx, s, preflight.SourceOptions{AllowEmpty: o.AllowEmpty, Had: had, Hooked: o.Hooked != nil && o.Hooked(s)})...)
	}
	rep.Add(p.machine.Databases(ctx, p.SQLite)...)
	forecast := preflight.NewForecast(h.stored)
	for _, l := range looks {
		if o.Settings.Enabled && !preflight.AnyRefused(l.results) {
			l.add(p.space(ctx, l, forecast)...)
		}
		for _, r := range l.results {
			r.Destination = l.location
			rep.Add(r)
		}
		l.done(o.Keep)
	}
	return rep
}

// Refusal is what a backup makes of a report: the destinations that it leaves alone, by
// location, and why; and a *Failure where it cannot be made at all, because of
// something that is not about a destination, or because none is left.
func Refusal(rep *preflight.Report, destinations []string) (refused map[string]error, err error) {
	refused = make(map[string]error)
	var all []error
	for _, r := range rep.With(preflight.Refused) {
		f := &Failure{ExitRefused, errors.New(r.String()), r.Hint}
		switch {
		case r.Destination == "":
			if r.Check == preflight.CheckSource {
				f.Err = fmt.Errorf("source %w", f.Err)
			}
			all = append(all, f)
		case refused[r.Destination] == nil:
			refused[r.Destination] = f
		}
	}
	if len(all) == 0 {
		for _, d := range destinations {
			if refused[d] == nil {
				return refused, nil
			}
			all = append(all, refused[d])
		}
	}
	switch len(all) {
	case 0:
		return refused, nil
	case 1:
		return refused, all[0]
	}
	first, _ := errors.AsType[*Failure](all[0])
	return refused, &Failure{ExitRefused, errors.Join(all...), first.Hint}
}

// preflighting is one execution of the checks.
type preflighting struct {
	PreflightOptions
	access  *Access
	machine *preflight.Machine
}

// configuration judges who can change the file, and who can read what it holds.
func (p *preflighting) configuration() []preflight.Result {
	path := p.Config.Path()
	if path == "" {
		return nil
	}
	r := preflight.Result{Check: preflight.CheckConfig, State: preflight.OK, Subject: path, Text: "nobody else can change it"}
	if err := p.Config.Trusted(); err != nil {
		r.State, r.Text, r.Hint = preflight.Warning, err.Error(), "make it yours alone: chmod 600"
		if p.Config.HasHooks() {
			r.State, r.Text, r.Hint = preflight.Refused, fmt.Sprintf("its commands are not run: %v", err), TrustHint
		}
	}
	results := []preflight.Result{r}
	if p.Config.Exposed() && p.Settings.Enabled {
		results = append(results, preflight.Result{Check: preflight.CheckConfig, State: preflight.Warning, Subject: path,
			Text: "it holds secrets in plain text, and others can read it", Hint: "chmod 600, and write ${NAME} of environment variables in their place"})
	}
	return results
}

// own looks at the file systems of the state directory and the cache.
func (p *preflighting) own(ctx context.Context) []preflight.Result {
	results := p.machine.OwnSpace(ctx, p.StateDir)
	if p.access.CacheDir != p.StateDir {
		results = append(results, p.machine.OwnSpace(ctx, p.access.CacheDir)...)
	}
	return results
}

// ungoverned warns of an expected_mount that no destination is below: it may be
// misspelt, and protects nothing.
func (p *preflighting) ungoverned(looks []*look) []preflight.Result {
	if p.Settings.ExpectedMount == "" || slices.ContainsFunc(looks, func(l *look) bool { return l.below }) ||
		!slices.ContainsFunc(looks, func(l *look) bool { return l.dir != "" }) {
		return nil
	}
	return []preflight.Result{{Check: preflight.CheckVolume, State: preflight.Warning, Subject: p.Settings.ExpectedMount,
		Text: "no destination is below it, so none is compared", Hint: "correct expected_mount in [PREFLIGHT], or leave it out"}}
}

// A look is at one destination.
type look struct {
	location string
	dir      string // "" if it is on another machine
	below    bool   // [PREFLIGHT] expected_mount
	results  []preflight.Result
	d        *Destination // nil: could not be opened
	kept     *keptOpen
}

func (l *look) add(results ...preflight.Result) { l.results = append(l.results, results...) }

func (l *look) say(check preflight.Check, state preflight.State, hint, format string, args ...any) {
	l.add(preflight.Result{Check: check, State: state, Subject: location.Redact(l.location), Text: fmt.Sprintf(format, args...), Hint: hint})
}

// done keeps the repository open, if all is well, or closes it.
func (l *look) done(keep bool) {
	switch {
	case l.d == nil || l.d.Repo == nil:
	case keep && !preflight.AnyRefused(l.results):
		l.kept.put(l.d)
	default:
		l.d.Close()
	}
}

// destinations looks at all of them, and opens those that it may.
func (p *preflighting) destinations(ctx context.Context, list bool) []*look {
	looks := make([]*look, len(p.Destinations))
	var g errgroup.Group
	if p.access.Prompt != nil {
		g.SetLimit(1)
	}
	for i, place := range p.Destinations {
		l := &look{location: place, kept: p.access.kept}
		looks[i] = l
		if slices.Contains(p.Destinations[:i], place) {
			l.say(preflight.CheckRepository, preflight.Warning, "", "it is named twice")
			continue
		}
		g.Go(func() error {
			if p.local(ctx, l) {
				p.open(ctx, l, list)
			}
			return nil
		})
	}
	_ = g.Wait()
	return looks
}

// local checks the machine's side of a destination: the disk. It says whether there is
// anything to be opened.
func (p *preflighting) local(ctx context.Context, l *look) bool {
	dir, ok := storage.Dir(l.location)
	if !ok || !p.Settings.Enabled {
		return true
	}
	l.dir = dir
	s := p.Settings
	mount := preflight.MountOptions{Auto: s.AutoMount, Now: p.Mount}
	unseen := func(results []preflight.Result) bool { // the disk is not there
		l.add(results...)
		return slices.ContainsFunc(results, func(r preflight.Result) bool {
			return r.State == preflight.Refused || r.Check == preflight.CheckMounted && r.State == preflight.Warning
		})
	}
	mounted := p.machine.Mounted(ctx, dir, mount)
	if unseen(mounted) {
		l.below = true // that is not known, and this is enough
		return false
	}
	volume := p.machine.Volume(ctx, dir, preflight.Expected{Mount: s.ExpectedMount, Label: s.ExpectedLabel, UUID: s.ExpectedUUID, FSType: s.ExpectedFSType}, mount)
	l.below = len(volume) > 0
	if len(mounted) > 0 { // has been said
		volume = slices.DeleteFunc(volume, func(r preflight.Result) bool { return r.Check == preflight.CheckMounted && r.State == preflight.OK })
	}
	if unseen(volume) {
		return false
	}
	if s.ExpectedOwner != "" && unseen(p.machine.Owned(ctx, dir, s.ExpectedOwner)) {
		return false
	}
	return !unseen(p.machine.Writable(ctx, dir))
}

func (l *look) refuse(check preflight.Check, err error) {
	hint := hint(err)
	if f, ok := errors.AsType[*Failure](err); ok {
		hint = f.Hint
	}
	l.say(check, preflight.Refused, hint, "%v", err)
}

// open opens the repository, if there is one, and looks at its snapshots if list.
func (p *preflighting) open(ctx context.Context, l *look, list bool) {
	d, err := p.access.OpenDestination(ctx, l.location)
	remote := location.IsRemote(l.location)
	if err != nil && !errors.Is(err, repo.ErrNoRepository) {
		l.refuse(openCheck(err, remote), err)
		return
	}
	l.d = d
	if remote {
		l.say(preflight.CheckReachable, preflight.OK, "", "it answers")
		l.say(preflight.CheckCredentials, preflight.OK, "", "it lets us in")
	}
	var notes []string
	if err := checkKnown(d, p.Known, func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }); err != nil {
		l.refuse(preflight.CheckRepository, err)
		return
	}
	for _, n := range notes {
		l.say(preflight.CheckRepository, preflight.Warning, "", "%s", n)
	}
	if d.Repo == nil {
		p.absent(l)
		return
	}
	l.say(preflight.CheckRepository, preflight.OK, "", "repository %s", d.Repo.ID().Short())
	l.say(preflight.CheckKey, preflight.OK, "", "it opens")
	if list && !d.Repo.WriteOnly() {
		if err := d.LoadSnapshots(ctx); err != nil {
			l.refuse(preflight.CheckRepository, err)
		}
	}
	if remote && p.Settings.Enabled {
		l.say(preflight.CheckWritable, preflight.Skipped, "", "nothing is stored on another machine to try it")
	}
}

// absent says what a backup would do where there is no repository.
func (p *preflighting) absent(l *look) {
	if !location.IsURL(l.location) {
		if err := checkMounted(l.location); err != nil {
			l.refuse(preflight.CheckMounted, err)
			return
		}
	}
	place, err := Place(l.location)
	if err != nil {
		l.refuse(preflight.CheckRepository, err)
		return
	}
	l.say(preflight.CheckRepository, preflight.OK, "", "none yet; a backup creates it in %s", location.Redact(place))
	a := p.access
	if a.EncryptNew && a.Prompt == nil && (len(a.Lockers) == 0 || len(a.Credentials) == 0) {
		l.refuse(preflight.CheckKey, ErrNoKey)
		return
	}
	l.say(preflight.CheckKey, preflight.OK, "", "%s", map[bool]string{true: "there is one for it", false: "none: it will not be encrypted"}[a.EncryptNew])
}

// openCheck is the check that an error of opening a repository is about.
func openCheck(err error, remote bool) preflight.Check {
	_, setting := errors.AsType[*config.Error](err)
	_, permanent := errors.AsType[*storage.PermanentError](err)
	_, unreachable := errors.AsType[*storage.UnreachableError](err)
	switch {
	case errors.Is(err, seal.ErrWrongKey), errors.Is(err, ErrNoKey), errors.Is(err, keyring.ErrUnavailable):
		return preflight.CheckKey
	case errors.Is(err, storage.ErrClock):
		return preflight.CheckClock
	case errors.Is(err, storage.ErrDenied), setting:
		return preflight.CheckCredentials
	case remote && (permanent || unreachable):
		return preflight.CheckReachable
	}
	return preflight.CheckRepository
}

// space compares the room at a destination with what runs need.
func (p *preflighting) space(ctx context.Context, l *look, f preflight.Forecast) []preflight.Result {
	subject := location.Redact(l.location)
	unknown := func(err error) []preflight.Result {
		return []preflight.Result{{Check: preflight.CheckSpace, State: preflight.Skipped, Subject: subject, Text: fmt.Sprintf("how much room there is is not known: %v", err)}}
	}
	if l.d == nil {
		return nil // it was not looked at
	}
	if l.dir != "" {
		room, err := p.machine.RoomAt(l.d.Place)
		if err != nil {
			return unknown(err)
		}
		return []preflight.Result{preflight.Space(subject, room, p.Settings.MinFree, f)}
	}
	if l.d.Repo == nil {
		return nil
	}
	sp, ok := l.d.Repo.Backend().(storage.Spacer)
	if !ok {
		return unknown(errors.New("the store does not tell"))
	}
	free, err := sp.Free(ctx)
	if errors.Is(err, errors.ErrUnsupported) {
		err = errors.New("the store does not tell")
	}
	if err != nil {
		return unknown(err)
	}
	return []preflight.Result{preflight.Space(subject, preflight.Room{Bytes: free, Inodes: -1}, p.Settings.MinFree, f)}
}

// A past is what earlier backups of the same sources say.
type past struct {
	last   time.Time // end of the last good one; zero: there is none
	newest time.Time // start of the newest, as the clock was then
	files  int64     // in the last good one
	stored []int64   // bytes, by the last good ones but the first
}

// add takes over what only another past knows.
func (h *past) add(x past) {
	if h.last.IsZero() {
		h.last, h.files = x.last, x.files
	}
	if len(h.stored) == 0 {
		h.stored = x.stored
	}
	if x.newest.After(h.newest) {
		h.newest = x.newest
	}
}

// recorded is the past that the record of runs has. One that cannot be read is as
// good as none.
func (p *preflighting) recorded() (h past) {
	if p.Runs == nil {
		return h
	}
	runs, err := p.Runs.List()
	if err != nil {
		return h
	}
	for _, r := range runs {
		var sources []string
		for _, s := range r.Sources {
			if s.Kind == "" {
				sources = append(sources, s.Path)
			}
		}
		slices.Sort(sources)
		if r.Command != "backup" || r.DryRun || !r.Status.Over() || !slices.Equal(sources, p.Sources) {
			continue
		}
		if r.Start.After(h.newest) {
			h.newest = r.Start
		}
		if !r.Status.Good() {
			continue
		}
		if h.last.IsZero() && !r.AdHoc {
			h.last, h.files = r.End, r.Counts.Files
		}
		// What a first run stores is everything: the next ones are not like it.
		if c := r.Counts; c.New < c.Files && len(h.stored) < forecastRuns {
			h.stored = append(h.stored, c.Stored)
		}
	}
	return h
}

// snapshots is the past that the snapshots of a host and its sources have.
func (l *look) snapshots(host string, sources []string) (h past) {
	if l.d == nil {
		return h
	}
	for _, s := range slices.Backward(l.d.Snapshots) {
		if s.Host != host {
			continue
		}
		if s.Time.After(h.newest) {
			h.newest = s.Time
		}
		if s.Kind != tree.KindFiles || !slices.Equal(s.Sources, asPaths(sources)) {
			continue
		}
		if h.last.IsZero() {
			h.last, h.files = s.End, s.Counts.Files
		}
		if s.Parent != nil && len(h.stored) < forecastRuns {
			h.stored = append(h.stored, s.Counts.BytesStored)
		}
	}
	return h
}
