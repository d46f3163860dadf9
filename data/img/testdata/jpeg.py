"""Writes jpeg.safetensors: JPEG files of many kinds, and EXIF orientations in
JPEG, PNG and WebP, with what Pillow makes of them.

The cases are the file's metadata. Made with Pillow 13.0.0 (libjpeg-turbo 3.2.0):

    apt-get install libjpeg-turbo-progs
    pip install pillow==13.0.0 numpy && python jpeg.py
"""
import io
import json
import struct
import subprocess
import tempfile

import numpy as np
from PIL import Image, ImageOps

rs = np.random.RandomState(3)
out, cases = {}, []


def picture(w, h):
    yy, xx = np.mgrid[:h, :w]
    smooth = np.stack([128 + 110 * np.sin(xx / (5 + c) + c) * np.cos(yy / 4 - c) for c in range(3)], -1)
    return Image.fromarray(np.clip(smooth + rs.randint(-25, 25, (h, w, 3)), 0, 255).astype(np.uint8))


def case(kind, data, truth):
    n = "%s/%d" % (kind, len(cases))
    cases.append(dict(kind=kind, name=n, file="file/" + n))
    out[n] = np.asarray(truth.convert("RGB"))
    out["file/" + n] = np.frombuffer(data, np.uint8)


def encoded(m, **par):
    b = io.BytesIO()
    m.save(b, **par)
    return b.getvalue()


def plain(data):
    case("jpeg", data, Image.open(io.BytesIO(data)))


sizes = [(1, 1), (3, 17), (16, 16), (17, 33), (40, 15), (31, 48)]
for w, h in sizes:
    m = picture(w, h)
    for sub in ("4:4:4", "4:2:2", "4:2:0"):
        for progressive in (False, True):
            plain(encoded(m, format="JPEG", quality=int(rs.randint(20, 98)), subsampling=sub, progressive=progressive))
m = picture(45, 37)
plain(encoded(m, format="JPEG", quality=100, subsampling="4:4:4"))
plain(encoded(m, format="JPEG", quality=2))
plain(encoded(m, format="JPEG", quality=85, restart_marker_blocks=2))
plain(encoded(m, format="JPEG", quality=85, restart_marker_rows=1, progressive=True))
plain(encoded(m, format="JPEG", quality=85, optimize=True))
plain(encoded(m.convert("L"), format="JPEG", quality=85, restart_marker_blocks=3))
cmyk = bytearray(encoded(m.convert("CMYK"), format="JPEG", quality=85))
plain(bytes(cmyk))
cmyk[cmyk.index(b"Adobe") + 11] = 2  # the same samples as YCCK
plain(bytes(cmyk))
rgb = bytearray(encoded(m, format="JPEG", quality=85, keep_rgb=True))
plain(bytes(rgb))
jfif = encoded(m, format="JPEG", quality=85)
plain(jfif[:20] + b"junk" + jfif[20:])  # bytes between segments

for order in "<", ">":
    for o in range(1, 9) if order == "<" else (6,):
        m = picture(11, 7)
        # entries: tag, type, count, value; ImageWidth before Orientation
        tiff = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, 2)
        tiff += struct.pack(order + "HHIHH", 0x100, 3, 1, 11, 0) + struct.pack(order + "HHIHH", 0x112, 3, 1, o, 0)
        tiff += struct.pack(order + "I", 0)
        for f in ("JPEG", "PNG", "WEBP"):
            data = encoded(m, format=f, exif=b"Exif\0\0" + tiff, **({"lossless": True} if f == "WEBP" else {}))
            im = Image.open(io.BytesIO(data))
            assert im.getexif().get(0x112) == o
            case("exif", data, ImageOps.exif_transpose(im))

# What Pillow does not write: arithmetic coding, scans of single components,
# other sampling factors.
with tempfile.NamedTemporaryFile("w", suffix=".scans") as scans:
    scans.write("0;\n1;\n2;\n")
    scans.flush()
    for args in (
        ["-arithmetic"], ["-arithmetic", "-progressive"], ["-arithmetic", "-restart", "1"],
        ["-arithmetic", "-progressive", "-restart", "2B", "-sample", "1x1"], ["-arithmetic", "-grayscale"],
        ["-arithmetic", "-quality", "100", "-sample", "1x1"], ["-arithmetic", "-progressive", "-quality", "3"],
        ["-scans", scans.name], ["-scans", scans.name, "-sample", "2x1", "-restart", "3B"],
        ["-sample", "1x2"], ["-sample", "4x1"], ["-sample", "4x2"], ["-sample", "1x4"], ["-sample", "2x2,2x1,1x2"],
        ["-sample", "1x1,2x2,1x2"], ["-sample", "1x2", "-progressive"], ["-sample", "4x2,1x1,1x1"], ["-rgb"],
    ):
        m = picture(53, 39)
        ppm = encoded(m, format="PPM")
        plain(subprocess.run(["cjpeg", *args], input=ppm, stdout=subprocess.PIPE, check=True).stdout)

header = {"__metadata__": {"cases": json.dumps(cases)}}
at = 0
for k in sorted(out):
    a = out[k]
    header[k] = {"dtype": "U8", "shape": list(a.shape), "data_offsets": [at, at + a.nbytes]}
    at += a.nbytes
j = json.dumps(header, separators=(",", ":")).encode()
j += b" " * (-len(j) % 8)
with open("jpeg.safetensors", "wb") as f:
    f.write(struct.pack("<Q", len(j)) + j)
    for k in sorted(out):
        f.write(np.ascontiguousarray(out[k]).tobytes())
