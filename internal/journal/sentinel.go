package journal

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"

	"github.com/SP1R4/BackupHandler/v3/internal/durable"
)

// A sentinel is the file that other programs look at to learn how the last run went:
// the fields of BackupHandler 2.5, and more.
type sentinel struct {
	Status  string    `json:"status"` // started, success, failure
	Result  Status    `json:"result"`
	RunID   string    `json:"run_id"`
	Command string    `json:"command"`
	TS      int64     `json:"ts"` // seconds since 1970
	Time    time.Time `json:"ts_iso"`
	Start   time.Time `json:"start"`
	Host    string    `json:"host"`
	PID     int       `json:"pid"`
	Exit    *int      `json:"exit_code,omitempty"`
	Message string    `json:"message"`
	Phase   string    `json:"phase,omitempty"` // what failed
	Dirs    []string  `json:"backup_dirs"`
	Failed  []string  `json:"failed_destinations,omitempty"`
}

// WriteSentinel replaces the file that says how the last run stands. Whoever reads it
// sees the old content or the new, whole.
func WriteSentinel(name string, run *Run) error {
	s := sentinel{
		Status: "started", Result: run.Status, RunID: run.ID, Command: run.Command, Start: run.Start, Time: run.Start,
		Host: run.Host, PID: run.PID, Message: run.Command + " has started", Dirs: []string{},
	}
	if run.Status.Over() {
		s.Status, s.Time, s.Exit = "failure", run.End, &run.Exit
		s.Message = cutText(run.Error)
		if run.Status.Good() {
			s.Status, s.Message = "success", run.Command+" has completed"
		}
		for _, stage := range run.Stages {
			if stage.Error != "" && s.Phase == "" && !run.Status.Good() {
				s.Phase = stage.Name
			}
		}
	}
	s.TS = s.Time.Unix()
	for _, d := range run.Destinations {
		s.Dirs = append(s.Dirs, d.Location)
		if d.Error != "" {
			s.Failed = append(s.Failed, d.Location)
		}
	}
	data, err := json.MarshalIndent(s, "", "  ")
	if err == nil {
		err = durable.MkdirAll(filepath.Dir(name), 0o700)
	}
	if err == nil {
		err = durable.WriteFile(name, append(data, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}
