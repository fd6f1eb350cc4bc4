package notify

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/journal"
)

// A delivery is what one channel is sent, and what became of it.
type delivery struct {
	channel  *Channel // nil: the heartbeat
	beat     func(context.Context) error
	secrets  []string // of the heartbeat
	messages []*message
	// digest, if not zero, is from when on the next digest counts, without one being sent now.
	digest time.Time

	sent int   // messages that went out
	err  error // why the next one did not
}

// A mark is what the state remembers of a message that went out.
type mark struct {
	key, run string
	digest   time.Time // not zero: it was one
}

func (d *delivery) name() string {
	if d.channel == nil {
		return heartbeatName
	}
	return d.channel.Name
}

func (d *delivery) sends() bool { return d.beat != nil || len(d.messages) > 0 }

// remember writes down what a channel has heard.
func (d *delivery) remember(st *state, now time.Time) {
	if d.sends() && d.err == nil {
		st.works(d.name())
	}
	if !d.digest.IsZero() {
		st.digest(d.name(), d.digest)
	}
	for _, m := range d.messages[:d.sent] {
		if m.mark.digest.IsZero() {
			st.tell(d.name(), m.mark.key, told{Run: m.mark.run, Time: now})
		} else {
			st.digest(d.name(), m.mark.digest)
		}
	}
}

// beat is a delivery to the heartbeat.
func (n *Notifier) beat(call func(context.Context) error) delivery {
	return delivery{beat: call, secrets: n.o.Heartbeat.secrets()}
}

// graceTime is how long a sender may take to notice that its time is over.
const graceTime = time.Second

// errTime is what became of a message that took too long.
var errTime = errors.New("no answer in time")

// deliver sends everything side by side, and returns when all have answered, or a
// second after the limit.
func (n *Notifier) deliver(ctx context.Context, limit time.Duration, out []delivery) {
	late, stop := context.WithTimeout(context.WithoutCancel(ctx), limit+graceTime)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	type answer struct {
		sent int
		err  error
	}
	answers := make([]chan answer, len(out))
	for i := range out {
		d, c := out[i], make(chan answer, 1) // room for one that nobody waits for any more
		answers[i] = c
		go func() {
			sent, err := n.send(ctx, &d)
			c <- answer{sent, err}
		}()
	}
	for i := range out {
		select {
		case <-late.Done():
		case a := <-answers[i]:
			answers[i] <- a
		}
		// An answer that is there counts, also if it is late by now.
		select {
		case a := <-answers[i]:
			out[i].sent, out[i].err = a.sent, a.err
		default:
			out[i].err = errTime
		}
	}
}

// send sends the messages of one channel, one after the other, until one fails. It
// says how many went out, and what went wrong, without secrets and in one line. A
// bug in a channel must not end a backup.
func (n *Notifier) send(ctx context.Context, d *delivery) (sent int, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("a bug in the channel: %v", r)
		}
		if err != nil {
			if ctx.Err() != nil {
				err = fmt.Errorf("%w: %w", errTime, err)
			}
			err = d.clean(err)
		}
	}()
	if d.beat != nil {
		return 0, d.beat(ctx)
	}
	if len(d.messages) == 0 {
		return 0, nil
	}
	if err := d.channel.Check(); err != nil {
		return 0, err
	}
	for i, m := range d.messages {
		if err := d.channel.Sender.send(ctx, &n.env, m); err != nil {
			return i, err
		}
	}
	return len(d.messages), nil
}

func (d *delivery) clean(err error) error {
	if d.channel == nil {
		return mask(err, d.secrets)
	}
	return d.channel.clean(err)
}

// clean takes a channel's secrets out of an error.
func (c *Channel) clean(err error) error {
	if c.Sender == nil {
		return mask(err, nil)
	}
	return mask(err, c.Sender.secrets())
}

// answers lists what became of what was sent.
func answers(out []delivery) []journal.Told {
	var all []journal.Told
	for i := range out {
		if d := &out[i]; d.sends() {
			t := journal.Told{Channel: d.name()}
			if d.err != nil {
				t.Error = d.err.Error()
			}
			all = append(all, t)
		}
	}
	return all
}
