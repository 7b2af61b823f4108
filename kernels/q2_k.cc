// Q2_K: 256 weights in 84 bytes, 2.625 bits per weight.
//
//   byte 0    scales  16 bytes, one per 16 elements: low nibble scale, high
//                     nibble minimum
//   byte 16   qs      64 bytes, 2 bits per element; each half of the 256 takes
//                     32 bytes: its element 32 s + i is bits 2 s of byte i
//   byte 80   d       F16 scale of the scales
//   byte 82   dmin    F16 scale of the minimums
//
//   value = d * scale * q - dmin * minimum, q = 0..3
//
// Source: block_q2_K in ggml-common.h, dequantize_row_q2_K in ggml-quants.c.

#include "kernels/unpack-inl.h"

#ifndef DEQUANT_KERNELS_Q2_K_CC_
#define DEQUANT_KERNELS_Q2_K_CC_
namespace dequant {

struct Q2_K {
  static constexpr char kName[] = "Q2_K";
  static constexpr int32_t kId = 10;
  static constexpr size_t kElements = 256;
  static constexpr ScaleField kScales[] = {{ScaleField::kF16, 80},
                                           {ScaleField::kF16, 82}};

  uint8_t scales[16];
  uint8_t qs[64];
  uint8_t d[2];
  uint8_t dmin[2];

  static void Decode(const Q2_K& b, float* y) {
    const float d = F16ToF32(b.d), dmin = F16ToF32(b.dmin);
    for (int i = 0; i < 256; ++i) {
      const uint8_t s = b.scales[i / 16];
      const int q = b.qs[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
      y[i] = d * static_cast<float>(s & 15) * static_cast<float>(q) -
             dmin * static_cast<float>(s >> 4);
    }
  }
};
static_assert(sizeof(Q2_K) == 84);

}  // namespace dequant
#endif

HWY_BEFORE_NAMESPACE();
namespace dequant {
namespace HWY_NAMESPACE {

template <>
struct Unpack<Q2_K> {
  static constexpr bool kSubtracts = true;

#if DEQUANT_HAS_VBMI
  template <class Sink>
  struct Made {
    typename Sink::FourOf16 values;
    typename Sink::RowsOfFour rows0, rows1;
  };
  template <class Sink>
  struct Begun {
    typename Sink::ScaleLanes scales, offsets;
  };
  template <class Sink>
  HWY_INLINE static Begun<Sink> Begin(const Q2_K& b) {
    const Codes scales = LoadCodes(b.scales);
    return {Sink::WidenScales(LowNibbles(scales)),
            Sink::WidenScales(HighNibbles(scales))};
  }
  template <class Sink>
  HWY_INLINE static Made<Sink> Make(const Q2_K& b, const Begun<Sink>& begun,
                                    float d, float dmin) {
    return {Sink::MakeFourOf16(begun.scales, d, begun.offsets, dmin),
            Sink::WidenRowsOfFour(b.qs), Sink::WidenRowsOfFour(b.qs + 32)};
  }

  template <class Sink>
  HWY_INLINE static void Do(const Q2_K& b, const Made<Sink>& made, Sink& sink) {
    sink.template FourRowsOfFour<0>(b.qs, made.rows0, made.values);
    sink.template FourRowsOfFour<4>(b.qs + 32, made.rows1, made.values);
  }
#else
  template <class Sink>
  static constexpr bool kHeadersBetween = HWY_TARGET == HWY_AVX2;
  struct Header {
    float scale[16], offset[16];
  };

  HWY_INLINE static void Read(const Q2_K& b, const float* scale, Header& h) {
#if HWY_TARGET == HWY_AVX2
    // Widened by the load, once for both.
    const hn::FixedTag<float, 8> df;
    const hn::RebindToSigned<decltype(df)> di;
    EachOf(kTimes<2>, [&](size_t i) DEQUANT_LAMBDA {
      const hn::Rebind<uint8_t, decltype(df)> dbytes;
      const auto bytes = hn::PromoteTo(di, hn::LoadU(dbytes, b.scales + 8 * i));
      const auto put = [&](int bits, float unit, float* to) DEQUANT_LAMBDA {
        const auto codes = hn::ConvertTo(df, hn::And(bytes, hn::Set(di, bits)));
        hn::StoreU(hn::Mul(codes, hn::Set(df, unit)), df, to + 8 * i);
      };
      put(0x0F, scale[0], h.scale);
      put(0xF0, scale[1] / 16, h.offset);
    });
#else
    const Codes scales = LoadCodes(b.scales);
    Scales16(LowNibbles(scales), scale[0], h.scale);
    Scales16(HighNibbles(scales), scale[1], h.offset);
#endif
  }

  template <class Sink>
  HWY_INLINE static void Do(const Q2_K& b, const Header& h, Sink& sink) {
    sink.TwoBitRows(b.qs, h.scale, h.offset);
  }
#endif
};

}  // namespace HWY_NAMESPACE
}  // namespace dequant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dequant {
template const Format& FormatOf<Q2_K>();
}  // namespace dequant
#endif
