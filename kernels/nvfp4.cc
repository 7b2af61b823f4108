// NVFP4: 64 weights in 36 bytes, 4.5 bits per weight: E2M1 codes with an E4M3
// scale per 16. A weight may also have an F32 scale in a tensor of its own,
// which is no part of the blocks.
//
//   byte 0   d   4 scales, E4M3: bits 3-6 exponent (bias 7), 0-2 mantissa; as
//                in ggml 0x7F is 0 and bit 7 is ignored
//   byte 4   qs  32 bytes; of each 8 bytes the low nibbles are 8 elements, the
//                high nibbles the next 8
//
//   value = scale / 2 * kValuesFp4[q], q = 0..15
//
// Source: block_nvfp4 in ggml-common.h, dequantize_row_nvfp4 in ggml-quants.c.

#include "kernels/tables/fp4.h"
#include "kernels/unpack-inl.h"

#ifndef DEQUANT_KERNELS_NVFP4_CC_
#define DEQUANT_KERNELS_NVFP4_CC_
namespace dequant {

struct NVFP4 {
  static constexpr char kName[] = "NVFP4";
  static constexpr int32_t kId = 40;
  static constexpr size_t kElements = 64;
  // No byte pattern of these scales is NaN or Inf.
  static constexpr std::array<ScaleField, 0> kScales{};

  uint8_t d[4];
  uint8_t qs[32];

  // Half of an E4M3 scale.
  static constexpr float Scale(uint8_t d) {
    if (d == 0x7F) return 0.0f;
    const int exponent = d >> 3 & 15, mantissa = d & 7;
    if (exponent == 0) return static_cast<float>(mantissa) * 0x1p-10f;
    return std::bit_cast<float>((exponent - 8 + 127u) << 23 |
                                static_cast<uint32_t>(mantissa) << 20);
  }

  static void Decode(const NVFP4& b, float* y) {
    for (int i = 0; i < 64; ++i) {
      const int q = b.qs[i / 16 * 8 + i % 8] >> (i % 16 / 8 * 4) & 15;
      y[i] = static_cast<float>(kValuesFp4[q]) * Scale(b.d[i / 16]);
    }
  }
};
static_assert(sizeof(NVFP4) == 36);

}  // namespace dequant
#endif

HWY_BEFORE_NAMESPACE();
namespace dequant {
namespace HWY_NAMESPACE {

template <>
struct Unpack<NVFP4> {
  struct Header {
    float scale[4];
  };

  template <class Sink>
  HWY_INLINE static void Read(const NVFP4& b, Header& h) {
    if constexpr (!Sink::kKnownValues) Scales(b.d, h.scale);
  }

  template <class Sink>
  HWY_INLINE static void Do(const NVFP4& b, const Header& h, Sink& sink) {
    // All scales by one load: with one each, loads would be what limits.
    [[maybe_unused]] const uint32_t d = Load32(b.d);
    EachOf(kTimes<2>, [&](size_t row) DEQUANT_LAMBDA {
      const auto codes = [&](auto tag, size_t i) DEQUANT_LAMBDA {
        return NibblesOfRow<8>(tag, b.qs + 16 * row, i);
      };
      if constexpr (Sink::kKnownValues) {
        const auto& of = kScaledFp4<NVFP4, typename Sink::Known>.of;
        if constexpr (requires { sink.NibbleGroup(b.qs, of[0]); }) {
          const uint32_t two = d >> 16 * row;
          sink.NibbleGroup(b.qs + 16 * row, of[two & 0xFF]);
          sink.NibbleGroup(b.qs + 16 * row + 8, of[two >> 8 & 0xFF]);
        } else {
          sink.Halves(codes, of[b.d[2 * row]], of[b.d[2 * row + 1]]);
        }
      } else {
        const auto mapped = [&](auto tag, size_t i) DEQUANT_LAMBDA {
          return ValuesOf(kValuesFp4, codes(tag, i));
        };
        sink.Halves(mapped, h.scale + 2 * row);
      }
    });
  }

  // Half of the four E4M3 scales: the bits in place, the bias mended by an
  // exact product, which also takes the subnormal ones.
  HWY_INLINE static void Scales(const uint8_t* d, float* HWY_RESTRICT scale) {
    const hn::FixedTag<float, 4> df;
    const hn::RebindToUnsigned<decltype(df)> du;
    const hn::Rebind<uint8_t, decltype(df)> du8x4;
    const auto e4m3 = hn::PromoteTo(du, hn::LoadU(du8x4, d));
    const auto bits = hn::ShiftLeft<20>(hn::And(e4m3, hn::Set(du, 0x7F)));
    const auto value =
        hn::Mul(hn::BitCast(df, bits), hn::Set(df, 0x1p119f * kUnit));
    const auto zero = hn::Eq(e4m3, hn::Set(du, 0x7F));
    hn::StoreU(hn::IfThenZeroElse(hn::RebindMask(df, zero), value), df, scale);
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace dequant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dequant {
template const Format& FormatOf<NVFP4>();
}  // namespace dequant
#endif
