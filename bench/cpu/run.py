#!/usr/bin/env python3
"""Measures vlmo-train beside PyTorch on this machine and writes the results.

  run.py compare   steps of pre-training and embedding, vlmo-train and peers in turn
  run.py gemm      matrix products, beside torch.mm and NumPy
  run.py scaling   vlmo-train alone: time and memory over batch, image and model size
  run.py savings   vlmo-train alone: a step of pre-training with each exact saving alone, and with all

Every measurement is a process of its own. They alternate (A B C A B C …), so
that a machine that becomes slower or faster does so for all. Results go to
bench/results/DATE-cpu-NAME.md, with what they were measured on. The peers need
torch, gemm also numpy and threadpoolctl, in the Python that runs this.
"""

import argparse
import ctypes.util
import datetime
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
RESULTS = os.path.join(ROOT, "bench", "results")


def output(*command):
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def build(folder):
    binary = os.path.join(folder, "cpu")
    subprocess.run(["go", "build", "-trimpath", "-o", binary, "./bench/cpu"], cwd=ROOT, check=True,
                   env=dict(os.environ, CGO_ENABLED="0"))
    return binary


class Runner:
    """Runs measurements and keeps every line they print, with the load before."""

    def __init__(self, binary):
        self.binary, self.lines, self.commands = binary, [], []

    def run(self, impl, threads, arguments):
        env = dict(os.environ, GOMAXPROCS=str(threads), OMP_NUM_THREADS=str(threads), OPENBLAS_NUM_THREADS=str(threads))
        if impl == "vlmo-train":
            command, shown = [self.binary], ["go", "run", "./bench/cpu"]
            arguments = [a[1:] if a.startswith("--") else a for a in arguments]
        elif impl in ("torch", "numpy"):
            command = [sys.executable, os.path.join(HERE, "gemm.py"), "--lib", impl]
            shown = ["python3", "bench/cpu/gemm.py", "--lib", impl]
        else:
            way = impl.removeprefix("torch-")
            command = [sys.executable, os.path.join(HERE, "peer.py"), "--impl", way]
            shown = ["python3", "bench/cpu/peer.py", "--impl", way]
            preload = ctypes.util.find_library("tcmalloc_minimal")
            if way != "plain" and preload:
                env["LD_PRELOAD"] = preload
                shown.insert(0, "LD_PRELOAD=" + preload)
        arguments = ["--threads" if impl != "vlmo-train" else "-threads", str(threads), *arguments]
        text = shlex.join(shown + arguments)
        if text not in self.commands:
            self.commands.append(text)
        load = os.getloadavg()[0]
        print(f"run: {text} (load {load:.1f})", file=sys.stderr, flush=True)
        done = subprocess.run(command + arguments, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
        if done.returncode != 0:
            sys.exit(f"run: {text}: exit status {done.returncode}")
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        for line in lines:
            line["load"] = round(load, 2)
        self.lines += lines
        return lines


def machine(python):
    """What the results depend on, as the lines of a list."""
    cpu, memory = platform.machine(), 0
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        for line in f:
            if line.startswith("model name"):
                cpu = line.split(":", 1)[1].strip()
    with open("/proc/meminfo", encoding="utf-8") as f:
        memory = int(f.readline().split()[1]) / 2**20
    commit = output("git", "rev-parse", "--short", "HEAD")
    if output("git", "status", "--porcelain", "--", "*.go", "*.s", "*.py"):
        commit += " with uncommitted changes"
    facts = [f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC, commit {commit}",
             f"{cpu}, {len(os.sched_getaffinity(0))} processors, {memory:.1f} GiB, Linux {platform.release()}",
             output("go", "version")]
    if python:
        facts.append(f"Python {platform.python_version()}, " + output(
            sys.executable, "-c", "import torch, numpy; print('PyTorch', torch.__version__ + ', NumPy', numpy.__version__)"))
    return facts


def table(header, rows):
    out = ["| " + " | ".join(header) + " |", "| --- |" + " ---: |" * (len(header) - 1)]
    return "\n".join(out + ["| " + " | ".join(row) + " |" for row in rows])


def spread(values, form="{:.3g}"):
    m = form.format(statistics.median(values))
    return m if len(values) < 2 else f"{m} ({form.format(min(values))}–{form.format(max(values))})"


def compare(a, r):
    sections = []
    impls = ["vlmo-train"] + ["torch-" + p for p in a.peers]
    for task in a.tasks:
        for precision in a.precisions:
            for threads in a.threads:
                if precision in a.skip_ours:
                    impls_now = impls[1:]
                else:
                    impls_now = impls
                got = {i: [] for i in impls_now}
                for _ in range(a.rounds):
                    for i in impls_now:
                        warmup = a.warmup + (i in ("torch-tuned", "torch-trimmed") and task != "pretrain")
                        got[i] += r.run(i, threads, ["--task", task, "--precision", precision, "--warmup", str(warmup),
                                                     "--steps", str(a.steps), "--clock", a.clock])
                per = {i: [x["batch"] / s for x in got[i] for s in x["seconds"]] for i in impls_now}
                ours = per.get("vlmo-train")
                rows = []
                for i in impls_now:
                    ratio = "–"
                    if ours and i != "vlmo-train":
                        ratio = f"{statistics.median(ours) / statistics.median(per[i]):.2f}"
                    rows.append([i, spread(per[i]), ratio, spread([x["gemm_peak"] for x in got[i]], "{:.0f}"),
                                 f"{100 * statistics.median(x['share'] for x in got[i]):.0f} %",
                                 f"{max(x['peak_rss'] for x in got[i]) / 2**30:.2f}"])
                what = "pairs" if task in ("pretrain", "small") else task.removeprefix("embed-") + "s"
                sections.append(f"## {task}, {precision}, {threads} thread{'s' * (threads > 1)}, batch {got[impls_now[0]][0]['batch']}\n\n" + table(
                    ["", f"{what}/s", "vlmo-train is × as fast", "own GEMM peak, GFLOP/s", "share of it", "peak RSS, GiB"], rows))
    note = ("Medians over the counted steps of all rounds, with the extremes. The peak is the fastest 2048³ product of the same "
            "process. Shares count the products that are done, padding included, and for all peers those of the plain one.")
    return [note] + sections


def gemm(a, r):
    sections = []
    for precision in a.precisions:
        for threads in a.threads:
            impls = ["torch"] + (["numpy"] if precision == "fp32" else [])
            if precision not in a.skip_ours:
                impls.insert(0, "vlmo-train")
            speed = {}
            for _ in range(a.rounds):
                for i in impls:
                    for x in r.run(i, threads, ["--task", "gemm"] * (i == "vlmo-train") + ["--precision", precision, "--clock", a.clock]):
                        speed.setdefault((x["kind"], x["m"], x["n"], x["k"]), {}).setdefault(i, []).append(x["gflops"])
            rows = []
            for (kind, m, n, k), by in speed.items():
                row = [f"{kind} {m}×{n}×{k}"] + [f"{statistics.median(by[i]):.0f}" for i in impls]
                if impls[0] == "vlmo-train":
                    best = max(statistics.median(by[i]) for i in impls[1:])
                    row.append(f"{statistics.median(by['vlmo-train']) / best:.2f}")
                rows.append(row)
            header = ["M×N×K"] + impls + ["ours over the best other"] * (impls[0] == "vlmo-train")
            sections.append(f"## {precision}, {threads} thread{'s' * (threads > 1)}, GFLOP/s\n\n" + table(header, rows))
    return ["Medians over the rounds of the fastest call in 0.1 s."] + sections


def scaling(a, r):
    with open("/proc/meminfo", encoding="utf-8") as f:
        available = {w[0]: int(w[1]) for w in (line.split() for line in f)}["MemAvailable:"] / 2**20
    limit = 0.85 * available
    threads = a.threads[0]
    sections = []
    for precision in a.precisions:
        rows = []
        for model in a.models:
            for image in a.images:
                for batch in a.batches:
                    x, = r.run("vlmo-train", threads, [
                        "--task", "pretrain", "--precision", precision, "--model", model, "--image", str(image), "--batch", str(batch),
                        "--warmup", "1", "--steps", "1", "--max-memory", f"{limit:.1f}", "--max-seconds", str(a.max_seconds),
                        "--clock", a.clock])
                    head = [f"{model}, {image} px, batch {batch}", f"{x['flops'] / 1e12:.2f}", f"{x['memory'] / 2**30:.2f}"]
                    if x.get("skipped"):
                        rows.append(head + [x["skipped"], "–", "–", "–"])
                        continue
                    rows.append(head + [f"{x['peak_rss'] / 2**30:.2f}", f"{x['seconds'][0]:.2f}", f"{x['per_second']:.3f}",
                                        f"{100 * x['share']:.0f} %"])
        sections.append(f"## {precision}, {threads} thread{'s' * (threads > 1)}\n\n" + table(
            ["", "TFLOP a step", "device memory, GiB", "peak RSS, GiB", "s a step", "pairs/s", "of GEMM peak"], rows))
    return [f"One pre-training step after a warm-up. Skipped: what is counted to need more than {limit:.1f} GiB, or at the speed of "
            f"large products more than {a.max_seconds} s a step."] + sections


SAVINGS = ("top-rows", "drop-rows", "distinct", "recompute", "pack-weights")


def savings(a, r):
    ways = ["none", *SAVINGS, ",".join(SAVINGS[:4]), ",".join(SAVINGS)]
    sections = []
    for precision in a.precisions:
        for threads in a.threads:
            got = {w: [] for w in ways}
            for _ in range(a.rounds):
                for way in ways:
                    got[way] += r.run("vlmo-train", threads, [
                        "--task", "pretrain", "--precision", precision, "--savings", way, "--warmup", str(a.warmup),
                        "--steps", str(a.steps), "--clock", a.clock])
            base = statistics.median(s for x in got["none"] for s in x["seconds"])
            rows = []
            for way in ways:
                seconds = [s for x in got[way] for s in x["seconds"]]
                rows.append([way.replace(",", ", "), f"{got[way][0]['flops'] / 1e12:.2f}", f"{got[way][0]['memory'] / 2**30:.2f}",
                             f"{max(x['peak_rss'] for x in got[way]) / 2**30:.2f}", spread(seconds),
                             f"{base / statistics.median(seconds):.2f}"])
            sections.append(f"## {precision}, {threads} thread{'s' * (threads > 1)}\n\n" + table(
                ["on", "TFLOP a step", "device memory, GiB", "peak RSS, GiB", "s a step", "× as fast as none"], rows))
    return ["VLMo-Base, batch 8, drop path 0.1, captions of 8 to 16 tokens. No padding is ever computed, and only masked positions "
            "are decoded: these have no switch."] + sections


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=("compare", "gemm", "scaling", "savings"))
    p.add_argument("--name", help="of the results file (default: what is measured)")
    p.add_argument("--note", default="", help="a sentence about the machine, for the results file")
    p.add_argument("--precisions", nargs="+", choices=("fp32", "bf16"), default=["fp32"])
    p.add_argument("--threads", nargs="+", type=int, default=[len(os.sched_getaffinity(0))])
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    p.add_argument("--skip-ours", nargs="*", choices=("fp32", "bf16"), default=[], help="precisions to measure the peers in alone")
    p.add_argument("--tasks", nargs="+", choices=("pretrain", "small", "embed-image", "embed-text"),
                   default=["pretrain", "small", "embed-image", "embed-text"])
    p.add_argument("--peers", nargs="*", choices=("plain", "tuned", "trimmed"), default=["plain", "tuned", "trimmed"])
    p.add_argument("--warmup", type=int, default=1)
    p.add_argument("--steps", type=int, default=1, help="that count, in each round")
    p.add_argument("--models", nargs="+", default=["base", "base_plus", "large"])
    p.add_argument("--images", nargs="+", type=int, default=[224, 288, 384])
    p.add_argument("--batches", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32])
    p.add_argument("--max-seconds", type=float, default=120)
    a = p.parse_args()
    before = os.getloadavg()
    with tempfile.TemporaryDirectory() as folder:
        r = Runner(build(folder))
        facts = machine(a.what in ("compare", "gemm"))
        parts = {"compare": compare, "gemm": gemm, "scaling": scaling, "savings": savings}[a.what](a, r)
    after = os.getloadavg()
    facts.append("load average {:.2f} {:.2f} {:.2f} before, {:.2f} {:.2f} {:.2f} after".format(*before, *after))
    if a.clock == "cpu":
        facts.append("seconds are processor time over threads, not wall time")
    if a.note:
        facts.append(a.note)
    facts.append("command: `" + shlex.join(["python3", "bench/cpu/run.py", *sys.argv[1:]]) + "`, which ran")
    facts += [f"  - `{c}`" for c in r.commands] if len(r.commands) <= 40 else ["  - too many to list"]
    name = f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d}-cpu-{a.name or a.what}.md"
    title = {"compare": "Steps beside PyTorch", "gemm": "Matrix products", "scaling": "Time and memory over sizes", "savings": "The exact savings"}[a.what]
    raw = "\n".join(json.dumps(x) for x in r.lines) if a.what != "gemm" else ""
    text = f"# {title}\n\n" + "\n".join(f if f.startswith("  ") else "- " + f for f in facts) + "\n\n" + "\n\n".join(parts) + "\n"
    if raw:
        text += f"\n## All lines\n\n```json\n{raw}\n```\n"
    path = os.path.join(RESULTS, name)
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)
    print(os.path.relpath(path, ROOT))


if __name__ == "__main__":
    main()
