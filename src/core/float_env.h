// The numeric contract holds whatever rounding mode, FTZ or DAZ the calling
// thread has set.
#pragma once

#include <cstdint>

#if defined(__SSE2__) || defined(_M_X64)
#include <xmmintrin.h>
#endif

namespace dequant {

/// Sets round-to-nearest, no flushing and no traps for its lifetime.
class DefaultFloatEnv {
 public:
  /// Whether the calling thread has it already.
  static bool IsSet() { return Get() == kDefault; }

  DefaultFloatEnv() : saved_(Get()) {
    if (saved_ != kDefault) Set(kDefault);
  }
  ~DefaultFloatEnv() {
    if (saved_ != kDefault) Set(saved_);
  }
  DefaultFloatEnv(const DefaultFloatEnv&) = delete;
  DefaultFloatEnv& operator=(const DefaultFloatEnv&) = delete;

 private:
#if defined(__SSE2__) || defined(_M_X64)
  using Word = uint32_t;
  static constexpr Word kDefault = 0x1F80;  // all exceptions masked
  // The low six bits only record what has happened.
  static Word Get() { return _mm_getcsr() & ~Word{0x3F}; }
  static void Set(Word w) { _mm_setcsr(w); }
#elif defined(__aarch64__)
  using Word = uint64_t;
  static constexpr Word kDefault = 0;
  static Word Get() {
    Word w;
    __asm__ __volatile__("mrs %0, fpcr" : "=r"(w));
    return w;
  }
  static void Set(Word w) { __asm__ __volatile__("msr fpcr, %0" : : "r"(w)); }
#else
  using Word = uint32_t;
  static constexpr Word kDefault = 0;
  static Word Get() { return 0; }
  static void Set(Word) {}
#endif
  Word saved_;
};

}  // namespace dequant
