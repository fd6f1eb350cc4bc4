package notify

import (
	"errors"
	"fmt"
	"html"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/SP1R4/BackupHandler/v3/internal/journal"
)

// Bounds of a message.
const (
	maxSubject = 120 // runes
	maxLine    = 400 // runes of one line of the text
	maxItems   = 10  // lines of one list
	maxRuns    = 100 // runs that a digest names to a webhook
)

// A message is one thing to be told, made for no channel in particular.
type message struct {
	event   string
	bad     bool // something was not done
	look    bool // somebody should look at it
	time    time.Time
	host    string
	program string
	subject string // one line
	blocks  []block

	run      *journal.Run // nil for a digest, a test, a report of a channel
	runs     []journal.Run
	since    time.Time
	inRow    int
	lastGood time.Time
	mark     mark
}

// A block is a paragraph, or a list with a heading.
type block struct {
	heading string // "" for a paragraph
	lines   []string
}

// text is the body, for people: no line ends in white space, nor does it.
func (m *message) text() string {
	var parts []string
	for _, b := range m.blocks {
		var out strings.Builder
		if b.heading != "" {
			out.WriteString(b.heading + ":\n")
		}
		for i, l := range b.lines {
			if i > 0 {
				out.WriteByte('\n')
			}
			if b.heading != "" {
				out.WriteString("- ")
			}
			out.WriteString(l)
		}
		parts = append(parts, out.String())
	}
	return strings.Join(parts, "\n\n")
}

// whole is subject and body, for channels without subjects.
func (m *message) whole() string { return m.subject + "\n\n" + m.text() }

// colour of the message's mood, as #rrggbb.
func (m *message) colour() string {
	switch {
	case m.bad:
		return "#b3261e"
	case m.look:
		return "#9a6700"
	}
	return "#1a7f37"
}

// html is the body of a mail; everything that is not ours is escaped. Not by
// html/template: a program that uses it keeps every method of every type, for
// templates to call by name, and would be a third larger.
func (m *message) html() string {
	var out strings.Builder
	put := func(parts ...string) {
		for _, p := range parts {
			out.WriteString(p)
		}
	}
	put(`<!DOCTYPE html>
<html><body style="margin:0;font-family:sans-serif;color:#1f2328">
<div style="background:`, m.colour(), `;color:#fff;padding:12px 16px;font-size:17px;font-weight:bold">`, html.EscapeString(m.subject), `</div>
<div style="padding:8px 16px;font-size:15px;line-height:1.4">
`)
	for _, b := range m.blocks {
		lines := make([]string, len(b.lines))
		for i, l := range b.lines {
			lines[i] = html.EscapeString(l)
		}
		if b.heading == "" {
			put(`<p style="margin:10px 0">`, strings.Join(lines, "<br>\n"), "</p>\n")
			continue
		}
		put(`<p style="margin:14px 0 2px"><b>`, html.EscapeString(b.heading), "</b></p>\n",
			`<ul style="margin:0;padding-left:20px"><li>`, strings.Join(lines, "</li>\n<li>"), "</li></ul>\n")
	}
	put("</div>\n</body></html>\n")
	return out.String()
}

// newMessage begins a message; every text in it goes through Redact and oneLine.
func (n *Notifier) newMessage(event, subject string) *message {
	return &message{event: event, time: n.o.Now(), host: n.o.Host, program: n.o.Program, subject: clip(n.clean(subject), maxSubject)}
}

func (n *Notifier) clean(s string) string { return oneLine(n.o.Redact(s)) }

func (n *Notifier) paragraph(m *message, lines ...string) { n.list(m, "", lines) }

// list adds a list, of which the end is left out if it is long; none if it is empty.
func (n *Notifier) list(m *message, heading string, lines []string) {
	b := block{heading: heading}
	for i, l := range lines {
		if i == maxItems && len(lines) > maxItems+1 {
			b.lines = append(b.lines, fmt.Sprintf("and %d more", len(lines)-maxItems))
			break
		}
		if l = clip(n.clean(l), maxLine); l != "" {
			b.lines = append(b.lines, l)
		}
	}
	if len(b.lines) > 0 {
		m.blocks = append(m.blocks, b)
	}
}

func (n *Notifier) startedText(run *journal.Run) *message {
	m := n.newMessage(string(Started), fmt.Sprintf("%s on %s has begun", run.Series(), n.o.Host))
	m.run = run
	n.paragraph(m, fmt.Sprintf("The %s on %s has begun at %s.", run.Series(), n.o.Host, n.when(run.Start)))
	n.footer(m, run)
	return m
}

// verb says how a run ended.
func verb(s journal.Status) string {
	switch s {
	case journal.Refused:
		return "was refused"
	case journal.Interrupted:
		return "was interrupted"
	case journal.Crashed:
		return "ended without a word"
	}
	return "has failed"
}

// runText tells how a run has ended.
func (n *Notifier) runText(s *story) *message {
	run, level := s.run, s.levels[0]
	what := run.Series() + " on " + n.o.Host
	var subject string
	switch level {
	case Failure:
		subject = what + " " + verb(run.Status)
		if run.Error != "" {
			subject += ": " + run.Error
		}
	case Recovered:
		subject = what + " works again"
		if run.Status == journal.Warning {
			subject += ", with " + things(len(run.Warnings), "warning")
		}
	case Warning:
		subject = what + ": done, with " + things(len(run.Warnings), "warning")
	default:
		subject = what + ": done"
	}
	m := n.newMessage(string(level), subject)
	m.bad, m.look = level == Failure, slices.Contains(s.levels, Warning)
	m.run, m.lastGood = run, s.lastGood
	if s.inRow > 0 {
		m.since, m.inRow = s.since, s.inRow
	}

	n.paragraph(m, n.story(s), run.Error)
	if run.Hint != "" {
		n.paragraph(m, "What to do: "+run.Hint)
	}
	n.list(m, "Warnings", run.Warnings)
	n.paragraph(m, n.facts(s)...)
	n.list(m, "Destinations", destinations(run))
	n.list(m, "Sources", sources(run))
	n.list(m, "Stages that failed", stages(run))
	n.footer(m, run)
	return m
}

// story is the first sentence.
func (n *Notifier) story(s *story) string {
	what := fmt.Sprintf("The %s on %s", s.run.Series(), n.o.Host)
	again := func(times string) string {
		if s.inRow < 2 {
			return ""
		}
		return fmt.Sprintf(", %s, since %s", times, n.when(s.since))
	}
	switch s.levels[0] {
	case Failure:
		return fmt.Sprintf("%s %s%s.", what, verb(s.run.Status), again("the "+ordinal(s.inRow)+" time in a row"))
	case Recovered:
		return fmt.Sprintf("%s works again, after %s since %s.", what, things(s.inRow, "failure"), n.when(s.since))
	case Warning:
		return fmt.Sprintf("%s has done everything, and there is something to look at%s.", what, again("the "+ordinal(s.inRow)+" time in a row"))
	}
	return what + " has done everything."
}

// facts of a run.
func (n *Notifier) facts(s *story) []string {
	run, c := s.run, s.run.Counts
	lines := []string{"Began " + n.when(run.Start) + ", took " + tookText(run.Took(n.o.Now()))}
	if run.Status == journal.Crashed { // nobody knows when
		lines[0] = "Began " + n.when(run.Start)
	}
	if s.levels[0] == Failure || s.levels[0] == Recovered {
		last := "never, as far as is recorded"
		if !s.lastGood.IsZero() {
			last = n.when(s.lastGood)
		}
		lines = append(lines, "Last good one before: "+last)
	}
	if c.Files > 0 {
		lines = append(lines, fmt.Sprintf("Files: %s (%s new, %s changed), %s", countText(c.Files), countText(c.New), countText(c.Changed), bytesText(c.Bytes)))
		lines = append(lines, fmt.Sprintf("Read %s, stored %s", bytesText(c.Read), bytesText(c.Stored)))
	}
	if c.Problems > 0 {
		lines = append(lines, "Could not be done: "+countText(c.Problems)+" of the files and directories")
	}
	if c.Forgotten > 0 {
		lines = append(lines, "Old snapshots removed: "+countText(c.Forgotten))
	}
	if run.Snapshot != "" {
		lines = append(lines, "Snapshot "+run.Snapshot[:min(8, len(run.Snapshot))]+modeText(run.Mode))
	}
	return lines
}

func modeText(mode string) string {
	if mode == "" {
		return ""
	}
	return ", " + mode
}

func destinations(run *journal.Run) (lines []string) {
	for _, d := range run.Destinations {
		line := d.Location + ": ok"
		switch {
		case d.Error != "":
			line = d.Location + ": " + d.Error
		case d.Pending:
			line = d.Location + ": not finished"
		}
		if d.FreeBytes != nil {
			line += ", " + bytesText(*d.FreeBytes) + " free"
		}
		lines = append(lines, line)
	}
	return failedFirst(lines, func(i int) bool { return run.Destinations[i].Error != "" || run.Destinations[i].Pending })
}

func sources(run *journal.Run) (lines []string) {
	for _, s := range run.Sources {
		line := s.Path + ": ok"
		switch {
		case s.Error != "":
			line = s.Path + ": " + s.Error
		case s.Problems > 0:
			line = s.Path + ": " + countText(s.Problems) + " could not be stored"
		case s.Pending:
			line = s.Path + ": not stored"
		}
		lines = append(lines, line)
	}
	return failedFirst(lines, func(i int) bool { return run.Sources[i].Error != "" || run.Sources[i].Pending })
}

// failedFirst sorts what failed to the beginning of a list that may be cut.
func failedFirst(lines []string, failed func(i int) bool) []string {
	var bad, good []string
	for i, l := range lines {
		if failed(i) {
			bad = append(bad, l)
		} else {
			good = append(good, l)
		}
	}
	return append(bad, good...)
}

func stages(run *journal.Run) (lines []string) {
	for _, s := range run.Stages {
		if s.Error != "" {
			lines = append(lines, s.Name+": "+s.Error)
		}
	}
	return lines
}

// footer says where to find the rest.
func (n *Notifier) footer(m *message, run *journal.Run) {
	lines := []string{"Run " + run.ID + ", " + n.o.Program}
	if run.Config != "" {
		lines = append(lines, "Configuration "+run.Config)
	}
	n.paragraph(m, append(lines, "More: backup-handler runs show "+run.ID)...)
}

// digestText sums up the runs that ended after from; history has the newest first.
func (n *Notifier) digestText(history []journal.Run, from, now time.Time) *message {
	var runs []journal.Run
	type sum struct {
		command, config         string
		good, warned, bad       int
		stored                  int64
		lastGood, lastBad, last *journal.Run
	}
	var sums []*sum
	find := func(r journal.Run) *sum {
		for _, s := range sums {
			if s.command == r.Series() && s.config == r.Config {
				return s
			}
		}
		sums = append(sums, &sum{command: r.Series(), config: r.Config})
		return sums[len(sums)-1]
	}
	failures := 0
	for _, r := range history {
		if r.DryRun || !r.Status.Over() {
			continue
		}
		ended := r.End
		if ended.IsZero() { // it crashed
			ended = r.Start
		}
		s := find(r)
		if s.last == nil {
			s.last = &r
		}
		if r.Status.Good() && s.lastGood == nil {
			s.lastGood = &r
		}
		if !ended.After(from) {
			continue
		}
		runs = append(runs, r)
		s.stored += r.Counts.Stored
		switch r.Status {
		case journal.Success:
			s.good++
		case journal.Warning:
			s.warned++
		default:
			failures++
			s.bad++
			if s.lastBad == nil {
				s.lastBad = &r
			}
		}
	}
	subject := n.o.Host + ": " + things(len(runs), "run")
	switch {
	case len(runs) == 0:
		subject = n.o.Host + ": nothing has run"
	case failures > 0:
		subject += ", " + strconv.Itoa(failures) + " failed"
	default:
		subject += ", all good"
	}
	m := n.newMessage(eventDigest, subject)
	m.bad, m.look, m.runs = failures > 0, len(runs) == 0, runs[:min(len(runs), maxRuns)]
	n.paragraph(m, fmt.Sprintf("From %s to %s on %s:", n.when(from), n.when(now), n.o.Host))
	if len(runs) == 0 {
		n.paragraph(m, "Nothing has run. If something should have: is the schedule, cron or the daemon in order?")
	}
	for _, s := range sums {
		heading := s.command
		if s.config != "" {
			heading += " (" + s.config + ")"
		}
		lines := []string{fmt.Sprintf("%d good, %d with warnings, %d failed", s.good, s.warned, s.bad)}
		if s.stored > 0 {
			lines = append(lines, "stored "+bytesText(s.stored))
		}
		if s.lastGood != nil {
			lines = append(lines, "last good one: "+n.when(s.lastGood.Start))
		} else {
			lines = append(lines, "no good one is recorded")
		}
		if s.lastBad != nil {
			lines = append(lines, "last failure: "+n.when(s.lastBad.Start)+", "+s.lastBad.Error)
		}
		if s.lastBad != nil && s.lastBad == s.last && s.lastBad.Hint != "" {
			lines = append(lines, "what to do: "+s.lastBad.Hint)
		}
		n.list(m, clip(n.clean(heading), maxLine), lines)
	}
	n.paragraph(m, n.o.Program, "More: backup-handler runs")
	return m
}

func (n *Notifier) testText(channel string) *message {
	m := n.newMessage(eventTest, "test from "+n.o.Host)
	n.paragraph(m, fmt.Sprintf("This is a test of the channel %s on %s, sent at %s. It works.", channel, n.o.Host, n.when(n.o.Now())))
	n.paragraph(m, n.o.Program)
	return m
}

// channelText says that another channel failed.
func (n *Notifier) channelText(channel string, err error) *message {
	m := n.newMessage(eventChannel, fmt.Sprintf("%s on %s could not be told: %v", channel, n.o.Host, err))
	m.look = true
	n.paragraph(m, fmt.Sprintf("The channel %s on %s could not be told what it should be: %v", channel, n.o.Host, err))
	n.paragraph(m, "What to do: 'backup-handler notify test "+channel+"' tries it again.", n.o.Program)
	return m
}

// when is a time for people, with its offset.
func (n *Notifier) when(t time.Time) string {
	return t.In(n.o.Now().Location()).Format("2006-01-02 15:04:05 -07:00")
}

func tookText(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
}

func bytesText(n int64) string {
	f, unit := float64(n), ""
	for _, unit = range []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"} {
		if f < 1024 {
			break
		}
		f /= 1024
	}
	if unit == "B" || f >= 100 {
		return fmt.Sprintf("%.0f %s", f, unit)
	}
	return fmt.Sprintf("%.1f %s", f, unit)
}

func countText(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func ordinal(n int) string {
	end := "th"
	if n%100 < 11 || n%100 > 13 {
		switch n % 10 {
		case 1:
			end = "st"
		case 2:
			end = "nd"
		case 3:
			end = "rd"
		}
	}
	return strconv.Itoa(n) + end
}

// things counts things, whose plural is regular.
func things(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return strconv.Itoa(n) + " " + what
}

// oneLine makes a text one line of characters that can be seen: no controls, and
// nothing that changes the direction of writing.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == utf8.RuneError || unicode.IsSpace(r):
			return r
		case unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co, unicode.Zl, unicode.Zp):
			return '\uFFFD'
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	return strings.Join(strings.Fields(s), " ")
}

// clip cuts a text to so many runes, and says so.
func clip(s string, runes int) string {
	if utf8.RuneCountInString(s) <= runes {
		return s
	}
	return string([]rune(s)[:runes-1]) + "…"
}

// clipBytes does so to so many bytes.
func clipBytes(s string, size int) string {
	if len(s) <= size {
		return s
	}
	s = s[:size-len("…")]
	for !utf8.ValidString(s) {
		s = s[:len(s)-1]
	}
	return s + "…"
}

// masked stands where a secret was.
const masked = "***"

// minMask is the length from which a secret can be told from ordinary text.
const minMask = 4

// mask makes an error one line without secrets.
func mask(err error, secrets []string) error { return errors.New(maskText(err.Error(), secrets)) }

func maskText(text string, secrets []string) string {
	secrets = slices.Clone(secrets)
	// The longest first: one may be a part of another.
	slices.SortFunc(secrets, func(a, b string) int { return len(b) - len(a) })
	for _, s := range secrets {
		if len(s) < minMask {
			continue
		}
		for _, form := range []string{s, url.QueryEscape(s), url.PathEscape(s), url.QueryEscape(url.PathEscape(s)), strings.Trim(strconv.Quote(s), `"`)} {
			text = strings.ReplaceAll(text, form, masked)
		}
	}
	return clip(oneLine(text), maxLine)
}

// urlSecrets are the parts of an address that may be secret: all but scheme and host.
func urlSecrets(raw string) []string {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" {
		return []string{raw}
	}
	all := []string{raw, u.RequestURI(), u.Path, u.RawQuery}
	if u.User != nil {
		password, _ := u.User.Password()
		all = append(all, u.User.Username(), password, u.User.String())
	}
	// Words of a path such as "api" are in every text; a token is longer.
	for _, part := range strings.FieldsFunc(u.Path+"&"+u.RawQuery, func(r rune) bool { return strings.ContainsRune("/&=", r) }) {
		if len(part) >= 8 {
			all = append(all, part)
		}
	}
	return slices.DeleteFunc(all, func(s string) bool { return s == "/" })
}

// hostOf is what of an address may be shown.
func hostOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" {
		return ""
	}
	return u.Scheme + "://" + u.Host
}
