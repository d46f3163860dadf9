#!/usr/bin/env bash
# Checks that the tests find mistakes in the CUDA kernels: puts each bug of
# kernels/cuda/mutants into a copy of the kernels, compiles the source file
# concerned for the emulator, and runs the conformance tests of its ops, which
# must fail.
#
#   scripts/mutants.sh [--result FILE] [NAME…]   # all bugs, or those that are named
#   scripts/mutants.sh --some COUNT SEED         # that many, drawn by the seed
#
# It needs what `make test-cuda` has built. A patch begins with three lines: what
# is wrong, the source file to rebuild, and the ops whose tests must fail.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD

result=
names=()
case ${1-} in
--result)
  result=$2
  shift 2
  names=("$@")
  ;;
--some)
  mapfile -t names < <(basename -s .patch kernels/cuda/mutants/*.patch | shuf --random-source=<(yes "$3") -n "$2")
  ;;
*) names=("$@") ;;
esac
if [ ${#names[@]} -eq 0 ]; then mapfile -t names < <(basename -s .patch kernels/cuda/mutants/*.patch); fi

if [ -z "${CUDA_INCLUDE-}" ]; then
  variables=$(scripts/cuda-toolchain.sh)
  eval "$variables"
fi
emulator=$root/build/cudaemu
test=$root/build/cuda.test
if [ ! -x "$test" ] || [ ! -e "$emulator/lib/libcuda.so.1" ]; then
  echo "mutants: run make test-cuda first" >&2
  exit 2
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# compile DEVICE UNIT: the kernels of a source file as $work/UNIT.o.
compile() {
  echo "#include \"$2.cu\"" >"$work/$2.cpp"
  make --no-print-directory -s -C kernels/cudaemu B="$work/$2.d" KERNELS="$work/$2.cpp" SOURCES= INCLUDES="-I$1" "$work/$2.d/kernels.o" >/dev/null
  mv "$work/$2.d/kernels.o" "$3"
}

# link OBJECT…: a driver with those kernels.
link() {
  local driver
  mkdir -p "$work/lib"
  mapfile -t driver < <(find "$emulator" -maxdepth 1 -name '*.o' ! -name kernels.o ! -name shim.o)
  "${CXX:-g++}" -shared -Wl,-Bsymbolic -Wl,--version-script=kernels/cudaemu/src/export.map -Wl,-soname,libcuda.so.1 \
    -o "$work/lib/libcuda.so.1" "${driver[@]}" "$@" -lpthread
}

# passes OPS: whether their conformance tests pass.
passes() {
  (cd kernels/cuda && LD_LIBRARY_PATH=$work/lib "$test" -test.run "^TestConformance\$/^($1)\$" >"$work/log" 2>&1)
}

# header NAME N: what line N of a patch's head says.
header() { sed -n "$2{s/^# //; s/^[a-z]*: //; p;}" "kernels/cuda/mutants/$1.patch"; }

units=()
for cu in kernels/cuda/device/*.cu; do
  unit=$(basename "$cu" .cu)
  units+=("$unit")
  compile "$root/kernels/cuda/device" "$unit" "$work/$unit.o"
done
objects=("${units[@]/#/$work/}")
objects=("${objects[@]/%/.o}")
link "${objects[@]}"
all=$(for name in "${names[@]}"; do header "$name" 3; done | tr '|' '\n' | sort -u | paste -sd '|')
if ! passes "$all"; then
  echo "mutants: the tests fail without any of the bugs:" >&2
  tail "$work/log" >&2
  exit 1
fi

lines=('# Known mistakes in the kernels' ''
  'Each patch puts one bug into the kernels; scripts/mutants.sh runs the conformance tests of the ops concerned, which must fail, and'
  'writes this table. A patch begins with what is wrong, the source file to compile and the ops to test.' ''
  '| bug | kernels of | tests of | what fails |'
  '|---|---|---|---|')
survived=()
for name in "${names[@]}"; do
  unit=$(header "$name" 2) ops=$(header "$name" 3)
  rm -rf "$work/copy"
  mkdir "$work/copy"
  cp -r kernels/cuda/device "$work/copy/device"
  patch -d "$work/copy" -p1 -F2 -s --no-backup-if-mismatch <"kernels/cuda/mutants/$name.patch" >"$work/log" || {
    echo "mutants: $name.patch does not apply" >&2
    cat "$work/log" >&2
    exit 1
  }
  compile "$work/copy/device" "$unit" "$work/mutant.o"
  # First, so that its copies of the headers' functions are those that are linked.
  others=()
  for object in "${objects[@]}"; do
    if [ "$object" != "$work/$unit.o" ]; then others+=("$object"); fi
  done
  link "$work/mutant.o" "${others[@]}"
  if passes "$ops"; then
    survived+=("$name")
    found='**nothing**'
  else
    found=$(grep -m1 -oE 'CUDA error [0-9]+: [^;]*|element \([0-9]+, [0-9]+\).*|word [0-9]+ .*|error [0-9.e+-]+.*|run again.*|panic: .*' "$work/log" | cut -c1-150 || true)
    if [ -z "$found" ]; then found=$(grep -m1 -E 'seed [0-9]+:' "$work/log" | sed 's/.*}: //' | cut -c1-150); fi
    found=${found//|/\\|}
  fi
  echo "$name: $(header "$name" 1): $found"
  lines+=("| \`$name\`: $(header "$name" 1) | \`$unit.cu\` | ${ops//|/, } | $found |")
done
if [ -n "$result" ]; then printf '%s\n' "${lines[@]}" >"$result"; fi
if [ ${#survived[@]} -gt 0 ]; then
  echo "mutants: not found: ${survived[*]}" >&2
  exit 1
fi
echo "mutants: all ${#names[@]} were found"
