// The few system calls that the file layer makes; io_posix.cc and io_windows.cc
// have those that differ. Paths are UTF-8 on Windows and bytes elsewhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace dequant {

/// A file descriptor that closes itself; on Windows one of the C runtime.
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

/// Why the last system call failed.
std::error_code LastError();
/// "No space left on device"
std::string ErrorText(std::error_code error);

enum class FileKind { kRegular, kDirectory, kFifo, kDevice, kSocket, kOther };

struct FileStatus {
  FileKind kind = FileKind::kOther;
  uint64_t size = 0;
  uint64_t device = 0, number = 0;  // together they tell files apart
  std::pair<int64_t, int64_t> written;

  bool operator==(const FileStatus&) const = default;
  bool SameFile(const FileStatus& other) const {
    return device == other.device && number == other.number;
  }
  /// "a directory", "a FIFO", "a device", ...
  const char* KindText() const;
};

std::error_code StatusOf(int fd, FileStatus* status);
/// Of what `path` leads to, or, if it is a link and !follow, of the link.
std::error_code StatusOf(const std::string& path, FileStatus* status,
                         bool follow = true);

/// Opens what there is to read; never waits for a FIFO. None: see LastError().
Fd OpenToRead(const std::string& path);

/// Opens a regular file to read. Throws Error for everything else.
Fd OpenRegular(const std::string& path, FileStatus* status);

/// Reads at `offset` until `out` is full or the file ends, which `*got` tells.
std::error_code ReadAt(int fd, uint64_t offset, std::span<uint8_t> out,
                       size_t* got);

/// Writes all of `bytes` at `offset`.
std::error_code WriteAt(int fd, uint64_t offset,
                        std::span<const uint8_t> bytes);

/// The whole of a regular file of at most `limit` bytes. Throws Error.
std::string ReadWhole(const std::string& path, uint64_t limit);

/// Tells the system, if it wants to know, that these bytes will be read soon.
void WillReadAt(int fd, uint64_t offset, uint64_t bytes);

/// The first `size` bytes of a file, read-only. nullptr: see LastError().
const uint8_t* MapFile(int fd, uint64_t size);
void UnmapFile(const uint8_t* map, uint64_t size);

/// The names in a folder, in any order.
std::error_code ListFolder(const std::string& folder,
                           std::vector<std::string>* names);

/// Where in a path the last name begins: behind the separator.
size_t NameStart(std::string_view path);

/// Removes a file, if it can be removed.
void RemoveFile(const std::string& path);

/// Bytes that files in `folder` can still take, if the system tells.
std::optional<uint64_t> FreeSpace(const std::string& folder);

/// The largest file that this process may write.
uint64_t FileSizeLimit();

}  // namespace dequant
