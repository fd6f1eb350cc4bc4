package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/SP1R4/BackupHandler/v3/bench/usage"
)

const passphrase = "benchmark passphrase" // of throw-away repositories

// A place is what a tool works with.
type place struct {
	server   server
	line     string // the address by which the server is reached
	source   string
	name     string // of the repository on the server
	state    string // home, caches and configuration of the tool
	restored string // where to restore to
}

// A tool is one that keeps repositories on servers.
type tool struct {
	name    string
	env     func(place) []string
	prepare func(place) []string // creates a repository, where that is a step of its own
	setUp   func(place) error    // before each step
	step    func(place, step) []string
}

// tools are those that can be measured. before is another version of the program, "" for
// none.
func tools(bin, before string) []tool {
	all := []tool{ours(bin), restic()}
	if before != "" {
		old := ours(before)
		old.name = "before"
		all = append(all, old)
	}
	return all
}

func ours(bin string) tool {
	config := func(p place) string { return filepath.Join(p.state, "config.ini") }
	return tool{
		name: "ours",
		env: func(p place) []string {
			return environ(p, "BACKUP_HANDLER_PASSPHRASE="+passphrase, "BACKUP_HANDLER_DATA_DIR="+filepath.Join(p.state, "data"),
				"XDG_CONFIG_HOME="+p.state, "S3_ACCESS="+accessKey, "S3_SECRET="+secretKey)
		},
		setUp: func(p place) error {
			if s, ok := p.server.(*sshServer); ok {
				known := filepath.Join(p.state, "known_hosts")
				if err := s.knownHosts(p.line, known); err != nil {
					return err
				}
				return os.WriteFile(config(p), fmt.Appendf(nil, "[DEFAULT]\nmode = incremental\n[SSH]\nkey_file = %s\nknown_hosts = %s\n", filepath.Join(s.dir, "id"), known), 0o600)
			}
			return os.WriteFile(config(p), fmt.Appendf(nil,
				"[DEFAULT]\nmode = incremental\n[S3]\nendpoint = http://%s\nregion = us-east-1\naccess_key = ${S3_ACCESS}\nsecret_key = ${S3_SECRET}\n", p.line), 0o600)
		},
		step: func(p place, st step) []string {
			location := "s3://" + bucket + "/" + p.name
			if s, ok := p.server.(*sshServer); ok {
				location = "sftp://" + s.user + "@" + p.line + filepath.Join(s.data(), p.name)
			}
			if st == restoreAll {
				return []string{bin, "restore", "latest", "--quiet", "--config", config(p), "--backup-dirs", location, "--to", p.restored}
			}
			return []string{bin, "backup", "--quiet", "--encrypt", "--config", config(p), "--source-dir", p.source, "--backup-dirs", location}
		},
	}
}

func restic() tool {
	call := func(p place, args ...string) []string {
		argv := []string{"restic", "--quiet"}
		if s, ok := p.server.(*sshServer); ok {
			host, port, _ := net.SplitHostPort(p.line)
			ssh := fmt.Sprintf("ssh -F none -p %s -i %s -o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no -o LogLevel=ERROR %s@%s -s sftp",
				port, filepath.Join(s.dir, "id"), s.user, host)
			argv = append(argv, "-o", "sftp.command="+ssh, "-r", "sftp:"+s.user+"@"+host+":"+filepath.Join(s.data(), p.name))
		} else {
			argv = append(argv, "-r", "s3:http://"+p.line+"/"+bucket+"/"+p.name)
		}
		return append(argv, args...)
	}
	return tool{
		name: "restic",
		env: func(p place) []string {
			return environ(p, "RESTIC_PASSWORD="+passphrase, "RESTIC_CACHE_DIR="+filepath.Join(p.state, "cache"),
				"AWS_ACCESS_KEY_ID="+accessKey, "AWS_SECRET_ACCESS_KEY="+secretKey, "AWS_DEFAULT_REGION=us-east-1")
		},
		prepare: func(p place) []string { return call(p, "init", "--repository-version", "2") },
		setUp:   func(place) error { return nil },
		step: func(p place, st step) []string {
			if st == restoreAll {
				return call(p, "restore", "latest", "--target", p.restored)
			}
			return call(p, "backup", p.source)
		},
	}
}

func environ(p place, more ...string) []string {
	return append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + p.state, "XDG_CACHE_HOME=" + filepath.Join(p.state, "cache"),
		"TMPDIR=" + os.TempDir()}, more...)
}

// execute runs a command.
func execute(ctx context.Context, argv, env []string) (result, error) {
	c := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var output bytes.Buffer
	c.Env, c.Stdout, c.Stderr = env, &output, &output
	usage.Shrink()
	start := time.Now()
	if err := c.Run(); err != nil {
		return result{}, fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, output.String())
	}
	return result{
		took: time.Since(start), cpu: c.ProcessState.UserTime() + c.ProcessState.SystemTime(), peakBytes: usage.Peak(c.ProcessState),
	}, nil
}
