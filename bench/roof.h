// Loops that only store: no dequantizer can be faster.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace dequant::bench {

enum class Roof {
  kMemset,
  kStore,   ///< the widest vectors of this CPU
  kStream,  ///< the same, past the caches
};
inline constexpr Roof kRoofs[] = {Roof::kMemset, Roof::kStore, Roof::kStream};

/// "memset", "store" or "stream".
std::string_view Name(Roof roof);

/// Writes `bytes` bytes from `to` on, which is aligned to 64.
using FillFn = void (*)(uint8_t* to, size_t bytes);

/// The loop for the best target of this CPU, whatever target is in use.
FillFn Pick(Roof roof);

/// Runs `fill` on all of the buffer, an equal part on each thread.
void Fill(FillFn fill, uint8_t* to, size_t bytes, int threads);

}  // namespace dequant::bench
