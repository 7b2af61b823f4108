#include "src/model/memory.h"

#include <cerrno>

#include "src/file/checked.h"

namespace dequant {

std::shared_ptr<uint8_t> Arena::Get(size_t n) {
  constexpr size_t kOwnPages = 1 << 20;  // pieces from here on have them
  constexpr size_t kShared = 16 << 20;   // others share this much
  constexpr size_t kAlignment = 64;
  if (n > kMaxSize / 2) {
    errno = ENOMEM;
    return nullptr;
  }
  if (n >= kOwnPages) return Pages(n);
  if (!shared_ || n > kShared - shared_used_) {
    shared_ = Pages(kShared);
    shared_used_ = 0;
    if (!shared_) return nullptr;
  }
  uint8_t* const begin = shared_.get() + shared_used_;
  shared_used_ += (n + kAlignment - 1) / kAlignment * kAlignment;
  return {shared_, begin};
}

}  // namespace dequant
