// Memory for tensors, fresh from the system. memory_posix.cc and
// memory_windows.cc have what differs: ~Arena, Pages and AvailableMemory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace dequant {

/// Cuts memory that the system gives in large regions: in huge pages where it
/// does that for the asking, because touching those costs a quarter of what
/// small ones cost. Each piece goes back to the system on its own.
class Arena {
 public:
  /// For pieces of about `expected` bytes in all.
  explicit Arena(size_t expected) : expected_(expected) {}
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /// `n` bytes of zeros at a multiple of 64. The pages of a piece of 1 MiB and
  /// more are freed with its last owner, those of smaller ones with the last
  /// owner of their neighbours, all at any time, also after the arena. nullptr
  /// (and errno) if the system has no more.
  std::shared_ptr<uint8_t> Get(size_t n);

 private:
  std::shared_ptr<uint8_t> Pages(size_t n);

  size_t expected_;          // of what is to come
  uint8_t* next_ = nullptr;  // of the region: not handed out yet
  size_t left_ = 0;
  std::shared_ptr<uint8_t> shared_;  // by small pieces
  size_t shared_used_ = 0;
};

/// Bytes that the system can give now, without its caches and with its swap
/// space; all numbers if it does not say.
uint64_t AvailableMemory();

}  // namespace dequant
