package bot

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/durable"
)

// offsetLife is how long the number of the next update counts. Telegram keeps updates
// for a day, and may begin with new numbers after a week without any.
const offsetLife = 3 * 24 * time.Hour

// maxMemoryBytes bounds the file, which has 100.
const maxMemoryBytes = 4 << 10

// A memory is which update of a bot is the next: telegram-NUMBER.json in the state
// directory, where NUMBER is the bot's.
type memory struct {
	dir string
	remembered
}

type remembered struct {
	Bot  string    `json:"bot"`         // the bot's number
	Next int64     `json:"next_update"` // what is before has been read
	Time time.Time `json:"time"`        // when the one before it was
}

// openMemory reads what is remembered; of another bot, or what cannot be understood,
// nothing is: messages are heard only if they are younger than the daemon.
func openMemory(dir, bot string) memory {
	m := memory{dir: dir, remembered: remembered{Bot: bot}}
	var found remembered
	data, err := os.ReadFile(m.path())
	if err == nil && len(data) <= maxMemoryBytes && json.Unmarshal(data, &found) == nil && found.Bot == bot {
		m.remembered = found
	}
	return m
}

func (m *memory) path() string { return filepath.Join(m.dir, "telegram-"+m.Bot+".json") }

// offset is the number of the next update; 0: any.
func (m *memory) offset(now time.Time) int64 {
	if now.Sub(m.Time) > offsetLife {
		m.Next = 0
	}
	return m.Next
}

// next takes note of an update, and says whether it is new.
func (m *memory) next(update int64, now time.Time) bool {
	if update < m.Next {
		return false
	}
	m.Next, m.Time = update+1, now
	return true
}

// save returns when the memory is on the disk.
func (m *memory) save() error {
	data, err := json.Marshal(m.remembered)
	if err == nil {
		if err = durable.MkdirAll(m.dir, 0o700); err == nil {
			err = durable.WriteFile(m.path(), append(data, '\n'), 0o600)
		}
	}
	if err != nil {
		return fmt.Errorf("remember what was read: %w", err)
	}
	return nil
}
