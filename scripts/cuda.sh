#!/usr/bin/env bash
# Builds or tests the program with its CUDA kernels.
#
#   scripts/cuda.sh build          # bin/vlmo-train for NVIDIA GPUs from sm_80 on; starts without a driver too
#   scripts/cuda.sh gpu-check      # that, and the tests and the benchmark for scripts/gpu-check.sh
#   scripts/cuda.sh test [SEED…]   # the kernels on the CPU, through kernels/cudaemu, in the thread orders of the seeds
#   scripts/cuda.sh race           # a part of these tests under Go's race detector
#
# It needs Go, gcc and g++, and python3 where NVCC is not set: then nvcc and the
# headers come from PyPI. With NVCC the headers are those of its toolkit, unless
# CUDA_INCLUDE names others. Everything lands in build/, bin/ and
# kernels/cuda/image.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -z "${NVCC-}" ]; then
  variables=$(scripts/cuda-toolchain.sh)
  eval "$variables"
fi
if [ -z "${CUDA_INCLUDE-}" ]; then
  toolkit=$(dirname "$(dirname "$(realpath "$(command -v "$NVCC")")")")
  CUDA_INCLUDE=$toolkit/include
fi
: "${CUBLAS_INCLUDE:=$CUDA_INCLUDE}" "${CRT_INCLUDE:=$CUDA_INCLUDE}" "${CCCL_INCLUDE:=$CUDA_INCLUDE}"
export NVCC CCCL_INCLUDE CUDA_INCLUDE CUBLAS_INCLUDE CRT_INCLUDE CUOBJDUMP=${CUOBJDUMP:-cuobjdump}

emulator=$PWD/build/cudaemu
device=$PWD/kernels/cuda/device
make_emulator() {
  make --no-print-directory -C kernels/cudaemu B="$emulator" KERNELS="$device/all.cpp" INCLUDES="-I$device" "$@"
}

# emulated builds the kernels' images and the emulator with the kernels in it. It
# is an sm_80; one architecture is enough, unless more are there.
emulated() {
  make --no-print-directory -C kernels/cuda ARCHS="$(cat kernels/cuda/image/archs 2>/dev/null || echo 80)"
  make_emulator "$emulator/lib/libcuda.so.1" "$emulator/lt/libcublasLt.so.12"
}

make_emulator "$emulator/shim/libcuda.a"
export CGO_ENABLED=1 CGO_CFLAGS="-O1 -I$CUDA_INCLUDE -I$CUBLAS_INCLUDE -I$CRT_INCLUDE" CGO_LDFLAGS="-L$emulator/shim -ldl"

case ${1-} in
build | gpu-check)
  make --no-print-directory -C kernels/cuda ${ARCHS:+ARCHS="$ARCHS"}
  go build -tags cuda -trimpath -o bin/vlmo-train ./cmd/vlmo-train
  if [ "$1" = gpu-check ]; then
    go build -tags cuda -trimpath -ldflags '-s -w' -o build/cuda-step ./bench/cpu
    go test -tags cuda -trimpath -ldflags '-s -w' -c -o build/cuda.test ./kernels/cuda
  fi
  ;;
test)
  shift
  emulated
  scripts/cuda-resources.sh >build/cuda-resources.md
  echo "the emulator"
  make --no-print-directory -C kernels/cudaemu B="$PWD/build/cudaemu-test" O="$emulator" test
  go test -tags cuda -c -o build/cuda.test ./kernels/cuda
  go test -tags cuda -c -o build/cuda-train.test ./train
  go test -tags cuda -c -o build/cuda-verify.test ./train/verify
  go build -tags cuda -o build/vlmo-train-cuda ./cmd/vlmo-train
  cd kernels/cuda
  env -u LD_LIBRARY_PATH ../../build/cuda.test -test.run NoDriver
  for seed in "${@:-1}"; do
    echo "kernels in thread order $seed"
    CUEMU_SEED=$seed LD_LIBRARY_PATH=$emulator/lib ../../build/cuda.test
  done
  echo "products in cuBLASLt"
  LD_LIBRARY_PATH=$emulator/lib:$emulator/lt ../../build/cuda.test -test.run 'Lt|Describe|Close'
  (cd ../../train && LD_LIBRARY_PATH=$emulator/lib:$emulator/lt ../build/cuda-train.test -test.run CUDALt)
  (cd ../../train/verify && LD_LIBRARY_PATH=$emulator/lib:$emulator/lt ../../build/cuda-verify.test -test.run CUDALt)
  cd ../../train
  echo "training runs"
  LD_LIBRARY_PATH=$emulator/lib ../build/cuda-train.test -test.run CUDA -test.skip CUDALt
  cd ..
  for precision in fp32 bf16; do
    LD_LIBRARY_PATH=$emulator/lib build/vlmo-train-cuda verify --device cuda --precision $precision --random testdata/parity
  done
  ;;
race)
  # What goroutines and the owner's thread share; races between the threads of
  # kernels are the emulator's, and looked for without this.
  emulated
  go test -race -tags cuda -c -o build/cuda-race.test ./kernels/cuda
  go test -race -tags cuda -c -o build/cuda-train-race.test ./train
  export CUEMU_RACES=0
  cd kernels/cuda
  LD_LIBRARY_PATH=$emulator/lib ../../build/cuda-race.test -test.short -test.run 'Conformance$|Uploads|Write|Faults|WrongArguments|Close|Describe|NoGPU'
  LD_LIBRARY_PATH=$emulator/lib:$emulator/lt ../../build/cuda-race.test -test.short -test.run 'OrderLt|WithoutLt'
  cd ../../train
  LD_LIBRARY_PATH=$emulator/lib ../build/cuda-train-race.test -test.run 'CUDA$/bf16|CUDALaunchFails|CUDALost'
  ;;
*)
  echo "usage: scripts/cuda.sh build | gpu-check | test [SEED…] | race" >&2
  exit 2
  ;;
esac
