package train

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"vlmo-train/train/config"
)

// CheckpointConfig returns the configuration of the run that a checkpoint
// folder, or a file inside it, is of; nil if path is of no run.
func CheckpointConfig(path string) (*config.Run, error) {
	dir := path
	if st, err := os.Stat(path); err == nil && !st.IsDir() {
		dir = filepath.Dir(path)
	}
	name := filepath.Join(dir, "state.json")
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	var s struct{ State state }
	if err := json.Unmarshal(text, &s); err != nil || s.State.Config == "" {
		return nil, nil // another program's file
	}
	return config.Parse(name, []byte(s.State.Config))
}
