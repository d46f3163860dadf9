// Package pickle decodes Python pickles, protocols 0 to 5, into plain data.
//
// It never runs anything: no class is loaded and no function called. A pickle
// names what it wants built; names are looked up in tables of ours, and a call
// of any other name is a [ForbiddenError]. An object of an unknown class that
// is merely created, without a call, becomes an inert [Object].
//
// Memory stays below a fixed multiple of the input, [MaxGrowth], whatever the
// input says. The opcodes are those of Python's pickletools.
package pickle

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"strconv"
	"strings"
)

// MaxGrowth bounds the memory of a decoded pickle: so many bytes at most for
// each byte of the input, and a few kilobytes.
const MaxGrowth = 400

// maxLength bounds a pickle. Those in checkpoints have some megabytes; the
// tensors' bytes are outside.
const maxLength = 256 << 20

// Python values that have no Go type of their own. None is nil; the others are
// bool, int64, *big.Int (beyond int64), float64, string and []byte.
type (
	// Tuple is a tuple; frozen sets are tuples as well.
	Tuple []any

	// List is a list or a set.
	List struct{ Items []any }

	// Global is a name: of a class or a function that a pickle refers to.
	Global struct{ Module, Name string }

	// Object is an instance of a class that is not decoded: what the pickle
	// says about it, and nothing of what the class would make of it.
	Object struct {
		Class Global
		Args  Tuple // of its creation
		State any   // argument of the last BUILD
		Items *Dict // of a dictionary's subclass; nil without items
		List  []any // of a list's subclass
	}
)

// Dict is a dictionary in the order of insertion.
type Dict struct {
	Keys, Values []any
	index        map[string]int // of string keys
}

func (g Global) String() string { return g.Module + "." + g.Name }

// Get returns the value of a string key.
func (d *Dict) Get(key string) (value any, ok bool) {
	i, ok := d.index[key]
	if !ok {
		return nil, false
	}
	return d.Values[i], true
}

// Set adds a key, or replaces the value of a string key that is there.
func (d *Dict) Set(key, value any) {
	if s, ok := key.(string); ok {
		if i, ok := d.index[s]; ok {
			d.Values[i] = value
			return
		}
		if d.index == nil {
			d.index = map[string]int{}
		}
		d.index[s] = len(d.Keys)
	}
	d.Keys, d.Values = append(d.Keys, key), append(d.Values, value)
}

// ForbiddenError tells that a pickle wants to use a name that is not on the
// list. Nothing was run.
type ForbiddenError struct {
	Global Global
	Offset int64 // of the opcode
}

func (e *ForbiddenError) Error() string {
	return fmt.Sprintf("pickle: byte %d: %s is refused: only tensors and plain containers are decoded, and nothing is run", e.Offset, e.Global)
}

// Hooks extend what is decoded. Either may be nil.
type Hooks struct {
	// Call returns what a call of g with args makes. ok is false if it does
	// not know g.
	Call func(g Global, args Tuple) (value any, ok bool, err error)
	// Persistent returns what a persistent id stands for.
	Persistent func(id any) (any, error)
}

// Decode decodes the pickle at the start of the size bytes of r, and returns
// its value and its length in bytes.
func Decode(r io.Reader, size int64, h Hooks) (value any, length int64, err error) {
	d := &decoder{r: bufio.NewReaderSize(r, 1<<12), size: min(size, maxLength), hooks: h, memo: map[int64]any{}}
	value, err = d.run()
	if err == nil {
		return value, d.pos, nil
	}
	var forbidden *ForbiddenError
	if errors.As(err, &forbidden) {
		return nil, 0, err
	}
	return nil, 0, fmt.Errorf("pickle: byte %d: %w", d.op, err)
}

type decoder struct {
	r         *bufio.Reader
	pos, size int64
	op        int64 // offset of the current opcode
	hooks     Hooks

	stack []any
	marks []int // lengths of stack at each mark
	memo  map[int64]any

	copied int64 // items that calls have copied
}

var errShort = errors.New("ends too early")

func (d *decoder) byte() (byte, error) {
	if d.pos >= d.size {
		return 0, errShort
	}
	b, err := d.r.ReadByte()
	if err == io.EOF {
		err = errShort
	}
	d.pos++
	return b, err
}

// bytes reads the next n bytes. n is what the input claims.
func (d *decoder) bytes(n uint64) ([]byte, error) {
	if n > uint64(d.size-d.pos) {
		return nil, fmt.Errorf("%d bytes are announced, %d are left", n, d.size-d.pos)
	}
	// Grown piece by piece, since the reader may have less than size says.
	var out []byte
	for n > 0 {
		k := int(min(n, 1<<16))
		at := len(out)
		out = append(out, make([]byte, k)...)
		if _, err := io.ReadFull(d.r, out[at:]); err != nil {
			return nil, errShort
		}
		n -= uint64(k)
	}
	d.pos += int64(len(out))
	return out, nil
}

// uint reads a little-endian number of n bytes, at most 8.
func (d *decoder) uint(n int) (uint64, error) {
	b, err := d.bytes(uint64(n))
	if err != nil {
		return 0, err
	}
	var word [8]byte
	copy(word[:], b)
	return binary.LittleEndian.Uint64(word[:]), nil
}

// counted reads a length of n bytes and then as many bytes.
func (d *decoder) counted(n int) ([]byte, error) {
	v, err := d.uint(n)
	if err != nil {
		return nil, err
	}
	return d.bytes(v)
}

// line reads up to the next newline, which it drops.
func (d *decoder) line() (string, error) {
	var out []byte
	for {
		b, err := d.byte()
		if err != nil {
			return "", err
		}
		if b == '\n' {
			return strings.TrimSuffix(string(out), "\r"), nil
		}
		out = append(out, b)
	}
}

func (d *decoder) push(v any) { d.stack = append(d.stack, v) }

// floor is the stack's length at the last mark.
func (d *decoder) floor() int {
	if len(d.marks) == 0 {
		return 0
	}
	return d.marks[len(d.marks)-1]
}

var errEmpty = errors.New("takes from an empty stack")

func (d *decoder) pop() (any, error) {
	n := len(d.stack)
	if n <= d.floor() {
		return nil, errEmpty
	}
	v := d.stack[n-1]
	d.stack = d.stack[:n-1]
	return v, nil
}

func (d *decoder) top() (any, error) {
	if len(d.stack) <= d.floor() {
		return nil, errEmpty
	}
	return d.stack[len(d.stack)-1], nil
}

// popMark returns the values above the last mark, which it takes off. The
// slice is a copy.
func (d *decoder) popMark() ([]any, error) {
	if len(d.marks) == 0 {
		return nil, errors.New("no mark is set")
	}
	at := d.floor()
	d.marks = d.marks[:len(d.marks)-1]
	items := append([]any(nil), d.stack[at:]...)
	d.stack = d.stack[:at]
	return items, nil
}

// popN returns the last n values as a tuple.
func (d *decoder) popN(n int) (Tuple, error) {
	at := len(d.stack) - n
	if at < d.floor() {
		return nil, errEmpty
	}
	t := append(Tuple{}, d.stack[at:]...)
	d.stack = d.stack[:at]
	return t, nil
}

func (d *decoder) put(i int64) error {
	v, err := d.top()
	if err == nil {
		d.memo[i] = v
	}
	return err
}

func (d *decoder) get(i int64) error {
	v, ok := d.memo[i]
	if !ok {
		return fmt.Errorf("memo %d was never set", i)
	}
	d.push(v)
	return nil
}

// run executes opcodes up to STOP.
func (d *decoder) run() (any, error) {
	for {
		d.op = d.pos
		c, err := d.byte()
		if err != nil {
			return nil, err
		}
		if c == opStop {
			v, err := d.pop()
			if err == nil && len(d.stack)+len(d.marks) > 0 {
				err = errors.New("stops with values left over")
			}
			return v, err
		}
		if err := d.step(c); err != nil {
			return nil, err
		}
	}
}

// Opcodes, under their names in pickletools.
const (
	opMark            = '('
	opStop            = '.'
	opPop             = '0'
	opPopMark         = '1'
	opDup             = '2'
	opFloat           = 'F'
	opInt             = 'I'
	opBinInt          = 'J'
	opBinInt1         = 'K'
	opLong            = 'L'
	opBinInt2         = 'M'
	opNone            = 'N'
	opPersID          = 'P'
	opBinPersID       = 'Q'
	opReduce          = 'R'
	opString          = 'S'
	opBinString       = 'T'
	opShortBinString  = 'U'
	opUnicode         = 'V'
	opBinUnicode      = 'X'
	opAppend          = 'a'
	opBuild           = 'b'
	opGlobal          = 'c'
	opDict            = 'd'
	opEmptyDict       = '}'
	opAppends         = 'e'
	opGet             = 'g'
	opBinGet          = 'h'
	opInst            = 'i'
	opLongBinGet      = 'j'
	opList            = 'l'
	opEmptyList       = ']'
	opObj             = 'o'
	opPut             = 'p'
	opBinPut          = 'q'
	opLongBinPut      = 'r'
	opSetItem         = 's'
	opTuple           = 't'
	opEmptyTuple      = ')'
	opSetItems        = 'u'
	opBinFloat        = 'G'
	opProto           = 0x80
	opNewObj          = 0x81
	opExt1            = 0x82
	opExt2            = 0x83
	opExt4            = 0x84
	opTuple1          = 0x85
	opTuple2          = 0x86
	opTuple3          = 0x87
	opNewTrue         = 0x88
	opNewFalse        = 0x89
	opLong1           = 0x8a
	opLong4           = 0x8b
	opBinBytes        = 'B'
	opShortBinBytes   = 'C'
	opShortBinUnicode = 0x8c
	opBinUnicode8     = 0x8d
	opBinBytes8       = 0x8e
	opEmptySet        = 0x8f
	opAddItems        = 0x90
	opFrozenSet       = 0x91
	opNewObjEx        = 0x92
	opStackGlobal     = 0x93
	opMemoize         = 0x94
	opFrame           = 0x95
	opByteArray8      = 0x96
	opNextBuffer      = 0x97
	opReadOnlyBuffer  = 0x98
)

// step executes one opcode.
func (d *decoder) step(c byte) error {
	switch c {
	case opProto:
		v, err := d.byte()
		if err == nil && v > 5 {
			err = fmt.Errorf("protocol %d is not known", v)
		}
		return err
	case opFrame:
		_, err := d.uint(8)
		return err
	case opMark:
		d.marks = append(d.marks, len(d.stack))
	case opPop:
		if len(d.marks) > 0 && len(d.stack) == d.floor() {
			d.marks = d.marks[:len(d.marks)-1]
			return nil
		}
		_, err := d.pop()
		return err
	case opPopMark:
		_, err := d.popMark()
		return err
	case opDup:
		v, err := d.top()
		if err == nil {
			d.push(v)
		}
		return err

	case opNone:
		d.push(nil)
	case opNewTrue:
		d.push(true)
	case opNewFalse:
		d.push(false)
	case opInt, opLong:
		s, err := d.line()
		if err != nil {
			return err
		}
		return d.number(c, s)
	case opFloat:
		s, err := d.line()
		if err != nil {
			return err
		}
		v, err := strconv.ParseFloat(s, 64)
		if err != nil && !errors.Is(err, strconv.ErrRange) {
			return fmt.Errorf("%.40q is no number", s)
		}
		d.push(v)
	case opBinInt:
		v, err := d.uint(4)
		d.push(int64(int32(v)))
		return err
	case opBinInt1:
		v, err := d.uint(1)
		d.push(int64(v))
		return err
	case opBinInt2:
		v, err := d.uint(2)
		d.push(int64(v))
		return err
	case opBinFloat:
		b, err := d.bytes(8)
		if err == nil {
			d.push(math.Float64frombits(binary.BigEndian.Uint64(b)))
		}
		return err
	case opLong1, opLong4:
		b, err := d.counted(map[byte]int{opLong1: 1, opLong4: 4}[c])
		if err == nil {
			d.push(long(b))
		}
		return err

	case opString:
		s, err := d.line()
		if err != nil {
			return err
		}
		if len(s) < 2 || s[0] != s[len(s)-1] || s[0] != '\'' && s[0] != '"' {
			return fmt.Errorf("%.40q is no quoted string", s)
		}
		d.push(s[1 : len(s)-1])
	case opUnicode:
		s, err := d.line()
		d.push(s)
		return err
	case opBinString, opBinUnicode:
		return d.text(4)
	case opShortBinString, opShortBinUnicode:
		return d.text(1)
	case opBinUnicode8:
		return d.text(8)
	case opBinBytes, opShortBinBytes, opBinBytes8, opByteArray8:
		b, err := d.counted(map[byte]int{opBinBytes: 4, opShortBinBytes: 1, opBinBytes8: 8, opByteArray8: 8}[c])
		d.push(b)
		return err

	case opEmptyTuple:
		d.push(Tuple(nil))
	case opTuple1, opTuple2, opTuple3:
		t, err := d.popN(int(c-opTuple1) + 1)
		d.push(t)
		return err
	case opTuple, opFrozenSet:
		items, err := d.popMark()
		d.push(Tuple(items))
		return err
	case opEmptyList, opEmptySet:
		d.push(&List{})
	case opList:
		items, err := d.popMark()
		d.push(&List{items})
		return err
	case opEmptyDict:
		d.push(&Dict{})
	case opDict:
		items, err := d.popMark()
		if err != nil {
			return err
		}
		d.push(&Dict{})
		return d.setItems(items)
	case opAppend:
		v, err := d.pop()
		if err != nil {
			return err
		}
		return d.extend([]any{v})
	case opAppends, opAddItems:
		items, err := d.popMark()
		if err != nil {
			return err
		}
		return d.extend(items)
	case opSetItem:
		kv, err := d.popN(2)
		if err != nil {
			return err
		}
		return d.setItems(kv)
	case opSetItems:
		items, err := d.popMark()
		if err != nil {
			return err
		}
		return d.setItems(items)

	case opPut:
		i, err := d.index()
		if err != nil {
			return err
		}
		return d.put(i)
	case opBinPut, opLongBinPut:
		i, err := d.uint(map[byte]int{opBinPut: 1, opLongBinPut: 4}[c])
		if err != nil {
			return err
		}
		return d.put(int64(i))
	case opMemoize:
		return d.put(int64(len(d.memo)))
	case opGet:
		i, err := d.index()
		if err != nil {
			return err
		}
		return d.get(i)
	case opBinGet, opLongBinGet:
		i, err := d.uint(map[byte]int{opBinGet: 1, opLongBinGet: 4}[c])
		if err != nil {
			return err
		}
		return d.get(int64(i))

	case opGlobal:
		module, err := d.line()
		if err != nil {
			return err
		}
		name, err := d.line()
		if err != nil {
			return err
		}
		return d.global(module, name)
	case opStackGlobal:
		t, err := d.popN(2)
		if err != nil {
			return err
		}
		module, ok1 := t[0].(string)
		name, ok2 := t[1].(string)
		if !ok1 || !ok2 {
			return errors.New("a global's name is no string")
		}
		return d.global(module, name)
	case opReduce:
		t, err := d.popN(2)
		if err != nil {
			return err
		}
		args, ok := t[1].(Tuple)
		if !ok {
			return errors.New("the arguments of a call are no tuple")
		}
		return d.call(t[0], args)
	case opInst: // module and name, then arguments down to the mark
		module, err := d.line()
		if err != nil {
			return err
		}
		name, err := d.line()
		if err != nil {
			return err
		}
		args, err := d.popMark()
		if err != nil {
			return err
		}
		return d.call(Global{module, name}, args)
	case opObj: // mark, class, arguments
		items, err := d.popMark()
		if err != nil {
			return err
		}
		if len(items) == 0 {
			return errEmpty
		}
		return d.call(items[0], items[1:])
	case opNewObj, opNewObjEx:
		n := 2
		if c == opNewObjEx {
			n = 3
		}
		t, err := d.popN(n)
		if err != nil {
			return err
		}
		args, ok := t[1].(Tuple)
		if !ok {
			return errors.New("the arguments of a new object are no tuple")
		}
		return d.create(t[0], args)
	case opBuild:
		state, err := d.pop()
		if err != nil {
			return err
		}
		return d.build(state)
	case opPersID:
		s, err := d.line()
		if err != nil {
			return err
		}
		return d.persistent(s)
	case opBinPersID:
		id, err := d.pop()
		if err != nil {
			return err
		}
		return d.persistent(id)
	case opExt1, opExt2, opExt4:
		return errors.New("refers to Python's extension registry, which is refused")
	case opNextBuffer, opReadOnlyBuffer:
		return errors.New("refers to a buffer outside the file")
	default:
		return fmt.Errorf("%#02x is no opcode: not a pickle?", c)
	}
	return nil
}

// number pushes the decimal number of an INT or LONG opcode.
func (d *decoder) number(op byte, s string) error {
	if op == opInt && (s == "00" || s == "01") {
		d.push(s == "01")
		return nil
	}
	s = strings.TrimSuffix(s, "L")
	v, err := strconv.ParseInt(s, 10, 64)
	if err == nil {
		d.push(v)
		return nil
	}
	if len(s) > 1000 { // the conversion takes quadratic time
		return errors.New("a number of more than 1000 digits")
	}
	if x, ok := new(big.Int).SetString(s, 10); ok {
		d.push(x)
		return nil
	}
	return fmt.Errorf("%.40q is no number", s)
}

// long returns the little-endian two's complement number b.
func long(b []byte) any {
	if len(b) <= 8 {
		var v int64
		for i, x := range b {
			v |= int64(x) << (8 * i)
		}
		if n := len(b); n > 0 && n < 8 && b[n-1] >= 0x80 {
			v -= 1 << (8 * n)
		}
		return v
	}
	be := make([]byte, len(b))
	for i, x := range b {
		be[len(b)-1-i] = x
	}
	v := new(big.Int).SetBytes(be)
	if be[0] >= 0x80 {
		v.Sub(v, new(big.Int).Lsh(big.NewInt(1), uint(8*len(b))))
	}
	return v
}

// text pushes a string with a length of n bytes before it.
func (d *decoder) text(n int) error {
	b, err := d.counted(n)
	if err == nil {
		d.push(string(b))
	}
	return err
}

// index reads a memo index in decimal.
func (d *decoder) index() (int64, error) {
	s, err := d.line()
	if err != nil {
		return 0, err
	}
	i, err := strconv.ParseInt(s, 10, 64)
	if err != nil || i < 0 {
		return 0, fmt.Errorf("%.40q is no memo index", s)
	}
	return i, nil
}

// extend appends items to the list on top.
func (d *decoder) extend(items []any) error {
	v, err := d.top()
	if err != nil {
		return err
	}
	switch v := v.(type) {
	case *List:
		v.Items = append(v.Items, items...)
	case *Object:
		v.List = append(v.List, items...)
	default:
		return fmt.Errorf("appends to a %s", kind(v))
	}
	return nil
}

// setItems sets keys and values, by turns, in the dictionary on top.
func (d *decoder) setItems(items []any) error {
	if len(items)%2 != 0 {
		return errors.New("a key without a value")
	}
	v, err := d.top()
	if err != nil {
		return err
	}
	dict, ok := v.(*Dict)
	if o, isObject := v.(*Object); isObject {
		if o.Items == nil {
			o.Items = &Dict{}
		}
		dict, ok = o.Items, true
	}
	if !ok {
		return fmt.Errorf("sets an item of a %s", kind(v))
	}
	for i := 0; i < len(items); i += 2 {
		dict.Set(items[i], items[i+1])
	}
	return nil
}

func (d *decoder) persistent(id any) error {
	if d.hooks.Persistent == nil {
		return errors.New("refers to data outside the pickle")
	}
	v, err := d.hooks.Persistent(id)
	d.push(v)
	return err
}

// kind names a value's type in a message.
func kind(v any) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case *Dict:
		return "dictionary"
	case *List:
		return "list"
	case Tuple:
		return "tuple"
	case Global:
		return v.String()
	case *Object:
		return v.Class.String() + " object"
	case string:
		return "string"
	}
	return fmt.Sprintf("%T", v)
}

// Kind names a decoded value's type for a message, such as "dictionary" or
// "torch.nn.modules.linear.Linear object".
func Kind(v any) string { return kind(v) }
