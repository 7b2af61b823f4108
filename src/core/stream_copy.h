// Copies from cache to memory without reading the destination's lines first.
#pragma once

#include <cstddef>
#include <cstdint>

#include "hwy/detect_targets.h"

namespace dequant {

/// Whether StreamCopy can do better than memcpy.
inline constexpr bool kHasStream = HWY_ARCH_X86 != 0;

/// `to` needs no alignment, but whole cache lines are fastest. Call StreamFence
/// before another thread reads.
void StreamCopy(uint8_t* to, const uint8_t* from, size_t n);

void StreamFence();

}  // namespace dequant
