//go:build cuda

package cuda

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"gorgonia.org/cu"

	"vlmo-train/kernels"
)

// A driver context belongs to an OS thread, so one goroutine, tied to a thread
// of its own, makes all calls for a device. Launches and uploads reach it
// through a bounded channel and need no answer; the rest waits for one.
type owner struct {
	commands chan command
	done     chan struct{} // closed when everything is released

	dev     cu.Device
	kernels map[string]*kernel
	compute cu.Stream // ops, in order
	copies  cu.Stream // what travels from the host meanwhile
	arrived cu.Event  // the last upload reached its slot
	slots   [slots]slot
	back    []byte       // pinned memory for what is read
	fault   cu.DevicePtr // an int32 that kernels set to the code of a fault
	live    map[cu.DevicePtr]struct{}
	held    int // bytes that Alloc gave out
	args    [maxArgs]unsafe.Pointer
	lt      lt
	err     error // the first one
}

const (
	slots     = 4
	slotBytes = 4 << 20
)

// slot is a part of the way from the host: what Write copies into pinned memory
// travels on the copy stream, while ops still run. It goes to its place at once,
// where no op that may still run uses that memory; otherwise into device memory
// of the slot's size, and the compute stream puts it in its place in its turn.
type slot struct {
	host []byte
	dev  cu.DevicePtr
	free cu.Event // everything has left the slot
	used bool
}

// command is work for the owner: a launch, an upload or a call.
type command struct {
	launch  launch  // where k is set
	product product // where plan is set
	upload  upload  // where neither is
	call    func() error
	reply   chan error
}

// upload brings bytes of a slot to device memory, past the slot's device memory
// where direct is set; retire is after the last one from the slot.
type upload struct {
	to                  uintptr
	slot, offset, bytes int
	direct, retire      bool
}

// start opens GPU number ordinal on a thread of its own.
func start(ordinal int, options Options) (*owner, error) {
	o := &owner{commands: make(chan command, 128), done: make(chan struct{}), live: make(map[cu.DevicePtr]struct{})}
	ready := make(chan error)
	go func() {
		// The thread ends with the goroutine: no context stays current on a
		// thread that the Go runtime uses for others.
		runtime.LockOSThread()
		defer close(o.done)
		err := o.open(ordinal, options)
		ready <- err
		if err != nil {
			return
		}
		o.serve()
	}()
	if err := <-ready; err != nil {
		<-o.done
		return nil, err
	}
	return o, nil
}

// open makes the context and all that lives as long as the device.
func (o *owner) open(ordinal int, options Options) (err error) {
	if o.dev, err = cu.GetDevice(ordinal); err != nil {
		return explain(err)
	}
	ctx, err := o.dev.RetainPrimaryCtx() // as libraries beside us do
	if err != nil {
		return explain(err)
	}
	defer func() {
		if err != nil {
			err = explain(err)
			o.release()
		}
	}()
	if err = cu.SetCurrentContext(ctx); err != nil {
		return err
	}
	if o.kernels, err = load(); err != nil {
		return err
	}
	if o.compute, err = cu.MakeStream(cu.NonBlocking); err != nil {
		return err
	}
	if o.copies, err = cu.MakeStream(cu.NonBlocking); err != nil {
		return err
	}
	if o.arrived, err = cu.MakeEvent(cu.DisableTiming); err != nil {
		return err
	}
	for i := range o.slots {
		s := &o.slots[i]
		if s.host, err = pinned(slotBytes); err != nil {
			return err
		}
		if s.dev, err = o.alloc(slotBytes); err != nil {
			return err
		}
		if s.free, err = cu.MakeEvent(cu.DisableTiming); err != nil {
			return err
		}
	}
	if o.back, err = pinned(slotBytes); err != nil {
		return err
	}
	if o.fault, err = o.alloc(4); err != nil {
		return err
	}
	if err = o.openLt(options); err != nil {
		return err
	}
	return cu.MemsetD8Async(o.fault, 0, 4, o.compute)
}

// serve works off commands until the channel is closed. After an error it does
// nothing more.
func (o *owner) serve() {
	for c := range o.commands {
		var err error
		switch {
		case o.err != nil:
		case c.launch.k != nil:
			err = c.launch.run(o)
		case c.product.plan != nil:
			err = c.product.run(o)
		case c.call != nil:
			err = c.call()
		default:
			err = o.bring(c.upload)
		}
		if o.err == nil {
			o.err = err
		}
		if c.reply != nil {
			c.reply <- o.err
		}
	}
	o.release()
}

// do runs f on the owner's thread and returns the device's first error.
func (o *owner) do(f func() error) error {
	reply := make(chan error, 1)
	o.commands <- command{call: f, reply: reply}
	return <-reply
}

func (o *owner) bring(u upload) error {
	s := &o.slots[u.slot]
	if u.retire {
		s.used = true
		if u.direct {
			return explain(s.free.Record(o.copies))
		}
		return explain(s.free.Record(o.compute))
	}
	at := s.dev + cu.DevicePtr(u.offset)
	if u.direct {
		at = cu.DevicePtr(u.to)
	}
	if err := cu.MemcpyHtoDAsync(at, unsafe.Pointer(&s.host[u.offset]), int64(u.bytes), o.copies); err != nil {
		return explain(err)
	}
	if err := o.arrived.Record(o.copies); err != nil {
		return explain(err)
	}
	if err := o.compute.Wait(o.arrived, 0); err != nil {
		return explain(err)
	}
	if u.direct {
		return nil
	}
	return explain(cu.MemcpyDtoDAsync(cu.DevicePtr(u.to), at, int64(u.bytes), o.compute))
}

// fetch copies device memory to dst after all ops.
func (o *owner) fetch(dst []byte, from uintptr) error {
	for len(dst) > 0 {
		n := min(len(dst), len(o.back))
		if err := cu.MemcpyDtoHAsync(unsafe.Pointer(&o.back[0]), cu.DevicePtr(from), int64(n), o.compute); err != nil {
			return explain(err)
		}
		if err := o.compute.Synchronize(); err != nil {
			return explain(err)
		}
		copy(dst, o.back[:n])
		dst, from = dst[n:], from+uintptr(n)
	}
	return nil
}

// settle waits for all ops and returns the fault that one of them met.
func (o *owner) settle() error {
	var word [4]byte
	if err := o.fetch(word[:], uintptr(o.fault)); err != nil {
		return err
	}
	if code := int(word[0]); code != 0 && code < len(faults) {
		return fmt.Errorf("%s", faults[code])
	}
	return nil
}

func (o *owner) alloc(n int) (cu.DevicePtr, error) {
	p, err := cu.MemAlloc(int64(max(n, 1)))
	if errors.Is(err, cu.OutOfMemory) {
		free, total, err := cu.MemInfo()
		if err != nil {
			return 0, explain(err)
		}
		return 0, &kernels.OutOfMemory{Want: n, Held: o.held, Free: int(free), Total: int(total)}
	}
	if err != nil {
		return 0, explain(err)
	}
	o.live[p] = struct{}{}
	return p, nil
}

func (o *owner) free(p cu.DevicePtr) error {
	if _, ok := o.live[p]; !ok {
		return nil
	}
	delete(o.live, p)
	return explain(cu.MemFree(p))
}

// release gives everything back. After an error of the context the driver may
// refuse; its memory then goes with the context.
func (o *owner) release() {
	o.closeLt()
	for p := range o.live {
		cu.MemFree(p)
	}
	for i := range o.slots {
		freePinned(o.slots[i].host)
		destroyEvent(o.slots[i].free)
	}
	freePinned(o.back)
	destroyEvent(o.arrived)
	destroyStream(o.copies)
	destroyStream(o.compute)
	o.dev.ReleasePrimaryCtx()
}
