package tailscale

import (
	"errors"
	"strings"
)

// hidden stands for the key wherever something from outside has repeated it.
const hidden = "(key)"

const keyHint = "set [TAILSCALE] auth_key = ${TAILSCALE_AUTHKEY} or auth_key_file in the configuration; the key should be reusable, ephemeral and tagged"

// askKey asks for the key. The error tells what is wrong with it, never the key.
func (n *Node) askKey() (string, error) {
	var key string
	if n.o.Key != nil {
		k, err := n.o.Key()
		if err != nil {
			return "", &Error{Err: err, Hint: keyHint}
		}
		key = strings.TrimSpace(k)
	}
	switch {
	case key == "":
		return "", &Error{Err: errors.New("there is no key to join the tailnet with"), Hint: keyHint}
	case strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }):
		return "", &Error{Err: errors.New("the key to join the tailnet with is not a single word"), Hint: keyHint}
	}
	n.key.Store(&key)
	return key, nil
}

// redact removes the key from a text.
func (n *Node) redact(s string) string {
	if key := n.key.Load(); key != nil {
		s = strings.ReplaceAll(s, *key, hidden)
	}
	return s
}
