#!/usr/bin/env bash
# Runs the Go benchmarks and keeps what they say in
# bench/results/DATE-HOST[-NAME].txt, below a description of the machine.
#
#   scripts/bench.sh [-n NAME] [BENCHMARK [PACKAGE...]]
#
# BENCHMARK is a regular expression (all of them), PACKAGEs those of kernels/cpu.
# HOST is the processor's name, not the machine's.
set -euo pipefail
cd "$(dirname "$0")/.."

name=
if [ "${1-}" = -n ]; then
  name=-${2:?-n wants a name}
  shift 2
fi
pattern=${1:-.}
shift || true
if [ $# -eq 0 ]; then set -- ./kernels/cpu; fi

cpu=$(sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo | head -1)
cpu=${cpu:-$(uname -m)}
host=$(tr -cs '[:alnum:]' - <<<"${cpu,,}" | sed 's/^-*//; s/-*$//')
out=bench/results/$(date -u +%F)-$host$name.txt

commit=$(git rev-parse --short HEAD)
if [ -n "$(git status --porcelain)" ]; then commit="$commit, with uncommitted changes"; fi

mkdir -p bench/results
{
  echo "date:      $(date -u +%FT%TZ)"
  echo "commit:    $commit"
  echo "processor: $cpu, $(nproc) threads"
  echo "load:      $(cut -d ' ' -f 1 /proc/loadavg) at the start"
  echo "go:        $(go env GOVERSION) $(go env GOOS)/$(go env GOARCH)"
  echo "command:   go test -run ^\$ -bench $pattern $*"
  echo
} >"$out"
CGO_ENABLED=0 go test -run '^$' -bench "$pattern" "$@" | tee -a "$out"
echo "bench: $out"
