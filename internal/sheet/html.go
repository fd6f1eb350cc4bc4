package sheet

import (
	"fmt"
	"html"
	"strings"
	"time"
)

// style is for the printer first: one page of A4 or letter.
const style = `body{font:11pt/1.4 sans-serif;max-width:46em;margin:2em auto;padding:0 1em;color:#000;background:#fff}
h1{font-size:1.5em;margin:0 0 .5em}h2{font-size:1.1em;margin:1em 0 .3em}
table{border-collapse:collapse}td{padding:0 1em .2em 0;vertical-align:top}li{margin-bottom:.4em}
code,pre{font-family:monospace;overflow-wrap:anywhere;white-space:pre-wrap}
pre.key{font-size:1.3em;line-height:1.6;margin:0}
.key-box{display:flex;flex-wrap:wrap;gap:1em;align-items:center;border:2px solid #000;padding:.5em 1em;break-inside:avoid}
svg{width:45mm;height:45mm}
@media print{body{margin:0;font-size:10pt}}`

// HTML is the sheet as one page, which needs nothing else.
func (s *Sheet) HTML() ([]byte, error) {
	c, err := newCode(s.Key.Text())
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	p := func(format string, args ...any) {
		for i, a := range args {
			if text, ok := a.(string); ok {
				args[i] = html.EscapeString(printable(text))
			}
		}
		fmt.Fprintf(&b, format+"\n", args...)
	}
	p("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>%s: %s</title>", title, s.Host)
	b.WriteString("<style>\n" + style + "\n</style></head><body>\n")
	p("<h1>%s</h1>\n<p>%s</p>\n<table>", title, s.intro())
	p("<tr><td>Computer</td><td>%s</td></tr>", s.Host)
	p("<tr><td>Made</td><td>%s, by %s</td></tr>", s.Created.Format(time.DateOnly), s.Program)
	for _, r := range s.Repositories {
		p("<tr><td>Repository</td><td><code>%s</code><br>ID %s, key slot %s</td></tr>", r.Address, r.ID, r.Slot)
	}
	p("</table>\n<h2>To get the files back</h2>\n<ol>")
	for _, st := range s.steps() {
		p("<li>%s", st.text)
		if st.command != "" {
			p("<br><code>%s</code><br>", st.command)
		}
		p("%s</li>", st.after)
	}
	p("</ol>\n<h2>The key</h2>\n<div class=\"key-box\"><pre class=\"key\">")
	for i, line := range s.Key.Lines() {
		p("%d: %s", i+1, line)
	}
	b.WriteString("</pre>\n" + c.svg() + "\n</div>\n")
	p("<p>%s</p>\n</body></html>", s.ifLost())
	return []byte(b.String()), nil
}
