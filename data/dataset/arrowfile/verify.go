package arrowfile

import (
	"errors"
	"fmt"

	flatbuffers "github.com/google/flatbuffers/go"
)

// The library allocates what the flatbuffers of a file claim, follows their offsets
// wherever they lead, and dies of it: running out of memory or stack is no panic. So
// what it would do with them is first done here, within a budget. Numbers of fields
// are those of Arrow's format/File.fbs, format/Schema.fbs and format/Message.fbs.

// maxNesting is how deep types may lie in each other.
const maxNesting = 32

// verifier follows the tables of a flatbuffer. It panics with an error where one is
// damaged.
type verifier struct {
	left int // tables and bytes of text that may still be visited
}

func (v *verifier) spend(n int) {
	if v.left -= n; n < 0 || v.left < 0 {
		panic(errors.New("the metadata refers to itself or repeats"))
	}
}

// vector returns where the vector in a slot of t begins, and its length in elements of
// that size.
func (v *verifier) vector(t flatbuffers.Table, slot flatbuffers.VOffsetT, size int) (start flatbuffers.UOffsetT, n int) {
	o := flatbuffers.UOffsetT(t.Offset(slot))
	if o == 0 {
		return 0, 0
	}
	n, start = t.VectorLen(o), t.Vector(o)
	if int(start) > len(t.Bytes) || n > (len(t.Bytes)-int(start))/size {
		panic(fmt.Errorf("a list of %d in metadata of %d bytes", n, len(t.Bytes)))
	}
	return start, n
}

// tables calls f for each table of the vector in a slot of t.
func (v *verifier) tables(t flatbuffers.Table, slot flatbuffers.VOffsetT, f func(flatbuffers.Table)) {
	start, n := v.vector(t, slot, 4)
	for i := range n {
		v.spend(1)
		at := t.Indirect(start + flatbuffers.UOffsetT(4*i))
		f(flatbuffers.Table{Bytes: t.Bytes, Pos: at})
	}
}

// text visits the string in a slot of t.
func (v *verifier) text(t flatbuffers.Table, slot flatbuffers.VOffsetT) {
	_, n := v.vector(t, slot, 1)
	v.spend(n)
}

// pairs visits the list of keys and values in a slot of t.
func (v *verifier) pairs(t flatbuffers.Table, slot flatbuffers.VOffsetT) {
	v.tables(t, slot, func(kv flatbuffers.Table) {
		v.text(kv, 4)
		v.text(kv, 6)
	})
}

// refused are the types, by their number in Schema.fbs, that the library needs further
// lists for.
var refused = map[byte]string{14: "union", 22: "run_end_encoded", 23: "binary_view", 24: "string_view", 25: "list_view", 26: "large_list_view"}

// field visits a column or one inside it.
func (v *verifier) field(t flatbuffers.Table, depth int) {
	if depth > maxNesting {
		panic(errors.New("types nested too deep"))
	}
	v.text(t, 4)
	if o := flatbuffers.UOffsetT(t.Offset(8)); o != 0 {
		if kind := t.GetByte(t.Pos + o); refused[kind] != "" || kind > 26 {
			panic(fmt.Errorf("a column of type %d (%s), which is not read", kind, refused[kind]))
		}
	}
	v.tables(t, 14, func(child flatbuffers.Table) { v.field(child, depth+1) })
	v.pairs(t, 16)
}

// verifyFooter checks the footer of a file of that many bytes.
func verifyFooter(b []byte, file int) {
	v := &verifier{left: 4*len(b) + 1024}
	footer := table(b)
	o := flatbuffers.UOffsetT(footer.Offset(6))
	if o == 0 {
		panic(errors.New("no schema"))
	}
	schema := flatbuffers.Table{Bytes: b, Pos: footer.Indirect(footer.Pos + o)}
	v.tables(schema, 6, func(t flatbuffers.Table) { v.field(t, 0) })
	v.pairs(schema, 8)
	v.pairs(footer, 12)
	v.vector(footer, 10, 24)
	blocks, n := v.vector(footer, 8, 24)
	for i := range n {
		block := blocks + flatbuffers.UOffsetT(24*i)
		size := int64(footer.GetInt32(block+8)) + footer.GetInt64(block+16)
		if size < 0 || size > int64(file) {
			panic(fmt.Errorf("dictionary %d has %d bytes in a file of %d", i, size, file))
		}
		if file -= int(size); file < 0 {
			panic(errors.New("the dictionaries lie in each other"))
		}
	}
}

// verifyMessage checks what the library reads of a message besides its batch.
func verifyMessage(message flatbuffers.Table) {
	v := &verifier{left: 4*len(message.Bytes) + 1024}
	v.pairs(message, 12)
}
