// The 6-bit scales and minimums that Q4_K and Q5_K share: 12 bytes for 8 of
// each. The data sheet in q4_k.cc shows where their bits are.

#include <cstdint>
#include <cstring>

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
// The bits from which scales and minimums are made, in turn: the lower ones,
// and bits 4-5 of the last four of each.
struct BitsK {
  alignas(16) uint8_t low[16];
  alignas(16) uint8_t high[16];
  alignas(16) uint8_t is_low[16];
  alignas(16) uint8_t is_high[16];
  constexpr BitsK() : low{}, high{}, is_low{}, is_high{} {
    for (uint8_t i = 0; i < 16; ++i) {
      const uint8_t j = i / 2, at = j % 4, is_minimum = i % 2;
      low[i] = 8 * at + (j < 4 ? 32 : 4) * is_minimum;
      high[i] = 8 * at + 32 * is_minimum + 2;
      is_low[i] = j < 4 ? 63 : 15;
      is_high[i] = j < 4 ? 0 : 48;
    }
  }
};
inline constexpr BitsK kBitsK;
#endif

// Of eight rows.
struct HeaderK {
  float of[16];
  // Where all are made at once, they are in turn.
  static constexpr size_t kStep = DEQUANT_HAS_VBMI ? 2 : 1;
  static constexpr size_t kOffsets = DEQUANT_HAS_VBMI ? 1 : 8;
  HWY_INLINE ScaledOffset Value(size_t j) const {
    return Formula(of[kStep * j], of[kOffsets + kStep * j]);
  }
};

// d[0] * scale j and d[1] * minimum j; all at once, on bytes or on four 32-bit
// words.
HWY_INLINE void ScalesMinsK(const uint8_t* s, const float* d, HeaderK& h) {
#if DEQUANT_HAS_VBMI
  // Four of the block's quants come along.
  const hn::Repartition<uint64_t, decltype(du8)> du64;
  const U8x16 bytes = Load16Bytes(s);
  const U8x16 first = hn::BitCast(du8, hn::Set(du64, Load64(s)));
  const U8x16 low =
      hn::And(BitsFrom(bytes, kBitsK.low), Load16Bytes(kBitsK.is_low));
  const U8x16 all =
      hn::OrAnd(low, BitsFrom(first, kBitsK.high), Load16Bytes(kBitsK.is_high));
  const hn::FixedTag<float, 16> df;
  const hn::RebindToSigned<decltype(df)> di;
  const auto value = hn::ConvertTo(df, hn::PromoteTo(di, all));
  const hn::Repartition<int64_t, decltype(df)> di64;
  int64_t both;
  std::memcpy(&both, d, sizeof(both));
  hn::StoreU(hn::Mul(value, hn::BitCast(df, hn::Set(di64, both))), df, h.of);
#else
  alignas(16) uint32_t codes[4];
#if HWY_ARCH_X86
  // Four of the block's quants come along.
  const hn::FixedTag<uint32_t, 4> du32;
  alignas(16) static constexpr uint32_t kLowFrom[4] = {0, 0, 0, 4};
  alignas(16) static constexpr uint32_t kIsLow[4] = {0x3F3F3F3F, 0x0F0F0F0F,
                                                     0x3F3F3F3F, 0x0F0F0F0F};
  alignas(16) static constexpr uint32_t kIsHigh[4] = {0, 0x30303030, 0,
                                                      0x30303030};
  const auto w = hn::BitCast(du32, Load16Bytes(s));
  const auto low = hn::Shr(hn::Per4LaneBlockShuffle<2, 1, 2, 0>(w),
                           hn::Load(du32, kLowFrom));
  const auto high = hn::ShiftRight<2>(hn::Per4LaneBlockShuffle<1, 1, 0, 0>(w));
  hn::Store(hn::OrAnd(hn::And(low, hn::Load(du32, kIsLow)), high,
                      hn::Load(du32, kIsHigh)),
            du32, codes);
#else  // the others have fewer pipes for vectors
  const uint32_t w0 = Load32(s), w1 = Load32(s + 4), w2 = Load32(s + 8);
  codes[0] = w0 & 0x3F3F3F3F;
  codes[1] = (w2 & 0x0F0F0F0F) | (w0 >> 2 & 0x30303030);
  codes[2] = w1 & 0x3F3F3F3F;
  codes[3] = (w2 >> 4 & 0x0F0F0F0F) | (w1 >> 2 & 0x30303030);
#endif
  const auto* bytes = reinterpret_cast<const uint8_t*>(codes);
  const hn::CappedTag<float, 8> df;
  const hn::RebindToSigned<decltype(df)> di32;
  const hn::Rebind<uint8_t, decltype(df)> du8s;
  for (size_t i = 0; i < 8; i += hn::Lanes(df)) {
    const auto sc = hn::PromoteTo(di32, hn::LoadU(du8s, bytes + i));
    const auto mn = hn::PromoteTo(di32, hn::LoadU(du8s, bytes + 8 + i));
    hn::StoreU(hn::Mul(hn::ConvertTo(df, sc), hn::Set(df, d[0])), df, h.of + i);
    hn::StoreU(hn::Mul(hn::ConvertTo(df, mn), hn::Set(df, d[1])), df,
               h.of + 8 + i);
  }
#endif
}

}  // namespace HWY_NAMESPACE
}  // namespace dequant
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
