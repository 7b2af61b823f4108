#include <windows.h>

#include <cerrno>

#include "src/model/memory.h"

namespace dequant {

Arena::~Arena() = default;

// One call for each: a region cannot be given back in pieces, and large pages
// are only for those with a privilege.
std::shared_ptr<uint8_t> Arena::Pages(size_t n) {
  void* const p =
      ::VirtualAlloc(nullptr, n, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
  if (!p) {
    errno = ENOMEM;
    return nullptr;
  }
  return {static_cast<uint8_t*>(p),
          [](uint8_t* q) { ::VirtualFree(q, 0, MEM_RELEASE); }};
}

uint64_t AvailableMemory() {
  MEMORYSTATUSEX status = {};
  status.dwLength = sizeof(status);
  return ::GlobalMemoryStatusEx(&status) ? status.ullAvailPageFile
                                         : ~uint64_t{0};
}

}  // namespace dequant
