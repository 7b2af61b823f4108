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

// Of eight rows: scales and minimums in turn, as many as are made of one
// vector.
struct HeaderK {
  float of[16];
  static constexpr size_t kInTurn = DEQUANT_HAS_VBMI ? 1 : HWY_ARCH_X86 ? 4 : 8;
  HWY_INLINE ScaledOffset Value(size_t j) const {
    const size_t scale = j / kInTurn * 2 * kInTurn + j % kInTurn;
    return Formula(of[scale], of[scale + kInTurn]);
  }
};

// d[0] * scale j and d[1] * minimum j.
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
#elif HWY_ARCH_X86
  // In integer registers, as vectors have more to do.
  const uint64_t first = Load64(s), last = Load32(s + 8);
  const uint64_t low = (last | last << 28) & 0x0F0F0F0F0F0F0F0F;
  const uint64_t high = first >> 2 & 0x3030303030303030;
  // Four scales and four minimums.
  const auto put = [&](auto df, uint64_t codes,
                       float* HWY_RESTRICT to) DEQUANT_LAMBDA {
    const auto times = [&](uint64_t bytes, auto by) DEQUANT_LAMBDA {
      const hn::DFromV<decltype(by)> df;
      const hn::RebindToSigned<decltype(df)> di;
      const auto v = hn::Set(hn::FixedTag<uint64_t, 2>(), bytes);
      const auto q = hn::ResizeBitCast(hn::Rebind<uint8_t, decltype(df)>(), v);
      return hn::Mul(hn::ConvertTo(df, hn::PromoteTo(di, q)), by);
    };
    const hn::FixedTag<float, 4> df4;
    const auto d0 = hn::Set(df4, d[0]), d1 = hn::Set(df4, d[1]);
    if constexpr (hn::MaxLanes(df) == 8) {
      hn::StoreU(times(codes, hn::Combine(df, d1, d0)), df, to);
    } else {
      hn::StoreU(times(codes, d0), df, to);
      hn::StoreU(times(codes >> 32, d1), df, to + 4);
    }
  };
  const hn::CappedTag<float, 8> df;
  put(df, first & 0x3F3F3F3F3F3F3F3F, h.of);
  put(df, low | high, h.of + 8);
#else  // the others have fewer pipes for vectors
  alignas(16) uint32_t codes[4];
  const uint32_t w0 = Load32(s), w1 = Load32(s + 4), w2 = Load32(s + 8);
  codes[0] = w0 & 0x3F3F3F3F;
  codes[1] = (w2 & 0x0F0F0F0F) | (w0 >> 2 & 0x30303030);
  codes[2] = w1 & 0x3F3F3F3F;
  codes[3] = (w2 >> 4 & 0x0F0F0F0F) | (w1 >> 2 & 0x30303030);
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
