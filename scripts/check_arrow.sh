#!/usr/bin/env bash
# Writes every raw fixture as Arrow files, compressed each way, and has pyarrow
# compare them with those of the original's scripts. PYTHON is a Python that has
# pyarrow.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${PYTHON:?is a Python with pyarrow: use .ci/run pyarrow}"

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
CGO_ENABLED=0 go build -o "$tmp/vlmo-train" ./cmd/vlmo-train
for compress in none lz4 zstd; do
  for kind in coco f30k gcc nlvr2 sbu vg vqa wikibk; do
    "$tmp/vlmo-train" data arrow --kind "$kind" --root "testdata/fixtures/raw/$kind" --out "$tmp/$compress" --compress "$compress" >/dev/null
  done
  "$PYTHON" scripts/check_arrow.py "$tmp/$compress" testdata/fixtures/arrow
done
