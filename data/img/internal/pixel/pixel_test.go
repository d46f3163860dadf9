package pixel

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

func random(t testing.TB) *rand.Rand {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func noise(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
		if r.IntN(4) == 0 {
			b[i] = 255 * byte(r.IntN(2))
		}
	}
	return b
}

// guarded returns a slice of n bytes and what checks that nothing beyond it was
// written.
func guarded(t *testing.T, n int) ([]byte, func()) {
	all := bytes.Repeat([]byte{0xa5}, n+64)
	return all[32 : 32+n : 32+n], func() {
		t.Helper()
		if !bytes.Equal(all[:32], bytes.Repeat([]byte{0xa5}, 32)) || !bytes.Equal(all[32+n:], bytes.Repeat([]byte{0xa5}, 32)) {
			t.Fatal("written outside")
		}
	}
}

func TestColumns(t *testing.T) {
	r := random(t)
	for range 300 {
		n, taps := 1+r.IntN(150), 1+r.IntN(12)
		stride := n + r.IntN(9)
		src := noise(r, stride*(taps-1)+n)
		coef := make([]int32, taps)
		for i := range coef {
			coef[i] = int32(r.NormFloat64() * (1 << Precision) / 2)
		}
		got, check := guarded(t, n)
		Columns(got, src, stride, coef)
		check()
		for x := range n {
			sum := int64(1 << (Precision - 1))
			for k, c := range coef {
				sum += int64(src[k*stride+x]) * int64(c)
			}
			if sum > 1<<31-1 || sum < -1<<31 {
				continue // beyond what a filter's sum can be
			}
			if want := byte(min(max(sum>>Precision, 0), 255)); got[x] != want {
				t.Fatalf("column %d of %d, %d taps: %d, want %d", x, n, taps, got[x], want)
			}
		}
	}
}

func TestRow(t *testing.T) {
	if !Vector {
		t.Skip("no vectors")
	}
	r := random(t)
	for range 300 {
		n, pairs := 1+r.IntN(60), 1+r.IntN(7)
		from, coef := make([]int32, n), make([]int32, 8*pairs*n)
		at := 0
		for i := range from {
			from[i] = int32(3 * at)
			at += r.IntN(3)
			for k := range pairs {
				a, b := int32(r.NormFloat64()*(1<<20)), int32(r.NormFloat64()*(1<<20))
				copy(coef[8*(pairs*i+k):], []int32{a, a, a, b, b, b, 0, 0})
			}
		}
		src := noise(r, int(from[n-1])+6*pairs+2)
		got, check := guarded(t, 3*n+1)
		Row(got, src, from, coef, pairs)
		check()
		for i := range 3 * n {
			sum := int64(1 << (Precision - 1))
			for k := range 2 * pairs {
				sum += int64(src[int(from[i/3])+3*k+i%3]) * int64(coef[8*(pairs*(i/3)+k/2)+3*(k%2)])
			}
			if sum > 1<<31-1 || sum < -1<<31 {
				continue
			}
			if want := byte(min(max(sum>>Precision, 0), 255)); got[i] != want {
				t.Fatalf("sample %d of %d pixels, %d pairs: %d, want %d", i, n, pairs, got[i], want)
			}
		}
	}
}

// The assembly against the Go that is held against libjpeg's results.
func TestInverseDCT(t *testing.T) {
	r := random(t)
	for i := range 2000 {
		var b [64]int16
		scale := []float64{3, 50, 400, 20000}[i%4]
		for k := range b {
			if r.IntN(3) > 0 {
				b[k] = int16(int64(r.NormFloat64() * scale))
			}
		}
		stride := 8 + r.IntN(20)
		got, check := guarded(t, 7*stride+8)
		want := bytes.Clone(got)
		InverseDCT(got, stride, &b)
		check()
		inverseDCTGo(want, stride, &b)
		if !bytes.Equal(got, want) {
			t.Fatalf("block %v:\n got %v\nwant %v", b, got, want)
		}
	}
}

func TestConvert(t *testing.T) {
	r := random(t)
	for n := range 100 {
		y, u, v := noise(r, n), noise(r, n), noise(r, n)
		got, check := guarded(t, 3*n)
		want := bytes.Clone(got)
		Convert(got, y, u, v)
		check()
		convertGo(want, y, u, v)
		if !bytes.Equal(got, want) {
			t.Fatalf("%d pixels:\n got %v\nwant %v", n, got, want)
		}
	}
	// Every pair of chroma values.
	u, v := make([]byte, 1<<16), make([]byte, 1<<16)
	for i := range u {
		u[i], v[i] = byte(i), byte(i>>8)
	}
	for _, l := range []byte{0, 1, 127, 255} {
		y := bytes.Repeat([]byte{l}, 1<<16)
		got, want := make([]byte, 3<<16), make([]byte, 3<<16)
		Convert(got, y, u, v)
		convertGo(want, y, u, v)
		if !bytes.Equal(got, want) {
			t.Fatal("colours differ")
		}
	}
}

func TestTriangle(t *testing.T) {
	r := random(t)
	for n := 1; n < 80; n++ {
		m := (n + 15) &^ 15
		near, far := noise(r, m)[:n], noise(r, m)[:n]
		got, check := guarded(t, 2*m)
		Triangle(got, near, far, make([]uint16, m+2))
		check()
		want := make([]byte, 2*n)
		triangleGo(want, near, far, make([]uint16, n))
		if !bytes.Equal(got[:2*n], want) {
			t.Fatalf("%d samples:\n got %v\nwant %v", n, got[:2*n], want)
		}
	}
}
