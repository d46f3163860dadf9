// Package cache keeps values that are costly to make, up to a number of bytes.
package cache

import "sync"

// Cache makes each value once, by the first who needs it, while others wait. When
// more than Limit bytes are held, the values not used for longest go, but never
// the one made last. The zero Cache with a Limit is ready for use by any number
// of goroutines.
type Cache[K comparable, V any] struct {
	Limit int64

	mu    sync.Mutex
	held  map[K]*entry[V]
	bytes int64
	clock uint64
}

type entry[V any] struct {
	once  sync.Once
	value V
	err   error

	// Under Cache.mu.
	size int64 // 0 until made
	used uint64
}

// Get returns the value of key, which make makes if it isn't held. make returns
// the value's size in bytes, too. An error is not held: what can't be made now may
// be made later.
func (c *Cache[K, V]) Get(key K, make func() (V, int64, error)) (V, error) {
	c.mu.Lock()
	e := c.held[key]
	if e == nil {
		e = new(entry[V])
		if c.held == nil {
			c.held = map[K]*entry[V]{}
		}
		c.held[key] = e
	}
	c.clock++
	e.used = c.clock
	c.mu.Unlock()

	e.once.Do(func() {
		var size int64
		e.value, size, e.err = make()
		c.mu.Lock()
		defer c.mu.Unlock()
		if e.err != nil {
			delete(c.held, key)
			return
		}
		e.size = max(size, 1)
		c.bytes += e.size
		c.evict(e)
	})
	return e.value, e.err
}

// Len returns the number of values held.
func (c *Cache[K, V]) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.held)
}

// evict drops the oldest values but keep until the rest fits. c.mu is held.
func (c *Cache[K, V]) evict(keep *entry[V]) {
	for c.bytes > c.Limit {
		var key K
		var oldest *entry[V]
		for k, e := range c.held {
			if e != keep && e.size > 0 && (oldest == nil || e.used < oldest.used) {
				key, oldest = k, e
			}
		}
		if oldest == nil {
			return
		}
		delete(c.held, key)
		c.bytes -= oldest.size
	}
}
