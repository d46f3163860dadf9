package main

import (
	"math"

	"github.com/mmcloughlin/avo/attr"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// gelus emits GELU, its erf form, and its derivative. With t = |x|,
//
//	gelu(x) = max(x, 0) − t·Φ(−t)
//
// and the derivative is w = Φ(−t) − t·φ(t) for x < 0, else 1 − w.
func (g *gen) gelus() {
	lower, slope := g.geluParts()
	g.gelu(lower)
	g.geluGrad(slope)
	g.roundedGelus()
}

// part is a function of t = |x|, up to some limit. Its constants are loaded
// once in a function.
type part struct {
	constants func()
	at        func(x reg.VecVirtual) (v, t reg.VecVirtual)
}

// geluParts returns Φ(−t) and w.
func (g *gen) geluParts() (lower, slope part) {
	if g.wide() {
		table := func(name string, f func(t float64) float64) part {
			var p *pieces
			return part{
				func() { p = g.pieces(name, f) },
				func(x reg.VecVirtual) (v, t reg.VecVirtual) { return p.at(x) },
			}
		}
		return table("gelu", normalTail), table("geluGrad", func(t float64) float64 {
			return normalTail(t) - t*math.Exp(-t*t/2)/math.Sqrt(2*math.Pi)
		})
	}
	var e *exponential
	var limit reg.VecVirtual
	constants := func() { e, limit = g.exponential(), g.r(14) }
	lower = part{constants, func(x reg.VecVirtual) (v, t reg.VecVirtual) {
		t = g.magnitude(x, limit)
		h, p := g.tail(e, t)
		g.VMULPS(p, h, h)
		return h, t
	}}
	slope = part{constants, func(x reg.VecVirtual) (v, t reg.VecVirtual) {
		t = g.magnitude(x, limit)
		h, p := g.tail(e, t)
		g.VFNMADD231PS(g.f(1/math.Sqrt(2*math.Pi)), t, p)
		g.VMULPS(h, p, p)
		return p, t
	}}
	return lower, slope
}

// normalTail is Φ(−t).
func normalTail(t float64) float64 { return math.Erfc(t/math.Sqrt2) / 2 }

// toGelu sets x to gelu(x).
func (g *gen) toGelu(lower part, x reg.VecVirtual) {
	v, t := lower.at(x)
	g.VMAXPS(x, g.zero(), x)
	g.VFNMADD231PS(t, v, x)
}

// derivative returns gelu'(x).
func (g *gen) derivative(slope part, x reg.VecVirtual) reg.VecVirtual {
	p, _ := slope.at(x)
	one := g.r(1)
	g.VSUBPS(p, one, one)
	g.choose(x, p, one, p)
	return p
}

func (g *gen) gelu(lower part) {
	g.text("gelu", "func(y, x []float32)", "sets y to x·Φ(x).")
	lower.constants()
	g.each("y x", g.chains(), func(l *lanes) {
		x := l.load("x")
		g.toGelu(lower, x)
		l.store(x, "y")
	})
	g.text("biasGelu", "func(y, pre, b []float32)", "sets pre to x = y + b, and y to x·Φ(x).")
	lower.constants()
	g.each("y pre b", g.chains(), func(l *lanes) {
		x := l.load("y")
		g.VADDPS(l.load("b"), x, x)
		l.store(x, "pre")
		g.toGelu(lower, x)
		l.store(x, "y")
	})
}

func (g *gen) geluGrad(slope part) {
	g.text("geluGrad", "func(dx, dy, x []float32)", "sets dx to dy·(Φ(x) + x·φ(x)).")
	slope.constants()
	g.each("dx dy x", g.chains(), func(l *lanes) {
		p := g.derivative(slope, l.load("x"))
		g.VMULPS(l.load("dy"), p, p)
		l.store(p, "dx")
	})
}

// roundedGelus emits the functions with results in BF16.
func (g *gen) roundedGelus() {
	lower, slope := g.geluParts()
	g.text("biasGeluHalf", "func(y, pre []uint16, x, b []float32)", "sets pre to v = x + b, rounded, and y to v·Φ(v), rounded.")
	lower.constants()
	g.halves("x b", "y pre", g.chains(), func(l *halfLanes) {
		x := l.loadFloat("x")
		g.VADDPS(l.loadFloat("b"), x, x)
		h := g.round(x)
		l.storeHalf(h, "pre")
		v := g.widened(h)
		g.toGelu(lower, v)
		l.storeHalf(g.round(v), "y")
	})
	g.text("geluGradHalf", "func(dx []uint16, dy []float32, x []uint16)", "sets dx to dy, rounded, times Φ(x) + x·φ(x), rounded.")
	slope.constants()
	g.halves("dy", "dx x", g.chains(), func(l *halfLanes) {
		p := g.derivative(slope, l.loadHalf("x"))
		g.VMULPS(g.widened(g.round(l.loadFloat("dy"))), p, p)
		l.storeHalf(g.round(p), "dx")
	})
}

// A function of t ≥ 0 is approximated by a polynomial on each of 32 pieces of
// a quarter's width, their coefficients in two registers each; it is 0 on the
// last piece and from there on.
const (
	pieceCount  = 32
	pieceWidth  = 0.25
	pieceDegree = 5
)

type pieces struct {
	g     *gen
	c     [pieceDegree + 1][2]reg.VecVirtual
	limit reg.VecVirtual
}

// pieces emits the table of f, once, and what loads it.
func (g *gen) pieces(name string, f func(float64) float64) *pieces {
	var table [pieceDegree + 1][pieceCount]float64
	for i := range pieceCount - 1 {
		for d, v := range interpolate(f, float64(i)*pieceWidth) {
			table[d][i] = v
		}
	}
	mem, ok := g.tables[name]
	if !ok {
		mem = g.StaticGlobal(name + "Pieces")
		g.DataAttributes(attr.RODATA | attr.NOPTR)
		for _, row := range table {
			for _, v := range row {
				g.AppendDatum(operand.U32(bits(v)))
			}
		}
		g.tables[name] = mem
	}
	p := &pieces{g: g, limit: g.r(pieceCount*pieceWidth - 1e-3)}
	for d := range p.c {
		for half := range 2 {
			p.c[d][half] = g.vec()
			g.VMOVUPS(mem.Offset(4*(d*pieceCount+16*half)), p.c[d][half])
		}
	}
	return p
}

// at returns f(t) and t = min(|x|, limit), NaN for NaN.
func (p *pieces) at(x reg.VecVirtual) (v, t reg.VecVirtual) {
	g := p.g
	t = g.magnitude(x, p.limit)
	index, from, offset := g.vec(), g.vec(), g.copyOf(t)
	g.VMULPS(g.f(1/pieceWidth), t, index)
	g.VCVTTPS2DQ(index, index)
	g.VCVTDQ2PS(index, from)
	g.VFNMADD231PS(g.f(pieceWidth), from, offset)
	for d := pieceDegree; d >= 0; d-- {
		c := g.vec()
		g.VMOVAPS(index, c)
		g.VPERMI2PS(p.c[d][1], p.c[d][0], c)
		if d < pieceDegree {
			g.VFMADD231PS(offset, v, c)
		}
		v = c
	}
	return v, t
}

// interpolate returns the coefficients, lowest first, of the polynomial in
// t − from that meets f at the Chebyshev nodes of a piece.
func interpolate(f func(float64) float64, from float64) []float64 {
	const n = pieceDegree + 1
	var x, d [n]float64 // nodes, and divided differences
	for i := range n {
		x[i] = pieceWidth / 2 * (1 - math.Cos(math.Pi*(float64(i)+0.5)/n))
		d[i] = f(from + x[i])
	}
	for k := 1; k < n; k++ {
		for i := n - 1; i >= k; i-- {
			d[i] = (d[i] - d[i-1]) / (x[i] - x[i-k])
		}
	}
	c := []float64{d[n-1]}
	for i := n - 2; i >= 0; i-- { // c·(t − x[i]) + d[i]
		next := append([]float64{0}, c...)
		for k, v := range c {
			next[k] -= v * x[i]
		}
		next[0] += d[i]
		c = next
	}
	return c
}
