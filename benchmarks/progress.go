package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// progress tells how far a run is: on a terminal on one line that changes,
// elsewhere a line whenever another comparison begins.
type progress struct {
	w        io.Writer
	terminal bool
	start    time.Time
	last     string
}

func newProgress(w io.Writer) *progress {
	p := &progress{w: w, start: time.Now()}
	if f, ok := w.(*os.File); ok {
		if info, err := f.Stat(); err == nil {
			p.terminal = info.Mode()&os.ModeCharDevice != 0
		}
	}
	return p
}

// show is told before each turn. What there is to do takes turns that are not
// all of the same length, so the time left is a guess.
func (p *progress) show(done, total int, group, row string) {
	passed := time.Since(p.start)
	left := ""
	if done > total/50 && done > 0 {
		left = fmt.Sprintf(", about %v left", (passed * time.Duration(total-done) / time.Duration(done)).Round(time.Second))
	}
	if p.terminal {
		const width = 24
		full := width * done / max(1, total)
		text := fmt.Sprintf("[%s%s] %3d %% %v%s  %s", strings.Repeat("#", full), strings.Repeat(".", width-full),
			100*done/max(1, total), passed.Round(time.Second), left, group+": "+row)
		if r := []rune(text); len(r) > 118 {
			text = string(r[:117]) + "…"
		}
		// A terminal that is narrower cuts the line off, instead of going on in
		// the next one, which would be there for good.
		fmt.Fprintf(p.w, "\r\x1b[K\x1b[?7l%s\x1b[?7h", text)
		return
	}
	if group != p.last {
		p.last = group
		fmt.Fprintf(p.w, "%3d %% %v%s  %s\n", 100*done/max(1, total), passed.Round(time.Second), left, group)
	}
}

// clear leaves the terminal's line empty.
func (p *progress) clear() {
	if p.terminal {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
