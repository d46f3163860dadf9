package weights

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const parity = "../testdata/parity"

// rawHeader reads a header with the general JSON decoder, as a second opinion.
func rawHeader(t *testing.T, b []byte) (map[string]any, []byte) {
	t.Helper()
	n := binary.LittleEndian.Uint64(b)
	var h map[string]any
	if err := json.Unmarshal(b[8:8+n], &h); err != nil {
		t.Fatal(err)
	}
	return h, b[8+n:]
}

func TestParityFiles(t *testing.T) {
	paths, err := filepath.Glob(parity + "/*/*.safetensors")
	if err != nil || len(paths) < 30 {
		t.Fatalf("%d files under %s, err %v", len(paths), parity, err)
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		header, data := rawHeader(t, b)
		f, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if len(f.Names()) != len(header) {
			t.Errorf("%s: %d names, header has %d", path, len(f.Names()), len(header))
		}
		last := -1.0
		var arrays []Array
		for _, name := range f.Names() {
			want := header[name].(map[string]any)
			off := want["data_offsets"].([]any)
			begin, end := off[0].(float64), off[1].(float64)
			if begin < last {
				t.Errorf("%s: %s out of file order", path, name)
			}
			last = begin
			a, err := f.Array(name)
			if err != nil {
				t.Fatal(err)
			}
			raw := data[int(begin):int(end)]
			if a.DType != want["dtype"] || fmt.Sprint(a.Shape) != fmt.Sprint(want["shape"]) || !bytes.Equal(a.Data, raw) {
				t.Errorf("%s: %s differs from the file's bytes", path, name)
			}
			arrays = append(arrays, a)
			switch a.DType {
			case "F32":
				v, shape, err := f.Float32(name)
				if err != nil || !slices.Equal(shape, a.Shape) {
					t.Fatalf("%s: %s: shape %v, err %v", path, name, shape, err)
				}
				for i := range v {
					if math.Float32bits(v[i]) != binary.LittleEndian.Uint32(raw[4*i:]) {
						t.Fatalf("%s: %s[%d] = %v", path, name, i, v[i])
					}
				}
			case "I64":
				v, _, err := f.Int64(name)
				w, _, err32 := f.Int32(name)
				if err != nil || err32 != nil {
					t.Fatal(err, err32)
				}
				for i := range v {
					if uint64(v[i]) != binary.LittleEndian.Uint64(raw[8*i:]) || int64(w[i]) != v[i] {
						t.Fatalf("%s: %s[%d] = %v, %v", path, name, i, v[i], w[i])
					}
				}
			}
		}
		f.Close()
		sameAfterWrite(t, arrays, map[string]string{"format": "pt"})
	}
}

// sameAfterWrite writes arrays and reads them back.
func sameAfterWrite(t *testing.T, arrays []Array, metadata map[string]string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a.safetensors")
	if err := Write(path, arrays, metadata); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for name, e := range f.entries {
		if e.record.base%8 != 0 {
			t.Errorf("data of %q starts at byte %d", name, e.record.base)
		}
	}
	if len(f.Metadata) != len(metadata) || (f.Metadata == nil) != (metadata == nil) {
		t.Errorf("metadata %v, want %v", f.Metadata, metadata)
	}
	for k, v := range metadata {
		if f.Metadata[k] != v {
			t.Errorf("metadata %q = %q, want %q", k, f.Metadata[k], v)
		}
	}
	if len(f.Names()) != len(arrays) {
		t.Fatalf("%d names, want %d", len(f.Names()), len(arrays))
	}
	for _, want := range arrays {
		got, err := f.Array(want.Name)
		if err != nil {
			t.Fatal(err)
		}
		if got.DType != want.DType || !slices.Equal(got.Shape, want.Shape) || !bytes.Equal(got.Data, want.Data) {
			t.Errorf("%q: got %s %v, want %s %v, or other bytes", want.Name, got.DType, got.Shape, want.DType, want.Shape)
		}
		if e := f.entries[want.Name]; e.begin%max(1, dtypeSize[want.DType]) != 0 {
			t.Errorf("%q (%s) at byte %d is not aligned", want.Name, want.DType, e.begin)
		}
	}
	left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".*"))
	if len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// The parity file's loss and the JSON beside it were written by different code.
func TestLossAgainstCase(t *testing.T) {
	f, err := Open(parity + "/pretrain_rel/outputs.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	v, shape, err := f.Float32("loss.total")
	if err != nil || len(v) != 1 || !slices.Equal(shape, []int{1}) {
		t.Fatalf("loss.total: %v %v %v", v, shape, err)
	}
	b, err := os.ReadFile(parity + "/pretrain_rel/case.json")
	if err != nil {
		t.Fatal(err)
	}
	var c struct{ Total float64 }
	if err := json.Unmarshal(b, &c); err != nil {
		t.Fatal(err)
	}
	if v[0] != float32(c.Total) {
		t.Errorf("loss.total = %v, case.json says %v", v[0], c.Total)
	}
}

func TestRoundTrip(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	names := []string{"a", "weird \"<name>\" \\ \n ü", "b.c.d", "", "z", "dim0", "K"}
	dtypes := []string{"U8", "F32", "BF16", "BOOL", "I64", "F16", "F64"}
	for range 20 {
		var arrays []Array
		for i, name := range names {
			shape := make([]int, r.IntN(4))
			n := dtypeSize[dtypes[i]]
			for j := range shape {
				shape[j] = r.IntN(6)
				n *= int64(shape[j])
			}
			data := make([]byte, n)
			for j := range data {
				data[j] = byte(r.Uint32())
			}
			arrays = append(arrays, Array{Name: name, DType: dtypes[i], Shape: shape, Data: data})
		}
		r.Shuffle(len(arrays), func(i, j int) { arrays[i], arrays[j] = arrays[j], arrays[i] })
		sameAfterWrite(t, arrays, map[string]string{"<k>": "v\u2028&", "": ""})
	}
	sameAfterWrite(t, nil, nil)
}

func TestOf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "of")
	err := Write(path, []Array{
		Of("f", []int{2}, []float32{1.5, -2}),
		Of("d", nil, []float64{math.Pi}),
		Of("i", []int{1, 3}, []int64{-1, 1 << 40, 7}),
		Of("u", []int{0}, []uint64(nil)),
		Of("s", []int{2}, []int16{-3, 300}),
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if v, _, err := f.Float32("f"); err != nil || !slices.Equal(v, []float32{1.5, -2}) {
		t.Error(v, err)
	}
	if v, _, err := f.Float32("d"); err != nil || v[0] != float32(math.Pi) {
		t.Error(v, err)
	}
	if v, s, err := f.Int64("i"); err != nil || !slices.Equal(v, []int64{-1, 1 << 40, 7}) || !slices.Equal(s, []int{1, 3}) {
		t.Error(v, err)
	}
	if v, _, err := f.Int32("u"); err != nil || len(v) != 0 {
		t.Error(v, err)
	}
	if v, _, err := f.Int32("s"); err != nil || !slices.Equal(v, []int32{-3, 300}) {
		t.Error(v, err)
	}
	_, _, err = f.Int32("i")
	wantError(t, err, path, `"i"`, "element 1 is 1099511627776")
	_, _, err = f.Int32("f")
	wantError(t, err, path, `"f" is F32, not an integer type`)
	_, _, err = f.Float32("i")
	wantError(t, err, path, `"i" is I64`)
	_, err = f.Array("nope")
	wantError(t, err, path, `no tensor "nope"`)
}

// Every 16-bit pattern of F16 and BF16 against the definition in float64.
func TestHalves(t *testing.T) {
	all := make([]byte, 1<<17)
	for i := range 1 << 16 {
		binary.LittleEndian.PutUint16(all[2*i:], uint16(i))
	}
	path := filepath.Join(t.TempDir(), "h")
	shape := []int{1 << 16}
	if err := Write(path, []Array{{Name: "F16", DType: "F16", Shape: shape, Data: all}, {Name: "BF16", DType: "BF16", Shape: shape, Data: all}}, nil); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, c := range []struct {
		name            string
		expBits, frBits int
	}{{"F16", 5, 10}, {"BF16", 8, 7}} {
		v, _, err := f.Float32(c.name)
		if err != nil {
			t.Fatal(err)
		}
		for i, got := range v {
			exp := i >> c.frBits & (1<<c.expBits - 1)
			frac := float64(i&(1<<c.frBits-1)) / float64(int(1)<<c.frBits)
			bias := 1<<(c.expBits-1) - 1
			var want float64
			switch {
			case exp == 0:
				want = math.Ldexp(frac, 1-bias)
			case exp == 1<<c.expBits-1 && frac != 0:
				want = math.NaN()
			case exp == 1<<c.expBits-1:
				want = math.Inf(1)
			default:
				want = math.Ldexp(1+frac, exp-bias)
			}
			if i>>15 == 1 {
				want = -want
			}
			if math.IsNaN(want) && math.IsNaN(float64(got)) {
				continue
			}
			if float64(got) != want || math.Signbit(float64(got)) != math.Signbit(want) {
				t.Fatalf("%s %#04x = %v, want %v", c.name, i, got, want)
			}
		}
	}
}

func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want %q", parts)
		return
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q lacks %q", err, p)
		}
	}
}

// pack puts a header in front of n data bytes.
func pack(header string, n int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), make([]byte, n)...)
}

func TestBadFiles(t *testing.T) {
	one := func(body string) string { return `{"w":{` + body + `}}` }
	good := one(`"dtype":"F32","shape":[2],"data_offsets":[0,8]`)
	two := func(a, b string) string {
		return `{"a":{"dtype":"U8","shape":[4],"data_offsets":` + a + `},"b":{"dtype":"U8","shape":[4],"data_offsets":` + b + `}}`
	}
	long := pack(good, 8)
	binary.LittleEndian.PutUint64(long, 1<<62)
	past := pack(good, 0)
	binary.LittleEndian.PutUint64(past, 5000)
	for _, c := range []struct {
		name string
		file []byte
		want []string
	}{
		{"empty", nil, []string{"0 bytes are too few"}},
		{"huge", long, []string{"exceeds the format's limit"}},
		{"past", past, []string{"header of 5000 bytes goes past the end"}},
		{"text", pack("hello", 0), []string{"does not start with '{'"}},
		{"utf8", pack("{\"\xff\":1}", 0), []string{"UTF-8"}},
		{"cut JSON", pack(good[:len(good)-2], 8), []string{`"w"`, "unexpected EOF"}},
		{"second value", pack(good+"{}", 8), []string{"more than one JSON value"}},
		{"truncated", pack(good, 7), []string{`"w"`, "ends at byte 8", "only 7", "truncated"}},
		{"longer", pack(good, 9), []string{"1 bytes after the last tensor"}},
		{"dtype", pack(one(`"dtype":"F33","shape":[2],"data_offsets":[0,8]`), 8), []string{`"w"`, `unknown dtype "F33"`, "BF16"}},
		{"dtype case", pack(one(`"dtype":"f32","shape":[2],"data_offsets":[0,8]`), 8), []string{`unknown dtype "f32"`}},
		{"shape", pack(one(`"dtype":"F32","shape":[3],"data_offsets":[0,8]`), 8), []string{`"w"`, "shape [3]", "takes 12"}},
		{"negative", pack(one(`"dtype":"F32","shape":[-1,-2],"data_offsets":[0,8]`), 8), []string{`"w": shape: -1`}},
		{"fraction", pack(one(`"dtype":"F32","shape":[2.0],"data_offsets":[0,8]`), 8), []string{"2.0 is not a non-negative integer"}},
		{"overflow", pack(one(`"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]`), 0), []string{"too large"}},
		{"backwards", pack(one(`"dtype":"F32","shape":[0],"data_offsets":[8,0]`), 8), []string{"bytes 8 … 0 do not fit"}},
		{"three offsets", pack(one(`"dtype":"F32","shape":[2],"data_offsets":[0,4,8]`), 8), []string{"3 numbers"}},
		{"no shape", pack(one(`"dtype":"F32","data_offsets":[0,8]`), 8), []string{`"w": shape is missing`}},
		{"unknown key", pack(one(`"DType":"F32","shape":[2],"data_offsets":[0,8]`), 8), []string{`unknown key "DType"`}},
		{"twice key", pack(one(`"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]`), 8), []string{`"dtype" appears twice`}},
		{"twice", pack(`{"w":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"\u0077":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}`, 0), []string{`tensor "w" appears twice`}},
		{"overlap", pack(two("[0,4]", "[3,7]"), 7), []string{`"b" at bytes 3 … 7 overlaps "a"`}},
		{"same range", pack(two("[0,4]", "[0,4]"), 4), []string{`"b"`, `overlaps "a"`}},
		{"hole", pack(two("[0,4]", "[5,9]"), 9), []string{`bytes 4 … 5 before tensor "b"`}},
		{"metadata", pack(`{"__metadata__":{"a":1}}`, 0), []string{`__metadata__: key "a": 1 where a string belongs`}},
		{"metadata twice", pack(`{"__metadata__":{},"__metadata__":{}}`, 0), []string{"appears twice"}},
	} {
		path := filepath.Join(t.TempDir(), "bad.safetensors")
		if err := os.WriteFile(path, c.file, 0o644); err != nil {
			t.Fatal(err)
		}
		f, err := Open(path)
		if err == nil {
			f.Close()
			t.Errorf("%s: no error", c.name)
			continue
		}
		wantError(t, err, append(c.want, path)...)
	}
	// The cases above differ from this one, which is legal.
	if _, err := read("good", bytes.NewReader(pack(good, 8)), int64(len(good)+16), stateDict); err != nil {
		t.Error(err)
	}
	_, err := Open(t.TempDir())
	wantError(t, err, "not a regular file")
}

// A file cut after it was opened reports the tensor it can no longer read.
func TestShrinks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "w")
	if err := Write(path, []Array{Of("x", []int{4}, []float32{1, 2, 3, 4}), Of("y", []int{4}, []int32{1, 2, 3, 4})}, nil); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.Truncate(path, f.entries["x"].record.base+24); err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.Float32("x"); err != nil {
		t.Error(err)
	}
	_, _, err = f.Int32("y")
	wantError(t, err, path, `"y"`, "byte 8 of 16", "unexpected EOF")
}

func TestBadWrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "w")
	if err := os.WriteFile(path, []byte("before"), 0o644); err != nil {
		t.Fatal(err)
	}
	u8 := func(name string) Array { return Array{Name: name, DType: "U8", Shape: []int{1}, Data: []byte{1}} }
	for _, c := range []struct {
		arrays []Array
		want   string
	}{
		{[]Array{u8("a"), u8("a")}, `"a" is given twice`},
		{[]Array{u8("__metadata__")}, "reserved"},
		{[]Array{u8("\xff")}, "UTF-8"},
		{[]Array{{Name: "a", DType: "Q8"}}, `"a": unknown dtype "Q8"`},
		{[]Array{{Name: "a", DType: "F32", Shape: []int{2, 3}, Data: make([]byte, 23)}}, "23 bytes do not fit F32 of shape [2×3], which takes 24"},
		{[]Array{{Name: "a", DType: "F32", Shape: []int{-2, -3}, Data: make([]byte, 24)}}, "negative"},
	} {
		wantError(t, Write(path, c.arrays, nil), path, c.want)
	}
	if b, _ := os.ReadFile(path); string(b) != "before" {
		t.Errorf("a failed write left %q", b)
	}
	wantError(t, Write(filepath.Join(path, "sub"), nil, nil), path)
}

// FuzzRead holds any accepted file to its promises: tensors tile the data, all
// can be read, and writing them gives a file that reads the same.
func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"__metadata__":{"a":"b"}} `), 8)
	f.Add([]byte(`{"a":{"dtype":"BF16","shape":[],"data_offsets":[0,2]},"b":{"dtype":"BOOL","shape":[0,3],"data_offsets":[2,2]}}`), 2)
	f.Add([]byte(`{"a":{"dtype":"I8","shape":[99999999999,99999999999],"data_offsets":[0,2]}}`), 2)
	f.Add([]byte(`{"a":{"dtype":"I8","shape":[[`), 0)
	f.Fuzz(func(t *testing.T, header []byte, n int) {
		if n < 0 || n > 1<<12 {
			return
		}
		b := pack(string(header), n)
		file, err := readSafetensors("fuzz", bytes.NewReader(b), int64(len(b)))
		if err != nil {
			if !strings.HasPrefix(err.Error(), "fuzz: ") {
				t.Errorf("%q does not name the file", err)
			}
			return
		}
		total := 0
		var arrays []Array
		for _, name := range file.Names() {
			a, err := file.Array(name)
			if err != nil {
				t.Fatal(err)
			}
			total += len(a.Data)
			arrays = append(arrays, a)
		}
		if total != n {
			t.Errorf("tensors have %d bytes, the file %d", total, n)
		}
		out, err := encodeHeader(arrays, file.Metadata)
		if err != nil {
			t.Fatal(err)
		}
		again, err := readSafetensors("again", bytes.NewReader(pack(string(out), n)), int64(8+len(out)+n))
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if len(again.entries) != len(file.entries) {
			t.Errorf("%d tensors became %d", len(file.entries), len(again.entries))
		}
		for name, e := range file.entries {
			if g := again.entries[name]; g.dtype != e.dtype || !slices.Equal(g.shape, e.shape) {
				t.Errorf("%q: %v became %v", name, e, g)
			}
		}
	})
}
