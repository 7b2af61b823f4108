// The list of types that a kernel can compute, and look-ups in it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/format.h"

namespace dequant {

/// Every Format, in the order of the ids.
std::span<const Format* const> Formats();

/// The same where the id is the index; nullptr where there is none.
std::span<const Format* const> FormatsById();

/// nullptr if no kernel computes that type.
inline const Format* FindFormat(std::span<const Format* const> by_id,
                                int32_t id) {
  const size_t i = static_cast<uint32_t>(id);
  return i < by_id.size() ? by_id[i] : nullptr;
}
inline const Format* FindFormat(int32_t id) {
  return FindFormat(FormatsById(), id);
}

}  // namespace dequant
