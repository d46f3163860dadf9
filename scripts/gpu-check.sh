#!/usr/bin/env bash
# Makes build/gpu-check.tar.xz: what checks and measures the CUDA backend on a
# machine with an NVIDIA driver, and cuBLASLt where there is one. No Go, compiler
# or Python is needed there:
#
#   tar xJf gpu-check.tar.xz && gpu-check/check.sh      # writes gpu-check/results.json
#
# Where there is a Python with torch, steps beside PyTorch, in turn:
#
#   python3 gpu-check/bench/gpu/run.py gpu-check/step   # writes gpu-peer.json
#
# `scripts/gpu-check.sh emulate` runs the same bundle, reduced, in the emulator.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD folder=$PWD/build/gpu-check limit=$((64 << 20))

scripts/cuda.sh gpu-check
rm -rf "$folder"
mkdir -p "$folder/bench/cpu" "$folder/bench/gpu"
cp build/cuda.test "$folder/conformance"
cp build/cuda-step "$folder/step"
cp bin/vlmo-train "$folder/vlmo-train"
cp -r testdata/parity "$folder/parity"
cp scripts/gpu-check-run.sh "$folder/check.sh"
cp bench/cpu/peer.py "$folder/bench/cpu/"
cp bench/gpu/*.py "$folder/bench/gpu/"
git rev-parse HEAD >"$folder/commit" 2>/dev/null || echo unknown >"$folder/commit"
# The three programs hold the same kernels: a window of 64 MiB finds them again.
tar cf - -C build gpu-check | xz --lzma2=preset=3,dict=64MiB >build/gpu-check.tar.xz
size=$(stat -c %s build/gpu-check.tar.xz)
echo "build/gpu-check.tar.xz: $((size >> 20)) MiB"
if [ "$size" -gt "$limit" ]; then
  echo "gpu-check: the bundle is larger than $((limit >> 20)) MiB" >&2
  exit 1
fi
if [ "${1-}" = emulate ]; then
  LD_LIBRARY_PATH=$root/build/cudaemu/lib:$root/build/cudaemu/lt "$folder/check.sh" small
fi
