package main

import (
	"fmt"
	"io"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// logEvery is how often progress is a line where nobody watches.
const logEvery = time.Minute

// A sample is what has been done so far.
type sample struct {
	bytes, totalBytes int64 // total 0: not known
	files, totalFiles int64
	current           string
}

// A meter shows progress: a bar on a terminal, a line per minute elsewhere.
type meter struct {
	a    *app
	bars *mpb.Progress
	bar  *mpb.Bar
	old  io.Writer
	quit chan struct{}
	done chan struct{}
}

// meter starts a display. While it runs, a.stderr prints above it.
func (a *app) meter(verb string, read func() sample) *meter {
	m := &meter{a: a, quit: make(chan struct{}), done: make(chan struct{})}
	start := time.Now()
	every := logEvery
	if a.terminal() && !a.quiet && !a.noProgress {
		every = 200 * time.Millisecond
		m.old = a.stderr
		m.bars = mpb.New(mpb.WithOutput(a.stderr), mpb.WithRefreshRate(every), mpb.WithWidth(24))
		a.stderr = m.bars
		m.bar = m.bars.New(1, mpb.BarStyle().Lbound("[").Filler("=").Tip(">").Padding(" ").Rbound("]"), mpb.BarRemoveOnComplete(),
			mpb.PrependDecorators(decor.Any(func(decor.Statistics) string { return verb + " " })),
			mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return " " + describe(read(), start) })))
	}
	go func() {
		defer close(m.done)
		t := time.NewTicker(every)
		defer t.Stop()
		for {
			select {
			case <-m.quit:
				return
			case <-t.C:
			}
			s := read()
			if m.bar != nil {
				if s.totalBytes > 0 { // else the bar stays empty: nobody knows
					m.bar.SetTotal(max(s.totalBytes, s.bytes+1), false)
					m.bar.SetCurrent(s.bytes)
				}
				continue
			}
			line := verb + ": " + describe(s, start)
			a.log.Info(line)
			if !a.quiet {
				fmt.Fprintln(a.stderr, line)
			}
		}
	}()
	return m
}

// stop removes the display.
func (m *meter) stop() {
	close(m.quit)
	<-m.done
	if m.bars != nil {
		m.bar.Abort(true)
		m.bars.Wait()
		m.a.stderr = m.old
	}
}

// describe is the text beside the bar: it keeps to 80 columns with it.
func describe(s sample, start time.Time) string {
	elapsed := time.Since(start)
	rate := float64(s.bytes) / max(elapsed.Seconds(), 0.001)
	text := fmt.Sprintf("%d files  %s  %s/s", s.files, bytesText(s.bytes), bytesText(int64(rate)))
	if s.totalBytes > s.bytes && rate > 0 && elapsed > 2*time.Second {
		left := time.Duration(float64(s.totalBytes-s.bytes) / rate * float64(time.Second))
		text += fmt.Sprintf("  %d %%  %s left", s.bytes*100/s.totalBytes, left.Round(time.Second))
	}
	if s.current != "" {
		text += "  " + shorten(quote(s.current), 40)
	}
	return text
}

// shorten keeps the end of a path, which says most.
func shorten(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return "…" + string(r[len(r)-n+1:])
}
