package job

import (
	"errors"

	"github.com/SP1R4/BackupHandler/v3/internal/config"
)

// Exit codes of the program. Each command's help prints its part.
const (
	ExitOK          = 0
	ExitUsage       = 1   // usage, configuration; a verification found damage; a restore is not complete
	ExitRefused     = 2   // refused before anything was done: a source or destination is missing or not what it should be
	ExitPartial     = 3   // at least one destination, source or file failed
	ExitInterrupted = 130 // by a signal
)

// Exit codes of drills, which are those of 2.5: 1 is usage and configuration.
const (
	ExitNotRestored = 2 // the repository cannot be opened, or something could not be restored
	ExitNotVerified = 3 // what was restored is not what it should be, or it took too long
	ExitNotTold     = 4 // passed, but nobody could be notified
)

// TrustHint is what to do about a configuration whose commands are not run.
const TrustHint = "make the file, and the directories that lead to it, yours or root's alone: chmod go-w; " + config.TrustEnv + "=1 runs its commands all the same"

// A Failure is an error for the user: what is wrong, what to do about it, and the
// code with which the program ends.
type Failure struct {
	Code int
	Err  error
	Hint string // one line; "" for none
}

func (f *Failure) Error() string { return f.Err.Error() }
func (f *Failure) Unwrap() error { return f.Err }

// Fail makes a Failure of an error; nil stays nil. An error that is one already
// stays as it is.
func Fail(code int, err error, hint string) error {
	if err == nil {
		return nil
	}
	if f, ok := errors.AsType[*Failure](err); ok {
		return f
	}
	return &Failure{code, err, hint}
}
