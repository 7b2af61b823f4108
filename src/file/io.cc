#include "src/file/io.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "dequant/error.h"
#include "src/file/text.h"

namespace dequant {

Fd::~Fd() {
  if (fd_ >= 0) ::close(fd_);
}

std::string ErrnoText(int error) {
  return std::generic_category().message(error);
}

const char* KindOfFile(mode_t mode) {
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISFIFO(mode)) return "a FIFO";
  if (S_ISCHR(mode) || S_ISBLK(mode)) return "a device";
  if (S_ISSOCK(mode)) return "a socket";
  return "a file";
}

Fd OpenRegular(const std::string& path, struct stat* status) {
  // O_NONBLOCK: opening a FIFO must not wait for somebody to write to it.
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd || ::fstat(fd.get(), status) != 0) {
    throw Error(path, Error::kNoOffset, "", "cannot open: " + ErrnoText(errno));
  }
  if (!S_ISREG(status->st_mode)) {
    throw Error(path, Error::kNoOffset, "",
                std::string("is ") + KindOfFile(status->st_mode) +
                    ", not a regular file");
  }
  return fd;
}

int64_t ReadAt(int fd, uint64_t offset, std::span<uint8_t> out) {
  size_t done = 0;
  while (done < out.size()) {
    // Linux moves at most 2 GiB - 4 KiB per call.
    const size_t n = std::min<size_t>(out.size() - done, size_t{1} << 30);
    const ssize_t got =
        ::pread(fd, out.data() + done, n, static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return -errno;
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  return static_cast<int64_t>(done);
}

int WriteAt(int fd, uint64_t offset, std::span<const uint8_t> bytes) {
  size_t done = 0;
  while (done < bytes.size()) {
    const size_t n = std::min<size_t>(bytes.size() - done, size_t{1} << 30);
    const ssize_t put =
        ::pwrite(fd, bytes.data() + done, n, static_cast<off_t>(offset + done));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return errno;
    if (put == 0) return EIO;  // would loop for ever
    done += static_cast<size_t>(put);
  }
  return 0;
}

std::string ReadWhole(const std::string& path, uint64_t limit) {
  struct stat status;
  const Fd fd = OpenRegular(path, &status);
  const auto size = static_cast<uint64_t>(status.st_size);
  if (size > limit) {
    throw Error(path, Error::kNoOffset, "",
                "holds " + BytesText(size) + ", more than the " +
                    BytesText(limit) + " expected of such a file");
  }
  std::string text(size, '\0');
  const int64_t got = ReadAt(
      fd.get(), 0, {reinterpret_cast<uint8_t*>(text.data()), text.size()});
  if (got < 0) {
    throw Error(path, 0, "",
                "cannot read: " + ErrnoText(static_cast<int>(-got)));
  }
  text.resize(static_cast<size_t>(got));
  return text;
}

}  // namespace dequant
