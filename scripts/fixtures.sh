#!/usr/bin/env bash
# Writes fixtures of other content than testdata/fixtures, by the real tools and
# from a seed, and runs the tests with them:
#
#   scripts/fixtures.sh [SEED...]
#
# PYTHON is a Python with the packages of scripts/fixtures/requirements*.txt, for
# the tests of data; PYTHON_TORCH is one with PyTorch, for those of weights. One
# of the two may be empty.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -z "${PYTHON:-}${PYTHON_TORCH:-}" ]; then
  echo "fixtures: PYTHON and PYTHON_TORCH name no Python: use .ci/run fixtures" >&2
  exit 1
fi
if [ $# -eq 0 ]; then set -- 1; fi
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
for seed; do
  echo "fixtures of seed $seed"
  packages=()
  if [ -n "${PYTHON:-}" ]; then
    "$PYTHON" -W ignore scripts/fixtures "$tmp" --seed "$seed" \
      --only images,randaugment,wordpiece,wholeword,vqaeval,raw,arrow,parquet,webdataset,safetensors >/dev/null
    packages+=(./data/...)
    VLMO_FIXTURES=$tmp CGO_ENABLED=0 go test -count=1 -run TestSafetensorsFixtures ./weights
  fi
  if [ -n "${PYTHON_TORCH:-}" ]; then
    "$PYTHON_TORCH" -W ignore scripts/fixtures "$tmp" --seed "$seed" --only torchzip >/dev/null
    packages+=(./weights)
  fi
  VLMO_FIXTURES=$tmp CGO_ENABLED=0 go test -count=1 "${packages[@]}" | { grep -v 'no test files' || true; }
  rm -rf "${tmp:?}"/*
done
