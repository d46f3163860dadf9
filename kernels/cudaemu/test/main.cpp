// main.cpp - runs the emulator's tests: cudaemu IMAGE [-v]. IMAGE is what nvcc
// made of faults.cu and sound.cu. -v shows what the emulator says.
#include <chrono>
#include <cstring>

#include "harness.h"

int failures = 0;
const char* image_file;

void test_counters();
void test_cublaslt();
void test_driver();
void test_failures();
void test_kernel_faults();
void test_kernel_results();
void test_streams();

int main(int argc, char** argv) {
  if (argc < 2) {
    fprintf(stderr, "usage: %s IMAGE [-v]\n", argv[0]);
    return 2;
  }
  image_file = argv[1];
  bool verbose = argc > 2 && !strcmp(argv[2], "-v");
  if (!verbose && !freopen("/dev/null", "w", stderr)) return 2;
  setvbuf(stdout, nullptr, _IOLBF, 0);
  OK(cuInit(0));

  struct {
    const char* name;
    void (*run)();
  } tests[] = {{"kernel results", test_kernel_results},
               {"counters", test_counters},
               {"driver", test_driver},
               {"streams", test_streams},
               {"cublasLt", test_cublaslt},
               {"kernel faults", test_kernel_faults},
               {"failures on demand", test_failures}};  // the last loses the device
  for (auto& t : tests) {
    int before = failures;
    auto start = std::chrono::steady_clock::now();
    t.run();
    std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    printf("%s %s (%.2f s)\n", failures == before ? "ok  " : "FAIL", t.name, seconds.count());
  }
  return failures != 0;
}
