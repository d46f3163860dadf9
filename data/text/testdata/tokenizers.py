"""Writes tokenizer-*.json and tokenizers.jsonl: tokenizers of BERT's kind with
different normalizers, and what Hugging Face's tokenizers make of some texts.

    pip install tokenizers==0.23.3 && python tokenizers.py
"""
import json
import os
import sys

here = os.path.dirname(os.path.abspath(__file__))
sys.path = [p for p in sys.path if os.path.abspath(p or ".") != here]
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers  # noqa: E402

texts = [
    "The Dog saw the dog's DOG",
    "İstanbul ısınır. Straße STRASSE ẞ ΣΑΣ σας",
    "café Café CAFÉ cafe\u0301 e\u0301\u0327 \u0301a",
    "日本のdog 日本 dog日dog",
    "tab\tdog\nline\rdog\x0bdog\x0cdog\x00dog\x07dog\x7fdog\u0085dog\u00addog\u200bdog\ufeffdog\ufffddog",
    "a\u00a0b\u2003c\u2028d\u2029e\u3000f\u1680g\u202fh",
    "[MASK] the [mask] dog[SEP]dog [CLS][PAD]x[UNK]",
    "<img> the<img>dog <IMG> [unused1] [unused12]",
    "dog,dog;(dog)!«dog»—dog…dog＋dog+dog$dog`dog",
    "가나다 각 한글", "naïve Ångström Å Å ﬁ ｆｕｌｌ", "\u1f88 \u01c5 \u0130\u0307",
    "", " ", "dogdogdogdog", "dog" * 7,
]
chars = sorted({c for t in texts for s in (t, t.lower(), t.upper()) for c in s if c.strip() and c != "\ufffd"} | {"\u0307", "\u0301", "ι"})
vocab = {}
for t in ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused1]", "dog", "##dog", "Dog", "##og", "the", "The", "caf", "Caf"] + chars + ["##" + c for c in chars]:
    vocab.setdefault(t, len(vocab))

configs = {
    "uncased": dict(clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=True),
    "cased": dict(clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=False),
    "accents": dict(clean_text=True, handle_chinese_chars=False, strip_accents=False, lowercase=True),
    "strip": dict(clean_text=True, handle_chinese_chars=True, strip_accents=True, lowercase=False),
    "raw": dict(clean_text=False, handle_chinese_chars=False, strip_accents=False, lowercase=False),
    "none": None,
}
cases = []
for name, opt in configs.items():
    t = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100 if name != "strip" else 20))
    if opt:
        t.normalizer = normalizers.BertNormalizer(**opt)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    if name in ("cased", "raw"):
        t.add_special_tokens([AddedToken("<img>", normalized=False), AddedToken("[unused1]", normalized=False)])
    t.save(os.path.join(here, "tokenizer-%s.json" % name), pretty=False)
    for text in texts:
        e = t.encode(text, add_special_tokens=False)
        cases.append(dict(tokenizer="tokenizer-%s.json" % name, text=text, ids=e.ids, tokens=e.tokens, offsets=e.offsets))
with open(os.path.join(here, "tokenizers.jsonl"), "w") as f:
    for c in cases:
        f.write(json.dumps(c) + "\n")
