#!/usr/bin/env bash
# Installs from PyPI what compiles the CUDA code: nvcc 13 with its headers, the
# cubin tools, and the CUDA 12 headers that gorgonia.org/cu and cublasLt need.
# No driver and no GPU is needed, and nothing is installed outside the folder.
#
#   eval "$(scripts/cuda-toolchain.sh)"      # variables for make and go build
#   scripts/cuda-toolchain.sh --env-only     # the same, but fails when nothing is installed
#
# The folder is $CUDA_TOOLCHAIN, or build/cuda-toolchain. A second run is quick.
set -euo pipefail
cd "$(dirname "$0")/.."

requirements=scripts/cuda-requirements.txt
folder=${CUDA_TOOLCHAIN:-$PWD/build/cuda-toolchain}
stamp=$folder/installed.txt

if ! cmp -s "$requirements" "$stamp"; then
  if [ "${1-}" = --env-only ]; then
    echo "cuda-toolchain: nothing is installed in $folder; run scripts/cuda-toolchain.sh" >&2
    exit 1
  fi
  python3 -m venv "$folder" >&2
  "$folder/bin/pip" install --quiet --disable-pip-version-check --no-deps --requirement "$requirements" >&2
  # Of cuBLAS only the headers are used here, and its libraries fill a gigabyte.
  find "$folder"/lib/python3*/site-packages/nvidia/cublas -name '*.so.*' -delete
  cp "$requirements" "$stamp"
fi

packages=$(echo "$folder"/lib/python3*/site-packages/nvidia)
cu13=$packages/cu13
for file in "$cu13/bin/nvcc" "$cu13/include/cccl/nv/target" "$packages/cuda_runtime/include/cuda.h" "$packages/cublas/include/cublasLt.h"; do
  if [ ! -e "$file" ]; then
    echo "cuda-toolchain: $file is missing; remove $folder and run this again" >&2
    exit 1
  fi
done

cat <<END
export NVCC='$cu13/bin/nvcc'
export CUOBJDUMP='$cu13/bin/cuobjdump'
export NVDISASM='$cu13/bin/nvdisasm'
export CCCL_INCLUDE='$cu13/include/cccl'
export CRT_INCLUDE='$cu13/include'
export CUDA_INCLUDE='$packages/cuda_runtime/include'
export CUBLAS_INCLUDE='$packages/cublas/include'
END
