#!/usr/bin/env python3
"""Pre-training of VLMo in PyTorch on a GPU, to measure vlmo-train against.

The trimmed way of ../cpu/peer.py, which `--check` holds against the original:
bfloat16 under autocast, scaled_dot_product_attention with the position bias as
its mask, compiled blocks, fused AdamW, captions padded to the longest. The
numbers are those of `bench/cpu -device cuda`; a step's time begins with its
batch on the device.

Prints one line of JSON. `--device cpu` shows that it works, not a speed.
"""

import argparse
import json
import os
import statistics
import sys
import time

import torch

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "cpu"))
import peer  # noqa: E402

TEXT = 16  # tokens of the longest caption
SHAPES = {"pretrain": dict(image=224),
          "small": dict(image=128, dim=192, depth=6, heads=3, vl_start=4, drop=0.0)}


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    p.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    p.add_argument("--task", choices=tuple(SHAPES), default="pretrain")
    p.add_argument("--image", type=int, default=0, help="edge of an image in pixels (0: the task's)")
    p.add_argument("--batch", type=int, default=128)
    p.add_argument("--warmup", type=int, default=3)
    p.add_argument("--steps", type=int, default=10)
    p.add_argument("--gemm", type=int, default=8192, help="rows, columns and depth of the product whose speed is the peak")
    p.add_argument("--compile", default="default", help="none, default, or a mode of torch.compile")
    a = p.parse_args()

    device = torch.device(a.device)
    gpu = device.type == "cuda"
    if gpu:
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True  # shapes stay

    def clock():
        if gpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    torch.manual_seed(1)
    shape = dict(SHAPES[a.task], text=TEXT)
    if a.image:
        shape["image"] = a.image
    c = peer.Config(**shape)
    before = peer.peak(torch.bfloat16, clock, a.gemm, device)
    model = peer.VLMo(c).to(device)
    model.compile(a.compile, sdpa=True, trim=True)
    opt = peer.optimizer(model, tuned=True)

    def step(b):
        with torch.autocast(device.type, torch.bfloat16):
            losses = model.tuned_pretrain(b)
        sum(losses).backward()
        opt.step()
        opt.zero_grad()
        return torch.stack(losses).tolist()

    if gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for i in range(a.warmup + a.steps):
        b = peer.Batch(c, i, a.batch, TEXT, TEXT if a.task == "small" else 0).to(device)
        start = clock()
        losses = step(b)
        seconds.append(clock() - start)
        print(f"torch {a.task} bf16: step {i} {seconds[-1]:.3f} s {losses}", file=sys.stderr, flush=True)
    memory = torch.cuda.max_memory_allocated() if gpu else 0
    warm, seconds = seconds[: a.warmup], seconds[a.warmup:]
    print(json.dumps({
        "task": a.task, "precision": "bf16", "impl": "torch", "image": c.image, "batch": a.batch,
        "warmup": warm, "seconds": seconds, "per_second": a.batch / statistics.median(seconds),
        "peak_memory": memory, "gemm_peak": max(before, peer.peak(torch.bfloat16, clock, a.gemm, device)),
        "losses": dict(zip(("mlm", "itc", "itm"), losses)), "compile": a.compile,
        "device": torch.cuda.get_device_name() if gpu else "cpu", "torch": torch.__version__, "cuda": torch.version.cuda}))


if __name__ == "__main__":
    main()
