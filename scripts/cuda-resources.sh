#!/usr/bin/env bash
# What the compiler made of the CUDA kernels: registers, stack and shared memory
# of each as a Markdown table, from kernels/cuda/image (make cuda, which fails
# where registers are spilled). It fails where a kernel lacks instructions that
# it is written for. CUOBJDUMP names cuobjdump where it is not in PATH.
set -euo pipefail
cd "$(dirname "$0")/../kernels/cuda/image"
cuobjdump=${CUOBJDUMP:-cuobjdump}
status=0

echo '| kernel | GPU | registers | stack, bytes | static shared, bytes |'
echo '|---|---|---|---|---|'
for image in *.fatbin; do
  "$cuobjdump" --dump-resource-usage "$image" 2>&1 | awk '
    /^arch = / || /arch =/ { for (i = 1; i <= NF; i++) if ($i ~ /^sm_/) arch = $i }
    / Function / { name = $2; sub(/:$/, "", name) }
    /REG:/ {
      delete v
      for (i = 1; i <= NF; i++) { split($i, p, ":"); v[p[1]] = p[2] }
      printf "| `%s` | %s | %d | %d | %d |\n", name, arch, v["REG"], v["STACK"], v["SHARED"]
    }'
done

# wants IMAGE INSTRUCTION...: the code of the image contains each of them.
wants() {
  local image=$1.fatbin code
  shift
  code=$("$cuobjdump" --dump-sass "$image")
  for instruction; do
    if ! grep -q "$instruction" <<<"$code"; then
      echo "$image contains no $instruction" >&2
      status=1
    fi
  done
}
wants gemm_bf16 HMMA.16816.F32.BF16 LDGSTS LDSM
wants attention_bf16 HMMA.16816.F32.BF16 LDGSTS LDSM
for name in adamw elementwise gather layernorm residual reduce; do
  wants "$name" LDG.E.128
done
exit "$status"
