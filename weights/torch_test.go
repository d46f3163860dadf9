package weights

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
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

// TestSafetensorsFixtures reads what the safetensors package wrote, whole and in
// shards.
func TestSafetensorsFixtures(t *testing.T) {
	dir := fixtures(t, "safetensors")
	text, err := os.ReadFile(filepath.Join(dir, "expected.json"))
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("the fixtures have no safetensors")
	}
	if err != nil {
		t.Fatal(err)
	}
	var want map[string]struct {
		DType  string
		Shape  []int
		SHA256 string
	}
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"whole.safetensors", "sharded", "sharded/model.safetensors.index.json"} {
		got, err := readBack(t, filepath.Join(dir, filepath.FromSlash(name)), Open)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != len(want) || len(want) == 0 {
			t.Errorf("%s: %d tensors, want %d", name, len(got), len(want))
		}
		for key, w := range want {
			if g := got[key]; g.DType != w.DType || !slices.Equal(g.Shape, w.Shape) || fmt.Sprintf("%x", sha256.Sum256(g.Data)) != w.SHA256 {
				t.Errorf("%s: %s is %s %v, want %s %v, or other values", name, key, g.DType, g.Shape, w.DType, w.Shape)
			}
		}
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

// What WriteTorch writes comes back, aligned for a memory map.
func TestWriteTorch(t *testing.T) {
	arrays := torchArrays()
	path := filepath.Join(t.TempDir(), "w.pt")
	if err := WriteTorch(path, arrays); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if len(f.Names()) != len(arrays) || f.Format() != TorchZip {
		t.Errorf("%d tensors, format %s", len(f.Names()), f.Format())
	}
	for i, name := range f.Names() {
		w := arrays[i]
		got, err := f.Array(name)
		if err != nil {
			t.Fatal(err)
		}
		data, err := w.load()
		if err != nil {
			t.Fatal(err)
		}
		if name != w.Name || got.DType != w.DType || !slices.Equal(got.Shape, w.Shape) || !bytes.Equal(got.Data, data) {
			t.Errorf("%s: %s %v, want %s %s %v", name, got.DType, got.Shape, w.Name, w.DType, w.Shape)
		}
		if at := f.entries[name].record.base; at%torchAlign != 0 {
			t.Errorf("%s lies at byte %d", name, at)
		}
	}

	u8 := func(name string) Array { return Array{Name: name, DType: "U8", Shape: []int{1}, Data: []byte{1}} }
	failed := errors.New("no bytes today")
	for _, c := range []struct {
		arrays []Array
		want   string
	}{
		{[]Array{u8("a"), u8("a")}, "given twice"},
		{[]Array{{Name: "a", DType: "F8_E5M2", Shape: []int{1}, Data: []byte{1}}}, "F8_E5M2"},
		{[]Array{{Name: "a", DType: "F32", Shape: []int{1}, Data: []byte{1}}}, "1 bytes do not fit"},
		{[]Array{{Name: "a", DType: "F32", Shape: []int{1}, Load: func() ([]byte, error) { return nil, failed }}}, failed.Error()},
	} {
		wantError(t, WriteTorch(path, c.arrays), path, c.want)
		wantError(t, Write(filepath.Join(t.TempDir(), "x"), append(c.arrays, u8("a")), nil), `"a"`)
	}
	if f, err := Open(path); err != nil || len(f.Names()) != len(arrays) {
		t.Errorf("a failed write left %v", err)
	} else {
		f.Close()
	}
}

// torchArrays has every dtype that torch files hold, and odd shapes and names.
func torchArrays() []Array {
	arrays := []Array{
		Of("text.weight", []int{2, 3}, []float32{1, -2, 3.5, 0, 1e-40, 6}),
		Of("scalar", nil, []float64{3}),
		Of("empty", []int{0, 4}, []int64(nil)),
		Of("größe", []int{1, 1, 3}, []int32{1, -2, 3}),
		{Name: "lazy", DType: "I64", Shape: []int{2}, Load: func() ([]byte, error) { return []byte("0123456789abcdef"), nil }},
	}
	for dtype := range storageClass {
		n := 5 * int(dtypeSize[dtype])
		data := make([]byte, n)
		for i := range data {
			data[i] = byte(i*37) & 0x3f
			if dtype == "BOOL" {
				data[i] &= 1
			}
		}
		arrays = append(arrays, Array{Name: "all." + dtype, DType: dtype, Shape: []int{5}, Data: data})
	}
	return arrays
}

// torchPython returns a Python that has torch, from PYTHON_TORCH.
func torchPython(t *testing.T) string {
	t.Helper()
	python := os.Getenv("PYTHON_TORCH")
	if python == "" {
		t.Skip("PYTHON_TORCH names no Python with torch")
	}
	return python
}

// PyTorch reads what we write and we read what it writes, to the bit.
func TestPyTorch(t *testing.T) {
	python := torchPython(t)
	script := filepath.Join("..", "scripts", "torch_check.py")
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(python, append([]string{script}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	dir := t.TempDir()
	pt, st := filepath.Join(dir, "ours.pt"), filepath.Join(dir, "ours.safetensors")
	if err := WriteTorch(pt, torchArrays()); err != nil {
		t.Fatal(err)
	}
	if err := Write(st, torchArrays(), nil); err != nil {
		t.Fatal(err)
	}
	run("read", pt, st)
	run("read", pt, st, "mmap")

	seed := rand.Uint32()
	t.Logf("seed %d", seed)
	run("write", dir, fmt.Sprint(seed))
	for _, name := range []string{"zip2", "zip4", "legacy2", "legacy4", "module"} {
		got, err := readBack(t, filepath.Join(dir, name+".pt"), Open)
		if err != nil {
			t.Fatal(err)
		}
		want, err := readBack(t, filepath.Join(dir, name+".safetensors"), Open)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != len(want) {
			t.Errorf("%s: %d tensors, want %d", name, len(got), len(want))
		}
		for key, w := range want {
			if g := got[key]; g.DType != w.DType || !slices.Equal(g.Shape, w.Shape) || !bytes.Equal(g.Data, w.Data) {
				t.Errorf("%s: %s is %s %v, want %s %v, or other values", name, key, g.DType, g.Shape, w.DType, w.Shape)
			}
		}
	}
}

// Encode rounds as float64 arithmetic does: to the nearer of two neighbours,
// in a tie to the one with an even pattern.
func TestEncode(t *testing.T) {
	decode := map[string]func(uint16) float64{
		"F16":  func(h uint16) float64 { return float64(half(h)) },
		"BF16": func(h uint16) float64 { return float64(math.Float32frombits(uint32(h) << 16)) },
	}
	last := map[string]uint16{"F16": 0x7bff, "BF16": 0x7f7f}
	for dtype, at := range decode {
		for h := range last[dtype] {
			lo, hi := at(h), at(h+1)
			even := lo
			if h%2 == 1 {
				even = hi
			}
			mid := (lo + hi) / 2
			values := []float32{float32(lo), -float32(lo), float32(mid), -float32(mid)}
			want := []float64{lo, -lo, even, -even}
			if float64(float32(mid)) != mid { // below float32's own spacing
				values, want = values[:2], want[:2]
			} else if dtype == "F16" || mid > 1e-30 {
				below, above := math.Nextafter32(float32(mid), 0), math.Nextafter32(float32(mid), float32(math.Inf(1)))
				values, want = append(values, below, above), append(want, lo, hi)
			}
			b, err := Encode(dtype, values)
			if err != nil {
				t.Fatal(err)
			}
			for i, w := range want {
				if got := at(uint16(b[2*i]) | uint16(b[2*i+1])<<8); got != w || math.Signbit(got) != math.Signbit(w) {
					t.Fatalf("%s: %v becomes %v, want %v", dtype, values[i], got, w)
				}
			}
		}
		inf := float32(math.Inf(1))
		b, err := Encode(dtype, []float32{inf, -inf, float32(math.NaN())})
		if err != nil {
			t.Fatal(err)
		}
		if g := at(uint16(b[0]) | uint16(b[1])<<8); g != math.Inf(1) {
			t.Errorf("%s: +Inf becomes %v", dtype, g)
		}
		if g := at(uint16(b[4]) | uint16(b[5])<<8); !math.IsNaN(g) {
			t.Errorf("%s: NaN becomes %v", dtype, g)
		}
		_, err = Encode(dtype, []float32{1, math.MaxFloat32})
		wantError(t, err, "element 1", dtype)
	}
	if b, err := Encode("F16", []float32{65519.996}); err != nil || half(uint16(b[0])|uint16(b[1])<<8) != 65504 {
		t.Errorf("65519.996 in F16: %v, %v", b, err)
	}
	_, err := Encode("F16", []float32{65520})
	wantError(t, err, "65520")
	_, err = Encode("I8", nil)
	wantError(t, err, "I8")
}

// Shards are found through their index, by its path or its folder's.
func TestShards(t *testing.T) {
	one := []Array{Of("a", []int{2}, []float32{1, 2}), Of("b", nil, []int64{3})}
	two := []Array{Of("c", []int{1, 1}, []float32{4})}
	write := func(t *testing.T, dir, name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, kind := range []struct {
		index, ext string
		write      func(string, []Array) error
	}{
		{"model.safetensors.index.json", ".safetensors", func(p string, a []Array) error { return Write(p, a, nil) }},
		{"pytorch_model.bin.index.json", ".bin", WriteTorch},
	} {
		dir := t.TempDir()
		for i, arrays := range [][]Array{one, two} {
			if err := kind.write(filepath.Join(dir, fmt.Sprint(i, kind.ext)), arrays); err != nil {
				t.Fatal(err)
			}
		}
		write(t, dir, kind.index, fmt.Sprintf(`{"metadata":{"total_size":20},"weight_map":{"a":"0%[1]s","b":"0%[1]s","c":"1%[1]s"}}`, kind.ext))
		for _, path := range []string{dir, filepath.Join(dir, kind.index)} {
			got, err := readBack(t, path, Open)
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != 3 {
				t.Errorf("%s: %d tensors", path, len(got))
			}
			for _, w := range slices.Concat(one, two) {
				if g := got[w.Name]; g.DType != w.DType || !slices.Equal(g.Shape, w.Shape) || !bytes.Equal(g.Data, w.Data) {
					t.Errorf("%s: %s differs", path, w.Name)
				}
			}
		}
		for _, c := range []struct{ index, want string }{
			{`{"weight_map":{"a":"1` + kind.ext + `"}}`, `tensor "a" is not in shard 1`},
			{`{"weight_map":{"a":"../x"}}`, "not a plain file name"},
			{`{"weight_map":{"a":".."}}`, "not a plain file name"},
			{`{"weight_map":{"a":"none"}}`, "none"},
			{`{"weight_map":{}}`, "weight_map"},
			{`{`, "not an index"},
		} {
			write(t, dir, kind.index, c.index)
			_, err := Open(filepath.Join(dir, kind.index))
			wantError(t, err, kind.index, c.want)
		}
	}
	_, err := Open(t.TempDir())
	wantError(t, err, "pytorch_model.bin")
}

// legacy returns a legacy file of an object and one storage, "0", of 64 zero
// bytes.
func legacy(object string) []byte {
	s := "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19." + "\x80\x02M\xe9\x03." + "\x80\x02}U\x0dlittle_endian\x88s." + object +
		"\x80\x02](U\x010e." + "\x10\x00\x00\x00\x00\x00\x00\x00"
	return append([]byte(s), make([]byte, 64)...)
}

// A legacy file names a module's class together with its source, and a view of
// a storage by key, offset and length.
func TestLegacyForms(t *testing.T) {
	w := string(view(16, 3, []int64{2, 5}, []int64{5, 1}))
	module := func(class string) string {
		return "\x80\x02(U\x06modulec" + class + "\nU\x07file.pyU\x06sourcetQ)\x81}(U\x0b_parameters}U\x01w" + w + "sU\x08_modules}U\x03subNsub."
	}
	open := func(data []byte) (*File, error) { return read("l", bytes.NewReader(data), int64(len(data)), stateDict) }
	f, err := open(legacy(module("dall_e.encoder\nEncoder")))
	if err != nil {
		t.Fatal(err)
	}
	if a, err := f.Array("w"); err != nil || !slices.Equal(a.Shape, []int{2, 5}) || len(a.Data) != 40 {
		t.Errorf("%v, %v", a, err)
	}
	_, err = open(legacy(module("my.net\nNet")))
	wantError(t, err, "whole my.net.Net object")

	// The storage's tuple ends with the view: elements 4 to 10.
	viewed := strings.Replace(w, "tQ", "(U\x04viewK\x04K\x06ttQ", 1)
	viewed = strings.Replace(viewed, "\x8a\x08\x03", "\x8a\x08\x01", 1)
	viewed = strings.Replace(viewed, "\x8a\x08\x02", "\x8a\x08\x01", 1)
	object := "\x80\x02}U\x01w" + viewed + "s."
	data := legacy(object)
	data[len(data)-64+4*(4+1)] = 7 // the first element of the tensor, at 1 of the view
	if f, err = open(data); err != nil {
		t.Fatal(err)
	}
	if a, err := f.Array("w"); err != nil || len(a.Data) != 20 || a.Data[0] != 7 {
		t.Errorf("%v, %v", a, err)
	}
	for _, cut := range []int{1, 64, 65, 72} {
		_, err := open(data[:len(data)-cut])
		wantError(t, err, "l: ", "truncated")
	}
}
