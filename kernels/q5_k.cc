// Q5_K: 256 weights in 176 bytes, 5.5 bits per weight.
//
//   byte 0     d       F16 scale of the scales
//   byte 2     dmin    F16 scale of the minimums
//   byte 4     scales  8 scales and 8 minimums of 6 bits, one per 32 elements:
//                      scale j < 4 is bits 0-5 of byte j, minimum j those of
//                      byte 4 + j; scale j >= 4 is the low, minimum j the high
//                      nibble of byte 4 + j, with bits 4-5 from bits 6-7 of
//                      bytes j - 4 and j
//   byte 16    qh      32 bytes; bit r of byte i is bit 4 of element 32 r + i
//   byte 48    qs      128 bytes; of each 32 bytes the low nibbles are 32
//                      elements, the high nibbles the next 32
//
//   value = d * scale * q - dmin * minimum, q = 0..31
//
// Source: block_q5_K in ggml-common.h, dequantize_row_q5_K in ggml-quants.c.

#include "kernels/scales_k-inl.h"
#include "kernels/unpack-inl.h"

#ifndef DEQUANT_KERNELS_Q5_K_CC_
#define DEQUANT_KERNELS_Q5_K_CC_
namespace dequant {

struct Q5_K {
  static constexpr char kName[] = "Q5_K";
  static constexpr int32_t kId = 13;
  static constexpr size_t kElements = 256;
  static constexpr ScaleField kScales[] = {{ScaleField::kF16, 0},
                                           {ScaleField::kF16, 2}};

  uint8_t d[2];
  uint8_t dmin[2];
  uint8_t scales[12];
  uint8_t qh[32];
  uint8_t qs[128];

  static void Decode(const Q5_K& b, float* y) {
    const float d = F16ToF32(b.d), dmin = F16ToF32(b.dmin);
    for (int i = 0; i < 256; ++i) {
      const ScaleMin s = ScaleMinK(b.scales, i / 32);
      const int q = (b.qs[i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15) |
                    (b.qh[i % 32] >> (i / 32) & 1) << 4;
      y[i] = d * static_cast<float>(s.scale) * static_cast<float>(q) -
             dmin * static_cast<float>(s.min);
    }
  }
};
static_assert(sizeof(Q5_K) == 176);

}  // namespace dequant
#endif

HWY_BEFORE_NAMESPACE();
namespace dequant {
namespace HWY_NAMESPACE {

template <>
struct Unpack<Q5_K> {
  template <class Sink>
  static constexpr bool kHeadersBetween = HWY_TARGET <= HWY_AVX2;
  static constexpr bool kSubtracts = true;
  template <class Sink>
  static constexpr bool kCodesFirst = Sink::kCodesFirst;

  struct Header : HeaderK {
    [[no_unique_address]] StoredCodes<8> codes;
  };

  template <class Sink>
  HWY_INLINE static void Read(const Q5_K& b, const float* scale, Header& h) {
    ScalesMinsK(b.scales, scale, h);
    if constexpr (kCodesFirst<Sink>) StoreRows<Sink>(Rows(b), h.codes);
  }

  template <class Sink>
  static constexpr bool kPipelined = Sink::kPipelines&& Sink::kRowsAtOnce > 1;
  HWY_INLINE static auto Value(const Header& h, size_t row, size_t) {
    return h.Value(row);
  }
  HWY_INLINE static auto Rows(const Q5_K& b) {
    return [&b](auto row) DEQUANT_LAMBDA {
      return Codes<row()>(RowBytes{b.qs + row() / 2 * 32}, RowBytes{b.qh});
    };
  }

  template <class Sink>
  HWY_INLINE static void Do(const Q5_K& b, const Header& h, Sink& sink) {
    if constexpr (kCodesFirst<Sink>) {
      const auto value = [&](size_t r, size_t half)
                             DEQUANT_LAMBDA { return Value(h, r, half); };
      PutStoredRows(h.codes, value, sink);
    } else {
      const auto qh = sink.Bytes(b.qh);
      TwoRows<0>(b.qs, qh, h, sink);
      TwoRows<2>(b.qs, qh, h, sink);
      TwoRows<4>(b.qs, qh, h, sink);
      TwoRows<6>(b.qs, qh, h, sink);
    }
  }

  // Elements 32 r to 32 r + 31.
  template <int r, class Bytes>
  HWY_INLINE static auto Codes(Bytes qs, Bytes qh) {
    return [qs, qh](auto tag, size_t i) DEQUANT_LAMBDA {
      return hn::Or(Field<r % 2 * 4, 4>(qs(tag, i)),
                    Field<r, 1, 4>(qh(tag, i)));
    };
  }
  // Elements 32 r to 32 r + 63.
  template <int r, class Bytes, class Sink>
  HWY_INLINE static void TwoRows(const uint8_t* all, Bytes qh, const Header& h,
                                 Sink& sink) {
    const auto qs = sink.Bytes(all + 16 * r);
    sink.Row(Codes<r>(qs, qh), h.Value(r));
    sink.Row(Codes<r + 1>(qs, qh), h.Value(r + 1));
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace dequant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dequant {
template const Format& FormatOf<Q5_K>();
}  // namespace dequant
#endif
