#!/usr/bin/env bash
# Builds and vets the tree for arm64, then runs the tests of the backends and
# one parity case in qemu-user. A processor that is arm64 needs no emulator.
set -euo pipefail
cd "$(dirname "$0")/.."
export GOARCH=arm64 CGO_ENABLED=0

go build ./...
go vet ./...

emulator=()
if [ "$(go env GOHOSTARCH)" != arm64 ]; then emulator=(-exec qemu-aarch64-static); fi
go test "${emulator[@]}" ./kernels/cpu ./kernels/ref
go test "${emulator[@]}" -run 'TestCases/pretrain_rel$' ./train/verify
