// Blocks to test kernels with.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "kernels/format.h"

namespace dequant {

enum class Pattern {
  kRandom,    ///< any bytes
  kZeros,     ///< all bits 0
  kOnes,      ///< all bits 1
  kFinite,    ///< random codes, every scale field finite
  kUsual,     ///< random codes, scales below 2^-6 as models have them
  kPositive,  ///< random codes, every scale field finite and above 0
  kNormal,    ///< random codes, scales that are normal and below 2^-4
  kHostile,   ///< random codes; scale fields NaN, Inf, subnormal, -0, largest
};
inline constexpr Pattern kPatterns[] = {
    Pattern::kRandom, Pattern::kZeros,    Pattern::kOnes,   Pattern::kFinite,
    Pattern::kUsual,  Pattern::kPositive, Pattern::kNormal, Pattern::kHostile};
std::string_view Name(Pattern p);

/// Writes the half `bits` into a scale field of `block` (as the F32 of the same
/// value where the field is one).
void SetScale(const ScaleField& field, uint16_t bits, uint8_t* block);

/// `blocks` blocks of the format, the same for the same seed.
std::vector<uint8_t> MakeBlocks(const Format& format, Pattern pattern,
                                size_t blocks, uint64_t seed);

/// What the kernels must give for `src`, byte for byte: the scalar reference,
/// rounded once; or the bytes themselves where a type is copied.
std::vector<uint8_t> Expected(const Format& format, DType out,
                              std::span<const uint8_t> src);

}  // namespace dequant
