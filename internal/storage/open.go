package storage

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"runtime"
	"strings"
)

// Open opens the storage at location, which exists: the path of a directory, or
// a URL. The schemes are
//
//	file:///path	a directory (percent-encoded, as in any URL)
//
// Another scheme is ErrUnsupported. Errors do not repeat the URL, which may
// hold a password.
func Open(ctx context.Context, location string) (Backend, error) {
	dir, err := parseLocation(ctx, location)
	if err != nil {
		return nil, fmt.Errorf("open storage: %w", err)
	}
	return asBackend(OpenLocal(dir))
}

// Create makes the place at location ready to hold objects (for a directory:
// makes it, and those that lead to it) and opens it. It may exist already.
func Create(ctx context.Context, location string) (Backend, error) {
	dir, err := parseLocation(ctx, location)
	if err != nil {
		return nil, fmt.Errorf("create storage: %w", err)
	}
	return asBackend(CreateLocal(dir))
}

// Dir returns the directory that a location names; false: it names none.
func Dir(location string) (dir string, ok bool) {
	dir, err := parseLocation(context.Background(), location)
	return dir, err == nil
}

// asBackend keeps a nil *Local from becoming a Backend that is not nil.
func asBackend(l *Local, err error) (Backend, error) {
	if err != nil {
		return nil, err
	}
	return l, nil
}

// parseLocation returns the directory that location means.
func parseLocation(ctx context.Context, location string) (dir string, err error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if location == "" {
		return "", errors.New("no path or URL given")
	}
	switch scheme := schemeOf(location); scheme {
	case "":
		return location, nil
	case "file":
		return fileURLPath(location)
	default:
		return "", fmt.Errorf("%w: %s://", ErrUnsupported, scheme)
	}
}

// schemeOf returns the scheme of a URL in lower case, "" for a path. One letter
// is no scheme but a Windows drive.
func schemeOf(location string) string {
	scheme, _, ok := strings.Cut(location, "://")
	if !ok || len(scheme) < 2 {
		return ""
	}
	scheme = strings.ToLower(scheme)
	for i, c := range []byte(scheme) {
		letter := 'a' <= c && c <= 'z'
		if !letter && (i == 0 || !strings.ContainsRune("0123456789+-.", rune(c))) {
			return ""
		}
	}
	return scheme
}

// fileURLPath returns the path of a file URL (RFC 8089).
func fileURLPath(location string) (string, error) {
	u, err := url.Parse(location)
	if err != nil {
		return "", errors.New("malformed file URL") // err repeats the URL
	}
	if u.User != nil || u.Host != "" && u.Host != "localhost" {
		return "", errors.New("file URL names a host: write file:///path, with three slashes")
	}
	if u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return "", errors.New("file URL has a query or fragment: write ? as %3F and # as %23")
	}
	if u.Path == "" {
		return "", errors.New("file URL has no path")
	}
	path := u.Path
	if runtime.GOOS == "windows" {
		path = strings.TrimPrefix(path, "/") // file:///C:/dir
	}
	return filepath.FromSlash(path), nil
}
