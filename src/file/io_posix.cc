#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <memory>

#include "src/file/checked.h"
#include "src/file/io.h"

namespace dequant {
namespace {

FileKind KindOf(mode_t mode) {
  if (S_ISREG(mode)) return FileKind::kRegular;
  if (S_ISDIR(mode)) return FileKind::kDirectory;
  if (S_ISFIFO(mode)) return FileKind::kFifo;
  if (S_ISCHR(mode) || S_ISBLK(mode)) return FileKind::kDevice;
  if (S_ISSOCK(mode)) return FileKind::kSocket;
  return FileKind::kOther;
}

FileStatus FromStat(const struct stat& s) {
#ifdef __APPLE__
  const timespec& written = s.st_mtimespec;
#else
  const timespec& written = s.st_mtim;
#endif
  return {KindOf(s.st_mode),
          static_cast<uint64_t>(s.st_size),
          static_cast<uint64_t>(s.st_dev),
          static_cast<uint64_t>(s.st_ino),
          {written.tv_sec, written.tv_nsec}};
}

}  // namespace

Fd::~Fd() {
  if (fd_ >= 0) ::close(fd_);
}

std::error_code LastError() { return {errno, std::generic_category()}; }

std::string ErrorText(std::error_code error) { return error.message(); }

std::error_code StatusOf(int fd, FileStatus* status) {
  struct stat s;
  if (::fstat(fd, &s) != 0) return LastError();
  *status = FromStat(s);
  return {};
}

std::error_code StatusOf(const std::string& path, FileStatus* status,
                         bool follow) {
  struct stat s;
  const int result =
      follow ? ::stat(path.c_str(), &s) : ::lstat(path.c_str(), &s);
  if (result != 0) return LastError();
  *status = FromStat(s);
  return {};
}

Fd OpenToRead(const std::string& path) {
  // O_NONBLOCK: opening a FIFO must not wait for somebody to write to it.
  return Fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
}

std::error_code ReadAt(int fd, uint64_t offset, std::span<uint8_t> out,
                       size_t* got) {
  size_t done = 0;
  while (done < out.size()) {
    // Linux moves at most 2 GiB - 4 KiB per call.
    const size_t n = std::min<size_t>(out.size() - done, size_t{1} << 30);
    const ssize_t read =
        ::pread(fd, out.data() + done, n, static_cast<off_t>(offset + done));
    if (read < 0 && errno == EINTR) continue;
    if (read < 0) return LastError();
    if (read == 0) break;
    done += static_cast<size_t>(read);
  }
  *got = done;
  return {};
}

std::error_code WriteAt(int fd, uint64_t offset,
                        std::span<const uint8_t> bytes) {
  size_t done = 0;
  while (done < bytes.size()) {
    const size_t n = std::min<size_t>(bytes.size() - done, size_t{1} << 30);
    const ssize_t put =
        ::pwrite(fd, bytes.data() + done, n, static_cast<off_t>(offset + done));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return LastError();
    // Would loop for ever.
    if (put == 0) return std::make_error_code(std::errc::io_error);
    done += static_cast<size_t>(put);
  }
  return {};
}

void WillReadAt([[maybe_unused]] int fd, [[maybe_unused]] uint64_t offset,
                [[maybe_unused]] uint64_t bytes) {
#ifdef POSIX_FADV_WILLNEED
  ::posix_fadvise(fd, static_cast<off_t>(offset), static_cast<off_t>(bytes),
                  POSIX_FADV_WILLNEED);
#endif
}

const uint8_t* MapFile(int fd, uint64_t size) {
  void* const map = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, fd, 0);
  return map == MAP_FAILED ? nullptr : static_cast<const uint8_t*>(map);
}

void UnmapFile(const uint8_t* map, uint64_t size) {
  ::munmap(const_cast<uint8_t*>(map), size);
}

std::error_code ListFolder(const std::string& folder,
                           std::vector<std::string>* names) {
  const std::unique_ptr<DIR, int (*)(DIR*)> dir(::opendir(folder.c_str()),
                                                ::closedir);
  if (!dir) return LastError();
  while (const dirent* entry = ::readdir(dir.get())) {
    names->push_back(entry->d_name);
  }
  return {};
}

size_t NameStart(std::string_view path) { return path.rfind('/') + 1; }

void RemoveFile(const std::string& path) { ::unlink(path.c_str()); }

std::optional<uint64_t> FreeSpace(const std::string& folder) {
  struct statvfs space;
  if (::statvfs(folder.c_str(), &space) != 0) return std::nullopt;
  return CheckedMul(space.f_bavail, space.f_frsize);
}

uint64_t FileSizeLimit() {
  struct rlimit limit;
  return ::getrlimit(RLIMIT_FSIZE, &limit) == 0 &&
                 limit.rlim_cur != RLIM_INFINITY
             ? limit.rlim_cur
             : std::numeric_limits<uint64_t>::max();
}

}  // namespace dequant
