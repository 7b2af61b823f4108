#include "src/model/parallel.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <string>
#include <system_error>

#include "src/core/threads.h"

namespace dequant {

void ParallelFor(size_t n, int threads, uint64_t total,
                 const ProgressFn& progress, const WorkFn& work) {
  if (threads < 0) {
    throw Error(
        "", Error::kNoOffset, "",
        "the number of threads is negative: " + std::to_string(threads));
  }
  // Threads of our own, so that this one is free to report and to cancel.
  const size_t most = static_cast<size_t>(threads > 0 ? threads : MaxThreads());
  const size_t count = std::min(most, n);

  std::atomic<size_t> next = 0;
  std::atomic<uint64_t> done = 0;
  std::atomic<bool> stop = false;
  std::mutex mutex;
  std::condition_variable finished;
  size_t running = count;  // guarded by mutex, like error
  std::exception_ptr error;

  const auto run = [&] {
    try {
      Scratch scratch;
      for (size_t i; !stop && (i = next++) < n;) done += work(i, scratch);
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!error) error = std::current_exception();
      stop = true;
    }
    const std::lock_guard lock(mutex);
    if (--running == 0) finished.notify_one();
  };

  if (progress && !progress(0, total)) throw Cancelled();
  bool cancelled = false;
  {
    Threads pool;
    while (pool.size() < count) {
      try {
        pool.Start(run);
      } catch (const std::system_error&) {
        const std::lock_guard lock(mutex);
        running -= count - pool.size();
        // Fewer threads do as well; none at all is an error.
        if (pool.size() == 0) throw;
        break;
      }
    }
    std::unique_lock lock(mutex);
    while (running > 0) {
      finished.wait_for(lock, std::chrono::milliseconds(100));
      if (!progress || cancelled) continue;
      lock.unlock();
      cancelled = !progress(done, total);
      if (cancelled) stop = true;
      lock.lock();
    }
  }
  if (error) std::rethrow_exception(error);
  if (cancelled) throw Cancelled();
}

}  // namespace dequant
