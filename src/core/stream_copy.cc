#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/core/stream_copy.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// foreach_target.h stands first.
#include <algorithm>
#include <cstring>

#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "src/core/stream_copy.h"

HWY_BEFORE_NAMESPACE();
namespace dequant {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Fewer and wider stores: vectors of 16 bytes took a tenth more time on Zen 4.
void CopyVectors(uint8_t* to, const uint8_t* from, size_t n) {
  const hn::ScalableTag<uint8_t> d;
  const size_t lanes = hn::Lanes(d);
  const size_t to_aligned = (0 - reinterpret_cast<uintptr_t>(to)) % lanes;
  const size_t head = std::min(n, to_aligned);
  std::memcpy(to, from, head);
  size_t i = head;
  for (; i + lanes <= n; i += lanes) {
    hn::Stream(hn::LoadU(d, from + i), d, to + i);
  }
  std::memcpy(to + i, from + i, n - i);
}

}  // namespace HWY_NAMESPACE
}  // namespace dequant
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dequant {
namespace {
HWY_EXPORT(CopyVectors);
}  // namespace

void StreamCopy(uint8_t* to, const uint8_t* from, size_t n) {
  HWY_DYNAMIC_DISPATCH(CopyVectors)(to, from, n);
}

void StreamFence() { hwy::FlushStream(); }

}  // namespace dequant
#endif  // HWY_ONCE
