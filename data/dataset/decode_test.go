package dataset

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"vlmo-train/data/dataset/arrowfile"
	"vlmo-train/data/dataset/internal/fixture"
	"vlmo-train/data/img"
)

// Sets of every format decode their pictures by their options: one of EXIF
// orientation 6, and a 16-bit gray one.
func TestDecodeOptions(t *testing.T) {
	paths := [2]string{
		filepath.Join(fixture.Own("images"), "jpeg_exif6.jpg"),
		filepath.Join(fixture.Own("images"), "png_gray16.png"),
	}
	var pictures [2]string
	for k, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		pictures[k] = string(b)
	}
	a, b := pictures[0], pictures[1]
	dir := write(t,
		"folder/a.jpg", a, "folder/a.txt", "one", "folder/b.png", b, "folder/b.txt", "two",
		"classes/a/a.jpg", a, "classes/b/b.png", b,
		"set.jsonl", `{"image":"folder/a.jpg"}`+"\n"+`{"image":"folder/b.png"}`,
		"sheet.jsonl", `{"image":"folder/a.jpg","box":[3,2,5,4]}`+"\n"+`{"image":"folder/b.png","box":[3,2,5,4]}`,
		"set.tsv", "image\tcaption\nfolder/a.jpg\tone\nfolder/b.png\ttwo\n",
		"set.csv", "image,caption\nfolder/a.jpg,one\nfolder/b.png,two\n",
		"set.tar", string(tarOf(t, member{"1.jpg", a}, member{"1.txt", "one"}, member{"2.png", b}, member{"2.txt", "two"})),
		"f30k/karpathy/dataset_flickr30k.json", `{"images":[{"filename":"a.jpg","split":"train"},{"filename":"b.png","split":"train"}]}`,
		"f30k/flickr30k-images/a.jpg", a, "f30k/flickr30k-images/b.png", b,
		"vqa/v2_OpenEnded_mscoco_test2015_questions.json", `{"questions":[{"question_id":1,"image_id":1,"question":"x"},{"question_id":2,"image_id":2,"question":"y"}]}`,
		"vqa/test2015/COCO_test2015_000000000001.jpg", a, "vqa/test2015/COCO_test2015_000000000002.jpg", b,
		"nlvr2/nlvr2/data/dev.json", `{"identifier":"dev-0-0-0","sentence":"x","label":"True"}`,
		"nlvr2/dev/dev-0-0-img0.png", a, "nlvr2/dev/dev-0-0-img1.png", b,
		"vg/annotations/region_descriptions.json", `[{"regions":[{"image_id":1,"phrase":"x"}]},{"regions":[{"image_id":2,"phrase":"y"}]}]`,
		"vg/images/VG_100K/1.jpg", a, "vg/images/VG_100K/2.jpg", b,
		"gcc/train_annot.json", `[["a","x"],["b","y"]]`, "gcc/images_train/0/a", a, "gcc/images_train/0/b", b,
	)
	w, err := arrowfile.Create(filepath.Join(dir, "set.arrow"), []arrowfile.Column{{Name: "image", Type: "binary"}}, arrowfile.None)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pictures {
		if err := w.Append([]byte(p)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}

	plain := load(t, paths, img.Options{})
	for _, o := range []Options{{}, {Orient: true}, {Gray16High: true}, {Orient: true, Gray16High: true}} {
		want := load(t, paths, img.Options{Orient: o.Orient, Gray16High: o.Gray16High})
		if reflect.DeepEqual(want[0], plain[0]) == o.Orient || reflect.DeepEqual(want[1], plain[1]) == o.Gray16High {
			t.Fatalf("%+v: the pictures don't show which options they are decoded with", o)
		}
		for _, set := range []struct {
			path   string
			format Format
			split  string
		}{
			{"folder", FormatFolder, ""}, {"classes", FormatClasses, ""}, {"set.jsonl", FormatJSONL, ""}, {"sheet.jsonl", FormatJSONL, ""},
			{"set.tsv", FormatTSV, ""}, {"set.csv", FormatCSV, ""}, {"set.arrow", FormatArrow, ""}, {"set.tar", FormatWebDataset, ""},
			{"f30k", FormatF30K, "train"}, {"vqa", FormatVQA, "test"}, {"nlvr2", FormatNLVR2, "dev"}, {"vg", FormatVG, ""}, {"gcc", FormatGCC, "train"},
		} {
			o.Format, o.Split = set.format, set.split
			d, err := OpenSet(o, filepath.Join(dir, set.path))
			if err != nil {
				t.Fatal(err)
			}
			var got []*img.Image
			examples, bad := readAll(t, d)
			for _, e := range examples {
				if got = append(got, e.Image); e.Image2 != nil {
					got = append(got, e.Image2)
				}
			}
			want := want
			if set.path == "sheet.jsonl" {
				for k := range want {
					if want[k], err = crop(want[k], box{3, 2, 5, 4}); err != nil {
						t.Fatal(err)
					}
				}
			}
			if !reflect.DeepEqual(got, want[:]) {
				t.Errorf("%s, orient %t, gray16_high %t: the pictures differ from img.Load's; %v", set.path, o.Orient, o.Gray16High, bad)
			}
		}
	}
}

func load(t *testing.T, paths [2]string, opt img.Options) (pictures [2]*img.Image) {
	t.Helper()
	for k, path := range paths {
		var err error
		if pictures[k], err = img.Load(path, opt); err != nil {
			t.Fatal(err)
		}
	}
	return pictures
}
