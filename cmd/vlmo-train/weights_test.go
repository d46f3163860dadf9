package main

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"vlmo-train/vlmo"
	"vlmo-train/weights"
)

func TestInspect(t *testing.T) {
	t.Chdir("../..")
	for _, c := range []struct{ args, want string }{
		{"testdata/parity/pretrain_rel/after.pt", "VLMo of 3 blocks of width 32 at 24 pixels, vision-language pre-training"},
		{"testdata/parity/mim_beit/beit.pth", "masked image modelling (53 codes)"},
		{"testdata/tokenizers/dalle/encoder.pkl", "DALL-E encoder, 64 codes"},
		{"testdata/tokenizers/vqkd/vqkd.pth", "VQ-KD tokenizer of 2 blocks"},
		{"testdata/fixtures/torchzip/list_top.pt", "1/a"}, // no state dict
		{"--all testdata/fixtures/torchzip/lightning.ckpt", "optimizer_states/0/state/0/exp_avg"},
	} {
		status, out, errs := invoke(t, t.Context(), append([]string{"inspect"}, strings.Fields(c.args)...)...)
		if status != 0 || !strings.Contains(out, c.want) {
			t.Errorf("%s: status %d, no %q in\n%s%s", c.args, status, c.want, out, errs)
		}
	}
	status, out, errs := invoke(t, t.Context(), "inspect", "--json", "testdata/parity/vqa_finetune/weights.safetensors")
	if status != 0 {
		t.Fatal(errs)
	}
	var got inspection
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	if got.Family != vlmo.VLMo || got.Config.With.VQA != 7 || got.Format != weights.Safetensors || len(got.Tensors) != 89 || got.Tensors[0].DType != "F32" {
		t.Errorf("got %+v", got)
	}
	status, _, errs = invoke(t, t.Context(), "inspect", "testdata/fixtures/torchzip/evil_zip_os_system.pt")
	if status != 1 || !strings.Contains(errs, "posix.system is refused") {
		t.Errorf("status %d, %s", status, errs)
	}
	if status, _, errs = invoke(t, t.Context(), "inspect"); status != 2 || !strings.Contains(errs, "one argument") {
		t.Errorf("status %d, %s", status, errs)
	}
}

// Converting to torch and back gives equal tensors.
func TestConvert(t *testing.T) {
	t.Chdir("../..")
	dir := t.TempDir()
	const from = "testdata/parity/pretrain_rel/weights_after.safetensors"
	pt, back := filepath.Join(dir, "a.pt"), filepath.Join(dir, "b.safetensors")
	for _, args := range [][]string{{"--max-text-init", "20", from, pt}, {pt, back}} {
		status, out, errs := invoke(t, t.Context(), append([]string{"convert"}, args...)...)
		if status != 0 || !strings.Contains(out, "laid out for 20 tokens\n") {
			t.Fatalf("status %d, %s%s", status, out, errs)
		}
	}
	want, err := vlmo.ReadTensors(from)
	if err != nil {
		t.Fatal(err)
	}
	got, err := vlmo.ReadTensors(back)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want) {
		t.Errorf("%d tensors, want %d", len(got), len(want))
	}
	for name, w := range want {
		for i, v := range w.Data {
			if g := got[name].Data; len(g) != len(w.Data) || g[i] != v {
				t.Errorf("%s differs", name)
				break
			}
		}
	}
	for _, c := range []struct {
		args   string
		status int
		want   string
	}{
		{from, 2, "two arguments"},
		{"--image-size=-3 a b", 2, "--image-size is -3"},
		{from + " " + dir + "/x.npz", 1, ".safetensors"},
		{"testdata/none.pt x.pt", 1, "testdata/none.pt"},
		{"--image-size 32 testdata/tokenizers/dalle/encoder.pkl x.pt", 1, "positions"},
	} {
		status, _, errs := invoke(t, t.Context(), append([]string{"convert"}, strings.Fields(c.args)...)...)
		if status != c.status || !strings.Contains(errs, c.want) {
			t.Errorf("%s: status %d, %q; want %d, %q", c.args, status, errs, c.status, c.want)
		}
	}
}
