package job

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/SP1R4/BackupHandler/v3/internal/backup"
	"github.com/SP1R4/BackupHandler/v3/internal/config"
	"github.com/SP1R4/BackupHandler/v3/internal/dbdump"
	"github.com/SP1R4/BackupHandler/v3/internal/exclude"
	"github.com/SP1R4/BackupHandler/v3/internal/files"
	"github.com/SP1R4/BackupHandler/v3/internal/guard"
	"github.com/SP1R4/BackupHandler/v3/internal/keyring"
	"github.com/SP1R4/BackupHandler/v3/internal/location"
	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/seal"
	"github.com/SP1R4/BackupHandler/v3/internal/sqlite"
	"github.com/SP1R4/BackupHandler/v3/internal/storage"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// BackupOptions describe one run.
type BackupOptions struct {
	Sources      []string // none: only Streams
	Streams      []Stream // made behind the files, in this order
	Destinations []string
	// Others are destinations of the configuration that this run does not write to: dumps
	// in them may need what of a log would be left out.
	Others      []string
	Mode        tree.Mode
	Rules       *exclude.Rules
	OneFS       bool
	SQLite      sqlite.Options // without Paths and Find: databases are files like others
	Tags        []string
	AllowEmpty  bool
	DryRun      bool
	FileSHA256  bool
	Readers     int
	Sealers     int
	Compression repo.Compression

	// Guard says what makes a run suspicious; nil: nothing does.
	Guard *guard.Limits
	// FailSuspicious makes a suspicious run one that has failed.
	FailSuspicious bool

	// MaxDuration is how long the run may take; 0: as long as it likes.
	MaxDuration time.Duration

	// ListFiles is how many files are read once more for the list in Lists; 0: there is
	// none.
	ListFiles int
	Lists     Lists

	// Refused are destinations, by location, that are left alone, and why: they have
	// failed before the run begins.
	Refused map[string]error

	Host, User, Program, RunID string
	// Known remembers the destinations.
	Known Known

	Progress  *backup.Progress
	OnProblem func(tree.Problem)
	OnFile    func(path, state string)
	// Note receives one line about something the user should know; Warn, which nil
	// makes Note, one about something to look at.
	Note, Warn func(string)
	Log        *slog.Logger
	Now        func() time.Time

	chosen *sampler // for the list; nil: none
}

// BackupResult is what a run did.
type BackupResult struct {
	Snapshot     *tree.Snapshot // of the files; nil: none was made
	NoFiles      bool           // none was asked for
	Streams      []StreamResult // one for each
	Destinations []*Destination
	Notes        []string
	// Unapproved are suspicious snapshots of the same sources before this one.
	Unapproved []*tree.Snapshot
}

// Failed says whether something that should be in every destination is not.
func (r *BackupResult) Failed() bool {
	if slices.ContainsFunc(r.Destinations, func(d *Destination) bool { return d.Err != nil }) ||
		slices.ContainsFunc(r.Streams, func(s StreamResult) bool { return s.Err != nil }) {
		return true
	}
	if r.Snapshot == nil {
		return !r.NoFiles
	}
	if r.Snapshot.Counts.Problems > int64(len(r.Snapshot.Problems)) {
		return true // nobody knows what the others were
	}
	return slices.ContainsFunc(r.Snapshot.Problems, func(p tree.Problem) bool { return p.Kind != backup.Metadata })
}

// Made are the snapshots that were made, that of the files first.
func (r *BackupResult) Made() []*tree.Snapshot {
	var made []*tree.Snapshot
	if r.Snapshot != nil {
		made = append(made, r.Snapshot)
	}
	for _, s := range r.Streams {
		if s.Snapshot != nil {
			made = append(made, s.Snapshot)
		}
	}
	return made
}

// Backup runs one backup to several destinations: the source is read once, into
// the first destination that can be reached, and so is each stream; the snapshots are
// then copied to the others. Each destination and each stream succeeds or fails alone,
// also when the time is over. The error is a *Failure when nothing could
// be done; else look at the result.
func Backup(ctx context.Context, a *Access, o BackupOptions) (*BackupResult, error) {
	if o.MaxDuration <= 0 {
		return runBackup(ctx, a, o)
	}
	limit := fmt.Errorf("the run was ended: it took longer than max_duration, %v", o.MaxDuration)
	ctx, cancel := context.WithTimeoutCause(ctx, o.MaxDuration, limit)
	defer cancel()
	res, err := runBackup(ctx, a, o)
	if context.Cause(ctx) != limit {
		return res, err
	}
	ended := func(err error) bool { return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, limit) }
	if err != nil && !ended(err) {
		return res, err
	}
	// What was made is there, wherever nothing says otherwise: only what was still being
	// made or copied was cut short, if anything was.
	none := len(res.Made()) == 0
	for _, d := range res.Destinations {
		if ended(d.Err) || none && d.Err == nil {
			d.Err = fmt.Errorf("%s: %w; the next run makes up for it", location.Redact(d.Location), limit)
		}
	}
	if none {
		return res, Fail(ExitPartial, limit, "what was stored is used by the next run; raise [NETWORK] max_duration or --max-duration if it is too short for what changes")
	}
	for i := range res.Streams {
		if s := &res.Streams[i]; ended(s.Err) {
			s.Err = limit
		}
	}
	return res, nil
}

func runBackup(ctx context.Context, a *Access, o BackupOptions) (*BackupResult, error) {
	res := &BackupResult{NoFiles: len(o.Sources) == 0 && len(o.Streams) > 0}
	note, warn := tellers(o.Note, o.Warn, &res.Notes)
	var sources []string
	if !res.NoFiles {
		var err error
		if sources, err = cleanSources(o.Sources, note); err != nil {
			return nil, Fail(ExitUsage, err, "")
		}
	}
	o.Sources = sources
	for _, s := range sources {
		if _, err := os.Stat(s); err != nil {
			return nil, Fail(ExitRefused, fmt.Errorf("source %s: %w", s, reason(err)), "is its file system mounted? Nothing was changed")
		}
	}
	res.Destinations = openAll(ctx, a, o.Destinations, o.Refused, nil, o.Known, o.DryRun, note, warn)
	defer func() {
		for _, d := range res.Destinations {
			d.lookForRoom(ctx)
			if err := d.Close(); err != nil && d.Err == nil {
				d.Err = named(d.Location, err)
			}
		}
	}()
	if err := ctx.Err(); err != nil {
		return res, err
	}
	ready := slices.DeleteFunc(slices.Clone(res.Destinations), func(d *Destination) bool { return d.Err != nil })
	if len(ready) == 0 {
		errs := make([]error, len(res.Destinations))
		for i, d := range res.Destinations {
			errs[i] = d.Err
		}
		if len(errs) == 1 {
			return res, Fail(ExitRefused, errs[0], hint(errs[0]))
		}
		return res, Fail(ExitRefused, fmt.Errorf("no destination can be used: %w", errors.Join(errs...)), hint(errs[0]))
	}
	for _, d := range res.Destinations {
		if d.Repo != nil && d.Repo.WriteOnly() && len(res.Destinations) > 1 {
			return res, Fail(ExitUsage, fmt.Errorf("%s: a write-only key cannot copy from one destination to another", d.Location),
				"run the backup once for each destination (--backup-dirs); nothing was changed")
		}
	}
	m := maker{ready: ready, away: slices.Clone(o.Others), o: &o, note: note, late: make(map[*Destination]error)}
	for _, d := range res.Destinations {
		if d.Err != nil {
			m.away = append(m.away, d.Location)
		}
	}
	defer m.remember()
	if !res.NoFiles {
		group := (&tree.Snapshot{Host: o.Host, Sources: asPaths(sources)}).Group()
		first, snap, err := m.make(ctx, group, func(d *Destination) (*tree.Snapshot, error) { return backupTo(ctx, d, &o, note) })
		if err != nil {
			return res, err
		}
		res.Snapshot = snap
		if snap == nil {
			return res, Fail(ExitPartial, firstError(res.Destinations), hint(firstError(res.Destinations)))
		}
		if !o.DryRun {
			res.Unapproved = slices.DeleteFunc(o.Known.Unapproved(first.Snapshots), func(s *tree.Snapshot) bool { return s == snap || s.Group() != group })
		}
		if o.chosen != nil {
			if err := o.Lists.write(ctx, snap.ID, o.chosen); err != nil && ctx.Err() == nil {
				warn("no list for drills: %v", err)
			}
		}
		m.copy(ctx, group)
	}
	m.streams(ctx, res)
	for d, err := range m.late {
		d.Err = errors.Join(d.Err, err)
	}
	return res, ctx.Err()
}

// A maker makes snapshots, each in the first destination that can take it.
type maker struct {
	ready []*Destination
	away  []string // destinations of the configuration that cannot be looked at, by location
	o     *BackupOptions
	note  teller
	late  map[*Destination]error // what could not be copied to one that is fit for use
}

// make makes a snapshot of a group. Without one, the error is what is the same
// everywhere: the end of the context, a *Failure or a *backup.SourceError; nil says that
// each destination has failed, and knows why.
func (m *maker) make(ctx context.Context, group tree.Group, to func(*Destination) (*tree.Snapshot, error)) (*Destination, *tree.Snapshot, error) {
	for _, d := range m.ready {
		if d.Err != nil {
			continue
		}
		// It gets first what it has missed; the others follow with the new snapshot.
		if !m.o.DryRun {
			err := copyList(ctx, d, missing(d, m.ready, group), m.o.writer())
			if err != nil && !isDamage(err) {
				d.Err = err
				continue
			}
			if err != nil {
				m.late[d] = errors.Join(m.late[d], err)
			}
		}
		var snap *tree.Snapshot
		var err error
		for attempt := 1; ; attempt++ {
			snap, err = to(d)
			if !errors.Is(err, repo.ErrRaced) || attempt == 2 {
				break
			}
			m.note("%s was pruned during the run: once more", d.Location)
			if err = d.loadToWrite(ctx); err != nil {
				break
			}
		}
		if err == nil {
			if !m.o.DryRun {
				d.Snapshots = append(d.Snapshots, snap)
			}
			return d, snap, nil
		}
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		_, failure := errors.AsType[*Failure](err)
		if _, source := errors.AsType[*backup.SourceError](err); failure || source {
			return nil, nil, err
		}
		d.Err = fmt.Errorf("%s: %w", d.Location, err)
	}
	return nil, nil, ctx.Err()
}

// A teller receives a line, formatted as by fmt.Printf.
type teller func(format string, args ...any)

// tellers makes those for notes and for warnings, which tell each line once and add it
// to all. They may be used concurrently.
func tellers(note, warn func(string), all *[]string) (n, w teller) {
	if warn == nil {
		warn = note
	}
	var mu sync.Mutex
	to := func(tell func(string)) teller {
		return func(format string, args ...any) {
			mu.Lock()
			defer mu.Unlock()
			line := fmt.Sprintf(format, args...)
			if slices.Contains(*all, line) {
				return
			}
			*all = append(*all, line)
			tell(line)
		}
	}
	return to(note), to(warn)
}

func (o *BackupOptions) writer() repo.WriterOptions {
	return repo.WriterOptions{Compression: o.Compression, Sealers: o.Sealers}
}

func firstError(ds []*Destination) error {
	for _, d := range ds {
		if d.Err != nil {
			return d.Err
		}
	}
	return nil
}

// copy brings every destination up to the same snapshots of a group.
func (m *maker) copy(ctx context.Context, group tree.Group) {
	if !m.o.DryRun {
		copyToOthers(ctx, m.ready, group, m.o.writer())
	}
}

func copyToOthers(ctx context.Context, ready []*Destination, group tree.Group, o repo.WriterOptions) {
	// What is missing where is settled before anything is copied: the lists
	// change while copies run.
	lists := make([][]missed, len(ready))
	for i, d := range ready {
		if d.Err == nil {
			lists[i] = missing(d, ready, group)
		}
	}
	var wg sync.WaitGroup
	for i, d := range ready {
		if d.Err == nil && len(lists[i]) > 0 {
			wg.Go(func() { d.Err = copyList(ctx, d, lists[i], o) })
		}
	}
	wg.Wait()
}

// copyList copies snapshots to d, oldest first. One that is damaged where it comes
// from keeps the later ones from nothing.
func copyList(ctx context.Context, d *Destination, list []missed, o repo.WriterOptions) error {
	var damaged error
	for _, m := range list {
		if err := copySnapshot(ctx, m.src, d, m.snap, o, nil); err != nil {
			err = fmt.Errorf("%s: %w", d.Location, err)
			if !isDamage(err) {
				return err
			}
			damaged = errors.Join(damaged, err)
			continue
		}
		d.Snapshots = append(d.Snapshots, m.snap)
	}
	slices.SortFunc(d.Snapshots, func(a, b *tree.Snapshot) int { return a.Time.Compare(b.Time) })
	return damaged
}

// isDamage says whether a copy failed because of what it was made from.
func isDamage(err error) bool {
	return errors.Is(err, repo.ErrCorrupt) || errors.Is(err, repo.ErrMissing) || errors.Is(err, tree.ErrCorrupt)
}

// openAll opens the destinations and creates those that do not exist: as siblings of
// the given repository, or, where it is nil, of each other. Those that are refused are
// not touched.
func openAll(ctx context.Context, a *Access, locations []string, refused map[string]error, sibling *repo.Repository, known Known, dryRun bool, note, warn teller) []*Destination {
	all := make([]*Destination, len(locations))
	var g errgroup.Group
	if a.Prompt != nil {
		g.SetLimit(1) // one question at a time, and the answer may open the next one, too
	}
	for i, l := range locations {
		if err := refused[l]; err != nil {
			all[i] = &Destination{Location: l, Place: l, Err: err}
			continue
		}
		g.Go(func() error {
			d, err := a.OpenDestination(ctx, l)
			if err != nil && !errors.Is(err, repo.ErrNoRepository) {
				d.Err = named(l, err)
			}
			all[i] = d
			return nil
		})
	}
	_ = g.Wait()
	for _, d := range all {
		if d.Err != nil {
			continue
		}
		if d.Err = checkKnown(d, known, warn); d.Err == nil && sibling == nil {
			sibling = d.Repo
		}
	}
	for _, d := range all {
		if d.Err != nil {
			continue
		}
		if d.Repo == nil && sibling != nil && sibling.WriteOnly() {
			d.Err = fmt.Errorf("%s: there is no repository, and none is made beside one with a write-only key", d.Location)
			continue
		}
		if d.Repo == nil && !dryRun {
			if d.Err = named(d.Location, a.create(ctx, d, sibling)); d.Err != nil {
				continue
			}
			if sibling == nil {
				sibling = d.Repo
			}
			if d.Created {
				note("created repository %s", d.Place)
				if !a.EncryptNew {
					note("%s is not encrypted: everyone who can read it can read the backups (--encrypt, or [ENCRYPTION] enabled)", d.Place)
				}
			}
		}
		if d.Repo != nil {
			g.Go(func() error { d.Err = named(d.Location, d.loadToWrite(ctx)); return nil })
		}
	}
	_ = g.Wait()
	for _, d := range all {
		if d.Err != nil || d.Repo == nil {
			continue
		}
		warnDamage(d, warn)
		if !dryRun {
			if err := known.Remember(d.Location, d.Repo.ID()); err != nil {
				warn("cannot remember the repository %s: %v", d.Place, err)
			}
		}
	}
	return all
}

// named is an error that names the destination.
func named(place string, err error) error {
	if err == nil || strings.Contains(err.Error(), location.Redact(place)) {
		return err
	}
	return fmt.Errorf("%s: %w", location.Redact(place), err)
}

// checkKnown compares a destination with what was there before. One that is gone
// is not created anew: its disk may just not be mounted.
func checkKnown(d *Destination, known Known, warn teller) error {
	id, ok, err := known.Lookup(d.Location)
	if err != nil {
		warn("%v", err)
	}
	switch {
	case !ok:
	case d.Repo == nil:
		return &Failure{ExitRefused, fmt.Errorf("%s: the repository %s that was here is gone", d.Location, id.Short()),
			"is its disk mounted? To begin a new one, run 'backup-handler init --backup-dirs " + d.Location + "'"}
	case d.Repo.ID() != id:
		warn("%s: ANOTHER REPOSITORY than before is here (%s, was %s): if nobody has replaced it on purpose, find out who did", d.Location, d.Repo.ID().Short(), id.Short())
	}
	return nil
}

func warnDamage(d *Destination, warn teller) {
	if n := len(d.Index.MissingPacks) + len(d.Index.ResizedPacks) + len(d.Index.DamagedPacks); n > 0 {
		warn("%s: %d packs are missing or damaged; what they held and is still in the sources is stored again. Run 'backup-handler verify'", d.Location, n)
	}
	if n := len(d.Unreadable); n > 0 {
		warn("%s: %d snapshots cannot be read. Run 'backup-handler verify'", d.Location, n)
	}
}

// backupTo makes the snapshot in one destination.
func backupTo(ctx context.Context, d *Destination, o *BackupOptions, note teller) (*tree.Snapshot, error) {
	skip := localDirs(o.Destinations)
	opts := backup.Options{
		ReadAll: o.Mode == tree.Full, AllowEmpty: o.AllowEmpty, FileSHA256: o.FileSHA256, DryRun: o.DryRun,
		Readers: o.Readers, Write: o.writer(), Progress: o.Progress, OnProblem: o.OnProblem, OnFile: o.OnFile, Now: o.Now,
	}
	snap := tree.Snapshot{
		Time: o.Now().Truncate(time.Microsecond), Host: o.Host, User: o.User, Program: o.Program, RunID: o.RunID,
		Sources: asPaths(o.Sources), Mode: o.Mode, Tags: o.Tags, Lacks: files.Lacks(),
	}
	if d.Repo != nil {
		opts.Parent = parent(d.Snapshots, &snap)
	}
	if o.ListFiles > 0 && o.Lists.Dir != "" && !o.DryRun {
		o.chosen = newSampler(o.ListFiles)
		opts.OnStored = o.chosen.add
	}
	if o.Guard != nil {
		opts.Judge = func(s *tree.Snapshot) { judge(d.Snapshots, s, *o.Guard, o.Known) }
	}
	if opts.Parent == nil {
		opts.ReadAll = true
		switch {
		case o.Mode == tree.Full || o.DryRun:
		case d.Repo != nil && d.Repo.WriteOnly():
			note("the key is a write-only one, so no earlier snapshot can be compared with: everything is read")
		default:
			note("no earlier snapshot to compare with: everything is read")
		}
	}
	copier, err := newCopier(ctx, o)
	if err != nil {
		return nil, err
	}
	var metadata problems
	var skipped atomic.Int64
	var roots []*files.Root
	fail := func(err error) (*tree.Snapshot, error) {
		for _, r := range roots {
			r.Entry.Close()
		}
		return nil, err
	}
	for _, s := range o.Sources {
		root, err := files.OpenRoot(s, files.Options{
			Rules: o.Rules, OneFileSystem: o.OneFS, SkipPaths: skip, SQLite: copier,
			OnProblem: func(p files.Problem) { metadata.add(p, o.OnProblem) },
			OnSkipped: func(s files.Skipped) {
				skipped.Add(1)
				switch s.Kind {
				case files.SkipPath:
					note("left out %s: it is a destination of this backup", s.Path)
				case files.Socket:
					note("left out %s: a socket cannot be restored", s.Path)
				}
			},
		})
		if err != nil {
			return fail(Fail(ExitRefused, fmt.Errorf("source %s: %w", s, reason(err)), "nothing was changed"))
		}
		roots = append(roots, root)
		opts.Roots = append(opts.Roots, backup.Root{Path: filepath.ToSlash(root.Path), Ancestors: root.Ancestors, Entry: root.Entry})
	}
	opts.Owners = func() (users, groups map[uint32]string) {
		users, groups = map[uint32]string{}, map[uint32]string{}
		for _, r := range roots {
			for id, name := range r.Owners().Users() {
				users[id] = name
			}
			for id, name := range r.Owners().Groups() {
				groups[id] = name
			}
		}
		return users, groups
	}
	opts.Skipped = skipped.Load
	opts.Extra = metadata.list
	got, err := backup.Run(ctx, d.Repo, snap, opts)
	if _, ok := errors.AsType[*backup.SourceError](err); ok && !errors.Is(err, backup.ErrEmptySource) {
		return nil, Fail(ExitRefused, err, "nothing was changed")
	}
	if errors.Is(err, backup.ErrEmptySource) {
		return nil, Fail(ExitRefused, err, "is its file system mounted? If it is meant to be empty, add --allow-empty. Nothing was changed")
	}
	return got, err
}

// localDirs are the destinations that are directories of this machine: they are
// left out where a source holds them.
func localDirs(destinations []string) []string {
	var dirs []string
	for _, d := range destinations {
		if info, err := os.Stat(d); !location.IsURL(d) && err == nil && info.IsDir() {
			dirs = append(dirs, d)
		}
	}
	return dirs
}

// problems gathers what the file source reports by itself.
type problems struct {
	mu   sync.Mutex
	all  []tree.Problem
	more int64
}

func (p *problems) add(f files.Problem, tell func(tree.Problem)) {
	kind := backup.Unreadable
	switch {
	case f.Kind == files.LostMetadata:
		kind = backup.Metadata
	case errors.Is(f.Err, fs.ErrNotExist):
		kind = backup.Vanished
	}
	t := tree.Problem{Path: tree.Path(f.Path), Kind: kind, Text: f.Err.Error()}
	p.mu.Lock()
	if len(p.all) < tree.MaxProblems {
		p.all = append(p.all, t)
	} else {
		p.more++
	}
	p.mu.Unlock()
	if tell != nil {
		tell(t)
	}
}

func (p *problems) list() ([]tree.Problem, int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.all, int64(len(p.all)) + p.more
}

// parent picks the snapshot to compare with: the newest of its host, kind and
// sources, or else the newest that has one of them; for a differential run, the
// newest full one.
func parent(all []*tree.Snapshot, snap *tree.Snapshot) *tree.Snapshot {
	var best *tree.Snapshot
	exact := false
	for _, s := range all {
		if s.Host != snap.Host || s.Kind != snap.Kind || snap.Mode == tree.Differential && s.Mode != tree.Full {
			continue
		}
		same := s.Group() == snap.Group()
		shares := slices.ContainsFunc(s.Sources, func(p tree.Path) bool { return slices.Contains(snap.Sources, p) })
		if same || shares && !exact {
			best, exact = s, exact || same
		}
	}
	return best
}

func asPaths(names []string) []tree.Path {
	out := make([]tree.Path, len(names))
	for i, n := range names {
		out[i] = tree.Path(filepath.ToSlash(n))
	}
	return out
}

// cleanSources makes the sources absolute, sorted and disjoint.
func cleanSources(given []string, note teller) ([]string, error) {
	if len(given) == 0 {
		return nil, errors.New("no source is given")
	}
	var abs []string
	for _, s := range given {
		if s == "" { // not the working directory
			return nil, errors.New("a source is empty")
		}
		a, err := filepath.Abs(s)
		if err != nil {
			return nil, err
		}
		abs = append(abs, a)
	}
	slices.Sort(abs)
	abs = slices.Compact(abs)
	var out []string
	for _, s := range abs {
		inside := ""
		for _, o := range out {
			if o == "/" || strings.HasPrefix(s, strings.TrimSuffix(o, "/")+"/") {
				inside = o
			}
		}
		if inside != "" {
			note("source %s is part of source %s", s, inside)
			continue
		}
		out = append(out, s)
	}
	return out, nil
}

// reason is an error without the operation and path that the message has already.
func reason(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}

// hint is what to do about an error of a destination.
func hint(err error) string {
	switch {
	case errors.Is(err, seal.ErrWrongKey) && strings.HasSuffix(err.Error(), "opens with: none"):
		return "the repository is not encrypted, but a key is given: unset it, or set [ENCRYPTION] enabled = False, to use it as it is; nothing was changed"
	case errors.Is(err, keyring.ErrUnavailable):
		return KeyringHint
	case errors.Is(err, seal.ErrWrongKey):
		return "check the passphrase or key file; nothing was changed"
	case errors.Is(err, ErrNoKey):
		return "set $" + PassphraseEnv + ", use --key-file or --passphrase-file, or set [ENCRYPTION] passphrase or key_file; a recipient can be added to them"
	case errors.Is(err, storage.ErrFull):
		return "free some space, or add a destination; what is stored already is used by the next run"
	case errors.Is(err, storage.ErrReadOnly):
		return "is it mounted read-only, or owned by another user?"
	}
	return Hint(err)
}

// Hint is what a store, or the dump of a database, says about its own error; "" if
// nothing.
func Hint(err error) string {
	if d, ok := errors.AsType[*dbdump.Error](err); ok && d.Hint != "" {
		return d.Hint
	}
	if p, ok := errors.AsType[*storage.PermanentError](err); ok && p.Hint != "" {
		return p.Hint
	}
	if _, ok := errors.AsType[*storage.UnreachableError](err); ok {
		return "check that the server is well, and that this machine's network reaches it; what is missing there is made up for by the next run"
	}
	if _, ok := errors.AsType[*config.Error](err); ok {
		return "'backup-handler config check' lists everything that is wrong"
	}
	if errors.Is(err, repo.ErrWriteOnly) {
		return "use a key of the whole repository, on a host that may have it; 'backup-handler key list' there shows which is which"
	}
	if errors.Is(err, storage.ErrUnsupported) {
		return "addresses are " + location.Schemes
	}
	return ""
}
