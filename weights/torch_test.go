package weights

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"vlmo-train/weights/pickle"
)

// fixtures returns a folder of fixtures: of those that VLMO_FIXTURES names, or
// of the copies here.
func fixtures(t *testing.T, name string) string {
	t.Helper()
	root := os.Getenv("VLMO_FIXTURES")
	if root == "" {
		root = filepath.Join("..", "testdata", "fixtures")
	}
	return filepath.Join(root, name)
}

// torchNames are torch's names of the dtypes.
var torchNames = map[string]string{
	"F32": "float32", "F64": "float64", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32", "I16": "int16",
	"I8": "int8", "U8": "uint8", "BOOL": "bool", "C64": "complex64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
	"U16": "uint16", "U32": "uint32", "U64": "uint64",
}

// fixture is what torch says of a file.
type fixture struct {
	Expected string
	Optional bool
	Tensors  map[string]struct {
		DType string
		Shape []int
	}
	StateDict map[string]string `json:"state_dict"`
}

// TestTorchFixtures reads files of torch.save as torch did.
func TestTorchFixtures(t *testing.T) {
	dir := fixtures(t, "torchzip")
	text, err := os.ReadFile(filepath.Join(dir, "expected.json"))
	if err != nil {
		t.Fatal(err)
	}
	var list map[string]fixture
	if err := json.Unmarshal(text, &list); err != nil {
		t.Fatal(err)
	}
	truth, err := Open(filepath.Join(dir, "expected.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer truth.Close()
	absolute, err := filepath.Abs(dir)
	if err != nil {
		t.Fatal(err)
	}
	// An evil file would leave a mark in the working folder.
	scratch := t.TempDir()
	t.Chdir(scratch)
	for name, want := range list {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(absolute, name)
			all, err := readBack(t, path, OpenAll)
			switch {
			case want.Expected == "error":
				if err == nil {
					t.Fatal("no error")
				}
			case err != nil:
				if want.Expected == "ok" && !want.Optional {
					t.Fatal(err)
				}
			default:
				if len(all) != len(want.Tensors) && len(want.Tensors) > 0 {
					t.Errorf("%d tensors, want %d", len(all), len(want.Tensors))
				}
				for path, w := range want.Tensors {
					got, ok := all[path]
					if !ok {
						t.Errorf("no tensor %q", path)
						continue
					}
					if torchNames[got.DType] != w.DType || !slices.Equal(got.Shape, w.Shape) {
						t.Errorf("%s: %s of shape %v, want %s %v", path, got.DType, got.Shape, w.DType, w.Shape)
					}
					if key := name + "::" + path; truth.Has(key) {
						v, err := truth.Array(key)
						if err != nil {
							t.Fatal(err)
						}
						if !bytes.Equal(v.Data, got.Data) {
							t.Errorf("%s: other values", path)
						}
					}
				}
			}
			if err != nil && !strings.Contains(err.Error(), path) {
				t.Errorf("%q does not name the file", err)
			}

			states, err := readBack(t, path, Open)
			if want.StateDict == nil {
				// A list, or a dictionary that is not said to be one of weights.
				if want.Expected == "error" && err == nil {
					t.Error("Open: no error")
				}
				return
			}
			if err != nil {
				if want.Expected == "ok" && !want.Optional {
					t.Fatal(err)
				}
				return
			}
			if len(states) != len(want.StateDict) {
				t.Errorf("state dict of %d tensors, want %d", len(states), len(want.StateDict))
			}
			for name, path := range want.StateDict {
				a, b := states[name], all[path]
				if a.DType != b.DType || !slices.Equal(a.Shape, b.Shape) || !bytes.Equal(a.Data, b.Data) || a.DType == "" {
					t.Errorf("state dict: %s is not %s", name, path)
				}
			}
		})
	}
	if left, err := os.ReadDir(scratch); err != nil || len(left) > 0 {
		t.Errorf("a file of the fixtures was run: %v, %v", left, err)
	}
}

// readBack opens a file and reads every tensor of it.
func readBack(t *testing.T, path string, open func(string) (*File, error)) (map[string]Array, error) {
	t.Helper()
	f, err := open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	out := map[string]Array{}
	for _, name := range f.Names() {
		a, err := f.Array(name)
		if err != nil {
			return nil, err
		}
		out[name] = a
	}
	return out, nil
}

// Files that call something are refused, and the error says what.
func TestRefusedByName(t *testing.T) {
	for file, name := range map[string]string{
		"evil_legacy_os_system.pt":    "posix.system",
		"evil_zip_os_system.pt":       "posix.system",
		"evil_zip_builtins_eval.pt":   "builtins.eval",
		"evil_zip_getattr_chain.pt":   "builtins.getattr",
		"evil_zip_stack_global_p4.pt": "posix.system",
		"evil_inst_opcode.pt":         "os.system",
	} {
		path := filepath.Join("..", "testdata", "fixtures", "torchzip", file)
		_, err := Open(path)
		var refused *pickle.ForbiddenError
		if !errors.As(err, &refused) || refused.Global.String() != name {
			t.Errorf("%s: %v, want %s refused", file, err, name)
		}
	}
	for file, part := range map[string]string{
		"whole_module.pt":       "whole torch.nn.modules.linear.Linear object",
		"text.pt":               "Git LFS",
		"zero.pt":               "empty",
		"list_top.pt":           "a list where a state dict belongs",
		"missing_record.pt":     "data/1 is missing",
		"no_data_pkl.pt":        "without data.pkl",
		"truncated_legacy.pt":   "truncated",
		"truncated_zip_half.pt": "truncated",
		"sparse.pt":             "sparse",
	} {
		_, err := Open(filepath.Join("..", "testdata", "fixtures", "torchzip", file))
		wantError(t, err, file, part)
	}
	f, err := Open(filepath.Join("..", "testdata", "fixtures", "torchzip", "bitflip_record.pt"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, err = f.Array(f.Names()[0])
	wantError(t, err, "bitflip_record.pt", "data/0", "checksum")
}

// The original's checkpoints hold the tensors of the safetensors file.
func TestTorchParity(t *testing.T) {
	want, err := readBack(t, filepath.Join(parity, "pretrain_rel", "weights_after.safetensors"), Open)
	if err != nil {
		t.Fatal(err)
	}
	for file, format := range map[string]Format{"after.pt": TorchZip, "after_deepspeed_legacy.pt": TorchLegacy} {
		f, err := Open(filepath.Join(parity, "pretrain_rel", file))
		if err != nil {
			t.Fatal(err)
		}
		if f.Format() != format {
			t.Errorf("%s: format %q", file, f.Format())
		}
		n := 0
		for _, name := range f.Names() {
			got, err := f.Array(name)
			if err != nil {
				t.Fatal(err)
			}
			if name == "text_embeddings.position_ids" {
				continue
			}
			n++
			if w := want[name]; w.DType != got.DType || !slices.Equal(w.Shape, got.Shape) || !bytes.Equal(w.Data, got.Data) {
				t.Errorf("%s: %s differs", file, name)
			}
		}
		if n != len(want) {
			t.Errorf("%s: %d tensors, want %d", file, n, len(want))
		}
		f.Close()
	}
}
