#!/bin/sh
# entry_points.sh stubs|shim: C source for every entry point that cuda.h declares.
#
# stubs: a weak function each, which says its name and returns
#        CUDA_ERROR_NOT_SUPPORTED. What the emulator defines wins over it.
# shim:  for a static libcuda.a, whose functions jump into libcuda.so.1 if there
#        is one. Without it, or where its cuInit fails (no GPU is visible, the
#        driver is broken), cuInit succeeds, as gorgonia.org/cu ends the process
#        otherwise, and every other call returns CUDA_ERROR_NO_DEVICE or that
#        failure; messages and version are the driver's.
#
# $CUDA_INCLUDE is the folder of cuda.h.
set -eu

names=$(echo '#include <cuda.h>' | ${CC:-cc} -E -P -I"${CUDA_INCLUDE:?folder of cuda.h}" - | tr '\n' ' ' |
  grep -oE 'CUresult +cu[A-Za-z0-9_]+ *\(' | grep -oE 'cu[A-Z][A-Za-z0-9_]+' | sort -u)

stubs() {
  echo 'int cuemu_unsupported(const char *);'
  for name in $names; do
    echo "__attribute__((weak)) int $name(void) { return cuemu_unsupported(\"$name\"); }"
  done
}

shim() {
  echo '#include <dlfcn.h>'
  echo '#include <string.h>'
  echo 'static const char *const names[] = {'
  for name in $names; do echo "  \"$name\","; done
  cat <<'END'
};
enum { count = sizeof names / sizeof *names };
__attribute__((visibility("hidden"))) void *cushim_entry[count];
static int failure = 100; /* CUDA_ERROR_NO_DEVICE */
static int success(void) { return 0; }
static int failed(void) { return failure; }
static int not_found(void) { return 500; }
__attribute__((constructor)) static void bind(void) {
  void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
  int (*init)(unsigned) = library ? (int (*)(unsigned))dlsym(library, "cuInit") : 0;
  if (init) failure = init(0);
  for (int i = 0; i < count; i++) {
    const char *name = names[i];
    void *entry = library ? dlsym(library, name) : 0;
    if (!failure || (entry && (!strncmp(name, "cuGetError", 10) || !strcmp(name, "cuDriverGetVersion"))))
      cushim_entry[i] = entry ? entry : (void *)not_found;
    else
      cushim_entry[i] = !strcmp(name, "cuInit") ? (void *)success : (void *)failed;
  }
}
END
  offset=0
  for name in $names; do
    echo "__asm__(\".globl $name; .type $name,@function; $name: jmp *cushim_entry+$offset(%rip)\");"
    offset=$((offset + 8))
  done
}

case ${1-} in
stubs | shim) "$1" ;;
*)
  echo "usage: $0 stubs|shim" >&2
  exit 2
  ;;
esac
