#!/usr/bin/env python3
"""Measures vlmo-train beside PyTorch on this machine's GPU, in turn.

  run.py STEP      STEP: `step` of the bundle of `make gpu-check`, bench/cpu built with the tag cuda

Pre-training of VLMo-Base in bfloat16, both on the same numbers, each run a
process of its own (A B A B …). Prints medians and the ratio, and writes every
line of both to a JSON file. It needs torch in the Python that runs it.
"""

import argparse
import datetime
import json
import os
import shutil
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def measure(command):
    print("run:", *command, file=sys.stderr, flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"run: {command[0]}: exit status {done.returncode}")
    return json.loads(done.stdout)


def machine():
    if not shutil.which("nvidia-smi"):
        return ""
    query = "--query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit"
    return subprocess.run(["nvidia-smi", query, "--format=csv"], capture_output=True, text=True).stdout


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("step", help="the program that measures vlmo-train")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--device", default="cuda", help="cuda, cuda:N; or cpu, to try this program")
    p.add_argument("--task", choices=("pretrain", "small"), default="pretrain")
    p.add_argument("--image", type=int, default=0, help="edge of an image in pixels (0: the task's)")
    p.add_argument("--batch", type=int, default=128)
    p.add_argument("--warmup", type=int, default=3)
    p.add_argument("--steps", type=int, default=10, help="that count, in each round")
    p.add_argument("--gemm", type=int, default=8192, help="rows, columns and depth of the product whose speed is the peak")
    p.add_argument("--compile", default="default", help="of the peer: none, default, or a mode of torch.compile")
    p.add_argument("--out", default="gpu-peer.json", help="file of the results")
    a = p.parse_args()

    # Go's flags and argparse both take --name=value.
    both = [f"--{name}={getattr(a, name)}" for name in ("device", "task", "image", "batch", "warmup", "steps", "gemm")]
    commands = {
        "vlmo-train": [os.path.abspath(a.step), "--precision=bf16", *both],
        "torch": [sys.executable, os.path.join(HERE, "peer.py"), "--compile=" + a.compile, *both]}
    lines = {impl: [] for impl in commands}
    for _ in range(a.rounds):
        for impl, command in commands.items():
            lines[impl].append(measure(command))

    speed = {impl: statistics.median(a.batch / s for x in got for s in x["seconds"]) for impl, got in lines.items()}
    peak = {impl: statistics.median(x["gemm_peak"] for x in got) for impl, got in lines.items()}
    ratio = speed["vlmo-train"] / speed["torch"]
    memory = {"vlmo-train": lines["vlmo-train"][0]["memory"], "torch": max(x["peak_memory"] for x in lines["torch"])}
    print(f"{a.task}, bf16, batch {a.batch}, {lines['torch'][0]['device']}; medians of {a.rounds} × {a.steps} steps")
    for impl in commands:
        how = "counted" if impl == "vlmo-train" else "allocated at most"
        print(f"{impl:10} {speed[impl]:8.4g} pairs/s, own GEMM peak {peak[impl] / 1e3:.4g} TFLOP/s, "
              f"memory {memory[impl] / 2**30:.3g} GiB {how}")
    print(f"vlmo-train is {ratio:.3f} × as fast" + (" here, which says nothing of a GPU" if a.device == "cpu" else ""))
    with open(a.out, "w", encoding="utf-8") as f:
        json.dump({"date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), "machine": machine(),
                   "commands": commands, "pairs_per_second": speed, "ratio": ratio, "gemm_peak": peak, "lines": lines}, f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main()
