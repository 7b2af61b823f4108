// The face of a block format that src/core sees. A kernel file defines one.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "dequant/dequant.h"
#include "hwy/cache_control.h"

namespace dequant {

/// Dequantizes `blocks` blocks at `src` into `dst`; neither needs alignment.
using RunFn = void (*)(const uint8_t* src, size_t blocks, uint8_t* dst);

/// A floating-point field of a block. Tests write special values there, and a
/// block whose fields are all finite cannot give NaN.
struct ScaleField {
  enum Kind : uint8_t {
    kF16,
    kF32,
    /// IQ1_M: the top nibbles of four 16-bit words, lowest word first.
    kF16InTopNibbles,
  };
  Kind kind;
  uint16_t offset;  ///< bytes from the start of the block
};

/// A type whose values a kernel can compute: a block format, or a plain float
/// type (blocks of one element).
struct Format {
  TypeInfo type;
  std::span<const ScaleField> scales;
  /// The scalar reference: one block to type.block_elements values.
  void (*decode)(const uint8_t* block, float* values);
  /// Of F32, F16 and BF16 the kernels that do not stream and those that do, as
  /// tables by Highway's index of the target.
  const RunFn* kernels[3][2];

  /// The kernel of a target, see TargetIndex(); if it is to stream, one that
  /// may store past the caches, for which `dst` is aligned to 64 bytes.
  RunFn kernel(DType out, bool stream, size_t target) const {
    const size_t output = out == DType::kBF16 ? 2 : static_cast<size_t>(out);
    return kernels[output][stream][target];
  }
};

/// Asks for what comes 2 KiB behind `blocks`. When values go past the caches,
/// blocks come from memory as well.
inline void PrefetchAhead(const uint8_t* blocks, size_t bytes) {
  for (size_t i = 0; i < bytes; i += 64) hwy::Prefetch(blocks + 2048 + i);
}

/// Block layout B as values of T: what one kernel does. Some are made for usual
/// scales only, and leave blocks with others to one for any scale.
template <class B, typename T, bool kStreams, bool kAny = false>
struct Kernel {
  using Block = B;
  using Value = T;
  static constexpr bool kStream = kStreams, kAnyScale = kAny;
  using ForAnyScale = Kernel<B, T, kStreams, true>;
};

/// Defined by the kernel file of block layout B, see kernels/unpack-inl.h.
template <class B>
const Format& FormatOf();

}  // namespace dequant
