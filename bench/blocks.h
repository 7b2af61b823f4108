// Blocks as they stand in models: random codes, scales of a usual size.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/format.h"

namespace dequant::bench {

/// Fills `blocks` blocks at `to`. Beyond about a megabyte they repeat.
void FillBlocks(const Format& format, size_t blocks, uint8_t* to);

}  // namespace dequant::bench
