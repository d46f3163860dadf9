// image.h - what a module image says about its kernels.
#pragma once
#include <map>
#include <string>

namespace cuemu {

struct ImageParameter {
  unsigned offset, size;
};

struct ImageKernel {
  std::map<int, ImageParameter> parameters;  // by position; empty where the image does not tell
  unsigned static_shared = 0;
  unsigned max_threads = 0;  // from __launch_bounds__; 0: none
};

struct Image {
  std::map<std::string, ImageKernel> kernels;
  bool opaque = false;        // compressed: the kernels are not known
  std::string architectures;  // " sm_80 compute_80"
  std::string chosen;         // the one for this device
};

// image: a fatbin, a cubin or PTX text. Returns a CUresult.
int read_image(const void* image, int compute_capability, Image*);

}  // namespace cuemu
