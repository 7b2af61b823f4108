// The list of types that a kernel can compute, and look-ups in it.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/format.h"

namespace dequant {

/// Every Format, in the order of the ids.
std::span<const Format* const> Formats();

/// The same where the id is the index; nullptr where there is none.
std::span<const Format* const> FormatsById();

/// nullptr if no kernel computes that type.
const Format* FindFormat(int32_t id);

}  // namespace dequant
