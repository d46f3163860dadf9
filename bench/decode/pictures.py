"""Writes N JPEG files of 500x375 pixels into a folder, the same for a seed.

They have the statistics of photographs: noise whose spectrum falls with the
frequency, smooth gradients, and edges of overlapping shapes; quality 90, 4:2:0,
about 85 kB each.

    python pictures.py FOLDER [N]
"""
import io
import os
import sys

import numpy as np
from PIL import Image

W, H = 500, 375


def field(rs, exponent):
    """A periodic random field whose amplitude falls as frequency**-exponent."""
    fy, fx = np.fft.fftfreq(H)[:, None], np.fft.rfftfreq(W)[None, :]
    f = np.hypot(fy, fx)
    f[0, 0] = 1
    spectrum = (rs.standard_normal(f.shape) + 1j * rs.standard_normal(f.shape)) / f**exponent
    spectrum[0, 0] = 0
    x = np.fft.irfft2(spectrum, s=(H, W))
    return x / x.std()


def picture(seed):
    rs = np.random.RandomState(seed)
    yy, xx = np.mgrid[:H, :W]
    image = np.zeros((H, W, 3))
    for shape in range(1 + rs.randint(3, 9)):
        luma, a, b = field(rs, rs.uniform(0.9, 1.5)), field(rs, 1.6), field(rs, 1.6)
        tone = rs.uniform(60, 190, 3)
        layer = tone + rs.uniform(15, 40) * luma[..., None] + np.stack([12 * a, 6 * b, -10 * a], -1)
        layer += rs.uniform(-60, 60) * (yy / H)[..., None]
        if shape == 0:
            image = layer
            continue
        cx, cy, r = rs.uniform(0, W), rs.uniform(0, H), rs.uniform(30, 180)
        wobble = 1 + 0.15 * field(rs, 2.0)
        mask = ((xx - cx) ** 2 + (rs.uniform(0.5, 2) * (yy - cy)) ** 2 < (r * wobble) ** 2)[..., None]
        image = np.where(mask, layer, image)
    image += rs.normal(0, 3, image.shape)
    out = io.BytesIO()
    Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(out, "JPEG", quality=90, subsampling="4:2:0")
    return out.getvalue()


if __name__ == "__main__":
    folder, n = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 48
    os.makedirs(folder, exist_ok=True)
    total = 0
    for i in range(n):
        data = picture(i)
        total += len(data)
        with open(os.path.join(folder, "%03d.jpg" % i), "wb") as f:
            f.write(data)
    print("%d pictures of %dx%d, %d bytes on average" % (n, W, H, total // n))
