// Metadata values as they stand in a file.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "dequant/gguf.h"

namespace dequant {

static_assert(std::endian::native == std::endian::little,
              "metadata and blocks are used as they stand in the file");

inline constexpr uint32_t kKvTypes = 13;

template <class T>
T Load(const uint8_t* p) {
  T v;
  std::memcpy(&v, p, sizeof(T));
  return v;
}

/// Bytes of a scalar; 0 for strings and arrays.
uint64_t ScalarBytes(KvType t);

}  // namespace dequant
