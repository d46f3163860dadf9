//go:build cuda

package cuda

import (
	"fmt"
	"runtime"
	"slices"
	"unsafe"

	"gorgonia.org/cu"

	"vlmo-train/kernels"
)

// New opens GPU number ordinal. The device holds a context, two streams and 32
// MiB of staging memory until it is garbage, or closed by the Close method that
// it has.
func New(ordinal int, options Options) (kernels.Device, error) {
	n, err := cu.NumDevices()
	switch {
	case err != nil:
		return nil, fmt.Errorf("kernels/cuda: no GPU can be used: %w; %s", explain(err), driverHint)
	case ordinal < 0 || ordinal >= n:
		return nil, fmt.Errorf("kernels/cuda: there is no GPU %d, %d are visible", ordinal, n)
	}
	dev, err := cu.GetDevice(ordinal)
	if err != nil {
		return nil, fmt.Errorf("kernels/cuda: %w", explain(err))
	}
	name, major, minor, err := identify(dev)
	if err != nil {
		return nil, fmt.Errorf("kernels/cuda: %w", err)
	}
	if major < 8 {
		return nil, fmt.Errorf("kernels/cuda: GPU %d is a %s (sm_%d%d), the kernels need sm_80 or later", ordinal, name, major, minor)
	}
	o, err := start(ordinal, options)
	if err != nil {
		return nil, fmt.Errorf("kernels/cuda: GPU %d: %w", ordinal, err)
	}
	products := "no cuBLASLt"
	if o.lt.handle != nil {
		products = ltVersion()
	}
	d := &device{owner: o, name: fmt.Sprintf("cuda:%d (%s, sm_%d%d, %s)", ordinal, name, major, minor, products)}
	d.cleanup = runtime.AddCleanup(d, func(o *owner) { close(o.commands) }, o)
	return d, nil
}

const driverHint = "install the NVIDIA driver 525 or later, and in a container pass the GPU through (docker run --gpus all)"

func identify(dev cu.Device) (name string, major, minor int, err error) {
	if name, err = dev.Name(); err != nil {
		return "", 0, 0, explain(err)
	}
	if major, err = dev.Attribute(cu.ComputeCapabilityMajor); err != nil {
		return "", 0, 0, explain(err)
	}
	minor, err = dev.Attribute(cu.ComputeCapabilityMinor)
	return name, major, minor, explain(err)
}

// faults says what the codes mean that kernels leave for the host: mistakes in
// operands which only the GPU sees.
var faults = []string{
	faultRows:     "a row list names a row that does not exist",
	faultIndex:    "an index is beyond the table",
	faultLabel:    "a label is not one of the classes",
	faultPositive: "Contrast: a row has no column of its group",
}

const (
	_ = iota
	faultRows
	faultIndex
	faultLabel
	faultPositive
)

type device struct {
	*owner
	name     string
	cleanup  runtime.Cleanup
	closed   bool
	operands []kernels.Operand // reused by Run
	next     launch            // reused by launches
	slot     int               // what Write fills,
	offset   int               // from here,
	direct   bool              // with what goes to its place at once
	busy     []*kernels.Memory // what work may use that Sync has not waited for
	scratch  buffer
	tables   buffer
	lists    []list // what tables holds
	err      error
}

// buffer is device memory that grows.
type buffer struct {
	addr  cu.DevicePtr
	bytes int
}

func (d *device) Name() string { return d.name }

// Close gives everything back. The device must not be used again.
func (d *device) Close() error {
	if !d.closed {
		d.closed = true
		d.cleanup.Stop()
		close(d.commands)
		<-d.done
	}
	if d.err == nil {
		d.fail("the device is closed")
	}
	return nil
}

func (d *device) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("kernels/cuda: "+format, args...)
	}
}

// call runs f on the owner's thread; its error sticks.
func (d *device) call(f func() error) bool {
	if d.err == nil {
		if err := d.do(f); err != nil {
			d.err = fmt.Errorf("kernels/cuda: %w", err)
		}
	}
	return d.err == nil
}

func (d *device) Alloc(n int) (*kernels.Memory, error) {
	if d.err == nil && n < 0 {
		d.fail("cannot allocate %d bytes", n)
	}
	var p cu.DevicePtr
	if !d.call(func() (err error) {
		if p, err = d.owner.alloc(n); err != nil || n == 0 {
			return err
		}
		d.held += n
		return explain(cu.MemsetD8Async(p, 0, int64(n), d.compute))
	}) {
		return nil, d.err
	}
	m := &kernels.Memory{Addr: uintptr(p), Bytes: n}
	d.use(m)
	return m, nil
}

// use notes that work was enqueued which uses m.
func (d *device) use(m *kernels.Memory) {
	if !slices.Contains(d.busy, m) {
		d.busy = append(d.busy, m)
	}
}

// settled notes that all work is done.
func (d *device) settled() {
	clear(d.busy)
	d.busy = d.busy[:0]
}

// FreeMemory returns what the driver says, for all programs.
func (d *device) FreeMemory() (n int, known bool) {
	known = d.call(func() error {
		free, _, err := cu.MemInfo()
		n = int(free)
		return explain(err)
	})
	return n, known
}

// Free waits for all ops. m is empty afterwards, so that Check finds ops that
// still use it.
func (d *device) Free(m *kernels.Memory) {
	if m == nil || m.Addr == 0 {
		return
	}
	p, n := cu.DevicePtr(m.Addr), m.Bytes
	m.Addr, m.Bytes = 0, 0
	d.call(func() error {
		d.held -= n
		return d.owner.free(p)
	})
}

func (d *device) Sync() error {
	if d.call(d.settle) {
		d.settled()
	}
	return d.err
}

// reserve returns device memory of at least n bytes for the ops that follow.
func (d *device) reserve(b *buffer, n int) uintptr {
	if n > b.bytes {
		n = max(n, 2*b.bytes, 1<<20)
		d.call(func() (err error) {
			if b.addr != 0 {
				if err := d.owner.free(b.addr); err != nil {
					return err
				}
			}
			*b = buffer{}
			b.addr, err = d.owner.alloc(n)
			if err == nil {
				b.bytes = n
			}
			return err
		})
	}
	return uintptr(b.addr)
}

func bytesOf[T any](s []T) []byte {
	if len(s) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&s[0])), len(s)*int(unsafe.Sizeof(s[0])))
}

// host returns the bytes of a slice that Write or Read can take.
func host(x any) (b []byte, t kernels.DType, n int, ok bool) {
	switch x := x.(type) {
	case []float32:
		return bytesOf(x), kernels.F32, len(x), true
	case []int32:
		return bytesOf(x), kernels.I32, len(x), true
	case []uint16:
		return bytesOf(x), kernels.BF16, len(x), true
	case []byte:
		return x, kernels.U8, len(x), true
	}
	return nil, 0, 0, false
}

// transfer reports whether the elements of x can be copied from or to t.
func (d *device) transfer(call string, t kernels.Tensor, x any) []byte {
	if d.err != nil {
		return nil
	}
	b, typ, n, ok := host(x)
	switch {
	case !ok:
		d.fail("%s: %v and a %T, want []float32, []int32, []uint16 or []byte", call, t, x)
	case t.Len() == 0 && n == 0:
	case t.IsZero() || t.Type != typ || t.Len() != n || !t.Contiguous():
		d.fail("%s: %v and %d elements of %v", call, t, n, typ)
	case !onDevice(t):
		d.fail("%s: %v lies outside of its memory, or in none of this device", call, t)
	}
	if d.err != nil {
		return nil
	}
	return b
}

func onDevice(t kernels.Tensor) bool {
	if t.Len() == 0 {
		return true
	}
	last := (t.Rows-1)*t.Stride + t.Cols
	return t.Mem.Addr != 0 && t.Offset >= 0 && t.Offset+last*t.Type.Size() <= t.Mem.Bytes
}

// Write does not wait for ops where none that may still run uses dst's memory:
// a batch that is written into memory of its own travels while the ops of the
// one before run.
func (d *device) Write(dst kernels.Tensor, src any) {
	if b := d.transfer("Write", dst, src); len(b) > 0 {
		direct := !slices.Contains(d.busy, dst.Mem)
		if !direct {
			d.use(dst.Mem)
		}
		d.upload(address(dst), b, direct)
	}
}

// upload copies b into pinned memory and lets it travel, to its place at once
// where direct is set.
func (d *device) upload(to uintptr, b []byte, direct bool) {
	for len(b) > 0 && d.err == nil {
		if d.offset == slotBytes || d.direct != direct && d.offset > 0 {
			d.commands <- command{upload: upload{slot: d.slot, direct: d.direct, retire: true}}
			d.slot, d.offset = (d.slot+1)%slots, 0
			s := &d.slots[d.slot]
			d.call(func() error {
				if !s.used {
					return nil
				}
				return explain(s.free.Synchronize())
			})
			continue
		}
		d.direct = direct
		n := copy(d.slots[d.slot].host[d.offset:], b)
		d.commands <- command{upload: upload{to: to, slot: d.slot, offset: d.offset, bytes: n, direct: direct}}
		d.offset = min((d.offset+n+15)&^15, slotBytes)
		b, to = b[n:], to+uintptr(n)
	}
}

func (d *device) Read(dst any, src kernels.Tensor) {
	b := d.transfer("Read", src, dst)
	if d.err != nil {
		return
	}
	if d.call(func() error {
		if err := d.settle(); err != nil {
			return err
		}
		return d.fetch(b, address(src))
	}) {
		d.settled()
	}
}

func (d *device) Run(op kernels.Op) {
	if d.err != nil {
		return
	}
	if err := op.Check(); err != nil {
		d.err = err
		return
	}
	d.operands = op.Operands(d.operands[:0])
	for i := range d.operands {
		if !onDevice(d.operands[i].Tensor) {
			d.fail("%s: %s lies in no memory of this device", op.Name(), d.operands[i].Name)
		}
		d.use(d.operands[i].Mem)
	}
	clear(d.operands) // keeps no memory alive
	if d.err == nil {
		d.dispatch(op)
	}
}
