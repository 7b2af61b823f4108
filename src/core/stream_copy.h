// Copies from cache to memory without reading the destination's lines first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__SSE2__) || defined(_M_X64)
#include <emmintrin.h>
#define DEQUANT_HAS_STREAM 1
#else
#define DEQUANT_HAS_STREAM 0
#endif

namespace dequant {

/// Whether StreamCopy can do better than memcpy.
inline constexpr bool kHasStream = DEQUANT_HAS_STREAM;

/// `to` needs no alignment, but whole cache lines are fastest. Call StreamFence
/// before another thread reads.
inline void StreamCopy(uint8_t* to, const uint8_t* from, size_t n) {
#if DEQUANT_HAS_STREAM
  const size_t head =
      (0 - reinterpret_cast<uintptr_t>(to)) % sizeof(__m128i);  // to alignment
  if (n >= head + 64) {
    std::memcpy(to, from, head);
    to += head;
    from += head;
    n -= head;
    for (; n >= 64; n -= 64) {
      const auto* s = reinterpret_cast<const __m128i*>(from);
      auto* d = reinterpret_cast<__m128i*>(to);
      const __m128i v0 = _mm_loadu_si128(s), v1 = _mm_loadu_si128(s + 1);
      const __m128i v2 = _mm_loadu_si128(s + 2), v3 = _mm_loadu_si128(s + 3);
      _mm_stream_si128(d, v0);
      _mm_stream_si128(d + 1, v1);
      _mm_stream_si128(d + 2, v2);
      _mm_stream_si128(d + 3, v3);
      from += 64;
      to += 64;
    }
  }
#endif
  std::memcpy(to, from, n);
}

inline void StreamFence() {
#if DEQUANT_HAS_STREAM
  _mm_sfence();
#endif
}

}  // namespace dequant
