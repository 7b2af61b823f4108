// IQ4_XS: 256 weights in 136 bytes, 4.25 bits per weight, non-linear.
//
//   byte 0   d         F16 scale of the scales
//   byte 2   scales_h  16 bits: bits 4-5 of scale j in bits 2 j
//   byte 4   scales_l  4 bytes: the low nibble of scale j in nibble j; a scale
//                      serves 32 elements
//   byte 8   qs        128 bytes; of each 16 bytes the low nibbles are 16
//                      elements, the high nibbles the next 16
//
//   value = d * (scale - 32) * kValuesIq4nl[q], q = 0..15
//
// Source: block_iq4_xs in ggml-common.h, dequantize_row_iq4_xs in
// ggml-quants.c.

#include "kernels/tables/values.h"
#include "kernels/unpack-inl.h"

#ifndef DEQUANT_KERNELS_IQ4_XS_CC_
#define DEQUANT_KERNELS_IQ4_XS_CC_
namespace dequant {

struct IQ4_XS {
  static constexpr char kName[] = "IQ4_XS";
  static constexpr int32_t kId = 23;
  static constexpr size_t kElements = 256;
  static constexpr ScaleField kScales[] = {{ScaleField::kF16, 0}};

  uint8_t d[2];
  uint8_t scales_h[2];
  uint8_t scales_l[4];
  uint8_t qs[128];

  // Scale j less 32.
  static int Scale(const IQ4_XS& b, int j) {
    const int low = b.scales_l[j / 2] >> (j % 2 * 4) & 15;
    return (low | (Load16(b.scales_h) >> (2 * j) & 3) << 4) - 32;
  }

  static void Decode(const IQ4_XS& b, float* y) {
    const float d = F16ToF32(b.d);
    for (int i = 0; i < 256; ++i) {
      const int q = b.qs[i / 32 * 16 + i % 16] >> (i % 32 / 16 * 4) & 15;
      y[i] = d * static_cast<float>(Scale(b, i / 32)) *
             static_cast<float>(kValuesIq4nl[q]);
    }
  }
};
static_assert(sizeof(IQ4_XS) == 136);

}  // namespace dequant
#endif

HWY_BEFORE_NAMESPACE();
namespace dequant {
namespace HWY_NAMESPACE {

template <>
struct Unpack<IQ4_XS> {
  template <class Sink>
  static constexpr bool kHeadersBetween = HWY_TARGET <= HWY_AVX3 ||
                                          (HWY_TARGET == HWY_AVX2 &&
                                           Sink::kGroupTables);
  struct Header {
    // Where a vector of 16 is stored, the first eight of it.
    alignas(32) float scale[DEQUANT_HAS_VBMI ? 8 : 16];
  };

  HWY_INLINE static void Read(const IQ4_XS& b, float d, Header& h) {
#if DEQUANT_HAS_VBMI
    // In 32-bit lanes, of eight bytes from d on, from bit 12 on.
    alignas(32) static constexpr uint8_t kFrom[32] = {
        0, 28, 16, 0, 0, 32, 18, 0, 0, 36, 20, 0, 0, 40, 22, 0,
        0, 44, 24, 0, 0, 48, 26, 0, 0, 52, 28, 0, 0, 56, 30, 0};
    const hn::FixedTag<float, 8> df;
    const hn::RebindToUnsigned<decltype(df)> du;
    const hn::Repartition<uint64_t, decltype(df)> du64;
    const hn::Repartition<uint8_t, decltype(df)> d8;
    const auto head = hn::BitCast(d8, hn::Set(du64, Load64(b.d)));
    const auto codes = hn::BitCast(du, BitsFrom(head, kFrom));
    // There a code is as many units of a float, which needs no conversion.
    constexpr float kUnits = 0x1p11f;
    const auto bits = hn::OrAnd(hn::BitCast(du, hn::Set(df, kUnits)), codes,
                                hn::Set(du, 63 << 12));
    const auto less32 =
        hn::Sub(hn::BitCast(df, bits), hn::Set(df, kUnits + 32));
    hn::Store(hn::Mul(less32, hn::Set(df, d)), df, h.scale);
#else
    constexpr uint32_t kNibbles = 0x0F0F0F0F;
    const uint32_t low = Load32(b.scales_l);
    // Nibble i of scales_h in byte i: bits 4-5 of scales 2 i and 2 i + 1.
    uint32_t high = Load16(b.scales_h);
    high = (high | high << 8) & 0x00FF00FF;
    high = (high | high << 4) & kNibbles;
    const hn::Repartition<uint32_t, decltype(du8)> du32;
    const auto even =
        hn::Set(du32, (low & kNibbles) | (high << 4 & 0x30303030));
    const auto odd =
        hn::Set(du32, (low >> 4 & kNibbles) | (high << 2 & 0x30303030));
    const I8x16 codes = Signed(hn::InterleaveLower(du8, hn::BitCast(du8, even),
                                                   hn::BitCast(du8, odd)));
    Scales8(hn::Sub(codes, hn::Set(di8, 32)), d, h.scale);
#endif
  }

  template <class Sink>
  HWY_INLINE static void Do(const IQ4_XS& b, const Header& h, Sink& sink) {
    const auto row = [&](size_t j) DEQUANT_LAMBDA {
      return NibblesOf{b.qs + 16 * j, OneOf16<kValuesIq4nl>(),
                       Formula(h.scale[j])};
    };
    PutNibbles<8>(row, sink);
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace dequant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dequant {
template const Format& FormatOf<IQ4_XS>();
}  // namespace dequant
#endif
