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
shellcheck .ci/run scripts/*.sh bench/*/*.sh kernels/cudaemu/src/*.sh
if command -v hadolint >/dev/null; then hadolint Dockerfile.cuda; fi

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
for package in kernels/cpu data/img/internal/pixel; do
  mkdir -p "$tmp/$package"
  go run "./$package/internal/gen" -dir "$tmp/$package"
  for f in "$tmp/$package"/*; do
    if ! cmp "$f" "$package/$(basename "$f")"; then
      echo "lint: $package/$(basename "$f") is not what its generator writes: make generate" >&2
      exit 1
    fi
  done
done
