package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

type versionJSON struct {
	Version  string `json:"version"`
	Go       string `json:"go"`
	OS       string `json:"os"`
	Arch     string `json:"arch"`
	Revision string `json:"revision,omitempty"`
	Modified bool   `json:"modified,omitempty"` // the source had changes beyond the revision
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Long: `Print the version of the program, of Go, the system, and the revision of the
source, where the build knows it.

Exit codes: 0 printed · 1 usage`,
		Example: `  backup-handler version
  backup-handler version --json`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := versionJSON{Version: version, Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
			if info, ok := debug.ReadBuildInfo(); ok {
				for _, s := range info.Settings {
					switch s.Key {
					case "vcs.revision":
						v.Revision = s.Value
					case "vcs.modified":
						v.Modified = s.Value == "true"
					}
				}
			}
			return a.print(v, func(w io.Writer) error {
				fmt.Fprintf(w, "backup-handler %s (%s, %s/%s)\n", v.Version, v.Go, v.OS, v.Arch)
				if v.Revision != "" {
					changed := ""
					if v.Modified {
						changed = ", with changes"
					}
					fmt.Fprintf(w, "revision %s%s\n", v.Revision, changed)
				}
				return nil
			})
		},
	}
}
