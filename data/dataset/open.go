package dataset

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"vlmo-train/data/img"
)

// Format says how a set is stored.
type Format string

// The formats of sets that are read at random.
const (
	FormatJSONL   Format = "jsonl"   // see [JSONL]
	FormatFolder  Format = "folder"  // pictures with caption files, see [Folder]
	FormatClasses Format = "classes" // a folder of pictures for each class, see [Classes]
	FormatLines   Format = "lines"   // a text a line, see [Lines]
	FormatTSV     Format = "tsv"     // see [Table]
	FormatCSV     Format = "csv"     // see [Table]
	FormatArrow   Format = "arrow"   // see [Rows]
	FormatParquet Format = "parquet" // see [Rows]
	FormatCOCO    Format = "coco"    // Karpathy's splits, see [Karpathy]
	FormatF30K    Format = "f30k"    // Karpathy's splits, see [Karpathy]
	FormatVQA     Format = "vqa"     // VQAv2, see [VQA]
	FormatNLVR2   Format = "nlvr2"   // see [NLVR2]
	FormatVG      Format = "vg"      // Visual Genome's regions, see [VG]
	FormatGCC     Format = "gcc"     // Conceptual Captions, see [Listed]
	FormatSBU     Format = "sbu"     // see [Listed]
)

// Options say where a set is and how to read it. All but Path may be left out.
type Options struct {
	// Path is a file, a folder, or a pattern of file names as filepath.Match
	// has them, such as "sbu_*.arrow"; the files of a pattern or of a folder are
	// read in the order of their names as one set. The raw forms of published
	// sets (coco to sbu) are folders laid out as the originals are.
	Path string `yaml:"path"`

	// Format is found out from names and content where it is empty.
	Format Format `yaml:"format"`

	// Split is the part of a raw set to read: train (the default), val, test
	// and so on. Karpathy's train has restval in it.
	Split string `yaml:"split"`

	// Images is the folder that paths of pictures are relative to, where it is
	// not the one the format has them in.
	Images string `yaml:"images"`

	// Columns names what is read of a table: Arrow, Parquet, TSV or CSV.
	Columns Columns `yaml:"columns"`

	// NormalizeAnswers looks the ten answers of a VQA question up in the
	// vocabulary after the normalisation that the vocabulary went through. The
	// original looks them up as they are written, and so finds fewer.
	NormalizeAnswers bool `yaml:"normalize_answers"`

	// Orient turns pictures as their EXIF orientation says. The boxes of a JSONL
	// set are then of the turned picture; an example's Regions stay those of the
	// stored one.
	Orient bool `yaml:"orient"`

	// Gray16High takes the high byte of a 16-bit gray PNG's samples, which are
	// clipped to 255 otherwise, as by Pillow.
	Gray16High bool `yaml:"gray16_high"`
}

// decode returns how the set's pictures are decoded.
func (o *Options) decode() img.Options {
	return img.Options{Orient: o.Orient, Gray16High: o.Gray16High}
}

// Columns are the names of a table's columns. What is empty is found by the
// usual names, given in brackets, and may be missing, but there are pictures or
// captions.
type Columns struct {
	Image    string   `yaml:"image,omitempty"`    // [image, image_0]: encoded bytes, a struct of bytes and path, or a path
	Image2   string   `yaml:"image2,omitempty"`   // [image_1]
	Captions []string `yaml:"captions,omitempty"` // [caption, captions, text]: strings or lists of strings
	Keywords []string `yaml:"keywords,omitempty"` // [keywords]: strings or lists of strings
	ID       string   `yaml:"id,omitempty"`       // [image_id, identifier, id]
	Group    string   `yaml:"group,omitempty"`    // [none: the ID]

	// Lists of the same length, or single values, in sets of questions.
	Questions   string `yaml:"questions,omitempty"`    // [questions, question]
	QuestionIDs string `yaml:"question_ids,omitempty"` // [question_id]
	Answers     string `yaml:"answers,omitempty"`      // [answers]
	Labels      string `yaml:"labels,omitempty"`       // [answer_labels]
	Scores      string `yaml:"scores,omitempty"`       // [answer_scores]

	// Names are the columns of a TSV or CSV file that has no line with their
	// names.
	Names []string `yaml:"names,omitempty"`
}

// ErrEmpty says that a table has columns and no rows, as a split without pictures is
// written.
var ErrEmpty = errors.New("no examples")

// splitFormats are the formats of which Options.Split chooses a part.
var splitFormats = []Format{FormatCOCO, FormatF30K, FormatVQA, FormatNLVR2, FormatVG, FormatGCC, FormatSBU}

// Open opens a set of any format. Sets that hold files are io.Closers.
func Open(o Options) (Dataset, error) {
	if o.Path == "" {
		return nil, errors.New("dataset: no path")
	}
	if o.Format == "" {
		var err error
		if o.Format, err = sniff(o.Path); err != nil {
			return nil, fmt.Errorf("dataset: %w", err)
		}
	}
	if o.Split != "" && !slices.Contains(splitFormats, o.Format) {
		return nil, fmt.Errorf("dataset: %s: sets of format %s have no splits, but split is %q", o.Path, o.Format, o.Split)
	}
	switch o.Format {
	case FormatJSONL:
		return opened(OpenJSONL(o))
	case FormatFolder:
		return opened(OpenFolder(o))
	case FormatLines:
		paths, err := expand(o.Path, ".txt")
		if err != nil {
			return nil, fmt.Errorf("dataset: %w", err)
		}
		return opened(OpenLines(paths...))
	case FormatClasses:
		return opened(OpenClasses(o))
	case FormatTSV:
		return opened(OpenTSV(o))
	case FormatCSV:
		return opened(OpenCSV(o))
	case FormatArrow:
		return opened(OpenArrow(o))
	case FormatParquet:
		return opened(OpenParquet(o))
	case FormatCOCO:
		return opened(OpenCOCO(o))
	case FormatF30K:
		return opened(OpenF30K(o))
	case FormatVQA:
		return opened(OpenVQA(o))
	case FormatNLVR2:
		return opened(OpenNLVR2(o))
	case FormatVG:
		return opened(OpenVG(o))
	case FormatGCC:
		return opened(OpenGCC(o))
	case FormatSBU:
		return opened(OpenSBU(o))
	}
	return nil, fmt.Errorf("dataset: %s: unknown format %q", o.Path, o.Format)
}

// opened returns a set as a Dataset, which is nil where there is an error.
func opened[D Dataset](d D, err error) (Dataset, error) {
	if err != nil {
		return nil, err
	}
	return d, nil
}

// isPattern reports whether a path is a pattern and no name.
func isPattern(path string) bool { return strings.ContainsAny(path, "*?[") }

// expand returns the files a path names: itself, those that match a pattern, or
// those in a folder with an extension, in the order of their names.
func expand(path, ext string) ([]string, error) {
	info, err := os.Stat(path)
	switch {
	case err == nil && !info.IsDir():
		return []string{path}, nil
	case err == nil:
		entries, err := os.ReadDir(path)
		if err != nil {
			return nil, err
		}
		var paths []string
		for _, e := range entries {
			if !e.IsDir() && !strings.HasPrefix(e.Name(), ".") && strings.EqualFold(filepath.Ext(e.Name()), ext) {
				paths = append(paths, filepath.Join(path, e.Name()))
			}
		}
		if len(paths) == 0 {
			return nil, fmt.Errorf("%s: no *%s in the folder", path, ext)
		}
		return paths, nil
	case errors.Is(err, fs.ErrNotExist) && isPattern(path):
		paths, err := filepath.Glob(path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if len(paths) == 0 {
			return nil, fmt.Errorf("%s: no file matches", path)
		}
		sort.Strings(paths)
		return paths, nil
	}
	return nil, err
}

// extensions are those of single files.
var extensions = map[string]Format{
	".jsonl": FormatJSONL, ".ndjson": FormatJSONL, ".txt": FormatLines, ".tsv": FormatTSV, ".csv": FormatCSV,
	".arrow": FormatArrow, ".feather": FormatArrow, ".parquet": FormatParquet,
}

// layouts are files that a raw set has in its folder.
var layouts = []struct {
	pattern string
	format  Format
}{
	{"karpathy/dataset_coco.json", FormatCOCO},
	{"karpathy/dataset_flickr30k.json", FormatF30K},
	{"v2_OpenEnded_mscoco_*_questions.json", FormatVQA},
	{"nlvr2/data/*.json", FormatNLVR2},
	{"annotations/region_descriptions.json", FormatVG},
	{"train_annot.json", FormatGCC},
	{"annot.json", FormatSBU},
	{"*.arrow", FormatArrow},
	{"*.parquet", FormatParquet},
}

// sniff finds out the format of what is at path.
func sniff(path string) (Format, error) {
	info, err := os.Stat(path)
	if err != nil {
		if !isPattern(path) {
			return "", err
		}
		if f := extensions[strings.ToLower(filepath.Ext(path))]; f != "" {
			return f, nil
		}
		return "", fmt.Errorf("%s: can't tell the format by the name, and no file has this one", path)
	}
	if info.IsDir() {
		for _, l := range layouts {
			if m, _ := filepath.Glob(filepath.Join(escape(path), filepath.FromSlash(l.pattern))); len(m) > 0 {
				return l.format, nil
			}
		}
		return FormatFolder, nil
	}
	if f := extensions[strings.ToLower(filepath.Ext(path))]; f != "" {
		return f, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	magic := make([]byte, 6)
	n, _ := f.Read(magic)
	switch m := string(magic[:n]); {
	case m == "ARROW1":
		return FormatArrow, nil
	case strings.HasPrefix(m, "PAR1"):
		return FormatParquet, nil
	}
	return "", fmt.Errorf("%s: can't tell the format by the name; say which it is", path)
}

// escape quotes what has a meaning in a pattern.
func escape(path string) string {
	if os.PathSeparator == '\\' {
		return path
	}
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(path)
}
