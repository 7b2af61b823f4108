// BF16: one bfloat16 (the upper half of an F32) a value, 16 bits. Copied bit
// for bit to BF16; else converted with one rounding, NaN made canonical.

#include "kernels/unpack-inl.h"

#ifndef DEQUANT_KERNELS_BF16_CC_
#define DEQUANT_KERNELS_BF16_CC_
namespace dequant {

struct BF16 {
  static constexpr char kName[] = "BF16";
  static constexpr int32_t kId = 30;
  static constexpr size_t kElements = 1;
  static constexpr std::array<ScaleField, 0> kScales{};

  uint8_t value[2];

  static void Decode(const BF16& b, float* y) {
    *y = Bf16ToF32(Load16(b.value));
  }
};
static_assert(sizeof(BF16) == 2);

}  // namespace dequant
#endif

HWY_BEFORE_NAMESPACE();
namespace dequant {
namespace HWY_NAMESPACE {

template <>
struct Unpack<BF16> {
  template <typename T, bool kStream>
  HWY_INLINE static void All(const uint8_t* src, size_t n, uint8_t* dst) {
    Plain<hwy::bfloat16_t, T, kStream>(src, n, dst);
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace dequant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dequant {
template const Format& FormatOf<BF16>();
}  // namespace dequant
#endif
