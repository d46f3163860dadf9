// image.cpp - reads kernel names and argument layouts out of a module image.
//
// Models: the choice of a device's code in a fatbin (a cubin of the same major
// version and no later minor version, else PTX of no later version), so that an
// image without code for the device is refused. The machine code itself is not
// looked at: kernels run as g++ compiled them, and the layouts tell whether the
// two builds belong together.
// Does not model: decompression (build the fatbin with --no-compress), JIT.
#include "image.h"

#include <elf.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <regex>

namespace cuemu {

enum { kInvalidImage = 200, kNoBinaryForGpu = 209 };

template <class T>
static T read(const char* p) {
  T value;
  memcpy(&value, p, sizeof value);
  return value;
}

// ---- cubin: an ELF file ----

constexpr int kMachineCuda = 190;
constexpr unsigned char kKernelEntry = 0x10;    // in st_other: STO_CUDA_ENTRY
constexpr unsigned char kFormatSized = 4;       // of an .nv.info record: a length follows
constexpr unsigned char kMaxThreads = 0x05;     // EIATTR_MAX_THREADS
constexpr unsigned char kParameterInfo = 0x17;  // EIATTR_KPARAM_INFO

// Records of section .nv.info.<kernel>.
static void read_info(const char* p, const char* end, ImageKernel* k) {
  while (p + 4 <= end) {
    unsigned char format = p[0], attribute = p[1];
    auto length = read<uint16_t>(p + 2);
    p += 4;
    if (format != kFormatSized) continue;  // the value was in the length's place
    uint32_t words[3] = {};
    memcpy(words, p, std::min<size_t>(length, sizeof words));
    p += length;
    if (attribute == kParameterInfo) k->parameters[words[1] & 0xffff] = {words[1] >> 16, words[2] >> 18};
    if (attribute == kMaxThreads) k->max_threads = words[0] * words[1] * words[2];
  }
}

static void read_cubin(const char* p, Image* out) {
  auto header = (const Elf64_Ehdr*)p;
  auto sections = (const Elf64_Shdr*)(p + header->e_shoff);
  const char* section_names = p + sections[header->e_shstrndx].sh_offset;
  for (int i = 0; i < header->e_shnum; i++) {
    if (sections[i].sh_type != SHT_SYMTAB) continue;
    auto symbols = (const Elf64_Sym*)(p + sections[i].sh_offset);
    const char* names = p + sections[sections[i].sh_link].sh_offset;
    for (size_t s = 0; s < sections[i].sh_size / sizeof *symbols; s++) {
      const Elf64_Sym& symbol = symbols[s];
      if (ELF64_ST_TYPE(symbol.st_info) == STT_FUNC && symbol.st_other & kKernelEntry)
        out->kernels[names + symbol.st_name];
    }
  }
  for (int i = 0; i < header->e_shnum; i++) {
    std::string name = section_names + sections[i].sh_name;
    const char* begin = p + sections[i].sh_offset;
    auto kernel_after = [&](const std::string& prefix) -> ImageKernel* {
      if (name.compare(0, prefix.size(), prefix)) return nullptr;
      auto k = out->kernels.find(name.substr(prefix.size()));
      return k == out->kernels.end() ? nullptr : &k->second;
    };
    if (ImageKernel* k = kernel_after(".nv.shared.")) k->static_shared = sections[i].sh_size;
    if (ImageKernel* k = kernel_after(".nv.info.")) read_info(begin, begin + sections[i].sh_size, k);
  }
}

// ---- PTX ----

static unsigned type_size(const std::string& type) {  // ".u64" and the like
  return std::stoul(type.substr(type.find_first_of("0123456789"))) / 8;
}

static void read_ptx(const std::string& text, Image* out) {
  static const std::regex entry("\\.entry\\s+(\\w+)\\s*(\\(([^)]*)\\))?");
  static const std::regex parameter("\\.param\\s+(\\.align\\s+(\\d+)\\s+)?(\\.[a-z]\\d+)\\s+\\w+(\\[(\\d+)\\])?");
  for (std::sregex_iterator e(text.begin(), text.end(), entry), end; e != end; ++e) {
    ImageKernel& k = out->kernels[(*e)[1]];
    std::string list = (*e)[3];
    unsigned offset = 0;
    for (std::sregex_iterator p(list.begin(), list.end(), parameter); p != end; ++p) {
      unsigned size = type_size((*p)[3]);
      unsigned align = (*p)[2].matched ? std::stoul((*p)[2]) : size;
      if ((*p)[5].matched) size *= std::stoul((*p)[5]);
      offset = (offset + align - 1) / align * align;
      int position = k.parameters.size();
      k.parameters[position] = {offset, size};
      offset += size;
    }
  }
}

// ---- fatbin: entries, each a cubin or PTX for one architecture ----

constexpr uint32_t kElfMagic = 0x464c457f, kFatbinMagic = 0xba55ed50;

static int read_fatbin(const char* p, int compute_capability, Image* out) {
  enum { kPtx = 1, kCubin = 2 };
  auto header_size = read<uint16_t>(p + 6);
  auto size = read<uint64_t>(p + 8);
  bool fits = false, compressed = false;
  for (const char *q = p + header_size, *end = q + size; q < end;) {
    auto kind = read<uint16_t>(q);
    auto entry_header = read<uint32_t>(q + 4);
    auto entry_size = read<uint64_t>(q + 8);
    auto packed_size = read<uint32_t>(q + 16);
    auto architecture = (int)read<uint32_t>(q + 28);
    std::string name = (kind == kCubin ? "sm_" : "compute_") + std::to_string(architecture);
    out->architectures += " " + name;
    bool usable = architecture <= compute_capability && (kind == kPtx || architecture / 10 == compute_capability / 10);
    if (usable) out->chosen = name;
    fits |= usable;
    if (packed_size)
      compressed = true;
    else if (kind == kCubin)
      read_cubin(q + entry_header, out);
    else
      read_ptx(std::string(q + entry_header, entry_size), out);
    q += entry_header + entry_size;
  }
  out->opaque = compressed && out->kernels.empty();
  return fits ? 0 : kNoBinaryForGpu;
}

int read_image(const void* image, int compute_capability, Image* out) {
  auto p = (const char*)image;
  auto magic = read<uint32_t>(p);
  if (magic == kFatbinMagic) return read_fatbin(p, compute_capability, out);
  if (magic == kElfMagic) {
    if (((const Elf64_Ehdr*)p)->e_machine != kMachineCuda) return kInvalidImage;
    read_cubin(p, out);
    return 0;
  }
  if (strncmp(p, "//", 2) && strncmp(p, ".version", 8)) return kInvalidImage;
  read_ptx(p, out);
  return 0;
}

}  // namespace cuemu
