#include "bench/machine.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>

namespace dequant::bench {
namespace {

constexpr size_t kHuge = 2 << 20;  // a huge page

// The first line of a file, or "".
std::string FirstLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// "32K" or "16M" in bytes.
size_t ParseSize(const std::string& text) {
  char* end = nullptr;
  const size_t n = std::strtoull(text.c_str(), &end, 10);
  return *end == 'K' ? n << 10 : *end == 'M' ? n << 20 : n;
}

// How many CPUs "0-3,8-11" names.
int CountCpus(const std::string& list) {
  int count = 0;
  for (const char* p = list.c_str(); *p != '\0';) {
    char* end = nullptr;
    const long first = std::strtol(p, &end, 10);
    if (end == p) break;
    long last = first;
    if (*end == '-') last = std::strtol(end + 1, &end, 10);
    count += static_cast<int>(last - first + 1);
    p = *end == ',' ? end + 1 : end;
  }
  return std::max(count, 1);
}

Caches FindCaches() {
  Caches caches;
  for (int i = 0; i < 8; ++i) {
    const std::string folder =
        "/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(i) + "/";
    if (FirstLine(folder + "type") == "Instruction") continue;
    const std::string level = FirstLine(folder + "level");
    const size_t size = ParseSize(FirstLine(folder + "size"));
    if (level == "1") caches.l1 = size;
    if (level == "2") caches.l2 = size;
    if (level == "3") {
      caches.l3 = size;
      caches.l3_sharers = CountCpus(FirstLine(folder + "shared_cpu_list"));
    }
  }
  if (caches.l1 != 0 && caches.l2 != 0) return caches;
#ifdef _SC_LEVEL1_DCACHE_SIZE
  const auto ask = [](int name) {
    return static_cast<size_t>(std::max(0L, sysconf(name)));
  };
  caches = {ask(_SC_LEVEL1_DCACHE_SIZE), ask(_SC_LEVEL2_CACHE_SIZE),
            ask(_SC_LEVEL3_CACHE_SIZE), 1};
#endif
  if (caches.l1 == 0) caches.l1 = 32 << 10;
  if (caches.l2 == 0) caches.l2 = 512 << 10;
  return caches;
}

}  // namespace

const Caches& CachesOfThisMachine() {
  static const Caches caches = FindCaches();
  return caches;
}

std::string CpuName() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("model name")) {
      const size_t colon = line.find(": ");
      if (colon != std::string::npos) return line.substr(colon + 2);
    }
  }
  const std::string board = FirstLine("/proc/device-tree/model");
  return board.empty() ? "unknown CPU" : board;
}

std::string CompilerName() {
#ifdef __clang__
  std::string name = "clang++ " __clang_version__;
#else
  std::string name = "g++ " __VERSION__;
#endif
#ifndef NDEBUG
  name += ", with assertions";
#endif
  return name;
}

Arena::~Arena() {
  if (mapped_ != nullptr) munmap(mapped_, size_ + kHuge);
}

uint8_t* Arena::Get(size_t bytes) {
  if (bytes <= size_) return data_;
  if (mapped_ != nullptr) munmap(mapped_, size_ + kHuge);
  size_ = (bytes + kHuge - 1) / kHuge * kHuge;
  ++generation_;
  mapped_ = mmap(nullptr, size_ + kHuge, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped_ == MAP_FAILED) {
    std::fprintf(stderr, "dequant_bench: no memory for %zu bytes\n", bytes);
    std::exit(1);
  }
  const auto start = reinterpret_cast<uintptr_t>(mapped_);
  data_ = reinterpret_cast<uint8_t*>((start + kHuge - 1) / kHuge * kHuge);
#ifdef MADV_HUGEPAGE
  madvise(data_, size_, MADV_HUGEPAGE);
#endif
  std::memset(data_, 1, size_);
  return data_;
}

}  // namespace dequant::bench
