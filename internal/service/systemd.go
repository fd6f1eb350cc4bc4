package service

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/schedule"
)

// credential is the name under which systemd hands over a passphrase.
const credential = "passphrase"

// Systemd renders units: one service, or a service and a timer for each kind of job.
func Systemd(o Options) ([]File, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if strings.ContainsAny(o.Program, "\"'\\") {
		return nil, fmt.Errorf("systemd starts no program with a quote or backslash in its path: %s", o.Program)
	}
	if !o.Timers {
		return []File{o.daemonUnit()}, nil
	}
	var files []File
	for _, kind := range schedule.Kinds() {
		if s, ok := o.Plan.Jobs[kind]; ok {
			files = append(files, o.jobUnit(kind), o.timerUnit(kind, s))
		}
	}
	return files, nil
}

// daemonUnit is the service of the daemon.
func (o *Options) daemonUnit() File {
	var t text
	name := Name + ".service"
	o.head(&t, name, "Backups by schedule")
	stop, target := seconds(o.Plan.StopTimeout+killAfter), "multi-user.target"
	if o.Plan.Finish {
		stop = "infinity"
	}
	if o.UserUnit {
		target = "default.target"
	}
	_, drills := o.Plan.Jobs[schedule.Drill]
	t.lines("[Service]",
		"Type=notify",
		"NotifyAccess=main",
		"ExecStart="+o.command(""),
		"ExecReload=/bin/kill -HUP $MAINPID",
		"WatchdogSec=3min",
		"Restart=on-failure",
		"RestartSec=30s",
		"# 1 is a configuration that is wrong: it has to be put right first.",
		"RestartPreventExitStatus=1",
		"KillMode=mixed",
		"TimeoutStopSec="+stop)
	o.service(&t, drills)
	t.lines("", "[Install]", "WantedBy="+target)
	return File{name, []byte(t.String()), 0o644}
}

// jobUnit is the service that a timer starts.
func (o *Options) jobUnit(kind schedule.Kind) File {
	var t text
	name := fmt.Sprintf("%s-%s.service", Name, kind)
	o.head(&t, name, "backup-handler "+string(kind))
	t.lines("[Service]",
		"Type=oneshot",
		"ExecStart="+o.command(kind),
		"Environment=BACKUP_HANDLER_TRIGGER=timer",
		"KillSignal=SIGINT",
		"TimeoutStopSec="+seconds(o.Plan.StopTimeout+killAfter))
	o.service(&t, kind == schedule.Drill)
	return File{name, []byte(t.String()), 0o644}
}

func (o *Options) timerUnit(kind schedule.Kind, s schedule.Schedule) File {
	var t text
	t.lines("# "+Marker,
		"# Made of [SCHEDULE]: install again when that has changed.",
		"[Unit]",
		"Description=backup-handler "+string(kind)+", by schedule",
		"",
		"[Timer]")
	t.lines(s.Calendar(o.Zone)...)
	t.key("Persistent", yes(o.Plan.CatchUp))
	if o.Plan.Jitter >= time.Second {
		t.lines("RandomizedDelaySec="+seconds(o.Plan.Jitter), "FixedRandomDelay=yes")
	}
	t.lines("", "[Install]", "WantedBy=timers.target")
	return File{fmt.Sprintf("%s-%s.timer", Name, kind), []byte(t.String()), 0o644}
}

// head writes the section [Unit].
func (o *Options) head(t *text, name, description string) {
	edit := "systemctl edit " + name
	if o.UserUnit {
		edit = "systemctl --user edit " + name
	}
	t.lines("# "+Marker,
		"# Changes here are lost at the next install: use '"+edit+"'.",
		"[Unit]",
		"Description="+description,
		"Documentation=https://github.com/SP1R4/BackupHandler")
	if !o.UserUnit {
		t.lines("Wants=network-online.target", "After=network-online.target")
	}
	t.lines("")
}

// service writes what all services have in [Service]: who runs it, how eagerly, and what
// it may do.
func (o *Options) service(t *text, drills bool) {
	for _, v := range o.Environment {
		t.key("Environment", quote(v))
	}
	t.key("EnvironmentFile", "-"+specifiers(o.EnvironmentFile))
	if o.PassphraseFile != "" {
		load := "LoadCredential"
		if strings.HasSuffix(o.PassphraseFile, ".cred") {
			load = "LoadCredentialEncrypted"
		}
		t.key(load, credential+":"+specifiers(o.PassphraseFile))
	}
	if !o.UserUnit {
		t.key("User", o.user())
	}
	t.lines("UMask=0077",
		"Nice=10",
		"IOSchedulingClass=best-effort",
		"IOSchedulingPriority=7",
		"CPUWeight=20",
		"IOWeight=20")
	if !o.Unconfined {
		o.sandbox(t, drills)
	}
}

// user is who runs a unit of the system. It is written down, so that $HOME is set.
func (o *Options) user() string {
	if o.User == "" {
		return "root"
	}
	return o.User
}

// sandbox writes what a service may not do.
func (o *Options) sandbox(t *text, drills bool) {
	only := "only this be written"
	if o.UserUnit {
		only = "as by this user"
	}
	t.lines("",
		"# What is not needed is not there. Everything can be read, and "+only+":",
		"NoNewPrivileges=yes")
	if !o.UserUnit { // a user's manager may not do these
		tmp := o.covers("/tmp") || o.covers("/var/tmp") || within(o.Config, "/tmp") || within(o.Program, "/tmp")
		dev := o.covers("/dev")
		t.lines("ProtectSystem=strict", "ProtectHome=read-only")
		var writable []string
		for _, dir := range o.Writable {
			if w := quote("-" + filepath.Clean(dir)); !slices.Contains(writable, w) {
				writable = append(writable, w)
			}
		}
		t.key("ReadWritePaths", writable...)
		t.key("PrivateTmp", yes(!tmp))
		t.key("PrivateDevices", yes(!dev))
		t.key("ProtectClock", yes(!dev)) // it closes devices, too
		t.lines("ProtectControlGroups=yes",
			"ProtectHostname=yes",
			"ProtectKernelLogs=yes",
			"ProtectKernelModules=yes",
			"ProtectKernelTunables=yes",
			"ProtectProc=invisible",
			"ProcSubset=pid")
		t.lines(o.rights(drills, dev)...)
		t.lines("KeyringMode=private")
	}
	t.lines("LockPersonality=yes",
		"MemoryDenyWriteExecute=yes",
		"RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
		"RestrictNamespaces=yes",
		"RestrictRealtime=yes",
		"RestrictSUIDSGID="+yes(!drills), // drills restore such modes
		"SystemCallArchitectures=native",
		"SystemCallFilter=@system-service")
	if !drills { // drills restore owners
		t.lines("SystemCallFilter=~@privileged")
	}
	t.lines("SystemCallErrorNumber=EPERM")
}

// rights are the capabilities: to read everything. Root also writes to destinations that
// belong to others, and restores what drills have to; what can be written at all is
// bounded by the paths.
func (o *Options) rights(drills, dev bool) []string {
	read := "CAP_DAC_READ_SEARCH"
	if o.user() != "root" {
		return []string{"CapabilityBoundingSet=" + read, "AmbientCapabilities=" + read}
	}
	all := read + " CAP_DAC_OVERRIDE CAP_FOWNER"
	if drills {
		all += " CAP_CHOWN CAP_FSETID CAP_SETFCAP"
		if dev {
			all += " CAP_MKNOD"
		}
	}
	return []string{"CapabilityBoundingSet=" + all}
}

// command is the command line of the daemon, or of one kind of job.
func (o *Options) command(kind schedule.Kind) string {
	words := []string{quote(o.Program)}
	for _, a := range o.arguments(kind) {
		words = append(words, argument(a))
	}
	if o.PassphraseFile != "" {
		words = append(words, "--passphrase-file=${CREDENTIALS_DIRECTORY}/"+credential)
	}
	return strings.Join(words, " ")
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func seconds(d time.Duration) string { return fmt.Sprintf("%ds", int64(d/time.Second)) }

// specifiers keeps systemd from reading % as a specifier.
func specifiers(text string) string { return strings.ReplaceAll(text, "%", "%%") }

// quote writes a word such that systemd reads it as it is; see "Quoting" in
// systemd.syntax(7).
func quote(word string) string {
	if word != "" && !strings.ContainsAny(word, " \t\"'\\;") {
		return specifiers(word)
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(specifiers(word)) + `"`
}

// argument is a word of a command line, in which $ begins a variable.
func argument(word string) string { return quote(strings.ReplaceAll(word, "$", "$$")) }
