package weights

import (
	"archive/zip"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"path"
	"slices"
	"strconv"
	"strings"

	"vlmo-train/weights/pickle"
)

// storageDType gives the dtypes of torch's storage classes.
var storageDType = map[string]string{
	"FloatStorage": "F32", "DoubleStorage": "F64", "HalfStorage": "F16", "BFloat16Storage": "BF16",
	"LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8",
	"BoolStorage": "BOOL", "ComplexFloatStorage": "C64", "UntypedStorage": "U8",
}

// torchDType gives the dtypes of torch's own dtype objects, which newer
// element types are saved with.
var torchDType = map[string]string{
	"float32": "F32", "float64": "F64", "float16": "F16", "bfloat16": "BF16",
	"int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
	"uint16": "U16", "uint32": "U32", "uint64": "U64", "complex64": "C64",
	"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
}

// storage is a record, or a part of one, that tensors are views of.
type storage struct {
	key    string
	dtype  string
	offset int64 // elements before it in the record
	count  int64 // elements
	record *record
}

// tensor is a view of a storage: offset and strides count elements.
type tensor struct {
	*storage
	dtype   string
	offset  int64
	shape   []int
	strides []int64
}

// torchFile is a torch file while it is parsed.
type torchFile struct {
	path    string
	size    int64 // of the file
	pickled int64 // bytes of pickle
	records map[string]*record
	// find makes the record of a key; nil in a legacy file, whose records
	// come after the pickle.
	find func(key string) (*record, error)
}

func (t *torchFile) hooks() pickle.Hooks {
	return pickle.Hooks{Call: t.call, Persistent: t.persistent}
}

// fail returns an error about the file.
func (t *torchFile) fail(format string, args ...any) (*File, error) {
	return nil, fmt.Errorf("%s: %w", t.path, fmt.Errorf(format, args...))
}

// readZip parses a zip file of torch.save: <folder>/data.pkl and the
// storages <folder>/data/<key>.
func readZip(name string, r io.ReaderAt, size int64, sel selection) (*File, error) {
	t := &torchFile{path: name, size: size, records: map[string]*record{}}
	z, err := zip.NewReader(r, size)
	if err != nil {
		return t.fail("%w: truncated?", err)
	}
	files := make(map[string]*zip.File, len(z.File))
	folder, found := "", false
	for _, f := range z.File {
		if files[f.Name] != nil {
			return t.fail("record %q is there twice", f.Name)
		}
		files[f.Name] = f
		switch path.Base(f.Name) {
		case "data.pkl":
			if found {
				return t.fail("more than one data.pkl")
			}
			folder, found = path.Dir(f.Name), true
		case "constants.pkl":
			return t.fail("a TorchScript program, not a file of torch.save")
		}
	}
	if !found {
		return t.fail("a zip file without data.pkl: not a file of torch.save")
	}
	find := func(name string) (*record, error) {
		full := path.Join(folder, name)
		f := files[full]
		if f == nil {
			return nil, fmt.Errorf("record %s is missing", full)
		}
		return zipRecord(f, r, size)
	}
	t.find = func(key string) (*record, error) { return find("data/" + key) }
	if files[path.Join(folder, "byteorder")] != nil {
		rec, err := find("byteorder")
		if err != nil {
			return t.fail("%w", err)
		}
		if rec.size > 16 {
			return t.fail("a byteorder of %d bytes", rec.size)
		}
		order, err := readRecord(rec.zip, rec.size)
		if err != nil {
			return t.fail("%w", err)
		}
		if string(order) != "little" {
			return t.fail("byte order is %q, only little is read", order)
		}
	}
	rec, err := find("data.pkl")
	if err != nil {
		return t.fail("%w", err)
	}
	data, err := rec.zip.Open()
	if err != nil {
		return t.fail("%s: %w", rec.zip.Name, err)
	}
	defer data.Close()
	value, _, err := pickle.Decode(data, rec.size, t.hooks())
	if err != nil {
		return t.fail("%s: %w", rec.zip.Name, err)
	}
	t.pickled = rec.size
	return t.collect(value, TorchZip, sel)
}

// zipRecord says where a record's bytes are.
func zipRecord(f *zip.File, r io.ReaderAt, size int64) (*record, error) {
	base, err := f.DataOffset()
	if err != nil {
		return nil, fmt.Errorf("record %s: %w", f.Name, err)
	}
	n := f.UncompressedSize64
	switch {
	case base < 0 || base > size || f.CompressedSize64 > uint64(size-base):
		return nil, fmt.Errorf("record %s goes past the end of the file: truncated?", f.Name)
	case f.Method == zip.Store && f.CompressedSize64 != n:
		return nil, fmt.Errorf("record %s is stored in %d bytes and has %d", f.Name, f.CompressedSize64, n)
	case f.Method != zip.Store && f.Method != zip.Deflate:
		return nil, fmt.Errorf("record %s is compressed by method %d, which is not known", f.Name, f.Method)
	case n/maxExpansion > uint64(size):
		return nil, fmt.Errorf("record %s would expand to %d bytes, more than %d times the file", f.Name, n, maxExpansion)
	case f.Flags&1 != 0:
		return nil, fmt.Errorf("record %s is encrypted", f.Name)
	}
	return &record{r: r, base: base, size: int64(n), zip: f}, nil
}

// legacyMagic and legacyProtocol start a legacy file, each a pickle of its own.
var legacyMagic, _ = new(big.Int).SetString("1950a86a20f9469cfc6c", 16)

const legacyProtocol = 1001

// readLegacy parses a file of torch.save from before version 1.6: pickles of
// a magic number, a version, facts about the machine, the object and the list
// of storage keys; then for each key an 8-byte count and the elements.
func readLegacy(name string, r io.ReaderAt, size int64, sel selection) (*File, error) {
	t := &torchFile{path: name, size: size, records: map[string]*record{}}
	var at int64
	next := func(what string, h pickle.Hooks) (any, error) {
		v, n, err := pickle.Decode(io.NewSectionReader(r, at, size-at), size-at, h)
		if err != nil {
			return nil, fmt.Errorf("%s: %s, which starts at byte %d: %w", name, what, at, err)
		}
		at += n
		t.pickled += n
		return v, nil
	}
	v, err := next("the first pickle", pickle.Hooks{})
	if err != nil {
		return nil, err
	}
	if m, ok := v.(*big.Int); !ok || m.Cmp(legacyMagic) != 0 {
		return t.fail("a pickle of a %s, not a file of torch.save", pickle.Kind(v))
	}
	if v, err = next("the version", pickle.Hooks{}); err != nil {
		return nil, err
	}
	if v != int64(legacyProtocol) {
		return t.fail("version %v of the legacy format, only %d is read", v, legacyProtocol)
	}
	if v, err = next("the system's description", pickle.Hooks{}); err != nil {
		return nil, err
	}
	if d, ok := v.(*pickle.Dict); ok {
		if little, ok := d.Get("little_endian"); ok && little != true {
			return t.fail("byte order is big, only little is read")
		}
	}
	object, err := next("the object", t.hooks())
	if err != nil {
		return nil, err
	}
	if v, err = next("the list of storages", pickle.Hooks{}); err != nil {
		return nil, err
	}
	keys, ok := v.(*pickle.List)
	if !ok {
		return t.fail("a %s where the list of storages belongs", pickle.Kind(v))
	}
	seen := map[string]bool{}
	for _, k := range keys.Items {
		key, ok := k.(string)
		rec := t.records[key]
		if !ok || rec == nil || seen[key] {
			return t.fail("storage %v is in the list, but not, or not once, in the object", k)
		}
		seen[key] = true
		var word [8]byte
		if n, err := r.ReadAt(word[:], at); n < len(word) {
			return t.fail("storage %s at byte %d: %w: truncated?", key, at, errors.Join(err, io.ErrUnexpectedEOF))
		}
		count := le64(word[:])
		at += 8
		elem := int64(1)
		if rec.size > 0 {
			elem = rec.size / rec.base // base holds the count until here
		}
		if count < 0 || count > (size-at)/elem {
			return t.fail("storage %s has %d elements of %d bytes, but the file ends %d bytes on: truncated?", key, count, elem, size-at)
		}
		if count*elem != rec.size {
			return t.fail("storage %s has %d elements where the object says %d", key, count, rec.size/elem)
		}
		rec.base, rec.r = at, r
		at += count * elem
	}
	for key := range t.records {
		if !seen[key] {
			return t.fail("storage %q is missing in the list", key)
		}
	}
	return t.collect(object, TorchLegacy, sel)
}

func le64(b []byte) int64 {
	var v int64
	for i, x := range b[:8] {
		v |= int64(x) << (8 * i)
	}
	return v
}

// persistent returns the storage that an id stands for:
// ("storage", class, key, location, elements), in a legacy file followed by
// None or the view (key, offset, elements); or the class of
// ("module", class, source file, source).
func (t *torchFile) persistent(id any) (any, error) {
	p, ok := id.(pickle.Tuple)
	if ok && len(p) >= 2 && p[0] == "module" {
		return p[1], nil
	}
	if !ok || len(p) < 5 || p[0] != "storage" {
		return nil, errors.New("a persistent id that is no storage's")
	}
	class, ok1 := p[1].(pickle.Global)
	key, ok2 := p[2].(string)
	count, ok3 := p[4].(int64)
	if n, isInt := p[2].(int64); isInt {
		key, ok2 = strconv.FormatInt(n, 10), true
	}
	if !ok1 || !ok2 || !ok3 || count < 0 {
		return nil, errors.New("a storage's id without class, key and count")
	}
	dtype, ok := storageDType[class.Name]
	if !ok || class.Module != "torch" && class.Module != "torch.cuda" && class.Module != "torch.storage" {
		return nil, fmt.Errorf("storage %s of class %s, which is not known", key, class)
	}
	elem := dtypeSize[dtype]
	if count > math.MaxInt64/elem {
		return nil, fmt.Errorf("storage %s of %d elements", key, count)
	}
	s := &storage{key: key, dtype: dtype, count: count}
	switch s.record = t.records[key]; {
	case s.record != nil:
	case t.find != nil:
		rec, err := t.find(key)
		if err != nil {
			return nil, err
		}
		s.record = rec
	default:
		// Its place comes after the pickle.
		s.record = &record{base: count, size: count * elem}
	}
	t.records[key] = s.record
	if count*elem > s.record.size {
		return nil, fmt.Errorf("storage %s has %d bytes, its %d elements of %s take %d", key, s.record.size, count, dtype, count*elem)
	}
	if len(p) > 5 && p[5] != nil {
		v, ok := p[5].(pickle.Tuple)
		if !ok || len(v) != 3 {
			return nil, fmt.Errorf("storage %s: a view without key, offset and count", key)
		}
		offset, ok1 := v[1].(int64)
		n, ok2 := v[2].(int64)
		if !ok1 || !ok2 || offset < 0 || n < 0 || offset > count || n > count-offset {
			return nil, fmt.Errorf("storage %s of %d elements: a view of %v at %v", key, count, v[2], v[1])
		}
		s.offset, s.count = offset, n
	}
	return s, nil
}

// call makes tensors.
func (t *torchFile) call(g pickle.Global, args pickle.Tuple) (any, bool, error) {
	arg := func(i int) any {
		if i < len(args) {
			return args[i]
		}
		return nil
	}
	switch g.String() {
	case "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2":
		// (storage, offset, shape, strides, requires_grad, hooks, metadata)
		v, err := newTensor(arg(0), arg(1), arg(2), arg(3), "")
		if d, ok := arg(6).(*pickle.Dict); ok && err == nil {
			for i, k := range d.Keys {
				if d.Values[i] == true {
					err = fmt.Errorf("a tensor with the property %v, which is not read", k)
				}
			}
		}
		return v, true, err
	case "torch._utils._rebuild_tensor_v3":
		// (storage, offset, shape, strides, requires_grad, hooks, dtype)
		d, ok := arg(6).(pickle.Global)
		dtype := torchDType[d.Name]
		if !ok || d.Module != "torch" || dtype == "" {
			return nil, true, fmt.Errorf("a tensor of dtype %s, which is not known", pickle.Kind(arg(6)))
		}
		v, err := newTensor(arg(0), arg(1), arg(2), arg(3), dtype)
		return v, true, err
	case "torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state":
		v, ok := arg(0).(*tensor)
		if !ok {
			return nil, true, fmt.Errorf("a parameter made of a %s", pickle.Kind(arg(0)))
		}
		return v, true, nil
	case "torch._tensor._rebuild_from_type_v2": // (function, class, arguments, state)
		f, ok1 := arg(0).(pickle.Global)
		a, ok2 := arg(2).(pickle.Tuple)
		if !ok1 || !ok2 || f == g {
			return nil, true, errors.New("a tensor subclass without function and arguments")
		}
		return t.call(f, a)
	case "torch._utils._rebuild_sparse_tensor", "torch.serialization._get_layout":
		return nil, true, errors.New("a sparse tensor, which is not read")
	case "torch._utils._rebuild_qtensor":
		return nil, true, errors.New("a quantised tensor, which is not read")
	}
	return nil, false, nil
}

// newTensor checks that a view stays inside its storage. dtype is the
// storage's unless it is given.
func newTensor(from, offset, shape, strides any, dtype string) (*tensor, error) {
	s, ok := from.(*storage)
	if !ok {
		return nil, fmt.Errorf("a tensor over a %s", pickle.Kind(from))
	}
	sizes, ok1 := shape.(pickle.Tuple)
	steps, ok2 := strides.(pickle.Tuple)
	at, ok3 := offset.(int64)
	if !ok1 || !ok2 || !ok3 || len(sizes) != len(steps) || len(sizes) > 64 || at < 0 {
		return nil, fmt.Errorf("storage %s: a tensor without offset, shape and strides", s.key)
	}
	t := &tensor{storage: s, dtype: s.dtype, offset: at, shape: make([]int, len(sizes)), strides: make([]int64, len(sizes))}
	count := s.count
	if dtype != "" {
		// An untyped storage counts bytes; offset and strides count elements.
		count = count * dtypeSize[s.dtype] / dtypeSize[dtype]
		if s.offset != 0 {
			return nil, fmt.Errorf("storage %s: an untyped view of a view", s.key)
		}
		t.dtype = dtype
	}
	last, empty := at, false
	for i := range sizes {
		n, ok1 := sizes[i].(int64)
		step, ok2 := steps[i].(int64)
		if !ok1 || !ok2 || n < 0 || step < 0 || int64(int(n)) != n {
			return nil, fmt.Errorf("storage %s: a tensor of size %v and stride %v", s.key, sizes[i], steps[i])
		}
		t.shape[i], t.strides[i] = int(n), step
		switch {
		case n == 0:
			empty = true
		case n > 1 && step > 0 && (n-1 > math.MaxInt64/step || (n-1)*step > math.MaxInt64-last):
			return nil, fmt.Errorf("storage %s: a tensor of size %d and stride %d", s.key, n, step)
		default:
			last += (n - 1) * step
		}
	}
	if _, err := byteSize(t.dtype, t.shape); err != nil {
		return nil, fmt.Errorf("storage %s: %w", s.key, err)
	}
	if !empty && last >= count {
		return nil, fmt.Errorf("storage %s of %d elements: a tensor of shape %s reaches element %d", s.key, count, shapeText(t.shape), last)
	}
	return t, nil
}

// entry returns the tensor for a File.
func (t *tensor) entry() entry {
	size := dtypeSize[t.dtype]
	e := entry{dtype: t.dtype, shape: t.shape, record: t.record}
	e.begin = (t.storage.offset + t.offset) * size
	e.end = e.begin
	if slices.Contains(t.shape, 0) {
		e.begin, e.end = 0, 0
		return e
	}
	var last int64
	want, plain := int64(1), true
	for i := len(t.shape) - 1; i >= 0; i-- {
		last += int64(t.shape[i]-1) * t.strides[i]
		if t.shape[i] != 1 && t.strides[i] != want {
			plain = false
		}
		want *= int64(t.shape[i])
	}
	e.end += (last + 1) * size
	if !plain {
		e.strides = t.strides
	}
	return e
}

// collect makes a File of the tensors that are wanted.
func (t *torchFile) collect(object any, format Format, sel selection) (*File, error) {
	f := &File{path: t.path, format: format, entries: map[string]entry{}}
	var total int64
	add := func(name string, x *tensor) error {
		if _, ok := f.entries[name]; ok {
			return fmt.Errorf("tensor %q is there twice", name)
		}
		size, _ := byteSize(x.dtype, x.shape)
		if size > maxExpansion*t.size || total > maxExpansion*t.size-size {
			return fmt.Errorf("tensor %q: with it the tensors would take more than %d times the file's %d bytes", name, maxExpansion, t.size)
		}
		total += size
		f.names = append(f.names, name)
		f.entries[name] = x.entry()
		return nil
	}
	w := walker{add: add, left: 1000 + 4*t.pickled}
	var err error
	if o, ok := object.(*pickle.Object); ok && o.Items == nil {
		if !isModule(o) {
			return t.fail("the file holds a whole %s; only state dicts are read: save its state_dict()", pickle.Kind(o))
		}
		err = w.module("", o, 0)
	} else if sel == everything {
		err = w.walk("", object, 0)
	} else {
		err = states(object, add)
	}
	if err != nil {
		return t.fail("%w", err)
	}
	if len(f.names) == 0 && sel == stateDict {
		return t.fail("no tensors: %s", describe(object))
	}
	return f, nil
}

// dictOf returns a value's entries if it is a dictionary or an object of a
// dictionary's subclass.
func dictOf(v any) (*pickle.Dict, bool) {
	if o, ok := v.(*pickle.Object); ok && o.Items != nil {
		return o.Items, true
	}
	d, ok := v.(*pickle.Dict)
	return d, ok
}

// states finds the state dict (SPEC §9).
func states(object any, add func(string, *tensor) error) error {
	d, ok := dictOf(object)
	if !ok {
		return fmt.Errorf("a %s where a state dict belongs", pickle.Kind(object))
	}
	prefix := ""
	for _, key := range []string{"state_dict", "module", "model"} {
		v, _ := d.Get(key)
		if inner, ok := dictOf(v); ok {
			d = inner
			if key == "module" {
				prefix = "module."
			}
			break
		}
		if o, ok := v.(*pickle.Object); ok {
			return fmt.Errorf("%q holds a whole %s; only state dicts are read: save its state_dict()", key, pickle.Kind(o))
		}
	}
	for i, k := range d.Keys {
		name, isName := k.(string)
		x, isTensor := d.Values[i].(*tensor)
		if !isName || !isTensor {
			continue
		}
		if err := add(strings.TrimPrefix(name, prefix), x); err != nil {
			return err
		}
	}
	return nil
}

// describe says what an object without tensors is.
func describe(object any) string {
	d, ok := dictOf(object)
	if !ok {
		return "the object is a " + pickle.Kind(object)
	}
	var keys []string
	for i, k := range d.Keys {
		if i == 10 {
			keys = append(keys, "…")
			break
		}
		keys = append(keys, fmt.Sprintf("%.40q", keyText(k)))
	}
	return "the keys are " + strings.Join(keys, ", ")
}

func keyText(k any) string {
	switch k := k.(type) {
	case string:
		return k
	case int64, bool, float64:
		return fmt.Sprint(k)
	}
	return pickle.Kind(k)
}

// isModule reports whether o is one of the modules that are read whole:
// DALL-E's, which were published so.
func isModule(o *pickle.Object) bool {
	return strings.HasPrefix(o.Class.Module, "dall_e.")
}

// maxDepth bounds the nesting that a walk follows.
const maxDepth = 100

// walker visits an object's tensors. Containers may be shared, so that the
// paths can be more than the containers: left bounds them.
type walker struct {
	add  func(name string, t *tensor) error
	left int64
}

func (w *walker) visit(depth int) error {
	w.left--
	if depth > maxDepth || w.left < 0 {
		return errors.New("the object is nested too deeply, or in itself")
	}
	return nil
}

// walk follows dictionaries, lists and tuples.
func (w *walker) walk(path string, v any, depth int) error {
	if err := w.visit(depth); err != nil {
		return err
	}
	join := func(key string) string {
		if path == "" {
			return key
		}
		return path + "/" + key
	}
	if d, ok := dictOf(v); ok {
		for i, k := range d.Keys {
			if err := w.walk(join(keyText(k)), d.Values[i], depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	var items []any
	switch v := v.(type) {
	case *tensor:
		return w.add(path, v)
	case *pickle.List:
		items = v.Items
	case pickle.Tuple:
		items = v
	}
	for i, e := range items {
		if err := w.walk(join(strconv.Itoa(i)), e, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// module follows a pickled torch module's parameters, buffers and modules, as
// its state_dict would.
func (w *walker) module(prefix string, o *pickle.Object, depth int) error {
	if err := w.visit(depth); err != nil {
		return err
	}
	state, ok := o.State.(*pickle.Dict)
	if !ok {
		return fmt.Errorf("module %q, a %s, has no state", strings.TrimSuffix(prefix, "."), pickle.Kind(o))
	}
	for _, field := range []string{"_parameters", "_buffers", "_modules"} {
		v, _ := state.Get(field)
		d, ok := dictOf(v)
		if !ok {
			continue
		}
		for i, k := range d.Keys {
			name, _ := k.(string)
			var err error
			switch x := d.Values[i].(type) {
			case *tensor:
				err = w.add(prefix+name, x)
			case *pickle.Object:
				if field == "_modules" {
					err = w.module(prefix+name+".", x, depth+1)
				}
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}
