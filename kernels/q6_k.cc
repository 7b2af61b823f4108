// Q6_K: 256 weights in 210 bytes, 6.5625 bits per weight.
//
//   byte 0     ql      128 bytes; each half of the 256 takes 64: its elements
//                      0-63 are the low, 64-127 the high nibbles
//   byte 128   qh      64 bytes; each half takes 32: bits 4-5 of its element
//                      32 s + i in bits 2 s of byte i
//   byte 192   scales  16 signed bytes, one per 16 elements
//   byte 208   d       F16 scale of the scales
//
//   value = d * scale * (q - 32), q = 0..63
//
// Source: block_q6_K in ggml-common.h, dequantize_row_q6_K in ggml-quants.c.

#include "kernels/unpack-inl.h"

#ifndef DEQUANT_KERNELS_Q6_K_CC_
#define DEQUANT_KERNELS_Q6_K_CC_
namespace dequant {

struct Q6_K {
  static constexpr char kName[] = "Q6_K";
  static constexpr int32_t kId = 14;
  static constexpr size_t kElements = 256;
  static constexpr ScaleField kScales[] = {{ScaleField::kF16, 208}};

  uint8_t ql[128];
  uint8_t qh[64];
  int8_t scales[16];
  uint8_t d[2];

  static void Decode(const Q6_K& b, float* y) {
    const float d = F16ToF32(b.d);
    for (int i = 0; i < 256; ++i) {
      const int half = i / 128, j = i % 128;
      const int q = (b.ql[64 * half + j % 64] >> (j / 64 * 4) & 15) |
                    (b.qh[32 * half + j % 32] >> (j / 32 * 2) & 3) << 4;
      y[i] =
          d * static_cast<float>(b.scales[i / 16]) * static_cast<float>(q - 32);
    }
  }
};
static_assert(sizeof(Q6_K) == 210);

}  // namespace dequant
#endif

HWY_BEFORE_NAMESPACE();
namespace dequant {
namespace HWY_NAMESPACE {

template <>
struct Unpack<Q6_K> {
  template <class Sink>
  static constexpr bool kHeadersBetween = Sink::kGroupTables &&
                                          (HWY_TARGET == HWY_AVX2);
  static constexpr bool kSignedRows = true;
  template <class Sink>
  static constexpr bool kCodesFirst = Sink::kCodesFirst;

  struct Header {
    float scale[16];
    [[no_unique_address]] StoredCodes<8> codes;
  };

  template <class Sink>
  HWY_INLINE static void Read(const Q6_K& b, float d, Header& h) {
    Scales16(LoadCodes(b.scales), d, h.scale);
    if constexpr (kCodesFirst<Sink>) StoreRows<Sink>(Rows(b), h.codes);
  }

  template <class Sink>
  static constexpr bool kPipelined = Sink::kPipelines;
  HWY_INLINE static auto Value(const Header& h, size_t row, size_t half) {
    return Formula(h.scale[2 * row + half]);
  }
  HWY_INLINE static auto Rows(const Q6_K& b) {
    return [&b](auto row) DEQUANT_LAMBDA {
      constexpr size_t kHalf = row() / 4;
      return Codes<row() % 4>(RowBytes{b.ql + 64 * kHalf + 32 * (row() % 2)},
                              RowBytes{b.qh + 32 * kHalf});
    };
  }

  template <class Sink>
  HWY_INLINE static void Do(const Q6_K& b, const Header& h, Sink& sink) {
    if constexpr (kCodesFirst<Sink>) {
      const auto value = [&](size_t r, size_t half)
                             DEQUANT_LAMBDA { return Value(h, r, half); };
      PutStoredRows(h.codes, value, sink);
    } else {
      EachOf(kTimes<2>, [&](size_t half) DEQUANT_LAMBDA {
        const auto ql0 = sink.Bytes(b.ql + 64 * half);
        const auto ql1 = sink.Bytes(b.ql + 64 * half + 32);
        const auto qh = sink.Bytes(b.qh + 32 * half);
        const float* s = h.scale + 8 * half;
        sink.Halves(Codes<0>(ql0, qh), s);
        sink.Halves(Codes<1>(ql1, qh), s + 2);
        sink.Halves(Codes<2>(ql0, qh), s + 4);
        sink.Halves(Codes<3>(ql1, qh), s + 6);
      });
    }
  }

  // Elements 32 kRow to 32 kRow + 31 of a half.
  template <size_t kRow, class Bytes>
  HWY_INLINE static auto Codes(Bytes ql, Bytes qh) {
    return [ql, qh](auto tag, size_t i) DEQUANT_LAMBDA {
      constexpr int kLow = kRow / 2 * 4, kHigh = kRow * 2;
      return Signed(hn::Or(Field<kLow, 4>(ql(tag, i)),
                           CenteredField<kHigh, 2, 4>(qh(tag, i))));
    };
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace dequant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dequant {
template const Format& FormatOf<Q6_K>();
}  // namespace dequant
#endif
