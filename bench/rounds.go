package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/SP1R4/BackupHandler/v3/bench/corpus"
	"github.com/SP1R4/BackupHandler/v3/bench/machine"
)

// A bencher is one run of the benchmark.
type bencher struct {
	options
	pristine string   // the corpus, never changed
	live     string   // its copy that tools back up
	scratch  string   // emptied at the start and at the end
	trash    string   // in scratch: what is no longer needed
	thrown   int      // into trash
	prefix   []string // before each command
	res      *results
}

func bench(ctx context.Context, o options) (*results, error) {
	b := &bencher{options: o, scratch: filepath.Join(o.work, "backup-handler-bench-run"), res: newResults(o)}
	b.live, b.trash = filepath.Join(b.scratch, "source"), filepath.Join(b.scratch, "trash")
	if o.cpus > 0 && runtime.NumCPU() > o.cpus {
		b.prefix = []string{"taskset", "-c", "0-" + strconv.Itoa(o.cpus-1)}
	}
	if err := b.prepareCorpus(ctx); err != nil {
		return nil, err
	}
	if err := empty(b.scratch); err != nil {
		return nil, err
	}
	defer os.RemoveAll(b.scratch)
	if err := b.versions(ctx); err != nil {
		return nil, err
	}
	for round := range o.rounds {
		if err := b.round(ctx, round); err != nil {
			return nil, fmt.Errorf("round %d: %w", round+1, err)
		}
		if err := b.cleanUp(); err != nil {
			return nil, err
		}
	}
	return b.res, nil
}

// prepareCorpus generates the corpus, unless an earlier run left a complete one.
func (b *bencher) prepareCorpus(ctx context.Context) error {
	dir := filepath.Join(b.work, fmt.Sprintf("backup-handler-corpus-v%d-seed%d-scale%g", corpus.Version, b.spec.Seed, b.spec.Scale))
	b.pristine = filepath.Join(dir, "tree")
	marker := filepath.Join(dir, "complete.json") // written last
	if content, err := os.ReadFile(marker); err == nil {
		return json.Unmarshal(content, &b.res.Corpus)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	log.Printf("generating the corpus in %s", dir)
	if err := empty(dir); err != nil {
		return err
	}
	st, err := corpus.Generate(ctx, b.pristine, b.spec)
	if err != nil {
		return err
	}
	b.res.Corpus = st
	content, err := json.Marshal(st)
	if err != nil {
		return err
	}
	return os.WriteFile(marker, content, 0o644)
}

// empty makes dir an empty directory, before all rounds only: see discard.
// Everything it removes was made here.
func empty(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.MkdirAll(dir, 0o755)
}

// discard gets path out of the way without removing it. Linux' ext4 looks over
// every inode that was deleted in the last one to six minutes when it makes a file
// (see recently_deleted in fs/ext4/ialloc.c): after the removal of 20,000 files,
// making as many takes ten times as long, which would be most of what a restore
// costs. Their space is given back at once, so that what stays are empty files.
func (b *bencher) discard(path string) error {
	b.thrown++
	to := filepath.Join(b.trash, strconv.Itoa(b.thrown))
	if err := os.MkdirAll(b.trash, 0o755); err != nil {
		return err
	}
	if err := os.Rename(path, to); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return filepath.WalkDir(to, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if os.Truncate(path, 0) == nil {
			return nil
		}
		if err := os.Chmod(path, 0o600); err != nil {
			return err
		}
		return os.Truncate(path, 0)
	})
}

// replace makes dir an empty directory during a round.
func (b *bencher) replace(dir string) error {
	if err := b.discard(dir); err != nil {
		return err
	}
	return os.MkdirAll(dir, 0o755)
}

// cleanUp discards what a round left.
func (b *bencher) cleanUp() error {
	entries, err := os.ReadDir(b.scratch)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if path := filepath.Join(b.scratch, e.Name()); path != b.trash {
			if err := b.discard(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// places are where a tool does a step. The small files alone have a repository of
// their own, and are those of the pristine corpus: a backup only reads.
func (b *bencher) places(t tool, s step) places {
	p := places{
		source:  b.live,
		store:   filepath.Join(b.scratch, t.name, "store"),
		restore: filepath.Join(b.scratch, t.name, "restored"),
		state:   filepath.Join(b.scratch, t.name, "state"),
		bin:     b.bin,
	}
	if s == smallAlone {
		p.source = filepath.Join(b.pristine, corpus.SmallDir)
		p.store, p.state = p.store+"-small", p.state+"-small"
	}
	return p
}

// env is all that a command sees of the environment.
func (b *bencher) env(t tool, p places) []string {
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + p.state, "LANG=C.UTF-8", "TMPDIR=" + b.scratch}
	if t.env != nil {
		env = append(env, t.env(p)...)
	}
	return env
}

// versions asks each tool for its own, which also finds out early that one is
// missing.
func (b *bencher) versions(ctx context.Context) error {
	for _, t := range b.tools {
		p := b.places(t, first)
		if err := os.MkdirAll(p.state, 0o755); err != nil {
			return err
		}
		argv := t.version(p).stages[0]
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		cmd.Env, cmd.Dir = b.env(t, p), b.scratch
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("ask %s for its version: %w\n%s(build or install it, or name the tools to compare with -tools)", t.name, err, out)
		}
		line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		b.res.tool(t.name).Version = strings.Trim(line, "* ")
	}
	return nil
}

// round lets every tool do every step once, each step by all tools in turn. The
// order of the tools rotates, so that none is always first.
func (b *bencher) round(ctx context.Context, round int) error {
	if err := b.copySource(ctx); err != nil {
		return err
	}
	var order []tool
	for i := range b.tools {
		order = append(order, b.tools[(i+round)%len(b.tools)])
	}
	for _, t := range order {
		if err := b.prepareTool(ctx, t, b.places(t, first)); err != nil {
			return err
		}
	}
	for _, s := range allSteps {
		if err := b.changeSource(s); err != nil {
			return err
		}
		for _, t := range order {
			if err := b.step(ctx, t, s); err != nil {
				return fmt.Errorf("%s, %s: %w", t.name, s, err)
			}
		}
		log.Printf("round %d of %d: %s%s", round+1, b.rounds, s, b.res.lastSamples(s))
	}
	return nil
}

// changeSource does to the source what the step is named for.
func (b *bencher) changeSource(s step) (err error) {
	switch s {
	case changed:
		b.res.Changes, err = corpus.Mutate(b.live, b.spec)
	case patched:
		b.res.PatchedPages, err = corpus.PatchPages(b.live, b.spec)
	}
	return err
}

func (b *bencher) copySource(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, "cp", "-a", b.pristine, b.live).CombinedOutput()
	if err != nil {
		return fmt.Errorf("copy the corpus: %w\n%s", err, out)
	}
	return nil
}

func (b *bencher) prepareTool(ctx context.Context, t tool, p places) error {
	for _, dir := range []string{p.store, p.state} {
		if err := b.replace(dir); err != nil {
			return err
		}
	}
	if t.prepare == nil {
		return nil
	}
	for _, c := range t.prepare(p) {
		if _, err := measure(ctx, c, b.prefix, b.env(t, p), b.scratch); err != nil {
			return err
		}
	}
	return nil
}

func (b *bencher) step(ctx context.Context, t tool, s step) error {
	build, ok := t.steps[s]
	if !ok {
		return nil
	}
	p := b.places(t, s)
	if s == smallAlone {
		if err := b.prepareTool(ctx, t, p); err != nil {
			return err
		}
	}
	if s == restoreFile {
		var err error
		if p.file, err = wantedFile(p.source); err != nil {
			return err
		}
	}
	if s.writesBackup() && t.replaces {
		if err := b.replace(p.store); err != nil {
			return err
		}
	}
	if err := b.replace(p.restore); err != nil {
		return err
	}
	input := p.store
	if s.writesBackup() {
		input = p.source
	}
	if err := warm(input); err != nil {
		return err
	}
	machine.Flush()
	machine.FetchMemory(2 * (b.res.Corpus.SmallBytes + b.res.Corpus.LargeBytes))
	cost, err := measure(ctx, build(p), b.prefix, b.env(t, p), b.scratch)
	if err != nil {
		return err
	}
	tr := b.res.tool(t.name)
	tr.Samples[s] = append(tr.Samples[s], cost)
	if s.writesBackup() && !t.looks {
		stored, err := treeBytes(p.store)
		if err != nil {
			return err
		}
		tr.StoredBytes[s] = append(tr.StoredBytes[s], stored)
	}
	if s.writesTree() {
		if err := b.check(t, s, p); err != nil {
			return err
		}
	}
	if s == smallAlone {
		if err := b.discard(p.store); err != nil {
			return err
		}
	}
	return b.discard(p.restore)
}

// check compares what was restored with the source.
func (b *bencher) check(t tool, s step, p places) error {
	if s == restoreAll {
		return sameTrees(p.source, t.restored(p))
	}
	rel, err := filepath.Rel(p.source, p.file)
	if err != nil {
		return err
	}
	difference, err := sameEntry(p.file, filepath.Join(t.restored(p), rel))
	if err != nil {
		return err
	}
	if difference != "" {
		return fmt.Errorf("restored file is wrong: %s: %s", rel, difference)
	}
	return nil
}

// wantedFile is the file that someone asks back: in the middle of the small ones
// below root, in the order of their names, and neither empty nor a link.
func wantedFile(root string) (string, error) {
	var paths []string
	err := filepath.WalkDir(filepath.Join(root, corpus.SmallDir), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Size() > 0 {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil {
		return "", err
	}
	if len(paths) == 0 {
		return "", errors.New("the corpus has no small files")
	}
	return paths[len(paths)/2], nil
}
