// From the first byte of a GGUF file to the end of its tensor table.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "dequant/gguf.h"

namespace dequant {

struct FreeBytes {
  void operator()(uint8_t* p) const { std::free(p); }
};

struct ParsedGguf {
  uint32_t version = 0;
  uint32_t alignment = 32;
  std::vector<KeyValue> metadata;
  std::vector<TensorInfo> tensors;  ///< `offset` still counts from the data
  uint64_t end = 0;                 ///< of the table, in the file
  std::unique_ptr<uint8_t[], FreeBytes> bytes;  ///< what all views look at
};

/// Reads that part of the file once. Every count, length and dimension is
/// checked; not yet that names differ and that data lies inside the file.
/// `path` must outlive the result. Throws Error.
ParsedGguf ParseGguf(const std::string& path, int fd, uint64_t size);

}  // namespace dequant
