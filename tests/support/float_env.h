// A float environment that would spoil results, flush subnormals and round up,
// or end the process: of the exceptions only that of inexact results is masked.
#pragma once

#include <cstdint>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace dequant {

class HostileFloatEnv {
 public:
  HostileFloatEnv() : saved_(Get()) { Set(kHostile); }
  ~HostileFloatEnv() { Set(saved_); }
  HostileFloatEnv(const HostileFloatEnv&) = delete;
  HostileFloatEnv& operator=(const HostileFloatEnv&) = delete;

  bool StillSet() const { return Get() == kHostile; }

 private:
#if defined(__SSE2__)
  static constexpr uint64_t kHostile = 0x1000 | 0x8040 | 0x4000;
  static uint64_t Get() { return _mm_getcsr() & ~uint64_t{0x3F}; }
  static void Set(uint64_t w) { _mm_setcsr(static_cast<uint32_t>(w)); }
#elif defined(__aarch64__)
  static constexpr uint64_t kHostile = 1u << 24 | 1u << 22;  // FZ, round up
  static uint64_t Get() {
    uint64_t w;
    __asm__ __volatile__("mrs %0, fpcr" : "=r"(w));
    return w;
  }
  static void Set(uint64_t w) {
    __asm__ __volatile__("msr fpcr, %0" : : "r"(w));
  }
#endif
  uint64_t saved_;
};

}  // namespace dequant
