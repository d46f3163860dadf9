package weights

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"runtime/metrics"
	"strings"
	"testing"

	"vlmo-train/weights/pickle"
)

// allocated runs f and returns the bytes that it allocated, garbage included;
// small ones count by the span. It does not stop the world, as
// runtime.ReadMemStats does, which would be most of a fuzzer's time. The count
// is the process's, so that a figure above limit is taken again: what others
// allocated is not there each time.
func allocated(limit uint64, f func()) (got uint64) {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	for range 3 {
		metrics.Read(s)
		before := s[0].Value.Uint64()
		f()
		metrics.Read(s)
		if got = s[0].Value.Uint64() - before; got <= limit {
			break
		}
	}
	return got
}

// allowance is what reading a file of n bytes may allocate: the pickle's
// share, the tensors' and what any file takes. A zip file's directory and
// names cost as much as a pickle at most.
func allowance(n int) uint64 { return 1<<20 + uint64(n)*(2*pickle.MaxGrowth+4*maxExpansion) }

// readAll opens a file in memory as Open and OpenAll would, and reads every
// tensor in all ways.
func readAll(t *testing.T, data []byte) {
	for _, sel := range []selection{stateDict, everything} {
		var f *File
		var err error
		limit := allowance(len(data))
		if got := allocated(limit, func() { f, err = read("fuzz", bytes.NewReader(data), int64(len(data)), sel) }); got > limit {
			t.Errorf("opening %d bytes allocated %d", len(data), got)
		}
		if err != nil {
			if !strings.HasPrefix(err.Error(), "fuzz: ") {
				t.Errorf("%q does not name the file", err)
			}
			continue
		}
		var total uint64
		limit += uint64(len(f.Names())) * uint64(len(data)+1<<16) * 4
		got := allocated(limit, func() {
			total = 0
			for _, name := range f.Names() {
				dtype, shape, err := f.Info(name)
				if err != nil {
					t.Fatal(err)
				}
				size, err := byteSize(dtype, shape)
				if err != nil {
					t.Fatalf("%q: %v", name, err)
				}
				a, err := f.Array(name)
				if err == nil && int64(len(a.Data)) != size {
					t.Errorf("%q: %d bytes, want %d", name, len(a.Data), size)
				}
				total += uint64(size)
			}
		})
		if total > maxExpansion*uint64(len(data)) {
			t.Errorf("the tensors of %d bytes take %d", len(data), total)
		}
		if got > limit {
			t.Errorf("reading %d bytes in %d tensors allocated %d", len(data), len(f.Names()), got)
		}
	}
}

// FuzzOpen reads anything as a file of weights: it must not panic, and not
// allocate more than its share.
func FuzzOpen(f *testing.F) {
	for _, pattern := range []string{"*.pt", "*.pth", "*.ckpt"} {
		paths, err := filepath.Glob(filepath.Join("..", "testdata", "fixtures", "torchzip", pattern))
		if err != nil {
			f.Fatal(err)
		}
		for _, path := range paths {
			data, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	for _, header := range []string{
		`{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"__metadata__":{"a":"b"}} `,
		`{"a":{"dtype":"BF16","shape":[],"data_offsets":[0,2]},"b":{"dtype":"BOOL","shape":[0,3],"data_offsets":[2,2]}}`,
	} {
		f.Add(pack(header, 8))
		f.Add(pack(header, 2))
	}
	f.Fuzz(readAll)
}

// zipOf returns a torch file of a pickle and storages of so many zero bytes.
func zipOf(t testing.TB, object []byte, method uint16, sizes ...int) []byte {
	t.Helper()
	var out bytes.Buffer
	z := zip.NewWriter(&out)
	write := func(name string, data []byte) {
		w, err := z.CreateHeader(&zip.FileHeader{Name: "a/" + name, Method: method})
		if err == nil {
			_, err = w.Write(data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	write("data.pkl", object)
	for i, n := range sizes {
		write("data/"+string(rune('0'+i)), make([]byte, n))
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// FuzzTorchPickle reads anything as the pickle of a torch file with two
// storages.
func FuzzTorchPickle(f *testing.F) {
	object, err := pickleArrays([]Array{Of("a", []int{2, 2}, make([]float32, 4)), Of("b", []int{4}, make([]int64, 4))})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(object)
	for _, s := range evilViews() {
		f.Add(s)
	}
	paths, err := filepath.Glob(filepath.Join("..", "testdata", "fixtures", "torchzip", "*"))
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range paths {
		z, err := zip.OpenReader(path)
		if err != nil {
			continue
		}
		for _, e := range z.File {
			if filepath.Base(e.Name) == "data.pkl" {
				data, err := readRecord(e, int64(e.UncompressedSize64))
				if err != nil {
					f.Fatal(err)
				}
				f.Add(data)
			}
		}
		z.Close()
	}
	f.Fuzz(func(t *testing.T, object []byte) { readAll(t, zipOf(t, object, zip.Store, 64, 64)) })
}

// view returns the pickle of a view of storage 0, of floats, as it is written
// in Python's protocol 2.
func view(count, offset int64, shape, strides []int64) []byte {
	var b []byte
	number := func(v int64) { b = binary.LittleEndian.AppendUint64(append(b, 0x8a, 8), uint64(v)) }
	tuple := func(v []int64) {
		b = append(b, '(')
		for _, x := range v {
			number(x)
		}
		b = append(b, 't')
	}
	b = append(b, "ctorch._utils\n_rebuild_tensor_v2\n((U\x07storagectorch\nFloatStorage\nU\x010U\x03cpu"...)
	number(count)
	b = append(b, "tQ"...)
	number(offset)
	tuple(shape)
	tuple(strides)
	return append(b, "\x89NtR"...)
}

// evilViews are state dicts whose tensors reach outside their storage, or are
// far larger than it.
func evilViews() [][]byte {
	const huge = 1 << 62
	var out [][]byte
	for _, v := range [][]byte{
		view(16, 0, []int64{17}, []int64{1}),
		view(16, 1, []int64{16}, []int64{1}),
		view(16, huge, []int64{1}, []int64{1}),
		view(16, 0, []int64{2, 2}, []int64{huge, huge}),
		view(16, 0, []int64{huge, huge}, []int64{0, 0}),
		view(16, 0, []int64{1 << 31, 1 << 20}, []int64{0, 0}),
		view(16, 0, []int64{3, huge}, []int64{huge, 1}),
		view(16, 0, []int64{-1}, []int64{1}),
		view(16, 0, []int64{2}, []int64{-1}),
		view(16, 15, []int64{2, 1}, []int64{1, 100}),
		view(huge, 0, []int64{1}, []int64{1}),
		view(17, 0, []int64{1}, []int64{1}),
		view(-1, 0, []int64{1}, []int64{1}),
		view(16, -1, []int64{1}, []int64{1}),
		view(16, 0, []int64{1}, []int64{1, 1}),
	} {
		out = append(out, append(append([]byte("\x80\x02}U\x01w"), v...), "s."...))
	}
	// Views of one storage, a thousand times.
	many := []byte("\x80\x02}(")
	one := view(16, 0, []int64{100}, []int64{0})
	for i := range 1000 {
		many = append(many, 'K', byte(i))
		many[len(many)-2] = 'M'
		many = append(many, byte(i>>8))
		many = append(append(many, "2"...), one...)
	}
	return append(out, append(many, "u."...))
}

// Tensors outside their storage are refused, whatever their numbers.
func TestViews(t *testing.T) {
	for i, object := range evilViews() {
		data := zipOf(t, object, zip.Store, 64)
		if _, err := read("evil", bytes.NewReader(data), int64(len(data)), stateDict); err == nil {
			t.Errorf("view %d was read", i)
		}
		readAll(t, data)
	}
	good := func(v []byte) []byte { return append(append([]byte("\x80\x02}U\x01w"), v...), "s."...) }
	for _, object := range [][]byte{
		good(view(16, 0, []int64{16}, []int64{1})),
		good(view(16, 15, []int64{1, 1}, []int64{1 << 40, 1 << 40})),
		good(view(16, 9, []int64{0, 5}, []int64{7, 7})),
		good(view(16, 15, []int64{40}, []int64{0})),
	} {
		data := zipOf(t, object, zip.Store, 64)
		f, err := read("good", bytes.NewReader(data), int64(len(data)), stateDict)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Array("w"); err != nil {
			t.Error(err)
		}
		readAll(t, data)
	}
	// A file that would expand beyond its share.
	data := zipOf(t, good(view(1<<20, 0, []int64{1 << 20}, []int64{1})), zip.Deflate, 4<<20)
	_, err := read("bomb", bytes.NewReader(data), int64(len(data)), stateDict)
	wantError(t, err, "bomb", "data/0", "expand")
}
