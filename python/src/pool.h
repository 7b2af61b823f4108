// Memory for large results. Touching fresh memory costs several times what
// dequantizing into it costs, and a layer that is dequantized for every step of
// a sampler gives its memory back each time: so the blocks freed last are kept.
#pragma once

#include <algorithm>
#include <cstddef>
#include <new>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace dequant {

/// Not safe for threads: the GIL guards it.
class Pool {
 public:
  struct Block {
    void* data;
    size_t size;
  };

  /// At least `n` bytes, of any content.
  Block Get(size_t n) {
    const size_t size = (n + kHugePage - 1) / kHugePage * kHugePage;
    const auto fits = [&](const Block& b) {
      return b.size >= size && b.size - size <= size / 4;
    };
    const auto it = std::find_if(free_.rbegin(), free_.rend(), fits);
    if (it != free_.rend()) {
      const Block block = *it;
      free_.erase(std::next(it).base());
      kept_ -= block.size;
      return block;
    }
    void* data = ::operator new (size, std::align_val_t{kHugePage});
#ifdef __linux__
    ::madvise(data, size, MADV_HUGEPAGE);  // only ever advice
#endif
    return {data, size};
  }

  void Put(Block block) {
#ifdef __linux__
    // The system may take the pages when it runs short; until then they are
    // here, and writing to them costs nothing.
    ::madvise(block.data, block.size, MADV_FREE);
#endif
    free_.push_back(block);
    kept_ += block.size;
    while (kept_ > kMaxKept) {
      kept_ -= free_.front().size;
      ::operator delete (free_.front().data, std::align_val_t{kHugePage});
      free_.erase(free_.begin());
    }
  }

 private:
  static constexpr size_t kHugePage = 2 << 20;
  static constexpr size_t kMaxKept = 256 << 20;

  std::vector<Block> free_;  // in the order of their return
  size_t kept_ = 0;
};

}  // namespace dequant
