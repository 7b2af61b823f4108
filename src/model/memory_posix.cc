#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

#include "src/model/memory.h"

namespace dequant {
namespace {

constexpr size_t kHugePage = 2 << 20;

size_t RoundUp(size_t n, size_t to) { return (n + to - 1) / to * to; }

/// `size` bytes at a huge page; both are multiples of one.
uint8_t* MapRegion(size_t size) {
  const size_t room = size + kHugePage;
  void* const map = ::mmap(nullptr, room, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED) return nullptr;
  auto* const begin = static_cast<uint8_t*>(map);
  const size_t misfit = reinterpret_cast<uintptr_t>(map) % kHugePage;
  const size_t head = misfit ? kHugePage - misfit : 0;
  if (head > 0) ::munmap(begin, head);
  if (head < kHugePage) ::munmap(begin + head + size, kHugePage - head);
#ifdef MADV_HUGEPAGE
  ::madvise(begin + head, size, MADV_HUGEPAGE);  // only ever advice
#endif
  return begin + head;
}

}  // namespace

Arena::~Arena() {
  if (left_ > 0) ::munmap(next_, left_);
}

std::shared_ptr<uint8_t> Arena::Pages(size_t n) {
  const size_t size = RoundUp(n, static_cast<size_t>(::sysconf(_SC_PAGESIZE)));
  if (size > left_) {
    // All at once if the system agrees: at the ends of a region huge pages are
    // cut.
    size_t region = RoundUp(std::max(size, expected_), kHugePage);
    uint8_t* begin = MapRegion(region);
    if (!begin) {
      region = RoundUp(size, kHugePage);
      begin = MapRegion(region);
    }
    if (!begin) return nullptr;
    if (left_ > 0) ::munmap(next_, left_);
    next_ = begin;
    left_ = region;
  }
  uint8_t* const begin = next_;
  next_ += size;
  left_ -= size;
  expected_ -= std::min(expected_, size);
  return {begin, [size](uint8_t* p) { ::munmap(p, size); }};
}

uint64_t AvailableMemory() {
  std::ifstream info("/proc/meminfo");
  uint64_t available = 0, kib = 0;
  bool known = false;
  std::string key, rest;
  while (info >> key >> kib && std::getline(info, rest)) {
    known |= key == "MemAvailable:";
    if (key == "MemAvailable:" || key == "SwapFree:") available += kib << 10;
  }
  return known ? available : std::numeric_limits<uint64_t>::max();
}

}  // namespace dequant
