// Package bot answers what people write to the Telegram bot: how runs stand, and
// requests for a run. docs/notifications.md is its contract with users.
//
// It knows messages and times. How Telegram is spoken to is notify's business, what a
// run is and when it starts that of whoever is behind [Options].
//
// Invariants:
//
//   - nobody but chats of the configuration is answered or remembered;
//   - a run starts only by a code that was sent to the same user in the same chat, once,
//     less than codeLife ago, by this process;
//   - an update is acted on at most once, whatever is killed when: its number is on the
//     disk before;
//   - everything that strangers or members can make it do or keep is bounded.
//
// Files: bot.go (reading, in good and bad times), talk.go (what is answered; pure),
// text.go (its words), memory.go (what was read).
package bot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/journal"
	"github.com/SP1R4/BackupHandler/v3/internal/notify"
)

const (
	// pollTime is how long Telegram keeps a call waiting for something to be written.
	pollTime = 50 * time.Second
	// firstPause and longestPause are between tries while Telegram cannot be reached.
	firstPause   = time.Second
	longestPause = time.Minute
	// conflictPause is between tries while another program reads the messages.
	conflictPause = time.Minute
)

// Facts are what there is to tell.
type Facts struct {
	Runs []journal.Run // of the configuration, the newest first
	Next []Next
}

// A Next is the next run of one kind.
type Next struct {
	Kind string
	Due  time.Time // in the past: overdue; zero: never
	Owed bool      // one is made up for at once
}

// Options are what a bot works with.
type Options struct {
	Bot      *notify.Telegram // its chats by number are those that are answered
	StateDir string           // where what was read is remembered
	Host     string
	Started  time.Time // what was written before is not heard
	Now      func() time.Time
	Rand     io.Reader // crypto/rand's
	// Sleep waits between tries; nil is a timer.
	Sleep func(context.Context, time.Duration) error
	// Redact takes secrets out of what is said.
	Redact func(string) string

	// Facts tells how things stand.
	Facts func() (Facts, error)
	// Start queues a run of a kind, backup or verify, and says why not. It calls ended
	// once at most, with how the run ended, in a few words; it does not block.
	Start func(kind string, ended func(how string)) error

	// Record writes to the audit log, Note and Warn to the log.
	Record     func(event string, fields ...slog.Attr)
	Note, Warn func(line string)
}

// A reader is a bot at work. What can change belongs to one goroutine.
type reader struct {
	Options
	inbox *notify.Inbox
	talk  *talk
	mem   memory

	pause   time.Duration // after the next try that fails
	trouble bool          // was told of
	mute    bool          // that the memory cannot be written was told of
}

// Run answers until ctx ends. It returns early with an error if the settings are wrong or
// the token is refused: trying again makes no sense then.
func Run(ctx context.Context, o Options) error {
	inbox, err := o.Bot.Inbox(nil, o.Sleep)
	if err != nil {
		return err
	}
	if o.Sleep == nil {
		o.Sleep = sleep
	}
	r := &reader{Options: o, inbox: inbox, talk: newTalk(o.Bot.Numbers(), o.Started, o.Rand), mem: openMemory(o.StateDir, o.Bot.Number())}
	if len(r.talk.chats) == 0 {
		return errors.New("no chat is given by its number, so nobody could be answered")
	}
	ctx, cancel := context.WithCancel(ctx) // ends what is still said of runs that ended
	defer cancel()
	named := false
	for ctx.Err() == nil {
		if !named {
			r.talk.name, err = inbox.Name(ctx)
			if err == nil {
				named = true
				r.Note("answers as @" + r.talk.name)
			}
		}
		var letters []notify.Letter
		if named {
			letters, err = inbox.Read(ctx, r.mem.offset(r.Now()), pollTime)
		}
		if err != nil {
			if ctx.Err() != nil {
				break
			}
			if b, ok := errors.AsType[*notify.BotError](err); ok && b.Refused {
				return fmt.Errorf("the token is refused: %w", err)
			}
			r.wait(ctx, err)
			continue
		}
		r.works()
		for _, l := range letters {
			r.hear(ctx, l)
		}
	}
	return nil
}

// wait waits after an error, as long as Telegram says, or longer each time.
func (r *reader) wait(ctx context.Context, err error) {
	if !r.trouble {
		r.trouble = true
		r.Warn(fmt.Sprintf("cannot read what is written to the bot, and goes on trying: %v", err))
	}
	if r.pause == 0 {
		r.pause = firstPause
	}
	pause := r.pause
	r.pause = min(2*r.pause, longestPause)
	if b, ok := errors.AsType[*notify.BotError](err); ok {
		if b.Conflict {
			pause = conflictPause
		}
		if b.After > 0 {
			pause = b.After
		}
	}
	_ = r.Sleep(ctx, pause) // whose error is that of ctx
}

func (r *reader) works() {
	if r.trouble {
		r.Note("can read what is written to the bot again")
	}
	r.trouble, r.pause = false, 0
}

// hear acts on one update, once.
func (r *reader) hear(ctx context.Context, l notify.Letter) {
	now := r.Now()
	if !r.mem.next(l.Update, now) {
		return // Telegram has sent it once more
	}
	if r.talk.chats[l.Chat] {
		// Only what may be acted on is worth a write: strangers do not fill the disk.
		if err := r.mem.save(); err != nil {
			if !r.mute {
				r.mute = true
				r.Warn(fmt.Sprintf("nothing is answered, as it could be answered twice: %v", err))
			}
			return
		}
		r.mute = false
	}
	a := r.talk.hear(l, now)
	if a.note != "" {
		r.Note(a.note)
	}
	lines := a.lines
	switch {
	case a.start != "":
		lines = r.start(ctx, l, a)
	case a.show != "":
		f, err := r.Facts()
		switch {
		case err != nil:
			r.Warn(fmt.Sprintf("/%s: %v", a.show, err))
			lines = []string{"That cannot be told now; the log says why."}
		case a.show == "runs":
			lines = runsText(f, a.count, now)
		default:
			lines = statusText(f, r.Host, now)
		}
	}
	if a.event != "" {
		r.record(a.event, l, a)
	}
	r.say(ctx, l.Chat, lines)
}

func (r *reader) record(event string, l notify.Letter, a answer) {
	fields := []slog.Attr{slog.Int64("chat", l.Chat), slog.Int64("user", l.User), slog.String("command", a.command)}
	if a.why != "" {
		fields = append(fields, slog.String("why", a.why))
	}
	r.Record(event, fields...)
}

// start queues what was confirmed.
func (r *reader) start(ctx context.Context, l notify.Letter, a answer) []string {
	err := r.Start(a.start, func(how string) {
		go r.say(ctx, l.Chat, []string{fmt.Sprintf("%s: %s %s.", r.Host, a.start, how)})
	})
	if err != nil {
		a.why = err.Error()
		r.record(eventRefused, l, a)
		return []string{fmt.Sprintf("No %s was started: %v.", a.start, err)}
	}
	r.record(eventConfirmed, l, a)
	return []string{fmt.Sprintf("%s: a %s is in the queue. You will hear how it ends.", r.Host, a.start)}
}

// say answers. That an answer did not arrive changes nothing.
func (r *reader) say(ctx context.Context, chat int64, lines []string) {
	if len(lines) == 0 {
		return
	}
	clean := make([]string, len(lines))
	for i, l := range lines {
		clean[i] = r.Redact(l)
	}
	if err := r.inbox.Say(ctx, chat, clean); err != nil && ctx.Err() == nil {
		r.Warn(fmt.Sprintf("an answer to chat %d did not get there: %v", chat, err))
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
