// Arithmetic on numbers that a file gave us: nothing wraps.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <span>

namespace dequant {

/// What every size and count must stay below: offsets are signed in POSIX.
inline constexpr uint64_t kMaxSize =
    static_cast<uint64_t>(std::numeric_limits<int64_t>::max());

inline std::optional<uint64_t> CheckedAdd(uint64_t a, uint64_t b) {
  uint64_t r;
  if (__builtin_add_overflow(a, b, &r) || r > kMaxSize) return std::nullopt;
  return r;
}

inline std::optional<uint64_t> CheckedMul(uint64_t a, uint64_t b) {
  uint64_t r;
  if (__builtin_mul_overflow(a, b, &r) || r > kMaxSize) return std::nullopt;
  return r;
}

/// Whether [offset, offset + length) lies in [0, room).
constexpr bool RangeFits(uint64_t offset, uint64_t length, uint64_t room) {
  return offset <= room && length <= room - offset;
}

/// `x` rounded up to a multiple of `a`, a power of two.
inline std::optional<uint64_t> AlignUp(uint64_t x, uint64_t a) {
  const auto r = CheckedAdd(x, a - 1);
  return r ? std::optional(*r & ~(a - 1)) : std::nullopt;
}

/// The product of `dims`. A zero does not hide an overflow of the others.
inline std::optional<uint64_t> ElementCount(std::span<const uint64_t> dims) {
  std::optional<uint64_t> n = 1;
  bool zero = false;
  for (const uint64_t d : dims) {
    zero |= d == 0;
    if (n && d != 0) n = CheckedMul(*n, d);
  }
  return n && zero ? std::optional<uint64_t>(0) : n;
}

}  // namespace dequant
