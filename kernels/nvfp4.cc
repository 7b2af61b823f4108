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

#include "kernels/tables/values.h"
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
  static float Scale(uint8_t d) {
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

  HWY_INLINE static void Read(const NVFP4& b, Header& h) {
    Scales(b.d, h.scale);
  }

  template <class Sink>
  HWY_INLINE static void Do(const NVFP4& b, const Header& h, Sink& sink) {
#if HWY_TARGET <= HWY_AVX3
    // Twice the bytes of each 16 elements, the second time four bits lower.
    alignas(32) static constexpr uint64_t kShift[4] = {0, 4, 0, 4};
    const hn::Repartition<uint64_t, decltype(drow)> d64;
    const auto shift = hn::Load(d64, kShift);
    EachOf(kTimes<2>, [&](size_t row) DEQUANT_LAMBDA {
      const uint8_t* qs = b.qs + 16 * row;
      const auto twice = hn::ConcatUpperLower(d64, hn::Set(d64, Load64(qs + 8)),
                                              hn::Set(d64, Load64(qs)));
      const auto q = LowNibbles(hn::BitCast(drow, hn::Shr(twice, shift)));
      const auto values = Signed(
          hn::LoadDup128(drow, reinterpret_cast<const uint8_t*>(kValuesFp4)));
      sink.Halves(hn::TableLookupBytes(values, Signed(q)), h.scale[2 * row],
                  h.scale[2 * row + 1]);
    });
#else
    const SignedCodes values = LoadCodes(kValuesFp4);
    for (int i = 0; i < 4; i += 2) {
      const Codes qs = LoadCodes(b.qs + 8 * i);
      const SignedCodes lo =
          hn::TableLookupBytes(values, Signed(LowNibbles(qs)));
      const SignedCodes hi =
          hn::TableLookupBytes(values, Signed(HighNibbles(qs)));
      sink(LowHalves(lo, hi), h.scale[i]);
      sink(HighHalves(lo, hi), h.scale[i + 1]);
    }
#endif
  }

  // Elements 0-7 and 8-15 of the first and of the second 16.
  HWY_INLINE static SignedCodes LowHalves(SignedCodes lo, SignedCodes hi) {
    const hn::Repartition<uint64_t, decltype(dsigned)> d64;
    return hn::BitCast(dsigned, hn::InterleaveLower(hn::BitCast(d64, lo),
                                                    hn::BitCast(d64, hi)));
  }
  HWY_INLINE static SignedCodes HighHalves(SignedCodes lo, SignedCodes hi) {
    const hn::Repartition<uint64_t, decltype(dsigned)> d64;
    return hn::BitCast(dsigned, hn::InterleaveUpper(d64, hn::BitCast(d64, lo),
                                                    hn::BitCast(d64, hi)));
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
