package restore

// window gathers files that are restored together.
type window struct {
	jobs   []*job
	weight int
	done   chan struct{} // closed when all jobs have ended
}

func (s *session) newJob(j *job) *job {
	j.dir.hold()
	return j
}

// add plans a file.
func (s *session) add(j *job) {
	w := &s.window
	w.jobs = append(w.jobs, s.newJob(j))
	w.weight += len(j.node.Content) + len(j.node.Extents)
	for _, x := range j.node.Xattrs {
		w.weight += 1 + len(x.Value)>>10
	}
}

// advance begins to restore the window when it is full, which may have to wait for
// the one before, or as soon as nothing else is being restored.
func (s *session) advance() {
	w := &s.window
	if len(w.jobs) >= s.o.bounds.files || w.weight >= s.o.bounds.weight || len(w.jobs) >= s.o.bounds.start && s.idle() {
		s.turn()
	}
}

// idle says whether no window is being restored.
func (s *session) idle() bool {
	if s.running == nil {
		return true
	}
	select {
	case <-s.running.done:
		return true
	default:
		return false
	}
}

// turn waits for the window that is being restored, begins with the one that was
// gathered, and does what waited for the former.
func (s *session) turn() {
	var ended []*job
	if s.running != nil {
		<-s.running.done
		ended, s.running = s.running.jobs, nil
	}
	if w := s.window; len(w.jobs) > 0 {
		w.done = make(chan struct{})
		s.running = &w
		go func() {
			defer close(w.done)
			s.restore(w.jobs)
		}()
	}
	s.window = window{}
	s.linkWaiting(ended)
}

// flush restores all that is left.
func (s *session) flush() {
	for s.running != nil || len(s.window.jobs) > 0 {
		s.turn()
	}
}

// restore ends all jobs.
func (s *session) restore(jobs []*job) {
	s.compare(jobs)
	s.fill(jobs)
	for _, j := range jobs {
		if !j.ended.Load() { // only if the run was stopped
			s.end(j, nil)
		}
	}
}
