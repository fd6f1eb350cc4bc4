package service

import (
	"path/filepath"
	"time"
)

// Label names the daemon to launchd.
const Label = "io.github.sp1r4." + Name

// Launchd renders the property list of a launch daemon, or with UserUnit of an agent.
// launchd has no sandbox of this kind, no watchdog, and no calendar of the daemon's:
// Timers and Unconfined mean nothing.
func Launchd(o Options) ([]File, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	stop := o.Plan.StopTimeout + killAfter
	if o.Plan.Finish {
		stop = 24 * time.Hour // 0 would be forever, at shutdown too
	}
	data, err := render("launchd.tmpl", map[string]any{
		"Marker": Marker, "Label": Label, "Arguments": append([]string{o.Program}, o.arguments("")...), "User": o.User,
		"StopSeconds": int64(stop / time.Second), "LogFile": filepath.ToSlash(filepath.Join(o.StateDir, "daemon.log")),
	})
	return []File{{Label + ".plist", data, 0o644}}, err
}
