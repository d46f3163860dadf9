package cache

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
)

func TestEviction(t *testing.T) {
	c := Cache[string, int]{Limit: 10}
	made := make(map[string]int)
	get := func(key string, size int64) {
		t.Helper()
		v, err := c.Get(key, func() (int, int64, error) { made[key]++; return len(key), size, nil })
		if err != nil || v != len(key) {
			t.Fatalf("Get(%q) = %d, %v", key, v, err)
		}
	}
	get("a", 4)
	get("bb", 4)
	get("a", 4)
	get("ccc", 4) // bb goes
	get("a", 4)
	get("bb", 4) // ccc goes
	get("huge", 100)
	if made["a"] != 1 || made["bb"] != 2 || made["ccc"] != 1 || c.Len() != 1 || c.bytes != 100 {
		t.Errorf("made %v, hold %d values of %d bytes", made, c.Len(), c.bytes)
	}
}

func TestOnce(t *testing.T) {
	c := Cache[int, int]{Limit: 1000}
	var n atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for k := range 100 {
				if v, err := c.Get(k, func() (int, int64, error) { n.Add(1); return k * k, 1, nil }); v != k*k || err != nil {
					t.Errorf("%d: %d, %v", k, v, err)
				}
			}
		})
	}
	wg.Wait()
	if n.Load() != 100 {
		t.Errorf("made %d values, want 100", n.Load())
	}
}

func TestErrorIsNotHeld(t *testing.T) {
	c := Cache[int, int]{Limit: 10}
	bad := errors.New("bad")
	if _, err := c.Get(1, func() (int, int64, error) { return 0, 0, bad }); err != bad {
		t.Errorf("error %v", err)
	}
	if v, err := c.Get(1, func() (int, int64, error) { return 7, 1, nil }); v != 7 || err != nil {
		t.Errorf("%d, %v after an error", v, err)
	}
}
