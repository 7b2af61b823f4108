// Threads that are waited for, and how many there should be.
#pragma once

#ifdef _OPENMP
#include <omp.h>
#endif

#include <algorithm>
#include <cstddef>
#include <thread>
#include <utility>
#include <vector>

namespace dequant {

/// What "all threads" means. OpenMP's number, so that OMP_NUM_THREADS and
/// affinity count; without OpenMP that of the processors.
inline int MaxThreads() {
#ifdef _OPENMP
  return omp_get_max_threads();
#else
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
#endif
}

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
