// MXFP4: 32 weights in 17 bytes, 4.25 bits per weight: OCP microscaling, E2M1
// codes with an E8M0 scale.
//
//   byte 0   e   E8M0: the scale is 2^(e - 127); half of it is taken, because
//                kValuesFp4 holds the doubles of the E2M1 values
//   byte 1   qs  16 bytes; low nibbles: elements 0-15, high nibbles: 16-31
//
//   value = 2^(e - 128) * kValuesFp4[q], q = 0..15
//
// As in ggml, e = 255 is no NaN but 2^127; e = 0 and 1 are subnormal scales.
//
// Source: block_mxfp4 in ggml-common.h, dequantize_row_mxfp4 in ggml-quants.c.

#include "kernels/tables/fp4.h"
#include "kernels/unpack-inl.h"

#ifndef DEQUANT_KERNELS_MXFP4_CC_
#define DEQUANT_KERNELS_MXFP4_CC_
namespace dequant {

struct MXFP4 {
  static constexpr char kName[] = "MXFP4";
  static constexpr int32_t kId = 39;
  static constexpr size_t kElements = 32;
  // No byte pattern of these scales is NaN or Inf.
  static constexpr std::array<ScaleField, 0> kScales{};

  uint8_t e;
  uint8_t qs[16];

  // 2^(e - 128).
  static constexpr float Scale(uint8_t e) {
    return std::bit_cast<float>(e < 2 ? 0x00200000u << e : (e - 1u) << 23);
  }

  static void Decode(const MXFP4& b, float* y) {
    const float d = Scale(b.e);
    for (int i = 0; i < 16; ++i) {
      y[i] = static_cast<float>(kValuesFp4[b.qs[i] & 15]) * d;
      y[i + 16] = static_cast<float>(kValuesFp4[b.qs[i] >> 4]) * d;
    }
  }
};
static_assert(sizeof(MXFP4) == 17);

}  // namespace dequant
#endif

HWY_BEFORE_NAMESPACE();
namespace dequant {
namespace HWY_NAMESPACE {

template <>
struct Unpack<MXFP4> {
  struct Header {
    float scale;
  };

  // Smaller scales give subnormals; some, times kUnit, would be 0. (A block of
  // zeros has the smallest.)
  template <class Sink>
  HWY_INLINE static bool Takes(const MXFP4& b) {
    return Sink::kKnownValues || b.e >= 3;
  }

  template <class Sink>
  HWY_INLINE static void Read(const MXFP4& b, Header& h) {
    if constexpr (!Sink::kKnownValues) {
      h.scale = std::bit_cast<float>((b.e - 1u) << 23) * kUnit;  // of e > 1
    }
  }

  template <class Sink>
  HWY_INLINE static void Do(const MXFP4& b, const Header& h, Sink& sink) {
    if constexpr (Sink::kKnownValues) {
      const auto& values = kScaledFp4<MXFP4, typename Sink::KnownOfRow>;
      sink.Nibbles(b.qs, values.of[b.e]);
    } else {
      sink.Nibbles(NibblesOf{b.qs, OneOf16<kValuesFp4>(), Formula(h.scale)});
    }
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace dequant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dequant {
template const Format& FormatOf<MXFP4>();
}  // namespace dequant
#endif
