// The few system calls that the file layer makes.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <span>
#include <string>
#include <utility>

namespace dequant {

/// A file descriptor that closes itself.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd();
  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

/// "No space left on device"
std::string ErrnoText(int error);

/// Opens a regular file to read; never waits for a FIFO. Throws Error for
/// everything else; `status` gets its fstat.
Fd OpenRegular(const std::string& path, struct stat* status);

/// "a directory", "a FIFO", "a device", ... of a mode
const char* KindOfFile(mode_t mode);

/// Reads at `offset` until `out` is full or the file ends; EINTR and short
/// reads are not the caller's concern. Returns the bytes read, or -errno.
int64_t ReadAt(int fd, uint64_t offset, std::span<uint8_t> out);

/// Writes all of `bytes` at `offset`. Returns 0 or errno.
int WriteAt(int fd, uint64_t offset, std::span<const uint8_t> bytes);

/// The whole of a regular file of at most `limit` bytes. Throws Error.
std::string ReadWhole(const std::string& path, uint64_t limit);

}  // namespace dequant
