#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "src/file/atomic_file.h"

namespace dequant {
namespace {

constexpr mode_t kMode = 0666;  // less the umask

/// The name under which an open file without one can be linked.
std::string ProcPath(const Fd& fd) {
  return "/proc/self/fd/" + std::to_string(fd.get());
}

/// Gives a file without a name one that is free.
std::error_code LinkUnnamed(const Fd& fd, const std::string& to) {
  return ::linkat(AT_FDCWD, ProcPath(fd).c_str(), AT_FDCWD, to.c_str(),
                  AT_SYMLINK_FOLLOW) == 0
             ? std::error_code()
             : LastError();
}

/// A rename that fails with EEXIST. EINVAL, ENOSYS or ENOTSUP where the system
/// or the file system has none.
int RenameExclusively(const char* from, const char* to) {
#ifdef __APPLE__
  return ::renamex_np(from, to, RENAME_EXCL);
#elif defined(RENAME_NOREPLACE)
  return ::renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE);
#else
  errno = ENOSYS;
  return -1;
#endif
}

}  // namespace

void AtomicFile::Create() {
#ifdef O_TMPFILE
  fd_ = Fd(::open(folder_.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, kMode));
  // Without /proc it could never get a name.
  if (fd_ && ::access(ProcPath(fd_).c_str(), F_OK) == 0) {
    ::flock(fd_.get(), LOCK_EX | LOCK_NB);
    return;
  }
#endif
  for (int attempt = 0; attempt < 100; ++attempt) {
    const std::string temp = NewTempPath();
    Fd fd(::open(temp.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, kMode));
    if (!fd) {
      if (errno == EEXIST) continue;
      Fail("cannot create a file in its directory", LastError());
    }
    // RemoveStale() of another process may have been faster with the lock.
    struct stat status;
    ::flock(fd.get(), LOCK_EX);
    if (::fstat(fd.get(), &status) == 0 && status.st_nlink == 0) continue;
    fd_ = std::move(fd);
    temp_ = temp;
    return;
  }
  Fail("cannot create a file in its directory",
       std::make_error_code(std::errc::file_exists));
}

std::error_code AtomicFile::Reserve() const {
  if (size_ == 0) return {};
  const auto size = static_cast<off_t>(size_);
#ifdef __linux__
  // Not posix_fallocate: where the file system cannot allocate, that writes to
  // every block.
  int result;
  do {
    result = ::fallocate(fd_.get(), 0, 0, size);
  } while (result != 0 && errno == EINTR);
  if (result == 0) return {};
  if (errno != EOPNOTSUPP && errno != ENOSYS) return LastError();
#endif
  if (::ftruncate(fd_.get(), size) != 0) return LastError();
  const auto free = FreeSpace(folder_);
  return free && size_ > *free
             ? std::make_error_code(std::errc::no_space_on_device)
             : std::error_code();
}

void AtomicFile::RemoveIfDead(const std::string& temp) {
  // A living writer holds the lock.
  const Fd fd(
      ::open(temp.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW));
  if (fd && ::flock(fd.get(), LOCK_EX | LOCK_NB) == 0) RemoveFile(temp);
}

void AtomicFile::Sync() {
  if (synced_) return;
  int error;
  do {
    error = ::fsync(fd_.get()) == 0 ? 0 : errno;
  } while (error == EINTR);
  if (error) Fail("cannot bring the data to the disk", LastError());
  synced_ = true;
}

void AtomicFile::Publish() {
  // A file system over a network may keep an error until the file is closed.
  const int copy = ::dup(fd_.get());
  if (copy < 0 || ::close(copy) != 0) {
    Fail("cannot finish writing", LastError());
  }

  constexpr char kNoName[] = "cannot give the finished file its name";
  if (temp_.empty()) {
    // A link cannot replace, a rename can.
    const std::string to = overwrite_ ? NewTempPath() : path_;
    if (const auto error = LinkUnnamed(fd_, to)) Fail(kNoName, error);
    if (overwrite_) temp_ = to;
  }
  if (overwrite_) {
    if (::rename(temp_.c_str(), path_.c_str()) != 0) Fail(kNoName, LastError());
    temp_.clear();
  } else if (!temp_.empty()) {
    if (RenameExclusively(temp_.c_str(), path_.c_str()) == 0) {
      temp_.clear();
    } else if ((errno != EINVAL && errno != ENOSYS && errno != ENOTSUP) ||
               ::link(temp_.c_str(), path_.c_str()) != 0) {
      Fail(kNoName, LastError());
    }  // ~AtomicFile unlinks the other name
  }

  if (!synced_) return;
  const Fd folder(::open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  // EINVAL: the file system has no such thing.
  if (folder && ::fsync(folder.get()) != 0 && errno != EINVAL) {
    Fail("cannot bring its directory to the disk", LastError());
  }
}

}  // namespace dequant
