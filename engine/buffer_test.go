package engine

import (
	"slices"
	"strings"
	"testing"

	"vlmo-train/kernels"
	"vlmo-train/kernels/ref"
)

// A batch stays as it is while the next one is put beside it, batches may
// differ in size, and all memory is given back.
func TestDoubleBuffer(t *testing.T) {
	dev := &counting{Device: ref.New()}
	b := NewDoubleBuffer(dev)
	var last kernels.Tensor
	var want []byte
	for i, rows := range []int{2, 3, 3, 1, 4, 4, 0, 2} {
		v := make([]byte, 5*rows)
		for k := range v {
			v[k] = byte(10*i + k)
		}
		x, err := b.Put(v, rows, 5)
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range []struct {
			x    kernels.Tensor
			want []byte
		}{{x, v}, {last, want}} {
			got := make([]byte, len(at.want))
			if at.x.IsZero() {
				continue
			}
			if dev.Read(got, at.x); !slices.Equal(got, at.want) {
				t.Errorf("batch %d: %v, want %v", i, got, at.want)
			}
		}
		last, want = x, v
	}
	if err := dev.Sync(); err != nil {
		t.Fatal(err)
	}
	if dev.allocs > 5 {
		t.Errorf("%d allocations", dev.allocs)
	}
	if _, err := b.Put(make([]byte, 7), 2, 4); err == nil || !strings.Contains(err.Error(), "7 bytes for 2 × 4 pixels") {
		t.Errorf("%v", err)
	}
	dev.limit = dev.bytes
	if _, err := b.Put(make([]byte, 100), 1, 100); err == nil || !strings.Contains(err.Error(), "100 bytes") {
		t.Errorf("%v", err)
	}
	b.Close()
	if dev.bytes != 0 {
		t.Errorf("%d bytes are left", dev.bytes)
	}
}
