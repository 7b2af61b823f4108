// What the benchmark must know about this machine, and memory to run on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace dequant::bench {

/// Bytes of the data caches that one core sees; 0 if there is none.
struct Caches {
  size_t l1 = 0, l2 = 0, l3 = 0;
  int l3_sharers = 1;  ///< CPUs that share one L3
};
const Caches& CachesOfThisMachine();

/// "AMD EPYC 7763 64-Core Processor", or what else the system calls it.
std::string CpuName();

/// "g++ 12.2.0", and whether this is an optimized build.
std::string CompilerName();

/// Memory that only grows, on huge pages where the system allows, and written
/// to once before it is handed out: page faults would hide everything else.
class Arena {
 public:
  ~Arena();
  /// At least `bytes` bytes, aligned to a huge page. Earlier pointers are void
  /// when `generation` changes.
  uint8_t* Get(size_t bytes);
  int generation() const { return generation_; }

 private:
  void* mapped_ = nullptr;
  uint8_t* data_ = nullptr;
  size_t size_ = 0;
  int generation_ = 0;
};

}  // namespace dequant::bench
