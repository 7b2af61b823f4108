// A buffer between two pages that can't be touched.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <span>

namespace dequant {

class GuardedBuffer {
 public:
  /// Room for `size` bytes and `slack` more, from page to page.
  explicit GuardedBuffer(size_t size, size_t slack = 0) {
    page_ = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    room_ = (size + slack + page_ - 1) / page_ * page_;
    void* p = mmap(nullptr, room_ + 2 * page_, PROT_NONE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    base_ = static_cast<uint8_t*>(p);
    Protect(PROT_READ | PROT_WRITE);
  }
  ~GuardedBuffer() { munmap(base_, room_ + 2 * page_); }
  GuardedBuffer(const GuardedBuffer&) = delete;
  GuardedBuffer& operator=(const GuardedBuffer&) = delete;

  /// `size` bytes that start `gap` bytes behind the front guard.
  std::span<uint8_t> Front(size_t size, size_t gap = 0) {
    return {base_ + page_ + gap, size};
  }
  /// `size` bytes that end `gap` bytes before the rear guard.
  std::span<uint8_t> Rear(size_t size, size_t gap = 0) {
    return {base_ + page_ + room_ - gap - size, size};
  }
  std::span<uint8_t> All() { return {base_ + page_, room_}; }

  void ReadOnly() { Protect(PROT_READ); }
  void ReadWrite() { Protect(PROT_READ | PROT_WRITE); }

 private:
  void Protect(int how) {
    if (mprotect(base_ + page_, room_, how) != 0) throw std::bad_alloc();
  }

  size_t page_, room_;
  uint8_t* base_;
};

}  // namespace dequant
