"""Writes pillow.safetensors: what Pillow makes of one small picture.

The cases, with their parameters, are the file's metadata. Pictures are U8
[H, W, 3], files U8 [n]. Made with Pillow 9.4.0:

    pip install pillow==9.4.0 'numpy<2' && python pillow.py

Later versions resize vertically first where that is cheaper, and round
differently then.
"""
import io
import json
import struct
import zlib

import numpy as np
from PIL import Image, ImageEnhance

rs = np.random.RandomState(1)
H, W = 29, 37
yy, xx = np.mgrid[:H, :W]
smooth = np.stack([128 + 120 * np.sin(xx / 5 + c) * np.cos(yy / 4 - c) for c in range(3)], -1)
src = np.clip(smooth + rs.randint(-30, 30, (H, W, 3)), 0, 255).astype(np.uint8)
im = Image.fromarray(src)
out, cases = {"source": src}, []


def put(kind, picture, **par):
    name = "%s/%d" % (kind, len(cases))
    cases.append(dict(kind=kind, name=name, **par))
    out[name] = np.asarray(picture)


for w, h, box in [
    (20, 31, None), (100, 7, None), (37, 12, None), (12, 29, None), (1, 1, None),
    (16, 16, (3, 4, 30, 25)), (37, 29, (0.5, 0, 37, 28.25)), (9, 50, (1.3, 2.7, 20.9, 3.1)),
    (37, 10, (0, 3, 37, 20)), (64, 64, (36.5, 28.5, 37, 29)),
]:
    put("resize", im.resize((w, h), Image.BICUBIC, box=box), w=w, h=h, box=box or (0, 0, W, H))

for w, h, m in [
    (37, 29, (0.97, 0.21, -2.5, -0.18, 1.04, 3.25)),
    (37, 29, (1, 0, 0.5, 0, 1, -0.25)),
    (32, 40, (-1.1, 0.3, 35.0, 0.2, 0.7, 0.1)),
    (50, 50, (0.8, 0, -1.5, 0, 0.6, -1.0)),
]:
    t = im.transform((w, h), Image.AFFINE, m, Image.BILINEAR, fillcolor=(255, 10, 128))
    put("affine", t, w=w, h=h, matrix=m, fill=(255, 10, 128))

for f in (0, 0.37, 1, 1.63):
    put("brightness", ImageEnhance.Brightness(im).enhance(f), factor=f)
    put("contrast", ImageEnhance.Contrast(im).enhance(f), factor=f)
    put("saturation", ImageEnhance.Color(im).enhance(f), factor=f)
for f in (-0.5, -0.13, 0, 0.27):
    h, s, v = im.convert("HSV").split()
    nh = (np.asarray(h).astype(np.int32) + int(f * 255)).astype(np.uint8)
    put("hue", Image.merge("HSV", (Image.fromarray(nh), s, v)).convert("RGB"), factor=f)

# Every RGB colour in steps of 15 to HSV, and every HSV colour in steps of 15
# to RGB.
g = np.arange(0, 256, 15, dtype=np.uint8)
cube = np.stack(np.meshgrid(g, g, g, indexing="ij"), -1).reshape(18, -1, 3)
put("tohsv", Image.fromarray(cube).convert("HSV"))
put("fromhsv", Image.merge("HSV", [Image.fromarray(np.ascontiguousarray(cube[..., c])) for c in range(3)]).convert("RGB"))


def decode(kind, data):
    put(kind, Image.open(io.BytesIO(data)).convert("RGB"), file="file/%d" % len(cases))
    out[cases[-1]["file"]] = np.frombuffer(data, np.uint8)


# GIF frames smaller than the screen: the rest has the transparent colour, or
# colour 0.
for transparent in (None, 3):
    b = io.BytesIO()
    p = Image.fromarray(rs.randint(0, 8, (4, 5)).astype(np.uint8), "P")
    p.putpalette([int(v) for v in rs.randint(0, 255, 24)])
    p.save(b, "GIF", **({} if transparent is None else {"transparency": transparent}))
    b = bytearray(b.getvalue())
    b[6:10] = struct.pack("<HH", 9, 8)
    at = b.index(b"\x2c\0\0\0\0\x05\0\x04\0")
    b[at + 1:at + 5] = struct.pack("<HH", 2, 1)
    decode("gif", bytes(b))

# Odd widths, even widths, heights of every phase through both kinds of chroma
# filter.
for w, h in [(1, 1), (2, 2), (3, 2), (4, 3), (5, 5), (6, 6), (21, 18), (22, 17)]:
    b = io.BytesIO()
    im.crop((0, 0, w, h)).save(b, "WEBP", quality=70)
    decode("webp", b.getvalue())
    for sub in ("4:2:0", "4:2:2", "4:4:4"):
        b = io.BytesIO()
        im.crop((0, 0, w, h)).save(b, "JPEG", quality=85, subsampling=sub)
        decode("jpeg", b.getvalue())
b = io.BytesIO()
im.convert("CMYK").save(b, "JPEG", quality=85)
decode("jpeg", b.getvalue())

# An animation whose first frame does not fill its canvas.
b = io.BytesIO()
im.crop((0, 0, 5, 4)).save(b, "WEBP", lossless=True)
u24 = lambda v: struct.pack("<I", v)[:3]
chunk = lambda name, body: name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
frame = u24(1) + u24(2) + u24(4) + u24(3) + u24(100) + b"\0" + b.getvalue()[12:]
body = b"WEBP" + chunk(b"VP8X", b"\x12\0\0\0" + u24(10) + u24(8)) + chunk(b"ANIM", b"\0" * 6) + chunk(b"ANMF", frame) * 2
decode("webp", b"RIFF" + struct.pack("<I", len(body)) + body)

# A 16-bit gray scan with a transparent level.
b = io.BytesIO()
Image.fromarray((rs.randint(0, 600, (6, 7))).astype(np.uint16)).save(b, "PNG")
b = b.getvalue()
trns = b"tRNS\0\4"
trns = b"\0\0\0\2" + trns + struct.pack(">I", zlib.crc32(trns))
decode("png", b[:33] + trns + b[33:])

header = {"__metadata__": {"cases": json.dumps(cases)}}
at = 0
for k in sorted(out):
    a = out[k]
    header[k] = {"dtype": "U8", "shape": list(a.shape), "data_offsets": [at, at + a.nbytes]}
    at += a.nbytes
j = json.dumps(header, separators=(",", ":")).encode()
j += b" " * (-len(j) % 8)
with open("pillow.safetensors", "wb") as f:
    f.write(struct.pack("<Q", len(j)) + j)
    for k in sorted(out):
        f.write(np.ascontiguousarray(out[k]).tobytes())
