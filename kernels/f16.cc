// F16: one IEEE half a value, 16 bits. Copied bit for bit to F16; else
// converted with one rounding, NaN made canonical.

#include "kernels/unpack-inl.h"

#ifndef DEQUANT_KERNELS_F16_CC_
#define DEQUANT_KERNELS_F16_CC_
namespace dequant {

struct F16 {
  static constexpr char kName[] = "F16";
  static constexpr int32_t kId = 1;
  static constexpr size_t kElements = 1;
  static constexpr std::array<ScaleField, 0> kScales{};

  uint8_t value[2];

  static void Decode(const F16& b, float* y) { *y = F16ToF32(b.value); }
};
static_assert(sizeof(F16) == 2);

}  // namespace dequant
#endif

HWY_BEFORE_NAMESPACE();
namespace dequant {
namespace HWY_NAMESPACE {

template <>
struct Unpack<F16> {
  template <typename T, bool kStream>
  HWY_INLINE static void All(const uint8_t* src, size_t n, uint8_t* dst) {
    Plain<hwy::float16_t, T, kStream>(src, n, dst);
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace dequant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dequant {
template const Format& FormatOf<F16>();
}  // namespace dequant
#endif
