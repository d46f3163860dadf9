#!/usr/bin/env bash
# Checks and measures vlmo-train's CUDA backend on this machine's GPU, and writes
# results.json beside itself: a list of parts, each with what came out.
#
#   check.sh          # conformance, parity, steps of VLMo-Base in bf16 and fp32 (a few minutes)
#   check.sh small    # the same with a tiny model and few ops, as in an emulator
#
# It ends with 1 if a check fails. BATCH is that of the measured steps (64).
set -uo pipefail
cd "$(dirname "$0")" || exit
size=${1-full} batch=${BATCH-64}
logs=$PWD/logs
rm -rf "$logs"
mkdir -p "$logs"
parts=() failed=0

quote() { sed 's/\\/\\\\/g; s/"/\\"/g; s/\t/ /g; s/$/\\n/' | tr -d '\n\r'; }

# part NAME COMMAND…: runs it, and notes whether it passed and its last lines.
part() {
  local name=$1 start=$SECONDS passed=true
  shift
  echo "== $name"
  if ! "$@" >"$logs/$name.txt" 2>&1; then
    passed=false failed=1
    tail -n 20 "$logs/$name.txt"
  fi
  parts+=("{\"part\":\"$name\",\"passed\":$passed,\"seconds\":$((SECONDS - start)),\"output\":\"$(tail -n 60 "$logs/$name.txt" | quote)\"}")
}

# measure NAME ARGUMENT…: steps; the line of JSON that they print is the result.
measure() {
  local name=$1
  shift
  echo "== $name"
  if ./step -device cuda "$@" >"$logs/$name.json" 2>"$logs/$name.txt"; then
    parts+=("{\"part\":\"$name\",\"passed\":true,\"result\":$(cat "$logs/$name.json")}")
  else
    failed=1
    tail -n 20 "$logs/$name.txt"
    parts+=("{\"part\":\"$name\",\"passed\":false,\"output\":\"$(tail -n 20 "$logs/$name.txt" | quote)\"}")
  fi
}

part info ./vlmo-train info
if [ "$size" = small ]; then
  part conformance ./conformance -test.run 'TestConformance$/^(LayerNorm|ResidualNorm|Gather|Copy)$' -test.v
  part parity ./vlmo-train verify --device cuda parity/text_mlm
  part parity-bf16 ./vlmo-train verify --device cuda --precision bf16 parity/text_mlm
  measure step -task small -image 32 -batch 2 -steps 1 -gemm 128
else
  part conformance ./conformance -test.run 'Conformance|Close|Describe' -test.v
  part parity ./vlmo-train verify --device cuda --random parity
  part parity-bf16 ./vlmo-train verify --device cuda --precision bf16 --random parity
  nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit --format=csv >"$logs/nvidia-smi.txt" 2>&1
  for precision in bf16 fp32; do
    measure "step-$precision" -task pretrain -precision "$precision" -batch "$batch" -warmup 3 -steps 10 -gemm 8192
    # Timing each op by itself makes the step slower: the figures above are those to quote.
    measure "ops-$precision" -task pretrain -precision "$precision" -batch "$batch" -warmup 2 -steps 3 -gemm 8192 -profile "$logs/ops-$precision"
  done
fi

{
  printf '{"commit":"%s","size":"%s","date":"%s","parts":[\n' "$(cat commit)" "$size" "$(date -u +%FT%TZ)"
  for i in "${!parts[@]}"; do
    if [ "$i" -gt 0 ]; then echo ,; fi
    printf '%s' "${parts[i]}"
  done
  printf '\n]}\n'
} >results.json
echo "results.json: ${#parts[@]} parts"
exit $failed
