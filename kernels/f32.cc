// F32: one IEEE single a value, 32 bits. Copied bit for bit to F32; else
// converted with one rounding, NaN made canonical.

#include "kernels/unpack-inl.h"

#ifndef DEQUANT_KERNELS_F32_CC_
#define DEQUANT_KERNELS_F32_CC_
namespace dequant {

struct F32 {
  static constexpr char kName[] = "F32";
  static constexpr int32_t kId = 0;
  static constexpr size_t kElements = 1;
  static constexpr std::array<ScaleField, 0> kScales{};

  uint8_t value[4];

  static void Decode(const F32& b, float* y) {
    *y = std::bit_cast<float>(Load32(b.value));
  }
};
static_assert(sizeof(F32) == 4);

}  // namespace dequant
#endif

HWY_BEFORE_NAMESPACE();
namespace dequant {
namespace HWY_NAMESPACE {

template <>
struct Unpack<F32> {
  template <typename T, bool kStream>
  HWY_INLINE static void All(const uint8_t* src, size_t n, uint8_t* dst) {
    Plain<float, T, kStream>(src, n, dst);
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace dequant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dequant {
template const Format& FormatOf<F32>();
}  // namespace dequant
#endif
