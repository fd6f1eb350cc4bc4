package corpus

import (
	"bytes"
	"math/rand/v2"
	"strconv"
	"strings"
)

// A language is a kind of small text file.
type language int

const (
	golang language = iota
	clang
	python
	javascript
	markdown
	jsonText
	plain
)

// codeLanguages are those a project can be written in.
var codeLanguages = [...]language{golang, golang, clang, python, javascript}

func (l language) extension() string {
	return [...]string{".go", ".c", ".py", ".js", ".md", ".json", ".txt"}[l]
}

// Words that names and prose are made of.
var (
	stems = strings.Fields(`account action agent alias alloc array asset audit backend balance batch billing binding
block border bounds branch bridge broker bucket budget buffer builder cache call canvas card cart catalog cell chain change channel chart check
chunk city client clock cluster code codec collector color column command commit component config connect console consumer contact container content
context control cookie copy core cost counter country crash cursor customer cycle daemon data date deadline debug decoder default delta deploy
depth device dialog digest disk dispatch display document domain draft driver edge edit editor element encoder engine entity entry error event
exchange export extent fallback feature feed fetch field file filter finder flag flow folder font footer form format frame gateway graph grid
group guard handle handler hash header health heap height history holder hook host image import index info input insert instance interval
invoice item iterator job journal kernel key label language layer layout leaf ledger length level library limit line link list listener loader
local lock logger login lookup loop macro mail manager manifest map mapper marker market mask match matrix member memory menu merge message
meta method metric migration mirror mode model module monitor mount mutex name network node notice number object offer offset option order
origin output owner package packet page parser partition patch path pattern payload payment peer pending period phase pipeline pixel plan
plugin point policy pool port position prefix price printer process product profile project promise protocol provider proxy query queue
quota range rate reader record region registry relay release remote render replica report request reserve resolver resource response result
retry review role root route router rule runner sample scanner schedule schema scope score screen script search section sector segment
selector sender sequence server service session setting shadow shape share shell signal size slice slot snapshot socket source span
stack stage state station status step stock storage stream string style subject summary supplier switch symbol sync system table tag target
task tenant term test text theme thread ticket time timer token topic total trace track traffic transfer transform tree trigger type unit
update upload usage user value vector vendor version view visitor volume wallet watcher weight widget window worker wrapper writer zone`)

	verbs = strings.Fields(`add append apply assign attach begin build cancel check clear close collect compare compute convert count create
decode delete detect drop emit encode ensure expand fetch find flush format get handle init insert invoke join limit list load lock make mark
match merge move notify open parse pick poll pop prepare process publish pull push put read receive record reduce register release remove
render replace report request reset resolve restore retry return run save scan schedule seek select send set skip sort split start stop store
strip submit swap sync take track transform trim unlock update validate verify visit wait walk watch wrap write`)

	functionWords = strings.Fields(`the of to a and is in it for be that this with as are not on if by or from an when we at can will
which has must no all one so but only use used each then its have may more than other first any was new same also into they there does up such
some before after because most never should being these their without until between both here where about two out how while what over would
very still always under own however since every through them even just make back could were now own many well our you need given case`)
)

const (
	zipfBits   = 14
	proseWords = 3_500
	apiNames   = 900 // names that the whole corpus shares, like a standard library
)

// A model is the vocabulary of the corpus: shared, read-only after newModel.
type model struct {
	prose []string
	zipf  [1 << zipfBits]uint16 // index into prose, in proportion to 1/rank
	api   []string
}

func newModel(spec Spec) *model {
	r := spec.rng(streamModel)
	m := &model{}
	m.prose = append(m.prose, functionWords...)
	rest := append(append([]string{}, stems...), verbs...)
	r.Shuffle(len(rest), func(i, j int) { rest[i], rest[j] = rest[j], rest[i] })
	m.prose = append(m.prose, rest...)
	suffixes := [...]string{"s", "ed", "ing", "er", "able", "ion", "ment", "ly", "al", "ness"}
	for len(m.prose) < proseWords {
		m.prose = append(m.prose, rest[r.IntN(len(rest))]+suffixes[r.IntN(len(suffixes))])
	}
	total := 0.0
	for i := range m.prose {
		total += 1 / float64(i+2)
	}
	sum, word := 1/2.0, 0
	for i := range m.zipf {
		for float64(i)/float64(len(m.zipf))*total > sum && word < len(m.prose)-1 {
			word++
			sum += 1 / float64(word+2)
		}
		m.zipf[i] = uint16(word)
	}
	for range apiNames {
		m.api = append(m.api, camel(r))
	}
	return m
}

func (m *model) word(r *rand.Rand) string { return m.prose[m.zipf[r.Uint32()>>(32-zipfBits)]] }

func title(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

func camel(r *rand.Rand) string {
	name := verbs[r.IntN(len(verbs))] + title(stems[r.IntN(len(stems))])
	if r.IntN(3) == 0 {
		name += title(stems[r.IntN(len(stems))])
	}
	return name
}

// A voice is what the files of one directory have in common.
type voice struct {
	locals  []string
	types   []string
	funcs   []string
	fields  []string
	phrases []string
	licence string
	project string
}

func (m *model) voice(s Spec, d *planDir) *voice {
	r := s.rng(streamDirs + d.index)
	v := &voice{project: d.path}
	for range 70 {
		v.locals = append(v.locals, stems[r.IntN(len(stems))])
		v.fields = append(v.fields, stems[r.IntN(len(stems))]+title(stems[r.IntN(len(stems))]))
		v.funcs = append(v.funcs, camel(r))
	}
	for range 24 {
		v.types = append(v.types, title(stems[r.IntN(len(stems))])+title(stems[r.IntN(len(stems))]))
		var phrase []string
		for range 3 + r.IntN(4) {
			phrase = append(phrase, m.word(r))
		}
		v.phrases = append(v.phrases, strings.Join(phrase, " "))
	}
	// One licence per project, the same words in all of its directories.
	root, _, _ := strings.Cut(d.path, "/")
	v.licence = "Copyright 2019-2025 The " + title(root) + " Authors. All rights reserved.\n" +
		"Use of this source code is governed by the licence that can be found\nin the LICENCE file of the " + root + " project."
	return v
}

// Statement templates. $v local, $T type, $f function, $a shared function,
// $m field, $n number, $x hexadecimal, $w word, $s a few words, $c a sentence.
var (
	goLines = []string{
		"\t$v := $a($v, $n)\n", "\t$v, err := $v.$f($v)\n\tif err != nil {\n\t\treturn nil, fmt.Errorf(\"$s: %w\", err)\n\t}\n",
		"\tif $v == nil || $v.$m > $n {\n\t\treturn $v, err\n\t}\n", "\tfor i, $v := range $v.$m {\n\t\t$v[i] = $a($v)\n\t}\n",
		"\t// $c\n", "\t// $c\n\t// $c\n", "\t$v.$m = append($v.$m, $v...)\n", "\tdefer $v.$f()\n",
		"\tswitch $v.$m {\n\tcase $m, $m:\n\t\t$f($v)\n\tdefault:\n\t\treturn errors.New(\"$s\")\n\t}\n",
		"\t$v := &$T{$m: $v, $m: $n}\n", "\tlog.Printf(\"$s: %v\", $v)\n", "\t$v.mu.Lock()\n\t$v.$m++\n\t$v.mu.Unlock()\n",
		"\tif got, want := $f($n), \"$s\"; got != want {\n\t\tt.Errorf(\"$f() = %q, want %q\", got, want)\n\t}\n",
		"\tvar $v [$n]$T\n", "\tcopy($v[$n:], $v.$m[:$n])\n", "\t{\"$s\", $n, $x, \"$w\"},\n", "\t{name: \"$s\", in: $x, want: $n},\n",
		"\tgo func() {\n\t\tdefer close($v)\n\t\t$v <- $a($v, $v)\n\t}()\n", "\tif $v := $v.$a(); $v != \"$w\" {\n\t\tcontinue\n\t}\n",
		"\t$v, ok := $v.$m[$v]\n\tif !ok {\n\t\treturn false\n\t}\n", "\t$v = $v<<$n | $v&$x\n", "\t$v.$m.$f($v, \"$s\")\n",
	}
	cLines = []string{
		"\tif ($v->$m == NULL)\n\t\treturn -EINVAL;\n", "\t$v = $a($v->$m, $n);\n", "\t/* $c */\n", "\t$v->$m = ($v & $x) >> $n;\n",
		"\tfor (i = 0; i < $v->$m; i++) {\n\t\t$v[i] = $f(&$v[i], $n);\n\t}\n", "\tret = $a($v, $v, sizeof(struct $T));\n\tif (ret < 0)\n\t\tgoto out;\n",
		"\tstruct $T *$v = $f($v);\n", "\tmemcpy($v->$m, $v, $n);\n", "\tpr_debug(\"$s: %d\\n\", $v->$m);\n", "#define $w_$w $x /* $s */\n",
		"\tswitch ($v->$m) {\n\tcase $n:\n\t\t$f($v);\n\t\tbreak;\n\tdefault:\n\t\tbreak;\n\t}\n", "\tspin_lock(&$v->$m);\n\tlist_add(&$v->$m, &$v->$m);\n\tspin_unlock(&$v->$m);\n",
		"\twhile ($v-- > $n)\n\t\t*$v++ = $v[$v];\n", "\t{ $x, $x, $n, \"$w\" },\n", "\t{ $n, $n, $x },\n", "\tu32 $v = readl($v->$m + $x);\n",
		"\t/*\n\t * $c\n\t * $c\n\t */\n", "\tassert($v != $v && $f($v) == $n);\n",
	}
	pyLines = []string{
		"        self.$v = $a($v, $v=$n)\n", "        if not $v.$m:\n            raise ValueError(\"$s\")\n", "        # $c\n",
		"        for $v in self.$m:\n            $v.append($v[\"$w\"])\n", "        return [$f($v) for $v in $v if $v.$m > $n]\n",
		"        with $a($v) as $v:\n            $v = $v.$f($v)\n", "        try:\n            $v = $f($v)\n        except KeyError:\n            log.warning(\"$s\", $v)\n",
		"        assert $f($n, \"$w\") == \"$s\"\n", "        $v = {\"$w\": $n, \"$w\": $v.$m, \"$w\": \"$s\"}\n", "        self.$m[$v] = $v.get(\"$w\", $n)\n",
		"        \"\"\"$c\n\n        $c\n        \"\"\"\n", "        $v, $v = $v.$a($x)\n", "        self.assertEqual($v.$m, $n)\n", "        (\"$s\", $n, $x),\n",
	}
	jsLines = []string{
		"  const $v = $a($v.$m, $n);\n", "  if (!$v || $v.$m === '$w') {\n    return null;\n  }\n", "  // $c\n", "  $v.$m = $v.map(($v) => $v.$f($v));\n",
		"  await $v.$a({ $v, $m: '$s' });\n", "  this.$m.forEach(($v) => {\n    $f($v, $n);\n  });\n", "  expect($f($n)).toBe('$s');\n",
		"  throw new Error(`$s: ${$v.$m}`);\n", "  const { $v, $v, $m } = this.props;\n", "    <$T className=\"$w-$w\" $m={$v}>\n      $s\n    </$T>\n",
		"  $v.addEventListener('$w', () => $f($v));\n", "  return $v.$m ? $a($v) : [$n, $n];\n", "  { id: $n, name: '$s', color: '#$x' },\n",
		"  /**\n   * $c\n   * @param {$T} $v $s\n   */\n", "  it('$s', async () => {\n    const $v = await $f();\n    expect($v.$m).toEqual($n);\n  });\n",
	}
	mdLines = []string{
		"$c $c $c\n$c $c\n\n", "$c $c\n\n", "## $s\n\n", "- $c\n", "* `$f`: $s\n", "```\n$f --$w $n $v\n```\n\n", "| $w | $n | $s |\n", "$c See [$s](https://example.org/$w/$w#$w).\n",
	}
	jsonLines = []string{
		"  \"$m\": {\"$w\": $n, \"$w\": \"$s\", \"enabled\": true},\n", "  {\"id\": \"$x\", \"name\": \"$s\", \"$w\": $n, \"$w\": [$n, $n]},\n",
		"    \"$v\": \"$s\",\n    \"$m\": $n,\n", "  \"$w-$w\": {\n    \"version\": \"$n.$n.0\",\n    \"integrity\": \"sha1-$x$x$x\",\n    \"requires\": {\"$w\": \"^$n.$n.0\"}\n  },\n",
	}
)

// A form is how a file of one language is built: a head, then blocks of an
// opening, several lines and an ending.
type form struct {
	head, open, close string
	comment           string
	lines             []string
}

func (l language) form() form {
	switch l {
	case golang:
		return form{"package $v\n\nimport (\n\t\"context\"\n\t\"errors\"\n\t\"fmt\"\n\t\"sync\"\n\n\t\"example.org/$w/$w\"\n\t\"example.org/$w/$w\"\n)\n\n",
			"// $f $c\n// $c\nfunc ($v *$T) $f(ctx context.Context, $v $T) ($T, error) {\n", "\treturn $v, nil\n}\n\n", "// ", goLines}
	case clang:
		return form{"#include <linux/$w.h>\n#include <linux/$w.h>\n#include \"$v.h\"\n\n",
			"/**\n * $f - $s\n * @$v: $s\n *\n * $c\n */\nstatic int $f(struct $T *$v, const char *$v)\n{\n", "out:\n\treturn ret;\n}\n\n", " * ", cLines}
	case python:
		return form{"import os\nimport logging\nfrom $v.$v import $T, $f\nfrom .$v import $a\n\nlog = logging.getLogger(__name__)\n\n\n",
			"class $T($T):\n    def $f(self, $v, $v=None):\n        \"\"\"$c\"\"\"\n", "        return $v\n\n", "# ", pyLines}
	case javascript:
		return form{"'use strict';\n\nimport React from 'react';\nimport { $T, $f } from './$v';\nimport $v from '../$v/$v';\n\n",
			"export async function $f($v, { $v, $m } = {}) {\n", "}\n\n", "// ", jsLines}
	case markdown:
		return form{"# $s\n\n$c $c\n\n", "\n### $s\n\n", "\n", "", mdLines}
	case jsonText:
		return form{"{\n", "  \"$v\": [\n", "  ],\n", "", jsonLines}
	default:
		return form{"", "$c $c $c\n", "\n", "", []string{"$c $c\n", "$c\n", "$c $c $c\n"}}
	}
}

// A textWriter appends text in one voice to buf.
type textWriter struct {
	buf []byte
	r   *rand.Rand
	m   *model
	v   *voice
}

// write appends exactly size bytes of a file in lang.
func (w *textWriter) write(lang language, size int) {
	start := len(w.buf)
	f := lang.form()
	if f.comment != "" {
		for line := range strings.Lines(w.v.licence) {
			w.buf = append(append(w.buf, f.comment...), line...)
		}
		w.buf = append(w.buf, "\n\n"...)
	}
	w.expand(f.head)
	for len(w.buf)-start < size {
		w.expand(f.open)
		for range 3 + w.r.IntN(18) {
			w.expand(f.lines[w.r.IntN(len(f.lines))])
		}
		w.expand(f.close)
	}
	w.buf = w.buf[:start+size]
	endLine(w.buf[start:])
}

// edit rewrites about one line in forty, as one who adapts a copied file, with
// random numbers from r.
func (w *textWriter) edit(r *rand.Rand, lang language) []byte {
	old := bytes.Clone(w.buf)
	w.buf, w.r = w.buf[:0], r
	lines := lang.form().lines
	for line := range bytes.Lines(old) {
		if r.IntN(40) == 0 {
			w.expand(lines[r.IntN(len(lines))])
		} else {
			w.buf = append(w.buf, line...)
		}
	}
	return w.buf
}

// oneOf prefers the front of the list: real names follow a power law too.
func (w *textWriter) oneOf(list []string) string {
	x := w.r.Float64()
	return list[int(x*x*float64(len(list)))]
}

// expand appends a template with its places filled.
func (w *textWriter) expand(template string) {
	for {
		i := strings.IndexByte(template, '$')
		if i < 0 || i+1 == len(template) {
			w.buf = append(w.buf, template...)
			return
		}
		w.buf = append(w.buf, template[:i]...)
		switch template[i+1] {
		case 'v':
			w.buf = append(w.buf, w.oneOf(w.v.locals)...)
		case 'T':
			w.buf = append(w.buf, w.oneOf(w.v.types)...)
		case 'f':
			w.buf = append(w.buf, w.oneOf(w.v.funcs)...)
		case 'a':
			w.buf = append(w.buf, w.oneOf(w.m.api)...)
		case 'm':
			w.buf = append(w.buf, w.oneOf(w.v.fields)...)
		case 'n':
			w.buf = strconv.AppendInt(w.buf, int64(w.r.Uint32()>>(16+w.r.IntN(16))), 10)
		case 'x':
			w.buf = append(w.buf, "0x"...)
			w.buf = strconv.AppendUint(w.buf, uint64(w.r.Uint32()>>(4*w.r.IntN(7))), 16)
		case 'w':
			w.buf = append(w.buf, w.m.word(w.r)...)
		case 's':
			w.words(1 + w.r.IntN(4))
		case 'c':
			start := len(w.buf)
			w.words(6 + w.r.IntN(10))
			if c := w.buf[start]; 'a' <= c && c <= 'z' {
				w.buf[start] = c - 'a' + 'A'
			}
			w.buf = append(w.buf, '.')
		default: // a dollar of the language itself
			w.buf = append(w.buf, '$')
			template = template[i+1:]
			continue
		}
		template = template[i+2:]
	}
}

// words appends n words; two times in five a phrase that the directory's
// authors are fond of takes the place of one.
func (w *textWriter) words(n int) {
	for i := range n {
		if i > 0 {
			w.buf = append(w.buf, ' ')
		}
		if w.r.IntN(5) < 2 {
			w.buf = append(w.buf, w.oneOf(w.v.phrases)...)
		} else {
			w.buf = append(w.buf, w.m.word(w.r)...)
		}
	}
}
