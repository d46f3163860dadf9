//go:build !unix

package main

import "time"

// Not known here.
func processorTime() time.Duration { return 0 }
func peakMemory() int64            { return 0 }
