package main

import (
	"math"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

func bits(v float64) uint32 { return math.Float32bits(float32(v)) }

// horner evaluates the polynomial with the coefficients c, lowest first.
func (g *gen) horner(x reg.VecVirtual, c ...float64) reg.VecVirtual {
	p := g.r(c[len(c)-1])
	for i := len(c) - 2; i >= 0; i-- {
		g.VFMADD213PS(g.f(c[i]), x, p)
	}
	return p
}

// exponential holds the constants of exp that must be in registers.
type exponential struct {
	g             *gen
	lo, hi, magic reg.VecVirtual
}

func (g *gen) exponential() *exponential {
	return &exponential{g, g.r(-87.5), g.r(89), g.r(3 << 22)}
}

// clamp limits x to where exp is neither 0 nor infinite. NaNs stay: the
// second source of VMINPS, the first here, comes through.
func (e *exponential) clamp(x reg.VecVirtual) {
	e.g.VMINPS(x, e.hi, x)
	e.g.VMAXPS(x, e.lo, x)
}

// exp replaces x, which is clamped, by its exponential, good to 2 units in
// the last place; results below 2^-125 are 0. less, where given, is a small
// number to subtract from x.
//
// With x = n·ln 2 + r the result is 2^n·exp(r). Adding 1.5·2^23 leaves n in the
// low bits; 2^n is applied as 2·2^(n−1), which is finite for n = 128.
func (e *exponential) exp(x reg.VecVirtual, less ...reg.VecVirtual) {
	g := e.g
	t, n := g.copyOf(x), g.vec()
	g.VFMADD132PS(g.f(1/math.Ln2), e.magic, t)
	g.VSUBPS(e.magic, t, n)
	const hi = 0.693359375 // 9 bits: n·hi is exact
	g.VFNMADD231PS(g.f(hi), n, x)
	g.VFNMADD231PS(g.f(math.Ln2-hi), n, x)
	for _, v := range less {
		g.VSUBPS(v, x, x)
	}
	// Minimax for (exp(r) − 1 − r)/r² on |r| ≤ ln 2/2, relative to exp(r).
	p := g.horner(x, 0.4999999337, 0.1666651952, 0.04166840108, 0.008368851065, 0.001381432063)
	one := g.r(1)
	g.VFMADD213PS(one, x, p)
	g.VFMADD213PS(one, p, x)
	g.VPSLLD(operand.U8(23), t, t)
	g.VPADDD(g.word(126<<23), t, t)
	g.VADDPS(x, x, x)
	g.VMULPS(t, x, x)
}

// tail computes, for t = min(|x|, 14), E = exp(−t²/2) and R with Φ(−t) = E·R.
func (g *gen) tail(e *exponential, t reg.VecVirtual) (ex, ratio reg.VecVirtual) {
	// t² in two parts, or its rounding would be multiplied by t²/2.
	h, l := g.vec(), g.vec()
	g.VMULPS(t, t, h)
	g.VMOVAPS(t, l)
	g.VFMSUB213PS(h, t, l)
	g.VMULPS(g.f(0.5), l, l)
	g.VMULPS(g.f(-0.5), h, h)
	g.VMAXPS(h, e.lo, h)
	e.exp(h, l)
	// Minimax in (t−3)/(t+3) for R·(t+3), relative.
	u, q := g.vec(), g.vec()
	g.VADDPS(g.f(3), t, u)
	g.VSUBPS(g.f(3), t, q)
	one := g.r(1)
	g.VDIVPS(u, one, u)
	g.VMULPS(u, q, q)
	p := g.horner(q, 0.7290836692, -0.509332285, 0.2300193496, -0.04725610157, -0.01047993706,
		0.006923924899, 0.001076041066, -0.000903255119, -0.0002667697418)
	g.VMULPS(u, p, p)
	return h, p
}

// magnitude returns min(|x|, limit), NaN for NaN.
func (g *gen) magnitude(x, limit reg.VecVirtual) reg.VecVirtual {
	t := g.vec()
	g.and(g.word(0x7fffffff), x, t)
	g.VMINPS(t, limit, t)
	return t
}

// elementwise emits the functions that treat each element by itself.
func (g *gen) elementwise() {
	g.gelus()

	g.text("add", "func(y, x []float32)", "adds x to y.")
	g.each("y x", 4, func(l *lanes) {
		y := l.load("y")
		g.VADDPS(l.load("x"), y, y)
		l.store(y, "y")
	})

	g.text("axpy", "func(y, x []float32, a float32)", "adds a·x to y.")
	a := g.param("a")
	g.each("y x", 4, func(l *lanes) {
		y := l.load("y")
		g.VFMADD231PS(l.load("x"), a, y)
		l.store(y, "y")
	})

	g.text("scale", "func(y, x []float32, a float32)", "sets y to a·x.")
	a = g.param("a")
	g.each("y x", 4, func(l *lanes) {
		x := l.load("x")
		g.VMULPS(a, x, x)
		l.store(x, "y")
	})

	g.text("scaleAdd", "func(y, x, b []float32, a float32)", "sets y to a·x + b.")
	a = g.param("a")
	g.each("y x b", 4, func(l *lanes) {
		x := l.load("x")
		g.VFMADD213PS(l.load("b"), a, x)
		l.store(x, "y")
	})

	g.text("mul", "func(y, x, g []float32, a float32)", "sets y to a·g·x.")
	a = g.param("a")
	g.each("y x g", 2, func(l *lanes) {
		v := l.load("g")
		g.VMULPS(a, v, v)
		g.VMULPS(l.load("x"), v, v)
		l.store(v, "y")
	})

	g.text("mulAdd", "func(z, x, y, g []float32, a float32)", "sets z to x + a·g·y.")
	a = g.param("a")
	g.each("z x y g", 2, func(l *lanes) {
		v := l.load("g")
		g.VMULPS(a, v, v)
		g.VFMADD213PS(l.load("x"), l.load("y"), v)
		l.store(v, "z")
	})

	g.text("mulAcc", "func(s, x, y []float32, a float32)", "adds a·x·y to s.")
	a = g.param("a")
	g.each("s x y", 2, func(l *lanes) {
		v, s := l.load("x"), l.load("s")
		g.VMULPS(a, v, v)
		g.VFMADD231PS(l.load("y"), v, s)
		l.store(s, "s")
	})

	g.text("tanhGrad", "func(dx, dy, y []float32)", "sets dx to dy·(1 − y²).")
	one := g.r(1)
	g.each("dx dy y", 2, func(l *lanes) {
		y, t := l.load("y"), g.vec()
		g.VMOVAPS(one, t)
		g.VFNMADD231PS(y, y, t)
		g.VMULPS(l.load("dy"), t, t)
		l.store(t, "dx")
	})

	// With a = |x|: 1 − 2/(exp(2a) + 1), or a polynomial where that cancels.
	g.text("tanh", "func(y, x []float32)", "sets y to tanh(x).")
	e, limit := g.exponential(), g.r(10)
	g.each("y x", 1, func(l *lanes) {
		x := l.load("x")
		a := g.magnitude(x, limit)
		big := g.vec()
		g.VADDPS(a, a, big)
		e.exp(big)
		one, two := g.r(1), g.r(2)
		g.VADDPS(one, big, big)
		g.VDIVPS(big, two, big)
		g.VSUBPS(big, one, big)
		q, diff := g.vec(), g.vec()
		g.VMULPS(a, a, q)
		g.VSUBPS(g.f(0.625), a, diff)
		// Minimax for (tanh(a) − a)/a³ in a² ≤ 0.4, relative to tanh.
		p := g.horner(q, -0.3333327606, 0.1333127443, -0.0537251264, 0.02058982555, -0.005648315302)
		g.VMULPS(q, p, p)
		g.VFMADD213PS(a, a, p)
		g.choose(diff, p, big, p)
		g.and(g.word(1<<31), x, x)
		g.or(x, p, p)
		l.store(p, "y")
	})
}

// each emits a function's loop and end. The first slice has the length.
func (g *gen) each(slices string, unroll int, body func(l *lanes)) {
	base := g.bases(slices)
	n := g.Load(g.Param(first(slices)).Len(), g.GP64()).(reg.GPVirtual)
	g.loop(base, n, unroll, body)
	g.end()
}

func first(slices string) string {
	for i, c := range slices {
		if c == ' ' {
			return slices[:i]
		}
	}
	return slices
}

// reductions emits the functions whose result is a number.
func (g *gen) reductions() {
	g.text("dot", "func(x, y []float32) float32", "returns Σ x·y.")
	base := g.bases("x y")
	n := g.Load(g.Param("x").Len(), g.GP64()).(reg.GPVirtual)
	acc := []reg.VecVirtual{g.zero(), g.zero(), g.zero(), g.zero()}
	g.loop(base, n, 4, func(l *lanes) {
		g.VFMADD231PS(l.load("x"), l.load("y"), acc[l.vector])
	})
	g.Store(g.sum(acc...).AsX(), g.ReturnIndex(0))
	g.end()

	// Beyond the end of x the first element stands in.
	g.text("max", "func(x []float32) float32", "returns the largest of at least one element.")
	base = g.bases("x")
	n = g.Load(g.Param("x").Len(), g.GP64()).(reg.GPVirtual)
	top, head := g.vec(), g.vec()
	g.VBROADCASTSS(operand.Mem{Base: base["x"]}, head)
	g.VMOVAPS(head, top)
	g.loop(base, n, 1, func(l *lanes) {
		v := l.load("x")
		switch {
		case l.m != nil:
			g.VBLENDVPS(l.m, v, head, v)
		case l.k != nil:
			g.VBLENDMPS(v, head, l.k, v)
		}
		g.VMAXPS(v, top, top)
	})
	g.Store(g.fold(top, func(o ...operand.Op) { g.VMAXPS(o[0], o[1], o[2]) }).AsX(), g.ReturnIndex(0))
	g.end()

	g.text("expSum", "func(y, x []float32, m float32) float32", "sets y to exp(x − m) and returns its sum.")
	base = g.bases("y x")
	n = g.Load(g.Param("y").Len(), g.GP64()).(reg.GPVirtual)
	e, m, s := g.exponential(), g.param("m"), g.zero()
	g.loop(base, n, 1, func(l *lanes) {
		x := l.load("x")
		g.VSUBPS(m, x, x)
		e.clamp(x)
		e.exp(x)
		l.store(x, "y")
		l.clip(x)
		g.VADDPS(x, s, s)
	})
	g.Store(g.sum(s).AsX(), g.ReturnIndex(0))
	g.end()
}

// rowLoop emits a loop over rows: body, then each of bases advances by its
// distance in bytes.
func (g *gen) rowLoop(rows reg.GPVirtual, advance map[reg.GPVirtual]reg.GPVirtual, order []reg.GPVirtual, body func()) {
	top, end := g.label("row"), g.label("end")
	g.Label(top)
	g.TESTQ(rows, rows)
	g.JEQ(operand.LabelRef(end))
	body()
	for _, b := range order {
		g.ADDQ(advance[b], b)
	}
	g.DECQ(rows)
	g.JMP(operand.LabelRef(top))
	g.Label(end)
}

// gp loads an integer or pointer parameter.
func (g *gen) gp(name string) reg.GPVirtual {
	return g.Load(g.Param(name), g.GP64()).(reg.GPVirtual)
}

// bytes loads a distance in elements as one in bytes.
func (g *gen) bytes(name string) reg.GPVirtual {
	r := g.gp(name)
	g.SHLQ(operand.U8(2), r)
	return r
}

// attention emits what attention does with rows of logits. Row r begins r·ld
// elements after the first.
func (g *gen) attention() {
	g.text("softmaxRows", "func(s *float32, lds int, bias *float32, ldb, rows, n int, scale float32, top, sum *float32)",
		"turns rows of n products s into e = exp(l − top) with l = scale·s + bias, and returns each row's top = max l and sum = Σ e.")
	base := map[string]reg.GPVirtual{"s": g.gp("s"), "bias": g.gp("bias")}
	lds, ldb, rows, n := g.bytes("lds"), g.bytes("ldb"), g.gp("rows"), g.gp("n")
	top, sum, four := g.gp("top"), g.gp("sum"), g.GP64()
	g.MOVQ(operand.U32(4), four)
	scale := g.param("scale")
	e := g.exponential()
	order := []reg.GPVirtual{base["s"], base["bias"], top, sum}
	step := map[reg.GPVirtual]reg.GPVirtual{base["s"]: lds, base["bias"]: ldb, top: four, sum: four}
	g.rowLoop(rows, step, order, func() {
		m, head := g.vec(), g.vec()
		g.VBROADCASTSS(operand.Mem{Base: base["s"]}, head)
		t := g.vec()
		g.VBROADCASTSS(operand.Mem{Base: base["bias"]}, t)
		g.VFMADD213PS(t, scale, head)
		g.VMOVAPS(head, m)
		g.loop(base, n, 2, func(l *lanes) {
			v := l.load("s")
			g.VFMADD213PS(l.load("bias"), scale, v)
			l.store(v, "s")
			switch {
			case l.m != nil:
				g.VBLENDVPS(l.m, v, head, v)
			case l.k != nil:
				g.VBLENDMPS(v, head, l.k, v)
			}
			g.VMAXPS(v, m, m)
		})
		x := g.fold(m, func(o ...operand.Op) { g.VMAXPS(o[0], o[1], o[2]) })
		g.VMOVSS(x.AsX(), operand.Mem{Base: top})
		g.VBROADCASTSS(x, m)
		acc := g.zero()
		g.loop(map[string]reg.GPVirtual{"s": base["s"]}, n, 2, func(l *lanes) {
			v := l.load("s")
			g.VSUBPS(m, v, v)
			e.clamp(v)
			e.exp(v)
			l.store(v, "s")
			l.clip(v)
			g.VADDPS(v, acc, acc)
		})
		g.VMOVSS(g.sum(acc).AsX(), operand.Mem{Base: sum})
	})
	g.end()

	g.text("softmaxGradRows", "func(s, ds *float32, lds int, bias *float32, ldb, rows, n int, scale float32, lse, delta, dbias *float32)",
		"turns rows of n products s into probabilities p = exp(scale·s + bias − lse) and rows ds into p·(ds − delta), which it adds to dbias, laid out as bias.")
	base = map[string]reg.GPVirtual{"s": g.gp("s"), "ds": g.gp("ds"), "bias": g.gp("bias"), "dbias": g.gp("dbias")}
	lds, ldb, rows, n = g.bytes("lds"), g.bytes("ldb"), g.gp("rows"), g.gp("n")
	lse, delta := g.gp("lse"), g.gp("delta")
	four = g.GP64()
	g.MOVQ(operand.U32(4), four)
	scale = g.param("scale")
	e = g.exponential()
	order = []reg.GPVirtual{base["s"], base["ds"], base["bias"], base["dbias"], lse, delta}
	step = map[reg.GPVirtual]reg.GPVirtual{base["s"]: lds, base["ds"]: lds, base["bias"]: ldb, base["dbias"]: ldb, lse: four, delta: four}
	g.rowLoop(rows, step, order, func() {
		m, d := g.vec(), g.vec()
		g.VBROADCASTSS(operand.Mem{Base: lse}, m)
		g.VBROADCASTSS(operand.Mem{Base: delta}, d)
		g.loop(base, n, 1, func(l *lanes) {
			v := l.load("s")
			g.VFMADD213PS(l.load("bias"), scale, v)
			g.VSUBPS(m, v, v)
			e.clamp(v)
			e.exp(v)
			l.store(v, "s")
			t := l.load("ds")
			g.VSUBPS(d, t, t)
			g.VMULPS(v, t, t)
			l.store(t, "ds")
			g.VADDPS(l.load("dbias"), t, t)
			l.store(t, "dbias")
		})
	})
	g.end()

	g.text("scaleRows", "func(y *float32, ldy int, x *float32, ldx, rows, n int, a *float32)",
		"sets rows of n elements of y to those of x times the row's a.")
	base = map[string]reg.GPVirtual{"y": g.gp("y"), "x": g.gp("x")}
	ldy, ldx, rows, n := g.bytes("ldy"), g.bytes("ldx"), g.gp("rows"), g.gp("n")
	a := g.gp("a")
	four = g.GP64()
	g.MOVQ(operand.U32(4), four)
	g.rowLoop(rows, map[reg.GPVirtual]reg.GPVirtual{base["y"]: ldy, base["x"]: ldx, a: four}, []reg.GPVirtual{base["y"], base["x"], a}, func() {
		f := g.vec()
		g.VBROADCASTSS(operand.Mem{Base: a}, f)
		g.loop(base, n, 4, func(l *lanes) {
			v := l.load("x")
			g.VMULPS(f, v, v)
			l.store(v, "y")
		})
	})
	g.end()

	g.text("dotRows", "func(sum, x *float32, ldx int, y *float32, ldy, rows, n int)",
		"sets the elements of sum to the products of the rows of x and y.")
	sum = g.gp("sum")
	base = map[string]reg.GPVirtual{"x": g.gp("x"), "y": g.gp("y")}
	ldx, ldy, rows, n = g.bytes("ldx"), g.bytes("ldy"), g.gp("rows"), g.gp("n")
	four = g.GP64()
	g.MOVQ(operand.U32(4), four)
	g.rowLoop(rows, map[reg.GPVirtual]reg.GPVirtual{base["x"]: ldx, base["y"]: ldy, sum: four}, []reg.GPVirtual{base["x"], base["y"], sum}, func() {
		acc := []reg.VecVirtual{g.zero(), g.zero(), g.zero(), g.zero()}
		g.loop(base, n, 4, func(l *lanes) {
			g.VFMADD231PS(l.load("x"), l.load("y"), acc[l.vector])
		})
		g.VMOVSS(g.sum(acc...).AsX(), operand.Mem{Base: sum})
	})
	g.end()
}

// count returns the length of a slice as a float.
func (g *gen) count(n reg.GPVirtual) reg.VecVirtual {
	x := g.XMM()
	g.VXORPS(x, x, x)
	g.VCVTSI2SSQ(n, x, x)
	return x
}

func (g *gen) layerNorm() {
	g.text("layerNorm", "func(y, x, scale, shift []float32, eps float32) (mean, rstd float32)",
		"normalizes a row of at least one element.")
	base := g.bases("y x scale shift")
	n := g.Load(g.Param("y").Len(), g.GP64()).(reg.GPVirtual)
	count := g.count(n)

	s := []reg.VecVirtual{g.zero(), g.zero()}
	g.loop(base, n, 2, func(l *lanes) { g.VADDPS(l.load("x"), s[l.vector], s[l.vector]) })
	mean := g.sum(s...)
	g.VDIVSS(count, mean, mean)
	g.Store(mean.AsX(), g.Return("mean"))
	m := g.spread(mean)

	q := []reg.VecVirtual{g.zero(), g.zero()}
	g.loop(base, n, 2, func(l *lanes) {
		x := l.load("x")
		g.VSUBPS(m, x, x)
		l.clip(x)
		g.VFMADD231PS(x, x, q[l.vector])
	})
	rstd := g.sum(q...)
	g.VDIVSS(count, rstd, rstd)
	eps, err := g.Param("eps").Resolve()
	if err != nil {
		panic(err)
	}
	g.VADDSS(eps.Addr, rstd, rstd)
	g.VSQRTSS(rstd, rstd, rstd)
	one := g.XMM()
	g.VMOVSS(g.f(1), one)
	g.VDIVSS(rstd, one, rstd)
	g.Store(rstd.AsX(), g.Return("rstd"))
	r := g.spread(rstd)

	g.loop(base, n, 2, func(l *lanes) {
		x := l.load("x")
		g.VSUBPS(m, x, x)
		g.VMULPS(r, x, x)
		g.VFMADD213PS(l.load("shift"), l.load("scale"), x)
		l.store(x, "y")
	})
	g.end()
}

func (g *gen) layerNormGrad() {
	g.text("layerNormGrad", "func(dx, dy, x, scale, dscale, dshift []float32, mean, rstd float32)",
		"is the backward pass of a row.")
	base := g.bases("dx dy x scale dscale dshift")
	n := g.Load(g.Param("dx").Len(), g.GP64()).(reg.GPVirtual)
	mean, rstd := g.param("mean"), g.param("rstd")
	count := g.count(n)

	s, t := []reg.VecVirtual{g.zero(), g.zero()}, []reg.VecVirtual{g.zero(), g.zero()}
	g.loop(base, n, 2, func(l *lanes) {
		h, d := l.load("x"), l.load("dy")
		g.VSUBPS(mean, h, h)
		g.VMULPS(rstd, h, h)
		v := l.load("dscale")
		g.VFMADD231PS(h, d, v)
		l.store(v, "dscale")
		v = l.load("dshift")
		g.VADDPS(d, v, v)
		l.store(v, "dshift")
		g.VMULPS(l.load("scale"), d, d)
		g.VADDPS(d, s[l.vector], s[l.vector])
		g.VFMADD231PS(h, d, t[l.vector])
	})
	a, b := g.sum(s...), g.sum(t...)
	g.VDIVSS(count, a, a)
	g.VDIVSS(count, b, b)
	av, bv := g.spread(a), g.spread(b)

	g.loop(base, n, 2, func(l *lanes) {
		h, d := l.load("x"), l.load("dy")
		g.VSUBPS(mean, h, h)
		g.VMULPS(rstd, h, h)
		g.VFMSUB132PS(l.load("scale"), av, d)
		g.VFNMADD231PS(bv, h, d)
		g.VMULPS(rstd, d, d)
		l.store(d, "dx")
	})
	g.end()
}

func (g *gen) adamW() {
	g.text("adamW", "func(p, m, v, g []float32, c *[8]float32)", "updates parameters; c is an adamConst.")
	base := g.bases("p m v g")
	n := g.Load(g.Param("p").Len(), g.GP64()).(reg.GPVirtual)
	p := g.Load(g.Param("c"), g.GP64()).(reg.GPVirtual)
	var c [8]reg.VecVirtual
	for i := range c {
		c[i] = g.vec()
		g.VBROADCASTSS(operand.Mem{Base: p, Disp: 4 * i}, c[i])
	}
	gradScale, beta1, rest1, beta2, rest2, rate, eps, decay := c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]
	g.loop(base, n, 1, func(l *lanes) {
		d, t := l.load("g"), g.vec()
		g.VMULPS(gradScale, d, d)
		m := l.load("m")
		g.VMULPS(beta1, m, m)
		g.VFMADD231PS(rest1, d, m)
		l.store(m, "m")
		v := l.load("v")
		g.VMULPS(beta2, v, v)
		g.VMULPS(rest2, d, t)
		g.VFMADD231PS(t, d, v)
		l.store(v, "v")
		g.VSQRTPS(v, v)
		g.VADDPS(eps, v, v)
		g.VMULPS(rate, m, m)
		g.VDIVPS(v, m, m)
		p := l.load("p")
		g.VSUBPS(m, p, p)
		t = g.copyOf(p)
		g.VFNMADD231PS(decay, p, t)
		l.store(t, "p")
	})
	g.end()
}
