#!/usr/bin/env bash
# Formatting, vet, staticcheck, shellcheck, and whether generated files are
# those their generator writes.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${STATICCHECK:?is the module and version to run: use make lint}"

unformatted=$(gofmt -l .)
if [ -n "$unformatted" ]; then
  printf 'lint: not formatted with gofmt:\n%s\n' "$unformatted" >&2
  exit 1
fi

CGO_ENABLED=0 go vet ./...
CGO_ENABLED=0 go run "$STATICCHECK" ./...
shellcheck .ci/run scripts/*.sh kernels/cudaemu/src/*.sh

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
go run ./kernels/cpu/internal/gen -dir "$tmp"
for f in "$tmp"/*; do
  if ! cmp "$f" "kernels/cpu/$(basename "$f")"; then
    echo "lint: kernels/cpu/$(basename "$f") is not what its generator writes: make generate" >&2
    exit 1
  fi
done
