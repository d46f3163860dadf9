package conformance

import (
	"testing"
	"unsafe"

	"vlmo-train/kernels"
)

// testDevice tests everything of a Device but the ops.
func testDevice(t *testing.T, open func() (kernels.Device, error)) {
	fresh := func(t *testing.T) (kernels.Device, *kernels.Memory) {
		dev, err := open()
		if err != nil {
			t.Fatal(err)
		}
		m, err := dev.Alloc(256)
		if err != nil {
			t.Fatal(err)
		}
		return dev, m
	}

	t.Run("Alloc", func(t *testing.T) {
		dev, m := fresh(t)
		if dev.Name() == "" {
			t.Error("the device has no name")
		}
		for _, n := range []int{4, 64, 100, 4096, 1 << 20} {
			// Memory that comes back dirty is zero again when it is given out.
			for range 2 {
				m, err := dev.Alloc(n)
				if err != nil {
					t.Fatal(err)
				}
				if m.Bytes != n || m.Host != nil && len(m.Host) != n || (m.Host == nil) == (m.Addr == 0) {
					t.Fatalf("Alloc(%d) has %d bytes, %d of them in host memory, address %#x", n, m.Bytes, len(m.Host), m.Addr)
				}
				if m.Host != nil && uintptr(unsafe.Pointer(&m.Host[0]))%64 != 0 {
					t.Errorf("Alloc(%d) is not aligned to 64 bytes", n)
				}
				x := make([]int32, n/4)
				whole := kernels.Matrix(m, 0, kernels.I32, 1, len(x))
				dev.Read(x, whole)
				for i, v := range x {
					if v != 0 {
						t.Fatalf("word %d of new memory is %#x", i, v)
					}
				}
				for i := range x {
					x[i] = red
				}
				dev.Write(whole, x)
				if err := dev.Sync(); err != nil {
					t.Fatal(err)
				}
				dev.Free(m)
			}
		}
		dev.Free(m)
		if err := dev.Sync(); err != nil {
			t.Error(err)
		}
	})

	t.Run("Copy", func(t *testing.T) {
		dev, m := fresh(t)
		src := []float32{1, -2, 3.5, 4, 5, 6}
		dev.Write(kernels.Matrix(m, 12, kernels.F32, 2, 3), src)
		clear(src)
		dev.Write(kernels.Matrix(m, 40, kernels.I32, 1, 2), []int32{-7, 1 << 30})
		dev.Write(kernels.Matrix(m, 256, kernels.F32, 0, 3), []float32{})
		dev.Write(kernels.Matrix(m, 51, kernels.U8, 1, 3), []byte{7, 0, 255})
		var f [6]float32
		var i [3]int32
		dev.Read(f[:], kernels.Matrix(m, 12, kernels.F32, 1, 6))
		dev.Read(i[:], kernels.Matrix(m, 36, kernels.I32, 3, 1))
		b := make([]byte, 5)
		dev.Read(b, kernels.Matrix(m, 50, kernels.U8, 5, 1))
		if err := dev.Sync(); err != nil {
			t.Fatal(err)
		}
		if want := [6]float32{1, -2, 3.5, 4, 5, 6}; f != want {
			t.Errorf("read %v, want %v", f, want)
		}
		if want := [3]int32{0, -7, 1 << 30}; i != want {
			t.Errorf("read %v, want %v", i, want)
		}
		if want := [5]byte{0, 7, 0, 255, 0}; [5]byte(b) != want {
			t.Errorf("read %v, want %v", b, want)
		}
	})

	whole := func(m *kernels.Memory) kernels.Tensor { return kernels.Matrix(m, 0, kernels.F32, 1, 64) }
	for name, spoil := range map[string]func(kernels.Device, *kernels.Memory){
		"ill-formed op": func(d kernels.Device, m *kernels.Memory) {
			d.Run(&kernels.AddScaled{X: whole(m).Columns(0, 3), Y: whole(m).Columns(4, 8), Alpha: 1})
		},
		"view beyond memory": func(d kernels.Device, m *kernels.Memory) {
			d.Run(&kernels.Fill{Y: kernels.Matrix(m, 8, kernels.F32, 1, 64), Value: 1})
		},
		"write of another type": func(d kernels.Device, m *kernels.Memory) { d.Write(whole(m), make([]int32, 64)) },
		"short write":           func(d kernels.Device, m *kernels.Memory) { d.Write(whole(m), make([]float32, 63)) },
		"write of no numbers":   func(d kernels.Device, m *kernels.Memory) { d.Write(whole(m), "x") },
		"long read":             func(d kernels.Device, m *kernels.Memory) { d.Read(make([]float32, 65), whole(m)) },
		"read of gaps": func(d kernels.Device, m *kernels.Memory) {
			d.Read(make([]float32, 8), whole(m).Reshape(8, 8).Columns(0, 1))
		},
		"write beyond memory": func(d kernels.Device, m *kernels.Memory) {
			d.Write(kernels.Matrix(m, 8, kernels.F32, 1, 64), make([]float32, 64))
		},
	} {
		t.Run("sticky error after "+name, func(t *testing.T) {
			dev, m := fresh(t)
			spoil(dev, m)
			first := dev.Sync()
			if first == nil {
				t.Fatal("no error")
			}
			dev.Run(&kernels.Fill{Y: whole(m), Value: 7})
			dev.Write(whole(m), make([]int32, 1))
			x := []float32{9}
			dev.Read(x, whole(m).Columns(0, 1))
			if x[0] != 9 {
				t.Error("Read after an error wrote to its destination")
			}
			if m.Host != nil && whole(m).F32()[0] != 0 {
				t.Error("an op ran after an error")
			}
			if _, err := dev.Alloc(4); err == nil {
				t.Error("Alloc after an error has none")
			}
			if err := dev.Sync(); err == nil || err.Error() != first.Error() {
				t.Errorf("Sync returned %v, later %v", first, err)
			}
		})
	}
}
