// A buffer between two pages that can't be touched.
#pragma once

#ifdef _WIN32
#include <windows.h>
#else
#include <sys/mman.h>
#include <unistd.h>
#endif

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
    page_ = PageSize();
    room_ = (size + slack + page_ - 1) / page_ * page_;
    base_ = Map(room_ + 2 * page_);
    if (!base_) throw std::bad_alloc();
    Protect(true);
  }
  ~GuardedBuffer() { Unmap(base_, room_ + 2 * page_); }
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

  void ReadOnly() { Protect(false); }
  void ReadWrite() { Protect(true); }

 private:
#ifdef _WIN32
  static size_t PageSize() {
    SYSTEM_INFO info;
    ::GetSystemInfo(&info);
    return info.dwPageSize;
  }
  static uint8_t* Map(size_t n) {
    return static_cast<uint8_t*>(
        ::VirtualAlloc(nullptr, n, MEM_RESERVE | MEM_COMMIT, PAGE_NOACCESS));
  }
  static void Unmap(uint8_t* p, size_t) { ::VirtualFree(p, 0, MEM_RELEASE); }
  void Protect(bool writable) {
    DWORD old;
    if (!::VirtualProtect(base_ + page_, room_,
                          writable ? PAGE_READWRITE : PAGE_READONLY, &old)) {
      throw std::bad_alloc();
    }
  }
#else
  static size_t PageSize() {
    return static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  }
  static uint8_t* Map(size_t n) {
    void* const p =
        ::mmap(nullptr, n, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? nullptr : static_cast<uint8_t*>(p);
  }
  static void Unmap(uint8_t* p, size_t n) { ::munmap(p, n); }
  void Protect(bool writable) {
    const int how = writable ? PROT_READ | PROT_WRITE : PROT_READ;
    if (::mprotect(base_ + page_, room_, how) != 0) throw std::bad_alloc();
  }
#endif

  size_t page_, room_;
  uint8_t* base_;
};

}  // namespace dequant
