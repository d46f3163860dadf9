package pickle

import (
	"errors"
	"slices"
	"strings"
)

// inert are functions and classes whose result is not needed, and that say
// nothing harmful about a file that calls them: the call becomes an Object.
// They are what trainers put beside their weights.
var inert = map[string]bool{
	"builtins.bytearray": true, "builtins.complex": true, "builtins.range": true, "builtins.slice": true,
	"collections.deque": true, "collections.Counter": true,
	"datetime.date": true, "datetime.datetime": true, "datetime.time": true, "datetime.timedelta": true, "datetime.timezone": true,
	"decimal.Decimal": true, "fractions.Fraction": true, "uuid.UUID": true,
	"numpy.core.multiarray._reconstruct": true, "numpy._core.multiarray._reconstruct": true,
	"numpy.core.multiarray.scalar": true, "numpy._core.multiarray.scalar": true,
	"numpy._core.numeric._frombuffer": true, "numpy.core.numeric._frombuffer": true,
	"numpy.dtype": true, "numpy.ndarray": true,
	"numpy.random._pickle.__bit_generator_ctor": true, "numpy.random._pickle.__generator_ctor": true, "numpy.random._pickle.__randomstate_ctor": true,
	"pathlib.Path": true, "pathlib.PosixPath": true, "pathlib.PurePath": true, "pathlib.PurePosixPath": true,
	"pathlib.PureWindowsPath": true, "pathlib.WindowsPath": true,
	"pathlib._local.Path": true, "pathlib._local.PosixPath": true, "pathlib._local.WindowsPath": true,
	"torch.device": true, "torch.dtype": true,
}

// harmless are the names of Python's builtins that a pickle may mention.
var harmless = []string{"NoneType", "bool", "bytearray", "bytes", "complex", "dict", "ellipsis", "float", "frozenset", "int", "list",
	"object", "range", "set", "slice", "str", "tuple", "type", "Ellipsis", "NotImplemented", "long", "unicode"}

// dangerous are modules of Python that no checkpoint has a reason to mention.
// What is not called or created would do no harm; that it is there says that
// somebody tries.
var dangerous = []string{"_io", "_operator", "_pickle", "_posixsubprocess", "_socket", "_thread", "asyncio", "asyncore", "atexit", "bdb", "cProfile",
	"code", "codeop", "commands", "compileall", "ctypes", "dill", "cloudpickle", "distutils", "doctest", "ensurepip", "fileinput", "ftplib",
	"gc", "getpass", "http", "imp", "importlib", "inspect", "io", "joblib", "linecache", "marshal", "multiprocessing", "nt", "operator",
	"os", "pdb", "pickle", "pip", "pkgutil", "posix", "profile", "pty", "py_compile", "pydoc", "runpy", "setuptools",
	"shelve", "shutil", "signal", "site", "smtplib", "socket", "socketserver", "ssl", "subprocess", "sys", "tarfile", "telnetlib", "tempfile",
	"threading", "timeit", "trace", "urllib", "venv", "webbrowser", "xmlrpc", "zipapp", "zipfile", "zipimport"}

// normal returns a name as Python 3 has it.
func normal(g Global) Global {
	switch g.Module {
	case "__builtin__":
		g.Module = "builtins"
	case "copy_reg":
		g.Module = "copyreg"
	case "UserDict", "UserList":
		g.Module = "collections"
	}
	return g
}

// global pushes a name.
func (d *decoder) global(module, name string) error {
	if module == "" || name == "" {
		return errors.New("a global without a name")
	}
	g := normal(Global{module, name})
	if err := d.mention(g); err != nil {
		return err
	}
	d.push(g)
	return nil
}

// mention refuses names that have no place in a checkpoint.
func (d *decoder) mention(g Global) error {
	root, _, _ := strings.Cut(g.Module, ".")
	if root == "builtins" && (g.Module != "builtins" || !slices.Contains(harmless, g.Name)) || slices.Contains(dangerous, root) {
		return &ForbiddenError{g, d.op}
	}
	return nil
}

// call pushes what f(args...) makes, if f is on a list.
func (d *decoder) call(f any, args Tuple) error {
	g, ok := f.(Global)
	if !ok {
		return errors.New("calls a " + kind(f) + ", which is refused")
	}
	g = normal(g)
	if err := d.mention(g); err != nil {
		return err
	}
	if h := d.hooks.Call; h != nil {
		v, ok, err := h(g, args)
		if err != nil {
			return err
		}
		if ok {
			d.push(v)
			return nil
		}
	}
	bad := errors.New("calls " + g.String() + " with arguments that it does not take")
	switch name := g.String(); name {
	case "collections.OrderedDict", "builtins.dict", "collections.defaultdict":
		dict := &Dict{}
		d.push(dict)
		if len(args) > 0 && name == "collections.defaultdict" {
			args = args[1:] // the factory
		}
		if len(args) == 0 {
			return nil
		}
		if len(args) > 1 {
			return bad
		}
		return d.fill(dict, args[0], bad)
	case "builtins.set", "builtins.list", "builtins.frozenset", "builtins.tuple", "torch.Size":
		var items []any
		if len(args) > 1 {
			return bad
		}
		if len(args) == 1 {
			if items, ok = sequence(args[0]); !ok {
				return bad
			}
			if err := d.copies(len(items)); err != nil {
				return err
			}
		}
		if name == "builtins.set" || name == "builtins.list" {
			d.push(&List{slices.Clone(items)})
		} else {
			d.push(Tuple(slices.Clone(items)))
		}
		return nil
	case "_codecs.encode": // how protocol 2 writes bytes
		if len(args) == 0 {
			return bad
		}
		s, ok := args[0].(string)
		if !ok {
			return bad
		}
		d.push([]byte(s))
		return nil
	case "copyreg._reconstructor", "copyreg.__newobj__", "copyreg.__newobj_ex__":
		if len(args) == 0 {
			return bad
		}
		return d.create(args[0], args[1:])
	default:
		if !inert[name] {
			return &ForbiddenError{g, d.op}
		}
		d.push(&Object{Class: g, Args: args})
		return nil
	}
}

// copies counts items that a call copies. A shared list could be copied by
// many calls; an honest pickle writes each item that it copies.
func (d *decoder) copies(n int) error {
	d.copied += int64(n)
	if d.copied > d.size {
		return errors.New("copies more items than it has bytes")
	}
	return nil
}

// fill adds the entries of a dictionary or of a list of pairs to dict.
func (d *decoder) fill(dict *Dict, from any, bad error) error {
	if x, ok := from.(*Dict); ok {
		if err := d.copies(len(x.Keys)); err != nil {
			return err
		}
		for i, k := range x.Keys {
			dict.Set(k, x.Values[i])
		}
		return nil
	}
	items, ok := sequence(from)
	if !ok {
		return bad
	}
	if err := d.copies(len(items)); err != nil {
		return err
	}
	for _, e := range items {
		kv, ok := sequence(e)
		if !ok || len(kv) != 2 {
			return bad
		}
		dict.Set(kv[0], kv[1])
	}
	return nil
}

// sequence returns the items of a list or tuple.
func sequence(v any) ([]any, bool) {
	switch v := v.(type) {
	case *List:
		return v.Items, true
	case Tuple:
		return v, true
	}
	return nil, false
}

// create pushes a new object of a class. Classes that are containers become
// the container.
func (d *decoder) create(class any, args Tuple) error {
	g, ok := class.(Global)
	if !ok {
		return errors.New("creates an object of a " + kind(class) + ", which is no class")
	}
	switch g.String() {
	case "collections.OrderedDict", "builtins.dict", "collections.defaultdict":
		d.push(&Dict{})
	case "builtins.list", "builtins.set":
		d.push(&List{})
	default:
		// The builtins' own constructors take iterators, which call functions.
		if g.Module == "builtins" && g.Name != "object" {
			return &ForbiddenError{g, d.op}
		}
		d.push(&Object{Class: g, Args: args})
	}
	return nil
}

// build gives the value on top a state. Containers and what a hook made have
// attributes of no interest.
func (d *decoder) build(state any) error {
	v, err := d.top()
	if err != nil {
		return err
	}
	switch v := v.(type) {
	case *Object:
		v.State = state
	case Global:
		return &ForbiddenError{v, d.op}
	case nil, bool, int64, float64, string, []byte, Tuple:
		return errors.New("gives a state to a " + kind(v))
	}
	return nil
}
