package jpeg

import (
	"errors"
	"fmt"
)

// scan decodes a scan: b is the header's body, the data follow it.
func (d *decoder) scan(b []byte) error {
	if d.comps == nil {
		return errors.New("scan before the frame")
	}
	if d.done {
		d.skipScan()
		return nil
	}
	if len(b) < 1 || len(b) != 4+2*int(b[0]) || b[0] < 1 || int(b[0]) > len(d.comps) {
		return fmt.Errorf("scan header has %d bytes", len(b))
	}
	var comps []*component
	for p := b[1 : len(b)-3]; len(p) > 0; p = p[2:] {
		var c *component
		for i := range d.comps {
			if d.comps[i].id == p[0] {
				c = &d.comps[i]
			}
		}
		for _, o := range comps {
			if o == c {
				c = nil
			}
		}
		if c == nil || p[1]>>4 > 3 || p[1]&15 > 3 {
			return fmt.Errorf("scan of component %d with tables 0x%02x", p[0], p[1])
		}
		c.td, c.ta = p[1]>>4, p[1]&15
		c.dc, c.ac = d.dcTab[c.td], d.acTab[c.ta]
		comps = append(comps, c)
	}
	first, last, high, low := int(b[len(b)-3]), int(b[len(b)-2]), uint(b[len(b)-1]>>4), uint(b[len(b)-1]&15)
	if !d.progressive {
		first, last, high, low = 0, 63, 0, 0
	} else if first > last || last > 63 || first == 0 && last != 0 || first > 0 && len(comps) != 1 || low > 13 || high != 0 && high != low+1 {
		return fmt.Errorf("scan of coefficients %d to %d, bits %d, %d", first, last, high, low)
	}
	blocks := 0
	for _, c := range comps {
		blocks += c.h * c.v
		if !c.latched {
			q := d.quant[c.tq]
			if q == nil {
				return fmt.Errorf("no quantisation table %d", c.tq)
			}
			c.quant, c.latched = *q, true
		}
		if !d.arithmetic && (first == 0 && high == 0 && c.dc == nil || last > 0 && c.ac == nil) {
			return errors.New("scan without its Huffman tables")
		}
	}
	if len(comps) > 1 && blocks > 10 {
		return fmt.Errorf("%d blocks in an MCU, at most 10 are allowed", blocks)
	}
	s := scanner{d: d, comps: comps, first: first, last: last, high: high, low: low}
	// A block takes two bits at least, in a progressive file one, so that memory
	// is in proportion to the file whatever its header says. Arithmetic coding has
	// no such bound.
	all, least := 0, 1
	for i := range d.comps {
		all += d.comps[i].bw * d.comps[i].bh
	}
	strips := !d.progressive && len(comps) == len(d.comps)
	if strips {
		least = 2
	}
	if all*least > 8*len(d.data) && !d.arithmetic {
		return errTruncated
	}
	if hasTurbo && strips && d.space() < cmyk && !d.plain {
		if pix, ok := turbo(d.data, d.w, d.h); ok {
			d.pix, d.whole = pix, true
			return nil
		}
	}
	if strips {
		d.done = true
		d.allocate()
		return s.strips()
	}
	for i := range d.comps {
		if c := &d.comps[i]; c.coefs == nil {
			c.coefs = make([]int16, 64*c.bw*c.bh)
		}
	}
	return s.stored()
}

// skipScan passes over the data of a scan.
func (d *decoder) skipScan() {
	for {
		d.segment()
		if d.at+1 >= len(d.data) || d.data[d.at+1] < mRST0 || d.data[d.at+1] > mRST7 {
			return
		}
		d.at += 2
	}
}

// scanner is the state of one scan.
type scanner struct {
	d           *decoder
	comps       []*component
	first, last int
	high, low   uint

	bits
	arith   *arith // nil: Huffman coding
	eobs    int    // blocks to come without further coefficients, progressive
	left    int    // MCUs up to the next restart marker
	restart byte
}

// start begins an interval.
func (s *scanner) start() {
	s.bits = bits{buf: s.d.segment()}
	if s.d.arithmetic {
		if s.arith == nil {
			s.arith = new(arith)
		}
		s.arith.reset(s.buf)
	}
	s.eobs, s.left = 0, s.d.interval
	for _, c := range s.comps {
		c.pred = 0
	}
}

// next begins another interval where it is due. It is called before each MCU
// but the first.
func (s *scanner) next() error {
	if s.d.interval == 0 {
		return nil
	}
	if s.left--; s.left > 0 {
		return nil
	}
	if s.overrun() {
		return fmt.Errorf("%w: interval is too short", errTruncated)
	}
	m, err := s.d.marker()
	if err != nil {
		return err
	}
	if m != mRST0+s.restart {
		return fmt.Errorf("marker 0xff%02x where restart marker 0xff%02x is due", m, mRST0+s.restart)
	}
	s.restart = (s.restart + 1) & 7
	s.start()
	return nil
}

// strips decodes the only scan of a sequential frame and writes the picture as
// it goes.
func (s *scanner) strips() error {
	d := s.d
	var block [64]int16
	s.start()
	for my := range d.my {
		for mx := range d.mx {
			if mx+my > 0 {
				if err := s.next(); err != nil {
					return err
				}
			}
			for _, c := range s.comps {
				for v := range c.v {
					row := c.samples[(my&1*c.v+v)*8*c.stride+8*c.h*mx:]
					for h := range c.h {
						last, err := s.sequential(&block, c, true)
						if err != nil {
							return err
						}
						inverseDCT(row[8*h:], c.stride, &block, last)
					}
				}
			}
		}
		if s.overrun() {
			return errTruncated
		}
		d.emit(my)
	}
	return nil
}

// stored decodes a scan into the stored coefficients.
func (s *scanner) stored() error {
	d := s.d
	s.start()
	if len(s.comps) == 1 {
		c := s.comps[0]
		bw, bh := (c.w+7)/8, (c.rows+7)/8
		for by := range bh {
			for bx := range bw {
				if bx+by > 0 {
					if err := s.next(); err != nil {
						return err
					}
				}
				if err := s.block(c, bx, by); err != nil {
					return err
				}
			}
			if s.overrun() {
				return errTruncated
			}
		}
		return nil
	}
	for my := range d.my {
		for mx := range d.mx {
			if mx+my > 0 {
				if err := s.next(); err != nil {
					return err
				}
			}
			for _, c := range s.comps {
				for v := range c.v {
					for h := range c.h {
						if err := s.block(c, mx*c.h+h, my*c.v+v); err != nil {
							return err
						}
					}
				}
			}
		}
		if s.overrun() {
			return errTruncated
		}
	}
	return nil
}

// block decodes what the scan has of a stored block.
func (s *scanner) block(c *component, bx, by int) error {
	b := (*[64]int16)(c.coefs[64*(by*c.bw+bx):])
	switch {
	case s.arith != nil:
		_, err := s.arithBlock(b, c, &ones)
		return err
	case !s.d.progressive:
		_, err := s.sequential(b, c, false)
		return err
	case s.first == 0 && s.high == 0:
		s.refill()
		size, err := s.symbol(c.dc)
		if err != nil {
			return err
		}
		c.pred += s.extended(uint(size & 15))
		b[0] = int16(c.pred << s.low)
		return nil
	case s.first == 0:
		s.refill()
		b[0] |= int16(s.take(1) << s.low)
		return nil
	case s.high == 0:
		return s.acFirst(b, c.ac)
	}
	return s.acRefine(b, c.ac)
}

// sequential decodes a whole block, multiplied by the quantisation table if
// scale is true, and returns the zigzag index of its last coefficient.
func (s *scanner) sequential(b *[64]int16, c *component, scale bool) (last int, err error) {
	clear(b[:])
	if s.arith != nil {
		return s.arithBlock(b, c, &c.quant)
	}
	s.refill()
	size, err := s.symbol(c.dc)
	if err != nil {
		return 0, err
	}
	c.pred += s.extended(uint(size & 15))
	quant := &c.quant
	if !scale {
		quant = &ones
	}
	b[0] = int16(c.pred) * int16(quant[0])

	t := c.ac
	buf, pos, acc, n := s.buf, s.pos, s.acc, s.n
	for k := uint(1); k < 64; k++ {
		if n < 32 {
			if pos+8 <= len(buf) {
				w := buf[pos : pos+8 : pos+8]
				acc |= (uint64(w[7]) | uint64(w[6])<<8 | uint64(w[5])<<16 | uint64(w[4])<<24 |
					uint64(w[3])<<32 | uint64(w[2])<<40 | uint64(w[1])<<48 | uint64(w[0])<<56) >> (n & 63)
				pos += int((63 - n) >> 3)
				n |= 56
			} else {
				s.pos, s.acc, s.n = pos, acc, n
				s.refill()
				pos, acc, n = s.pos, s.acc, s.n
			}
		}
		if e := t.fast[acc>>(64-fastBits)]; e != 0 {
			l := uint(e & 31)
			acc <<= l
			n -= l
			k += uint(e >> 8 & 127)
			if k > 63 {
				break
			}
			z := natural[k] & 63
			b[z] = int16(e>>16) * int16(quant[z])
			last = int(k)
			continue
		}
		s.acc, s.n = acc, n
		rs, err := s.symbol(t)
		if err != nil {
			return 0, err
		}
		run, size := uint(rs>>4), uint(rs&15)
		if size == 0 {
			acc, n = s.acc, s.n
			if run != 15 {
				break
			}
			k += 15
			continue
		}
		v := s.extended(size)
		acc, n = s.acc, s.n
		if k += run; k > 63 {
			break
		}
		z := natural[k] & 63
		b[z] = int16(v) * int16(quant[z])
		last = int(k)
	}
	s.pos, s.acc, s.n = pos, acc, n
	return last, nil
}

var ones = func() (q [64]uint16) {
	for i := range q {
		q[i] = 1
	}
	return q
}()

// acFirst is a first scan of AC coefficients (T.81, G.1.2.2).
func (s *scanner) acFirst(b *[64]int16, t *huffman) error {
	if s.eobs > 0 {
		s.eobs--
		return nil
	}
	for k := s.first; k <= s.last; k++ {
		s.refill()
		rs, err := s.symbol(t)
		if err != nil {
			return err
		}
		run, size := int(rs>>4), uint(rs&15)
		if size == 0 {
			if run < 15 {
				s.eobs = 1<<run - 1 + int(s.take(uint(run)))
				return nil
			}
			k += 15
			continue
		}
		v := s.extended(size)
		if k += run; k > 63 {
			return errors.New("coefficient beyond the block")
		}
		b[natural[k]] = int16(v << s.low)
	}
	return nil
}

// acRefine adds a bit to AC coefficients (T.81, G.1.2.3).
func (s *scanner) acRefine(b *[64]int16, t *huffman) error {
	plus, minus := int16(1)<<s.low, int16(-1)<<s.low
	refine := func(p *int16) {
		s.refill()
		if s.take(1) != 0 && *p&plus == 0 {
			if *p >= 0 {
				*p += plus
			} else {
				*p += minus
			}
		}
	}
	k := s.first
	if s.eobs == 0 {
		for ; k <= s.last; k++ {
			s.refill()
			rs, err := s.symbol(t)
			if err != nil {
				return err
			}
			run, size := int(rs>>4), rs&15
			fresh := int16(0)
			switch {
			case size > 1:
				return errors.New("refined coefficient of more than a bit")
			case size == 1:
				fresh = minus
				if s.take(1) != 0 {
					fresh = plus
				}
			case run < 15:
				s.eobs = 1<<run + int(s.take(uint(run)))
			}
			if s.eobs > 0 {
				break
			}
			// Pass over run coefficients that are still 0, and refine the others.
			for ; k <= s.last; k++ {
				p := &b[natural[k]]
				if *p != 0 {
					refine(p)
					continue
				}
				if run == 0 {
					if fresh != 0 {
						*p = fresh
					}
					break
				}
				run--
			}
		}
	}
	if s.eobs > 0 {
		for ; k <= s.last; k++ {
			if p := &b[natural[k]]; *p != 0 {
				refine(p)
			}
		}
		s.eobs--
	}
	return nil
}
