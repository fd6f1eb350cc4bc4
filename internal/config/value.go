package config

import (
	"errors"
	"fmt"
	"math"
	"net/url"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// An Env looks up an environment variable; [os.LookupEnv] is one.
type Env func(name string) (value string, set bool)

// An Error says what is wrong with one key. It never holds the key's value.
type Error struct {
	File    string // "" without a file
	Line    int    // 0 if the key is not in the file
	Section string
	Key     string
	Problem string
}

func (e *Error) Error() string {
	return position(e.File, e.Line) + "[" + e.Section + "] " + e.Key + ": " + e.Problem
}

func position(file string, line int) string {
	switch {
	case file == "":
		return ""
	case line == 0:
		return file + ": "
	}
	return file + ":" + strconv.Itoa(line) + ": "
}

// A Value is the setting of one key: what the file says, or the default. Its
// ${VARIABLES} are looked up when it is read, so that only what is needed has
// to be resolvable. Each reader panics if the key is not of its type, and
// returns an *[Error] for text that is wrong or a variable that is not set.
type Value struct {
	Key  Key
	c    *Config
	text string // after interpolation; "" if unset
	file string
	line int // 0 if not in the file
}

// IsSet tells whether the file sets the key, to other than nothing or None.
func (v Value) IsSet() bool { return v.text != "" }

func (v Value) errorf(format string, args ...any) error {
	return &Error{File: v.file, Line: v.line, Section: v.Key.Section, Key: v.Key.Name, Problem: fmt.Sprintf(format, args...)}
}

// resolve returns the text with its variables replaced, or the default if that
// leaves nothing.
func (v Value) resolve(types ...Type) (string, error) {
	if !slices.Contains(types, v.Key.Type) {
		panic(fmt.Sprintf("config: [%s] %s is of type %s", v.Key.Section, v.Key.Name, v.Key.Type))
	}
	text, unset := expandVariables(v.text, v.c.env)
	if unset != "" {
		return "", v.errorf("the environment variable %s is not set", unset)
	}
	if text == "" {
		return v.Key.Default, nil
	}
	return text, nil
}

// wrap gives an error of the parsers below its place. They never quote text.
func wrap[T any](v Value, x T, err error) (T, error) {
	if err != nil {
		var zero T
		return zero, v.errorf("%v", err)
	}
	return x, nil
}

// Text returns a String, an Enum (in lower case) or a URL; "" if there is none.
// Secrets are read by [Value.Secret] only.
func (v Value) Text() (string, error) {
	if v.Key.Secret {
		panic(fmt.Sprintf("config: [%s] %s is a secret", v.Key.Section, v.Key.Name))
	}
	return v.plain()
}

func (v Value) plain() (string, error) {
	text, err := v.resolve(String, Enum, URL)
	if err != nil || text == "" {
		return "", err
	}
	switch v.Key.Type {
	case Enum:
		text = strings.ToLower(text)
		if !slices.Contains(v.Key.Values, text) {
			return "", v.errorf("must be one of %s", strings.Join(v.Key.Values, ", "))
		}
	case URL:
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return "", v.errorf("must be an http:// or https:// address")
		}
	case String:
		if v.Key.Check != nil {
			if err := v.Key.Check(text); err != nil {
				return "", v.errorf("%v", err)
			}
		}
	}
	return text, nil
}

// Secret returns a secret; empty if there is none.
func (v Value) Secret() (SecretString, error) {
	if !v.Key.Secret {
		panic(fmt.Sprintf("config: [%s] %s is not a secret", v.Key.Section, v.Key.Name))
	}
	text, err := v.plain()
	if err == nil && text == "" && v.IsSet() {
		err = v.errorf("its environment variable is empty")
	}
	return SecretString{text}, err
}

// Path returns an absolute path; "" if there is none.
func (v Value) Path() (string, error) {
	text, err := v.resolve(Path)
	if err != nil || text == "" {
		return "", err
	}
	path, err := absolutePath(text, v.c.env)
	return wrap(v, path, err)
}

// List returns the items of a List; of a PathList, its absolute paths and
// addresses; of Times, "HH:MM" each.
func (v Value) List() ([]string, error) {
	text, err := v.resolve(List, PathList, Times)
	if err != nil {
		return nil, err
	}
	items, err := splitList(text)
	if err != nil {
		return nil, v.errorf("%v", err)
	}
	for i, item := range items {
		switch v.Key.Type {
		case PathList:
			items[i], err = absolutePath(item, v.c.env)
		case Times:
			items[i], err = parseTime(item)
		case List:
			items[i], err = v.Key.choice(item)
		}
		if err != nil {
			return nil, v.errorf("item %d: %v", i+1, err)
		}
	}
	return items, nil
}

// choice is an item of a List, in lower case if the key has choices.
func (k Key) choice(item string) (string, error) {
	if len(k.Values) == 0 {
		return item, nil
	}
	item = strings.ToLower(item)
	if !slices.Contains(k.Values, item) {
		return "", fmt.Errorf("must be one of %s", strings.Join(k.Values, ", "))
	}
	return item, nil
}

// Bool returns a Bool.
func (v Value) Bool() (bool, error) {
	text, err := v.resolve(Bool)
	if err != nil {
		return false, err
	}
	b, err := parseBool(text)
	return wrap(v, b, err)
}

// Int returns an Int, in the key's unit.
func (v Value) Int() (int64, error) {
	text, err := v.resolve(Int)
	if err != nil || text == "" {
		return 0, err
	}
	if v.Key.Unit == "%" {
		text = strings.TrimSuffix(text, "%")
	}
	n, err := strconv.ParseInt(text, 10, 64)
	switch {
	case err != nil:
		return 0, v.errorf("must be a whole number")
	case v.Key.Floor > 0:
		n = max(n, v.Key.Floor)
	case n < 0:
		return 0, v.errorf("must not be negative")
	}
	if v.Key.Max > 0 && n > v.Key.Max {
		return 0, v.errorf("must not be larger than %d", v.Key.Max)
	}
	return n, nil
}

// Float returns a Float.
func (v Value) Float() (float64, error) {
	text, err := v.resolve(Float)
	if err != nil || text == "" {
		return 0, err
	}
	x, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(x) || math.IsInf(x, 0) {
		return 0, v.errorf("must be a number")
	}
	if v.Key.Floor == 0 && x < 0 {
		return 0, v.errorf("must not be negative")
	}
	return max(x, float64(v.Key.Floor)), nil
}

// Duration returns a Duration; 0 if there is none.
func (v Value) Duration() (time.Duration, error) {
	text, err := v.resolve(Duration)
	if err != nil || text == "" {
		return 0, err
	}
	d, err := parseDuration(text, v.Key.Unit)
	return wrap(v, d, err)
}

// Size returns a Size in bytes; 0 if there is none.
func (v Value) Size() (int64, error) {
	text, err := v.resolve(Size)
	if err != nil || text == "" {
		return 0, err
	}
	n, err := parseSize(text, v.Key.Unit)
	return wrap(v, n, err)
}

// CPUs returns a number of processors.
func (v Value) CPUs() (Processors, error) {
	text, err := v.resolve(CPUs)
	if err != nil || text == "" {
		return Processors{}, err
	}
	p, err := ParseProcessors(text)
	return wrap(v, p, err)
}

// check reads the value as its type and forgets it.
func (v Value) check() error {
	var err error
	switch v.Key.Type {
	case String, Enum, URL:
		if v.Key.Secret {
			_, err = v.Secret()
		} else {
			_, err = v.Text()
		}
	case Path:
		_, err = v.Path()
	case List, PathList, Times:
		_, err = v.List()
	case Int:
		_, err = v.Int()
	case Float:
		_, err = v.Float()
	case Bool:
		_, err = v.Bool()
	case Duration:
		_, err = v.Duration()
	case Size:
		_, err = v.Size()
	case CPUs:
		_, err = v.CPUs()
	case Schedule:
		_, err = v.Schedule()
	default:
		panic("config: unknown type " + string(v.Key.Type))
	}
	return err
}

// A Lazy is a value that is read only by those who need it: a restore on
// another machine must not need the variables of a backup.
type Lazy[T any] struct {
	value Value
	read  func(Value) (T, error)
}

// IsSet tells whether the file sets the key. The value may still turn out to be
// wrong, or to need a variable that is not set.
func (l Lazy[T]) IsSet() bool { return l.value.IsSet() }

// Get reads the value; errors are those of [Value].
func (l Lazy[T]) Get() (T, error) { return l.read(l.value) }

// nextVariable finds the first ${NAME} of text. NAME is [A-Za-z_][A-Za-z0-9_]*;
// anything else between braces is ordinary text. ok is false if there is none.
func nextVariable(text string) (before, name, after string, ok bool) {
	for from := 0; ; {
		i := strings.Index(text[from:], "${")
		if i < 0 {
			return text, "", "", false
		}
		start := from + i + 2
		end := start
		for end < len(text) && isNameByte(text[end], end > start) {
			end++
		}
		if end > start && end < len(text) && text[end] == '}' {
			return text[:start-2], text[start:end], text[end+1:], true
		}
		from = start
	}
}

func isNameByte(b byte, digits bool) bool {
	return b == '_' || 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || digits && '0' <= b && b <= '9'
}

// variables returns the names of all ${NAME}s of text.
func variables(text string) []string {
	var names []string
	for {
		_, name, after, ok := nextVariable(text)
		if !ok {
			return names
		}
		names, text = append(names, name), after
	}
}

// expandVariables replaces each ${NAME}, once: what a variable holds is never
// expanded again. unset is the first variable that is not set.
func expandVariables(text string, env Env) (expanded, unset string) {
	var out strings.Builder
	for {
		before, name, after, ok := nextVariable(text)
		out.WriteString(before)
		if !ok {
			return out.String(), ""
		}
		value, set := env(name)
		if !set {
			return "", name
		}
		out.WriteString(value)
		text = after
	}
}

// splitList splits at commas and newlines and drops empty items. An item that
// begins with a double quote ends at the next one; in between, \" and \\ are a
// quote and a backslash, and every other character is itself.
func splitList(text string) ([]string, error) {
	var items []string
	for {
		text = strings.TrimLeftFunc(text, func(r rune) bool { return r == ',' || isPythonSpace(r) })
		switch {
		case text == "":
			return items, nil
		case text[0] == '"':
			item, rest, err := unquote(text[1:])
			if err != nil {
				return nil, err
			}
			items, text = append(items, item), rest
		default:
			end := strings.IndexAny(text, ",\n")
			if end < 0 {
				end = len(text)
			}
			items, text = append(items, strings.TrimRightFunc(text[:end], isPythonSpace)), text[end:]
		}
	}
}

func unquote(text string) (item, rest string, err error) {
	var out strings.Builder
	for i := 0; i < len(text); i++ {
		switch b := text[i]; {
		case b == '\\' && i+1 < len(text) && (text[i+1] == '"' || text[i+1] == '\\'):
			i++
			out.WriteByte(text[i])
		case b == '"':
			rest = strings.TrimLeft(text[i+1:], " \t")
			if rest != "" && rest[0] != ',' && rest[0] != '\n' {
				return "", "", errors.New("text follows the closing quote of an item")
			}
			if out.Len() == 0 {
				return "", "", errors.New("an item in quotes is empty")
			}
			return out.String(), rest, nil
		default:
			out.WriteByte(b)
		}
	}
	return "", "", errors.New("an item has no closing quote")
}

// joinList is the inverse of splitList.
func joinList(items []string) string {
	quoted := make([]string, len(items))
	for i, item := range items {
		quoted[i] = item
		if strings.ContainsAny(item, ",\n") || item == "" || item[0] == '"' || strings.TrimFunc(item, isPythonSpace) != item {
			quoted[i] = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(item) + `"`
		}
	}
	return strings.Join(quoted, ", ")
}

// absolutePath makes a path absolute from the working directory, as 2.5 did.
// Addresses of the form scheme://… are left alone.
func absolutePath(text string, env Env) (string, error) {
	if isAddress(text) {
		return text, nil
	}
	if strings.ContainsRune(text, 0) {
		return "", errors.New("a path cannot hold a zero byte")
	}
	if text[0] == '~' {
		rest := text[1:]
		if rest != "" && rest[0] != '/' && (runtime.GOOS != "windows" || rest[0] != '\\') {
			return "", errors.New("~user is not known here; write the directory out, or ./~user for a file of that name")
		}
		home, err := homeDir(env)
		if err != nil {
			return "", err
		}
		text = filepath.Join(home, rest)
	}
	return filepath.Abs(text)
}

func homeDir(env Env) (string, error) {
	name := "HOME"
	if runtime.GOOS == "windows" {
		name = "USERPROFILE"
	}
	if home, ok := env(name); ok && home != "" {
		return home, nil
	}
	return "", fmt.Errorf("the environment variable %s, the home directory, is not set", name)
}

func isAddress(text string) bool {
	scheme, _, ok := strings.Cut(text, "://")
	return ok && scheme != "" && !strings.ContainsAny(scheme, `/\ `)
}

func parseBool(text string) (bool, error) {
	switch strings.ToLower(text) {
	case "true", "yes", "on", "1":
		return true, nil
	case "false", "no", "off", "0":
		return false, nil
	}
	return false, errors.New("must be True or False")
}

func parseTime(text string) (string, error) {
	for _, layout := range []string{"15:04", "3:04"} {
		if t, err := time.Parse(layout, text); err == nil {
			return t.Format("15:04"), nil
		}
	}
	return "", errors.New("must be a time such as 03:00")
}

// cutNumber splits leading digits, at most 18 of them, from text.
func cutNumber(text string) (n int64, rest string, ok bool) {
	end := 0
	for end < len(text) && '0' <= text[end] && text[end] <= '9' {
		end++
	}
	n, err := strconv.ParseInt(text[:end], 10, 64)
	return n, strings.TrimLeft(text[end:], " "), err == nil
}

func parseDuration(text, unit string) (time.Duration, error) {
	wrong := errors.New("must be a duration such as 90s, 5m, 2h, 7d or 4w")
	if n, rest, ok := cutNumber(text); ok {
		if rest == "" {
			rest = unit
		}
		if d := map[string]time.Duration{
			"s": time.Second, "m": time.Minute, "min": time.Minute, "h": time.Hour,
			"d": 24 * time.Hour, "w": 7 * 24 * time.Hour,
		}[rest]; d > 0 {
			if n > int64(math.MaxInt64/d) {
				return 0, errors.New("is longer than 292 years")
			}
			return time.Duration(n) * d, nil
		}
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, wrong
	}
	return d, nil
}

// ParseSize parses a size such as 512K, 20MiB or 1G, in bytes.
func ParseSize(text string) (int64, error) { return parseSize(text, "") }

func parseSize(text, unit string) (int64, error) {
	n, rest, ok := cutNumber(text)
	if !ok {
		return 0, errors.New("must be a size such as 512K, 20MiB or 1G")
	}
	if rest == "" {
		rest = unit
	}
	shift := slices.Index([]string{"", "K", "M", "G", "T"}, sizePrefix(strings.ToUpper(rest)))
	if shift < 0 {
		return 0, errors.New("must be a size such as 512K, 20MiB or 1G")
	}
	if n > math.MaxInt64>>(10*shift) {
		return 0, errors.New("is larger than 8 EiB")
	}
	return n << (10 * shift), nil
}

// sizePrefix returns what stands before B or iB: "20 KiB", "20 KB" and "20 K"
// are the same.
func sizePrefix(unit string) string {
	if prefix, ok := strings.CutSuffix(unit, "IB"); ok && prefix != "" {
		return prefix
	}
	return strings.TrimSuffix(unit, "B")
}

// leastProcessors is the smallest number that is not taken for a mistake.
const leastProcessors = 0.01

// Processors is a number of processors, or a share of those there are. The zero
// value is no limit.
type Processors struct {
	number float64
	share  bool // number is a share of 1
}

// Of returns the number on a machine with so many processors; 0 is no limit.
func (p Processors) Of(machine int) float64 {
	if p.share {
		return p.number * float64(machine)
	}
	return p.number
}

// ParseProcessors parses a number of processors such as 0.5 or 2, or a share of the
// machine's such as 50%. 0 is no limit.
func ParseProcessors(text string) (Processors, error) {
	digits, share := strings.CutSuffix(text, "%")
	digits = strings.TrimRight(digits, " ")
	n, err := strconv.ParseFloat(digits, 64)
	switch {
	case err != nil || strings.Trim(digits, "0123456789.") != "": // no signs, exponents, infinities
		return Processors{}, errors.New("must be a number of processors such as 0.5 or 2, or a share of the machine such as 50%")
	case share && n > 100:
		return Processors{}, errors.New("is a share of more than 100%")
	case share:
		n /= 100
	case n > 0 && n < leastProcessors:
		return Processors{}, fmt.Errorf("must be at least %v processors, or 0 for no limit", leastProcessors)
	}
	return Processors{n, share}, nil
}
