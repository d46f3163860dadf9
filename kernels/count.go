package kernels

// Counter is a Device that computes nothing: it adds up what the ops given to
// it would cost. It plans a step without running it.
type Counter struct {
	FLOPs, Bytes int64 // of all ops since the counts were last set to 0
	Ops          int
	Memory, Peak int64 // bytes allocated now and at most

	err error
}

// Name returns "counter".
func (c *Counter) Name() string { return "counter" }

// Alloc returns memory that cannot be read or written.
func (c *Counter) Alloc(n int) (*Memory, error) {
	c.Memory += int64(n)
	c.Peak = max(c.Peak, c.Memory)
	return &Memory{Bytes: n}, nil
}

// Free takes m off the count.
func (c *Counter) Free(m *Memory) { c.Memory -= int64(m.Bytes) }

// Run checks op and counts its cost.
func (c *Counter) Run(op Op) {
	if c.err != nil {
		return
	}
	if c.err = op.Check(); c.err == nil {
		c.FLOPs += op.FLOPs()
		c.Bytes += op.Bytes()
		c.Ops++
	}
}

// Write does nothing.
func (c *Counter) Write(Tensor, any) {}

// Read leaves dst as it is.
func (c *Counter) Read(any, Tensor) {}

// Sync returns the first op's complaint.
func (c *Counter) Sync() error { return c.err }
