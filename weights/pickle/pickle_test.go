package pickle

import (
	"bytes"
	"errors"
	"math/big"
	"reflect"
	"runtime"
	"runtime/metrics"
	"strings"
	"testing"
)

func decode(text string) (any, error) {
	v, n, err := Decode(strings.NewReader(text), int64(len(text)), Hooks{})
	if err == nil && n != int64(len(text)) {
		return nil, errors.New("stopped early")
	}
	return v, err
}

// Pickles made by Python 3.11, and what it reads from them.
func TestDecode(t *testing.T) {
	huge, _ := new(big.Int).SetString("-1208925819614629174706177", 10)
	for _, c := range []struct {
		text string
		want any
	}{
		{"N.", nil},
		{"\x80\x02\x88.", true},
		{"I01\n.", true},
		{"I-42\n.", int64(-42)},
		{"L12345678901L\n.", int64(12345678901)},
		{"\x80\x02J\xff\xff\xff\xff.", int64(-1)},
		{"\x80\x02\x8a\x02\x00\x80.", int64(-32768)},
		{"\x80\x02\x8a\x00.", int64(0)},
		{"\x80\x02\x8a\x0b\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe.", huge},
		{"F1.5\n.", 1.5},
		{"\x80\x02G\x3f\xf8\x00\x00\x00\x00\x00\x00.", 1.5},
		{"S'abc'\np0\n.", "abc"},
		{"\x80\x04\x95\x07\x00\x00\x00\x00\x00\x00\x00\x8c\x03abc\x94.", "abc"},
		{"\x80\x03C\x02\x00\xffq\x00.", []byte{0, 255}},
		{"c__builtin__\nset\n((lp0\nI1\natR.", &List{Items: []any{int64(1)}}},
		{"\x80\x02c_codecs\nencode\nX\x03\x00\x00\x00abcX\x06\x00\x00\x00latin1\x86R.", []byte("abc")},
		{"\x80\x02K\x01K\x02K\x03\x87.", Tuple{int64(1), int64(2), int64(3)}},
		{"\x80\x02](K\x01K\x02e.", &List{Items: []any{int64(1), int64(2)}}},
		{"\x80\x04\x8f(K\x01\x90.", &List{Items: []any{int64(1)}}},
		{"ccopy_reg\n_reconstructor\n(cmy.mod\nThing\nc__builtin__\nobject\nNtR(dS'a'\nI1\nsb.",
			&Object{Class: Global{"my.mod", "Thing"}, Args: Tuple{Global{"builtins", "object"}, nil}, State: dictOf("a", int64(1))}},
		{"\x80\x02cargparse\nNamespace\n)\x81}U\x01aK\x01sb.", &Object{Class: Global{"argparse", "Namespace"}, State: dictOf("a", int64(1))}},
		{"\x80\x02ccollections\nOrderedDict\n)RU\x01aK\x01s}U\x09_metadataK\x02sb.", dictOf("a", int64(1))},
		{"\x80\x02ccollections\ndefaultdict\nc__builtin__\nlist\n\x85RU\x01aK\x01s.", dictOf("a", int64(1))},
		{"\x80\x02cpathlib\nPosixPath\nU\x03tmp\x85R.", &Object{Class: Global{"pathlib", "PosixPath"}, Args: Tuple{"tmp"}}},
	} {
		got, err := decode(c.text)
		if err != nil {
			t.Errorf("%q: %v", c.text, err)
		} else if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q: %#v, want %#v", c.text, got, c.want)
		}
	}
}

func dictOf(key string, value any) *Dict {
	d := &Dict{}
	d.Set(key, value)
	return d
}

// Every way to call or make something that is not on the list.
func TestForbidden(t *testing.T) {
	for _, c := range []struct{ text, name string }{
		{"\x80\x02cos\nsystem\nU\x02ls\x85R.", "os.system"},
		{"(S'ls'\nios\nsystem\n.", "os.system"},
		{"(cnt\nsystem\nS'ls'\no.", "nt.system"},
		{"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x02ls\x85R.", "posix.system"},
		{"\x80\x02c__builtin__\neval\nU\x011\x85R.", "builtins.eval"},
		{"\x80\x02cbuiltins\nexec\n.", "builtins.exec"},
		{"\x80\x04\x8c\x08builtins\x8c\x0dobject.mro.me\x93.", "builtins.object.mro.me"},
		{"\x80\x02csubprocess\nPopen\n)\x81.", "subprocess.Popen"},
		{"\x80\x02cbuiltins\nbytes\ncbuiltins\nrange\n)\x81\x85\x81.", "builtins.range"},
		{"\x80\x02ctorch.hub\nload\nU\x01x\x85R.", "torch.hub.load"},
		{"\x80\x02cmy.mod\nThing\n)R.", "my.mod.Thing"},
		{"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}b.", "torch._utils._rebuild_tensor_v2"},
		{"\x80\x02ccopyreg\n_reconstructor\ncos\nsystem\nU\x01x\x86R.", "os.system"},
		{"\x80\x02cos.path\njoin\n.", "os.path.join"},
	} {
		_, err := decode(c.text)
		var f *ForbiddenError
		if !errors.As(err, &f) || f.Global.String() != c.name || !strings.Contains(err.Error(), c.name) {
			t.Errorf("%q: %v, want %s refused", c.text, err, c.name)
		}
	}
}

func TestMalformed(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", "ends too early"},
		{"\x80\x09N.", "protocol 9"},
		{"\xff.", "no opcode"},
		{".", "empty stack"},
		{"NN.", "left over"},
		{"(.", "empty stack"},
		{"h\x00.", "memo 0"},
		{"\x80\x02\x82\x01.", "extension registry"},
		{"\x80\x05\x97.", "outside the file"},
		{"U\xffab.", "255 bytes are announced"},
		{"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\xffab.", "are announced"},
		{"K\x01K\x02s.", "empty stack"},
		{"NK\x01K\x02s.", "sets an item of a None"},
		{"](K\x01u.", "a key without a value"},
		{"K\x01K\x02a.", "appends to"},
		{"NQ.", "outside the pickle"},
		{"N)R.", "calls a None"},
		{"Sabc\n.", "quoted"},
		{"Ix\n.", "no number"},
		{"cos\n", "ends too early"},
		{"t.", "no mark"},
	} {
		if _, err := decode(c.text); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.text, err, c.want)
		}
	}
}

// checkGrowth decodes data and holds what it allocated, garbage included,
// against the promise. The count is the process's, so that a figure above the
// limit is taken again: what others allocated is not there each time.
func checkGrowth(t *testing.T, data []byte) {
	t.Helper()
	// This does not stop the world, as runtime.ReadMemStats does.
	s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	var got uint64
	for range 3 {
		metrics.Read(s)
		before := s[0].Value.Uint64()
		v, n, err := Decode(bytes.NewReader(data), int64(len(data)), Hooks{})
		metrics.Read(s)
		got = s[0].Value.Uint64() - before
		if err == nil && (n < 1 || n > int64(len(data))) {
			t.Errorf("length %d of %d", n, len(data))
		}
		runtime.KeepAlive(v)
		if got <= 1<<18+MaxGrowth*uint64(len(data)) {
			return
		}
	}
	t.Errorf("%d bytes made %d, %.40q", len(data), got, data)
}

// The worst inputs for memory.
func TestGrowth(t *testing.T) {
	for _, c := range []struct{ head, repeat, tail string }{
		{"", "}", ""},
		{"", "(", ""},
		{"", ")\x85", ""},
		{"", "}\x94", ""},
		{"", "}U\x01aNs", ""},
		{"", "\x8f(N\x90", ""},
		{"", "(t", ""},
		{"N", "\x94", ""},
		{"U\x01aq\x00", "}h\x00h\x00s", ""},
		{"ccollections\nOrderedDict\nq\x00)RU\x01aNsU\x01bNsq\x01", "h\x00h\x01\x85R", ""},
		{"cbuiltins\nset\nq\x00](NNNNNNNNNNNNNNNNeq\x01", "h\x00h\x01\x85R", ""},
		{"cmy\nThing\nq\x00", "h\x00)\x81N", "b"},
		{"](", "N", "e."},
		{"", "\x8a\x01\x01", ""},
		{"", "I1\n", ""},
		{"", "L11111111111111111111\n", ""},
		{"", "G\x00\x00\x00\x00\x00\x00\x00\x00", ""},
	} {
		for _, n := range []int{100, 30_000} {
			checkGrowth(t, []byte(c.head+strings.Repeat(c.repeat, n)+c.tail))
		}
	}
	// What is announced is not made before it is there.
	r := strings.NewReader("\x80\x04\x8e\x00\x00\x00\x40\x00\x00\x00\x00ab")
	if _, _, err := Decode(r, 1<<40, Hooks{}); err == nil {
		t.Error("an announced gigabyte was read")
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{
		"\x80\x02}(U\x01aK\x01U\x01b](NK\x02e\x85u.", "(S'ls'\nios\nsystem\n.", "\x80\x04\x95\x07\x00\x00\x00\x00\x00\x00\x00\x8c\x03abc\x94.",
		"\x80\x02cargparse\nNamespace\n)\x81}U\x01aK\x01sb.", "ccopy_reg\n_reconstructor\n(cmy.mod\nThing\nc__builtin__\nobject\nNtR(dS'a'\nI1\nsb.",
		"c__builtin__\nset\n((lp0\nI1\natR.", "\x80\x04\x8f(K\x01\x90.", "(I1\nI2\n1N0N20d(lp1\ng1\n.", "\x80\x02\x8a\x0b\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe.",
		"\x80\x02ccollections\nOrderedDict\n)RU\x01aK\x01s}U\x09_metadataK\x02sb.", "\x80\x04(cmy\nThing\nN}\x92\x91.",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(checkGrowth)
}
