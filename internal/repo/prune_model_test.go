package repo

import (
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
// pruners go on for ever, and condemn any pack, needed or not, for no reason. After
// each step, whatever a snapshot needs has to be in a pack that exists.
const (
	modelWithin = 1 // ticks from a writer's check to its commit, at most
	modelGrace  = 2 // ticks from the publication of a list to what it allows
	modelPacks  = 4 // that are ever stored
	modelTries  = 1 // of a writer: another one is one more writer
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
	step, tries int8
	since       int8     // ticks since the check began
	absent      modelSet // packs on lists
	relied      modelSet // packs
	missing     modelSet // chunks to be stored
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
	repeat := func() {
		*w = modelWriter{tries: w.tries + 1}
		if w.tries == modelTries {
			w.step = 6
		}
	}
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
		w.absent = 0
	case 2: // stores the rest
		if w.missing != 0 {
			p := s.store(w.missing)
			if p == 0 {
				return false
			}
			w.relied |= p
			w.missing = 0
		}
	case 3: // checks: the lists first
		if w.since = 0; w.relied&s.listed(0) != 0 && flaw != flawNoCheck && flaw != flawRelies {
			repeat()
			return true
		}
	case 4:
		if w.relied&^s.packs != 0 && flaw != flawNoCheck {
			repeat()
			return true
		}
	case 5: // commits
		if w.since > modelWithin && flaw != flawLate {
			repeat()
			return true
		}
		s.snapshots |= modelOne(1 + i)
		*w = modelWriter{step: 6}
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
		step(func(*modelState, *modelPruner) {})
		(p.packs &^ p.listed).each(func(pack int) {
			step(func(n *modelState, p *modelPruner) {
				p.listed |= modelOne(pack)
				if n.packs.has(pack) && n.age[pack] < 0 {
					n.age[pack] = 0
				}
			})
		})
	case 4: // moves what is needed and in no pack that stays
		stay := p.packs &^ p.listed
		missing := p.missing &^ s.have(stay)
		if flaw == flawNoMove {
			missing = 0
		}
		switch {
		case missing&^s.have(p.packs&s.packs) != 0: // it is not where it was: another pruner
			again()
		case missing == 0:
			step(func(_ *modelState, p *modelPruner) { p.missing = 0 })
		case s.made < modelPacks:
			step(func(n *modelState, p *modelPruner) {
				n.store(missing)
				p.missing = 0
			})
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

// key packs a state into 94 bits.
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
		put(uint64(w.tries), 2)
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

var modelSteps = []string{"writer 0", "writer 1", "pruner 0", "pruner 1", "forget", "tick"}

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
	seen := map[[2]uint64]struct{}{start.key(): {}}
	for now, next := []modelState{start}, []modelState(nil); len(now) > 0; now, next = next, nil {
		for i := range now {
			s := &now[i]
			if s.needed()&^s.have(s.packs) != 0 {
				return len(seen), s
			}
			s.each(c, flaw, func(n *modelState, what int) {
				k := n.key()
				if _, ok := seen[k]; ok {
					return
				}
				seen[k] = struct{}{}
				next = append(next, *n)
				if visits != nil {
					visits[k] = modelVisit{s.key(), what}
				}
			})
		}
	}
	return len(seen), nil
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
	var steps []string
	for k := end.key(); k != start.key(); k = visits[k].from {
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
		cases = append(cases, modelCase{0, 2, 2}, modelCase{2, 1, 1}) // 3 and 8 million states
	}
	if os.Getenv(modelEnv) != "" {
		cases = append(cases, modelCase{1, 2, 1}, modelCase{2, 2, 1}) // hours, and all memory there is
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
