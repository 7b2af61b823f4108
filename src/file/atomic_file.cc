#include "src/file/atomic_file.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <random>

#include "dequant/error.h"
#include "src/file/checked.h"
#include "src/file/text.h"

namespace dequant {
namespace {

constexpr mode_t kMode = 0666;  // less the umask
constexpr std::string_view kTempSuffix = ".tmp";
constexpr size_t kTempRandom = 12;

/// The name under which an open file without one can be linked.
std::string ProcPath(const Fd& fd) {
  return "/proc/self/fd/" + std::to_string(fd.get());
}

/// Reserves the room of a file, without writing. Returns 0 or errno;
/// EOPNOTSUPP or ENOSYS where the system or the file system cannot.
int Reserve(int fd, uint64_t size) {
#ifdef __linux__
  // Not posix_fallocate: where the file system cannot allocate, that writes to
  // every block.
  while (size > 0 && ::fallocate(fd, 0, 0, static_cast<off_t>(size)) != 0) {
    if (errno != EINTR) return errno;
  }
  return 0;
#else
  return size > 0 ? EOPNOTSUPP : 0;
#endif
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

AtomicFile::AtomicFile(std::string path, uint64_t size, bool overwrite)
    : path_(std::move(path)), size_(size), overwrite_(overwrite) {
  const size_t slash = path_.rfind('/');
  folder_ = slash == std::string::npos ? "." : path_.substr(0, slash + 1);
  std::string name = path_.substr(slash == std::string::npos ? 0 : slash + 1);
  if (name.empty() || name == "." || name == "..") {
    throw Error(path_, Error::kNoOffset, "",
                "is a directory; name a file in it");
  }
  // The temporary's name is longer and must still be one.
  constexpr size_t kMaxStem = 200;
  if (name.size() > kMaxStem) name.resize(kMaxStem);
  temp_prefix_ =
      folder_ + (slash == std::string::npos ? "/." : ".") + name + ".";

  struct stat status;
  if (::stat(folder_.c_str(), &status) != 0) {
    throw Error(
        path_, Error::kNoOffset, "",
        errno == ENOENT
            ? "its directory " + folder_ + " does not exist; create it first"
            : "cannot use its directory: " + ErrnoText(errno));
  }
  if (!S_ISDIR(status.st_mode)) {
    throw Error(path_, Error::kNoOffset, "", folder_ + " is not a directory");
  }
  if (::stat(path_.c_str(), &status) == 0 && !S_ISREG(status.st_mode)) {
    throw Error(path_, Error::kNoOffset, "",
                std::string("is ") + KindOfFile(status.st_mode) +
                    ", not a regular file; name another output");
  }
  if (!overwrite_ && ::lstat(path_.c_str(), &status) == 0) Fail("", EEXIST);

  // Allocating beyond this limit would raise SIGXFSZ in a program of whose
  // signals we know nothing.
  struct rlimit limit;
  if (::getrlimit(RLIMIT_FSIZE, &limit) == 0 &&
      limit.rlim_cur != RLIM_INFINITY && size_ > limit.rlim_cur) {
    Fail("needs " + BytesText(size_) +
             ", but this process may write files of " +
             BytesText(limit.rlim_cur) + " (ulimit -f)",
         EFBIG);
  }
  RemoveStale();
  Create();
  try {
    Allocate();
  } catch (...) {
    if (!temp_.empty()) ::unlink(temp_.c_str());
    throw;
  }
}

AtomicFile::~AtomicFile() {
  if (!temp_.empty()) ::unlink(temp_.c_str());
}

void AtomicFile::Fail(const std::string& what, int error) const {
  std::string reason = error == EEXIST ? "exists already; --force overwrites it"
                                       : what + ": " + ErrnoText(error);
  throw Error(path_, Error::kNoOffset, "", std::move(reason));
}

void AtomicFile::Create() {
#ifdef O_TMPFILE
  fd_ = Fd(::open(folder_.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, kMode));
  // Without /proc it could never get a name.
  if (fd_ && ::access(ProcPath(fd_).c_str(), F_OK) == 0) {
    ::flock(fd_.get(), LOCK_EX | LOCK_NB);
    return;
  }
#endif
  CreateNamed();
}

void AtomicFile::CreateNamed() {
  for (int attempt = 0; attempt < 100; ++attempt) {
    const std::string temp = NewTempPath();
    Fd fd(::open(temp.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, kMode));
    if (!fd) {
      if (errno == EEXIST) continue;
      Fail("cannot create a file in its directory", errno);
    }
    // RemoveStale() of another process may have been faster with the lock.
    struct stat status;
    ::flock(fd.get(), LOCK_EX);
    if (::fstat(fd.get(), &status) == 0 && status.st_nlink == 0) continue;
    fd_ = std::move(fd);
    temp_ = temp;
    return;
  }
  Fail("cannot create a file in its directory", EEXIST);
}

void AtomicFile::Allocate() {
  int error = Reserve(fd_.get(), size_);
  if (error == EOPNOTSUPP || error == ENOSYS) {
    error = ::ftruncate(fd_.get(), static_cast<off_t>(size_)) == 0 ? 0 : errno;
    struct statvfs space;
    if (error == 0 && ::fstatvfs(fd_.get(), &space) == 0 &&
        size_ / space.f_frsize > space.f_bavail) {
      error = ENOSPC;
    }
  }
  if (error == 0) return;
  std::string what = "needs " + BytesText(size_);
  struct statvfs space;
  if (error == ENOSPC && ::statvfs(folder_.c_str(), &space) == 0) {
    const auto free = CheckedMul(space.f_bavail, space.f_frsize);
    what += ", but " + folder_ + " has room for " + BytesText(free.value_or(0));
  }
  Fail(what, error);
}

void AtomicFile::RemoveStale() const {
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(::opendir(folder_.c_str()),
                                                   ::closedir);
  if (!folder) return;
  const std::string_view prefix =
      std::string_view(temp_prefix_).substr(temp_prefix_.rfind('/') + 1);
  while (const dirent* entry = ::readdir(folder.get())) {
    const std::string_view name = entry->d_name;
    if (name.size() != prefix.size() + kTempRandom + kTempSuffix.size() ||
        !name.starts_with(prefix) || !name.ends_with(kTempSuffix)) {
      continue;
    }
    const std::string path =
        temp_prefix_.substr(0, temp_prefix_.rfind('/') + 1) + std::string(name);
    // A living writer holds the lock.
    const Fd fd(
        ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW));
    if (fd && ::flock(fd.get(), LOCK_EX | LOCK_NB) == 0) ::unlink(path.c_str());
  }
}

std::string AtomicFile::NewTempPath() const {
  constexpr std::string_view kLetters = "abcdefghijklmnopqrstuvwxyz0123456789";
  std::random_device random;
  std::string path = temp_prefix_;
  for (size_t i = 0; i < kTempRandom; ++i) {
    path += kLetters[random() % kLetters.size()];
  }
  return path + std::string(kTempSuffix);
}

void AtomicFile::Write(uint64_t offset, std::span<const uint8_t> bytes) {
  if (!RangeFits(offset, bytes.size(), size_)) {
    throw Error(path_, static_cast<int64_t>(offset), "",
                "write of " + Count(bytes.size(), "byte") +
                    " outside the planned " + Count(size_, "byte"));
  }
  if (const int error = WriteAt(fd_.get(), offset, bytes)) {
    throw Error(path_, static_cast<int64_t>(offset), "",
                "cannot write (" + BytesText(size_) +
                    " needed in all): " + ErrnoText(error));
  }
}

void AtomicFile::Sync() {
  if (synced_) return;
  int error;
  do {
    error = ::fsync(fd_.get()) == 0 ? 0 : errno;
  } while (error == EINTR);
  if (error) Fail("cannot bring the data to the disk", error);
  synced_ = true;
}

void AtomicFile::LinkUnnamed(const std::string& to) {
  if (::linkat(AT_FDCWD, ProcPath(fd_).c_str(), AT_FDCWD, to.c_str(),
               AT_SYMLINK_FOLLOW) != 0) {
    Fail("cannot give the finished file its name", errno);
  }
}

void AtomicFile::RenameWithoutReplacing() {
  if (RenameExclusively(temp_.c_str(), path_.c_str()) == 0) {
    temp_.clear();
    return;
  }
  if (errno == EINVAL || errno == ENOSYS || errno == ENOTSUP) {
    if (::link(temp_.c_str(), path_.c_str()) == 0)
      return;  // ~AtomicFile unlinks
  }
  Fail("cannot give the finished file its name", errno);
}

void AtomicFile::Flush() const {
  // A file system over a network may keep an error until the file is closed.
  const int copy = ::dup(fd_.get());
  if (copy < 0 || ::close(copy) != 0) Fail("cannot finish writing", errno);
}

void AtomicFile::Publish() {
  Flush();
  if (temp_.empty() && !overwrite_) {
    LinkUnnamed(path_);
  } else if (!overwrite_) {
    RenameWithoutReplacing();
  } else {
    if (temp_.empty()) {  // a link cannot replace, a rename can
      const std::string temp = NewTempPath();
      LinkUnnamed(temp);
      temp_ = temp;
    }
    if (::rename(temp_.c_str(), path_.c_str()) != 0) {
      Fail("cannot give the finished file its name", errno);
    }
    temp_.clear();
  }
  if (!synced_) return;
  const Fd folder(::open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  // EINVAL: the file system has no such thing.
  if (folder && ::fsync(folder.get()) != 0 && errno != EINVAL) {
    Fail("cannot bring its directory to the disk", errno);
  }
}

}  // namespace dequant
