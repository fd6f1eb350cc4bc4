package repo

import (
	"cmp"
	"math/bits"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
)

// The protocol of docs/format.md §9, in small: every interleaving of two writers, two
// pruners and somebody who forgets, with the clock going on between any two steps. A
// crash is a process that makes no further step, so every crash is among these. The
// pruners go on for ever, and condemn any pack, needed or not, for no reason. A writer
// that has to begin again is one more writer. After each step, whatever a snapshot
// needs has to be in a pack that exists.
//
// States that differ only in what nobody will look at again, in which pack is which,
// or in which pruner is which, have the same future: one of them is looked at.
const (
	modelWithin = 1 // ticks from a writer's check to its commit, at most
	modelGrace  = 2 // ticks from the publication of a list to what it allows
	modelPacks  = 4 // that are ever stored
)

// modelEnv, set to anything, adds the cases that are too large for every day.
const modelEnv = "BACKUP_HANDLER_MODEL"

// A modelSet is a set of small numbers: of packs, chunks or snapshots.
type modelSet uint8

func modelOne(i int) modelSet { return 1 << i }

func (s modelSet) has(i int) bool { return s>>i&1 != 0 }

func (s modelSet) each(fn func(i int)) {
	for ; s != 0; s &= s - 1 {
		fn(bits.TrailingZeros8(uint8(s)))
	}
}

// modelNeeds are the chunks of each snapshot: of the one that is there at first, and
// of those that the writers make.
var modelNeeds = [3]modelSet{0b01, 0b11, 0b01}

type modelWriter struct {
	step    int8
	since   int8     // ticks since the check began
	absent  modelSet // packs on lists
	relied  modelSet // packs
	missing modelSet // chunks to be stored
}

type modelPruner struct {
	step    int8
	listed  modelSet // packs on lists
	counts  modelSet // of them, those on lists that count
	packs   modelSet // that it has seen
	missing modelSet // chunks that snapshots need: what has to be somewhere else
}

// A modelState is comparable. Each list has one pack: of a list with several, nothing
// says that they are condemned at different times.
type modelState struct {
	packs     modelSet // that exist
	made      int8
	content   [modelPacks]modelSet // chunks
	age       [modelPacks]int8     // of the pack's list; -1: none
	snapshots modelSet
	writers   [2]modelWriter
	pruners   [2]modelPruner
}

// A modelFlaw leaves a rule out.
type modelFlaw string

const (
	modelSound    modelFlaw = ""
	flawNoCheck   modelFlaw = "a writer commits without looking again"
	flawLate      modelFlaw = "a writer commits long after its check"
	flawRelies    modelFlaw = "a writer relies on condemned packs"
	flawNoGrace   modelFlaw = "a pruner deletes at once"
	flawNoMove    modelFlaw = "a pruner deletes without moving what is needed again"
	flawOrder     modelFlaw = "a pruner lists packs before it reads the lists"
	flawListFirst modelFlaw = "a pruner deletes lists before the packs on them"
)

// modelStart has a snapshot, and so many packs with the chunk that it needs.
func modelStart(copies int) (s modelState) {
	for range copies {
		s.store(0b01)
	}
	s.snapshots = 1
	for i := range s.age {
		s.age[i] = -1
	}
	return s
}

func (s *modelState) have(packs modelSet) (chunks modelSet) {
	packs.each(func(p int) { chunks |= s.content[p] })
	return chunks
}

func (s *modelState) needed() (chunks modelSet) {
	s.snapshots.each(func(i int) { chunks |= modelNeeds[i] })
	return chunks
}

func (s *modelState) listed(age int8) (packs modelSet) {
	for p, a := range s.age {
		if a >= age {
			packs |= modelOne(p)
		}
	}
	return packs
}

// store makes a pack; 0: there may be no more.
func (s *modelState) store(chunks modelSet) modelSet {
	if s.made == modelPacks {
		return 0
	}
	p := int(s.made)
	s.made++
	s.packs |= modelOne(p)
	s.content[p] = chunks
	return modelOne(p)
}

// tick lets time pass.
func (s *modelState) tick() {
	for p := range s.age {
		if s.age[p] >= 0 {
			s.age[p] = min(s.age[p]+1, modelGrace)
		}
	}
	for i := range s.writers {
		if w := &s.writers[i]; w.step == 4 || w.step == 5 {
			w.since = min(w.since+1, modelWithin+1)
		}
	}
}

// write makes the next step of a writer; false: there is none.
func (s *modelState) write(i int, flaw modelFlaw) bool {
	w := &s.writers[i]
	over := func() { *w = modelWriter{step: 6} }
	switch w.step {
	case 0: // opens the repository: the lists first
		if w.absent = s.listed(0); flaw == flawRelies {
			w.absent = 0
		}
	case 1: // the packs, and finds in them what it can
		w.missing = modelNeeds[1+i]
		(s.packs &^ w.absent).each(func(p int) {
			if s.content[p]&w.missing != 0 {
				w.relied |= modelOne(p)
				w.missing &^= s.content[p]
			}
		})
		if w.absent = 0; w.missing == 0 {
			w.step++
		}
	case 2: // stores the rest
		p := s.store(w.missing)
		if p == 0 {
			return false
		}
		w.relied |= p
		w.missing = 0
	case 3: // checks: the lists first
		if w.since = 0; w.relied&s.listed(0) != 0 && flaw != flawNoCheck && flaw != flawRelies {
			over()
			return true
		}
	case 4:
		if w.relied&^s.packs != 0 && flaw != flawNoCheck {
			over()
			return true
		}
		w.relied = 0
	case 5: // commits
		if w.since > modelWithin && flaw != flawLate {
			over()
			return true
		}
		s.snapshots |= modelOne(1 + i)
		over()
		return true
	default:
		return false
	}
	w.step++
	return true
}

// prune returns the states that a pruner's next step leads to.
func (s modelState) prune(i int, flaw modelFlaw) (next []modelState) {
	step := func(do func(n *modelState, p *modelPruner)) {
		n := s
		p := &n.pruners[i]
		p.step++
		do(&n, p)
		next = append(next, n)
	}
	again := func() { step(func(_ *modelState, p *modelPruner) { *p = modelPruner{} }) }
	lists := func(n *modelState, p *modelPruner) {
		p.listed, p.counts = n.listed(0), n.listed(modelGrace)
		if flaw == flawNoGrace {
			p.counts = p.listed
		}
	}
	packs := func(n *modelState, p *modelPruner) { p.packs = n.packs }
	if flaw == flawOrder {
		lists, packs = packs, lists
	}
	p := &s.pruners[i]
	switch p.step {
	case 0:
		step(lists)
	case 1:
		step(packs)
	case 2:
		step(func(n *modelState, p *modelPruner) { p.missing = n.needed() })
	case 3: // condemns something, or nothing
		condemned := func(n *modelState, p *modelPruner) {
			if p.missing &^= n.have(p.packs &^ p.listed); p.missing == 0 || flaw == flawNoMove {
				p.step++
			}
			p.packs, p.listed = p.packs&p.listed, 0
		}
		step(condemned)
		(p.packs &^ p.listed).each(func(pack int) {
			step(func(n *modelState, p *modelPruner) {
				p.listed |= modelOne(pack)
				if n.packs.has(pack) && n.age[pack] < 0 {
					n.age[pack] = 0
				}
				condemned(n, p)
			})
		})
	case 4: // moves what is needed and in no pack that stays
		switch {
		case p.missing&^s.have(p.packs&s.packs) != 0: // it is not where it was: another pruner
			again()
		case s.made < modelPacks:
			step(func(n *modelState, p *modelPruner) { n.store(p.missing) })
		}
	case 5: // deletes, one after the other
		if p.counts == 0 {
			again()
			break
		}
		p.counts.each(func(pack int) {
			step(func(n *modelState, p *modelPruner) {
				p.step--
				if flaw == flawListFirst && n.packs.has(pack) && n.age[pack] >= 0 {
					n.age[pack] = -1
					return
				}
				n.packs &^= modelOne(pack)
				n.age[pack] = -1
				p.counts &^= modelOne(pack)
			})
		})
	}
	return next
}

// forget clears what nobody will look at again.
func (s *modelState) forget() {
	looked := s.packs // whose content matters
	for i := range s.pruners {
		p := &s.pruners[i]
		p.counts &= s.packs // to delete what is gone does nothing
		if p.step >= 2 {
			p.listed &= p.packs // both have been read
		}
		if p.step == 5 {
			if p.packs, p.missing = 0, 0; p.counts == 0 {
				*p = modelPruner{}
			}
		}
		looked |= p.packs
	}
	for p := range s.content {
		if !looked.has(p) {
			s.content[p] = 0
		}
	}
}

// column is all that is said of a pack.
func (s *modelState) column(p int) (c uint32) {
	put := func(v uint32, bits int) { c = c<<bits | v }
	bit := func(set modelSet) { put(uint32(set>>p&1), 1) }
	bit(s.packs)
	put(uint32(s.content[p]), 2)
	put(uint32(s.age[p]+1), 2)
	for i := range s.writers {
		bit(s.writers[i].absent)
		bit(s.writers[i].relied)
	}
	for i := range s.pruners {
		bit(s.pruners[i].listed)
		bit(s.pruners[i].counts)
		bit(s.pruners[i].packs)
	}
	return c
}

// sort renames the packs. One that is gone, and of which nothing is said, is like one
// that was never made; these come last, where store takes them.
func (s *modelState) sort() {
	var columns [modelPacks]uint32
	for p := range columns {
		columns[p] = s.column(p)<<2 | uint32(p)
	}
	slices.SortFunc(columns[:], func(a, b uint32) int { return cmp.Compare(b, a) })
	from := *s
	move := func(set *modelSet) {
		old := *set
		*set = 0
		for p, c := range columns {
			*set |= old >> (c & 3) & 1 << p
		}
	}
	move(&s.packs)
	for p, c := range columns {
		s.content[p], s.age[p] = from.content[c&3], from.age[c&3]
	}
	for i := range s.writers {
		move(&s.writers[i].absent)
		move(&s.writers[i].relied)
	}
	for i := range s.pruners {
		move(&s.pruners[i].listed)
		move(&s.pruners[i].counts)
		move(&s.pruners[i].packs)
	}
}

// canonical turns a state into the one that stands for all that have its future, and
// returns that one's key.
func (c modelCase) canonical(s *modelState) [2]uint64 {
	s.forget()
	if c.pruners < 2 {
		s.sort()
		return s.key()
	}
	other := *s
	other.pruners[0], other.pruners[1] = s.pruners[1], s.pruners[0]
	switch cmp.Compare(s.pruners[0].rank(), s.pruners[1].rank()) {
	case -1:
		s.sort()
		return s.key()
	case 1:
		*s = other
		s.sort()
		return s.key()
	}
	s.sort()
	other.sort()
	k, ko := s.key(), other.key()
	if slices.Compare(ko[:], k[:]) < 0 {
		*s, k = other, ko
	}
	return k
}

// rank is the same however the packs are named.
func (p *modelPruner) rank() (r int) {
	size := func(s modelSet) int { return bits.OnesCount8(uint8(s)) }
	for _, n := range []int{int(p.step), int(p.missing), size(p.listed), size(p.counts), size(p.packs)} {
		r = r<<3 | n
	}
	return r
}

// key packs a state into 90 bits, not all of them 0.
func (s *modelState) key() (k [2]uint64) {
	n := 0
	put := func(v uint64, bits int) {
		k[n/64] |= v << (n % 64)
		if over := n%64 + bits - 64; over > 0 {
			k[n/64+1] |= v >> (bits - over)
		}
		n += bits
	}
	put(uint64(s.packs), modelPacks)
	put(uint64(s.made), 3)
	for p := range s.content {
		put(uint64(s.content[p]), 2)
		put(uint64(s.age[p]+1), 2)
	}
	put(uint64(s.snapshots), 3)
	for i := range s.writers {
		w := &s.writers[i]
		put(uint64(w.step), 3)
		put(uint64(w.since), 2)
		put(uint64(w.absent), modelPacks)
		put(uint64(w.relied), modelPacks)
		put(uint64(w.missing), 2)
	}
	for i := range s.pruners {
		p := &s.pruners[i]
		put(uint64(p.step), 3)
		put(uint64(p.listed), modelPacks)
		put(uint64(p.counts), modelPacks)
		put(uint64(p.packs), modelPacks)
		put(uint64(p.missing), 2)
	}
	return k
}

// A modelKeys is a set of keys, which takes 20 to 40 bytes for each.
type modelKeys struct {
	slots [][2]uint64 // a power of two of them; {}: free
	n     int
}

// add says whether a key is new.
func (m *modelKeys) add(k [2]uint64) bool {
	if 5*m.n >= 4*len(m.slots) {
		old := m.slots
		m.slots, m.n = make([][2]uint64, max(2*len(old), 1<<10)), 0
		for _, k := range old {
			if k != ([2]uint64{}) {
				m.add(k)
			}
		}
	}
	h := (k[0] ^ bits.RotateLeft64(k[1]*0x9e3779b97f4a7c15, 32)) * 0xd6e8feb86659fd93
	for i := h ^ h>>32; ; i++ {
		switch slot := &m.slots[i&uint64(len(m.slots)-1)]; *slot {
		case k:
			return false
		case [2]uint64{}:
			*slot = k
			m.n++
			return true
		}
	}
}

var modelSteps = []string{"writer 0", "writer 1", "a pruner", "a pruner", "forget", "tick"}

// A modelCase is who takes part, from which state.
type modelCase struct{ writers, pruners, copies int }

type modelVisit struct {
	from [2]uint64
	what int
}

// explore visits every state that can be reached, in the order of the number of steps,
// until one has lost something. visits, if it is not nil, receives where each came from.
func (c modelCase) explore(flaw modelFlaw, visits map[[2]uint64]modelVisit) (states int, lost *modelState) {
	start := modelStart(c.copies)
	var seen modelKeys
	seen.add(c.canonical(&start))
	for now, next := []modelState{start}, []modelState(nil); len(now) > 0; now, next = next, now[:0] {
		for i := range now {
			s := &now[i]
			if s.needed()&^s.have(s.packs) != 0 {
				return seen.n, s
			}
			s.each(c, flaw, func(n *modelState, what int) {
				k := c.canonical(n)
				if !seen.add(k) {
					return
				}
				next = append(next, *n)
				if visits != nil {
					visits[k] = modelVisit{s.key(), what}
				}
			})
		}
	}
	return seen.n, nil
}

// each calls fn for every state that one step leads to.
func (s *modelState) each(c modelCase, flaw modelFlaw, fn func(n *modelState, what int)) {
	for i := range c.writers {
		if n := *s; n.write(i, flaw) {
			fn(&n, i)
		}
	}
	for i := range c.pruners {
		for _, n := range s.prune(i, flaw) {
			fn(&n, 2+i)
		}
	}
	s.snapshots.each(func(i int) {
		n := *s
		n.snapshots &^= modelOne(i)
		fn(&n, 4)
	})
	n := *s
	n.tick()
	fn(&n, 5)
}

// history tells the steps to a state.
func (c modelCase) history(flaw modelFlaw, end *modelState) string {
	visits := map[[2]uint64]modelVisit{}
	c.explore(flaw, visits)
	start := modelStart(c.copies)
	from := c.canonical(&start)
	var steps []string
	for k := end.key(); k != from; k = visits[k].from {
		steps = append(steps, modelSteps[visits[k].what])
	}
	slices.Reverse(steps)
	return strings.Join(steps, ", ")
}

func TestPruneModel(t *testing.T) {
	for flaw, c := range map[modelFlaw]modelCase{
		flawNoCheck: {1, 1, 1}, flawLate: {1, 1, 1}, flawRelies: {1, 1, 1}, flawNoGrace: {1, 1, 1}, flawNoMove: {0, 1, 1},
		flawOrder: {0, 2, 2}, flawListFirst: {1, 1, 1},
	} {
		t.Run(strings.ReplaceAll(string(flaw), " ", "-"), func(t *testing.T) {
			states, lost := c.explore(flaw, nil)
			if lost == nil {
				t.Fatalf("nothing is lost in %d states", states)
			}
			t.Logf("%d states; %s", states, c.history(flaw, lost))
		})
	}
	cases := []modelCase{{1, 1, 1}}
	if !testing.Short() {
		cases = append(cases, modelCase{0, 2, 2}, modelCase{2, 1, 1}, modelCase{1, 2, 1}) // 8 million states
	}
	if os.Getenv(modelEnv) != "" {
		cases = append(cases, modelCase{2, 2, 1})
	}
	for _, c := range cases {
		states, lost := c.explore(modelSound, nil)
		if lost != nil {
			t.Fatalf("%+v: lost after %s", c, c.history(modelSound, lost))
		}
		t.Logf("%+v: %d states", c, states)
	}
}

// walk goes a random way of at most so many steps, and returns the state in which
// something is lost; nil: none.
func (c modelCase) walk(rnd *rand.Rand, flaw modelFlaw, steps int) *modelState {
	s := modelStart(c.copies)
	for range steps {
		switch what := rnd.IntN(c.writers + c.pruners + 1); {
		case what < c.writers:
			s.write(what, flaw)
		case what < c.writers+c.pruners:
			if next := s.prune(what-c.writers, flaw); len(next) > 0 {
				s = next[rnd.IntN(len(next))]
			}
		case rnd.IntN(8) == 0: // forget
			s.snapshots &^= modelOne(rnd.IntN(len(modelNeeds)))
		default:
			s.tick()
		}
		if s.needed()&^s.have(s.packs) != 0 {
			return &s
		}
	}
	return nil
}

// Two writers and two pruners have too many interleavings to go through them all: this
// takes some at random, and finds what each rule is there for that way, too.
func TestPruneModelWalks(t *testing.T) {
	const steps = 150
	walks := 300_000
	switch {
	case os.Getenv(modelEnv) != "":
		walks *= 50
	case testing.Short():
		walks /= 10
	}
	c := modelCase{2, 2, 2}
	for _, flaw := range []modelFlaw{flawNoCheck, flawLate, flawRelies, flawNoGrace, flawNoMove, flawOrder, flawListFirst, modelSound} {
		rnd := rand.New(rand.NewPCG(1, 2))
		lost := 0
		for range walks {
			if c.walk(rnd, flaw, steps) != nil {
				if lost++; lost == 10 {
					break
				}
			}
		}
		if flaw != modelSound && lost < 10 {
			t.Errorf("%s: %d of %d ways lose something", flaw, lost, walks)
		}
		if flaw == modelSound && lost > 0 {
			t.Errorf("%d of %d ways lose something", lost, walks)
		}
	}
}
