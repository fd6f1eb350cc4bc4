package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// ErrNone says that no file was asked for and none is in the usual places. A
// file that was asked for and is missing is [fs.ErrNotExist] instead.
var ErrNone = errors.New("no configuration file found")

// FindOptions says what was asked for.
type FindOptions struct {
	Path    string // of --config; "" if not given
	Profile string // of --profile; "" if not given
	Dir     string // that holds config/config.ini; "" is the working directory
	Env     Env
}

// Find returns the path of the configuration file, the first of: Path;
// config.PROFILE.ini beside any of the following; $BACKUP_HANDLER_CONFIG;
// config/config.ini; $XDG_CONFIG_HOME/backup-handler/config.ini (~/.config if
// unset); /etc/backup-handler/config.ini (on Windows
// %ProgramData%\backup-handler\config.ini).
//
// What is asked for, by option or by $BACKUP_HANDLER_CONFIG, and missing is an
// error: nothing else is read in its stead.
func Find(o FindOptions) (string, error) {
	if o.Path != "" && o.Profile != "" {
		return "", errors.New("--config and --profile exclude each other")
	}
	if o.Path != "" {
		return o.Path, exists(o.Path)
	}
	places := usualPlaces(o)
	if o.Profile != "" {
		return findProfile(o.Profile, places)
	}
	if path, _ := o.Env("BACKUP_HANDLER_CONFIG"); path != "" {
		if err := exists(path); err != nil {
			return "", fmt.Errorf("$BACKUP_HANDLER_CONFIG: %w", err)
		}
		return path, nil
	}
	return firstOf(places)
}

func findProfile(name string, places []string) (string, error) {
	if strings.ContainsAny(name, `/\:`) || strings.HasPrefix(name, ".") {
		return "", fmt.Errorf("profile %q: a name, not a path, is needed", name)
	}
	for i, place := range places {
		places[i] = filepath.Join(filepath.Dir(place), "config."+name+".ini")
	}
	path, err := firstOf(places)
	if errors.Is(err, ErrNone) {
		return "", fmt.Errorf("profile %s: none of %s: %w", name, strings.Join(places, ", "), fs.ErrNotExist)
	}
	return path, err
}

// usualPlaces returns where the file may be, $BACKUP_HANDLER_CONFIG included.
func usualPlaces(o FindOptions) []string {
	var places []string
	if path, _ := o.Env("BACKUP_HANDLER_CONFIG"); path != "" {
		places = append(places, path)
	}
	places = append(places, filepath.Join(o.Dir, "config", "config.ini"))
	if dir, _ := o.Env("XDG_CONFIG_HOME"); filepath.IsAbs(dir) {
		places = append(places, filepath.Join(dir, appName, "config.ini"))
	} else if home, err := homeDir(o.Env); err == nil {
		places = append(places, filepath.Join(home, ".config", appName, "config.ini"))
	}
	if runtime.GOOS != "windows" {
		places = append(places, "/etc/"+appName+"/config.ini")
	} else if dir, _ := o.Env("ProgramData"); dir != "" {
		places = append(places, filepath.Join(dir, appName, "config.ini"))
	}
	return places
}

// firstOf returns the first place that is a file. One that cannot be looked at
// is an error: it may be the file that is meant.
func firstOf(places []string) (string, error) {
	for _, path := range places {
		err := exists(path)
		if err == nil {
			return path, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	return "", fmt.Errorf("%w (looked for %s)", ErrNone, strings.Join(places, ", "))
}

func exists(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("find configuration: %w", err)
	}
	if info.IsDir() {
		return fmt.Errorf("find configuration: %s is a directory", path)
	}
	return nil
}
