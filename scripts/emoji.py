#!/usr/bin/env python3
"""Build testdata/emoji: pictures with words, dictionary text and a small vocabulary.

Needs npm, apt-get and dpkg-deb (Debian or Ubuntu) and one Python package:

    python3 -m venv venv
    venv/bin/pip install pillow==13.0.0
    venv/bin/python scripts/emoji.py

Packages are fetched by name into --cache (kept between runs) and checked by
SHA-256. The pixels do not depend on the Pillow version's WebP encoder, only the
compressed size does.
"""

import argparse
import collections
import hashlib
import io
import json
import math
import pathlib
import re
import subprocess
import tarfile
import tempfile
import unicodedata

from PIL import Image

SIDE = 32  # pixels of a picture's edge
COLUMNS = 41
GLOSS_BYTES = 400_000
VOCAB_SIZE = 4_000

# package -> (file written by npm pack, SHA-256)
NPM = {
    "emoji-datasource-google@16.0.0": (
        "emoji-datasource-google-16.0.0.tgz",
        "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
    ),
    "emoji-datasource-twitter@16.0.0": (
        "emoji-datasource-twitter-16.0.0.tgz",
        "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
    ),
    "@lobehub/fluent-emoji-3d@1.1.0": (
        "lobehub-fluent-emoji-3d-1.1.0.tgz",
        "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
    ),
    "emojibase-data@17.0.0": (
        "emojibase-data-17.0.0.tgz",
        "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
    ),
    # Read for the text of one licence only.
    "spdx-license-list@6.12.0": (
        "spdx-license-list-6.12.0.tgz",
        "54cc8d13086187333ca1457c8edaa06d9a412144f076aa7f7c1b59c4f3b0a1ef",
    ),
}

# WordNet 3.0's own files: the Debian revision around them may change.
WORDNET = {
    "data.noun": "fea17d2f9656611334eac790e5d69e47645fa180c4aa481fb4cd9b3520754ca2",
    "index.noun": "a490d99d93d017bf4822fe2f0ffa51fd73911ce271dc7535fade21f8814b5a04",
    "noun.exc": "2b5d675c380b39ecf595af9fa9d4e7feb1d58c643b0bff08c40ed5bfe41fab7a",
}

# WordNet's lexicographer files of things one can see (lexnames(5WN)).
VISUAL = {
    5: "animal", 6: "artifact", 8: "body", 13: "food", 17: "object",
    18: "person", 19: "phenomenon", 20: "plant", 25: "shape", 27: "substance",
}

MIT = """MIT License

{copyright}

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""


def check(name, data, want):
    got = hashlib.sha256(data).hexdigest()
    if got != want:
        raise SystemExit(f"{name}: SHA-256 is {got}, want {want}")


def npm(package, cache):
    """Return the package's tarball, opened."""
    name, want = NPM[package]
    path = cache / name
    if not path.exists():
        subprocess.run(["npm", "pack", package], cwd=cache, check=True, stdout=subprocess.DEVNULL)
    check(path, path.read_bytes(), want)
    return tarfile.open(path)


def wordnet(cache):
    """Return the folder of WordNet's database files."""
    folder = cache / "wordnet"
    if not folder.exists():
        subprocess.run(["apt-get", "download", "wordnet-base"], cwd=cache, check=True)
        deb = next(cache.glob("wordnet-base_*.deb"))
        subprocess.run(["dpkg-deb", "-x", deb, folder], check=True)
    folder = folder / "usr/share/wordnet"
    for name, want in WORDNET.items():
        check(folder / name, (folder / name).read_bytes(), want)
    return folder


def code(s):
    """Normalise a code point sequence: lower case, without variation selectors."""
    return s.lower().replace("-fe0f", "")


def pictures(tar, folder):
    """Map code -> encoded picture for the files directly under folder."""
    found = {}
    # One pass in file order: seeking back in a .tgz starts it over.
    for member in tar:
        parent, _, file = member.name.rpartition("/")
        if parent == folder:
            found[file.rpartition(".")[0]] = tar.extractfile(member).read()
    out = {}
    # A picture that is there with and without the selector is taken without.
    for name in sorted(found, key=lambda n: (len(n), n)):
        out.setdefault(code(name), found[name])
    return out


def small(data):
    """Decode a picture, put it on white, shrink it."""
    im = Image.open(io.BytesIO(data)).convert("RGBA")
    white = Image.new("RGBA", im.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, im).convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def write_sheet(path, sheet):
    """Write the sheet as lossless WebP, or as PNG where that is smaller; return the file name."""
    best = None
    for ext, options in (
        (".webp", dict(format="WEBP", lossless=True, quality=100, method=6, exact=True)),
        (".png", dict(format="PNG", optimize=True)),
    ):
        buffer = io.BytesIO()
        sheet.save(buffer, **options)
        if best is None or len(buffer.getvalue()) < len(best[1]):
            best = (ext, buffer.getvalue())
    ext, data = best
    if Image.open(io.BytesIO(data)).convert("RGB").tobytes() != sheet.tobytes():
        raise SystemExit(f"{path}: not lossless")
    path.with_suffix(ext).write_bytes(data)
    return path.name + ext


# -- words ------------------------------------------------------------------


def words(text):
    """Split text as BERT's basic tokenizer (uncased) does."""
    text = unicodedata.normalize("NFD", text.lower())
    text = "".join(c for c in text if unicodedata.category(c) != "Mn")
    out = []
    for word in text.split():
        piece = ""
        for c in word:
            # BERT counts every ASCII symbol as punctuation, $ and + included.
            if unicodedata.category(c).startswith("P") or (c.isascii() and not c.isalnum()):
                if piece:
                    out.append(piece)
                out.append(c)
                piece = ""
            else:
                piece += c
        if piece:
            out.append(piece)
    return out


def wordpiece(word, vocab):
    """Split a word greedily, longest piece first; [] where the vocabulary can't."""
    out, start = [], 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in vocab:
                out.append(piece)
                start = end
                break
        else:
            return []
    return out


def read_nouns(folder):
    """Return (lemma -> synset offsets by frequency, offset -> (lexfile, first word, definition, count))."""
    index, exceptions = {}, {}
    for line in (folder / "index.noun").read_text().splitlines():
        if line.startswith(" "):
            continue  # licence
        f = line.split()
        index[f[0]] = f[-int(f[2]):]
    for line in (folder / "noun.exc").read_text().splitlines():
        form, lemma = line.split()[:2]
        exceptions[form] = lemma
    counts = collections.Counter()
    for line in (folder / "cntlist.rev").read_text().splitlines():
        key, sense, count = line.split()
        lemma, _, rest = key.partition("%")
        # The list is older than the index in places and names senses that are gone.
        if rest.startswith("1:") and int(sense) <= len(index.get(lemma, [])):
            counts[index[lemma][int(sense) - 1]] += int(count)
    synsets = {}
    for line in (folder / "data.noun").read_text().splitlines():
        if line.startswith(" "):
            continue
        head, _, gloss = line.partition(" | ")
        f = head.split()
        # Examples are quoted and follow the definition.
        definition = re.split(r'\s*[;:,]?\s*"', gloss.strip())[0].strip(" ;")
        synsets[f[0]] = (int(f[1]), f[4].replace("_", " "), definition, counts[f[0]])
    return index, exceptions, synsets


def lemmas(word, index, exceptions):
    """Return the nouns that word may be a form of."""
    forms = [word, exceptions.get(word, "")]
    for end, new in (("ies", "y"), ("es", ""), ("s", ""), ("men", "man")):
        if word.endswith(end) and not word.endswith("ss"):
            forms.append(word[: -len(end)] + new)
    for form in forms:
        if form in index:
            return [form]
    return []


def glosses(texts, folder):
    """Choose definitions: first of the nouns in texts, then of common visible things."""
    index, exceptions, synsets = read_nouns(folder)
    nouns = set()
    for text in texts:
        plain = words(text)
        for n in range(1, len(plain) + 1):  # multi-word nouns, too: "polar bear"
            for i in range(len(plain) - n + 1):
                nouns.update(lemmas("_".join(plain[i : i + n]), index, exceptions))

    chosen, size = {}, 0

    def add(lemma, offset):
        nonlocal size
        _, _, definition, _ = synsets[offset]
        if offset in chosen or not 10 <= len(definition) <= 120:
            return
        line = f"{lemma.replace('_', ' ')}: {definition}"
        if size + len(line) + 1 <= GLOSS_BYTES:
            chosen[offset] = line
            size += len(line) + 1

    # Of a noun with many senses, the most frequent and the first visible one.
    for noun in sorted(nouns):
        if len(noun) > 1:
            offsets = index[noun]
            add(noun, offsets[0])
            visible = [o for o in offsets[:5] if synsets[o][0] in VISUAL]
            if visible:
                add(noun, visible[0])
    related = len(chosen)
    rest = [
        (-count, len(definition), offset)
        for offset, (lexfile, first, definition, count) in synsets.items()
        # Capitalised first words are names of people and places.
        if lexfile in VISUAL and len(definition) <= 80 and first.islower()
    ]
    for _, _, offset in sorted(rest):
        add(synsets[offset][1], offset)
    return sorted(set(chosen.values())), related


def vocabulary(texts, definitions, full):
    """Choose from the full vocabulary (a list) what the texts need and what the definitions need most."""
    have = set(full)
    keep = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    for c in map(chr, range(33, 127)):
        keep.update(p for p in (c, "##" + c) if p in have)
    unknown = collections.Counter()
    for text in texts:
        for word in words(text):
            pieces = wordpiece(word, have)
            keep.update(pieces)
            if not pieces:
                unknown[word] += 1
    counts = collections.Counter()
    for line in definitions:
        for word in words(line):
            counts.update(wordpiece(word, have))
    # The smallest N that leaves the vocabulary no larger than wanted.
    for n in range(1, max(counts.values()) + 1):
        more = keep | {p for p, c in counts.items() if c >= n}
        if len(more) <= VOCAB_SIZE:
            break
    return special + [p for p in full if p in more and p not in special], n, unknown


# -- files ------------------------------------------------------------------


def write_lines(path, lines):
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def main():
    root = pathlib.Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=pathlib.Path, default=pathlib.Path(tempfile.gettempdir()) / "emoji")
    parser.add_argument("--out", type=pathlib.Path, default=root / "testdata/emoji")
    args = parser.parse_args()
    args.cache.mkdir(parents=True, exist_ok=True)
    out = args.out
    (out / "LICENSES").mkdir(parents=True, exist_ok=True)

    google = npm("emoji-datasource-google@16.0.0", args.cache)
    twitter = npm("emoji-datasource-twitter@16.0.0", args.cache)
    fluent = npm("@lobehub/fluent-emoji-3d@1.1.0", args.cache)
    base = npm("emojibase-data@17.0.0", args.cache)
    folder = wordnet(args.cache)

    names = {code(e["hexcode"]): e for e in json.load(base.extractfile("package/en/data.json"))}
    styles = {
        "google": pictures(google, "package/img/google/64"),
        "twitter": pictures(twitter, "package/img/twitter/64"),
        "fluent": pictures(fluent, "package/assets"),
    }
    # A concept is an emoji of the list that is no flag (tone variants are not
    # entries of their own) and that the test style and a training style have.
    concepts = [
        code(e["unified"])
        for e in json.load(google.extractfile("package/emoji.json"))
        if e["category"] != "Flags"
    ]
    concepts = [c for c in concepts if c in names and c in styles["google"] and c in styles["twitter"]]
    concepts.sort(key=lambda c: (names[c]["order"], c))

    rows = {}
    for style, files in styles.items():
        have = [c for c in concepts if c in files]
        sheet = Image.new("RGB", (COLUMNS * SIDE, math.ceil(len(have) / COLUMNS) * SIDE), (255, 255, 255))
        boxes = {}
        for i, c in enumerate(have):
            at = (i % COLUMNS * SIDE, i // COLUMNS * SIDE)
            sheet.paste(small(files[c]), at)
            boxes[c] = [*at, SIDE, SIDE]
        file = write_sheet(out / style, sheet)
        rows[style] = {
            c: json.dumps(
                {
                    "image": file,
                    "box": boxes[c],
                    "id": f"{c}-{style}",
                    "concept": c,
                    "captions": [names[c]["label"]],
                    "keywords": names[c].get("tags", []),
                },
                ensure_ascii=False,
            )
            for c in have
        }
        print(f"{file}: {len(have)} pictures, {(out / file).stat().st_size} bytes")
    train = [rows[s][c] for c in concepts for s in ("twitter", "fluent") if c in rows[s]]
    write_lines(out / "train.jsonl", train)
    write_lines(out / "test.jsonl", [rows["google"][c] for c in concepts])
    print(f"train.jsonl: {len(train)}, test.jsonl: {len(concepts)}")

    texts = [t for c in concepts for t in [names[c]["label"], *names[c].get("tags", [])]]
    lines, related = glosses(texts, folder)
    write_lines(out / "glosses.txt", lines)
    print(f"glosses.txt: {len(lines)} definitions, {related} of nouns in labels or keywords")

    full = (root / "data/text/vocab.txt").read_text(encoding="utf-8").splitlines()
    vocab, n, unknown = vocabulary(texts, lines, full)
    write_lines(out / "vocab.txt", vocab)
    print(f"vocab.txt: {len(vocab)} pieces (in definitions at least {n} times); no pieces for {dict(unknown)}")

    licences = out / "LICENSES"
    bare = json.load(npm("spdx-license-list@6.12.0", args.cache).extractfile("package/licenses/CC-BY-4.0.json"))
    (licences / "CC-BY-4.0.txt").write_text(bare["licenseText"].rstrip() + "\n", encoding="utf-8")
    (licences / "emojibase-MIT.txt").write_bytes(base.extractfile("package/LICENSE").read())
    (licences / "fluent-emoji-MIT.txt").write_text(MIT.format(copyright="Copyright (c) Microsoft Corporation."))
    head = []
    for line in (folder / "data.noun").read_text().splitlines():
        if not line.startswith(" "):
            break
        head.append(re.sub(r"^ +\d+ ", "", line).rstrip())
    write_lines(licences / "WordNet-3.0.txt", head)


if __name__ == "__main__":
    main()
