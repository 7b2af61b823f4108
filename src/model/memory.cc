#include "src/model/memory.h"

#include <sys/mman.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/sysinfo.h>
#endif

#include <cerrno>
#include <limits>

#include "src/file/checked.h"

namespace dequant {
namespace {

constexpr size_t kHugePage = 2 << 20;

/// Bytes to map for `n`: whole huge pages, if that wastes little.
size_t RoundedUp(size_t n) {
  const size_t whole = (n + kHugePage - 1) / kHugePage * kHugePage;
  return whole - n <= n / 8 ? whole : n;
}

}  // namespace

std::shared_ptr<uint8_t> MapMemory(size_t n) {
  if (n > kMaxSize - 2 * kHugePage) {
    errno = ENOMEM;
    return nullptr;
  }
  const size_t size = RoundedUp(n);
  // Only whole aligned huge pages can be such: maps more and cuts the rest.
  const size_t room = size < kHugePage ? size : size + kHugePage;
  void* const map = ::mmap(nullptr, room, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED) return nullptr;
  auto* begin = static_cast<uint8_t*>(map);
  if (room > size) {
    const size_t misfit = reinterpret_cast<uintptr_t>(map) % kHugePage;
    const size_t head = misfit ? kHugePage - misfit : 0;
    if (head > 0) ::munmap(begin, head);
    begin += head;
    // The size of a mapping is rounded up to pages, the place of a cut is not.
    const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
    const size_t end = (size + page - 1) / page * page;
    if (head + end < room) ::munmap(begin + end, room - head - end);
#ifdef MADV_HUGEPAGE
    ::madvise(begin, size, MADV_HUGEPAGE);  // only ever advice
#endif
  }
  return {begin, [size](uint8_t* p) { ::munmap(p, size); }};
}

uint64_t InstalledMemory() {
#ifdef __linux__
  struct sysinfo info;
  if (::sysinfo(&info) == 0) {
    return (uint64_t{info.totalram} + info.totalswap) * info.mem_unit;
  }
#endif
  return std::numeric_limits<uint64_t>::max();
}

}  // namespace dequant
