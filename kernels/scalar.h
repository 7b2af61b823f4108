// Scalar helpers of the references: bits only, so that no rounding mode, FTZ or
// DAZ of the caller can change them. Little-endian hosts, as GGUF.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

namespace dequant {

static_assert(std::endian::native == std::endian::little);

inline uint16_t Load16(const uint8_t* p) {
  uint16_t v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

inline uint32_t Load32(const uint8_t* p) {
  uint32_t v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
inline uint64_t Load64(const uint8_t* p) {
  uint64_t v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

constexpr bool IsFiniteF16(uint16_t h) { return (h & 0x7C00) != 0x7C00; }
constexpr bool IsFiniteF32(uint32_t f) {
  return (f & 0x7F800000) != 0x7F800000;
}

/// IEEE half to single; NaN becomes the canonical one.
inline float F16ToF32(uint16_t h) {
  const uint32_t sign = uint32_t{h & 0x8000u} << 16;
  const uint32_t exponent = (h >> 10) & 31;
  const uint32_t mantissa = h & 0x3FF;
  if (exponent == 31) {
    return std::bit_cast<float>(mantissa ? 0x7FC00000 : sign | 0x7F800000);
  }
  if (exponent == 0) {
    if (mantissa == 0) return std::bit_cast<float>(sign);
    const uint32_t shift =
        static_cast<uint32_t>(std::countl_zero(mantissa)) - 21;
    return std::bit_cast<float>(sign | (113 - shift) << 23 |
                                ((mantissa << shift) & 0x3FF) << 13);
  }
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
}
inline float F16ToF32(const uint8_t* p) { return F16ToF32(Load16(p)); }

/// IQ1_M's scale: the top nibbles of four 16-bit words, the lowest word first.
inline uint16_t HalfInTopNibbles(const uint8_t* words) {
  // Number i to bit 48 + 4 i; other products are above or below, none in
  // another's place.
  return static_cast<uint16_t>(
      (Load64(words) & 0xF000F000F000F000) * 0x1001001001 >> 48);
}

/// bfloat16 to single; NaN becomes the canonical one.
inline float Bf16ToF32(uint16_t h) {
  const uint32_t bits = uint32_t{h} << 16;
  return std::bit_cast<float>((bits & 0x7FFFFFFF) > 0x7F800000 ? 0x7FC00000
                                                               : bits);
}

/// Single to half, to nearest even; NaN becomes 0x7E00.
constexpr uint16_t F32ToF16(float f) {
  const uint32_t bits = std::bit_cast<uint32_t>(f);
  const uint32_t sign = (bits >> 16) & 0x8000;
  const uint32_t abs = bits & 0x7FFFFFFF;
  if (abs > 0x7F800000) return 0x7E00;
  if (abs >= 0x477FF000) return static_cast<uint16_t>(sign | 0x7C00);
  uint32_t shift = 13, mantissa = abs & 0x7FFFFF, exponent = abs >> 23;
  uint32_t base = 0;
  if (exponent >= 113) {
    base = (exponent - 112) << 10;
  } else {  // subnormal half: the implicit 1 becomes a mantissa bit
    if (exponent < 102) return static_cast<uint16_t>(sign);
    mantissa |= 0x800000;
    shift += 113 - exponent;
  }
  const uint32_t kept = mantissa >> shift;
  const uint32_t rest = mantissa & ((1u << shift) - 1),
                 half = 1u << (shift - 1);
  const uint32_t up = rest > half || (rest == half && (kept & 1));
  return static_cast<uint16_t>(sign | (base + kept + up));
}

/// Single to bfloat16, to nearest even; NaN becomes 0x7FC0.
constexpr uint16_t F32ToBf16(float f) {
  const uint32_t bits = std::bit_cast<uint32_t>(f);
  if ((bits & 0x7FFFFFFF) > 0x7F800000) return 0x7FC0;
  return static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

}  // namespace dequant
