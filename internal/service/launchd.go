package service

import (
	"fmt"
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
	var t text
	t.lines(`<?xml version="1.0" encoding="UTF-8"?>`,
		"<!-- "+Marker+" -->",
		`<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">`,
		`<plist version="1.0">`,
		"<dict>")
	set := func(key string, value ...string) {
		t.lines("\t<key>" + key + "</key>")
		for _, v := range value {
			t.lines("\t" + v)
		}
	}
	str := func(s string) string { return "<string>" + escapeXML(s) + "</string>" }
	set("Label", str(Label))
	words := []string{"<array>"}
	for _, w := range append([]string{o.Program}, o.arguments("")...) {
		words = append(words, "\t"+str(w))
	}
	set("ProgramArguments", append(words, "</array>")...)
	if o.User != "" {
		set("UserName", str(o.User))
	}
	log := str(filepath.ToSlash(filepath.Join(o.StateDir, "daemon.log")))
	set("RunAtLoad", "<true/>")
	set("KeepAlive", "<dict>", "\t<key>SuccessfulExit</key>", "\t<false/>", "</dict>")
	set("ThrottleInterval", "<integer>30</integer>")
	set("ExitTimeOut", fmt.Sprintf("<integer>%d</integer>", int64(stop/time.Second)))
	set("ProcessType", str("Background"))
	set("LowPriorityIO", "<true/>")
	set("Umask", fmt.Sprintf("<integer>%d</integer>", 0o077))
	set("StandardOutPath", log)
	set("StandardErrorPath", log)
	t.lines("</dict>", "</plist>")
	return []File{{Label + ".plist", []byte(t.String()), 0o644}}, nil
}
