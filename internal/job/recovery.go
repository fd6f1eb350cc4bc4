package job

import (
	"errors"
	"fmt"
	"strings"

	"github.com/SP1R4/BackupHandler/v3/internal/seal"
)

// maxTypos is how often a line of a recovery sheet may be typed.
const maxTypos = 3

// ParseKeyFile reads the content of a key file: 32 bytes, or the key of a recovery
// sheet as text. what says which.
func ParseKeyFile(content []byte) (k *seal.KeyFile, what string, err error) {
	if len(content) != seal.KeySize {
		k, err := seal.ParsePaperKey(content)
		if !errors.Is(err, seal.ErrNoPaperKey) {
			return k, "recovery sheet", err
		}
	}
	k, err = seal.NewKeyFile(content)
	return k, "key file", err
}

// AskRecoveryKey asks for the lines of a recovery sheet's key, for each until it is
// right. prompt is nil where nobody is there to ask; tell receives what is wrong.
func AskRecoveryKey(prompt func(question string, confirm bool) ([]byte, error), tell func(string)) (*seal.KeyFile, error) {
	if prompt == nil {
		return nil, &Failure{ExitUsage, errors.New("there is no terminal to ask for the key of the recovery sheet on"),
			"type its lines into a file that only you can read, and use --key-file"}
	}
	var lines []string
	for n := 1; n <= seal.PaperLines; n++ {
		line, err := askLine(n, prompt, tell)
		if err != nil {
			return nil, err
		}
		lines = append(lines, line)
	}
	return seal.ParsePaperKey([]byte(strings.Join(lines, "\n")))
}

func askLine(n int, prompt func(string, bool) ([]byte, error), tell func(string)) (string, error) {
	question := fmt.Sprintf("Line %d of %d of the key (it does not show)", n, seal.PaperLines)
	for try := 1; ; try++ {
		text, err := prompt(question, false)
		if err != nil {
			return "", err
		}
		_, err = seal.ParsePaperLine(n, string(text))
		if err == nil {
			return string(text), nil
		}
		if try == maxTypos {
			return "", &Failure{ExitUsage, fmt.Errorf("recovery sheet: %w", err), "each line has a checksum of its own: compare it with the sheet, character by character"}
		}
		tell(err.Error())
	}
}
