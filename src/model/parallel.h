// Items of work over threads, with progress, cancellation and errors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "dequant/model.h"

namespace dequant {

/// Memory of one thread that is reused from item to item.
class Buffer {
 public:
  /// `n` bytes; what they held before is lost.
  std::span<uint8_t> Get(size_t n) {
    if (n > capacity_) {
      data_ = std::make_unique_for_overwrite<uint8_t[]>(n);
      capacity_ = n;
    }
    return {data_.get(), n};
  }

 private:
  std::unique_ptr<uint8_t[]> data_;
  size_t capacity_ = 0;
};

struct Scratch {
  Buffer in, out, other, factors, values;
};

/// Does one item and returns its share of the total, in bytes.
using WorkFn = std::function<uint64_t(size_t item, Scratch& scratch)>;

/// Calls `work` for items 0 to n - 1, in that order as far as threads allow.
/// `threads` 0: all that OpenMP offers. The first exception stops the others
/// and is thrown here; so is Cancelled. `progress` runs on the calling thread.
void ParallelFor(size_t n, int threads, uint64_t total,
                 const ProgressFn& progress, const WorkFn& work);

}  // namespace dequant
