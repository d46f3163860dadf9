//go:build !(turbo && cgo)

package jpeg

func turbo([]byte, int, int) ([]byte, bool) { return nil, false }

const hasTurbo = false
