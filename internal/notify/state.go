package notify

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/durable"
)

// Bounds of the state.
const (
	// maxStateBytes is far more than maxTold entries of each of 64 channels take.
	maxStateBytes = 8 << 20
	// maxTold is how many messages of a channel are remembered: more than differ in
	// forgetTold, even if each run of an hour fails in another way.
	maxTold    = 1000
	forgetTold = 60 * 24 * time.Hour

	stateLockWait = 5 * time.Second
	stateLockPoll = 20 * time.Millisecond
)

// A state is what the channels have heard; notify.json in the state directory.
type state struct {
	Version  int                     `json:"version"` // 1
	Channels map[string]channelState `json:"channels"`
}

type channelState struct {
	Digest time.Time       `json:"digest,omitzero"` // when the last one was sent
	Told   map[string]told `json:"told,omitempty"`  // by story.key or channelKey
}

// A told is the last message of its kind.
type told struct {
	Run  string    `json:"run_id,omitempty"`
	Time time.Time `json:"time"`
}

// channelKey names the report that a channel failed.
func channelKey(name string) string { return "channel/" + name }

func (s *state) channel(name string) channelState { return s.Channels[name] }

// A stateFile is where a state is kept.
type stateFile struct{ dir string } // "": nowhere

func (f stateFile) path() string { return filepath.Join(f.dir, "notify.json") }

// read returns the state. One that is not there or cannot be read is empty: then
// something may be told twice.
func (f stateFile) read() *state {
	st := &state{Version: 1, Channels: map[string]channelState{}}
	if f.dir == "" {
		return st
	}
	info, err := os.Stat(f.path())
	if err != nil || info.Size() > maxStateBytes {
		return st
	}
	data, err := os.ReadFile(f.path())
	var found state
	if err != nil || json.Unmarshal(data, &found) != nil || found.Version != 1 || found.Channels == nil {
		return st
	}
	return &found
}

// change changes the state, under a lock, and returns when it is on the disk.
func (f stateFile) change(now time.Time, edit func(*state)) error {
	if f.dir == "" {
		return nil
	}
	if err := durable.MkdirAll(f.dir, 0o700); err != nil {
		return fmt.Errorf("remember what was told: %w", err)
	}
	lock, err := waitLock(filepath.Join(f.dir, "notify.lock"))
	if err != nil {
		return fmt.Errorf("remember what was told: %w", err)
	}
	defer lock.Unlock()
	st := f.read()
	edit(st)
	st.trim(now)
	data, err := json.Marshal(st)
	if err == nil {
		err = durable.WriteFile(f.path(), append(data, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("remember what was told: %w", err)
	}
	return nil
}

func waitLock(name string) (*durable.Lock, error) {
	for start := time.Now(); ; time.Sleep(stateLockPoll) {
		lock, err := durable.TryLock(name)
		if !errors.Is(err, durable.ErrLocked) || time.Since(start) > stateLockWait {
			return lock, err
		}
	}
}

// trim forgets what is old, and the oldest of what is too much.
func (s *state) trim(now time.Time) {
	for name, c := range s.Channels {
		for key, t := range c.Told {
			if now.Sub(t.Time) > forgetTold {
				delete(c.Told, key)
			}
		}
		for len(c.Told) > maxTold {
			oldest := ""
			for key, t := range c.Told {
				if oldest == "" || t.Time.Before(c.Told[oldest].Time) {
					oldest = key
				}
			}
			delete(c.Told, oldest)
		}
		if len(c.Told) == 0 && c.Digest.IsZero() {
			delete(s.Channels, name)
		}
	}
}

// tell remembers one message.
func (s *state) tell(channel, key string, t told) {
	c := s.Channels[channel]
	if c.Told == nil {
		c.Told = map[string]told{}
	}
	c.Told[key] = t
	s.Channels[channel] = c
}

// digest remembers when the last digest was.
func (s *state) digest(channel string, at time.Time) {
	c := s.Channels[channel]
	c.Digest = at
	s.Channels[channel] = c
}

// works forgets the reports that a channel failed: the next one is news.
func (s *state) works(channel string) {
	for _, c := range s.Channels {
		delete(c.Told, channelKey(channel))
	}
}
