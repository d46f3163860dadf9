#!/usr/bin/env bash
# Runs the parity cases with every instruction set that kernels/cpu can choose
# on this processor, by the variable VLMO_CPU_ISA, and the tests of data/img
# without vectors.
set -euo pipefail
cd "$(dirname "$0")/.."

# has FLAG... says whether the processor has all of them.
has() {
  local f
  for f; do
    grep -qw -- "$f" /proc/cpuinfo || return 1
  done
}

sets=(generic)
if has avx2 fma bmi2; then sets+=(avx2); else echo "isa: avx2 is not tested: this processor has none"; fi
if has avx2 fma bmi2 avx512f avx512dq; then sets+=(avx512); else echo "isa: avx512 is not tested: this processor has none"; fi
if has avx2 fma bmi2 avx512f avx512dq avx512_bf16; then sets+=(avx512bf16); else echo "isa: avx512bf16 is not tested: this processor has none"; fi

for isa in "${sets[@]}"; do
  echo "isa: $isa"
  CGO_ENABLED=0 VLMO_CPU_ISA=$isa go test -count=1 ./train/verify
done

if has avx2; then
  echo "isa: data/img without avx2"
  CGO_ENABLED=0 GODEBUG=cpu.avx2=off go test -count=1 ./data/img/...
fi
