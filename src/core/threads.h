// Threads that are waited for.
#pragma once

#include <cstddef>
#include <thread>
#include <utility>
#include <vector>

namespace dequant {

/// Joins its threads when it goes. Not std::jthread, because the C++ library of
/// macOS has none.
class Threads {
 public:
  Threads() = default;
  ~Threads() {
    for (std::thread& t : threads_) t.join();
  }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

  /// Runs `function(args...)` on one more. Throws std::system_error.
  template <class... Args>
  void Start(Args&&... function_and_args) {
    threads_.emplace_back(std::forward<Args>(function_and_args)...);
  }
  size_t size() const { return threads_.size(); }

 private:
  std::vector<std::thread> threads_;
};

}  // namespace dequant
