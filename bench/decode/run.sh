#!/usr/bin/env bash
# Holds data/img against Pillow and torchvision: pictures prepared for training
# a second of processor time, by each in turn, ROUNDS times.
#
#   bench/decode/run.sh [ROUNDS [SECONDS [WHAT...]]]
#
# WHAT is whole, every, norand, decode, or by default all of them; see main.go.
# PYTHON has torch, torchvision, Pillow and NumPy; PYTHON_SIMD, if set, the same
# with Pillow-SIMD. Where pkg-config knows libturbojpeg, the build with the tag
# turbo takes part too. CPU is the processor to run on (1).
set -euo pipefail
cd "$(dirname "$0")/../.."
rounds=${1:-7} seconds=${2:-2}
whats=("${@:3}")
if [ ${#whats[@]} -eq 0 ]; then whats=(whole every norand decode); fi
: "${PYTHON:=python3}" "${CPU:=1}"

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"$PYTHON" bench/decode/pictures.py "$tmp/pictures"
CGO_ENABLED=0 go build -o "$tmp/go" ./bench/decode
runners=(torchvision go)
if pkg-config --exists libturbojpeg 2>/dev/null; then
  CGO_ENABLED=1 go build -tags turbo -o "$tmp/turbo" ./bench/decode
  runners+=(go-turbo)
fi
runners+=(go-portable)
if [ -n "${PYTHON_SIMD-}" ]; then runners+=(pillow-simd); fi

measure() { # RUNNER WHAT
  local args=("$tmp/pictures" "$seconds" "$2")
  case $1 in
    torchvision) taskset -c "$CPU" "$PYTHON" bench/decode/peer.py "${args[@]}" ;;
    pillow-simd) taskset -c "$CPU" "$PYTHON_SIMD" bench/decode/peer.py "${args[@]}" ;;
    go) taskset -c "$CPU" "$tmp/go" "${args[@]}" ;;
    go-portable) GODEBUG=cpu.avx2=off taskset -c "$CPU" "$tmp/go" "${args[@]}" ;;
    go-turbo) taskset -c "$CPU" "$tmp/turbo" "${args[@]}" ;;
  esac
}

for ((i = 1; i <= rounds; i++)); do
  for what in "${whats[@]}"; do
    for r in "${runners[@]}"; do
      echo "$what $r $(measure "$r" "$what")" >>"$tmp/results"
    done
  done
done

echo "load $(cut -d ' ' -f 1-3 /proc/loadavg); $rounds rounds of $seconds s; median pictures a second, and of the ratios to torchvision in the same round"
awk '
  function median(s,   a, n, i, j, t) {
    n = split(s, a, " ")
    for (i = 2; i <= n; i++) for (j = i; j > 1 && a[j - 1] + 0 > a[j] + 0; j--) { t = a[j]; a[j] = a[j - 1]; a[j - 1] = t }
    return n % 2 ? a[(n + 1) / 2] : (a[n / 2] + a[n / 2 + 1]) / 2
  }
  {
    if ($2 == "torchvision") base = $3
    if (!(($1, $2) in rate)) order[++n] = $1 SUBSEP $2
    rate[$1, $2] = rate[$1, $2] " " $3
    ratio[$1, $2] = ratio[$1, $2] " " $3 / base
  }
  END {
    for (i = 1; i <= n; i++) {
      split(order[i], k, SUBSEP)
      printf "%-7s %-12s %8.1f %6.2f\n", k[1], k[2], median(rate[order[i]]), median(ratio[order[i]])
    }
  }' "$tmp/results"
