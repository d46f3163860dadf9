//go:build unix && !darwin

package main

// maxrssUnit is the unit of the system's largest resident size, in bytes.
const maxrssUnit = 1 << 10
