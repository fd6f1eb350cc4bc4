package restore

import (
	"slices"
	"sync"
)

// window gathers files that are restored together.
type window struct {
	mu     sync.Mutex // for jobs, once the window is being restored
	jobs   []*job     // nil: ended, and let go
	weight int

	handed chan struct{}  // closed when all blocks are being read, or were
	tail   sync.WaitGroup // of those that are being read
	done   chan struct{}  // closed when all jobs have ended
}

func (s *session) newJob(j *job) *job {
	j.dir.hold()
	return j
}

// add plans a file.
func (s *session) add(j *job) {
	w := s.window
	j.window, j.at = w, len(w.jobs)
	w.jobs = append(w.jobs, s.newJob(j))
	w.weight += len(j.node.Content) + len(j.node.Extents)
	for _, x := range j.node.Xattrs {
		w.weight += 1 + len(x.Value)>>10
	}
}

// advance begins to restore the window when it is full, which may have to wait for
// those before, or as soon as workers have nothing to do. It waits while too many files
// are in memory: a window is gathered as those of the one before end.
func (s *session) advance() {
	w := s.window
	s.live.await(max(0, s.o.bounds.live-len(w.jobs)))
	if len(w.jobs) >= s.o.bounds.files || w.weight >= s.o.bounds.weight || len(w.jobs) >= s.o.bounds.start && s.idle() {
		s.turn()
	}
}

// liveJobs counts those of windows that are being restored.
type liveJobs struct {
	mu   sync.Mutex
	n    int
	less sync.Cond
}

func (l *liveJobs) add(n int) {
	l.mu.Lock()
	l.n += n
	l.mu.Unlock()
	if n < 0 {
		l.less.Signal()
	}
}

// await returns when there are no more than that. They end by themselves.
func (l *liveJobs) await(most int) {
	l.mu.Lock()
	for l.n > most {
		l.less.Wait()
	}
	l.mu.Unlock()
}

// idle says whether a window that begins now would find workers, and none before the
// last is unfinished.
func (s *session) idle() bool {
	return (s.running == nil || closed(s.running.handed)) && (s.ending == nil || closed(s.ending.done))
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// turn begins with the window that was gathered as soon as the one that is being restored
// leaves workers without work: while the last blocks of one are read, those of the next are
// asked for. Before that, it waits for the end of the one that was left to its last blocks, and
// afterwards does what waited for that.
func (s *session) turn() {
	if s.running != nil {
		<-s.running.handed
	}
	ended := s.ending
	if ended != nil {
		<-ended.done
	}
	s.ending, s.running = s.running, nil
	if w := s.window; len(w.jobs) > 0 {
		w.handed, w.done = make(chan struct{}), make(chan struct{})
		s.running = w
		s.live.add(len(w.jobs))
		go s.restore(w)
	}
	s.window = new(window)
	if ended != nil {
		s.linkWaiting(ended.jobs)
	}
}

// flush restores all that is left.
func (s *session) flush() {
	for s.ending != nil || s.running != nil || len(s.window.jobs) > 0 {
		s.turn()
	}
}

// forget lets go of a job that has ended. Holders of groups stay: how they fared is seen
// later.
func (w *window) forget(j *job) {
	if j.group != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if j.at < len(w.jobs) && w.jobs[j.at] == j {
		w.jobs[j.at] = nil
	}
}

// restore ends all jobs.
func (s *session) restore(w *window) {
	defer close(w.done)
	s.compare(w.jobs)
	s.fill(w)
	// Two windows are in memory while a third begins: what is left of the first is little.
	w.mu.Lock()
	w.jobs = slices.DeleteFunc(w.jobs, func(j *job) bool { return j == nil })
	w.mu.Unlock()
	close(w.handed)
	w.tail.Wait()
	for _, j := range w.jobs {
		if j != nil && !j.ended.Load() { // only if the run was stopped
			s.end(j, nil)
		}
	}
}
