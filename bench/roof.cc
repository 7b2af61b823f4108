#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "bench/roof.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// foreach_target.h stands first.
#include <algorithm>
#include <cstring>

#include "bench/roof.h"
#include "hwy/cache_control.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace dequant::bench {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Four vectors a round; `store` is one of Highway's stores.
template <class StoreFn>
HWY_INLINE void FillWith(StoreFn store, uint8_t* to, size_t bytes) {
  const hn::ScalableTag<uint8_t> d;
  const size_t lanes = hn::Lanes(d);
  const auto v = hn::Iota(d, 1);  // no single byte: or it would become memset
  size_t i = 0;
  for (; i + 4 * lanes <= bytes; i += 4 * lanes) {
    store(v, d, to + i);
    store(v, d, to + i + lanes);
    store(v, d, to + i + 2 * lanes);
    store(v, d, to + i + 3 * lanes);
  }
  std::memset(to + i, 1, bytes - i);
}

void FillStore(uint8_t* to, size_t bytes) {
  FillWith([](auto v, auto d, uint8_t* p) HWY_ATTR { hn::Store(v, d, p); }, to,
           bytes);
}

void FillStream(uint8_t* to, size_t bytes) {
  FillWith([](auto v, auto d, uint8_t* p) HWY_ATTR { hn::Stream(v, d, p); }, to,
           bytes);
  hwy::FlushStream();
}

}  // namespace HWY_NAMESPACE
}  // namespace dequant::bench
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dequant::bench {
namespace {

HWY_EXPORT(FillStore);
HWY_EXPORT(FillStream);

void FillMemset(uint8_t* to, size_t bytes) { std::memset(to, 1, bytes); }

}  // namespace

std::string_view Name(Roof roof) {
  return roof == Roof::kMemset  ? "memset"
         : roof == Roof::kStore ? "store"
                                : "stream";
}

FillFn Pick(Roof roof) {
  static const FillFn fills[] = {
      FillMemset,
      [] {
        hwy::GetChosenTarget().Update(hwy::SupportedTargets());
        return HWY_DYNAMIC_POINTER(FillStore);
      }(),
      HWY_DYNAMIC_POINTER(FillStream)};
  return fills[static_cast<int>(roof)];
}

void Fill(FillFn fill, uint8_t* to, size_t bytes, int threads) {
  if (threads == 1) return fill(to, bytes);
  const size_t parts = static_cast<size_t>(threads);
  const size_t each = (bytes / parts + 63) / 64 * 64;
#pragma omp parallel for schedule(static, 1) num_threads(threads)
  for (size_t part = 0; part < parts; ++part) {
    const size_t begin = std::min(part * each, bytes);
    fill(to + begin, std::min(each, bytes - begin));
  }
}

}  // namespace dequant::bench
#endif  // HWY_ONCE
