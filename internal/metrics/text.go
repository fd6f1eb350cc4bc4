package metrics

import (
	"bytes"
	"io"
	"strconv"
	"strings"
)

// ContentType is that of the text format, version 0.0.4.
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

// writeText writes metrics in Prometheus' text format
// (https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format). Those
// without a series are left out.
func writeText(w io.Writer, all []metric) error {
	var b bytes.Buffer
	for _, m := range all {
		if len(m.series) == 0 {
			continue
		}
		b.WriteString("# HELP " + m.name + " " + helpEscapes.Replace(m.help) + "\n# TYPE " + m.name + " gauge\n")
		for _, s := range m.series {
			b.WriteString(m.name)
			open := "{"
			for _, l := range s.labels {
				b.WriteString(open + l.name + `="` + valueEscapes.Replace(strings.ToValidUTF8(l.value, "\uFFFD")) + `"`)
				open = ","
			}
			if len(s.labels) > 0 {
				b.WriteByte('}')
			}
			b.WriteByte(' ')
			b.Write(strconv.AppendFloat(nil, s.value, 'f', -1, 64))
			b.WriteByte('\n')
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}

var (
	helpEscapes  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	valueEscapes = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)
