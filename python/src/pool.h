// Memory for large results. Touching fresh memory costs several times what
// dequantizing into it costs, and a layer that is dequantized for every step of
// a sampler gives its memory back each time: so the blocks freed last are kept.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
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
    return {Map(size), size};
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
      Unmap(free_.front());
      free_.erase(free_.begin());
    }
  }

 private:
  static constexpr size_t kHugePage = 2 << 20;
  static constexpr size_t kMaxKept = 256 << 20;

#ifdef __linux__
  // Not from the heap: what small pages have once held is never made huge
  // again.
  static void* Map(size_t size) {
    const size_t room = size + kHugePage;
    void* const map = ::mmap(nullptr, room, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) throw std::bad_alloc();
    auto* const begin = static_cast<char*>(map);
    const size_t misfit = reinterpret_cast<uintptr_t>(map) % kHugePage;
    const size_t head = misfit ? kHugePage - misfit : 0;
    if (head > 0) ::munmap(begin, head);
    if (head < kHugePage) ::munmap(begin + head + size, kHugePage - head);
    ::madvise(begin + head, size, MADV_HUGEPAGE);  // only ever advice
    return begin + head;
  }
  static void Unmap(Block b) { ::munmap(b.data, b.size); }
#else
  static void* Map(size_t size) {
    return ::operator new (size, std::align_val_t{kHugePage});
  }
  static void Unmap(Block b) {
    ::operator delete (b.data, std::align_val_t{kHugePage});
  }
#endif

  std::vector<Block> free_;  // in the order of their return
  size_t kept_ = 0;
};

}  // namespace dequant
