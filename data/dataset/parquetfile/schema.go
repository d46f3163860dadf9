package parquetfile

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/parquet-go/parquet-go/deprecated"
	"github.com/parquet-go/parquet-go/format"
)

// node is an element of the schema tree.
type node struct {
	name       string
	repetition format.FieldRepetitionType
	rep, def   byte // the levels of a value that is there
	children   []*node
	leaves     []int // the columns under it, in the file's order

	// Of a group.
	list bool // annotated as a list

	// Of a leaf.
	kind   format.Type
	length int  // of FixedLenByteArray
	text   bool // bytes are UTF-8
}

// parseSchema returns the root of the tree that the elements describe in
// depth-first order, and its leaves.
func parseSchema(elements []format.SchemaElement) (root *node, leaves []*node, err error) {
	next := 0
	var parse func(parent *node, depth int) (*node, error)
	parse = func(parent *node, depth int) (*node, error) {
		if next == len(elements) {
			return nil, errors.New("the schema ends inside a group")
		}
		if depth > maxNesting {
			return nil, errors.New("the schema's groups are nested too deep")
		}
		e := &elements[next]
		next++
		n := &node{name: e.Name}
		if parent != nil {
			n.rep, n.def, n.repetition = parent.rep, parent.def, e.RepetitionType.V
			switch n.repetition {
			case format.Required:
			case format.Optional:
				n.def++
			case format.Repeated:
				n.def++
				n.rep++
			default:
				return nil, fmt.Errorf("column %q: repetition type %d", e.Name, n.repetition)
			}
		}
		if !e.NumChildren.Valid || e.NumChildren.V == 0 && e.Type.Valid {
			if parent == nil {
				return nil, errors.New("the schema has no columns")
			}
			n.kind, n.length = e.Type.V, int(e.TypeLength.V)
			if n.kind == format.FixedLenByteArray && n.length <= 0 {
				return nil, fmt.Errorf("column %q: values of %d bytes", e.Name, n.length)
			}
			if c := e.ConvertedType; c.Valid {
				n.text = c.V == deprecated.UTF8 || c.V == deprecated.Json || c.V == deprecated.Enum
			}
			switch e.LogicalType.Value.(type) {
			case *format.StringType, *format.JsonType, *format.EnumType:
				n.text = true
			}
			n.leaves = []int{len(leaves)}
			leaves = append(leaves, n)
			return n, nil
		}
		_, n.list = e.LogicalType.Value.(*format.ListType)
		n.list = n.list || e.ConvertedType.Valid && e.ConvertedType.V == deprecated.List
		for range e.NumChildren.V {
			c, err := parse(n, depth+1)
			if err != nil {
				return nil, err
			}
			n.children = append(n.children, c)
			n.leaves = append(n.leaves, c.leaves...)
		}
		// A list is a group with one repeated child.
		n.list = n.list && len(n.children) == 1 && n.children[0].repetition == format.Repeated
		return n, nil
	}
	if root, err = parse(nil, 0); err != nil {
		return nil, nil, err
	}
	if next != len(elements) {
		return nil, nil, fmt.Errorf("%d elements too many in the schema", len(elements)-next)
	}
	return root, leaves, nil
}

// element returns what a list's repeated child holds: the one field of a group, or
// the child itself, as older writers have it.
func (n *node) element() (*node, bool) {
	c := n.children[0]
	if len(c.children) == 1 && c.name != "array" && !strings.HasSuffix(c.name, "_tuple") {
		return c.children[0], true
	}
	return c, false
}

// typ returns the type as Arrow writes it.
func (n *node) typ() string {
	if n.list {
		e, _ := n.element()
		return fmt.Sprintf("list<element: %s>", e.typ())
	}
	if n.children != nil {
		var fields []string
		for _, c := range n.children {
			fields = append(fields, c.name+": "+c.typ())
		}
		return "struct<" + strings.Join(fields, ", ") + ">"
	}
	t := [...]string{"bool", "int32", "int64", "int96", "float", "double", "binary", "fixed_size_binary"}
	name := fmt.Sprintf("type %d", n.kind)
	if n.kind >= 0 && int(n.kind) < len(t) {
		name = t[n.kind]
	}
	if n.text {
		name = "string"
	}
	if n.repetition == format.Repeated {
		return "list<" + name + ">"
	}
	return name
}

// repeated reports whether a row may have more than one value in a leaf under n.
func (n *node) repeated(leaves []*node) bool {
	for _, l := range n.leaves {
		if leaves[l].rep > 0 {
			return true
		}
	}
	return false
}

// cell is a value of a leaf with its levels; v is nil below the leaf's level.
type cell struct {
	v        any
	rep, def byte
}

// cursor reads the cells of one leaf in a row.
type cursor struct {
	cells []cell
	pos   int
}

var errShape = errors.New("the levels of its columns don't fit together")

func (c *cursor) peek() cell {
	if c.pos >= len(c.cells) {
		panic(errShape)
	}
	return c.cells[c.pos]
}

// row puts a row's values together from the cells of its leaves, as Dremel
// stores nested values. It panics with errShape where that can't be done.
type row map[int]*cursor

func (r row) skip(n *node) {
	for _, l := range n.leaves {
		r[l].peek()
		r[l].pos++
	}
}

// field reads the field n, whose parent is there.
func (r row) field(n *node) any {
	if len(n.leaves) == 0 {
		return nil
	}
	first := r[n.leaves[0]]
	switch n.repetition {
	case format.Optional:
		if first.peek().def < n.def {
			r.skip(n)
			return nil
		}
	case format.Repeated:
		return r.repeat(n, n, false)
	}
	return r.value(n)
}

// repeat reads the values of the repeated node n; wrapped says that element is the
// only field of it.
func (r row) repeat(n, element *node, wrapped bool) []any {
	list := []any{}
	first := r[n.leaves[0]]
	if first.peek().def < n.def {
		r.skip(n)
		return list
	}
	for {
		if wrapped {
			list = append(list, r.field(element))
		} else {
			list = append(list, r.value(n))
		}
		if first.pos >= len(first.cells) || first.cells[first.pos].rep != n.rep {
			return list
		}
	}
}

// value reads the value of n, which is there.
func (r row) value(n *node) any {
	switch {
	case n.children == nil:
		c := r[n.leaves[0]]
		v := c.peek().v
		c.pos++
		if b, ok := v.([]byte); ok {
			return bytes.Clone(b) // the page is shared
		}
		return v
	case n.list:
		element, wrapped := n.element()
		return r.repeat(n.children[0], element, wrapped)
	}
	m := make(map[string]any, len(n.children))
	for _, c := range n.children {
		m[c.name] = r.field(c)
	}
	return m
}
