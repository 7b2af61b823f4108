// The 6-bit scales and minimums that Q4_K and Q5_K share: 12 bytes for 8 of
// each. The data sheet in q4_k.cc shows where their bits are.

#include <cstdint>

#include "kernels/unpack-inl.h"

#ifndef DEQUANT_KERNELS_SCALES_K_H_
#define DEQUANT_KERNELS_SCALES_K_H_
namespace dequant {

struct ScaleMin {
  int scale, min;
};
/// Scale and minimum of elements 32 j to 32 j + 31, for the references.
inline ScaleMin ScaleMinK(const uint8_t* s, int j) {
  if (j < 4) return {s[j] & 63, s[j + 4] & 63};
  return {(s[j + 4] & 15) | s[j - 4] >> 6 << 4, s[j + 4] >> 4 | s[j] >> 6 << 4};
}

}  // namespace dequant
#endif

#if defined(DEQUANT_KERNELS_SCALES_K_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef DEQUANT_KERNELS_SCALES_K_INL_H_
#undef DEQUANT_KERNELS_SCALES_K_INL_H_
#else
#define DEQUANT_KERNELS_SCALES_K_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace dequant {
namespace HWY_NAMESPACE {

#if DEQUANT_HAS_VBMI
// The bits from which a scale or a minimum is made, in the order of kBytes: its
// lower ones, and bits 4-5 of the last four.
struct BitsK {
  alignas(16) uint8_t byte[16];
  alignas(16) uint8_t low[16];
  alignas(16) uint8_t high[16];
  alignas(16) uint8_t is_low[16];
  alignas(16) uint8_t is_high[16];
  constexpr BitsK() : byte{}, low{}, high{}, is_low{}, is_high{} {
    for (uint8_t i = 0; i < 16; ++i) {
      const uint8_t j = i % 8, at = j % 4, is_minimum = i / 8;
      byte[i] = j < 4 ? 4 * is_minimum + at : 8 + at;
      low[i] = 8 * j + (j < 4 ? 0 : 4 * is_minimum);
      high[i] = 8 * at + 2;
      is_low[i] = j < 4 ? 63 : 15;
      is_high[i] = j < 4 ? 0 : 48;
    }
  }
};
inline constexpr BitsK kBitsK;
#endif

// scale[j] = d * scale j, offset[j] = -dmin * minimum j; all at once, on bytes
// or on four 32-bit words.
HWY_INLINE void ScalesMinsK(const uint8_t* s, float d, float dmin,
                            float* HWY_RESTRICT scale,
                            float* HWY_RESTRICT offset) {
#if DEQUANT_HAS_VBMI
  // Four of the block's quants come along.
  const U8x16 bytes =
      hn::TableLookupBytes(Load16Bytes(s), Load16Bytes(kBitsK.byte));
  const U8x16 low =
      hn::And(BitsFrom(bytes, kBitsK.low), Load16Bytes(kBitsK.is_low));
  const U8x16 all =
      hn::OrAnd(low, BitsFrom(bytes, kBitsK.high), Load16Bytes(kBitsK.is_high));
  const hn::FixedTag<float, 16> df;
  const hn::RebindToSigned<decltype(df)> di;
  const auto value = hn::ConvertTo(df, hn::PromoteTo(di, all));
  const auto both =
      hn::IfThenElse(hn::FirstN(df, 8), Broadcast(df, d), Broadcast(df, -dmin));
  const auto product = hn::Mul(value, both);
  const hn::Half<decltype(df)> dhalf;
  hn::StoreU(hn::LowerHalf(dhalf, product), dhalf, scale);
  hn::StoreU(hn::UpperHalf(dhalf, product), dhalf, offset);
#else
  const uint32_t w0 = Load32(s), w1 = Load32(s + 4), w2 = Load32(s + 8);
  const uint32_t codes[4] = {
      w0 & 0x3F3F3F3F, (w2 & 0x0F0F0F0F) | (w0 >> 2 & 0x30303030),
      w1 & 0x3F3F3F3F, (w2 >> 4 & 0x0F0F0F0F) | (w1 >> 2 & 0x30303030)};
  const auto* bytes = reinterpret_cast<const uint8_t*>(codes);
  const hn::CappedTag<float, 8> df;
  const hn::RebindToSigned<decltype(df)> di32;
  const hn::Rebind<uint8_t, decltype(df)> du8s;
  for (size_t i = 0; i < 8; i += hn::Lanes(df)) {
    const auto sc = hn::PromoteTo(di32, hn::LoadU(du8s, bytes + i));
    const auto mn = hn::PromoteTo(di32, hn::LoadU(du8s, bytes + 8 + i));
    hn::StoreU(hn::Mul(hn::ConvertTo(df, sc), hn::Set(df, d)), df, scale + i);
    hn::StoreU(hn::Mul(hn::ConvertTo(df, mn), hn::Set(df, -dmin)), df,
               offset + i);
  }
#endif
}

}  // namespace HWY_NAMESPACE
}  // namespace dequant
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
