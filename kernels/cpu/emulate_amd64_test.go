package cpu

import (
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"vlmo-train/kernels"
	"vlmo-train/kernels/conformance"
	"vlmo-train/rng"
)

// machine interprets asm_amd64.s, for processors that lack an instruction
// set. Its arithmetic is held against the real processor where both run.
type machine struct {
	funcs map[string][]step
	data  map[string][]byte

	gp     [16]uint64
	vec    [32][16]float32
	mask   [8]uint16
	zero   bool // of the last comparison
	less   bool
	args   []byte
	result int // offset in args
}

// step is one instruction. It returns the number of the next, 0 for the one
// that follows, or -1 at the end.
type step func(m *machine) int

var gpNames = strings.Fields("AX CX DX BX SP BP SI DI R8 R9 R10 R11 R12 R13 R14 R15")

// operand is an instruction's operand.
type operand struct {
	kind        byte // 'i' immediate, 'g' general register, 'v' vector, 'k' mask, 'm' memory, 'f' argument, 's' symbol
	reg, lanes  int
	imm         int64
	index       int // register, -1 for none
	scale, disp int64
	symbol      string
}

func parseOperand(s string) operand {
	bad := func() { panic("operand " + s) }
	number := func(s string) int64 {
		v, err := strconv.ParseInt(s, 0, 64)
		if err != nil {
			panic("operand " + s)
		}
		return v
	}
	if s[0] == '$' {
		return operand{kind: 'i', imm: number(s[1:])}
	}
	for i, n := range gpNames {
		if s == n {
			return operand{kind: 'g', reg: i}
		}
	}
	if !strings.Contains(s, "(") {
		n, err := strconv.Atoi(s[1:])
		if err != nil {
			bad()
		}
		if s[0] == 'K' {
			return operand{kind: 'k', reg: n}
		}
		lanes, ok := map[byte]int{'X': 4, 'Y': 8, 'Z': 16}[s[0]]
		if !ok {
			bad()
		}
		return operand{kind: 'v', reg: n, lanes: lanes}
	}
	head, rest, _ := strings.Cut(s, "(")
	base, more, _ := strings.Cut(rest, ")")
	switch base {
	case "FP":
		_, off, _ := strings.Cut(head, "+")
		return operand{kind: 'f', disp: number(off)}
	case "SB":
		name, off, _ := strings.Cut(head, "<>+")
		return operand{kind: 's', symbol: name, disp: number(off)}
	}
	o := operand{kind: 'm', reg: parseOperand(base).reg, index: -1}
	if head != "" {
		o.disp = number(head)
	}
	if more != "" {
		reg, scale, _ := strings.Cut(strings.Trim(more, "()"), "*")
		o.index, o.scale = parseOperand(reg).reg, number(scale)
	}
	return o
}

// address returns where a memory operand is.
func (m *machine) address(o *operand) unsafe.Pointer {
	switch o.kind {
	case 'f':
		return unsafe.Pointer(&m.args[o.disp])
	case 's':
		return unsafe.Pointer(&m.data[o.symbol][o.disp])
	}
	a := m.effective(o)
	return *(*unsafe.Pointer)(unsafe.Pointer(&a))
}

func (m *machine) effective(o *operand) uint64 {
	if o.kind == 's' {
		return uint64(uintptr(m.address(o)))
	}
	a := m.gp[o.reg] + uint64(o.disp)
	if o.index >= 0 {
		a += m.gp[o.index] * uint64(o.scale)
	}
	return a
}

func (m *machine) get(o *operand) uint64 {
	switch o.kind {
	case 'i':
		return uint64(o.imm)
	case 'g':
		return m.gp[o.reg]
	}
	return *(*uint64)(m.address(o))
}

// source returns the lanes of a vector operand.
func (m *machine) source(o *operand, lanes int) []float32 {
	if o.kind == 'v' {
		return m.vec[o.reg][:lanes]
	}
	return unsafe.Slice((*float32)(m.address(o)), lanes)
}

// put writes a vector register and clears what is above, or memory.
func (m *machine) put(o *operand, v []float32) {
	if o.kind != 'v' {
		copy(unsafe.Slice((*float32)(m.address(o)), len(v)), v)
		return
	}
	var full [16]float32
	copy(full[:], v)
	m.vec[o.reg] = full
}

func word(f func(a, b uint32) uint32) func(a, b float32) float32 {
	return func(a, b float32) float32 {
		return math.Float32frombits(f(math.Float32bits(a), math.Float32bits(b)))
	}
}

// binary has the instructions dst = f(b, a) of operands a, b, dst.
var binary = map[string]func(a, b float32) float32{
	"VADDPS": func(a, b float32) float32 { return b + a },
	"VSUBPS": func(a, b float32) float32 { return b - a },
	"VMULPS": func(a, b float32) float32 { return b * a },
	"VDIVPS": func(a, b float32) float32 { return b / a },
	"VMINPS": func(a, b float32) float32 {
		if b < a {
			return b
		}
		return a
	},
	"VMAXPS": func(a, b float32) float32 {
		if b > a {
			return b
		}
		return a
	},
	"VANDPS": word(func(a, b uint32) uint32 { return a & b }), "VPANDD": word(func(a, b uint32) uint32 { return a & b }),
	"VORPS": word(func(a, b uint32) uint32 { return a | b }), "VPORD": word(func(a, b uint32) uint32 { return a | b }),
	"VXORPS": word(func(a, b uint32) uint32 { return a ^ b }), "VPXORD": word(func(a, b uint32) uint32 { return a ^ b }),
	"VPADDD": word(func(a, b uint32) uint32 { return a + b }),
	"VPSUBD": word(func(a, b uint32) uint32 { return b - a }),
}

func fma(a, b, c float32) float32 { return float32(math.FMA(float64(a), float64(b), float64(c))) }

// ternary has the instructions dst = f(a, b, dst).
var ternary = map[string]func(a, b, d float32) float32{
	"VFMADD231PS":  func(a, b, d float32) float32 { return fma(a, b, d) },
	"VFMADD213PS":  func(a, b, d float32) float32 { return fma(b, d, a) },
	"VFMADD132PS":  func(a, b, d float32) float32 { return fma(d, a, b) },
	"VFMSUB213PS":  func(a, b, d float32) float32 { return fma(b, d, -a) },
	"VFMSUB132PS":  func(a, b, d float32) float32 { return fma(d, a, -b) },
	"VFNMADD231PS": func(a, b, d float32) float32 { return fma(-a, b, d) },
	"VDPBF16PS": func(a, b, d float32) float32 {
		x, y := math.Float32bits(a), math.Float32bits(b)
		d = fma(kernels.FromBF16(uint16(x>>16)), kernels.FromBF16(uint16(y>>16)), d)
		return fma(kernels.FromBF16(uint16(x)), kernels.FromBF16(uint16(y)), d)
	},
}

// compile translates one instruction.
func compile(name string, o []operand, target int) step {
	if f, ok := binary[name]; ok {
		return func(m *machine) int {
			var v [16]float32
			n := o[2].lanes
			a, b := m.source(&o[0], n), m.source(&o[1], n)
			for i := range n {
				v[i] = f(a[i], b[i])
			}
			m.put(&o[2], v[:n])
			return 0
		}
	}
	if f, ok := ternary[name]; ok {
		return func(m *machine) int {
			var v [16]float32
			n := o[2].lanes
			a, b, d := m.source(&o[0], n), m.source(&o[1], n), m.source(&o[2], n)
			for i := range n {
				v[i] = f(a[i], b[i], d[i])
			}
			m.put(&o[2], v[:n])
			return 0
		}
	}
	// vector makes a step that computes all lanes of the last operand.
	vector := func(f func(m *machine, v []float32, n int)) step {
		last := &o[len(o)-1]
		return func(m *machine) int {
			var v [16]float32
			f(m, v[:], last.lanes)
			m.put(last, v[:last.lanes])
			return 0
		}
	}
	scalar := func(f func(a, b float32) float32) step {
		return vector(func(m *machine, v []float32, n int) {
			copy(v[:4], m.source(&o[1], 4))
			v[0] = f(m.source(&o[0], 1)[0], v[0])
		})
	}
	general := func(f func(a, d uint64) uint64) step {
		return func(m *machine) int {
			d := &o[len(o)-1]
			m.gp[d.reg] = f(m.get(&o[0]), m.gp[d.reg])
			m.zero = m.gp[d.reg] == 0
			return 0
		}
	}
	jump := func(f func(m *machine) bool) step {
		return func(m *machine) int {
			if f(m) {
				return target
			}
			return 0
		}
	}
	switch name {
	case "MOVQ":
		if o[1].kind == 'm' {
			return func(m *machine) int { *(*uint64)(m.address(&o[1])) = m.get(&o[0]); return 0 }
		}
		return general(func(a, d uint64) uint64 { return a })
	case "MOVL":
		if o[1].kind == 'm' {
			return func(m *machine) int { *(*uint32)(m.address(&o[1])) = uint32(m.get(&o[0])); return 0 }
		}
		return func(m *machine) int {
			if o[0].kind == 'm' {
				m.gp[o[1].reg] = uint64(*(*uint32)(m.address(&o[0])))
			} else {
				m.gp[o[1].reg] = uint64(uint32(m.get(&o[0])))
			}
			return 0
		}
	case "MOVB":
		return func(m *machine) int { m.gp[o[1].reg] = uint64(*(*uint8)(m.address(&o[0]))); return 0 }
	case "MOVSS", "VMOVSS":
		if o[1].kind == 'v' {
			return func(m *machine) int { m.put(&o[1], m.source(&o[0], 1)); return 0 }
		}
		return func(m *machine) int { m.put(&o[1], m.source(&o[0], 1)); return 0 }
	case "ADDQ":
		return general(func(a, d uint64) uint64 { return d + a })
	case "SUBQ":
		return general(func(a, d uint64) uint64 { return d - a })
	case "XORQ":
		return general(func(a, d uint64) uint64 { return d ^ a })
	case "SHLQ":
		return general(func(a, d uint64) uint64 { return d << a })
	case "NEGQ":
		return general(func(a, d uint64) uint64 { return -d })
	case "DECQ":
		return general(func(a, d uint64) uint64 { return d - 1 })
	case "DECL":
		return general(func(a, d uint64) uint64 { return uint64(uint32(d - 1)) })
	case "SHLXL":
		return func(m *machine) int {
			m.gp[o[2].reg] = uint64(uint32(m.get(&o[1])) << (m.get(&o[0]) & 31))
			return 0
		}
	case "LEAQ":
		return func(m *machine) int { m.gp[o[1].reg] = m.effective(&o[0]); return 0 }
	case "CMPQ":
		return func(m *machine) int {
			a, b := int64(m.get(&o[0])), int64(m.get(&o[1]))
			m.zero, m.less = a == b, a < b
			return 0
		}
	case "TESTQ":
		return func(m *machine) int { m.zero = m.get(&o[0])&m.get(&o[1]) == 0; return 0 }
	case "TESTB":
		return func(m *machine) int { m.zero = uint8(m.get(&o[0])&m.get(&o[1])) == 0; return 0 }
	case "JMP":
		return jump(func(m *machine) bool { return true })
	case "JEQ":
		return jump(func(m *machine) bool { return m.zero })
	case "JNE":
		return jump(func(m *machine) bool { return !m.zero })
	case "JLT":
		return jump(func(m *machine) bool { return m.less })
	case "JLE":
		return jump(func(m *machine) bool { return m.less || m.zero })
	case "RET":
		return func(m *machine) int { return -1 }
	case "PREFETCHT0", "PREFETCHT1":
		return func(m *machine) int { return 0 }
	case "VZEROUPPER":
		return func(m *machine) int {
			for i := range 16 {
				clear(m.vec[i][4:])
			}
			return 0
		}
	case "KMOVW":
		return func(m *machine) int { m.mask[o[1].reg] = uint16(m.get(&o[0])); return 0 }
	case "VPMOVD2M":
		return func(m *machine) int {
			var k uint16
			for i, v := range m.source(&o[0], o[0].lanes) {
				k |= uint16(math.Float32bits(v)>>31) << i
			}
			m.mask[o[1].reg] = k
			return 0
		}
	case "VMOVUPS", "VMOVAPS", "VMOVDQU":
		if len(o) == 3 { // a masked store
			return func(m *machine) int {
				for i, v := range m.source(&o[0], o[0].lanes) {
					if m.mask[o[1].reg]>>i&1 != 0 {
						*(*float32)(unsafe.Add(m.address(&o[2]), 4*i)) = v
					}
				}
				return 0
			}
		}
		n := max(o[0].lanes, o[1].lanes)
		return func(m *machine) int { m.put(&o[1], m.source(&o[0], n)); return 0 }
	case "VMOVUPS.Z", "VMOVAPS.Z":
		return vector(func(m *machine, v []float32, n int) {
			for i := range n {
				if m.mask[o[1].reg]>>i&1 == 0 {
					continue
				}
				if o[0].kind == 'v' {
					v[i] = m.vec[o[0].reg][i]
				} else {
					v[i] = *(*float32)(unsafe.Add(m.address(&o[0]), 4*i))
				}
			}
		})
	case "VMASKMOVPS":
		if o[2].kind == 'v' {
			return vector(func(m *machine, v []float32, n int) {
				for i := range n {
					if math.Float32bits(m.vec[o[1].reg][i])>>31 != 0 {
						v[i] = *(*float32)(unsafe.Add(m.address(&o[0]), 4*i))
					}
				}
			})
		}
		return func(m *machine) int {
			for i, v := range m.source(&o[0], o[0].lanes) {
				if math.Float32bits(m.vec[o[1].reg][i])>>31 != 0 {
					*(*float32)(unsafe.Add(m.address(&o[2]), 4*i)) = v
				}
			}
			return 0
		}
	case "VBROADCASTSS":
		return vector(func(m *machine, v []float32, n int) {
			x := m.source(&o[0], 1)[0]
			for i := range n {
				v[i] = x
			}
		})
	case "VBLENDVPS":
		return vector(func(m *machine, v []float32, n int) {
			for i := range n {
				if v[i] = m.vec[o[2].reg][i]; math.Float32bits(m.vec[o[0].reg][i])>>31 != 0 {
					v[i] = m.vec[o[1].reg][i]
				}
			}
		})
	case "VBLENDMPS":
		return vector(func(m *machine, v []float32, n int) {
			for i := range n {
				if v[i] = m.vec[o[1].reg][i]; m.mask[o[2].reg]>>i&1 != 0 {
					v[i] = m.vec[o[0].reg][i]
				}
			}
		})
	case "VPSLLD":
		return vector(func(m *machine, v []float32, n int) {
			for i := range n {
				v[i] = math.Float32frombits(math.Float32bits(m.vec[o[1].reg][i]) << o[0].imm)
			}
		})
	case "VPSRLD":
		return vector(func(m *machine, v []float32, n int) {
			for i := range n {
				v[i] = math.Float32frombits(math.Float32bits(m.vec[o[1].reg][i]) >> o[0].imm)
			}
		})
	case "VPMOVZXWD", "VPMOVZXWD.Z":
		return vector(func(m *machine, v []float32, n int) {
			for i := range n {
				if len(o) == 2 || m.mask[o[1].reg]>>i&1 != 0 {
					from := unsafe.Pointer(&m.vec[o[0].reg])
					if o[0].kind != 'v' {
						from = m.address(&o[0])
					}
					v[i] = math.Float32frombits(uint32(*(*uint16)(unsafe.Add(from, 2*i))))
				}
			}
		})
	case "VCVTNEPS2BF16":
		return vector(func(m *machine, v []float32, n int) {
			h := unsafe.Slice((*uint16)(unsafe.Pointer(&v[0])), 2*n)
			for i, x := range m.source(&o[0], 2*n) {
				if h[i] = kernels.RoundBF16(x); math.Abs(float64(x)) < 0x1p-126 {
					h[i] = uint16(math.Float32bits(x)>>16) & 0x8000
				}
			}
		})
	case "VPMOVDW":
		to := &o[len(o)-1]
		return func(m *machine) int {
			for i, v := range m.source(&o[0], o[0].lanes) {
				if len(o) == 2 || m.mask[o[1].reg]>>i&1 != 0 {
					*(*uint16)(unsafe.Add(m.address(to), 2*i)) = uint16(math.Float32bits(v))
				}
			}
			return 0
		}
	case "VPACKUSDW":
		return vector(func(m *machine, v []float32, n int) {
			var h [8]uint32
			for i := range 4 {
				h[i] = min(math.Float32bits(m.vec[o[1].reg][i]), 0xffff)
				h[4+i] = min(math.Float32bits(m.vec[o[0].reg][i]), 0xffff)
			}
			for i := range 4 {
				v[i] = math.Float32frombits(h[2*i] | h[2*i+1]<<16)
			}
		})
	case "VMOVD":
		if o[0].kind == 'v' {
			return func(m *machine) int { m.gp[o[1].reg] = uint64(math.Float32bits(m.vec[o[0].reg][0])); return 0 }
		}
		return vector(func(m *machine, v []float32, n int) { v[0] = math.Float32frombits(uint32(m.get(&o[0]))) })
	case "MOVWLZX":
		return func(m *machine) int { m.gp[o[1].reg] = uint64(*(*uint16)(m.address(&o[0]))); return 0 }
	case "MOVW":
		return func(m *machine) int { *(*uint16)(m.address(&o[1])) = uint16(m.get(&o[0])); return 0 }
	case "VPSRLDQ":
		return vector(func(m *machine, v []float32, n int) { copy(v, m.vec[o[1].reg][o[0].imm/4:4]) })
	case "VMOVHLPS":
		return vector(func(m *machine, v []float32, n int) {
			copy(v[:2], m.vec[o[0].reg][2:4])
			copy(v[2:4], m.vec[o[1].reg][2:4])
		})
	case "VEXTRACTF128":
		return vector(func(m *machine, v []float32, n int) { copy(v, m.vec[o[1].reg][o[0].imm*4:][:4]) })
	case "VEXTRACTF64X4":
		return vector(func(m *machine, v []float32, n int) { copy(v, m.vec[o[1].reg][o[0].imm*8:][:8]) })
	case "VUNPCKLPS", "VUNPCKHPS":
		from := 0
		if name == "VUNPCKHPS" {
			from = 2
		}
		return vector(func(m *machine, v []float32, n int) {
			a, b := &m.vec[o[0].reg], &m.vec[o[1].reg]
			for i := 0; i < n; i += 4 {
				v[i], v[i+1], v[i+2], v[i+3] = b[i+from], a[i+from], b[i+from+1], a[i+from+1]
			}
		})
	case "VSHUFPS":
		return vector(func(m *machine, v []float32, n int) {
			a, b, s := &m.vec[o[1].reg], &m.vec[o[2].reg], o[0].imm
			for i := 0; i < n; i += 4 {
				v[i], v[i+1] = b[i+int(s&3)], b[i+int(s>>2&3)]
				v[i+2], v[i+3] = a[i+int(s>>4&3)], a[i+int(s>>6&3)]
			}
		})
	case "VPERM2F128":
		return vector(func(m *machine, v []float32, n int) {
			for i := range 2 {
				s := o[0].imm >> (4 * i)
				from := &m.vec[o[2].reg]
				if s&2 != 0 {
					from = &m.vec[o[1].reg]
				}
				copy(v[4*i:], from[4*(s&1):][:4])
			}
		})
	case "VCVTTPS2DQ":
		return vector(func(m *machine, v []float32, n int) {
			for i, x := range m.source(&o[0], n) {
				k := int32(math.MinInt32)
				if x > -1<<31 && x < 1<<31 {
					k = int32(x)
				}
				v[i] = math.Float32frombits(uint32(k))
			}
		})
	case "VCVTDQ2PS":
		return vector(func(m *machine, v []float32, n int) {
			for i, x := range m.source(&o[0], n) {
				v[i] = float32(int32(math.Float32bits(x)))
			}
		})
	case "VPERMI2PS":
		return vector(func(m *machine, v []float32, n int) {
			for i, x := range m.source(&o[2], n) {
				k := math.Float32bits(x) & 31
				v[i] = m.vec[o[1-k/16].reg][k%16]
			}
		})
	case "VSQRTPS":
		return vector(func(m *machine, v []float32, n int) {
			for i, x := range m.source(&o[0], n) {
				v[i] = float32(math.Sqrt(float64(x)))
			}
		})
	case "VSQRTSS":
		return scalar(func(a, b float32) float32 { return float32(math.Sqrt(float64(a))) })
	case "VADDSS":
		return scalar(func(a, b float32) float32 { return b + a })
	case "VDIVSS":
		return scalar(func(a, b float32) float32 { return b / a })
	case "VCVTSI2SSQ":
		return vector(func(m *machine, v []float32, n int) {
			copy(v[:4], m.source(&o[1], 4))
			v[0] = float32(int64(m.get(&o[0])))
		})
	}
	panic("instruction " + name)
}

// load reads the assembly.
func load(t *testing.T) *machine {
	text, err := os.ReadFile("asm_amd64.s")
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{funcs: map[string][]step{}, data: map[string][]byte{}}
	type line struct {
		name string
		args []string
	}
	var fn string
	var lines []line
	labels := map[string]int{}
	finish := func() {
		steps := []step{nil} // 0 means the next
		for _, l := range lines {
			var o []operand
			target := 0
			for _, a := range l.args {
				if n, ok := labels[a]; ok {
					target = n
				} else {
					o = append(o, parseOperand(a))
				}
			}
			steps = append(steps, compile(l.name, o, target))
		}
		m.funcs[fn] = steps
	}
	for _, s := range strings.Split(string(text), "\n") {
		s, meaning, _ := strings.Cut(s, "//")
		if strings.Contains(s, "LONG") { // an instruction in bytes
			s = meaning
		}
		f := strings.Fields(s)
		switch {
		case len(f) == 0 || s[0] == '#' || f[0] == "GLOBL":
		case f[0] == "DATA":
			name, _, _ := strings.Cut(f[1], "<>")
			v, err := strconv.ParseUint(strings.TrimPrefix(f[2], "$"), 0, 32)
			if err != nil {
				t.Fatal(err)
			}
			for range 4 {
				m.data[name] = append(m.data[name], byte(v))
				v >>= 8
			}
		case f[0] == "TEXT":
			if fn != "" {
				finish()
			}
			fn, _, _ = strings.Cut(strings.TrimPrefix(f[1], "·"), "(")
			lines, labels = nil, map[string]int{}
		case strings.HasSuffix(f[0], ":"):
			labels[strings.TrimSuffix(f[0], ":")] = len(lines) + 1
		default:
			var args []string
			if rest := strings.TrimSpace(s)[len(f[0]):]; strings.TrimSpace(rest) != "" {
				for _, a := range strings.Split(rest, ", ") {
					args = append(args, strings.TrimSpace(a))
				}
			}
			lines = append(lines, line{f[0], args})
		}
	}
	finish()
	return m
}

// call runs a function. Arguments are laid out as Go's assembler does.
func (m *machine) call(name string, args ...any) {
	m.args = m.args[:0]
	push := func(v uint64, size int) {
		for len(m.args)%size != 0 {
			m.args = append(m.args, 0)
		}
		for range size {
			m.args = append(m.args, byte(v))
			v >>= 8
		}
	}
	address := func(p *float32) { push(uint64(uintptr(unsafe.Pointer(p))), 8) }
	for _, a := range args {
		switch a := a.(type) {
		case int:
			push(uint64(a), 8)
		case *float32:
			address(a)
		case *[8]float32:
			address(&a[0])
		case *byte:
			push(uint64(uintptr(unsafe.Pointer(a))), 8)
		case *uint16:
			push(uint64(uintptr(unsafe.Pointer(a))), 8)
		case []uint16:
			push(uint64(uintptr(unsafe.Pointer(unsafe.SliceData(a)))), 8)
			push(uint64(len(a)), 8)
			push(uint64(cap(a)), 8)
		case []float32:
			address(unsafe.SliceData(a))
			push(uint64(len(a)), 8)
			push(uint64(cap(a)), 8)
		case float32:
			push(uint64(math.Float32bits(a)), 4)
		case bool:
			v := uint64(0)
			if a {
				v = 1
			}
			push(v, 1)
		default:
			panic(fmt.Sprintf("argument %T", a))
		}
	}
	for len(m.args)%8 != 0 {
		m.args = append(m.args, 0)
	}
	m.result = len(m.args)
	m.args = append(m.args, make([]byte, 16)...)
	for i := range m.vec { // what a function leaves behind must not matter
		for j := range m.vec[i] {
			m.vec[i][j] = float32(math.NaN())
		}
	}
	steps := m.funcs[name]
	for pc := 1; ; {
		switch next := steps[pc](m); next {
		case 0:
			pc++
		case -1:
			return
		default:
			pc = next
		}
	}
}

func (m *machine) float(i int) float32 { return *(*float32)(unsafe.Pointer(&m.args[m.result+4*i])) }

// emulated returns like, one of avx2 and avx512, with all functions run by m.
func (m *machine) emulated(like *isa, suffix string) *isa {
	pack := func(name string) func(dst, src *float32, stride, k int) {
		return func(dst, src *float32, stride, k int) { m.call(name+suffix, dst, src, stride, k) }
	}
	two := func(name string) func(y, x []float32) {
		return func(y, x []float32) { m.call(name+suffix, y, x) }
	}
	three := func(name string) func(z, y, x []float32) {
		return func(z, y, x []float32) { m.call(name+suffix, z, y, x) }
	}
	twoA := func(name string) func(y, x []float32, a float32) {
		return func(y, x []float32, a float32) { m.call(name+suffix, y, x, a) }
	}
	threeA := func(name string) func(z, y, x []float32, a float32) {
		return func(z, y, x []float32, a float32) { m.call(name+suffix, z, y, x, a) }
	}
	s := &isa{
		name: "emulated " + like.name, mr: like.mr, nr: like.nr,
		gemm: func(k int, a *float32, ars, acs int, b, c *float32, ldc int, add bool) {
			m.call("gemm"+suffix, k, a, ars, acs, b, c, ldc, add)
		},
		gemmHalf: func(k int, a *float32, ars, acs int, b, c *float32, ldc int, add bool) {
			m.call("gemmHalf"+suffix, k, a, ars, acs, b, c, ldc, add)
		},
		pack: pack("pack"), packT: pack("packT"), packCols: pack("packCols"),
		packColsSum: func(dst, src *float32, stride, k int, sum *float32) {
			m.call("packColsSum"+suffix, dst, src, stride, k, sum)
		},
		copyRows: func(dst *float32, ldd int, src *float32, lds, rows, cols int) {
			m.call("copyRows"+suffix, dst, ldd, src, lds, rows, cols)
		},
		prefetch: func(p *byte, stride, rows, size int) { m.call("prefetch"+suffix, p, stride, rows, size) },
		widen:    func(y []float32, x []uint16) { m.call("widen"+suffix, y, x) },
		addHalf:  func(y []float32, x []uint16) { m.call("addHalf"+suffix, y, x) },
		add:      two("add"), axpy: twoA("axpy"), scale: twoA("scale"), scaleAdd: threeA("scaleAdd"), mul: threeA("mul"),
		mulAdd: func(z, x, y, g []float32, a float32) { m.call("mulAdd"+suffix, z, x, y, g, a) },
		mulAcc: threeA("mulAcc"),
		gelu:   two("gelu"), geluGrad: three("geluGrad"), biasGelu: three("biasGelu"), tanh: two("tanh"), tanhGrad: three("tanhGrad"),
		max:    func(x []float32) float32 { m.call("max"+suffix, x); return m.float(0) },
		dot:    func(x, y []float32) float32 { m.call("dot"+suffix, x, y); return m.float(0) },
		expSum: func(y, x []float32, a float32) float32 { m.call("expSum"+suffix, y, x, a); return m.float(0) },
		softmaxRows: func(x *float32, lds int, bias *float32, ldb, rows, n int, scale float32, top, sum *float32) {
			m.call("softmaxRows"+suffix, x, lds, bias, ldb, rows, n, scale, top, sum)
		},
		softmaxGradRows: func(x, dx *float32, lds int, bias *float32, ldb, rows, n int, scale float32, lse, delta, dbias *float32) {
			m.call("softmaxGradRows"+suffix, x, dx, lds, bias, ldb, rows, n, scale, lse, delta, dbias)
		},
		scaleRows: func(y *float32, ldy int, x *float32, ldx, rows, n int, a *float32) {
			m.call("scaleRows"+suffix, y, ldy, x, ldx, rows, n, a)
		},
		dotRows: func(sum, x *float32, ldx int, y *float32, ldy, rows, n int) {
			m.call("dotRows"+suffix, sum, x, ldx, y, ldy, rows, n)
		},
		layerNorm: func(y, x, scale, shift []float32, eps float32) (mean, rstd float32) {
			m.call("layerNorm"+suffix, y, x, scale, shift, eps)
			return m.float(0), m.float(1)
		},
		layerNormGrad: func(dx, dy, x, scale, dscale, dshift []float32, mean, rstd float32) {
			m.call("layerNormGrad"+suffix, dx, dy, x, scale, dscale, dshift, mean, rstd)
		},
		adamW: func(p, mm, v, g []float32, c *adamConst) { m.call("adamW"+suffix, p, mm, v, g, c) },
	}
	s.narrow, s.narrowAdd, s.biasGeluHalf, s.geluGradHalf = m.rounding(suffix)
	if like.gemmPairs != nil {
		pairs := func(name string) func(dst *float32, src *uint16, stride, k int) {
			return func(dst *float32, src *uint16, stride, k int) { m.call(name+suffix, dst, src, stride, k) }
		}
		s.packPairs, s.packColsPairs = pairs("packPairs"), pairs("packColsPairs")
		s.gemmPairs = func(k int, a *float32, ars, acs int, b, c *float32, ldc int, add bool) {
			m.call("gemmPairs"+suffix, k, a, ars, acs, b, c, ldc, add)
		}
		s.narrow, s.narrowAdd, s.biasGeluHalf, s.geluGradHalf = m.rounding(suffix + "BF16")
	}
	return s
}

func (m *machine) rounding(suffix string) (narrow func(y []uint16, x []float32), narrowAdd func(y []uint16, x, b []float32),
	biasGeluHalf func(y, pre []uint16, x, b []float32), geluGradHalf func(dx []uint16, dy []float32, x []uint16)) {
	return func(y []uint16, x []float32) { m.call("narrow"+suffix, y, x) },
		func(y []uint16, x, b []float32) { m.call("narrowAdd"+suffix, y, x, b) },
		func(y, pre []uint16, x, b []float32) { m.call("biasGeluHalf"+suffix, y, pre, x, b) },
		func(dx []uint16, dy []float32, x []uint16) { m.call("geluGradHalf"+suffix, dx, dy, x) }
}

// The emulator computes what the processor does.
func TestEmulator(t *testing.T) {
	if available()[len(available())-1] == available()[0] {
		t.Skip("the processor has no AVX2")
	}
	m := load(t)
	for _, real := range available() {
		if real == &generic {
			continue
		}
		fake := m.emulated(real, map[string]string{"avx2": "AVX2", "avx512": "AVX512", "avx512bf16": "AVX512"}[real.name])
		src := rng.New(rng.Key{Seed: 3})
		const seed = 3
		t.Logf("seed %d", seed)
		for _, n := range []int{1, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 40, 63, 64, 65, 100, 131} {
			compare := func(name string, f func(s *isa, x [6][]float32) float32) {
				var a, b [6][]float32
				for i := range a {
					a[i], b[i] = make([]float32, n), make([]float32, n)
					for j := range n {
						a[i][j] = float32(3 * src.Norm())
						if i == 5 { // a variance
							a[i][j] = max(a[i][j], 0)
						}
					}
					copy(b[i], a[i])
				}
				if x, y := f(real, a), f(fake, b); x != y {
					t.Errorf("%s: %s of %d returns %v, the processor %v", real.name, name, n, y, x)
				}
				for i := range a {
					for j := range a[i] {
						if a[i][j] != b[i][j] {
							t.Fatalf("%s: %s of %d: element %d of slice %d is %v, on the processor %v",
								real.name, name, n, j, i, b[i][j], a[i][j])
						}
					}
				}
			}
			compare("expSum", func(s *isa, x [6][]float32) float32 { return s.expSum(x[0], x[1], 2) })
			compare("dot", func(s *isa, x [6][]float32) float32 { return s.dot(x[0], x[1]) })
			compare("max", func(s *isa, x [6][]float32) float32 { return s.max(x[0]) })
			compare("bfloat16", func(s *isa, x [6][]float32) float32 {
				h := make([]uint16, n)
				x[0][n/2] = float32(math.NaN())
				x[0][n-1] *= 1e-39
				s.narrow(h, x[0])
				s.widen(x[1], h)
				s.addHalf(x[2], h)
				for i, v := range x[0] {
					want := kernels.FromBF16(kernels.RoundBF16(v))
					if s.gemmPairs != nil && max(v, -v) < 0x1p-126 { // see (*gen).round
						want = 0
					}
					if x[1][i] != want && v == v {
						t.Errorf("%s: %v is rounded to %v, want %v", s.name, v, x[1][i], want)
					}
				}
				if x[1][n/2] == x[1][n/2] || x[2][n/2] == x[2][n/2] {
					t.Errorf("%s: a NaN became a number", s.name)
				}
				x[0][n/2], x[1][n/2], x[2][n/2] = 0, 0, 0
				return 0
			})
			compare("rounded functions", func(s *isa, x [6][]float32) float32 {
				a, b, c := make([]uint16, n), make([]uint16, n), make([]uint16, n)
				s.biasGeluHalf(a, b, x[0], x[1])
				s.biasGeluHalf(c, c, x[0], x[1])
				if !slices.Equal(a, c) {
					t.Errorf("%s: biasGeluHalf in place differs", s.name)
				}
				s.geluGradHalf(c, x[2], b)
				for i, h := range [][]uint16{a, b, c} {
					s.widen(x[3+i], h)
				}
				s.narrowAdd(a, x[0], x[1])
				s.widen(x[0], a)
				return 0
			})
			compare("elementwise", func(s *isa, x [6][]float32) float32 {
				s.add(x[0], x[1])
				s.axpy(x[0], x[2], 0.3)
				s.scale(x[1], x[0], 0.7)
				s.scaleAdd(x[2], x[1], x[0], 1.7)
				s.mul(x[1], x[2], x[0], 0.1)
				s.mulAdd(x[3], x[2], x[1], x[0], 0.2)
				s.mulAcc(x[4], x[1], x[2], 1.1)
				return 0
			})
			compare("rows", func(s *isa, x [6][]float32) float32 {
				const rows = 3
				k := n / rows
				if k == 0 {
					return 0
				}
				s.softmaxRows(&x[0][0], k, &x[1][0], k, rows, k, 0.3, &x[2][0], &x[3][0])
				s.softmaxGradRows(&x[0][0], &x[4][0], k, &x[1][0], 0, rows, k, 0.3, &x[2][0], &x[3][0], &x[5][0])
				s.dotRows(&x[2][0], &x[0][0], k, &x[4][0], k, rows, k)
				s.scaleRows(&x[1][0], k, &x[0][0], k, rows, k, &x[3][0])
				return 0
			})
			compare("functions", func(s *isa, x [6][]float32) float32 {
				s.gelu(x[0], x[0])
				s.geluGrad(x[1], x[2], x[1])
				s.biasGelu(x[5], x[0], x[2])
				s.tanh(x[3], x[3])
				s.tanhGrad(x[4], x[2], x[3])
				return 0
			})
			compare("layerNorm", func(s *isa, x [6][]float32) float32 {
				mean, rstd := s.layerNorm(x[0], x[1], x[2], x[3], 0.1)
				s.layerNormGrad(x[4], x[0], x[1], x[2], x[3], x[5], mean, rstd)
				return mean + rstd
			})
			compare("adamW", func(s *isa, x [6][]float32) float32 {
				s.adamW(x[0], x[1], x[5], x[2], &adamConst{0.5, 0.9, 0.1, 0.98, 0.02, 1e-3, 1e-8, 1e-5})
				return 0
			})
		}
	}
}

// The assembly for instruction sets that this processor lacks is right in the
// emulator.
func TestEmulated(t *testing.T) {
	if testing.Short() {
		t.Skip("slow")
	}
	m := load(t)
	s := m.emulated(&avx512bf16, "AVX512")
	conformance.Run(t, func() (kernels.Device, error) {
		return &device{isa: s, pool: newPool(s, 1), name: s.name}, nil
	})
	accuracy(t, s)
	special(t, s)
}
