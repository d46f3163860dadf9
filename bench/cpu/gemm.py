#!/usr/bin/env python3
"""Matrix products of VLMo's shapes by PyTorch (MKL, oneDNN) or NumPy (OpenBLAS).

Prints the lines that `bench/cpu -task gemm` prints.
"""

import argparse
import json
import math
import time

ROWS = (96, 1576, 1672, 5000)
DIMS = ((768, 768), (768, 2304), (768, 3072), (3072, 768), (192, 192), (192, 576), (192, 768), (768, 192))


def fastest(run, clock, seconds):
    run()
    best, count, start = math.inf, 0, time.perf_counter()
    while count < 3 or time.perf_counter() - start < seconds:
        t = clock()
        run()
        took = clock() - t
        if took > 0:
            best = min(best, took)
        count += 1
    return best


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    p.add_argument("--lib", choices=("torch", "numpy"), default="torch")
    p.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    a = p.parse_args()
    clock = time.perf_counter
    if a.clock == "cpu":
        def clock():
            return time.process_time() / a.threads
    if a.lib == "torch":
        import torch

        torch.set_num_threads(a.threads)
        dtype = torch.bfloat16 if a.precision == "bf16" else torch.float32

        def matrix(rows, cols):
            return torch.randn(rows, cols).to(dtype)

        def product(x, y):
            out = torch.empty(len(x), y.shape[1], dtype=dtype)
            return lambda: torch.mm(x, y, out=out)
    else:
        import numpy as np
        from threadpoolctl import threadpool_limits

        if a.precision != "fp32":
            p.error("NumPy has no bf16")
        threadpool_limits(a.threads)
        rng = np.random.default_rng(1)

        def matrix(rows, cols):
            return rng.standard_normal((rows, cols), dtype=np.float32)

        def product(x, y):
            out = np.empty((len(x), y.shape[1]), np.float32)
            return lambda: np.matmul(x, y, out=out)

    for rows in ROWS:
        for n_in, n_out in DIMS:
            x, w, dy = matrix(rows, n_in), matrix(n_out, n_in), matrix(rows, n_out)
            for kind, left, right in (("forward", x, w.T), ("data", dy, w), ("weight", dy.T, x)):
                (m, k), n = left.shape, right.shape[1]
                best = fastest(product(left, right), clock, 0.1)
                print(json.dumps({"task": "gemm", "precision": a.precision, "threads": a.threads, "clock": a.clock,
                                  "impl": a.lib, "kind": kind, "m": m, "n": n, "k": k, "gflops": 2 * m * n * k / best / 1e9}),
                      flush=True)


if __name__ == "__main__":
    main()
