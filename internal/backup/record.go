package backup

import (
	"cmp"
	"errors"
	"fmt"
	"sync"

	"github.com/SP1R4/BackupHandler/v3/internal/repo"
	"github.com/SP1R4/BackupHandler/v3/internal/tree"
)

// maxPending bounds the entries of one directory that are finished but wait for one
// before them, a large file that is being read: the walk waits, too. 64 Ki nodes of
// some 300 bytes are 20 MB, and enough for the readers to go on with.
const maxPending = 64 << 10

// A record is the record of a directory that is being written. Entries are
// announced in ascending order and finished in any; they are encoded, and forgotten,
// as soon as all before them are finished. So a directory of any number of
// entries takes the memory of a page and of those that wait.
//
// Pages of the previous record all of whose entries are the same and whose place
// is between two pages are not encoded again: the same entries give the same bytes.
type record struct {
	s   *run
	dir *dir
	max int // maxPending; fewer in tests

	mu    sync.Mutex
	ready sync.Cond // there is room for another entry

	pending []pendingEntry // announced, from the first that is not finished
	base    int            // the number of pending[head]
	head    int

	pages []tree.Chunk     // that are stored
	last  string           // name of the last entry in them
	pw    *tree.PageWriter // of the page behind; nil: not needed yet

	old  []tree.Chunk // the previous record
	page int          // the page of old that kept are from
	of   int          // how many entries it has
	kept []*tree.Node // its first entries, all the same, behind pages; then pw is between two pages
}

// A pendingEntry is one that was announced.
type pendingEntry struct {
	node *tree.Node // nil: not in the snapshot
	old  prevEntry
	done bool
}

func (r *record) init(s *run, d *dir, prev *tree.Node) {
	r.s, r.dir, r.max = s, d, cmp.Or(s.o.maxPending, maxPending)
	r.ready.L = &r.mu
	if prev != nil && prev.Type == tree.Dir {
		r.old = prev.Content
	}
}

// begin announces the next entry, of which old is the previous state, and returns
// its number. It waits where too many are pending: only the walk may call it. Every
// entry announced must be finished, also when the run has failed.
func (r *record) begin(old prevEntry) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.pending)-r.head >= r.max {
		r.ready.Wait()
	}
	if r.head > len(r.pending)/2 { // what was moved down was paid for by what went
		n := copy(r.pending, r.pending[r.head:])
		clear(r.pending[n:])
		r.pending, r.head = r.pending[:n], 0
	}
	r.pending = append(r.pending, pendingEntry{old: old})
	return r.base + len(r.pending) - r.head - 1
}

// finish says what became of an entry; n may be nil.
func (r *record) finish(number int, n *tree.Node) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := &r.pending[r.head+number-r.base]
	p.node, p.done = n, true
	var failed error
	for r.head < len(r.pending) && r.pending[r.head].done {
		p := &r.pending[r.head]
		if p.node != nil && failed == nil && !r.idle() {
			failed = r.emit(p.node, p.old)
		}
		*p = pendingEntry{}
		r.head++
		r.base++
	}
	r.ready.Signal()
	return failed
}

// idle says that nothing is to be written (any more).
func (r *record) idle() bool { return r.s.w == nil || r.s.ctx.Err() != nil }

// end stores what is left and gives the directory its content. All entries are
// finished.
func (r *record) end() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pw != nil {
		defer func() {
			r.pw.Page = nil // it would hold the directory
			r.s.pages.Put(r.pw)
			r.pw = nil
		}()
	}
	if r.idle() {
		return nil
	}
	whole := len(r.kept) > 0 && len(r.kept) == r.of && r.page == len(r.old)-1
	if !whole || !r.keepPage() {
		if err := r.encodeKept(); err != nil {
			return err
		}
	}
	if r.pw != nil {
		if err := r.pw.Flush(); err != nil {
			return err
		}
	}
	r.dir.node.Content = r.pages
	return nil
}

// emit adds the next entry.
func (r *record) emit(n *tree.Node, old prevEntry) error {
	if old.Node == nil || !n.Equal(old.Node) {
		if err := r.encodeKept(); err != nil {
			return err
		}
		return r.encode(n)
	}
	if !r.continues(&old) {
		if err := r.encodeKept(); err != nil {
			return err
		}
		if !r.continues(&old) { // it may begin the next page
			return r.encode(n)
		}
	}
	r.page, r.of = old.page, old.of
	r.kept = append(r.kept, old.Node)
	// The last page ends where it does because the entries do: perhaps there are
	// more now.
	if len(r.kept) < r.of || r.page == len(r.old)-1 || r.keepPage() {
		return nil
	}
	return r.encodeKept()
}

// continues says whether an entry of the previous record is the next of a page that
// can be kept.
func (r *record) continues(old *prevEntry) bool {
	if old.at != len(r.kept) {
		return false
	}
	if old.at > 0 {
		return old.page == r.page
	}
	return r.pw == nil || r.pw.Between()
}

// keepPage takes over the page that kept are all entries of, unless it is not in
// the repository any more.
func (r *record) keepPage() bool {
	c := r.old[r.page]
	if !r.s.w.Has(c.Hash) {
		return false
	}
	r.pages = append(r.pages, c)
	r.last = r.kept[len(r.kept)-1].Name
	if r.pw != nil {
		r.pw.Pass(r.last)
	}
	clear(r.kept)
	r.kept = r.kept[:0]
	return true
}

// encodeKept encodes the entries of a page that is not the same as before.
func (r *record) encodeKept() error {
	for i, n := range r.kept {
		r.kept[i] = nil
		if err := r.encode(n); err != nil {
			return err
		}
	}
	r.kept = r.kept[:0]
	return nil
}

func (r *record) encode(n *tree.Node) error {
	if r.pw == nil {
		r.pw = r.s.pages.Get().(*tree.PageWriter)
		r.pw.Reset()
		r.pw.Pass(r.last)
		r.pw.Page = r.store
	}
	err := r.pw.Add(n)
	if errors.Is(err, tree.ErrInvalid) { // what no file system of ours gives: too many attributes
		r.s.problem(tree.Join(r.dir.path, n.Name), Unreadable, err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", r.dir.path, err)
	}
	return nil
}

// store stores a page.
func (r *record) store(page []byte) error {
	hash, err := r.s.w.AddMetadata(page)
	if err == nil && r.s.damaged.Load() {
		err = r.s.checkPage(hash, page)
	}
	r.pages = append(r.pages, tree.Chunk{Hash: hash, Size: uint32(len(page))})
	return err
}

// checkPage reads a page back where the previous snapshot is known to be damaged: one
// that counts as stored may be, too. A second AddMetadata then stores it anew,
// for the repository no longer trusts what it could not read.
func (s *run) checkPage(hash tree.Hash, page []byte) error {
	_, err := s.r.Load(s.ctx, hash, uint32(len(page)), nil)
	if errors.Is(err, repo.ErrCorrupt) {
		_, err = s.w.AddMetadata(page)
		return err
	}
	return s.ctx.Err() // not there yet: on its way
}

// A prevEntry is an entry of a directory in the previous snapshot, and its place
// in the record.
type prevEntry struct {
	*tree.Node     // nil: there is none
	page       int // its number
	at         int // number of the entry in the page
	of         int // entries in the page
}

// A prevDir goes through a directory of the previous snapshot in lockstep with the
// walk, a page at a time. A page that is damaged or missing is as good as none,
// and so are those behind it: what is in them is read again.
type prevDir struct {
	s       *run
	content []tree.Chunk
	read    int          // pages read
	nodes   []*tree.Node // entries of the last of them
	at      int          // of nodes: not passed yet
	hit     bool         // next has returned it
	watch   *watch       // nil: nobody asks what is gone
	last    string       // name of the last entry read
}

// previous begins the lockstep with a directory of the previous snapshot; prev may
// be nil, or no directory.
func (s *run) previous(prev *tree.Node) prevDir {
	p := prevDir{s: s}
	if prev != nil && prev.Type == tree.Dir {
		p.content = prev.Content
	}
	return p
}

// next returns the previous entry of that name; names ascend from call to call.
func (p *prevDir) next(name string) prevEntry {
	for {
		for p.at < len(p.nodes) && p.nodes[p.at].Name < name {
			p.pass()
		}
		if p.at < len(p.nodes) {
			break
		}
		if p.read == len(p.content) {
			return prevEntry{}
		}
		p.load()
	}
	if n := p.nodes[p.at]; n.Name == name {
		p.hit = true
		return prevEntry{n, p.read - 1, p.at, len(p.nodes)}
	}
	return prevEntry{}
}

// pass goes on to the next entry.
func (p *prevDir) pass() {
	if !p.hit && p.watch != nil {
		p.watch.lost(p.nodes[p.at])
	}
	p.at++
	p.hit = false
}

// end tells the watch what is behind the last name that was asked for: all of that is
// gone.
func (p *prevDir) end() {
	if p.watch == nil {
		return
	}
	for {
		for p.at < len(p.nodes) {
			p.pass()
		}
		if p.read == len(p.content) {
			break
		}
		p.load()
	}
	p.watch.settle("")
}

// was returns the file that may have become the new one of that name; nil: none.
func (p *prevDir) was(name string) *tree.Node {
	if p.watch == nil {
		return nil
	}
	return p.watch.was(name)
}

// load reads the next page.
func (p *prevDir) load() {
	c := p.content[p.read]
	p.read++
	p.at, p.nodes = 0, make([]*tree.Node, 0, c.Size/100) // about what there will be
	page, err := p.s.r.Load(p.s.ctx, c.Hash, c.Size, nil)
	if err == nil {
		p.last, err = tree.DecodePage(page, p.last, func(n *tree.Node) error {
			p.nodes = append(p.nodes, n)
			return nil
		})
	}
	if err == nil {
		return
	}
	p.content, p.nodes = p.content[:p.read], nil
	if p.s.ctx.Err() == nil {
		p.s.damaged.Store(true)
	}
}
