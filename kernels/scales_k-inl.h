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

// scale[j] = d * scale j, offset[j] = -dmin * minimum j; all eight at once, on
// four 32-bit words.
HWY_INLINE void ScalesMinsK(const uint8_t* s, float d, float dmin,
                            float* HWY_RESTRICT scale,
                            float* HWY_RESTRICT offset) {
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
}

}  // namespace HWY_NAMESPACE
}  // namespace dequant
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
