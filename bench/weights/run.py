"""Time and memory of vlmo-train on checkpoints of gigabytes.

    python bench/weights/run.py PROGRAM [--folder FOLDER] [--size base]

It writes a pre-training checkpoint of VLMo with Adam's state beside the weights, as training scripts leave it, in both formats
of torch.save, and runs `vlmo-train inspect` and `convert` on it. Memory is the most that a process had in RAM, what it read
through a map included (getrusage's ru_maxrss). It needs PyTorch.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

KEYS = Path(__file__).parents[2] / "testdata/checkpoints"


def write(folder, size):
    """Writes weights of a pre-training run of that size, and two moments of each."""
    import torch

    torch.manual_seed(0)
    types = {"F32": torch.float32, "I64": torch.int64}
    weights = {}
    for line in (KEYS / f"{size}-pretrain-224.txt").read_text().splitlines():
        name, dtype, sizes = line.split()
        shape = [] if sizes == "-" else [int(n) for n in sizes.split("x")]
        weights[name] = torch.randn(shape) if dtype == "F32" else torch.zeros(shape, dtype=types[dtype])
    moments = {k: {"step": torch.tensor(1.0), "exp_avg": torch.randn(v.shape), "exp_avg_sq": torch.rand(v.shape)} for k, v in weights.items() if v.is_floating_point()}
    value = {"state_dict": weights, "optimizer_states": [{"state": moments}], "epoch": 3}
    torch.save(value, folder / "zip.pt")
    torch.save(value, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    kept = [v.numel() * v.element_size() / 1e6 for v in weights.values()]
    print(f"weights of {sum(kept):.0f} MB, the largest tensor {max(kept):.0f} MB")


def run(*args):
    """Seconds and the most bytes in RAM of a command."""
    start = time.monotonic()
    with subprocess.Popen(args, stdout=subprocess.DEVNULL) as p:
        _, status, usage = os.wait4(p.pid, 0)
        p.returncode = os.waitstatus_to_exitcode(status)
    if p.returncode:
        raise SystemExit(f"{args}: status {p.returncode}")
    return time.monotonic() - start, usage.ru_maxrss << 10


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("program", nargs="?")
    parser.add_argument("--write", type=Path, help="only write the files, to this folder")
    parser.add_argument("--folder")
    parser.add_argument("--size", default="base")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    if options.write:
        return write(options.write, options.size)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        folder = Path(folder)
        # In a process of its own: a child's figure begins at what its parent has.
        subprocess.run([sys.executable, __file__, "--write", folder, "--size", options.size], check=True)
        files = {"zip": folder / "zip.pt", "legacy": folder / "legacy.pt", "safetensors": folder / "weights.safetensors"}
        run(options.program, "convert", files["zip"], files["safetensors"])
        print("| file | size, MB | command | time, s | most in RAM, MB |\n| --- | ---: | --- | ---: | ---: |")
        for name, path in files.items():
            for args in [("inspect",), ("inspect", "--all"), ("convert", ".safetensors"), ("convert", ".pt"), ("convert", ".pt", "--dtype", "F16")]:
                if name == "safetensors" and "--all" in args:
                    continue
                command = [options.program, *args]
                if args[0] == "inspect":
                    command.append(path)
                else:
                    command = [options.program, "convert", *args[2:], path, folder / ("out" + args[1])]
                runs = sorted(run(*map(str, command)) for _ in range(options.repeat))
                seconds, most = runs[len(runs) // 2][0], max(r[1] for r in runs)
                print(f"| {name} | {path.stat().st_size / 1e6:.0f} | `{' '.join(args)}` | {seconds:.2f} | {most / 1e6:.0f} |", flush=True)


if __name__ == "__main__":
    main()
