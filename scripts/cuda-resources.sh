#!/usr/bin/env bash
# What the compiler made of the CUDA kernels in kernels/cuda/image (make cuda), as
# Markdown: for each GPU the registers of a thread and the warps of 32 threads that
# fit on a multiprocessor at once, in blocks as large as the kernel allows; and the
# instructions that products, attention and memory-bound kernels are written for.
# It fails where a kernel lacks one of those, or spills registers. CUOBJDUMP names
# cuobjdump where it is not in PATH.
set -euo pipefail
cd "$(dirname "$0")/../kernels/cuda/image"
cuobjdump=${CUOBJDUMP:-cuobjdump}

for image in *.fatbin; do
  "$cuobjdump" -elf "$image" 2>/dev/null | awk '
    /^arch = / { arch = substr($3, 4) }
    /^\.nv\.info\./ { name = substr($1, 10) }
    /EIATTR_MAX_THREADS/ { getline; getline; print "threads", name, arch, $2 }'
  "$cuobjdump" --dump-resource-usage "$image" 2>&1 | awk '
    /^arch = / { arch = substr($3, 4) }
    / Function / { name = $2; sub(/:$/, "", name) }
    /REG:/ {
      delete v
      for (i = 1; i <= NF; i++) { split($i, p, ":"); v[p[1]] = p[2] }
      print "uses", name, arch, v["REG"], v["SHARED"], v["STACK"]
    }'
  "$cuobjdump" --dump-sass "$image" 2>/dev/null | awk -v image="${image%.fatbin}" '
    function flush() { if (name) print "code", name, arch, n["HMMA"]+0, n["LDGSTS"]+0, n["LDSM"]+0, n["LDG"]+0, n["STG"]+0, n["spill"]+0, image }
    /^[[:space:]]*(arch =|\.target|code for sm_)/ { match($0, /sm_[0-9]+/); a = substr($0, RSTART + 3, RLENGTH - 3); next_arch = a }
    /Function : / { flush(); delete n; name = $3; arch = next_arch }
    / HMMA\.16816\.F32\.BF16/ { n["HMMA"]++ }
    / LDGSTS\.E\.(BYPASS\.)?(LTC128B\.)?128/ { n["LDGSTS"]++ }
    / LDSM\.16\.MT?88\.4/ { n["LDSM"]++ }
    / LDG\.E\.128/ { n["LDG"]++ }
    / STG\.E\.128/ { n["STG"]++ }
    / (STL|LDL)[. ]/ { n["spill"]++ }
    END { flush() }'
done | sort -k2,2 | awk '
  function hex(s,   i, v) {  # of "0x80"
    for (i = 3; i <= length(s); i++) v = 16 * v + index("0123456789abcdef", tolower(substr(s, i, 1))) - 1
    return v
  }
  function least(a, b) { return a < b ? a : b }
  BEGIN {
    # Of a multiprocessor: bytes of shared memory, warps and blocks.
    split("80 86 89 90", archs); gpus = 4
    kib[80] = 164; kib[86] = 100; kib[89] = 100; kib[90] = 228
    warps[80] = 64; warps[86] = 48; warps[89] = 48; warps[90] = 64
    blocks[80] = 32; blocks[86] = 16; blocks[89] = 24; blocks[90] = 32
  }
  !($2 in seen) { seen[$2] = 1; names[++count] = $2 }
  $1 == "threads" { threads[$2, $3] = hex($4) }
  $1 == "uses" { reg[$2, $3] = $4; shared[$2] = $5; if ($6 > stack[$2]) stack[$2] = $6 }
  $1 == "code" {
    # The fewest of all GPUs.
    for (i = 4; i <= 8; i++) if (!(($2, i) in code) || $i < code[$2, i]) code[$2, i] = $i
    if ($9 > spills[$2]) spills[$2] = $9
    image[$2] = $10
  }
  END {
    printf "| kernel | threads | shared, bytes | stack, bytes |"
    for (g = 1; g <= gpus; g++) printf " sm_%s |", archs[g]
    printf "\n|---|--:|--:|--:|"
    for (g = 1; g <= gpus; g++) printf "--:|"
    print ""
    for (k = 1; k <= count; k++) {
      n = names[k]
      for (g = 1; g <= gpus && !((n, archs[g]) in threads); g++) ;
      t = threads[n, archs[g]]
      printf "| `%s` | %d | %d | %d |", n, t, shared[n], stack[n]
      for (g = 1; g <= gpus; g++) {
        a = archs[g]
        if (!((n, a) in reg)) { printf " |"; continue }
        w = int((t + 31) / 32)
        per_warp = int((reg[n, a] * 32 + 255) / 256) * 256
        fit = int(65536 / per_warp); fit = int(fit / 4) * 4  # registers belong to quarters of a multiprocessor
        b = least(int(fit / w), least(int(warps[a] / w), blocks[a]))
        if (shared[n]) b = least(b, int(kib[a] * 1024 / shared[n]))
        printf " %d, %d/%d |", reg[n, a], b * w, warps[a]
      }
      print ""
    }
    print "\nInstructions, the fewest in the code for any of the GPUs:\n"
    print "| kernel | HMMA.16816.F32.BF16 | LDGSTS.128 | LDSM.x4 | LDG.128 | STG.128 |\n|---|--:|--:|--:|--:|--:|"
    for (k = 1; k <= count; k++) {
      n = names[k]
      products = n ~ /^(gemm_bf16_|attention_bf16_|attention_bias_pairs_bf16)/
      flat = image[n] ~ /^(adamw|elementwise|gather|layernorm|normalize|patchify|residual|residual_norm|residual_norm_grad|dropout|gemm_finish)$/ && n !~ /^(fill|rows_)/ || n ~ /^(column|square)_partials$/ || n ~ /^(cross_entropy|contrast)$/
      if (products || flat) printf "| `%s` | %d | %d | %d | %d | %d |\n", n, code[n, 4], code[n, 5], code[n, 6], code[n, 7], code[n, 8]
      if (products && !(code[n, 4] && code[n, 5] && code[n, 6])) { print n " lacks HMMA, LDGSTS.128 or LDSM" >"/dev/stderr"; bad = 1 }
      if (flat && !code[n, 7]) { print n " lacks LDG.128" >"/dev/stderr"; bad = 1 }
      if (spills[n]) { print n " reads or writes local memory" >"/dev/stderr"; bad = 1 }
      if (!(n in image)) { print "no code of " n >"/dev/stderr"; bad = 1 }
    }
    exit bad
  }'
