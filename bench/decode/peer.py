"""Prints how many pictures a second the usual PyTorch pipeline prepares on one
core, and the same without each of its parts.

Pillow decodes; torchvision crops and resizes to 224, flips, applies
RandAugment, makes a tensor and normalises it: what the original does, but with
torchvision's RandAugment in place of its own OpenCV one.

    python peer.py FOLDER SECONDS [whole|every|norand|decode]
"""
import glob
import io
import os
import sys
import time

import torch
from PIL import Image
from torchvision import transforms as T

torch.set_num_threads(1)
torch.manual_seed(0)
folder, seconds = sys.argv[1], float(sys.argv[2])
what = sys.argv[3] if len(sys.argv) > 3 else "whole"
files = [open(f, "rb").read() for f in sorted(glob.glob(os.path.join(folder, "*.jpg")))]
transform = T.Compose(
    [T.RandomResizedCrop(224, scale=(0.5, 1), interpolation=T.InterpolationMode.BICUBIC), T.RandomHorizontalFlip()]
    + ([T.RandAugment(2, 7)] if what in ("whole", "every") else [])
    + [T.ToTensor(), T.Normalize([0.5] * 3, [0.5] * 3)]
)


def run(data):
    m = Image.open(io.BytesIO(data)).convert("RGB")
    return m if what == "decode" else transform(m)


for data in files:
    run(data)
n, start = 0, time.process_time()
while time.process_time() - start < seconds:
    run(files[n % len(files)])
    n += 1
print("%.1f" % (n / (time.process_time() - start)))
